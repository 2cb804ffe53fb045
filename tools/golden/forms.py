"""Writes whole tiny CLIP models in every form, and what their authors' code computes. Run it and commit what it writes.

It writes into tests/golden/forms, for a ViT and a ResNet:
- <model>/openai.pt.gz: a TorchScript archive in 16 bits, as OpenAI publishes its models;
- <model>/open_clip.pt.gz: an open_clip training checkpoint in 32 bits, with state dict and `module.` prefix;
- <model>/open_clip.safetensors.gz and <model>/open_clip.json: what open_clip puts on model hubs, in 16 bits;
- <model>/hugging_face.safetensors.gz and <model>/config.json: what transformers saves (ViT only), in 16 bits;
- <model>/arrays.safetensors: an image, and image and text features: `open_clip` and `hugging_face` in 32 bits from the
  package of that name, `openai` from a run of the archive in 16 bits;
- <model>/dense.safetensors: dense features, scores, denoised and smoothed scores at several sizes, computed as in
  visual.py, in 64 bits.

All forms hold the same numbers, which are rounded to 16 bits first. The vocabulary is whole. Its rows are zero where no
prompt needs them, so that compression keeps the files small.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel
from visual import dense_arrays

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "forms"

# tests/golden/checkpoints.rs has the same.
PROMPTS = ["a photo of a tiger.", "a bad photo of the sky in the scene."]

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
MODELS = {
    "vit": {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "patch_size": None},
        "text_cfg": TEXT,
    },
}

# Height x width: the training grid, another square grid, a wide one, a tall one.
SIZES = {
    "vit": [(32, 32), (48, 48), (24, 56), (64, 32)],
    "resnet": [(64, 64), (96, 96), (64, 128), (96, 32)],
}
TEMPERATURE = {"vit": 20.0, "resnet": 100.0}

STEP = 2.0**-7
"""Weights are whole multiples of this: few different values compress to half the size."""


def randomised(config: dict, prompts: Tensor, seed: int) -> nn.Module:
    """A model whose weights fit 16 bits and none of which has a value that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    model = open_clip.CLIP(**config).eval()

    def normal(tensor: Tensor, mean: float, std: float) -> None:
        values = mean + std * torch.randn(tensor.shape, generator=generator)
        tensor.copy_((values / STEP).round() * STEP)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(12345)
            elif name == "logit_scale":
                tensor.fill_(4.5)
            elif name.endswith("running_var"):
                tensor.copy_((0.5 + torch.rand(tensor.shape, generator=generator)).div(STEP).round() * STEP)
            elif tensor.ndim == 1:
                normal(tensor, 1.0 if name.endswith("weight") else 0.0, 0.2)
            elif "embedding" in name:
                normal(tensor, 0.0, 0.5)
            elif name in ("text_projection", "visual.proj", "visual.attnpool.c_proj.weight"):
                normal(tensor, 0.0, 0.5 * TEXT["width"] ** -0.5)  # keeps features near 1: tolerances are absolute
            else:
                normal(tensor, 0.0, math.prod(tensor.shape[1:]) ** -0.5)
        unused = torch.ones(len(model.token_embedding.weight), dtype=torch.bool)
        unused[prompts.unique()] = False
        model.token_embedding.weight[unused] = 0.0
    return model


class Published(nn.Module):
    """Adds the tensors of sizes that OpenAI's archives have beside the model."""

    def __init__(self, model: nn.Module, side_pixels: int) -> None:
        super().__init__()
        for name, child in model.named_children():
            setattr(self, name, child)
        for name, parameter in model.named_parameters(recurse=False):
            setattr(self, name, parameter)
        self.register_buffer("attn_mask", model.attn_mask, persistent=False)
        self.register_buffer("input_resolution", torch.tensor(side_pixels))
        self.register_buffer("context_length", torch.tensor(model.context_length))
        self.register_buffer("vocab_size", torch.tensor(model.vocab_size))
        self.model = [model]  # a list hides it from the module's own parts

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.model[0].encode_text(tokens)


