"""Writes tests/golden/coco_polygons.json: polygons, and the pixels that pycocotools gives to each.

The tests in src/evaluation/dataset/shapes.rs read it. Run it from the repository's root, with NumPy and pycocotools:
python tools/golden/coco_polygons.py
"""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask

SEED = 1


def main():
    random = np.random.default_rng(SEED)
    cases = []

    def add(width, height, polygons):
        polygons = [[round(float(value), 2) for value in polygon] for polygon in polygons]
        runs = mask.merge(mask.frPyObjects(polygons, height, width))
        cases.append({"width": width, "height": height, "polygons": polygons, "counts": runs["counts"].decode()})

    add(8, 6, [[1, 1, 5, 1, 5, 4, 1, 4]])
    add(8, 6, [[0, 0, 8, 0, 8, 6, 0, 6]])
    add(8, 6, [[2.5, 2.5, 2.5, 2.5, 2.5, 2.5]])
    add(8, 6, [[1, 1, 6, 1, 1, 1]])
    add(8, 6, [[-4, -3, 12, 2, 3, 15]])
    add(8, 6, [[1, 1, 4, 1, 4, 4, 1, 4], [3, 3, 7, 3, 7, 5.5, 3, 5.5]])
    add(1, 1, [[0, 0, 1, 0, 1, 1]])
    for _ in range(20):
        width, height = (int(side) for side in random.integers(5, 60, 2))
        corners = random.integers(3, 12)
        points = random.uniform(-0.2, 1.2, (corners, 2)) * [width, height]
        add(width, height, [points.flatten()])
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path("tests/golden/coco_polygons.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
