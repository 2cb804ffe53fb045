"""Writes the goldens of one image that is scored at several sizes together. Run it and commit what it writes.

It writes tests/golden/scales.safetensors: for towers of visual.py an image at several sizes, texts, and their scores at
the image's own size, without and with windows. This is the plain form, in 64 bits: at each size it averages the
windows' cosines on the input's pixels and enlarges them bilinearly to the image; then it takes the mean over the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import open_clip
import torch
import torch.nn.functional as F
from dense_reference import at_size, cell_pixels, dense_features
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from visual import GOLDEN, MODELS, denoised, smoothed_by_likeness, text_embeddings
from windows import starts

# The same as in tests/golden/scales.rs.
TEMPERATURE = {"vit_quick_gelu": 8.0, "resnet": 20.0}
HEIGHT, WIDTH = 29, 43
SIDE, STRIDE = 64, 48
SEED = 1
SIZES = {"vit_quick_gelu": [(48, 64), (64, 96), (96, 112)], "resnet": [(64, 96), (96, 128)]}


def stored(name: str) -> nn.Module:
    """A tower that visual.py wrote."""
    visual = open_clip.CLIP(**MODELS[name]).visual.eval()
    weights = load_file(GOLDEN / f"visual_{name}.safetensors")
    visual.load_state_dict({key.removeprefix("visual."): value for key, value in weights.items()})
    return visual.double()


def enlarged(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


def crops(image: Tensor, side: int | None) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each window over an image, 3 x height x width; of the whole image if `side` is None."""
    height, width = image.shape[1:]
    window = [min(side or length, length) for length in (height, width)]
    for top in starts(height, window[0], STRIDE):
        for left in starts(width, window[1], STRIDE):
            yield slice(top, top + window[0]), slice(left, left + window[1])


def scores(
    visual: nn.Module,
    images: list[Tensor],
    text: Tensor,
    temperature: float,
    side: int | None,
    change: Callable[[Tensor, list[Tensor]], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores of the texts on an image at several sizes, 3 x height x width each.

    Returns logits, queries x HEIGHT x WIDTH, and per query the best cosine anywhere and the image's probability.
    `change` is the denoising or smoothing: it gets the logits of all windows of all sizes, queries x cells, and their
    keys.
    """
    logits, keys, pooled = [], [], []
    for image in images:
        of_windows = []
        for rows, columns in crops(image, side):
            crop = image[None, :, rows, columns]
            tower = at_size(visual, *crop.shape[2:])
            cells, own_keys = dense_features(tower, crop)
            logits.append(temperature * text @ F.normalize(cells["maskclip"], dim=-1).T)
            keys.append(own_keys["formula"])
            of_windows.append(text @ F.normalize(tower(crop)[0], dim=0))
        pooled.append(torch.stack(of_windows).mean(0))
    similarity = torch.cat(logits, 1).amax(1) / temperature
    probability = (temperature * torch.stack(pooled).mean(0)).softmax(0)

    changed = iter(change(torch.cat(logits, 1), keys).split([len(cells) for cells in keys], dim=1))
    mean = 0
    for image in images:
        total, coverage = torch.zeros(len(text), *image.shape[1:], dtype=text.dtype), torch.zeros(image.shape[1:])
        places = list(crops(image, side))
        for rows, columns in places:
            window = (rows.stop - rows.start, columns.stop - columns.start)
            grid = next(changed).unflatten(1, [length // cell_pixels(visual) for length in window])
            if len(places) == 1:  # the whole image: one step, not two
                total, coverage = enlarged(grid, (HEIGHT, WIDTH)), torch.ones(HEIGHT, WIDTH)
            else:
                total[:, rows, columns] += enlarged(grid, window)
                coverage[rows, columns] += 1
        mean = mean + enlarged(total / coverage, (HEIGHT, WIDTH)) / len(images)
    return mean, similarity, probability


def write() -> None:
    arrays = {}
    for name, sizes in SIZES.items():
        visual, temperature = stored(name), TEMPERATURE[name]
        generator = torch.Generator().manual_seed(SEED)
        blocks = torch.randn(1, 3, 5, 7, generator=generator)
        images = [F.interpolate(blocks, size)[0] + 0.3 * torch.randn(3, *size, generator=generator) for size in sizes]
        largest = images[-1].double()[None]
        cells, _ = dense_features(at_size(visual, *largest.shape[2:]), largest)
        text = text_embeddings(cells["maskclip"], generator)
        arrays[f"{name}.text"] = text
        arrays |= {f"{name}.image.{index}": image for index, image in enumerate(images)}
        images = [image.double() for image in images]

        def unchanged(logits: Tensor, keys: list[Tensor]) -> Tensor:
            return logits

        def without_absent(logits: Tensor, keys: list[Tensor]) -> Tensor:
            logits, absent = denoised(logits, temperature)
            print(f"{name}: dropped {absent}")
            assert 0 < len(absent) < 5, "prompt denoising drops some classes and keeps others"
            return logits

        def by_likeness(logits: Tensor, keys: list[Tensor]) -> Tensor:
            windows = zip(logits.split([len(cells) for cells in keys], dim=1), keys)
            return torch.cat([smoothed_by_likeness(*window) for window in windows], 1)

        for case, side, change in (
            ("whole", None, unchanged),
            ("windows", SIDE, unchanged),
            ("denoised", SIDE, without_absent),
            ("likeness", SIDE, by_likeness),
        ):
            logits, similarity, probability = scores(visual, images, text.double(), temperature, side, change)
            arrays[f"{name}.{case}.logits"] = logits
            arrays[f"{name}.{case}.similarity"] = similarity
            arrays[f"{name}.{case}.image_probability"] = probability
    save_file({key: value.float().contiguous() for key, value in arrays.items()}, GOLDEN / "scales.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        write()
