"""`/v2` by Triton's client for the Open Inference Protocol over HTTP."""

import io

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

CLASSES = np.array([b"tiger", b"lemon", b"hamburger"], object)


@pytest.fixture(scope="module")
def client(server):
    client = triton.InferenceServerClient(server.removeprefix("http://"))
    yield client
    client.close()


def tensor(name: str, values: np.ndarray, datatype: str, **options) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, **options)
    return made


def test_server_and_models_are_described(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata()["name"] == "maskclip"
    assert client.is_model_ready("demo") and client.is_model_ready("demo", "1")
    assert not client.is_model_ready("none")
    assert [model["name"] for model in client.get_model_repository_index()] == ["demo"]
    metadata = client.get_model_metadata("demo")
    assert {output["name"]: output["datatype"] for output in metadata["outputs"]} == {
        "label_map": "UINT16",
        "scores": "FP32",
        "classes": "BYTES",
    }


def test_files_and_pixels_give_the_same_label_map(client, picnic):
    pixels = np.array(Image.open(io.BytesIO(picnic)).convert("RGB"))
    inputs = [
        tensor("image", np.array([picnic], object), "BYTES"),
        tensor("pixels", pixels, "UINT8"),
    ]
    maps = []
    for image in inputs:
        result = client.infer("demo", [image, tensor("classes", CLASSES, "BYTES")], parameters={"background": True})
        maps.append(result.as_numpy("label_map"))
        assert list(result.as_numpy("classes")) == list(CLASSES)
        scores = result.as_numpy("scores")
        assert scores.dtype == np.float32 and scores.shape == (3,) and (scores > 0.3).all()
    assert maps[0].shape == pixels.shape[:2] and maps[0].dtype == np.uint16
    assert set(np.unique(maps[0])) == {0, 1, 2, 65535}
    assert np.array_equal(*maps)


def test_tensors_in_json_are_the_same(client, picnic):
    classes = tensor("classes", CLASSES, "BYTES", binary_data=False)
    image = tensor("image", np.array([picnic], object), "BYTES")
    outputs = [triton.InferRequestedOutput("label_map", binary_data=False), triton.InferRequestedOutput("scores")]
    result = client.infer("demo", [image, classes], outputs=outputs, request_id="7", model_version="1")
    assert result.get_response()["id"] == "7"
    whole = client.infer("demo", [image, classes])
    assert np.array_equal(result.as_numpy("label_map"), whole.as_numpy("label_map"))
    assert np.array_equal(result.as_numpy("scores"), whole.as_numpy("scores"))
    assert result.as_numpy("classes") is None


def test_the_client_shows_what_is_wrong(client, picnic):
    image = tensor("image", np.array([picnic], object), "BYTES")
    with pytest.raises(InferenceServerException, match="one of classes, vocabulary and protocol is required"):
        client.infer("demo", [image])
    with pytest.raises(InferenceServerException, match="no model is called"):
        client.infer("none", [image])
    with pytest.raises(InferenceServerException, match="there is no field parameters.colour"):
        client.infer("demo", [image], parameters={"colour": "red"})
    with pytest.raises(InferenceServerException, match="nothing is served at"):
        client.get_model_config("demo")
