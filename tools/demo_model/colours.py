"""Names of colours: for a caption's background, and for the dominant colour of a drawing."""

from __future__ import annotations

import numpy as np

# Anchor values (RGB, 0 to 1) of the colours in captions.
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.97, 0.55, 0.12),
    "yellow": (0.98, 0.87, 0.2),
    "green": (0.25, 0.68, 0.27),
    "blue": (0.16, 0.38, 0.85),
    "purple": (0.52, 0.25, 0.72),
    "pink": (0.97, 0.6, 0.74),
    "brown": (0.48, 0.3, 0.16),
    "black": (0.07, 0.07, 0.08),
    "white": (0.96, 0.96, 0.96),
    "grey": (0.55, 0.55, 0.56),
    "light blue": (0.6, 0.82, 0.96),
    "dark green": (0.07, 0.33, 0.16),
    "dark blue": (0.07, 0.12, 0.38),
    "turquoise": (0.15, 0.75, 0.72),
    "beige": (0.9, 0.83, 0.68),
}

# Colours that captions give to drawings, by the index that `classify` returns.
DRAWING_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")


def classify(rgb: np.ndarray) -> np.ndarray:
    """Index into DRAWING_COLOURS of every pixel; rgb is [..., 3], 0 to 1."""
    high, low = rgb.max(-1), rgb.min(-1)
    spread = high - low
    safe = np.maximum(spread, 1e-6)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    hue = np.where(
        high == red,
        ((green - blue) / safe) % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    ) * 60
    name = np.searchsorted([18, 41, 68, 165, 255, 292, 340], hue, side="right")  # red .. pink, then red again
    index = np.array([DRAWING_COLOURS.index(c) for c in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "red")])[name]
    saturation = spread / np.maximum(high, 1e-6)
    index = np.where((index <= 1) & (high < 0.62), DRAWING_COLOURS.index("brown"), index)
    index = np.where((index == 0) & (high > 0.8) & (saturation < 0.55), DRAWING_COLOURS.index("pink"), index)
    dull = saturation < 0.18
    index = np.where(dull, DRAWING_COLOURS.index("grey"), index)
    index = np.where(dull & (high > 0.82), DRAWING_COLOURS.index("white"), index)
    return np.where(high < 0.25, DRAWING_COLOURS.index("black"), index)


def dominant(rgb: np.ndarray, alpha: np.ndarray, share: float = 0.5) -> str | None:
    """The colour that covers at least `share` of a drawing; rgb [H, W, 3], alpha [H, W]."""
    counts = np.bincount(classify(rgb[alpha > 0.5]), minlength=len(DRAWING_COLOURS))
    best = int(counts.argmax())
    return DRAWING_COLOURS[best] if counts[best] >= share * max(1, counts.sum()) else None
