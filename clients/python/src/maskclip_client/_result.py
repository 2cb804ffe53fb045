"""From replies to NumPy arrays."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

from ._errors import MaskclipError, Problem, ProblemError, UnreadableImage


@dataclass(frozen=True)
class ClassResult:
    """What a result says of one class."""

    id: int
    """Its value in the label map."""
    name: str
    color: tuple[int, int, int]
    """Red, green and blue, 0 to 255."""
    pixels: int
    """Pixels that carry the class."""
    fraction: float
    """Those pixels as a fraction of the image."""
    bbox: Optional[tuple[int, int, int, int]]
    """`(x, y, width, height)` of the smallest box around them."""
    mean_confidence: Optional[float]
    """Mean probability over these pixels; `None` without any."""
    max_confidence: Optional[float]
    presence: float
    """Largest probability anywhere."""
    similarity: float
    """Best cosine anywhere."""
    image_probability: float
    """Probability of the class in the image as a whole."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> ClassResult:
        return cls(
            id=body["id"],
            name=body["name"],
            color=_color(body["color"]),
            pixels=body["pixels"],
            fraction=body["fraction"],
            bbox=None if body["bbox"] is None else tuple(body["bbox"]),
            mean_confidence=body["confidence"]["mean"],
            max_confidence=body["confidence"]["max"],
            presence=body["presence"],
            similarity=body["similarity"],
            image_probability=body["image_probability"],
        )


@dataclass(frozen=True)
class ClassPolygons:
    """The regions of one class as COCO's polygons."""

    class_id: int
    category_id: int
    """The class in COCO's files, which count from 1."""
    segmentation: list[list[int]]
    """A polygon `[x1, y1, x2, y2, ...]` for each connected region, along pixels' edges. A cut leads to each hole."""
    area: int
    bbox: tuple[int, int, int, int]
    """`(x, y, width, height)`."""
    size: tuple[int, int]
    """Height and width of the image."""

    @classmethod
    def of(cls, body: Mapping[str, Any], size: tuple[int, int]) -> ClassPolygons:
        x, y, width, height = body["bbox"]
        return cls(
            class_id=body["class_id"],
            category_id=body["category_id"],
            segmentation=body["segmentation"],
            area=body["area"],
            bbox=(x, y, width, height),
            size=size,
        )

    def mask(self) -> npt.NDArray[np.bool_]:
        """The pixels inside of the polygons, `[height, width]`."""
        height, width = self.size
        crossed = np.zeros((height, width + 1), np.bool_)
        for line in self.segmentation:
            corners = list(zip(line[::2], line[1::2]))
            for (x, y), (to_x, to_y) in zip(corners, corners[1:] + corners[:1]):
                if x == to_x:
                    crossed[min(y, to_y) : max(y, to_y), x] ^= True
        mask: npt.NDArray[np.bool_] = np.logical_xor.accumulate(crossed, axis=1)[:, :-1]
        return mask


