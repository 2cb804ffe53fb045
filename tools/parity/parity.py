"""The server's label maps against an independent Python computation, on a photograph and full-size models.

ViT-B/16 and RN50 get random weights, saved as open_clip saves them. The server labels scikit-learn's china.jpg with 20
classes; open_clip's towers and MaskCLIP's formulas written in tools/golden/dense_reference.py label it, too. Labels have to
be equal wherever the two best scores differ by more than TOLERANCE. What is left below it is arithmetic in another order
and the resize, which is Pillow's to within one step of 255.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.push_to_hf_hub import save_config_for_hf
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, pil_to_tensor

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "golden"))
from dense_reference import at_size, cell_pixels, dense_features  # noqa: E402

MODELS = ("ViT-B-16-quickgelu", "RN50")
# Those of Pascal VOC.
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
TEMPLATE = "a photo of a {}."  # the template set "simple"
TEMPERATURE = 100.0
SHORT_SIDE = 448

TOLERANCE = 0.03
"""In scores, temperature times cosine, of which the best two usually lie 0.2 apart."""
SIMILARITY_TOLERANCE = 1e-3
"""In cosines."""
SMALLEST_SHARE_COMPARED = 0.8
"""Of the pixels: were the scores closer to each other than the tolerance, equal labels would show nothing."""
START_SECONDS = 300
REPLY_SECONDS = 300


def random_model(name: str, photograph: Tensor) -> nn.Module:
    """A model whose random weights tell things apart: open_clip's initialisation gives all texts nearly one embedding, and
    leaves out every residual branch of a ResNet."""
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    with torch.no_grad():
        model.token_embedding.weight.normal_(0.0, 0.3)
        normalisations = {
            name: module for name, module in model.visual.named_modules() if isinstance(module, nn.BatchNorm2d)
        }
        for name, normalisation in normalisations.items():
            # Residual branches are kept weak, as training keeps them: at full strength a step of 1/255 in one pixel
            # would change labels.
            normalisation.weight.uniform_(0.1, 0.3) if name.endswith("bn3") else normalisation.weight.uniform_(0.5, 1.5)
            normalisation.bias.normal_(0.0, 0.2)
            normalisation.momentum = None  # statistics become exactly those of the next pass
        if normalisations:
            model.visual.train()(F.interpolate(photograph, model.visual.image_size))
            model.visual.eval()
    return model


def save(model: nn.Module, name: str, folder: Path) -> Path:
    """Weights and configuration as open_clip puts them on model hubs."""
    weights = folder / "open_clip_model.safetensors"
    save_file(model.state_dict(), weights)
    save_config_for_hf(model, folder / "open_clip_config.json", model_config=open_clip.get_model_config(name))
    return weights


def working_size(image: Image.Image, cell: int) -> tuple[int, int]:
    """Width and height of the model's input: short side SHORT_SIDE, sides to the nearest whole number of cells."""
    scale = SHORT_SIDE / min(image.size)
    width, height = (cell * max(1, int(side * scale / cell + 0.5)) for side in image.size)
    return width, height


def model_input(image: Image.Image, cell: int) -> Tensor:
    """1 x 3 x height x width, resized and normalised."""
    resized = image.resize(working_size(image, cell), Image.Resampling.BICUBIC)
    return normalize(pil_to_tensor(resized) / 255, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)[None]


