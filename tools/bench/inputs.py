"""Makes what every side gets: weights, an image, pixels, scores and prompts, from fixed seeds.

They go into a folder that is named after this file's content. So inputs are made once and never mixed with those of
another version. stages.py decides what to do with them.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy
import open_clip
import torch
import torch.nn.functional as F
from open_clip.push_to_hf_hub import save_config_for_hf
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "golden"))
from dense_reference import at_size  # noqa: E402

MODEL = "ViT-B-16-quickgelu"
PATCH = 16
SIDE = 448
"""The side of the forward pass's input, and the short side everywhere else, in pixels."""
NAMES = REPOSITORY / "config" / "vocabularies" / "coco-stuff-171.txt"
TEMPLATES = REPOSITORY / "config" / "prompts" / "maskclip-85.txt"
SAMPLED_PROMPTS = 256
COMPARED_NAMES = (0, 100)
"""Lines of NAMES whose embeddings are compared before anything is timed."""
LABEL_MAP_SIZE = (2048, 1536)
"""Width and height in pixels."""
JPEG_SIZE = (1250, 800)
"""A megapixel."""


@dataclass(frozen=True)
class Inputs:
    """The files that hold the inputs."""

    folder: Path

    @property
    def weights(self) -> Path:
        """The weights as open_clip saves them, with its configuration beside them."""
        return self.folder / "open_clip_model.safetensors"

    @property
    def onnx(self) -> Path:
        """The ONNX model that computes MaskCLIP's dense features of `pixels` in float32."""
        return self.folder / "dense.onnx"

    @property
    def tensors(self) -> Path:
        """`pixels`, 3 x SIDE x SIDE; `scores`, classes x rows x columns; `tokens`, prompts x 77; their `lengths`."""
        return self.folder / "inputs.safetensors"

    @property
    def compared_names(self) -> Path:
        """The names of COMPARED_NAMES, one a line."""
        return self.folder / "compared_names.txt"

    @property
    def jpeg(self) -> Path:
        """A photograph of JPEG_SIZE pixels."""
        return self.folder / "photograph.jpg"


class DenseMaskClip(nn.Module):
    """MaskCLIP's dense features by open_clip's own modules.

    It maps normalised pixels, 1 x 3 x height x width, to 1 x tokens x embedding, the class token first. It does not
    compute the last block's queries and keys, because no output needs them.
    """

    def __init__(self, model: nn.Module, height: int = SIDE, width: int = SIDE) -> None:
        super().__init__()
        self.visual = at_size(model.visual, height, width)

    def forward(self, pixels: Tensor) -> Tensor:
        visual = self.visual
        *blocks, last = visual.transformer.resblocks
        tokens = visual._embeds(pixels)
        for block in blocks:
            tokens = block(tokens)
        width = tokens.shape[-1]
        weight, bias = (part[2 * width :] for part in (last.attn.in_proj_weight, last.attn.in_proj_bias))
        tokens = tokens + last.attn.out_proj(F.linear(last.ln_1(tokens), weight, bias))
        tokens = tokens + last.mlp(last.ln_2(tokens))
        return visual.ln_post(tokens) @ visual.proj


def forward_flop() -> float:
    """The floating-point operations that a pass on SIDE x SIDE pixels needs: two for each multiplication."""
    config = open_clip.get_model_config(MODEL)
    vision, embedding = config["vision_cfg"], config["embed_dim"]
    width, layers, tokens = vision["width"], vision["layers"], (SIDE // PATCH) ** 2 + 1
    embed = (tokens - 1) * 3 * PATCH**2 * width
    mlp = 8 * tokens * width**2
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    last = 2 * tokens * width**2 + mlp  # only value and projection
    return 2.0 * (embed + (layers - 1) * (attention + mlp) + last + tokens * width * embedding)


def load_model(inputs: Inputs) -> nn.Module:
    """The model with the weights of the files."""
    model = open_clip.create_model(MODEL).eval().requires_grad_(False)
    model.load_state_dict(load_file(inputs.weights))
    return model


def prepare(folder: Path) -> Inputs:
    """Makes the files that are not there yet, and returns all."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    inputs = Inputs(folder / f"inputs-{digest}")
    if inputs.onnx.exists():  # it is written last
        return inputs
    inputs.folder.mkdir(parents=True, exist_ok=True)
    photograph().save(inputs.jpeg, quality=90)
    names = NAMES.read_text().splitlines()
    inputs.compared_names.write_text("".join(f"{names[index]}\n" for index in COMPARED_NAMES))
    tokens, lengths = sampled_prompts(names)
    pixels = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    save_file({"pixels": pixels, "scores": scores(len(names)), "tokens": tokens, "lengths": lengths}, inputs.tensors)
    with torch.no_grad():
        model = random_model()
        save_file(model.state_dict(), inputs.weights)
        save_config_for_hf(model, inputs.folder / "open_clip_config.json", model_config=open_clip.get_model_config(MODEL))
        export(DenseMaskClip(model).eval(), pixels[None], inputs.onnx)
    return inputs


def random_model() -> nn.Module:
    """A model with random weights, as in tools/parity: open_clip's own give all texts nearly one embedding."""
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL).eval()
    model.token_embedding.weight.normal_(0.0, 0.3)
    return model


def export(module: nn.Module, pixels: Tensor, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    torch.onnx.export(
        module, (pixels,), unfinished, input_names=["pixels"], output_names=["features"], dynamo=True, external_data=False
    )
    unfinished.rename(path)


def photograph() -> Image.Image:
    """scikit-learn's two photographs, 640 x 427 each, side by side and mirrored below.

    An enlarged photograph would lack detail at the scale of pixels.
    """
    row = numpy.concatenate([load_sample_image("china.jpg"), load_sample_image("flower.jpg")], axis=1)
    both = numpy.concatenate([row, row[::-1, ::-1]], axis=0)
    width, height = JPEG_SIZE
    return Image.fromarray(numpy.ascontiguousarray(both[:height, :width]))


def sampled_prompts(names: list[str]) -> tuple[Tensor, Tensor]:
    """A sample of the prompts, taken evenly by length, so that its lengths are spread as in the whole list."""
    templates = TEMPLATES.read_text().splitlines()
    prompts = [template.replace("{}", name, 1) for name in names for template in templates]
    tokens = open_clip.tokenize(prompts)
    lengths = tokens.argmax(1) + 1  # the end token has the largest id
    order = lengths.argsort(stable=True)
    ranks = (torch.arange(SAMPLED_PROMPTS) + 0.5) * len(prompts) / SAMPLED_PROMPTS
    chosen = order[ranks.long()]
    return tokens[chosen], lengths[chosen]


def scores(classes: int) -> Tensor:
    """100 x cosines spread as CLIP's are: every class has an offset and a smooth field of its own, and cells differ a little.
    The LEADTEXT"""
    generator = torch.Generator().manual_seed(1)
    width, height = LABEL_MAP_SIZE
    columns, rows = (max(1, round(side * SIDE / min(LABEL_MAP_SIZE) / PATCH)) for side in (width, height))
    offsets = 1.5 * torch.randn(classes, 1, 1, generator=generator)
    coarse = torch.randn(1, classes, 6, 8, generator=generator)
    fields = 2.0 * F.interpolate(coarse, (rows, columns), mode="bicubic", align_corners=False)[0]
    return 20 + offsets + fields + 0.5 * torch.randn(classes, rows, columns, generator=generator)
