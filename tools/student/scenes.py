"""Scenes for a student to learn from: compositions like those of examples/scenes, and none of those.

    python tools/student/scenes.py --drawings DIR --out FOLDER [--style openmoji] [--count 4000] [--truths FOLDER]

DIR is the folder that tools/demo_model/fetch.py made. The pictures are FOLDER/NNNN.png. Their truths are index PNGs
with the classes of examples/scenes/classes.txt. They are written only with --truths: only runs with given labels learn
from them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_model"))

import drawings  # noqa: E402
import scenes  # noqa: E402
import world  # noqa: E402

# These seeds differ from those of every set on which anything is measured.
SEEDS = {"in-style": 201, "openmoji": 202}
BATCH = 32


def composed(folder: Path, style: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures [256, 256, 3] and their true classes [256, 256] (0 is the background), both uint8."""
    styles = drawings.TRAINING_STYLES if style == "in-style" else (drawings.UNSEEN_STYLE,)
    known = drawings.load(folder, styles)
    by_name = known.by_name()
    family = scenes.TWENTY
    recipe = family.recipe(scenes.CLASSES)
    rng = np.random.default_rng(SEEDS[style])
    batch: list[world.Scene] = []
    for index in range(count):
        while True:
            scene = world.scene(rng, recipe, by_name)
            if len(scene.placed) == recipe.most:
                break
        batch.append(scene)
        if len(batch) == BATCH or index + 1 == count:
            pictures, owner = world.render(batch, known, family.side, change=0.0)
            for scene, picture, owned in zip(batch, pictures, owner):
                names = [known.things[placed.drawing].names[0] for placed in scene.placed]
                classes = torch.tensor([0, *(1 + scenes.CLASSES.index(name) for name in names)], dtype=torch.uint8)
                yield picture.permute(1, 2, 0).numpy(), classes[owned.long()].numpy()
            batch.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--style", choices=SEEDS, default="in-style")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--truths", type=Path, help="a folder for the truths")
    arguments = parser.parse_args()
    for folder in filter(None, (arguments.out, arguments.truths)):
        folder.mkdir(parents=True, exist_ok=True)
    for index, (picture, truth) in enumerate(composed(arguments.drawings, arguments.style, arguments.count)):
        Image.fromarray(picture).save(arguments.out / f"{index:04}.png", compress_level=1)
        if arguments.truths:
            Image.fromarray(truth).save(arguments.truths / f"{index:04}.png")


if __name__ == "__main__":
    main()
