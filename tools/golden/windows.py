"""Writes tests/golden/windows.json: scores of sliding windows and their mean at the image's size.

This is plain Python of the published protocol (SCLIP and its successors). It enlarges each window's cells bilinearly to
the window's pixels, adds them up on the input's pixels, divides by the number of windows over each pixel, and enlarges
the result to the image's size.

Run it from the repository's root, with PyTorch installed: python tools/golden/windows.py
"""

import json
import math
from pathlib import Path

import torch
from torch.nn.functional import interpolate

# name, input height and width, image height and width, window side and stride, cells along a whole window
CASES = [
    ("windows that half overlap", (24, 40), (31, 52), 16, 8, 4),
    ("the last window moved back", (19, 23), (19, 23), 8, 5, 4),
    ("lower than a window, wider than it", (6, 21), (11, 30), 9, 4, 3),
    ("side by side without overlap", (12, 12), (5, 7), 4, 4, 2),
    ("one pixel further at a time", (7, 8), (13, 9), 6, 1, 3),
    ("one window", (8, 10), (17, 21), 16, 8, 4),
]
QUERIES = 3


def enlarge(scores, size):
    return interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


def starts(length, side, stride):
    windows = math.ceil(max(length - side, 0) / stride) + 1
    return [max(0, min(index * stride, length - side)) for index in range(windows)]


def main():
    torch.manual_seed(2025)
    cases = []
    for name, (height, width), image, side, stride, cells in CASES:
        tops, lefts = starts(height, side, stride), starts(width, side, stride)
        window = min(side, height), min(side, width)
        grid = [max(1, cells * length // side) for length in window]
        # Two decimals are short in the file and exactly the numbers that PyTorch used.
        scores = (torch.randn(QUERIES, len(tops) * grid[0], len(lefts) * grid[1]) * 300).round() / 100

        total, coverage = torch.zeros(QUERIES, height, width), torch.zeros(height, width)
        for row, top in enumerate(tops):
            for column, left in enumerate(lefts):
                own = scores[:, row * grid[0] : (row + 1) * grid[0], column * grid[1] : (column + 1) * grid[1]]
                place = slice(top, top + window[0]), slice(left, left + window[1])
                total[:, *place] += enlarge(own, window)
                coverage[*place] += 1
        if len(tops) * len(lefts) == 1:
            # One window is the whole image: one step, not two.
            expected = enlarge(scores, image)
        else:
            expected = enlarge(total / coverage, image)
        cases.append(
            {
                "name": name,
                "input": [height, width],
                "image": image,
                "side": side,
                "stride": stride,
                "queries": QUERIES,
                "grid": list(scores.shape[1:]),
                "scores": [round(value, 2) for value in scores.ravel().tolist()],
                "expected": [float(f"{value:.6f}") for value in expected.ravel().tolist()],
            }
        )
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    Path("tests/golden/windows.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
