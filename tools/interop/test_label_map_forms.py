"""The forms `polygons` and `panoptic` of `POST /v1/segment`, read by the programs that people use.

They are compared with `raw`. docs/interop.md has the list.
"""

import base64
import io
import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

CLASSES = ["tiger", "lemon", "hamburger", "penguin"]
NONE = 255


@pytest.fixture(scope="module")
def reply(server, picnic) -> dict:
    """A reply that has the label map in all three forms."""
    body = {
        "image": base64.b64encode(picnic).decode(),
        "classes": CLASSES,
        "background": {"names": [], "threshold": 0.4},
        "output": {"label_map": "raw", "label_maps": ["polygons", "panoptic"]},
    }
    request = urllib.request.Request(
        f"{server}/v1/segment", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def labels(reply) -> np.ndarray:
    """The class of each pixel, or NONE."""
    labels = np.array(reply["label_map"]["data"])
    assert NONE in labels and len(np.unique(labels)) > 2, "the map has several classes and pixels of none"
    return labels


def form(reply, name):
    (data,) = [one["data"] for one in reply["label_maps"] if one["format"] == name]
    return data


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_pycocotools_reads_polygons_as_annotations(reply, labels, tmp_path):
    from pycocotools.coco import COCO

    polygons = form(reply, "polygons")
    height, width = labels.shape
    annotations = [one | {"id": id, "image_id": 1} for id, one in enumerate(polygons, 1)]
    categories = [{"id": id, "name": name} for id, name in enumerate(CLASSES, 1)]
    images = [{"id": 1, "file_name": "picnic.png", "width": width, "height": height}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    coco = COCO(path)
    found = np.full(labels.shape, NONE)
    for one in coco.loadAnns(coco.getAnnIds(imgIds=1)):
        mask = coco.annToMask(one).astype(bool)
        assert (found[mask] == NONE).all(), "regions do not overlap"
        found[mask] = one["class_id"]
        assert coco.loadCats(one["category_id"])[0]["name"] == CLASSES[one["class_id"]]
        assert (one["area"], one["bbox"], one["iscrowd"]) == (mask.sum(), box_of(mask), 0)
    assert np.array_equal(found, labels)


def test_datumaro_reads_the_panoptic_form(reply, labels, picnic, tmp_path):
    import datumaro
    from datumaro import AnnotationType

    panoptic = form(reply, "panoptic")
    height, width = labels.shape
    annotation = {"image_id": 1, "file_name": "picnic.png", "segments_info": panoptic["segments_info"]}
    categories = [{"id": id, "name": name, "isthing": 0} for id, name in enumerate(CLASSES, 1)]
    images = [{"id": 1, "file_name": "picnic.png", "width": width, "height": height}]
    # The layout of COCO's download.
    annotations = tmp_path / "annotations"
    (annotations / "panoptic_default").mkdir(parents=True)
    (annotations / "panoptic_default/picnic.png").write_bytes(base64.b64decode(panoptic["png"]))
    text = json.dumps({"images": images, "categories": categories, "annotations": [annotation]})
    (annotations / "panoptic_default.json").write_text(text)
    (tmp_path / "images/default").mkdir(parents=True)
    (tmp_path / "images/default/picnic.png").write_bytes(picnic)
    dataset = datumaro.Dataset.import_from(str(tmp_path), "coco_panoptic")
    names = [label.name for label in dataset.categories()[AnnotationType.label].items]
    (item,) = dataset
    found = np.full(labels.shape, NONE)
    for one in item.annotations:
        found[np.asarray(one.image).astype(bool)] = CLASSES.index(names[one.label])
    assert np.array_equal(found, labels)


def test_the_panoptic_png_has_the_ids_that_panopticapi_makes_of_its_colours(reply, labels):
    panoptic = form(reply, "panoptic")
    image = Image.open(io.BytesIO(base64.b64decode(panoptic["png"])))
    assert image.mode == "RGB"
    color = np.array(image, np.uint32)
    # panopticapi.utils.rgb2id.
    ids = color[:, :, 0] + 256 * color[:, :, 1] + 256 * 256 * color[:, :, 2]
    assert np.array_equal(ids, np.where(labels == NONE, 0, labels + 1))
    # What panopticapi's evaluation asks of an annotation: every id of the PNG has a segment, and none has two.
    segments = panoptic["segments_info"]
    assert [one["id"] for one in segments] == [id for id in np.unique(ids) if id != 0]
    for one in segments:
        mask = ids == one["id"]
        assert one["category_id"] == one["class_id"] + 1 and one["iscrowd"] == 0
        assert (one["area"], one["bbox"]) == (mask.sum(), box_of(mask))