def expected_scores(model: nn.Module, image: Image.Image) -> dict[str, tuple[Tensor, Tensor]]:
    """Per attention: scores at image size, classes x height x width, and the best cosine per class."""
    pixels = model_input(image, cell_pixels(model.visual))
    height, width = (side // cell_pixels(model.visual) for side in pixels.shape[2:])
    tokens = open_clip.tokenize([TEMPLATE.format(name) for name in CLASSES])
    text = F.normalize(model.encode_text(tokens), dim=-1)
    features, _ = dense_features(at_size(model.visual, *pixels.shape[2:]), pixels)
    scores = {}
    for attention, cells in features.items():
        cosines = (text @ F.normalize(cells, dim=-1).T).reshape(1, -1, height, width)
        size = (image.height, image.width)
        full = F.interpolate(TEMPERATURE * cosines, size, mode="bilinear", align_corners=False)
        scores[attention] = full[0], cosines.amax((0, 2, 3))
    return scores


@contextmanager
def server(program: Path, weights: Path) -> Iterator[str]:
    """A server on these weights; gives its address once it is ready, and ends it."""
    command = [program, "serve", "--listen", "127.0.0.1:0", "--model", weights, "--device", "cpu", "--precision", "float32"]
    # Settings of whoever runs this are not this server's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MASKCLIP_")}
    environment["MASKCLIP_TELEMETRY__LOG_FILTER"] = "warn"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield ready_address(process)
        finally:
            process.terminate()


def ready_address(process: subprocess.Popen[str]) -> str:
    for line in process.stdout:
        _, found, address = line.strip().partition("listening on ")
        if found:
            break
    else:
        raise SystemExit("the server ended before it listened")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"{address}/health/ready", timeout=5):
                return address
        except OSError:  # refused, or 503: urllib raises both as this
            time.sleep(0.2)
    raise SystemExit(f"the server was not ready after {START_SECONDS} s")


def segment(address: str, image: bytes, attention: str) -> dict:
    """The server's reply, with a label map of rows of class ids."""
    request = {
        "image": base64.b64encode(image).decode(),
        "classes": CLASSES,
        "templates": "simple",
        "attention": attention,
        "prompt_denoising": 0,
        "temperature": TEMPERATURE,
        "short_side": SHORT_SIDE,
        "deadline_seconds": 120,
        "output": {"label_map": "raw"},
    }
    body = json.dumps(request).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    http_request = urllib.request.Request(f"{address}/v1/segment", body, headers)
    try:
        with urllib.request.urlopen(http_request, timeout=REPLY_SECONDS) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{attention}: the server answered {error.code}: {error.read().decode()}") from error


def compare(model: str, attention: str, expected: tuple[Tensor, Tensor], reply: dict) -> bool:
    """Prints one row of the table; whether the server agrees."""
    scores, similarity = expected
    best = scores.topk(2, dim=0)
    margin = best.values[0] - best.values[1]
    labels = torch.tensor(reply["label_map"]["data"])
    differs = labels != best.indices[0]
    compared = (margin > TOLERANCE).float().mean().item()
    largest = margin[differs].max().item() if differs.any() else 0.0
    similarity_error = (similarity - torch.tensor([row["similarity"] for row in reply["classes"]])).abs().max().item()
    agrees = (
        largest <= TOLERANCE and compared >= SMALLEST_SHARE_COMPARED and similarity_error <= SIMILARITY_TOLERANCE
    )
    print(
        f"{model:20} {attention:21} {len(labels.unique()):7} {compared:9.1%} {int(differs.sum()):7} {largest:14.5f}"
        f" {similarity_error:16.1e}  {'agrees' if agrees else 'DISAGREES'}",
        flush=True,
    )
    return agrees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", type=Path, default=REPOSITORY / "target" / "release" / "maskclip")
    program = parser.parse_args().program
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights, which are the point here

    image = Image.fromarray(load_sample_image("china.jpg"))
    png = io.BytesIO()
    image.save(png, "PNG")  # lossless, so that both sides start from the same pixels

    print(
        f"{'model':20} {'attention':21} {'classes':>7} {'compared':>9} {'differ':>7} {'largest margin':>14}"
        f" {'similarity error':>16}"
    )
    agreements = []
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model = random_model(name, model_input(image, 32))
            weights = save(model, name, Path(folder))
            expected = expected_scores(model, image)
            with server(program, weights) as address:
                agreements += [
                    compare(name, attention, scores, segment(address, png.getvalue(), attention))
                    for attention, scores in expected.items()
                ]
    print(f"labels equal wherever the best two scores differ by more than {TOLERANCE}: {all(agreements)}")
    if not all(agreements):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
