"""Composes scenes: drawings on varied backgrounds, in batches.

A scene is first drawn up as plain numbers (`Scene`: a background and placed drawings). `render` then renders many
scenes at a time. Captions learn nothing of places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from colours import PALETTE
from drawings import BORDER, SIDE, Drawings

# Backgrounds of two free colours, with their adjective in captions.
PATTERNS = {
    "plain": "plain",
    "gradient": "gradient",
    "stripes": "striped",
    "checks": "checkered",
    "dots": "dotted",
    "clouds": "blotchy",
    "noise": "grainy",
}
# Backgrounds with fixed colours: the pattern's field, the two colours, the words.
STUFF: dict[str, tuple[str, tuple[float, float, float], tuple[float, float, float], tuple[str, ...]]] = {
    "sky": ("clouds", (0.36, 0.62, 0.92), (0.95, 0.97, 1.0), ("sky", "cloudy sky", "blue sky")),
    "grass": ("blades", (0.2, 0.5, 0.13), (0.45, 0.75, 0.25), ("grass", "green grass", "lawn")),
    "sand": ("noise", (0.93, 0.83, 0.6), (0.78, 0.66, 0.43), ("sand", "beach")),
    "sea": ("waves", (0.08, 0.32, 0.6), (0.3, 0.66, 0.85), ("sea", "water")),
    "snow": ("clouds", (0.98, 0.99, 1.0), (0.84, 0.9, 0.96), ("snow",)),
    "night": ("stars", (0.03, 0.04, 0.15), (1.0, 1.0, 0.85), ("night sky", "starry sky")),
    "wall": ("bricks", (0.68, 0.3, 0.22), (0.84, 0.8, 0.74), ("brick wall", "wall")),
    "wood": ("planks", (0.62, 0.42, 0.22), (0.42, 0.26, 0.12), ("wood", "wooden table")),
}

WINDOW = 32  # patches of drawings are multiples of this many pixels wide
CHUNK = 32  # drawings that change style together; these fit the processor's cache


@dataclass
class Placed:
    """One drawing in a scene: which one, where (centre and side as fractions of the scene), and how it is changed."""

    drawing: int
    x: float
    y: float
    size: float
    angle: float
    flip: bool
    seed: int
    colour_kept: bool = True
    stretch: float = 1.0  # how much wider it is, and how much lower


@dataclass
class Scene:
    """A background (pattern, two colours, phase numbers) and drawings, the last on top."""

    pattern: str
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    phrases: tuple[str, ...]  # phrases for the background
    numbers: tuple[float, ...]  # four uniform numbers that set the pattern's angle, scale and phase
    seed: int
    placed: list[Placed] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """What kind of scenes to draw up."""

    names: tuple[str, ...]
    fewest: int = 1
    most: int = 6
    smallest: float = 0.19  # of the scene's side
    largest: float = 1.3
    turn: float = 0.35  # radians, standard deviation
    stretch: float = 0.0  # standard deviation of the logarithm of a drawing's stretch
    overlap: float = 0.25  # of the smaller drawing's square
    inside: float = 0.62  # share of a drawing's side that stays within the frame
    stuff: float = 0.3  # share of backgrounds with colours of their own
    change: float = 0.8  # share of drawings whose style changes


def background(rng: np.random.Generator, recipe: Recipe) -> Scene:
    """A scene of a background without drawings."""
    numbers = tuple(rng.random(4))
    seed = int(rng.integers(2**31))
    if rng.random() < recipe.stuff:
        pattern, first, second, phrases = STUFF[str(rng.choice(list(STUFF)))]
        return Scene(pattern, (_near(rng, first, 0.03), _near(rng, second, 0.03)), phrases, numbers, seed)
    pattern = str(rng.choice(list(PATTERNS), p=[0.34, 0.16, 0.14, 0.1, 0.1, 0.08, 0.08]))
    names = [str(name) for name in rng.choice(list(PALETTE), 2, replace=False)]
    if pattern in ("plain", "noise", "clouds"):
        first = _near(rng, PALETTE[names[0]], 0.05)
        amount = {"plain": 0.0, "noise": 0.3, "clouds": 0.3}[pattern]
        second = tuple(float(np.clip(c + amount * (1 if sum(first) < 1.5 else -1), 0, 1)) for c in first)
        adjective = PATTERNS[pattern]
        phrases = (f"{names[0]} background", f"{adjective} background", f"{adjective} {names[0]} background")
        return Scene(pattern, (first, second), phrases, numbers, seed)
    pair = (_near(rng, PALETTE[names[0]], 0.05), _near(rng, PALETTE[names[1]], 0.05))
    adjective = PATTERNS[pattern]
    phrases = (
        f"{adjective} background",
        f"{adjective} {names[0]} and {names[1]} background",
        f"{adjective} {names[1]} and {names[0]} background",
        f"{names[0]} and {names[1]} background",
        f"{adjective} {names[0]} background",
        f"{adjective} {names[1]} background",
    )
    return Scene(pattern, pair, phrases, numbers, seed)


def scene(rng: np.random.Generator, recipe: Recipe, drawings: dict[str, list[int]]) -> Scene:
    """A scene by the recipe: a background and drawings that overlap little."""
    made = background(rng, recipe)
    wanted = int(rng.integers(recipe.fewest, recipe.most + 1))
    largest = min(recipe.largest, 1.6 / math.sqrt(wanted))
    sizes = np.exp(rng.uniform(math.log(recipe.smallest), math.log(largest), wanted))
    names = rng.choice(len(recipe.names), wanted, replace=False)
    for size, name in zip(sorted(sizes, reverse=True), names):
        spot = _spot(rng, float(size), made.placed, recipe)
        if spot is None:
            continue
        made.placed.append(
            Placed(
                drawing=int(rng.choice(drawings[recipe.names[name]])),
                x=spot[0],
                y=spot[1],
                size=float(size),
                angle=float(rng.normal(0, recipe.turn)) if recipe.turn else 0.0,
                flip=bool(rng.random() < 0.5),
                seed=int(rng.integers(2**31)),
                stretch=math.exp(rng.normal(0, recipe.stretch)) if recipe.stretch else 1.0,
            )
        )
    return made


def _near(rng: np.random.Generator, colour: tuple[float, ...], sigma: float) -> tuple[float, float, float]:
    return tuple(float(c) for c in np.clip(np.array(colour) + rng.normal(0, sigma, 3), 0, 1))


def _spot(rng: np.random.Generator, size: float, placed: list[Placed], recipe: Recipe) -> tuple[float, float] | None:
    """A centre for a drawing of this size, or None when the scene is too full."""
    margin = min(0.5, size * (recipe.inside - 0.5))
    for _ in range(12):
        x, y = rng.uniform(margin, 1 - margin, 2)
        for other in placed:
            reach = (size + other.size) / 2
            across, down = reach - abs(x - other.x), reach - abs(y - other.y)
            if across > 0 and down > 0 and across * down > recipe.overlap * min(size, other.size) ** 2:
                break
        else:
            return float(x), float(y)
    return None


def render(scenes: list[Scene], drawings: Drawings, side: int, change: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Renders square scenes.

    `change` is the share of drawings whose style changes at random. If that alters a drawing's colour, its
    `colour_kept` is cleared. Above 0, whole pictures change, too. Returns pictures, uint8 [N, 3, side, side], and for
    every pixel the index (from 1) of the topmost drawing, or 0 for the background, uint8 [N, side, side].
    """
    canvas = torch.stack([paint(s, side) for s in scenes])
    owner = torch.zeros(len(scenes), side, side, dtype=torch.uint8)
    rows = [row for row, s in enumerate(scenes) for _ in s.placed]
    orders = [order for s in scenes for order in range(1, len(s.placed) + 1)]
    placed = [p for s in scenes for p in s.placed]
    sprites = drawings.pixels[[p.drawing for p in placed]]
    changed = [index for index, p in enumerate(placed) if p.seed < change * 2**31]
    for chunk in (changed[first : first + CHUNK] for first in range(0, len(changed), CHUNK)):
        sprites[chunk] = restyle(sprites[chunk], [placed[index] for index in chunk])
    for row, order, (patch, left, top) in zip(rows, orders, _warp(sprites, placed, side)):
        height, width = patch.shape[1:]
        patch = patch[:, max(0, -top) : side - top, max(0, -left) : side - left]
        window = (slice(max(0, top), min(side, top + height)), slice(max(0, left), min(side, left + width)))
        canvas[row, :, window[0], window[1]].mul_(1 - patch[3:]).add_(patch[:3])
        owner[row, window[0], window[1]].masked_fill_(patch[3] > 0.5, order)
    if change:
        canvas = weather(canvas, scenes[0].seed)
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8), owner


