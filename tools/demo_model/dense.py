"""Dense labels from a CLIP: MaskCLIP, its two refinements, PAMR, and the unchanged baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from PIL import Image

import model as network
from vocabulary import templates

SCALE = 100.0  # CLIP's learned temperature at its clip value
DISTANCES = (8, 16)  # of PAMR's neighbours, in pixels
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
SPREADS = 10  # how often PAMR's scores spread
SOFTNESS = 0.1  # PAMR divides differences of colour by this share of their deviation
DENOISE = 0.5  # a class is dropped from a picture if its probability never reaches this


def fitted(picture: Image.Image, short: int, multiple: int) -> torch.Tensor:
    """The model's input from a picture, [1, 3, H, W]: short side near `short`, aspect kept, sides whole multiples."""
    factor = short / min(picture.size)
    width, height = (max(1, round(side * factor / multiple)) * multiple for side in picture.size)
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return network.normalise(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None])


@dataclass(frozen=True)
class Dense:
    """Unit features [D, h, w] and unit keys [C, h, w] of a picture's positions."""

    features: torch.Tensor
    keys: torch.Tensor


def resnet_maskclip(visual: ModifiedResNet, picture: torch.Tensor) -> Dense:
    """c_proj(v_proj(x)) at every position of the last stage's map."""
    x = network.trunk(visual, picture)
    pool = visual.attnpool
    flat = x.flatten(2).transpose(1, 2)
    return Dense(_unit(network.position_features(pool, x), x), _unit(pool.k_proj(flat), x))


def resnet_baseline(visual: ModifiedResNet, picture: torch.Tensor) -> Dense:
    """The unchanged attention pool, with the query of every position instead of the mean."""
    x = network.trunk(visual, picture)
    pool = visual.attnpool
    height, width = x.shape[2:]
    flat = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([flat.mean(1, keepdim=True), flat], 1)
    tokens = tokens + network.grid_positions(pool.positional_embedding, height, width)

    def heads(y: torch.Tensor) -> torch.Tensor:
        return y.unflatten(2, (pool.num_heads, -1)).transpose(1, 2)

    read = F.scaled_dot_product_attention(*(heads(p(tokens)) for p in (pool.q_proj, pool.k_proj, pool.v_proj)))
    read = pool.c_proj(read.transpose(1, 2).flatten(2))
    return Dense(_unit(read[:, 1:], x), _unit(pool.k_proj(flat), x))


def vit_dense(visual: VisionTransformer, picture: torch.Tensor, form: str) -> Dense:
    """A ViT's positions: `reference` and `no-residual` are MaskCLIP's forms, `baseline` the unchanged last block."""
    x = visual.conv1(picture)
    height, width = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)
    x = visual.ln_pre(x + network.grid_positions(visual.positional_embedding, height, width))
    *trunk, last = visual.transformer.resblocks
    for block in trunk:
        x = block(x)
    attention = last.attn
    query, key, value = F.linear(last.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    if form == "baseline":
        y = last(x)
    else:
        y = attention.out_proj(value)
        if form == "reference":
            y = y + x
            y = y + last.mlp(last.ln_2(y))
    y = visual.ln_post(y) @ visual.proj
    return Dense(_unit(y[:, 1:], picture, height, width), _unit(attention.out_proj(key)[:, 1:], picture, height, width))


def dense(model: CLIP, picture: torch.Tensor, method: str) -> Dense:
    """A picture's positions by `maskclip` or `clip` (the baseline), and on a ViT by `maskclip-no-residual`."""
    visual = model.visual
    if isinstance(visual, VisionTransformer):
        return vit_dense(visual, picture, {"maskclip": "reference", "maskclip-no-residual": "no-residual", "clip": "baseline"}[method])
    return {"maskclip": resnet_maskclip, "clip": resnet_baseline}[method](visual, picture)


def _unit(rows: torch.Tensor, like: torch.Tensor, height: int | None = None, width: int | None = None) -> torch.Tensor:
    """[1, h w, D] to unit vectors [D, h, w]."""
    size = (height or like.shape[2], width or like.shape[3])
    return F.normalize(rows[0], dim=1).T.unflatten(1, size)


def classifier(model: CLIP, words: list[str]) -> torch.Tensor:
    """Unit text embeddings [words, D]: the mean over MaskCLIP's 85 templates, each of unit length."""
    tokens = network.Tokens()
    each = [network.text_features(model, tokens([t.format(word) for t in templates()])) for word in words]
    return F.normalize(torch.stack([F.normalize(e, dim=1).mean(0) for e in each]), dim=1)


def labels(
    found: Dense,
    texts: torch.Tensor,
    groups: torch.Tensor,
    size: tuple[int, int],
    denoise: bool,
    smooth: bool,
    refined_by: torch.Tensor | None = None,
) -> torch.Tensor:
    """The label map of a picture, [H, W].

    `texts` [P, D] are phrases and `groups` [P] their classes. A class has the score of its best phrase after the
    softmax. If `refined_by`, the model's input [3, h, w], is given, PAMR refines the scores by its colours.
    """
    logits = SCALE * torch.einsum("pd,dhw->phw", texts, found.features)
    if denoise:
        best = merged(logits.softmax(0), groups).amax((1, 2))
        if (best >= DENOISE).any():
            logits[(best < DENOISE)[groups]] = -SCALE
    if smooth:
        grid = logits.shape[1:]
        keys = found.keys.flatten(1)
        logits = logits.softmax(0).flatten(1) @ keys.T @ keys
        return merged(_enlarge(logits.unflatten(1, grid), size), groups).argmax(0)
    scores = _enlarge(logits, size)
    if refined_by is not None:
        scores = pamr(scores, _enlarge(refined_by, size))
    return merged(scores.softmax(0), groups).argmax(0)


def pamr(scores: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, section 3.3) of scores [P, H, W].

    `picture` is [3, H, W]. The constants are those that the released code of MaskCLIP's successors shares.
    """
    around = torch.stack(_neighbours(picture))
    patterns = torch.cat([around, picture[None].expand(len(DISTANCES), -1, -1, -1)])  # the centre, for each distance
    unit = SOFTNESS * patterns.std(0) + 1e-8
    weights = (-((around - picture).abs() / unit).mean(1)).softmax(0)
    for _ in range(SPREADS):
        spread = torch.zeros_like(scores)
        for weight, neighbour in zip(weights, _neighbours(scores)):
            spread.addcmul_(weight, neighbour)
        scores = spread
    return scores


def _neighbours(maps: torch.Tensor) -> list[torch.Tensor]:
    """The 16 neighbours of every pixel of maps [M, H, W], [M, H, W] each; what lies outside repeats the border."""
    margin = max(DISTANCES)
    height, width = maps.shape[1:]
    padded = F.pad(maps[None], (margin,) * 4, mode="replicate")[0]
    views = []
    for distance in DISTANCES:
        for down, right in DIRECTIONS:
            top, left = margin + down * distance, margin + right * distance
            views.append(padded[:, top : top + height, left : left + width])
    return views


def merged(scores: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The best score among the phrases of each class, [P, ...] to [classes, ...]."""
    return torch.stack([scores[groups == c].amax(0) for c in range(int(groups.max()) + 1)])


def _enlarge(grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(grid[None], size, mode="bilinear", align_corners=False)[0]
