"""The example scenes, 512 x 384.

    python examples.py --drawings DIR --out examples
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

import drawings
import world

SIDE, HEIGHT = 512, 384

# Background (pattern, colours, numbers); drawings as style, name, which of that name, centre and size in pixels.
EXAMPLES: dict[str, tuple[world.Scene, tuple[tuple[str, str, int, int, int, int], ...]]] = {
    "picnic": (
        world.Scene("plain", ((0.42, 0.72, 0.36), (0.42, 0.72, 0.36)), ("green background",), (0, 0, 0, 0), 1),
        (
            ("noto", "tiger", 0, 110, 120, 150),
            ("fluent", "lemon", 0, 268, 92, 104),
            ("twemoji", "hamburger", 0, 420, 110, 128),
            ("noto", "penguin", 0, 405, 276, 138),
            ("fluent", "strawberry", 0, 250, 236, 112),
            ("twemoji", "sunflower", 0, 100, 290, 132),
        ),
    ),
    "shore": (
        world.Scene("gradient", ((0.55, 0.78, 0.95), (0.9, 0.95, 1.0)), ("gradient background",), (0.25, 0, 0, 0), 2),
        (
            ("fluent", "octopus", 0, 118, 128, 146),
            ("noto", "whale", 0, 300, 116, 140),
            ("twemoji", "crab", 0, 436, 200, 116),
            ("fluent", "banana", 0, 104, 296, 112),
            ("noto", "watermelon", 0, 268, 284, 122),
        ),
    ),
    "fruit": (
        world.Scene("plain", ((0.93, 0.87, 0.74), (0.93, 0.87, 0.74)), ("beige background",), (0, 0, 0, 0), 3),
        (
            ("twemoji", "apple", 0, 96, 106, 128),
            ("noto", "apple", 1, 258, 104, 128),
            ("noto", "banana", 0, 420, 116, 128),
            ("fluent", "elephant", 0, 150, 268, 160),
            ("twemoji", "frog", 0, 306, 284, 122),
            ("noto", "guitar", 0, 444, 278, 132),
        ),
    ),
    "crowd": (
        world.Scene("plain", ((0.96, 0.85, 0.55), (0.96, 0.85, 0.55)), ("yellow background",), (0, 0, 0, 0), 4),
        (
            ("noto", "panda", 0, 64, 66, 108),
            ("twemoji", "rocket", 0, 192, 66, 108),
            ("fluent", "mushroom", 0, 320, 66, 108),
            ("noto", "cactus", 0, 448, 66, 108),
            ("fluent", "elephant", 0, 64, 192, 108),
            ("noto", "bus", 0, 192, 192, 108),
            ("twemoji", "octopus", 0, 320, 192, 108),
            ("fluent", "doughnut", 0, 448, 192, 108),
            ("twemoji", "butterfly", 0, 64, 318, 108),
            ("fluent", "carrot", 0, 192, 318, 108),
            ("noto", "guitar", 0, 320, 318, 108),
            ("twemoji", "grapes", 0, 448, 318, 108),
        ),
    ),
    "lookalikes": (
        world.Scene("plain", ((0.42, 0.72, 0.36), (0.42, 0.72, 0.36)), ("green background",), (0, 0, 0, 0), 5),
        (
            ("noto", "lion", 0, 100, 108, 140),
            ("noto", "tiger", 0, 258, 104, 150),
            ("twemoji", "leopard", 0, 414, 108, 150),
            ("fluent", "wolf", 0, 100, 280, 140),
            ("noto", "fox", 0, 256, 280, 140),
            ("twemoji", "dog", 0, 412, 280, 140),
        ),
    ),
}


def picture(name: str, known: drawings.Drawings) -> Image.Image:
    """An example scene: a square composition whose lower part is cut off."""
    scene, things = EXAMPLES[name]
    by_name = known.by_name()
    scene.placed = []
    for style, thing, which, x, y, size in things:
        drawing = [index for index in by_name[thing] if known.styles[index] == style][which]
        scene.placed.append(world.Placed(drawing, x / SIDE, y / SIDE, size / SIDE, 0.0, False, 0))
    pictures, _ = world.render([scene], known, SIDE, change=0.0)
    return Image.fromarray(pictures[0, :, :HEIGHT].permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    known = drawings.load(arguments.drawings, drawings.TRAINING_STYLES)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES:
        picture(name, known).save(arguments.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
