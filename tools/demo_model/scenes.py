"""Composes the scenes of the evaluation, always the same ones.

    python scenes.py --drawings DIR --out examples/scenes
    python scenes.py --drawings DIR --out DIR --sets all-names all-names-openmoji
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
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
COUNT = 64
THINGS = 5  # drawings of a scene


@dataclass(frozen=True)
class Family:
    """What the scenes of some sets have in common.

    `side`, `smallest` and `largest` (of a drawing) are in pixels. Without `candidates` the drawings are those of
    CLASSES, and all of CLASSES are the words of every scene. With `candidates` the drawings are of all names, and every
    scene has that many words of its own: the names of its drawings, and others.
    """

    side: int
    smallest: int
    largest: int
    candidates: int | None = None

    def recipe(self, names: tuple[str, ...]) -> world.Recipe:
        return world.Recipe(
            names,
            fewest=THINGS,
            most=THINGS,
            smallest=self.smallest / self.side,
            largest=self.largest / self.side,
            turn=0.15,
            overlap=0.04,
            inside=1.0,
        )


@dataclass(frozen=True)
class Set:
    """64 scenes. No training has the seed, so no composition was trained on."""

    family: Family
    seed: int
    unseen: bool = False  # in the style that was never trained on


TWENTY = Family(256, 64, 120)
ALL_NAMES = Family(288, 64, 128, candidates=20)
SETS = {
    "in-style": Set(TWENTY, 101),
    "openmoji": Set(TWENTY, 102, unseen=True),
    "validation": Set(TWENTY, 103),
    "validation-openmoji": Set(TWENTY, 104, unseen=True),
    "all-names": Set(ALL_NAMES, 105),
    "all-names-openmoji": Set(ALL_NAMES, 106, unseen=True),
    "all-names-validation": Set(ALL_NAMES, 107),
}


@dataclass(frozen=True)
class Scenes:
    """A set's scenes: pictures [64, 3, H, W], labels and owners [64, H, W], all uint8, and every scene's words.

    A label is 0 for the background, else 1 + the place of the drawing's name among the scene's words. An owner is the
    number of the drawing, from 1, or 0 for the background.
    """

    pictures: torch.Tensor
    labels: torch.Tensor
    owners: torch.Tensor
    words: list[tuple[str, ...]]


def compose(folder: Path, which: str) -> Scenes:
    """The scenes of a set."""
    chosen = SETS[which]
    family = chosen.family
    known = drawings.load(folder, (drawings.UNSEEN_STYLE,) if chosen.unseen else drawings.TRAINING_STYLES)
    by_name = known.by_name()
    recipe = family.recipe(CLASSES if family.candidates is None else tuple(by_name))
    rng = np.random.default_rng(chosen.seed)
    made: list[world.Scene] = []
    while len(made) < COUNT:
        scene = world.scene(rng, recipe, by_name)
        if len(scene.placed) == THINGS and distinct(scene, known):
            made.append(scene)
    words = [CLASSES if family.candidates is None else candidates(rng, s, known, family.candidates) for s in made]
    pictures, owners = world.render(made, known, family.side, change=0.0)
    pictures = pictures // 4 * 4  # makes the files small
    labels = torch.zeros(COUNT, THINGS + 1, dtype=torch.uint8)
    for row, scene in enumerate(made):
        for order, placed in enumerate(scene.placed, 1):
            labels[row, order] = 1 + words[row].index(known.things[placed.drawing].names[0])
    return Scenes(pictures, labels.gather(1, owners.flatten(1).long()).view_as(owners), owners, words)


def distinct(scene: world.Scene, known: drawings.Drawings) -> bool:
    """Whether no two drawings of a scene share a name, so that each name is true of one of them."""
    names = [name for placed in scene.placed for name in known.things[placed.drawing].names]
    return len(names) == len(set(names))


def candidates(rng: np.random.Generator, scene: world.Scene, known: drawings.Drawings, count: int) -> tuple[str, ...]:
    """A scene's words in the order of the alphabet: the names of its drawings, and others that are true of none."""
    things = [known.things[placed.drawing] for placed in scene.placed]
    true = {name for thing in things for name in thing.names}
    others = sorted(name for name in known.by_name() if name not in true)
    drawn = rng.choice(others, count - len(things), replace=False)
    return tuple(sorted([*(thing.names[0] for thing in things), *map(str, drawn)]))


def write(folder: Path, out: Path, which: str) -> None:
    """Writes a set as out/WHICH/NN.png with its labels, an index PNG, as out/WHICH/NN.truth.png.

    Where scenes have words of their own, out/WHICH/words.tsv has a line of them for every scene.
    """
    scenes = compose(folder, which)
    (out / which).mkdir(parents=True, exist_ok=True)
    longest = max(map(len, scenes.words))
    palette = [0, 0, 0, *np.random.default_rng(0).integers(40, 256, 3 * longest).tolist()]
    for index, (picture, labels) in enumerate(zip(scenes.pictures, scenes.labels)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(out / which / f"{index:02}.png", optimize=True)
        image = Image.fromarray(labels.numpy(), "P")
        image.putpalette(palette)
        image.save(out / which / f"{index:02}.truth.png", optimize=True)
    if SETS[which].family.candidates is not None:
        lines = "".join("\t".join(words) + "\n" for words in scenes.words)
        (out / which / "words.tsv").write_text(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["in-style", "openmoji"], choices=SETS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for which in arguments.sets:
        write(arguments.drawings, arguments.out, which)
    if any(SETS[which].family is TWENTY for which in arguments.sets):
        (arguments.out / "classes.txt").write_text("".join(f"{name}\n" for name in ("background", *CLASSES)))
    (arguments.out / "backgrounds.txt").write_text("".join(f"{name}\n" for name in BACKGROUNDS))


if __name__ == "__main__":
    main()
