"""Writes tests/golden/label_studio_brush.json: brush strokes as Label Studio's converter packs them.

The tests in src/evaluation/dataset/label_studio.rs and src/label_map/brush_rle.rs read it. Run it from the repository's root, with NumPy, Pillow and
label-studio-sdk: python tools/golden/label_studio_brush.py
"""

import importlib.util
import json
from pathlib import Path

import numpy as np

SEED = 1


def brush_module():
    """The module of the package alone: the package itself imports a web client."""
    package = Path(importlib.util.find_spec("label_studio_sdk").origin).parent
    spec = importlib.util.spec_from_file_location("brush", package / "converter" / "brush.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    brush = brush_module()
    random = np.random.default_rng(SEED)
    masks = [np.zeros((3, 5), bool), np.ones((4, 3), bool)]
    masks += [random.random((height, width)) > 0.5 for height, width in [(6, 7), (13, 9)]]
    stroke = np.zeros((60, 80), bool)
    stroke[10:40, 20:70] = True
    masks.append(stroke)
    cases = []
    for mask in masks:
        height, width = mask.shape
        pixels = np.repeat(mask.astype(np.uint8)[:, :, None] * 255, 4, axis=2)
        packed = brush.encode_rle(pixels.flatten())
        unpacked = brush.decode_rle(packed).reshape(height, width, 4)[:, :, 3] > 0
        assert np.array_equal(unpacked, mask)
        rows = ["".join("1" if one else "0" for one in row) for row in mask]
        cases.append({"width": width, "height": height, "rle": [int(byte) for byte in packed], "rows": rows})
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path("tests/golden/label_studio_brush.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
