"""The drawings as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import colours
from vocabulary import Thing, things

SIDE = 64  # pixels of a drawing
BORDER = 4  # transparent pixels added on every side, room for outlines
TRAINING_STYLES = ("noto", "twemoji", "fluent")
UNSEEN_STYLE = "openmoji"  # never trained on


@dataclass(frozen=True)
class Drawings:
    """Drawings of some styles: pixels [N, 4, 72, 72] (straight alpha, 0 to 1) and what each one shows."""

    pixels: torch.Tensor
    things: list[Thing]
    styles: list[str]
    colours: list[str | None]

    def by_name(self) -> dict[str, list[int]]:
        """Indices of the drawings of every first name."""
        found: dict[str, list[int]] = {}
        for index, thing in enumerate(self.things):
            found.setdefault(thing.names[0], []).append(index)
        return found


def load(folder: Path, styles: tuple[str, ...]) -> Drawings:
    """Reads `folder/STYLE/CODEPOINT.png` of every learned drawing."""
    pixels, shown, of_style, dominant = [], [], [], []
    for style in styles:
        for thing in things():
            image = Image.open(folder / style / f"{thing.codepoint}.png").convert("RGBA")
            if image.size != (SIDE, SIDE):
                raise ValueError(f"{style}/{thing.codepoint}.png is {image.size}, not {SIDE} x {SIDE}")
            array = np.asarray(image, np.float32) / 255
            pixels.append(np.pad(array, ((BORDER, BORDER), (BORDER, BORDER), (0, 0))))
            shown.append(thing)
            of_style.append(style)
            dominant.append(colours.dominant(array[..., :3], array[..., 3]))
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Drawings(stacked, shown, of_style, dominant)
