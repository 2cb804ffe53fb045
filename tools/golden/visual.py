"""Writes the goldens of the visual towers and the dense scores, by open_clip 3.3. Run it and commit what it writes.

For each model of MODELS it writes into tests/golden:
- visual_<model>.safetensors: a tiny random visual tower of open_clip's under its own tensor names, in 16 bits;
- visual_<model>.json: its configuration, in open_clip's form;
- visual_<model>_arrays.safetensors: text embeddings and, per image size, the image, CLIP's own feature, and for every
  attention the dense features and what tests/golden/visual.rs compares.

`resnet` is written a second time as `resnet_fine`: the same weights, with a stride of 1 in the last stage.

CLIP's parts are open_clip's modules. MaskCLIP's parts are written from the paper, here and in dense_reference.py, with
the N x N matrices that the server never builds. Everything is in 64 bits.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from dense_reference import at_size, cell_pixels, dense_features, keep_size_of_last_stage
from safetensors.torch import save_file
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"

TEXT = {"context_length": 77, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
MODELS = {
    "vit_quick_gelu": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "patch_size": 16},
        "text_cfg": TEXT,
    },
    "vit_gelu": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 96, "head_width": 32, "patch_size": 16},
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 96, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
}

# Height x width: the training grid, another square grid, a wide one, a tall one.
SIZES = {16: [(64, 64), (96, 96), (48, 112), (128, 64)], 32: [(96, 96), (160, 160), (64, 192), (224, 96)]}

# Of the second ResNet, whose training grid is that of 48 pixels.
FINE_SIZES = [(48, 48), (80, 80), (32, 96), (112, 48)]

# The same owners and thresholds as in tests/golden/visual.rs.
CLASS_OF_QUERY = [0, 0, 1, 2, 3, 4, None]  # None: background
# So high that some classes are certain somewhere, and so low that some cells are not.
TEMPERATURE = {"vit_quick_gelu": 20.0, "vit_gelu": 20.0, "resnet": 100.0, "resnet_fine": 100.0}
DENOISING_THRESHOLD = 0.5
SMOOTHING_THRESHOLD = 0.7
DROPPED_COSINE = -100.0


def randomised(config: dict, seed: int) -> nn.Module:
    """A visual tower in 64 bits whose weights fit 16 bits; none has a value that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    visual = open_clip.CLIP(**config).visual.eval()

    def normal(tensor: Tensor, mean: float, std: float) -> None:
        tensor.copy_((mean + std * torch.randn(tensor.shape, generator=generator)).half())

    with torch.no_grad():
        for name, tensor in visual.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(12345)
            elif name.endswith("running_var"):
                tensor.copy_((0.5 + torch.rand(tensor.shape, generator=generator)).half())
            elif tensor.ndim == 1 and name.endswith("weight"):  # the scales of normalisations
                normal(tensor, 1.0, 0.2)
            elif tensor.ndim == 1:
                normal(tensor, 0.0, 0.2)
            elif name.endswith("positional_embedding"):
                normal(tensor, 0.0, 0.5)
            elif name == "proj":  # the only matrix that is stored as inputs x outputs
                normal(tensor, 0.0, tensor.shape[0] ** -0.5)
            elif tensor.ndim == 4:
                normal(tensor, 0.0, tensor[0].numel() ** -0.5)
            elif name.endswith("attnpool.c_proj.weight"):  # keeps a ResNet's features near 1: tolerances are absolute
                normal(tensor, 0.0, 0.1 * tensor.shape[1] ** -0.5)
            else:  # makes the attention prefer some positions
                normal(tensor, 0.0, 1.5 * tensor.shape[1] ** -0.5)
    return visual.double()


def denoised(logits: Tensor, temperature: float) -> tuple[Tensor, list[int]]:
    """Logits, queries x cells, after prompt denoising of classes with several queries, and the dropped classes."""
    best = logits.softmax(0).amax(1)
    queries_of = {
        owner: [query for query, other in enumerate(CLASS_OF_QUERY) if other == owner]
        for owner in CLASS_OF_QUERY
        if owner is not None
    }
    absent = [owner for owner, queries in queries_of.items() if best[queries].max() < DENOISING_THRESHOLD]
    if len(absent) == len(queries_of):
        return logits, absent
    logits = logits.clone()
    for owner in absent:
        logits[queries_of[owner]] = temperature * DROPPED_COSINE
    return logits, absent


def smoothed_by_formula(logits: Tensor, keys: Tensor) -> Tensor:
    cosines = F.cosine_similarity(keys[:, None], keys[None], dim=-1)  # N x N
    return torch.einsum("ij,cj->ci", cosines, logits.softmax(0))


def smoothed_as_the_reference(logits: Tensor, keys: Tensor) -> Tensor:
    probabilities = logits.softmax(0)
    keys = keys / keys.norm(dim=0, keepdim=True)  # over positions, per channel
    smoothed = probabilities @ (keys @ keys.T)
    return torch.where(probabilities.amax(0) < SMOOTHING_THRESHOLD, smoothed, probabilities)


