"""The client that openapi-python-client makes of the document, unpatched, against the server at MASKCLIP_URL."""

import base64
import io
import json
import os
from pathlib import Path

import cv2
import imageio.v3
import numpy as np
import PIL.Image
import pytest
from maskclip_generated import Client
from maskclip_generated.api.segmentation import (
    delete_image,
    get_image,
    post_image,
    post_image_similar,
    segment,
    segment_batch,
)
from maskclip_generated.api.vocabularies import get_vocabulary, get_vocabulary_status, put_vocabulary
from maskclip_generated.models import (
    BatchBody,
    BatchForm,
    BatchLine,
    ClassDetail,
    FurtherLabelMapFormat,
    ImageForm,
    LabelMapFormat,
    LabelMapReplyCocoRle,
    LabelMapReplyPanoptic,
    LabelMapReplyPng,
    LabelMapReplyPngGrey,
    LabelMapReplyPolygons,
    OutputBody,
    Problem,
    ProblemType,
    SegmentBody,
    SegmentBodyInForm,
    SegmentForm,
    SegmentReply,
    SimilarityBody,
    VocabularyBody,
)
from maskclip_generated.types import File, Response

PICTURE = Path(__file__).parents[3] / "examples" / "fruit.png"
CLASSES = ["apple", ClassDetail(name="banana", synonyms=["plantain"])]


@pytest.fixture
def client() -> Client:
    return Client(base_url=os.environ["MASKCLIP_URL"])


def encoded() -> str:
    return base64.b64encode(PICTURE.read_bytes()).decode()


def file() -> File:
    return File(payload=io.BytesIO(PICTURE.read_bytes()), file_name="fruit.png", mime_type="image/png")


def parsed(response: Response) -> SegmentReply:
    assert response.status_code == 200, response.content
    assert isinstance(response.parsed, SegmentReply)
    return response.parsed


def test_json_and_a_form_say_the_same(client: Client) -> None:
    body = SegmentBody(image=encoded(), classes=CLASSES, background=True)
    from_json = parsed(segment.sync_detailed(client=client, body=body))
    assert [one.name for one in from_json.classes] == ["apple", "banana"]
    assert isinstance(from_json.label_map, LabelMapReplyPng)
    form = SegmentForm(image=file(), request=SegmentBodyInForm(classes=CLASSES, background=["wall"]))
    parsed(segment.sync_detailed(client=client, body=form))
    form = SegmentForm(image=file(), request=SegmentBodyInForm(classes=CLASSES, background=True))
    from_form = parsed(segment.sync_detailed(client=client, body=form))
    assert from_form.classes == from_json.classes
    assert from_form.label_map == from_json.label_map


def test_every_form_of_the_label_map_has_a_type_of_its_own(client: Client) -> None:
    output = OutputBody(
        label_map=LabelMapFormat.COCO_RLE,
        label_maps=[
            FurtherLabelMapFormat.PNG_GREY,
            FurtherLabelMapFormat.POLYGONS,
            FurtherLabelMapFormat.PANOPTIC,
        ],
        probability_maps=["banana"],
        confidence_map=True,
    )
    body = SegmentBody(image=encoded(), classes=CLASSES, output=output)
    reply = parsed(segment.sync_detailed(client=client, body=body))
    assert isinstance(reply.label_map, LabelMapReplyCocoRle)
    assert [mask.class_id for mask in reply.label_map.data] == [one.id for one in reply.classes if one.pixels]
    grey, polygons, panoptic = reply.label_maps
    assert isinstance(grey, LabelMapReplyPngGrey)
    present = [one for one in reply.classes if one.pixels]
    assert isinstance(polygons, LabelMapReplyPolygons)
    assert [(one.class_id, one.area, one.bbox) for one in polygons.data] == [
        (one.id, one.pixels, one.bbox) for one in present
    ]
    assert isinstance(panoptic, LabelMapReplyPanoptic)
    assert [one.id for one in panoptic.data.segments_info] == [one.id + 1 for one in present]
    assert PIL.Image.open(io.BytesIO(base64.b64decode(panoptic.data.png))).mode == "RGB"
    (probabilities,) = reply.probability_maps
    assert (probabilities.class_id, probabilities.name) == (1, "banana")
    assert reply.confidence_map.format_.value == "png"


