"""Measures a run or an exported model on the scenes: mean IoU of 20 classes and the background.

    python evaluate.py --drawings DIR --weights runs/NAME/state.pt --sets validation --short 256 320 384
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from PIL import Image
from safetensors.torch import load_file

import dense
import model as network
import scenes

METHODS = {
    "clip": ("clip", False, False),
    "maskclip": ("maskclip", False, False),
    "maskclip-no-residual": ("maskclip-no-residual", False, False),  # a ViT's
    "denoised": ("maskclip", True, False),
    "smoothed": ("maskclip", False, True),
    "denoised and smoothed": ("maskclip", True, True),
}


def restored(weights: Path, config: dict) -> CLIP:
    """A model from a run's state (its averaged weights) or from exported weights."""
    model = network.build(config)
    if weights.suffix == ".safetensors":
        model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    else:
        model.load_state_dict(torch.load(weights, weights_only=True)["average"])
    return model.eval().float()


def multiple(model: CLIP) -> int:
    """The pixels along a side of one position of the dense map."""
    visual = model.visual
    return visual.patch_size[0] if isinstance(visual, VisionTransformer) else 32


def prompts(classes: tuple[str, ...], backgrounds: tuple[str, ...]) -> tuple[list[str], torch.Tensor]:
    """All phrases and the class of each. Class 0 is the background, whose phrases merge."""
    groups = [0] * len(backgrounds) + list(range(1, len(classes) + 1))
    return [*backgrounds, *classes], torch.tensor(groups)


class Tally:
    """Intersections and unions per class, summed over a set."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.long)

    def add(self, predicted: torch.Tensor, true: torch.Tensor) -> None:
        classes = len(self.counts)
        self.counts += torch.bincount(true.flatten().long() * classes + predicted.flatten(), minlength=classes**2).view(classes, -1)

    def iou(self) -> torch.Tensor:
        """IoU of every class, in percent."""
        hit = self.counts.diagonal().float()
        return 100 * hit / (self.counts.sum(0) + self.counts.sum(1) - hit).clamp(min=1)


@torch.inference_mode()
def measure(model: CLIP, pictures: torch.Tensor, truth: torch.Tensor, short: int, methods: list[str]) -> dict[str, Tally]:
    """Tallies of a set's pictures [N, 3, H, W] and true classes [N, H, W] at a working resolution."""
    phrases, groups = prompts(scenes.CLASSES, scenes.BACKGROUNDS)
    texts = dense.classifier(model, phrases)
    tallies = {method: Tally(len(scenes.CLASSES) + 1) for method in methods}
    for picture, true in zip(pictures, truth):
        fed = dense.fitted(Image.fromarray(picture.permute(1, 2, 0).numpy()), short, multiple(model))
        found = {name: dense.dense(model, fed, name) for name in {METHODS[m][0] for m in methods}}
        for method, tally in tallies.items():
            name, denoise, smooth = METHODS[method]
            tally.add(dense.labels(found[name], texts, groups, tuple(true.shape), denoise, smooth), true)
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--config", default="resnet", choices=network.CONFIGS)
    parser.add_argument("--sets", nargs="+", default=["validation"], choices=scenes.SEEDS)
    parser.add_argument("--short", nargs="+", type=int, default=[256], help="working resolutions")
    parser.add_argument("--methods", nargs="+", default=["clip", "maskclip"], choices=METHODS)
    parser.add_argument("--classes", action="store_true", help="every class's IoU too")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = restored(arguments.weights, network.CONFIGS[arguments.config])
    for which in arguments.sets:
        pictures, truth = scenes.compose(arguments.drawings, which)
        for short in arguments.short:
            tallies = measure(model, pictures, truth, short, arguments.methods)
            line = {"set": which, "short": short} | {m: round(t.iou().mean().item(), 1) for m, t in tallies.items()}
            print(json.dumps(line), flush=True)
            if arguments.classes:
                names = ("background", *scenes.CLASSES)
                print(json.dumps({m: dict(zip(names, t.iou().round().int().tolist())) for m, t in tallies.items()}))


if __name__ == "__main__":
    main()
