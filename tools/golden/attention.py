"""Writes the goldens of the attentions that came after MaskCLIP, on tiny random ViTs. Run it and commit what it writes.

For each tower of MODELS it writes into tests/golden:
- attention_<model>.safetensors: the tower under open_clip's names, in 16 bits;
- attention_<model>.json: its configuration;
- attention_<model>_arrays.safetensors: text embeddings and, per image size, the image, the dense features of every
  attention that reads no text, gem's image feature, and the logits of every attention; also the logits of resclip and
  pearl-newton-schulz with constants other than the defaults.

The formulas are attention_reference.py's, in 64 bits.
"""

from __future__ import annotations

import json
from dataclasses import replace

import attention_reference as reference
import torch
import torch.nn.functional as F
from dense_reference import at_size
from safetensors.torch import save_file
from torch import Tensor
from visual import GOLDEN, TEXT, randomised

# The same as in tests/golden/attention.rs. Each differs from its default.
RESCLIP = reference.ResclipConstants(theta=0.5, lambda_r=0.6, tau_s=2.2, lambda_s=0.6)
ALPHA = 0.3

PATCH = 8
TEMPERATURE = 20.0  # the same as in tests/golden/attention.rs
QUERIES = 5


def config(layers: int) -> dict:
    vision = {"image_size": 64, "layers": layers, "width": 48, "head_width": 16, "patch_size": PATCH, "mlp_ratio": 1.0}
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}


# The two published depths and one other.
MODELS = {"vit_12": config(12), "vit_24": config(24), "vit_7": config(7)}

# Height x width: the training grid, another square grid, a wide one, a tall one.
SIZES = [(64, 64), (56, 56), (48, 80), (80, 40)]


def blocks_of_colour(height: int, width: int, generator: torch.Generator) -> Tensor:
    """An image, 3 x height x width, whose cells differ and form regions."""
    blocks = torch.randn(1, 3, height // 16 + 1, width // 16 + 1, generator=generator)
    blocks = F.interpolate(blocks, scale_factor=16)[0, :, :height, :width]
    return blocks + 0.3 * torch.randn(3, height, width, generator=generator)


def text_embeddings(cells: Tensor, generator: torch.Generator) -> Tensor:
    """Unit rows, each near some of the cells. The cells' common part is removed, because it tells no classes apart."""
    mean = F.normalize(cells.mean(0), dim=0)
    chosen = cells[torch.linspace(0, len(cells) - 1, QUERIES).long()] - cells.mean(0)
    noise = torch.randn(chosen.shape, generator=generator, dtype=chosen.dtype)
    text = F.normalize(chosen, dim=-1) + 0.1 * noise
    return F.normalize(text - (text @ mean)[:, None] * mean, dim=-1).float()


def write(name: str, config: dict, seed: int) -> None:
    visual = randomised(config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    arrays: dict[str, Tensor] = {}
    for height, width in SIZES:
        size = f"{height}x{width}"
        grid = (height // PATCH, width // PATCH)
        arrays[f"{size}.image"] = blocks_of_colour(height, width, generator)
        image = arrays[f"{size}.image"].double()
        tower = at_size(visual, height, width)
        states = reference.tokens_after_blocks(tower, image[None])
        # GEM's release resizes the positions with antialiasing, as timm does.
        gem_tower = at_size(visual, height, width, antialias=True)
        gem_states = reference.tokens_after_blocks(gem_tower, image[None])
        arrays[f"{size}.gem.image_feature"] = gem_tower(image[None])[0]
        if "text" not in arrays:
            arrays["text"] = text_embeddings(reference.features(tower, reference.naclip(tower, states, grid)), generator)

        def cosines_of(before: Tensor) -> Tensor:
            return arrays["text"].double() @ F.normalize(reference.features(tower, before), dim=-1).T

        for attention, cells_of in reference.WITHOUT_TEXT.items():
            if attention == "sc-clip" and height != width:
                continue
            before = cells_of(tower, states if attention != "gem" else gem_states, grid)
            cells = reference.features(tower, before)
            cosines = cosines_of(before)
            arrays[f"{size}.{attention}.cells"] = cells
            arrays[f"{size}.{attention}.logits"] = TEMPERATURE * cosines
            print(f"{name} {size} {attention}: features to {cells.abs().max():.2f}, labels {len(set(cosines.argmax(0).tolist()))}")
        passes = [
            reference.resclip(tower, states, grid, cosines_of, image, repaired) for repaired in (False, True)
        ]
        for attention, before in zip(("resclip", "resclip-repaired"), passes):
            arrays[f"{size}.{attention}.logits"] = TEMPERATURE * cosines_of(before)
        difference = (passes[0] - passes[1]).abs().max()
        print(f"{name} {size} resclip: repaired differs by {difference:.3f}, labels {cosines_of(passes[0]).argmax(0).unique().tolist()}")

        other = reference.pearl(tower, states, grid, turn=reference.newton_schulz, alpha=ALPHA)
        arrays[f"{size}.pearl-newton-schulz.other.logits"] = TEMPERATURE * cosines_of(other)

        def resclip(constants: reference.ResclipConstants) -> Tensor:
            return TEMPERATURE * cosines_of(reference.resclip(tower, states, grid, cosines_of, image, False, constants))

        arrays[f"{size}.resclip.other.logits"] = resclip(RESCLIP)
        for constant in ("theta", "lambda_r", "tau_s", "lambda_s"):
            default = getattr(reference.ResclipConstants(), constant)
            difference = (resclip(replace(RESCLIP, **{constant: default})) - resclip(RESCLIP)).abs().max()
            print(f"{name} {size} resclip: another {constant} moves logits by {difference:.4f}")

    stored = {f"visual.{key}": value.half() for key, value in visual.state_dict().items()}
    save_file(stored, GOLDEN / f"attention_{name}.safetensors")
    (GOLDEN / f"attention_{name}.json").write_text(json.dumps(config, indent=4) + "\n")
    arrays = {key: value.detach().float().contiguous() for key, value in arrays.items()}
    save_file(arrays, GOLDEN / f"attention_{name}_arrays.safetensors")


if __name__ == "__main__":
    for index, (name, settings) in enumerate(MODELS.items()):
        with torch.no_grad():
            write(name, settings, seed=1000 + 100 * index)