def traced(config: dict, state: dict[str, Tensor], image: Tensor, prompts: Tensor) -> torch.jit.ScriptModule:
    """The model as TorchScript, traced in the image's type."""
    model = open_clip.CLIP(**config).eval()
    model.load_state_dict(state)
    published = Published(model.to(image.dtype), config["vision_cfg"]["image_size"])
    inputs = {"encode_image": (image[None],), "encode_text": (prompts,)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of TorchScript's end and of the tracer's constants, both expected
        return torch.jit.trace_module(published, inputs, check_trace=False)


def torchscript(module: torch.jit.ScriptModule) -> bytes:
    """The module's archive, in 16 bits."""
    file = io.BytesIO()
    torch.jit.save(module.half(), file)
    return file.getvalue()


def training_checkpoint(state: dict[str, Tensor]) -> bytes:
    """The file that open_clip's training saves, with its optimiser."""
    parameter = nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([parameter], lr=5e-4)
    parameter.grad = torch.ones(3)
    optimiser.step()
    distributed = type(state)((f"module.{name}", tensor) for name, tensor in state.items())
    # Some tensors do not lie row by row, or do not begin at the start of their file.
    projection = distributed["module.text_projection"]
    backing = torch.cat([torch.zeros(1, projection.shape[0]), projection.T])
    distributed["module.text_projection"] = backing[1:].T
    # A state dict may hold parameters as well as tensors.
    distributed["module.logit_scale"] = nn.Parameter(distributed["module.logit_scale"])
    checkpoint = {"epoch": 32, "name": "tiny", "state_dict": distributed, "optimizer": optimiser.state_dict()}
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def transformers_model(config: dict, state: dict[str, Tensor]) -> CLIPModel:
    """The same weights in Hugging Face's model."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    model = CLIPModel(
        CLIPConfig(
            projection_dim=config["embed_dim"],
            vision_config={
                "hidden_size": vision["width"],
                "intermediate_size": 4 * vision["width"],
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": vision["width"] // 64,
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
                "hidden_act": "quick_gelu",
            },
            text_config={
                "hidden_size": text["width"],
                "intermediate_size": 4 * text["width"],
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "hidden_act": "quick_gelu",
                "eos_token_id": 49407,
            },
        )
    ).eval()

    def copy_linear(target: nn.Linear, name: str) -> None:
        target.weight.copy_(state[f"{name}.weight"])
        target.bias.copy_(state[f"{name}.bias"])

    def copy_blocks(layers: nn.ModuleList, name: str) -> None:
        for number, layer in enumerate(layers):
            block = f"{name}.resblocks.{number}"
            for norm, theirs in (layer.layer_norm1, "ln_1"), (layer.layer_norm2, "ln_2"):
                copy_linear(norm, f"{block}.{theirs}")
            attention = layer.self_attn
            projections = attention.q_proj, attention.k_proj, attention.v_proj
            weights, biases = (state[f"{block}.attn.in_proj_{part}"].chunk(3) for part in ("weight", "bias"))
            for projection, weight, bias in zip(projections, weights, biases, strict=True):
                projection.weight.copy_(weight)
                projection.bias.copy_(bias)
            copy_linear(attention.out_proj, f"{block}.attn.out_proj")
            copy_linear(layer.mlp.fc1, f"{block}.mlp.c_fc")
            copy_linear(layer.mlp.fc2, f"{block}.mlp.c_proj")

    with torch.no_grad():
        image, words = model.vision_model, model.text_model
        image.embeddings.class_embedding.copy_(state["visual.class_embedding"])
        image.embeddings.patch_embedding.weight.copy_(state["visual.conv1.weight"])
        image.embeddings.position_embedding.weight.copy_(state["visual.positional_embedding"])
        copy_linear(image.pre_layrnorm, "visual.ln_pre")
        copy_linear(image.post_layernorm, "visual.ln_post")
        copy_blocks(image.encoder.layers, "visual.transformer")
        words.embeddings.token_embedding.weight.copy_(state["token_embedding.weight"])
        words.embeddings.position_embedding.weight.copy_(state["positional_embedding"])
        copy_linear(words.final_layer_norm, "ln_final")
        copy_blocks(words.encoder.layers, "transformer")
        model.visual_projection.weight.copy_(state["visual.proj"].T)
        model.text_projection.weight.copy_(state["text_projection"].T)
        model.logit_scale.copy_(state["logit_scale"])
    return model


def half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def write_compressed(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))


def write(name: str, config: dict, seed: int) -> None:
    folder = GOLDEN / name
    folder.mkdir(parents=True, exist_ok=True)
    prompts = open_clip.tokenize(PROMPTS)
    model = randomised(config, prompts, seed)
    state = model.state_dict()
    assert all(torch.equal(tensor, tensor.half().float()) for tensor in state.values() if tensor.is_floating_point())

    side = config["vision_cfg"]["image_size"]
    image = torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed + 1)).half().float()
    arrays = {
        "image": image,
        "open_clip.image_features": model.encode_image(image[None])[0],
        "open_clip.text_features": model.encode_text(prompts),
    }

    write_compressed(folder / "open_clip.pt.gz", training_checkpoint(state))
    write_compressed(folder / "open_clip.safetensors.gz", save({key: half(value) for key, value in state.items()}))
    (folder / "open_clip.json").write_text(json.dumps(config, indent=4) + "\n")
    theirs = traced(config, state, image.half(), prompts)
    write_compressed(folder / "openai.pt.gz", torchscript(theirs))
    arrays["openai.image_features"] = theirs.encode_image(image.half()[None])[0].float()
    arrays["openai.text_features"] = theirs.encode_text(prompts).float()

    if name == "vit":
        theirs = transformers_model(config, state)
        arrays["hugging_face.image_features"] = theirs.get_image_features(image[None]).pooler_output[0]
        arrays["hugging_face.text_features"] = theirs.get_text_features(prompts).pooler_output
        with tempfile.TemporaryDirectory() as temporary:
            theirs.half().save_pretrained(temporary)
            saved = Path(temporary)
            write_compressed(folder / "hugging_face.safetensors.gz", (saved / "model.safetensors").read_bytes())
            (folder / "config.json").write_bytes((saved / "config.json").read_bytes())

    for array, values in arrays.items():
        reference = arrays.get(f"open_clip.{array.split('.')[-1]}", values)
        print(f"{name} {array}: {values.abs().max():.2f} at most, {(values - reference).abs().max():.1e} from open_clip's")
    save_file({key: value.detach().contiguous() for key, value in arrays.items()}, folder / "arrays.safetensors")

    visual = deepcopy(model.visual).double()
    dense = dense_arrays(name, visual, SIZES[name], TEMPERATURE[name], seed + 2)
    save_file(dense, folder / "dense.safetensors")


if __name__ == "__main__":
    for index, (name, config) in enumerate(MODELS.items()):
        with torch.no_grad():
            write(name, config, seed=100 * index)