def _warp(sprites: torch.Tensor, placed: list[Placed], side: int) -> list[tuple[torch.Tensor, int, int]]:
    """Turns and scales sprites [M, 4, 72, 72]; returns premultiplied patches [4, w, w] with left and top pixels."""
    numbers = [[p.x, p.y, p.size, p.angle, -1.0 if p.flip else 1.0, p.stretch] for p in placed]
    x, y, size, angle, flip, stretch = torch.tensor(numbers).unbind(1)
    x, y = x * side, y * side
    half = size * side / 2 * (SIDE + 2 * BORDER) / SIDE  # pixels from a sprite's centre to its edge
    reach = 2 * half * torch.maximum(stretch, 1 / stretch) * (angle.cos().abs() + angle.sin().abs()) + 2
    window = ((reach / WINDOW).ceil() * WINDOW).clamp(max=2 * side)  # few distinct sizes, with one batch for each
    left, top = (x - window / 2).round(), (y - window / 2).round()
    cos, sin = angle.cos() / half, angle.sin() / half
    off_x, off_y = left + window / 2 - x, top + window / 2 - y
    scale = window / 2
    theta = torch.stack(
        [
            torch.stack([cos * scale, sin * scale, cos * off_x + sin * off_y], 1) * (flip / stretch)[:, None],
            torch.stack([-sin * scale, cos * scale, -sin * off_x + cos * off_y], 1) * stretch[:, None],
        ],
        1,
    )
    small = size * side < 0.7 * SIDE
    sprites = torch.cat([sprites[:, :3] * sprites[:, 3:], sprites[:, 3:]], 1)
    patches: list[torch.Tensor] = [sprites] * len(placed)
    for wide in window.unique().tolist():
        for halved in (False, True):
            chosen = torch.nonzero((window == wide) & (small == halved)).flatten()
            if len(chosen):
                source = F.avg_pool2d(sprites[chosen], 2) if halved else sprites[chosen]
                grid = F.affine_grid(theta[chosen], [len(chosen), 4, int(wide), int(wide)], align_corners=False)
                for index, patch in zip(chosen.tolist(), F.grid_sample(source, grid, align_corners=False)):
                    patches[index] = patch
    return list(zip(patches, left.int().tolist(), top.int().tolist()))


