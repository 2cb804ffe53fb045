"""A small CLIP with random weights and random images, the same on every machine: NumPy alone makes them from a seed.

tools/golden/embeddings.py computes with them by open_clip, and test_openai.py asks the server for the same.
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

SIDE = 64
"""Of the images that the model was trained on, in pixels."""
PATCH, LAYERS, WIDTH, EMBEDDING = 16, 2, 64, 32
CONTEXT, VOCABULARY = 77, 49408

CONFIG = {
    "embed_dim": EMBEDDING,
    "vision_cfg": {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "patch_size": PATCH},
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": WIDTH,
        "heads": 1,
        "layers": LAYERS,
    },
}

TEXTS = [
    "a photo of a tiger.",
    "a tiger",
    "Two strawberries &amp; a lemon, on a green table",
    "Grüner Tee, 3 Tassen!",
    "very " * 100 + "long",
    "a photo of a lemon.",
]

SIZES = [(SIDE, SIDE), (200, 120), (90, 333), (40, 31)]
"""Width and height of the images: the model's own, larger ones, and one that has to grow."""


def blocks(tower: str, width: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the transformer blocks of a tower."""
    shapes = {}
    for layer in range(LAYERS):
        block = f"{tower}transformer.resblocks.{layer}"
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            f"{block}.attn.out_proj.weight": (width, width),
            f"{block}.attn.out_proj.bias": (width,),
            f"{block}.mlp.c_fc.weight": (4 * width, width),
            f"{block}.mlp.c_fc.bias": (4 * width,),
            f"{block}.mlp.c_proj.weight": (width, 4 * width),
            f"{block}.mlp.c_proj.bias": (width,),
        }
    return shapes


def shapes() -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors, as open_clip has them."""
    cells = (SIDE // PATCH) ** 2
    vectors = {name: (WIDTH,) for norm in ("visual.ln_pre", "visual.ln_post", "ln_final") for name in both(norm)}
    return {
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (1 + cells, WIDTH),
        "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "visual.proj": (WIDTH, EMBEDDING),
        "token_embedding.weight": (VOCABULARY, WIDTH),
        "positional_embedding": (CONTEXT, WIDTH),
        "text_projection": (WIDTH, EMBEDDING),
        **vectors,
        **blocks("visual.", WIDTH),
        **blocks("", WIDTH),
    }


def both(norm: str) -> tuple[str, str]:
    return f"{norm}.weight", f"{norm}.bias"


def tensor(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values at which no part of the model is without effect."""
    values = random.standard_normal(shape)
    if len(shape) == 1:
        values = 0.2 * values + (1.0 if name.endswith("weight") else 0.0)
    elif name.endswith(("positional_embedding", "token_embedding.weight")):
        values *= 0.5
    elif name.endswith(("proj", "text_projection")):  # inputs x outputs
        values *= shape[0] ** -0.5
    else:
        values *= 1.5 * np.prod(shape[1:]) ** -0.5
    return values.astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    """All tensors of the model."""
    random = np.random.default_rng(1)
    tensors = {name: tensor(random, name, shape) for name, shape in sorted(shapes().items())}
    return tensors | {"logit_scale": np.array(np.log(20.0), np.float32)}


def write(folder: Path) -> Path:
    """Writes the model in open_clip's form. Returns the path of its weights."""
    path = folder / "random-clip.safetensors"
    save_file(weights(), path)
    (folder / "random-clip.json").write_text(json.dumps({"model_cfg": CONFIG}))
    return path


def images() -> list[bytes]:
    """PNGs of coloured waves under noise."""
    random = np.random.default_rng(2)
    files = []
    for width, height in SIZES:
        across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
        waves = [np.sin(across * (1 + channel) + down * (channel - 1)) for channel in range(3)]
        pixels = 127 + 90 * np.stack(waves, axis=-1) + 20 * random.standard_normal((height, width, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files