def test_a_batch_brings_a_line_for_each_image(client: Client) -> None:
    images = [file(), File(payload=io.BytesIO(b"none"), file_name="none")]
    form = BatchForm(image=images, request=BatchBody(classes=CLASSES))
    response = segment_batch.sync_detailed(client=client, body=form)
    assert response.status_code == 200, response.content
    lines = [BatchLine.from_dict(json.loads(line)) for line in response.content.splitlines()]
    lines.sort(key=lambda line: line.index)
    assert [(line.name, line.status) for line in lines] == [("fruit.png", 200), ("none", 422)]
    assert [one.name for one in lines[0].result.classes] == ["apple", "banana"]
    assert lines[1].problem.type_ is ProblemType.UNDECODABLE_IMAGE


def test_an_image_is_left_asked_about_and_dropped(client: Client) -> None:
    held = post_image.sync(client=client, body=ImageForm(image=file()))
    assert get_image.sync(held.image_id, client=client).width == held.width
    body = SegmentBody(image_id=held.image_id, classes=["apple"], background=False)
    assert parsed(segment.sync_detailed(client=client, body=body)).features_cached
    similar = post_image_similar.sync(held.image_id, client=client, body=SimilarityBody(x=1, y=1))
    assert similar.features_cached and similar.range_[0] <= similar.range_[1]
    assert delete_image.sync_detailed(held.image_id, client=client).status_code == 204
    gone = get_image.sync(held.image_id, client=client)
    assert isinstance(gone, Problem)
    assert gone.type_ is ProblemType.IMAGE_NOT_HELD


def test_a_vocabulary_is_defined_and_read(client: Client) -> None:
    body = VocabularyBody(classes=CLASSES, background=["wall"])
    defined = put_vocabulary.sync_detailed("generated", client=client, body=body)
    assert defined.status_code in (200, 201, 202)
    assert defined.parsed.name == "generated"
    read = get_vocabulary.sync("generated", client=client)
    assert read.classes == CLASSES and read.background == ["wall"]
    assert get_vocabulary_status.sync("generated", client=client).name == "generated"
    reply = parsed(segment.sync_detailed(client=client, body=SegmentBody(image=encoded(), vocabulary="generated")))
    assert len(reply.classes) == 2


def test_an_error_is_a_problem(client: Client) -> None:
    problem = segment.sync(client=client, body=SegmentBody(image=encoded(), classes=["apple"], short_side=10**6))
    assert isinstance(problem, Problem)
    assert (problem.status, problem.path, problem.type_) == (422, "short_side", ProblemType.INVALID_REQUEST)
    assert problem.limit.name == "limits.max_short_side"


def test_programs_read_ids_from_the_forms_as_the_documentation_says(client: Client, tmp_path: Path) -> None:
    further = [FurtherLabelMapFormat.PNG, FurtherLabelMapFormat.PNG_GREY]
    output = OutputBody(label_map=LabelMapFormat.RAW, label_maps=further)
    body = SegmentBody(image=encoded(), classes=CLASSES, output=output)
    reply = parsed(segment.sync_detailed(client=client, body=body))
    ids = np.array(reply.label_map.data)
    paths = []
    for form in reply.label_maps:
        paths.append(tmp_path / f"{form.format_.value}.png")
        paths[-1].write_bytes(base64.b64decode(form.data))
    png, grey = paths
    for path in paths:
        assert np.array_equal(np.asarray(PIL.Image.open(path)), ids)
    assert np.array_equal(cv2.imread(str(grey), cv2.IMREAD_UNCHANGED), ids)
    assert cv2.imread(str(png), cv2.IMREAD_UNCHANGED).ndim == 3
    assert np.array_equal(imageio.v3.imread(grey), ids)
    assert imageio.v3.imread(png).ndim == 3
    assert np.array_equal(imageio.v3.imread(png, mode="P"), ids)