def paint(scene: Scene, side: int) -> torch.Tensor:
    """A scene's background, [3, side, side]."""
    first, second = (torch.tensor(c).view(3, 1, 1) for c in scene.colours)
    return torch.lerp(first, second, _field(scene.pattern, scene.numbers, scene.seed, side).expand(1, side, side))


def _field(pattern: str, numbers: tuple[float, ...], seed: int, side: int) -> torch.Tensor:
    """The mixture of a background's two colours, [side, side] or a scalar. Lengths are relative to the side."""
    if pattern == "plain":
        return torch.zeros(1, 1)
    a, b, c, d = numbers
    line = (torch.arange(side) + 0.5) / side
    y, x = line.view(-1, 1), line.view(1, -1)
    angle = math.pi * a
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    count = 3 + 9 * b
    sharp = side / 2
    wave, other = torch.sin(math.pi * (count * along + 2 * c)), torch.sin(math.pi * (count * across + 2 * d))
    if pattern == "gradient":
        along = x * math.cos(2 * angle) + y * math.sin(2 * angle)
        return (along - along.min()) / (along.max() - along.min())
    if pattern == "stripes":
        return torch.sigmoid(wave * sharp / count)
    if pattern == "checks":
        return torch.sigmoid(wave * other * sharp / count)
    if pattern == "dots":
        return torch.sigmoid((wave * other - 0.3 - 0.4 * c) * sharp / count)
    generator = torch.Generator().manual_seed(seed)
    if pattern == "clouds":
        return _smooth(generator, (3 + int(4 * b), 3 + int(4 * c)), side) * 0.6 + _smooth(generator, (12, 12), side) * 0.4
    if pattern == "noise":
        return torch.rand(side, side, generator=generator)
    if pattern == "blades":
        return _smooth(generator, (side // 8, side // 2), side)
    if pattern == "waves":
        return _smooth(generator, (side // 4, 4 + int(6 * b)), side)
    if pattern == "stars":
        return (torch.rand(side, side, generator=generator) > 0.985).float()
    if pattern == "bricks":
        rows = 6 + int(6 * b)
        row = torch.floor(y * rows)
        mortar = ((y * rows) % 1 < 0.14) | ((x * rows / 2 + (row % 2) / 2 + c) % 1 < 0.07)
        return mortar.float() * 0.9 + 0.1 * torch.rand(side, side, generator=generator)
    if pattern == "planks":
        return (_smooth(generator, (side // 4, 3), side) * 0.7 + ((y * (3 + int(4 * b)) + c) % 1 < 0.05) * 0.6).clamp(0, 1)
    raise ValueError(f"no pattern {pattern!r}")


def _smooth(generator: torch.Generator, grid: tuple[int, int], side: int) -> torch.Tensor:
    """Smooth noise from a coarse grid, spread over 0 to 1."""
    coarse = torch.rand(1, 1, *grid, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)[0, 0]


def restyle(sprites: torch.Tensor, placed: list[Placed]) -> torch.Tensor:
    """Random changes of the style of sprites [M, 4, 72, 72], which prepare the model for unseen styles."""
    generator = torch.Generator().manual_seed(placed[0].seed)
    count = len(placed)
    rgb, alpha = sprites[:, :3].clone(), sprites[:, 3:].clone()

    def uniform(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)

    def picked(share: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) < share

    cartoon = picked(0.15)  # flat colours, lines inside and around: all three
    flat = picked(0.2) | cartoon
    if flat.any():
        rgb[flat] = _flatten(rgb[flat], generator)
    inner = picked(0.2) | cartoon
    if inner.any():
        rgb[inner] = _ink(rgb[inner])
    contrast, light, saturation, tint = uniform(0.75, 1.25), uniform(-0.1, 0.1), uniform(0.5, 1.35), uniform(0.85, 1.15, 3)
    strong = picked(0.08)
    saturation[strong] = 0.0
    other_hue = picked(0.06)
    if other_hue.any():
        rgb[other_hue] = rgb[other_hue][:, torch.randperm(3, generator=generator)]
    for index in torch.nonzero(strong | other_hue).flatten().tolist():
        placed[index].colour_kept = False
    grey = rgb.mean(1, keepdim=True)
    rgb = ((grey + (rgb - grey) * saturation) * tint - 0.5) * contrast + 0.5 + light
    filled = picked(0.02)
    rgb[filled] = uniform(0, 0.9, 3)[filled]
    for index in torch.nonzero(filled).flatten().tolist():
        placed[index].colour_kept = False
    outlined = picked(0.4) | cartoon
    if outlined.any():
        rgb[outlined], alpha[outlined] = _outline(rgb[outlined], alpha[outlined], generator)
    return torch.cat([rgb.clamp(0, 1), alpha], 1)


def _flatten(rgb: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Few, flat colours."""
    levels = torch.randint(2, 6, (len(rgb), 1, 1, 1), generator=generator)
    return (F.avg_pool2d(rgb, 3, 1, 1) * levels).round() / levels


def _ink(rgb: torch.Tensor) -> torch.Tensor:
    """Black lines where colours change inside a drawing."""
    edge = (F.max_pool2d(rgb, 3, 1, 1) + F.max_pool2d(-rgb, 3, 1, 1)).amax(1, keepdim=True)
    return rgb * (1 - ((edge - 0.25) * 4).clamp(0, 1))


def _outline(rgb: torch.Tensor, alpha: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A line around a drawing: mostly black, sometimes white."""
    width = int(torch.randint(1, 4, (1,), generator=generator))
    wide = F.max_pool2d(alpha, 2 * width + 1, 1, width)
    ink = (torch.rand(len(rgb), 1, 1, 1, generator=generator) < 0.15).float()
    return rgb * alpha + ink * (1 - alpha), wide


def weather(canvas: torch.Tensor, seed: int) -> torch.Tensor:
    """Changes of the whole picture [N, 3, H, W]: light, noise, blur."""
    generator = torch.Generator().manual_seed(seed)
    count = len(canvas)
    canvas = canvas * (0.8 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator))
    noisy = torch.nonzero(torch.rand(count, generator=generator) < 0.15).flatten()
    canvas[noisy] += torch.randn(canvas[noisy].shape, generator=generator) * 0.05
    blurred = torch.nonzero(torch.rand(count, generator=generator) < 0.15).flatten()
    canvas[blurred] = F.avg_pool2d(canvas[blurred], 3, 1, 1, count_include_pad=False)
    return canvas
