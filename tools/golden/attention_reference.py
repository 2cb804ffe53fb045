"""The attentions that came after MaskCLIP, written from their formulas around open_clip's ViT.

attention.py compares the server with this on tiny towers. Every attention is an explicit matrix per head over all
tokens, with the class token unless a method leaves it out. Methods share only the notation: q, k and v of a block are
heads x tokens x head width; grids are rows x columns of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from dense_reference import inputs_of
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor


def published(layers: int, of_12: int, of_24: int) -> int:
    """A block's number in a tower of `layers` blocks: in proportion to the nearer published depth, halves up."""
    depth, block = (12, of_12) if layers < 18 else (24, of_24)
    return (2 * block * layers + depth) // (2 * depth)


def tokens_after_blocks(visual: VisionTransformer, image: Tensor) -> list[Tensor]:
    """The blocks' inputs, x_0 of the first block to x_{L-1} of the last, tokens x width each."""
    return [inputs_of(block, lambda: visual(image))[0] for block in visual.transformer.resblocks]


def heads_of(block: ResidualAttentionBlock, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    projected = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
    return tuple(part.unflatten(-1, (block.attn.num_heads, -1)).transpose(0, 1) for part in projected.chunk(3, dim=-1))


def out(block: ResidualAttentionBlock, mixed: Tensor) -> Tensor:
    """The block's output projection: heads x tokens x head width to tokens x width."""
    return block.attn.out_proj(mixed.transpose(0, 1).flatten(1))


def likeness(one: Tensor, other: Tensor) -> Tensor:
    return one @ other.mT / one.shape[-1] ** 0.5


def omega(rows: int, columns: int, sigma: float = 5.0) -> Tensor:
    """NACLIP's neighbourhood over all tokens; zero in the class token's row and column."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    squared = (places[:, None] - places[None]).square().sum(-1)
    return F.pad(torch.exp(-squared / (2 * sigma**2)), (1, 0, 1, 0))


# One function per method, from the tokens of all blocks and the grid to the cells' features before ln_post.


def sclip(visual: VisionTransformer, x: list[Tensor], grid: tuple[int, int]) -> Tensor:
    block = visual.transformer.resblocks[-1]
    q, k, v = heads_of(block, x[-1])
    attention = likeness(q, q).softmax(-1) + likeness(k, k).softmax(-1)
    z = x[-1] + out(block, attention @ v)
    return (z + block.mlp(block.ln_2(z)))[1:]


def clearclip(visual: VisionTransformer, x: list[Tensor], grid: tuple[int, int]) -> Tensor:
    block = visual.transformer.resblocks[-1]
    q, _, v = heads_of(block, x[-1])
    return out(block, likeness(q, q).softmax(-1) @ v)[1:]


def naclip(visual: VisionTransformer, x: list[Tensor], grid: tuple[int, int]) -> Tensor:
    block = visual.transformer.resblocks[-1]
    _, k, v = heads_of(block, x[-1])
    return out(block, (likeness(k, k) + omega(*grid)).softmax(-1) @ v)[1:]


def rotation(m: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(m)
    return u @ vh


def newton_schulz(m: Tensor) -> Tensor:
    b = m.T @ m
    nu = torch.linalg.matrix_norm(b)
    identity = torch.eye(len(m), dtype=m.dtype)
    y, z = b / nu + 1e-6 * identity, identity
    for _ in range(5):
        e = (3 * identity - z @ y) / 2
        y, z = y @ e, e @ z
    return m @ z / nu.sqrt()


def pearl(visual: VisionTransformer, x: list[Tensor], grid: tuple[int, int], turn=rotation, alpha: float = 0.08) -> Tensor:
    block = visual.transformer.resblocks[-1]
    mixed = []
    for q, k, v in zip(*heads_of(block, x[-1])):
        pi = q.norm(dim=-1)
        pi[0] = 0
        pi = pi / pi.sum()
        q_centred, k_centred = q - pi @ q, k - pi @ k
        r = turn(k_centred.T @ q_centred)
        a = (q @ (k @ r).T + alpha * k_centred @ k_centred.T) / q.shape[-1] ** 0.5
        mixed.append(a.softmax(-1) @ v)
    return out(block, torch.stack(mixed))[1:]


def pearl_newton_schulz(visual: VisionTransformer, x: list[Tensor], grid: tuple[int, int]) -> Tensor:
    return pearl(visual, x, grid, turn=newton_schulz)


def outliers(patches: Tensor, neighbours: int = 30) -> set[int]:
    squared = (patches[:, None] - patches[None]).square().sum(-1)
    nearest = [[j for j in row.argsort().tolist() if j != i][:neighbours] for i, row in enumerate(squared)]
    delta = [squared[i, near[-1]] for i, near in enumerate(nearest)]
    lof = torch.stack([torch.stack([delta[i] / delta[j] for j in near]).mean() for i, near in enumerate(nearest)])
    return set(torch.nonzero(lof > lof.quantile(0.95)).flatten().tolist())


def repaired(patches: Tensor, out_of_line: set[int], grid: tuple[int, int]) -> Tensor:
    rows, columns = grid
    result = patches.clone()
    for i in out_of_line:
        row, column = divmod(i, columns)
        around = [
            r * columns + c
            for r in range(max(row - 1, 0), min(row + 2, rows))
            for c in range(max(column - 1, 0), min(column + 2, columns))
            if r * columns + c not in out_of_line
        ]
        if around:
            result[i] = patches[around].mean(0)
    return result


def aggregated(cosines: Tensor, x: Tensor) -> Tensor:
    weights = torch.where(cosines < 0.4, 0.0, cosines)
    return weights / (weights.sum(1, keepdim=True) + 1e-6) @ x


def sc_clip(visual: VisionTransformer, x: list[Tensor], grid: tuple[int, int]) -> Tensor:
    blocks = visual.transformer.resblocks
    layers = len(blocks)
    late, early = published(layers, 9, 17), published(layers, 4, 7)
    summed = range(published(layers, 4, 9), published(layers, 10, 19) + 1)
    class_weight = 0.3 if layers < 18 else 0.1
    patches = [tokens[1:] for tokens in x]

    out_of_line = outliers(patches[-1])
    m = F.normalize(repaired(patches[late], out_of_line, grid), dim=-1)
    g = m @ m.T
    argument = 3 * (g - g.mean())
    b = torch.where(argument < 0, -torch.inf, argument).softmax(-1)
    g_early = F.normalize(patches[early], dim=-1)
    g_early = g_early @ g_early.T

    def read(u: Tensor, class_token: Tensor) -> Tensor:
        _, k, v = heads_of(blocks[-1], u)
        a = (b + likeness(k, k).softmax(-1)) / 2
        return aggregated(g_early, out(blocks[-1], a @ v) + class_weight * class_token)

    first = read(aggregated(g, repaired(patches[-1], out_of_line, grid)), x[-1][0])
    second = read(sum(patches[i] for i in summed), sum(x[i][0] for i in summed))
    return first + second


def gem(visual: VisionTransformer, x: list[Tensor], grid: tuple[int, int]) -> Tensor:
    blocks = visual.transformer.resblocks
    count = published(len(blocks), 6, 6)
    path = x[-count]
    for block, tokens in zip(blocks[-count:], x[-count:]):
        tau = block.ln_1(tokens).norm(dim=-1).mean() / (tokens.shape[-1] / block.attn.num_heads) ** 0.5
        *parts, v = (*heads_of(block, tokens), heads_of(block, tokens)[2])
        mixed = 0
        for y in parts:
            y = F.normalize(y, dim=-1)
            y = F.normalize((tau * y @ y.mT).softmax(-1) @ y, dim=-1)
            mixed = mixed + (tau * y @ y.mT).softmax(-1) @ v / 3
        path = path + out(block, mixed)
    return path[1:]


def pamr(scores: Tensor, image: Tensor) -> Tensor:
    """Pixel-adaptive mask refinement of scores, queries x height x width, by an image, 3 x height x width."""
    height, width = image.shape[1:]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")

    def moved(values: Tensor, down: int, right: int) -> Tensor:
        return values[:, (row + down).clamp(0, height - 1), (column + right).clamp(0, width - 1)]

    steps = [(distance * down, distance * right) for distance in (8, 16) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    sigma = torch.stack([moved(image, *step) for step in steps]).std(0)  # unbiased; the centre counts twice
    steps = [step for step in steps if step != (0, 0)]
    differences = [(moved(image, *step) - image).abs() / (1e-8 + 0.1 * sigma) for step in steps]
    weights = torch.stack([-difference.mean(0) for difference in differences]).softmax(0)
    for _ in range(10):
        scores = sum(weight * moved(scores, *step) for weight, step in zip(weights, steps))
    return scores


TAU_R = 2.0


@dataclass(frozen=True)
class ResclipConstants:
    """ResCLIP's constants; the defaults are the release's for Pascal Context 59."""

    theta: float = 0.25
    lambda_r: float = 0.4
    tau_s: float = 1.8
    lambda_s: float = 0.7


def labels_of_patches(cosines: Tensor, image: Tensor, grid: tuple[int, int], theta: float) -> list[int]:
    """The most frequent label among each patch's pixels after refinement; the lowest of equally frequent ones."""
    at_size = F.interpolate(cosines.unflatten(1, grid)[None], image.shape[1:], mode="bilinear", align_corners=False)[0]
    probabilities = (40 * pamr(at_size, image)).softmax(0)
    best, labels = probabilities.max(0)
    labels[best < theta] = 0
    height, width = image.shape[1] // grid[0], image.shape[2] // grid[1]
    patches = [
        labels[row * height : (row + 1) * height, column * width : (column + 1) * width].flatten().bincount()
        for row in range(grid[0])
        for column in range(grid[1])
    ]
    return [counts.tolist().index(counts.max()) for counts in patches]


def layout(labels: list[int], grid: tuple[int, int], repaired: bool) -> Tensor:
    """The layout S^ over all tokens; zero in the class token's row and column."""
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    label = dict(zip(places, labels))
    distance = {(i, j): max(abs(i[0] - j[0]), abs(i[1] - j[1])) for i in places for j in places}
    farthest = max(distance.values())

    def belongs(i: tuple[int, int], j: tuple[int, int]) -> float:
        if label[i] != label[j]:
            return 0.0
        d = distance[i, j]
        for n in range(d + 1):
            share = Fraction(n, (d if repaired else farthest) or 1)
            place = tuple(round(a + share * (b - a)) for a, b in zip(i, j))  # halves to even
            if label[place] != label[i]:
                return float(torch.exp(torch.tensor(-d / farthest, dtype=torch.float64)))
        return 1.0

    m = torch.tensor([[belongs(i, j) for j in places] for i in places], dtype=torch.float64)
    taps = torch.exp(-torch.arange(-15, 16).double() ** 2 / (2 * 5.0**2))
    taps = taps / taps.sum()
    smooth = torch.zeros_like(m)
    for offset, tap in zip(range(-15, 16), taps):
        for column in range(len(places)):
            if 0 <= column + offset < len(places):
                smooth[:, column] += tap * m[:, column + offset]
    smooth = smooth / smooth.sum(1, keepdim=True)
    return F.pad(smooth / smooth.max(), (1, 0, 1, 0))


def resclip(
    visual: VisionTransformer,
    x: list[Tensor],
    grid: tuple[int, int],
    cosines_of,
    image: Tensor,
    repaired: bool,
    constants: ResclipConstants = ResclipConstants(),
) -> Tensor:
    """ResCLIP's cells before ln_post. `cosines_of` maps these to queries x cells; `image` is 3 x height x width."""
    blocks = visual.transformer.resblocks
    numbers = range(published(len(blocks), 6, 6), published(len(blocks), 9, 9) + 1)
    middle = []
    for number in numbers:
        q, k, _ = heads_of(blocks[number - 1], x[number - 1])
        middle.append(likeness(q, k).softmax(-1))
    c = torch.stack(middle).mean(0)
    _, k, v = heads_of(blocks[-1], x[-1])

    def read(s: Tensor) -> Tensor:
        a = TAU_R * ((1 - constants.lambda_r) * (s + omega(*grid)).softmax(-1) + constants.lambda_r * c)
        return out(blocks[-1], a @ v)[1:]

    s0 = likeness(k, k)
    labels = labels_of_patches(cosines_of(read(s0)), image, grid, constants.theta)
    share = constants.lambda_s
    return read(constants.tau_s * ((1 - share) * s0 + share * layout(labels, grid, repaired)))


WITHOUT_TEXT = {
    "sclip": sclip,
    "clearclip": clearclip,
    "naclip": naclip,
    "pearl": pearl,
    "pearl-newton-schulz": pearl_newton_schulz,
    "sc-clip": sc_clip,
    "gem": gem,
}


def features(visual: VisionTransformer, cells: Tensor) -> Tensor:
    """The features F of cells: cells x width to cells x embedding."""
    return visual.ln_post(cells) @ visual.proj
