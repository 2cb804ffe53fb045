"""Measures a run or an exported model on the scenes.

    python evaluate.py --drawings DIR --weights runs/NAME/state.pt --sets all-names-validation --short 288

Of every set and method it prints the mean IoU in percent, over all names that occur or are predicted, and the
background; and the share of drawings whose commonest label is their own name. The commonest label may be the background.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import load_file

import dense
import model as network
import scenes


@dataclass(frozen=True)
class Method:
    """A form of the last layer (`dense.dense`), and what happens to its scores."""

    form: str
    denoise: bool = False
    smooth: bool = False
    refine: bool = False


METHODS = {
    "clip": Method("clip"),
    "maskclip": Method("maskclip"),
    "maskclip-no-residual": Method("maskclip-no-residual"),  # a ViT's
    "denoised": Method("maskclip", denoise=True),
    "smoothed": Method("maskclip", smooth=True),
    "denoised and smoothed": Method("maskclip", denoise=True, smooth=True),
    "pamr": Method("maskclip", refine=True),
    "no-residual and pamr": Method("maskclip-no-residual", refine=True),  # a ViT's
}


def restored(weights: Path, config: network.Config) -> CLIP:
    """A model from a run's state (its averaged weights) or from exported weights."""
    model = network.build(config)
    if weights.suffix == ".safetensors":
        model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    else:
        model.load_state_dict(torch.load(weights, weights_only=True)["average"])
    return model.eval().float()


class Tally:
    """What a set's labels come to: the confusion of all classes, and how many drawings have their own name."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.long)
        self.drawings = self.right = 0

    def add(self, predicted: torch.Tensor, true: torch.Tensor, owner: torch.Tensor) -> None:
        """Adds a picture: classes [H, W] as predicted and as they are, and the number of the drawing at every pixel."""
        classes = len(self.counts)
        self.counts += torch.bincount(true.flatten() * classes + predicted.flatten(), minlength=classes**2).view(classes, -1)
        for drawing in range(1, int(owner.max()) + 1):
            inside = owner == drawing
            self.drawings += 1
            self.right += int(predicted[inside].mode().values == true[inside][0]) if inside.any() else 0

    def iou(self) -> torch.Tensor:
        """IoU of every class, in percent."""
        hit = self.counts.diagonal().float()
        return 100 * hit / (self.counts.sum(0) + self.counts.sum(1) - hit).clamp(min=1)

    def mean_iou(self) -> float:
        """The mean IoU of the classes that occur or are predicted, in percent; `maskclip eval` counts so, too."""
        return self.iou()[self.counts.sum(0) + self.counts.sum(1) > 0].mean().item()

    def share_right(self) -> float:
        """The share of drawings whose commonest label is their own name, in percent."""
        return 100 * self.right / max(1, self.drawings)


@torch.inference_mode()
def measure(model: CLIP, composed: scenes.Scenes, short: int, methods: list[str]) -> tuple[list[str], dict[str, Tally]]:
    """The names of all classes, the background first, and every method's tally at a working resolution."""
    names = sorted({word for words in composed.words for word in words})
    texts = dict(zip(names, dense.classifier(model, names)))
    backgrounds = dense.classifier(model, list(scenes.BACKGROUNDS))
    tallies = {method: Tally(1 + len(names)) for method in methods}
    every = zip(composed.pictures, composed.labels.long(), composed.owners, composed.words)
    for picture, labels, owner, words in every:
        phrases = torch.cat([backgrounds, torch.stack([texts[word] for word in words])])
        groups = torch.tensor([0] * len(backgrounds) + list(range(1, 1 + len(words))))  # the backgrounds merge
        classes = torch.tensor([0, *(1 + names.index(word) for word in words)])
        fed = dense.fitted(Image.fromarray(picture.permute(1, 2, 0).numpy()), short, network.position_pixels(model))
        found = {form: dense.dense(model, fed, form) for form in {METHODS[m].form for m in methods}}
        for name, tally in tallies.items():
            method = METHODS[name]
            refined_by = fed[0] if method.refine else None
            size = tuple(labels.shape)
            map_ = dense.labels(found[method.form], phrases, groups, size, method.denoise, method.smooth, refined_by)
            tally.add(classes[map_], classes[labels], owner)
    return ["background", *names], tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--config", default="resnet", choices=network.CONFIGS)
    parser.add_argument("--sets", nargs="+", default=["validation"], choices=scenes.SETS)
    parser.add_argument("--short", nargs="+", type=int, default=[256], help="working resolutions")
    parser.add_argument("--methods", nargs="+", default=["clip", "maskclip"], choices=METHODS)
    parser.add_argument("--classes", action="store_true", help="every class's IoU too")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = restored(arguments.weights, network.CONFIGS[arguments.config])
    for which in arguments.sets:
        composed = scenes.compose(arguments.drawings, which)
        for short in arguments.short:
            names, tallies = measure(model, composed, short, arguments.methods)
            for method, tally in tallies.items():
                line = {"set": which, "short": short, "method": method}
                line |= {"miou": round(tally.mean_iou(), 1), "right": round(tally.share_right(), 1)}
                print(json.dumps(line), flush=True)
                if arguments.classes:
                    print(json.dumps(dict(zip(names, tally.iou().round().int().tolist()))))


if __name__ == "__main__":
    main()