@dataclass(frozen=True)
class Segment:
    """A segment of COCO's panoptic form: all pixels of one class."""

    id: int
    """Its value in `Panoptic.ids`."""
    category_id: int
    class_id: int
    area: int
    bbox: tuple[int, int, int, int]
    """`(x, y, width, height)`."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Segment:
        x, y, width, height = body["bbox"]
        return cls(body["id"], body["category_id"], body["class_id"], body["area"], (x, y, width, height))


@dataclass(frozen=True, eq=False)
class Panoptic:
    """A label map in COCO's panoptic form."""

    png: bytes = field(repr=False)
    """The file, as panopticapi reads it."""
    ids: npt.NDArray[np.uint32]
    """The id of each pixel's segment, `[height, width]`; 0 for pixels without one."""
    segments: list[Segment]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Panoptic:
        png = base64.b64decode(body["png"])
        colors = np.asarray(PIL.Image.open(io.BytesIO(png)), np.uint32)
        ids = colors @ np.array([1, 256, 65536], np.uint32)
        return cls(png, ids, [Segment.of(one) for one in body["segments_info"]])


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A labelled image."""

    model: str
    width: int
    height: int
    classes: list[ClassResult]
    labels: npt.NDArray[Union[np.uint8, np.uint16]]
    """The id of each pixel's class, `[height, width]`; `unlabelled` for pixels without one."""
    unlabelled: int
    confidence: Optional[npt.NDArray[np.float32]]
    """The probability of each pixel's own label, `[height, width]`, if asked for; in steps of 1/255."""
    probabilities: dict[str, npt.NDArray[np.float32]]
    """The probability of each class asked for in every pixel, by name; in steps of 1/255."""
    polygons: Optional[list[ClassPolygons]]
    """COCO's polygons of each class that has pixels, if asked for."""
    panoptic: Optional[Panoptic]
    """COCO's panoptic form, if asked for."""
    warnings: list[str]
    """What the server thinks the caller should know."""
    features_cached: bool
    timings: dict[str, float]
    reply: Mapping[str, Any] = field(repr=False)
    """The server's reply."""
    image: Optional[bytes] = field(default=None, repr=False)
    """The encoded image, for `overlay`."""
    orientation: str = field(default="exif", repr=False)
    """How the image was turned."""

    @classmethod
    def of(
        cls,
        body: Mapping[str, Any],
        image: Optional[bytes],
        unlabelled: Optional[int] = None,
        orientation: str = "exif",
    ) -> Segmentation:
        """Reads a reply whose label map has the form `png-grey`."""
        labels = _pixels(body["label_map"]["data"])
        confidence = body.get("confidence_map")
        forms = {one["format"]: one["data"] for one in body.get("label_maps", [])}
        polygons, panoptic = forms.get("polygons"), forms.get("panoptic")
        size = (body["height"], body["width"])
        return cls(
            model=body["model"],
            width=body["width"],
            height=body["height"],
            classes=[ClassResult.of(one) for one in body["classes"]],
            labels=labels,
            unlabelled=int(np.iinfo(labels.dtype).max) if unlabelled is None else unlabelled,
            confidence=None if confidence is None else _share(confidence["data"]),
            probabilities={one["name"]: _share(one["data"]) for one in body.get("probability_maps", [])},
            polygons=None if polygons is None else [ClassPolygons.of(one, size) for one in polygons],
            panoptic=None if panoptic is None else Panoptic.of(panoptic),
            warnings=[one["message"] for one in body["warnings"]],
            features_cached=body["features_cached"],
            timings=dict(body["timings"]),
            reply=body,
            image=image,
            orientation=orientation,
        )

    def __getitem__(self, name: Union[str, int]) -> ClassResult:
        """What the result says of the class with this name or id."""
        for one in self.classes:
            if name in (one.name, one.id):
                return one
        raise KeyError(name)

    def mask(self, name: Union[str, int]) -> npt.NDArray[np.bool_]:
        """The pixels of the class with this name or id, `[height, width]`."""
        mask: npt.NDArray[np.bool_] = self.labels == self[name].id
        return mask

    def colors(self) -> npt.NDArray[np.uint8]:
        """The label map in the classes' colours, `[height, width, 3]`; black without a class."""
        palette = np.zeros((int(np.iinfo(self.labels.dtype).max) + 1, 3), np.uint8)
        for one in self.classes:
            palette[one.id] = one.color
        return palette[self.labels]

    def overlay(self, opacity: float = 0.55) -> PIL.Image.Image:
        """The classes' colours over the image; the colours alone where the result knows no image."""
        colors = self.colors()
        if self.image is None:
            return PIL.Image.fromarray(colors)
        image: PIL.Image.Image = PIL.Image.open(io.BytesIO(self.image))
        if self.orientation != "stored":
            image = PIL.ImageOps.exif_transpose(image) or image
        pixels = np.asarray(image.convert("RGB").resize((self.width, self.height)), np.float32)
        labelled = (self.labels != self.unlabelled)[..., None]
        mixed = np.where(labelled, (1 - opacity) * pixels + opacity * colors, pixels)
        return PIL.Image.fromarray(mixed.round().astype(np.uint8))

    def show(self, opacity: float = 0.55) -> None:
        """Shows the overlay: in a notebook below the cell, else in a window."""
        overlay = self.overlay(opacity)
        try:
            from IPython import get_ipython  # type: ignore[import-not-found,unused-ignore]
            from IPython.display import display  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            overlay.show()
            return
        if get_ipython() is None:  # type: ignore[no-untyped-call,unused-ignore]
            overlay.show()
        else:
            display(overlay)  # type: ignore[no-untyped-call,unused-ignore]


@dataclass(frozen=True, eq=False)
class BatchItem:
    """What became of one image of several."""

    index: int
    """Its place among the images."""
    name: str
    result: Optional[Segmentation]
    error: Optional[MaskclipError]
    """The server's `ProblemError`, or `UnreadableImage` for one that it has not seen."""

    def unwrap(self) -> Segmentation:
        """The labelled image.

        Raises its error if there is none.
        """
        if self.result is None:
            assert self.error is not None
            raise self.error
        return self.result

    @classmethod
    def of(
        cls,
        line: Mapping[str, Any],
        index: int,
        image: tuple[str, bytes],
        unlabelled: Optional[int],
        orientation: str,
    ) -> BatchItem:
        result: Optional[Segmentation] = None
        error: Optional[MaskclipError] = None
        if "result" in line:
            result = Segmentation.of(line["result"], image[1], unlabelled, orientation)
        else:
            error = ProblemError(Problem.of(line["problem"]), line.get("retry_after_seconds"))
        return cls(index=index, name=image[0], result=result, error=error)

    @classmethod
    def unread(cls, unreadable: tuple[int, str, UnreadableImage]) -> BatchItem:
        """The item of an image that cannot be read."""
        index, name, error = unreadable
        return cls(index=index, name=name, result=None, error=error)


@dataclass(frozen=True)
class HeldImage:
    """What the server knows of an image that it holds."""

    image_id: str
    width: int
    height: int
    expires_in_seconds: float


@dataclass(frozen=True)
class VocabularyStatus:
    """How far the embedding of a vocabulary's texts has come."""

    name: str
    ready: bool
    embedded: int
    """Texts that are embedded for the model that is furthest behind."""
    total: int

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> VocabularyStatus:
        states = body["embeddings"]
        return cls(
            name=body["name"],
            ready=body["ready"],
            embedded=min((state["embedded"] for state in states), default=0),
            total=max((state["total"] for state in states), default=0),
        )


def _pixels(data: str) -> npt.NDArray[Any]:
    image = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    pixels = np.asarray(image)
    # Pillow reads 16-bit grey as uint16, or as int32 in older versions.
    return pixels.astype(np.uint16) if pixels.dtype == np.int32 else pixels


def _share(data: str) -> npt.NDArray[np.float32]:
    return _pixels(data).astype(np.float32) / np.float32(255)


def _color(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
