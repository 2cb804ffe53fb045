"""The machine learning backend of Label Studio: its predictions by label-studio-sdk's own checks and converter."""

import base64
import json
import urllib.error
import urllib.request

import numpy as np
import pytest
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from pycocotools import mask as coco

CONFIGURATION = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="masks" toName="image"><Label value="tiger"/><Label value="lemon"/></BrushLabels>
  <PolygonLabels name="outlines" toName="image"><Label value="tiger"/><Label value="lemon"/></PolygonLabels>
  <RectangleLabels name="boxes" toName="image"><Label value="tiger"/><Label value="lemon"/></RectangleLabels>
</View>
"""


def post(address: str, body: dict) -> dict:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def test_predictions_are_valid_and_strokes_are_the_pixels_of_the_boxes(server, picnic):
    assert json.load(urllib.request.urlopen(f"{server}/health"))["status"] == "UP"
    assert post(f"{server}/setup", {"project": "1", "schema": CONFIGURATION})["model_version"] == "demo"
    image = "data:image/png;base64," + base64.b64encode(picnic).decode()
    body = {"tasks": [{"id": 1, "data": {"image": image}}], "label_config": CONFIGURATION, "project": "1"}
    (prediction,) = post(f"{server}/predict", body)["results"]

    interface = LabelInterface(CONFIGURATION)
    assert interface.validate_prediction(prediction, return_errors=True) == []

    regions = {(region["type"], *region["value"][region["type"]]): region for region in prediction["result"]}
    outlines = [region["value"] for region in prediction["result"] if region["type"] == "polygonlabels"]
    for label in ("tiger", "lemon"):
        region = regions["brushlabels", label]
        width, height = region["original_width"], region["original_height"]
        mask = brush.decode_rle(region["value"]["rle"]).reshape(height, width, 4)
        assert (mask == mask[:, :, :1]).all() and set(np.unique(mask)) == {0, 255}
        rows, columns = np.nonzero(mask[:, :, 3])
        polygons = [np.array(one["points"]) / 100 * [width, height] for one in outlines if one["polygonlabels"] == [label]]
        drawn = coco.frPyObjects([polygon.round().ravel().tolist() for polygon in polygons], height, width)
        assert np.array_equal(coco.decode(coco.merge(drawn)) > 0, mask[:, :, 3] > 0)
        box = regions["rectanglelabels", label]["value"]
        found = [box["x"] * width / 100, box["y"] * height / 100, box["width"] * width / 100, box["height"] * height / 100]
        expected = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert np.allclose(found, expected)


def test_the_packed_mask_is_the_converters(server, picnic):
    image = "data:image/png;base64," + base64.b64encode(picnic).decode()
    body = {"tasks": [{"id": 1, "data": {"image": image}}], "label_config": CONFIGURATION}
    (prediction,) = post(f"{server}/predict", body)["results"]
    region = next(region for region in prediction["result"] if region["type"] == "brushlabels")
    size = region["original_height"], region["original_width"]
    mask = brush.decode_rle(region["value"]["rle"]).reshape(*size, 4)[:, :, 3]
    assert [int(value) for value in brush.mask2rle(mask)] == region["value"]["rle"]


def test_addresses_are_not_fetched(server):
    body = {"tasks": [{"data": {"image": "http://127.0.0.1:1/a.png"}}], "label_config": CONFIGURATION}
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{server}/predict", body)
    assert "addresses are not fetched" in json.load(refused.value)["detail"]
