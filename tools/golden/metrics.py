"""Writes tests/golden/metrics.json: random label maps and their figures by two independent definitions.

mmsegmentation's `IoUMetric` (mmseg/evaluation/metrics/iou_metric.py) sums three histograms over images, without ignored
pixels: of the pixels where prediction and truth agree, of the prediction, and of the truth. Then it divides. A class
without union is nan and left out of the mean.

torchmetrics' `MulticlassJaccardIndex(average="macro", ignore_index=...)`
(torchmetrics/functional/classification/jaccard.py) starts from one confusion matrix and averages over the classes whose
row or column is not empty.

Both are written here from their definitions, on PyTorch, and divide in 64 bits.

Run it from the repository's root, with PyTorch installed: python tools/golden/metrics.py
"""

import json
import math
from pathlib import Path

import torch

IGNORED = -1

# name, classes, images, probability of an ignored pixel, probability of a pixel predicted as none, absent classes
CASES = [
    ("two classes", 2, 1, 0.0, 0.0, ()),
    ("ignored pixels", 5, 3, 0.3, 0.0, ()),
    ("pixels predicted as none", 5, 3, 0.1, 0.2, ()),
    ("absent classes", 9, 2, 0.1, 0.1, (0, 4, 8)),
    ("many classes", 171, 4, 0.05, 0.02, (3, 99)),
    ("one image ignored whole", 4, 1, 1.0, 0.0, ()),
]


def histogram(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Pixels per class. Labels outside the classes do not count, as in mmsegmentation. Exact for counts below 2^24."""
    return torch.histc(labels.float(), bins=classes, min=0, max=classes - 1).double()


def by_histograms(images: list[tuple[torch.Tensor, torch.Tensor]], classes: int) -> dict[str, object]:
    """IoU and accuracies from mmsegmentation's three histograms."""
    both, predicted, true = (torch.zeros(classes, dtype=torch.double) for _ in range(3))
    for truth, prediction in images:
        kept = truth != IGNORED
        truth, prediction = truth[kept], prediction[kept]
        both += histogram(prediction[prediction == truth], classes)
        predicted += histogram(prediction, classes)
        true += histogram(truth, classes)
    iou = (both / (predicted + true - both)).tolist()
    accuracy = (both / true).tolist()
    pixels = (both.sum() / true.sum()).item()
    return {
        "mean_iou": mean(iou),
        "pixel_accuracy": value(pixels),
        "mean_accuracy": mean(accuracy),
        "iou": [value(each) for each in iou],
    }


def by_confusion(images: list[tuple[torch.Tensor, torch.Tensor]], classes: int) -> str | None:
    """The macro Jaccard index from torchmetrics' confusion matrix; None when no class occurs, where torchmetrics says 0.

    Pixels without a class count as a class with the index `classes`, which the mean ignores.
    """
    matrix = torch.zeros(classes + 1, classes + 1, dtype=torch.long)
    for truth, prediction in images:
        kept = truth != IGNORED
        prediction = torch.where(prediction == IGNORED, classes, prediction)
        pairs = truth[kept] * (classes + 1) + prediction[kept]
        matrix += torch.bincount(pairs, minlength=(classes + 1) ** 2).view_as(matrix)
    both = matrix.diagonal()[:classes].double()
    union = (matrix.sum(0) + matrix.sum(1))[:classes].double() - both
    return mean((both / union)[union > 0].tolist())


def value(number: float) -> str | None:
    """The shortest text that reads back as exactly this number (JSON readers may round numbers); None for nan."""
    return None if math.isnan(number) else repr(number)


def mean(numbers: list[float]) -> str | None:
    """The mean of the numbers that are not nan, summed from the first to the last."""
    found = [number for number in numbers if not math.isnan(number)]
    return value(sum(found) / len(found)) if found else None


def main() -> None:
    generator = torch.Generator().manual_seed(2022)
    cases = []
    for name, classes, count, ignored, none, absent in CASES:
        images = []
        for _ in range(count):
            # A few hundred pixels, half of them right.
            pixels = 300
            occurring = torch.tensor([each for each in range(classes) if each not in absent])
            draw = lambda: occurring[torch.randint(len(occurring), (pixels,), generator=generator)]  # noqa: E731
            chance = lambda p: torch.rand(pixels, generator=generator) < p  # noqa: E731
            truth = draw()
            prediction = torch.where(chance(0.5), truth, draw())
            prediction[chance(none)] = IGNORED
            truth[chance(ignored)] = IGNORED
            images.append((truth, prediction))
        case = {"name": name, "classes": classes, **by_histograms(images, classes), "jaccard": by_confusion(images, classes)}
        case["images"] = [(truth.tolist(), prediction.tolist()) for truth, prediction in images]
        cases.append(case)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    Path("tests/golden/metrics.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
