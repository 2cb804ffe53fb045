"""Writes the goldens of refinement at the image's size. Run it and commit what it writes.

It writes tests/golden/refinement.safetensors: the scores of a grid, their image and texts, and the results of
pixel-adaptive mask refinement and of PEARL's propagation (on about 80 and about 20 cells a side) at another size. It
computes in 64 bits, from the formulas.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attention_reference import pamr
from safetensors.torch import save_file
from torch import Tensor
from visual import GOLDEN

TEMPERATURE = 20.0  # the same as in tests/golden/refinement.rs
HEIGHT, WIDTH = 130, 70


def propagated(cosines: Tensor, image: Tensor, text: Tensor, cells: int = 80) -> Tensor:
    """PEARL's propagation: cosines queries x height x width and image 3 x height x width to queries x rows x columns."""
    pixels = [max(round(side / cells), 1) for side in image.shape[1:]]
    z, image = F.avg_pool2d(cosines[None], pixels)[0], F.avg_pool2d(image[None], pixels)[0]
    queries, rows, columns = z.shape
    places = [(row, column) for row in range(rows) for column in range(columns)]
    number = {place: index for index, place in enumerate(places)}

    p = z.softmax(0)
    g = (text @ text.T / 0.5).softmax(1) + 10 * torch.eye(queries, dtype=z.dtype)
    g = (g / g.sum(1, keepdim=True)).diagonal()
    rho = p.amax(0).clamp(min=0.05) ** 2 * (1 + (g[:, None, None] * p * p).sum(0).clamp(0, 1))
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]

    matrix = torch.diag(rho.flatten())
    for down, right in ((1, 0), (0, 1)):
        edges = [((r, c), (r + down, c + right)) for r, c in places if (r + down, c + right) in number]
        differences = torch.stack([(grey[there] - grey[here]).abs() for here, there in edges])
        for (here, there), difference in zip(edges, differences):
            b = torch.exp(-5 * difference / differences.mean())
            agreement = (g * p[:, *here] * p[:, *there]).sum().clamp(0, 1)
            a = (b * (1 + agreement)).clamp(max=1)
            i, j = number[here], number[there]
            matrix[i, i] += a
            matrix[j, j] += a
            matrix[i, j] -= a
            matrix[j, i] -= a

    start = z.flatten(1).T  # cells x queries
    x = start.clone()
    residual = rho.flatten()[:, None] * start - matrix @ x
    direction, length = residual.clone(), residual.square().sum()
    for _ in range(25):
        image_of = matrix @ direction
        step = length / (direction * image_of).sum()
        x += step * direction
        residual -= step * image_of
        previous, length = length, residual.square().sum()
        direction = residual + length / previous * direction
    return x.T.unflatten(1, (rows, columns))


def write() -> None:
    generator = torch.Generator().manual_seed(7)
    cosines = 0.3 * torch.randn(3, 8, 8, generator=generator)
    blocks = torch.randn(1, 3, 4, 4, generator=generator)
    image = F.interpolate(blocks, (64, 64))[0] + 0.3 * torch.randn(3, 64, 64, generator=generator)
    text = F.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    arrays = {"logits": TEMPERATURE * cosines, "image": image, "text": text}

    def at_size(values: Tensor) -> Tensor:
        return F.interpolate(values.double()[None], (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0]

    large, pixels = at_size(cosines), at_size(image)
    arrays["pamr"] = TEMPERATURE * pamr(large, pixels)
    arrays["propagated"] = TEMPERATURE * propagated(large, pixels, text.double())
    arrays["propagated_coarsely"] = TEMPERATURE * propagated(large, pixels, text.double(), cells=20)
    difference = arrays["propagated"] - TEMPERATURE * F.avg_pool2d(large[None], (2, 1))[0]
    print(f"propagation moves scores by up to {difference.abs().max():.2f}, {tuple(difference.shape)}")
    save_file({name: values.float().contiguous() for name, values in arrays.items()}, GOLDEN / "refinement.safetensors")


if __name__ == "__main__":
    write()
