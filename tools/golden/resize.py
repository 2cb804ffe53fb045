"""Writes tests/golden/resize: images, Pillow's bicubic resizes of them, and bilinear resizes without antialiasing.

The latter are plain Python of what OpenCV computes, and so mmcv.

Run it from the repository's root, with Pillow and NumPy installed: python tools/golden/resize.py
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path("tests/golden/resize")


def sources(random):
    """Images that tell resizers apart: all frequencies, hard edges that overshoot, single lines."""
    noise = random.integers(0, 256, (31, 47, 3), dtype=np.uint8)
    squares = (np.indices((40, 28)).sum(axis=0) // 5 % 2 * 255).astype(np.uint8)
    rows, columns = np.mgrid[0:90, 0:120]
    waves = np.stack([127 + 120 * np.sin(columns / period + rows / 9) for period in (3, 7, 15)], axis=-1)
    return {
        "noise": noise,
        "black-and-white": np.where(random.random((33, 29, 1)) < 0.5, 0, 255).repeat(3, axis=2).astype(np.uint8),
        "squares": np.stack([squares, 255 - squares, squares], axis=-1),
        "waves": waves.round().astype(np.uint8),
        "column": noise[:, :1],
        "row": noise[:1],
        "tall": np.where(random.random((120, 40, 1)) < 0.5, 0, 255).repeat(3, axis=2).astype(np.uint8),
    }


SIZES = {
    "noise": [(16, 16), (94, 62), (47, 10), (112, 31), (13, 80)],
    "black-and-white": [(11, 17), (64, 80), (58, 7)],
    "squares": [(48, 32), (9, 13)],
    "waves": [(48, 32), (32, 48), (160, 112)],
    "column": [(1, 16), (16, 64), (16, 5)],
    "row": [(16, 1), (64, 16), (5, 16)],
    # On both sides of the limit at which Pillow resizes rows first, and far from it.
    "tall": [(20, 80), (20, 79), (30, 24), (64, 24)],
}


def between(length, pixels):
    """For each of `pixels` pixels the two source pixels around it, and its share of the way to the second."""
    position = np.clip((np.arange(pixels) + 0.5) * length / pixels - 0.5, 0, length - 1)
    first = np.floor(position).astype(int)
    return first, np.minimum(first + 1, length - 1), position - first


def bilinear(pixels, width, height):
    pixels = pixels.astype(float)
    above, below, down = between(pixels.shape[0], height)
    rows = pixels[above] * (1 - down)[:, None, None] + pixels[below] * down[:, None, None]
    left, right, across = between(pixels.shape[1], width)
    result = rows[:, left] * (1 - across)[None, :, None] + rows[:, right] * across[None, :, None]
    return (result + 0.5).astype(np.uint8)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, pixels in sources(np.random.default_rng(2022)).items():
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(FOLDER / f"{name}.png")
        for width, height in SIZES[name]:
            expected = f"{name}-{width}x{height}.png"
            image.resize((width, height), Image.Resampling.BICUBIC).save(FOLDER / expected)
            mmcv = f"{name}-{width}x{height}-bilinear.png"
            Image.fromarray(bilinear(pixels, width, height)).save(FOLDER / mmcv)
            case = {"source": f"{name}.png", "width": width, "height": height, "expected": expected, "bilinear": mmcv}
            cases.append(case)
    (FOLDER / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
