"""`POST /v1/embeddings` by the client of OpenAI's API, against open_clip's own vectors; `POST /v1/classify` beside them."""

import base64
import json
import urllib.request
from pathlib import Path

import numpy as np
import openai
import pytest
import random_clip

EXPECTED = json.loads((Path(__file__).parent / "embeddings.json").read_text())
TEXTS, IMAGES = (np.array(EXPECTED[name]) for name in ("texts", "images"))

TOLERANCE = 1e-4
"""Of a value of a vector of unit length, in 32-bit floats."""


@pytest.fixture(scope="module")
def address(serve, tmp_path_factory) -> str:
    """The address of a server on the random CLIP."""
    weights = random_clip.write(tmp_path_factory.mktemp("model"))
    return serve("--model", weights, MASKCLIP_MODEL__PRECISION="float32")


@pytest.fixture(scope="module")
def client(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def data_uri(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode()


def vectors(reply) -> np.ndarray:
    assert [entry.index for entry in reply.data] == list(range(len(reply.data)))
    return np.array([entry.embedding for entry in reply.data])


def test_texts_and_images_are_open_clips(client):
    images = random_clip.images()
    inputs = [*random_clip.TEXTS, *map(data_uri, images)]
    expected = np.concatenate([TEXTS, IMAGES])
    # The client asks for base64 unless told otherwise.
    for options in ({}, {"encoding_format": "float"}):
        reply = client.embeddings.create(model="random-clip", input=inputs, **options)
        found = vectors(reply)
        assert found.shape == expected.shape
        difference = np.abs(found - expected).max()
        print(f"differs from open_clip by {difference:.1e} at most")
        assert difference < TOLERANCE
        assert reply.model == "random-clip"
        assert reply.usage.prompt_tokens == reply.usage.total_tokens > 80


def test_an_image_as_an_object_is_the_same_image(client):
    image = random_clip.images()[1]
    body = {"input": [{"image": base64.b64encode(image).decode()}]}
    reply = client.embeddings.create(model="random-clip", input="", extra_body=body)
    assert np.abs(vectors(reply)[0] - IMAGES[1]).max() < TOLERANCE


def test_errors_are_those_of_the_client(client):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.embeddings.create(model="random-clip", input="a", dimensions=8)
    assert (refused.value.param, refused.value.code) == ("dimensions", "invalid-request")
    assert "cannot be shortened" in refused.value.message
    with pytest.raises(openai.UnprocessableEntityError, match="no model is called"):
        client.embeddings.create(model="text-embedding-3-small", input="a")


def test_classes_of_an_image_are_the_softmax_of_open_clips_cosines(address):
    image = random_clip.images()[2]
    body = {"image": data_uri(image), "classes": ["tiger", "lemon"], "templates": "simple"}
    request = urllib.request.Request(
        f"{address}/v1/classify", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        classes = json.load(reply)["classes"]
    cosines = TEXTS[[0, 5]] @ IMAGES[2]
    weights = np.exp(20 * cosines)
    assert np.abs([entry["similarity"] for entry in classes] - cosines).max() < TOLERANCE
    assert np.abs([entry["probability"] for entry in classes] - weights / weights.sum()).max() < 20 * TOLERANCE
