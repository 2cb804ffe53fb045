"""The auto-annotation function of clients/cvat by cvat-sdk's own driver, on a data set that needs no CVAT."""

import io
import logging
import sys
from types import SimpleNamespace

import cvat_sdk.auto_annotation as cvataa
import cvat_sdk.auto_annotation.driver as driver
import cvat_sdk.models as models
import numpy as np
import pytest
from conftest import REPOSITORY
from cvat_sdk.masks import decode_mask
from PIL import Image, ImageDraw

sys.path.insert(0, str(REPOSITORY / "clients" / "cvat"))

import maskclip_cvat  # noqa: E402

CLASSES = ["tiger", "lemon", "hamburger"]
LABEL_IDS = {name: 100 + place for place, name in enumerate(CLASSES)}


@pytest.fixture
def annotate(monkeypatch, picnic):
    """Runs the driver on a task of one image and returns the shapes that it would upload."""
    image = Image.open(io.BytesIO(picnic))
    labels = [models.Label(name=name, id=id, attributes=[], type="any", sublabels=[]) for name, id in LABEL_IDS.items()]
    sample = SimpleNamespace(frame_name="picnic.png", frame_index=3, media=SimpleNamespace(load_image=lambda: image))
    monkeypatch.setattr(
        driver, "TaskDataset", lambda *_, **__: SimpleNamespace(labels=labels, samples=[sample])
    )

    def run(function, **options) -> list:
        uploaded = []
        api = SimpleNamespace(
            partial_update_annotations=lambda *_, patched_labeled_data_request: uploaded.append(
                patched_labeled_data_request
            )
        )
        client = SimpleNamespace(logger=logging.getLogger("cvat"), tasks=SimpleNamespace(api=api))
        cvataa.annotate_task(client, 1, function, **options)
        (data,) = uploaded
        assert not data.tags and all(shape.frame == 3 and shape.source == "auto" for shape in data.shapes)
        return data.shapes

    return run


def function(server, **arguments) -> maskclip_cvat.MaskclipFunction:
    return maskclip_cvat.create(url=server, classes=", ".join(CLASSES), background=True, **arguments)


def by_label(shapes) -> dict[int, list]:
    found = {}
    for shape in shapes:
        found.setdefault(shape.label_id, []).append(shape)
    return found


def test_masks_polygons_and_rectangles_are_of_the_same_pixels(annotate, server):
    masks = by_label(annotate(function(server)))
    polygons = by_label(annotate(function(server), conv_mask_to_poly=True))
    rectangles = by_label(annotate(function(server, shape="rectangle")))
    assert set(masks) == set(polygons) == set(rectangles) == set(LABEL_IDS.values())
    for label, (mask,) in masks.items():
        pixels = decode_mask(mask.points, image_width=512, image_height=384)
        rows, columns = np.nonzero(pixels)
        (rectangle,) = rectangles[label]
        assert rectangle.points == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        filled = np.zeros_like(pixels)
        for polygon in polygons[label]:
            filled |= drawn(polygon.points)
        assert filled[pixels].all() and filled.sum() < 1.2 * without_holes(pixels).sum()


def without_holes(pixels: np.ndarray) -> np.ndarray:
    """The pixels of a mask and those that they surround, which polygons cover as well."""
    around = Image.fromarray(np.pad(pixels.astype(np.uint8), 1))
    ImageDraw.floodfill(around, (0, 0), 2)
    return np.array(around)[1:-1, 1:-1] != 2


def drawn(points: list[float]) -> np.ndarray:
    """The pixels whose centres are inside of a polygon."""
    scale = 2
    canvas = Image.new("1", (512 * scale, 384 * scale))
    # Of a pixel's four parts, the one at the lower right begins at its centre.
    corners = [(x * scale - 0.5, y * scale - 0.5) for x, y in zip(points[::2], points[1::2])]
    ImageDraw.Draw(canvas).polygon(corners, fill=1)
    return np.array(canvas)[1::scale, 1::scale]


def test_what_is_less_sure_than_the_threshold_is_left_out(annotate, server):
    assert len(annotate(function(server), conf_threshold=0.0)) == len(CLASSES)
    assert annotate(function(server), conf_threshold=1.0) == []


def test_a_vocabulary_has_the_labels(server):
    made = maskclip_cvat.create(url=server, vocabulary="voc-21")
    assert len(made.spec.labels) == 21


def test_what_is_wrong_is_said(server):
    with pytest.raises(ValueError, match="either classes"):
        maskclip_cvat.create(url=server)
    with pytest.raises(ValueError, match="shape must be one of"):
        function(server, shape="circle")
    with pytest.raises(maskclip_cvat.ServerError, match="no vocabulary is called"):
        maskclip_cvat.create(url=server, vocabulary="none")


def test_outlines_are_clockwise_along_the_edges_of_pixels():
    mask = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]], bool)
    found = [sorted(ring) for ring in maskclip_cvat.outlines(mask)]
    assert sorted(found) == [[(0, 2), (0, 3), (1, 2), (1, 3)], [(1, 0), (1, 2), (3, 0), (3, 2)]]
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert maskclip_cvat.outlines(ring) == [[(0, 0), (3, 0), (3, 3), (0, 3)]]
