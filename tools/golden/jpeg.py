"""Writes tests/golden/jpeg: one photograph in every kind of JPEG, and what libjpeg-turbo decodes of each.

tests/golden/jpeg.rs measures the difference to the server's decoder. The photograph is a part of scikit-learn's
china.jpg (NOTICE has its author and licence), with sides that no block of pixels divides.

Run it from the repository's root, with Pillow and scikit-learn: python tools/golden/jpeg.py
"""

import io
from pathlib import Path

from PIL import Image, features
from sklearn.datasets import load_sample_image

FOLDER = Path("tests/golden/jpeg")
PART = (40, 190, 201, 297)  # a pavilion, a tree, water and sky
KINDS = {
    "4-4-4": ("RGB", {"subsampling": "4:4:4"}),
    "4-2-2": ("RGB", {"subsampling": "4:2:2"}),
    "4-2-0": ("RGB", {"subsampling": "4:2:0"}),
    "4-2-0-coarse": ("RGB", {"subsampling": "4:2:0", "quality": 50}),
    "4-2-0-progressive": ("RGB", {"subsampling": "4:2:0", "progressive": True}),
    "grey": ("L", {}),
    "cmyk": ("CMYK", {}),
}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    photograph = Image.fromarray(load_sample_image("china.jpg")).crop(PART)
    for kind, (mode, options) in KINDS.items():
        file = io.BytesIO()
        photograph.convert(mode).save(file, "JPEG", **({"quality": 90} | options))
        (FOLDER / f"{kind}.jpg").write_bytes(file.getvalue())
        Image.open(file).convert("RGB").save(FOLDER / f"{kind}.png", optimize=True)
    print(f"decoded by libjpeg-turbo {features.version('libjpeg_turbo')}")


if __name__ == "__main__":
    main()
