"""MaskCLIP's dense features, written from the paper around open_clip's modules.

visual.py compares the server with this on tiny towers, tools/parity on a photograph.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn


def at_size(visual: nn.Module, height: int, width: int, antialias: bool = False) -> nn.Module:
    """A copy of the tower with interpolated positions, so that open_clip's code takes an image of that size."""
    owner = visual.attnpool if isinstance(visual, ModifiedResNet) else visual
    positions = owner.positional_embedding.detach()
    side = round((len(positions) - 1) ** 0.5)
    cell = cell_pixels(visual)
    grid = positions[1:].T.reshape(1, -1, side, side)
    cells = (height // cell, width // cell)
    if cells != (side, side):
        grid = F.interpolate(grid, cells, mode="bicubic", align_corners=False, antialias=antialias)
    resized = deepcopy(visual)
    owner = resized.attnpool if isinstance(resized, ModifiedResNet) else resized
    owner.positional_embedding = nn.Parameter(torch.cat([positions[:1], grid[0].flatten(1).T]))
    return resized


def cell_pixels(visual: nn.Module) -> int:
    if not isinstance(visual, ModifiedResNet):
        return visual.patch_size[0]
    return 16 if isinstance(visual.layer4[0].avgpool, nn.Identity) else 32


def keep_size_of_last_stage(visual: ModifiedResNet) -> None:
    """Gives the last stage a stride of 1 instead of 2."""
    first = visual.layer4[0]
    first.avgpool = nn.Identity()
    first.downsample[0] = nn.Identity()


def inputs_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """The first input that a module gets while `run` runs."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run()
    handle.remove()
    return seen[0]


def vit_features(visual: VisionTransformer, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Dense features per attention, cells x embedding, and keys per kind of smoothing, cells x width."""
    block = visual.transformer.resblocks[-1]
    before = inputs_of(block, lambda: visual(image))
    projected = F.linear(block.ln_1(before), block.attn.in_proj_weight, block.attn.in_proj_bias)
    _, keys, values = projected.chunk(3, dim=-1)
    values = block.attn.out_proj(values)
    with_residual = values + before
    with_mlp = with_residual + block.mlp(block.ln_2(with_residual))

    visual.output_tokens = True
    _, baseline = visual(image)  # after ln_post, before proj, without the class token
    visual.output_tokens = False

    features = {
        "clip": baseline[0] @ visual.proj,
        "maskclip": (visual.ln_post(with_mlp) @ visual.proj)[0, 1:],
        "maskclip-no-residual": (visual.ln_post(values) @ visual.proj)[0, 1:],
    }
    return features, {"formula": keys[0, 1:], "reference": block.attn.out_proj(keys)[0, 1:]}


def resnet_features(visual: ModifiedResNet, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same as vit_features, for a ResNet."""
    pool = visual.attnpool
    cells = inputs_of(pool, lambda: visual(image))[0].flatten(1).T
    tokens = torch.cat([cells.mean(0, keepdim=True), cells])

    def pooled(tokens: Tensor) -> Tensor:
        mixed, _ = F.multi_head_attention_forward(
            query=tokens, key=tokens, value=tokens, embed_dim_to_check=cells.shape[1], num_heads=pool.num_heads,
            in_proj_weight=None, use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
            in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), bias_k=None, bias_v=None,
            add_zero_attn=False, dropout_p=0.0, out_proj_weight=pool.c_proj.weight, out_proj_bias=pool.c_proj.bias,
            training=False, need_weights=False,
        )  # fmt: skip
        return mixed

    mixed = pooled(tokens + pool.positional_embedding)
    torch.testing.assert_close(mixed[:1], visual(image))  # token 0 is what open_clip reads out

    keys = pool.k_proj(cells)
    # MaskCLIP's baseline, as released, leaves the positions out.
    features = {"clip": mixed[1:], "clip-no-positions": pooled(tokens)[1:], "maskclip": pool.c_proj(pool.v_proj(cells))}
    return features, {"formula": keys, "reference": keys}


def dense_features(visual: nn.Module, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features per attention and keys per kind of smoothing of one image, 1 x 3 x height x width.

    The tower is at_size's for the image. Each result is cells x channels, the grid's rows one after the other.
    """
    return resnet_features(visual, image) if isinstance(visual, ModifiedResNet) else vit_features(visual, image)
