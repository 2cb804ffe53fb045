"""Composes the scenes of the evaluation and of the examples, always the same ones.

    python scenes.py --drawings DIR --out examples/scenes
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import drawings
import world

CLASSES = (
    "tiger", "elephant", "panda", "penguin", "frog", "octopus", "butterfly", "crab", "lemon", "strawberry",
    "banana", "watermelon", "carrot", "hamburger", "doughnut", "sunflower", "cactus", "mushroom", "bus", "guitar",
)  # fmt: skip
# Every kind of background, with the colour left open.
BACKGROUNDS = (
    *(f"{adjective} background" for adjective in world.PATTERNS.values()),
    *(phrases[0] for *_, phrases in world.STUFF.values()),
)
SIDE = 256
COUNT = 64
SEEDS = {"in-style": 101, "openmoji": 102, "validation": 103, "validation-openmoji": 104}
RECIPE = world.Recipe(
    CLASSES, fewest=5, most=5, smallest=64 / SIDE, largest=120 / SIDE, turn=0.15, overlap=0.04, inside=1.0
)


def compose(folder: Path, which: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A set's pictures [64, 3, 256, 256] and true classes [64, 256, 256] (0 is the background), both uint8."""
    unseen = which.endswith("openmoji")
    known = drawings.load(folder, (drawings.UNSEEN_STYLE,) if unseen else drawings.TRAINING_STYLES)
    by_name = known.by_name()
    rng = np.random.default_rng(SEEDS[which])
    made: list[world.Scene] = []
    while len(made) < COUNT:
        scene = world.scene(rng, RECIPE, by_name)
        if len(scene.placed) == RECIPE.most:
            made.append(scene)
    pictures, owner = world.render(made, known, SIDE, change=0.0)
    pictures = pictures // 4 * 4  # makes the files small
    classes = torch.zeros(COUNT, RECIPE.most + 1, dtype=torch.uint8)
    for row, scene in enumerate(made):
        for order, placed in enumerate(scene.placed, 1):
            classes[row, order] = 1 + CLASSES.index(known.things[placed.drawing].names[0])
    return pictures, classes.gather(1, owner.flatten(1).long()).view_as(owner)


def write(folder: Path, out: Path, which: str) -> None:
    """Writes a set as out/WHICH/NN.png with its truth, an index PNG, as out/WHICH/NN.truth.png."""
    pictures, truth = compose(folder, which)
    (out / which).mkdir(parents=True, exist_ok=True)
    palette = [0, 0, 0, *np.random.default_rng(0).integers(40, 256, 3 * len(CLASSES)).tolist()]
    for index, (picture, true) in enumerate(zip(pictures, truth)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(out / which / f"{index:02}.png", optimize=True)
        image = Image.fromarray(true.numpy(), "P")
        image.putpalette(palette)
        image.save(out / which / f"{index:02}.truth.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for which in ("in-style", "openmoji"):
        write(arguments.drawings, arguments.out, which)
    (arguments.out / "classes.txt").write_text("".join(f"{name}\n" for name in ("background", *CLASSES)))
    (arguments.out / "backgrounds.txt").write_text("".join(f"{name}\n" for name in BACKGROUNDS))


if __name__ == "__main__":
    main()
