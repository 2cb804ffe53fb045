"""Label maps as pictures: the scene, what is said about it, and a legend.

    python pictures.py --weights ../../models/demo/model.safetensors --short 384 --out map.png \\
        --classes "tiger;lemon;green background" scene.png ...
"""

from __future__ import annotations

import argparse
import colorsys
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from PIL import Image, ImageDraw

import dense
import evaluate
import model as network

LEGEND = 20  # pixels of a legend line


def shades(count: int) -> np.ndarray:
    """Distinct colours, [count, 3], 0 to 255; the first, usually the background's, is grey."""
    hues = [(index * 0.381966) % 1 for index in range(count - 1)]
    vivid = [[round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, 0.95)] for hue in hues]
    return np.array([[120, 120, 120], *vivid], np.uint8)


@torch.inference_mode()
def labelled(model: CLIP, scene: Image.Image, classes: list[str], short: int, denoise: bool) -> np.ndarray:
    """The class of every pixel, [H, W]. A class may be several phrases, separated by bars."""
    phrases = [(phrase, index) for index, name in enumerate(classes) for phrase in name.split("|")]
    fed = dense.fitted(scene, short, network.position_pixels(model))
    size = (scene.height, scene.width)
    texts = dense.classifier(model, [phrase for phrase, _ in phrases])
    groups = torch.tensor([index for _, index in phrases])
    found = dense.dense(model, fed, "maskclip")
    return dense.labels(found, texts, groups, size, denoise, False).numpy()


def panel(scene: Image.Image, labels: np.ndarray, classes: list[str]) -> Image.Image:
    """A picture of the scene beside its label map, above a legend of the classes that occur."""
    colours = shades(len(classes))
    occurring = [index for index in range(len(classes)) if (labels == index).any()]
    out = Image.new("RGB", (2 * scene.width, scene.height + LEGEND * (1 + len(occurring) // 3)), "white")
    out.paste(scene, (0, 0))
    blend = 0.35 * np.asarray(scene, np.float32) + 0.65 * colours[labels]
    out.paste(Image.fromarray(blend.astype(np.uint8)), (scene.width, 0))
    draw = ImageDraw.Draw(out)
    for place, index in enumerate(occurring):
        x, y = (place % 3) * 2 * scene.width // 3, scene.height + place // 3 * LEGEND
        draw.rectangle((x + 4, y + 4, x + 16, y + 16), fill=tuple(colours[index].tolist()))
        draw.text((x + 22, y + 4), classes[index].split("|")[0], fill="black")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True, help="the sidecar config.json")
    parser.add_argument("--short", type=int, required=True)
    parser.add_argument("--classes", required=True, help="classes between semicolons, a class's phrases between bars")
    parser.add_argument("--denoise", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("scenes", type=Path, nargs="+")
    arguments = parser.parse_args()
    model = evaluate.restored(arguments.weights, network.Config.read(arguments.config))
    classes = [name.strip() for name in arguments.classes.split(";")]
    panels = []
    for path in arguments.scenes:
        scene = Image.open(path).convert("RGB")
        panels.append(panel(scene, labelled(model, scene, classes, arguments.short, arguments.denoise), classes))
    out = Image.new("RGB", (max(p.width for p in panels), sum(p.height for p in panels)), "white")
    for index, made in enumerate(panels):
        out.paste(made, (0, sum(p.height for p in panels[:index])))
    out.save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
