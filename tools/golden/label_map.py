"""Writes tests/golden/label_map.json: score grids and PyTorch's label maps of them.

Each pixel has the label, the probability of the best class, and the margin: the difference between the two best owners'
probabilities. Labels must agree where the margin is larger than rounding.

Run it from the repository's root, with PyTorch installed: python tools/golden/label_map.py
"""

import json
from pathlib import Path

import torch
from torch.nn.functional import interpolate

# name, grid height and width, image height and width, owner of each query (null: background)
CASES = [
    ("larger, one query per class", (5, 7), (37, 61), [0, 1, 2, 3]),
    ("smaller", (20, 30), (9, 11), [0, 1, 2]),
    ("one cell", (1, 1), (4, 3), [0, 1]),
    ("several queries per class and background", (6, 4), (29, 23), [0, 1, 1, 2, None, None, 0]),
    ("larger down, smaller across", (3, 40), (31, 13), [0, 1, 2]),
]


def main():
    torch.manual_seed(2022)
    cases = []
    for name, grid, image, owners in CASES:
        # Two decimals are short in the file and exactly the numbers that PyTorch used.
        scores = (torch.randn(1, len(owners), *grid) * 300).round() / 100
        probabilities = interpolate(scores, size=image, mode="bilinear", align_corners=False)[0].softmax(dim=0)
        classes = max(owner for owner in owners if owner is not None) + 1
        slots = torch.tensor([classes if owner is None else owner for owner in owners])
        of_owners = torch.stack([probabilities[slots == slot].amax(dim=0) for slot in sorted(set(slots.tolist()))])
        best = of_owners.topk(2, dim=0).values
        cases.append(
            {
                "name": name,
                "grid": grid,
                "image": image,
                "owners": owners,
                "scores": [round(value, 2) for value in scores.ravel().tolist()],
                "owner": of_owners.argmax(dim=0).ravel().tolist(),
                "probability": [float(f"{value:.7f}") for value in best[0].ravel().tolist()],
                "margin": [float(f"{value:.7f}") for value in (best[0] - best[1]).ravel().tolist()],
            }
        )
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    Path("tests/golden/label_map.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
