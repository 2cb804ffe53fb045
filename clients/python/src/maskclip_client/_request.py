"""From arguments to what goes over the wire."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt
import PIL.Image
from typing_extensions import TypedDict

ImageInput = Union[str, "os.PathLike[str]", bytes, "npt.NDArray[np.uint8]", PIL.Image.Image]
"""An image: the path of a file, the bytes of one, uint8 pixels `[height, width]` or `[height, width, 3]`, or Pillow's."""


class ClassDetail(TypedDict, total=False):
    """A class with other names for the same thing."""

    name: str
    synonyms: Sequence[str]


ClassSpec = Union[str, ClassDetail]
"""A class: its name, or a dictionary with `name` and `synonyms`."""


class Options(TypedDict, total=False):
    """The options of a request to segment, as the server's document describes them."""

    model: str
    protocol: str
    background: Union[bool, Sequence[str], Mapping[str, Any]]
    templates: str
    synonyms: str
    attention: str
    prompt_denoising: float
    key_smoothing: Union[str, Mapping[str, Any]]
    short_side: int
    scales: Sequence[float]
    orientation: str
    resize: str
    window: Union[str, Mapping[str, int]]
    refinement: str
    temperature: float
    deadline_seconds: float


HELD = ("model", "protocol", "attention", "key_smoothing", "short_side", "scales", "orientation", "resize", "window")
"""The options that decide what the server keeps of a held image."""


def encoded(image: ImageInput) -> tuple[str, bytes]:
    """The name and the bytes of an image's file. Pixels become a PNG."""
    if isinstance(image, bytes):
        return "image", image
    if isinstance(image, (str, os.PathLike)):
        with open(image, "rb") as file:
            return os.path.basename(os.fspath(image)), file.read()
    pixels = PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image
    png = io.BytesIO()
    pixels.save(png, "PNG", compress_level=1)
    return "image.png", png.getvalue()


def segment_body(
    classes: Optional[Sequence[ClassSpec]],
    vocabulary: Optional[str],
    confidence: bool,
    probabilities: Union[None, str, Sequence[str]],
    unlabelled: Optional[int],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of a request to segment."""
    output = {"label_map": "png-grey", "confidence_map": confidence}
    more = {"probability_maps": probabilities, "unlabelled": unlabelled}
    output.update({name: value for name, value in more.items() if value is not None})
    body = {"classes": classes, "vocabulary": vocabulary, **options}
    return {**{name: value for name, value in body.items() if value is not None}, "output": output}


def form(images: Sequence[tuple[str, bytes]], body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of httpx for a form with images and fields."""
    parts: list[tuple[str, tuple[Optional[str], Union[str, bytes], str]]]
    parts = [("request", (None, json.dumps(body), "application/json"))]
    parts += [("image", (name, file, "application/octet-stream")) for name, file in images]
    return {"files": parts}


def batches(
    images: Sequence[tuple[str, bytes]], most_images: int, most_bytes: int
) -> list[list[tuple[int, tuple[str, bytes]]]]:
    """Divides images into batches that the server takes, each image with its place among all. One may be larger."""
    divided: list[list[tuple[int, tuple[str, bytes]]]] = []
    held = 0
    for index, image in enumerate(images):
        size = len(image[1]) + 1024
        if not divided or len(divided[-1]) == most_images or held + size > most_bytes:
            divided.append([])
            held = 0
        divided[-1].append((index, image))
        held += size
    return divided
