"""`POST /` by the inference client of Hugging Face's hub."""

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

CLASSES = ["tiger", "lemon", "hamburger"]


@pytest.fixture(scope="module")
def client(server) -> InferenceClient:
    return InferenceClient(f"{server}/?classes={','.join(CLASSES)}&background=true")


def test_segments_are_masks_with_labels_and_scores(client, picnic):
    segments = client.image_segmentation(picnic)
    assert {segment.label for segment in segments} == set(CLASSES)
    pixels = np.zeros((384, 512), int)
    for segment in segments:
        mask = np.array(segment.mask)
        assert mask.shape == pixels.shape and set(np.unique(mask)) == {0, 255}
        assert 0 < segment.score <= 1
        pixels += mask == 255
    assert pixels.max() == 1, "segments do not overlap"


def test_a_file_is_sent_with_its_type_and_parameters_inside_of_json(client, picnic, tmp_path):
    path = tmp_path / "picnic.png"
    path.write_bytes(picnic)
    all_segments = client.image_segmentation(path)
    threshold = sorted(segment.score for segment in all_segments)[1]
    some = client.image_segmentation(path, threshold=threshold, subtask="semantic")
    assert len(all_segments) == 3 and [segment.score >= threshold for segment in some] == [True, True]
    assert client.image_segmentation(path, mask_threshold=1.0) == []


def test_a_vocabulary_has_the_classes(server, picnic):
    segments = InferenceClient(f"{server}/?vocabulary=voc-21").image_segmentation(picnic)
    assert segments and all(segment.label for segment in segments)


def test_an_image_has_the_likeliest_label_first(server, picnic):
    client = InferenceClient(server)
    labels = client.zero_shot_image_classification(picnic, candidate_labels=["tiger", "lemon", "penguin"])
    assert {label.label for label in labels} == {"tiger", "lemon", "penguin"}
    scores = [label.score for label in labels]
    assert scores == sorted(scores, reverse=True) and abs(sum(scores) - 1) < 1e-4
    alike = client.zero_shot_image_classification(
        picnic, candidate_labels=["tiger", "lemon", "penguin"], hypothesis_template="This is a photo of {}."
    )
    assert alike == labels


def test_the_client_shows_what_is_wrong(server, picnic):
    with pytest.raises(HfHubHTTPError, match="the address must name classes"):
        InferenceClient(server).image_segmentation(picnic)
    with pytest.raises(HfHubHTTPError, match="none of the formats"):
        InferenceClient(f"{server}/?classes=a,b").image_segmentation(b"no image")
    with pytest.raises(HfHubHTTPError, match="do not overlap"):
        InferenceClient(f"{server}/?classes=a,b").image_segmentation(picnic, overlap_mask_area_threshold=0.5)
