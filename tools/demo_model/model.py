"""The network: open_clip's CLIP, and the forward passes that training needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# The text width is 64, because the token embedding has 49,408 rows of it. The other weights belong to the picture side.
TOGETHER = 128  # texts of like length that are computed together
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3}


@dataclass(frozen=True)
class Config:
    """A network: open_clip's configuration, and the stride of a ResNet's last stage, which is 2 as published.

    With a stride of 1 a ResNet has the same weights, and maps of 16 pixels a position instead of 32.
    """

    model: dict[str, Any]
    last_stride: int = 2

    @classmethod
    def read(cls, sidecar: Path) -> Config:
        """The configuration in an exported model's config.json."""
        raw = json.loads(sidecar.read_text())
        return cls(raw["model_cfg"], raw.get("last_stride", 2))


RESNET = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 128, "layers": [1, 2, 3, 2], "width": 24, "head_width": 64, "patch_size": None},
    "text_cfg": TEXT,
    "quick_gelu": True,
}
VIT = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 128, "layers": 6, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": TEXT,
    "quick_gelu": True,
}
CONFIGS = {"resnet": Config(RESNET), "resnet-fine": Config(RESNET, last_stride=1), "vit": Config(VIT)}


def build(config: Config) -> CLIP:
    """A CLIP with fresh weights."""
    model = CLIP(**config.model)
    if config.last_stride == 1:
        first = model.visual.layer4[0]
        first.avgpool = nn.Identity()
        first.downsample[0] = nn.Identity()
    return model


def position_pixels(model: CLIP) -> int:
    """The pixels along a side of one position of the dense map."""
    visual = model.visual
    if isinstance(visual, VisionTransformer):
        return visual.patch_size[0]
    return 16 if isinstance(visual.layer4[0].avgpool, nn.Identity) else 32


class Tokens:
    """CLIP's tokenizer with a cache of words, which works because byte pairs never cross words."""

    def __init__(self) -> None:
        self.tokenizer = SimpleTokenizer()
        self.cache: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Token ids [N, L], where L is the length of the longest text; shorter texts are padded with zeros."""
        rows = [[self.tokenizer.sot_token_id, *self._ids(text), self.tokenizer.eot_token_id] for text in texts]
        out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, ids in enumerate(rows):
            out[row, : len(ids)] = torch.tensor(ids)
        return out

    def _ids(self, text: str) -> list[int]:
        ids = []
        for word in text.split():
            if word not in self.cache:
                self.cache[word] = self.tokenizer.encode(word)
            ids += self.cache[word]
        return ids


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """CLIP's input from pictures, uint8 [N, 3, H, W]."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((pictures.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def text_features(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Text features [N, D] of token ids [N, L], not normalised. Positions after L are not computed."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    with sdpa_kernel(SDPBackend.MATH):  # for short texts twice as fast as the kernel for long ones
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
    return x @ model.text_projection


def text_features_by_length(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """The same, in groups of texts of like length, so that short texts are not computed at the length of the longest."""
    lengths = tokens.argmax(1) + 1  # the end has the largest id
    order = lengths.argsort()
    groups = [text_features(model, tokens[some, : int(lengths[some[-1]])]) for some in order.split(TOGETHER)]
    return torch.cat(groups)[order.argsort()]


def trunk(visual: ModifiedResNet, pictures: torch.Tensor) -> torch.Tensor:
    """The last stage's map, [N, C, H/32, W/32], or [N, C, H/16, W/16] if the last stage has a stride of 1."""
    x = visual.stem(pictures)
    return visual.layer4(visual.layer3(visual.layer2(visual.layer1(x))))


def grid_positions(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Positions [1 + g * g, C], interpolated to [1 + height * width, C] for another grid; the first row stays."""
    side = round((len(table) - 1) ** 0.5)
    if (height, width) == (side, side):
        return table
    grid = table[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).T])


def position_features(pool: AttentionPool2d, x: torch.Tensor) -> torch.Tensor:
    """MaskCLIP's features of a map [N, C, h, w]: every position's value, projected, [N, h w, D].

    Both steps are linear, so they are one product, by a matrix of D rows.
    """
    with torch.autocast("cpu", enabled=False):
        weight = pool.c_proj.weight @ pool.v_proj.weight
        bias = F.linear(pool.v_proj.bias, pool.c_proj.weight, pool.c_proj.bias)
    return F.linear(x.flatten(2).transpose(1, 2), weight, bias)


def pooled(pool: AttentionPool2d, x: torch.Tensor) -> torch.Tensor:
    """The attention pool's feature [N, D] of a map [N, C, h, w] of any size.

    The mean is the only query. So every head compares the positions with its query times the keys' weights, and
    projects the values of the mean that it reads, not of every position. A key's bias changes no softmax.
    """
    height, width = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([x.mean(1, keepdim=True), x], 1) + grid_positions(pool.positional_embedding, height, width).to(x.dtype)

    def heads(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (pool.num_heads, -1))  # [C, C] -> [heads, C / heads, C]

    query = pool.q_proj(x[:, 0]).unflatten(1, (pool.num_heads, -1))
    asked = torch.einsum("nhd,hdc->nhc", query * query.shape[2] ** -0.5, heads(pool.k_proj.weight))
    read = torch.einsum("nhp,npc->nhc", torch.einsum("nhc,npc->nhp", asked, x).softmax(2), x)
    value = torch.einsum("nhc,hdc->nhd", read, heads(pool.v_proj.weight)).flatten(1) + pool.v_proj.bias
    return pool.c_proj(value)


def image_features(model: CLIP, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures' features [N, D] and MaskCLIP's features of every position [N, P, D], neither normalised."""
    visual = model.visual
    if isinstance(visual, VisionTransformer):
        return vit_features(visual, pictures)
    x = trunk(visual, pictures)
    return pooled(visual.attnpool, x), position_features(visual.attnpool, x)


def vit_features(visual: VisionTransformer, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A ViT's class token after the last block [N, D], and every patch's value there, projected [N, P, D]."""
    x = visual.conv1(pictures)
    height, width = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1).to(x.dtype), x], 1)
    x = visual.ln_pre(x + grid_positions(visual.positional_embedding, height, width).to(x.dtype))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    width = x.shape[2]
    attention = last.attn
    value = F.linear(last.ln_1(x[:, 1:]), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    return visual.ln_post(last(x)[:, 0]) @ visual.proj, visual.ln_post(attention.out_proj(value)) @ visual.proj
