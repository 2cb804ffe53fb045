"""From arguments to what goes over the wire."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt
import PIL.Image
from typing_extensions import TypedDict

from ._errors import UnreadableImage

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


Probabilities = Union[None, str, Sequence[str]]
"""The classes whose probability maps come along: `"all"`, or their names."""


@dataclass(frozen=True)
class Output:
    """What a reply brings beside the label map and the classes."""

    confidence: bool
    probabilities: Probabilities
    unlabelled: Optional[int]
    polygons: bool
    panoptic: bool

    def body(self) -> dict[str, Any]:
        """The field `output` of a request."""
        forms = [form for form, is_wanted in (("polygons", self.polygons), ("panoptic", self.panoptic)) if is_wanted]
        more = {"probability_maps": self.probabilities, "unlabelled": self.unlabelled, "label_maps": forms or None}
        output = {"label_map": "png-grey", "confidence_map": self.confidence}
        return {**output, **{name: value for name, value in more.items() if value is not None}}


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
    output: Output,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of a request to segment."""
    body = {"classes": classes, "vocabulary": vocabulary, **options}
    return {**{name: value for name, value in body.items() if value is not None}, "output": output.body()}


def form(images: Sequence[tuple[str, bytes]], body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of httpx for a form with images and fields."""
    parts: list[tuple[str, tuple[Optional[str], Union[str, bytes], str]]]
    parts = [("request", (None, json.dumps(body), "application/json"))]
    parts += [("image", (name, file, "application/octet-stream")) for name, file in images]
    return {"files": parts}


@dataclass
class Batch:
    """Images that travel together, each with its place among all."""

    images: list[tuple[int, tuple[str, bytes]]] = field(default_factory=list)
    unreadable: list[tuple[int, str, UnreadableImage]] = field(default_factory=list)
    """Those that have come up meanwhile and cannot be read, with their names."""
    size: int = 0


def batches(images: Iterable[ImageInput], most_images: int, most_bytes: int) -> Iterator[Batch]:
    """Divides images into batches that the server takes. A single image may be larger.

    Images are read as their batch is asked for.
    """
    batch = Batch()
    for index, image in enumerate(images):
        try:
            file = encoded(image)
        except (OSError, TypeError, ValueError) as error:
            name = os.path.basename(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else "image"
            unreadable = UnreadableImage(f"{name} cannot be read: {error}")
            unreadable.__cause__ = error
            batch.unreadable.append((index, name, unreadable))
            continue
        size = len(file[1]) + 1024
        if batch.images and (len(batch.images) == most_images or batch.size + size > most_bytes):
            yield batch
            batch = Batch()
        batch.images.append((index, file))
        batch.size += size
    if batch.images or batch.unreadable:
        yield batch