def smoothed_by_likeness(logits: Tensor, keys: Tensor) -> Tensor:
    cosines = F.cosine_similarity(keys[:, None], keys[None], dim=-1)  # N x N
    return torch.einsum("ij,cj->ci", (40 * cosines).softmax(1), logits)


def text_embeddings(cells: Tensor, generator: torch.Generator) -> Tensor:
    """Unit rows, one per query: some near cells of an image, those of two classes near none."""
    cells = F.normalize(cells, dim=-1)
    mean = F.normalize(cells.mean(0), dim=0)
    chosen = cells[torch.linspace(0, len(cells) - 1, len(CLASS_OF_QUERY)).long()]
    noise = F.normalize(torch.randn(chosen.shape, generator=generator, dtype=chosen.dtype), dim=-1)
    close = torch.tensor([owner not in (3, 4) for owner in CLASS_OF_QUERY])
    text = torch.where(close[:, None], F.normalize(chosen - cells.mean(0), dim=-1) + 0.3 * noise, noise)
    text -= (text @ mean)[:, None] * mean  # the cells' common part tells no classes apart
    return F.normalize(text, dim=-1).float()


def dense_arrays(
    name: str, visual: nn.Module, sizes: list[tuple[int, int]], temperature: float, seed: int
) -> dict[str, Tensor]:
    """The arrays that tests/golden compares for a tower in 64 bits.

    These are the text embeddings and, per size (height x width in pixels), the image and all that is computed from it.
    """
    generator = torch.Generator().manual_seed(seed)
    arrays = {"temperature": torch.tensor(temperature)}
    text = None
    dropped_counts = set()
    unsure_cells = 0
    for height, width in sizes:
        size = f"{height}x{width}"
        # Blocks of colour under noise: the cells differ, as a photograph's do.
        blocks = torch.randn(1, 3, height // 16, width // 16, generator=generator)
        image = F.interpolate(blocks, (height, width)) + 0.3 * torch.randn(1, 3, height, width, generator=generator)
        arrays[f"{size}.image"] = image[0]
        image = image.double()
        tower = at_size(visual, height, width)
        pooled = tower(image)[0]
        features, keys = dense_features(tower, image)
        if text is None:
            text = text_embeddings(features["maskclip"], generator)
            arrays["text"] = text
        arrays[f"{size}.image_feature"] = pooled
        arrays[f"{size}.image_probability"] = (temperature * text.double() @ F.normalize(pooled, dim=0)).softmax(0)
        for attention, cells in features.items():
            cosines = text.double() @ F.normalize(cells, dim=-1).T
            logits = temperature * cosines
            without, absent = denoised(logits, temperature)
            dropped_counts.add(len(absent))
            arrays |= {
                f"{size}.{attention}.cells": cells,
                f"{size}.{attention}.similarity": cosines.amax(1),
                f"{size}.{attention}.logits": logits,
                f"{size}.{attention}.denoised": without,
                f"{size}.{attention}.formula": smoothed_by_formula(logits, keys["formula"]),
                f"{size}.{attention}.reference": smoothed_as_the_reference(logits, keys["reference"]),
                f"{size}.{attention}.likeness": smoothed_by_likeness(logits, keys["formula"]),
                f"{size}.{attention}.denoised_likeness": smoothed_by_likeness(without, keys["formula"]),
                f"{size}.{attention}.denoised_formula": smoothed_by_formula(without, keys["formula"]),
                f"{size}.{attention}.denoised_reference": smoothed_as_the_reference(without, keys["reference"]),
            }
            unsure = without.softmax(0).amax(0) < SMOOTHING_THRESHOLD
            unsure_cells += int(unsure.sum())
            print(f"{name} {size} {attention}: dropped {absent}, {int(unsure.sum())} of {len(cells)} cells smoothed")
    # Without these checks the arrays could agree with code that drops or smooths nothing.
    assert dropped_counts - {0, 5}, f"{name}: prompt denoising never drops some classes and keeps others"
    assert unsure_cells, f"{name}: the reference's smoothing never changes a cell"
    return {key: value.detach().float().contiguous() for key, value in arrays.items()}


def write(name: str, config: dict, seed: int) -> None:
    visual = randomised(config, seed)
    arrays = dense_arrays(name, visual, SIZES[cell_pixels(visual)], TEMPERATURE[name], seed + 1)
    save_file(arrays, GOLDEN / f"visual_{name}_arrays.safetensors")
    stored = {
        f"visual.{key}": value if value.dtype == torch.int64 else value.half()
        for key, value in visual.state_dict().items()
    }
    save_file(stored, GOLDEN / f"visual_{name}.safetensors")
    (GOLDEN / f"visual_{name}.json").write_text(json.dumps(config, indent=4) + "\n")
    if name == "resnet":
        keep_size_of_last_stage(visual)
        arrays = dense_arrays("resnet_fine", visual, FINE_SIZES, TEMPERATURE["resnet_fine"], seed + 1)
        save_file(arrays, GOLDEN / "visual_resnet_fine_arrays.safetensors")


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for index, (name, config) in enumerate(MODELS.items()):
        with torch.no_grad():
            write(name, config, seed=100 * index)
