"""CVAT auto-annotation by a MaskCLIP server: masks, polygons or rectangles for any classes.

`create` makes a detection function for cvat-sdk. The function sends each image to the server and turns the label map
that comes back into shapes.
"""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import cvat_sdk.auto_annotation as cvataa
import cvat_sdk.models as models
import numpy as np
import PIL.Image
from cvat_sdk.masks import encode_mask

SHAPES = ("mask", "polygon", "rectangle")


class ServerError(Exception):
    """The server refused a request; the text says why."""


class MaskclipFunction:
    """A detection function of cvat-sdk."""

    def __init__(
        self,
        url: str,
        classes: str = "",
        vocabulary: str = "",
        shape: str = "mask",
        key: str = "",
        timeout: float = 120,
        **fields,
    ) -> None:
        if bool(classes) == bool(vocabulary):
            raise ValueError("give either classes, separated by commas, or vocabulary")
        if shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, not {shape!r}")
        self._url = url.rstrip("/")
        self._shape = shape
        self._key = key
        self._timeout = timeout
        if vocabulary:
            listed = self._ask(f"/v1/vocabularies/{vocabulary}")["classes"]
            self._names = [entry if isinstance(entry, str) else entry["name"] for entry in listed]
            self._request = {"vocabulary": vocabulary, **fields}
        else:
            self._names = [name.strip() for name in classes.split(",") if name.strip()]
            self._request = {"classes": self._names, **fields}
        self._spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(name, id, type=shape) for id, name in enumerate(self._names)]
        )

    @property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """The labels that the function gives."""
        return self._spec

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image
    ) -> list[models.LabeledShapeRequest]:
        """The shapes of an image."""
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG", compress_level=1)
        # CVAT shows an image as it stores it.
        request = {"image": base64.b64encode(file.getvalue()).decode(), **self._request}
        reply = self._ask("/v1/segment", request)
        labels = np.array(PIL.Image.open(io.BytesIO(base64.b64decode(reply["label_map"]["data"]))))
        threshold = context.conf_threshold or 0
        shape = "polygon" if self._shape == "mask" and context.conv_mask_to_poly else self._shape
        found = []
        for entry in reply["classes"]:
            if entry["pixels"] and entry["confidence"]["mean"] >= threshold:
                found.extend(shapes_of(shape, entry, labels == entry["id"]))
        return found

    def _ask(self, path: str, body: dict | None = None) -> dict:
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise ServerError(reason(error)) from error


def reason(error: urllib.error.HTTPError) -> str:
    """Why the server refused a request."""
    try:
        problem = json.load(error)
        return f"{error.code} {problem['title']}: {problem.get('detail', '')}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


def shapes_of(shape: str, entry: dict, mask: np.ndarray) -> Iterator[models.LabeledShapeRequest]:
    """The shapes of one class of a reply, whose pixels the mask has."""
    id = entry["id"]
    if shape == "mask":
        yield cvataa.mask(id, encode_mask(mask))
    elif shape == "rectangle":
        left, top, width, height = entry["bbox"]
        yield cvataa.rectangle(id, [left, top, left + width, top + height])
    else:
        for outline in outlines(mask):
            yield cvataa.polygon(id, [float(value) for corner in outline for value in corner])


def outlines(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The outlines of a mask's regions as corners of pixels, clockwise.

    Regions are connected by edges; holes are left out.
    """
    ways = border(mask)
    rings = []
    while ways:
        start = next(iter(ways))
        ring, place, direction = [], start, None
        while True:
            turns = ways[place]
            # Where two regions touch at a corner, a turn to the right stays with the same one.
            step = turns[0] if direction is None or len(turns) == 1 else right_of(direction)
            turns.remove(step)
            if not turns:
                del ways[place]
            if step != direction:
                ring.append(place)
            place, direction = (place[0] + step[0], place[1] + step[1]), step
            if place == start:
                break
        if direction is not None and len(ring) > 1 and collinear(ring[-1], ring[0], ring[1]):
            ring.pop(0)
        if doubled_area(ring) > 0:
            rings.append(ring)
    return rings


def border(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """The edges between a mask and what is around it: for each corner the steps that have the mask at their right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = [
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above
        (padded[1:-1, 2:], (1, 0), (0, 1)),  # to the right
        (padded[2:, 1:-1], (1, 1), (-1, 0)),  # below
        (padded[1:-1, :-2], (0, 1), (0, -1)),  # to the left
    ]
    ways: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbour, (right, down), step in sides:
        for y, x in zip(*np.nonzero(inside & ~neighbour)):
            ways.setdefault((int(x) + right, int(y) + down), []).append(step)
    return ways


def right_of(direction: tuple[int, int]) -> tuple[int, int]:
    """The direction after a turn to the right, where y grows downwards."""
    return -direction[1], direction[0]


def collinear(first: tuple[int, int], middle: tuple[int, int], last: tuple[int, int]) -> bool:
    """Whether three corners lie on one line."""
    return first[0] == middle[0] == last[0] or first[1] == middle[1] == last[1]


def doubled_area(ring: list[tuple[int, int]]) -> int:
    """Twice the area of a ring, positive for one that is clockwise as the image is seen."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, [*ring[1:], ring[0]]))


def create(**arguments) -> MaskclipFunction:
    """Makes the function, as `cvat-cli` does; the README lists the arguments."""
    return MaskclipFunction(**arguments)
