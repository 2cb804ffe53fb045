"""Weights of CLIP ViT-B/16 at full size, for the times that a large model takes. Its labels mean nothing."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path

PATCH, GRID, TOKENS, WORDS, EMBEDDING, LAYERS = 16, 14, 77, 49408, 512, 12
VISUAL_WIDTH, TEXT_WIDTH = 768, 512
CONFIGURATION = {
    "embed_dim": EMBEDDING,
    "quick_gelu": True,
    "vision_cfg": {"image_size": GRID * PATCH, "layers": LAYERS, "width": VISUAL_WIDTH, "patch_size": PATCH},
    "text_cfg": {"context_length": TOKENS, "vocab_size": WORDS, "width": TEXT_WIDTH, "heads": TEXT_WIDTH // 64, "layers": LAYERS},
}
"""open_clip's ViT-B-16-quickgelu.json."""
BLOCK = 1 << 16
DEVIATION = 0.02
"""The standard deviation of the weights, that of CLIP's initialization for most layers."""


def write_vit_b_16(path: Path) -> None:
    """Writes a safetensors file in float16 with OpenAI's names (https://github.com/openai/CLIP, model.py), and open_clip's
    configuration beside it."""
    path.with_suffix(".json").write_text(json.dumps({"model_cfg": CONFIGURATION}))
    tensors = dict(shapes())
    noise = random.Random(0)
    numbers = b"".join(struct.pack("<e", noise.gauss(0, DEVIATION)) for _ in range(BLOCK))
    header: dict[str, object] = {}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            file.write(values(name, math.prod(shape), numbers))


def shapes() -> Iterator[tuple[str, list[int]]]:
    """Every tensor's name and shape."""
    width = VISUAL_WIDTH
    yield "visual.class_embedding", [width]
    yield "visual.conv1.weight", [width, 3, PATCH, PATCH]
    yield "visual.positional_embedding", [GRID * GRID + 1, width]
    yield "visual.proj", [width, EMBEDDING]
    yield from normalization("visual.ln_pre", width)
    yield from normalization("visual.ln_post", width)
    yield from transformer("visual.transformer", width)
    yield "token_embedding.weight", [WORDS, TEXT_WIDTH]
    yield "positional_embedding", [TOKENS, TEXT_WIDTH]
    yield "text_projection", [TEXT_WIDTH, EMBEDDING]
    yield "logit_scale", []
    yield from normalization("ln_final", TEXT_WIDTH)
    yield from transformer("transformer", TEXT_WIDTH)


def transformer(prefix: str, width: int) -> Iterator[tuple[str, list[int]]]:
    for layer in range(LAYERS):
        block = f"{prefix}.resblocks.{layer}"
        yield f"{block}.attn.in_proj_weight", [3 * width, width]
        yield f"{block}.attn.in_proj_bias", [3 * width]
        for name, rows, columns in (("attn.out_proj", width, width), ("mlp.c_fc", 4 * width, width), ("mlp.c_proj", width, 4 * width)):
            yield f"{block}.{name}.weight", [rows, columns]
            yield f"{block}.{name}.bias", [rows]
        yield from normalization(f"{block}.ln_1", width)
        yield from normalization(f"{block}.ln_2", width)


def normalization(name: str, width: int) -> Iterator[tuple[str, list[int]]]:
    yield f"{name}.weight", [width]
    yield f"{name}.bias", [width]


def values(name: str, number: int, numbers: bytes) -> bytes:
    """The tensor's values: ones for a normalization's factors, ln(100) for the temperature, else `numbers` again and again."""
    if name == "logit_scale":
        return struct.pack("<e", 4.605)
    if ".ln_" in f".{name}" and name.endswith(".weight"):
        return struct.pack("<e", 1.0) * number
    return (numbers * (number * 2 // len(numbers) + 1))[: number * 2]
