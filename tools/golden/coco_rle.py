"""Writes tests/golden/coco_rle.json: label maps and pycocotools' masks of them.

Run it from the repository's root, with pycocotools and NumPy installed: python tools/golden/coco_rle.py
"""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask

UNLABELLED = 65535


def maps(random):
    blocks = random.integers(0, 3, (4, 5)).repeat(9, axis=0).repeat(31, axis=1)
    stripes = np.zeros((7, 2500), dtype=int)
    stripes[:, 1200:1210] = 1
    with_holes = np.where(random.random(blocks.shape) < 0.02, UNLABELLED, blocks)
    return {
        "blocks": blocks,
        "noise": random.integers(0, 4, (12, 17)),
        "with holes": with_holes,
        "long runs": stripes,
        "one class everywhere": np.zeros((5, 3), dtype=int),
        "one pixel": np.array([[1]]),
        "last pixel": np.array([[0, 0], [0, 1]]),
        "a row": random.integers(0, 2, (1, 40)),
        "a column": random.integers(0, 2, (40, 1)),
    }


def runs(values):
    """Row-major runs, [value, length] each: short, and easy to check by eye."""
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    lengths = np.diff(starts, append=len(values))
    return [[int(values[start]), int(length)] for start, length in zip(starts, lengths)]


def main():
    cases = []
    for name, labels in maps(np.random.default_rng(2022)).items():
        classes = sorted(set(labels.ravel().tolist()) - {UNLABELLED})
        masks = []
        for class_id in classes:
            encoded = mask.encode(np.asfortranarray(labels == class_id))
            masks.append({"class_id": class_id, "size": encoded["size"], "counts": encoded["counts"].decode()})
        height, width = labels.shape
        cases.append({"name": name, "height": height, "width": width, "runs": runs(labels.ravel()), "masks": masks})
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path("tests/golden/coco_rle.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
