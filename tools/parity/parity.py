"""Compares the server's label maps with an independent Python computation, on a photograph and full-size models.

Every model of MODELS gets random weights, which are rounded to 16 bits and saved as open_clip saves them. The server
labels scikit-learn's china.jpg with 20 classes. Python labels it too, with open_clip's towers and MaskCLIP's formulas
as written in tools/golden/dense_reference.py. Labels must be equal wherever the two best scores differ by more than
TOLERANCE. Smaller differences come from the order of arithmetic and from the resize, which is within one step of 255 of
Pillow's.

The interface shows features as cosines. `similarity` is a cosine of dense features with text features. The logarithms
of `image_probability` are the cosines of CLIP's own image feature with text features, times the temperature, up to a
common summand.

Then one set of weights per architecture goes through each of its forms (tools/golden/forms.py). The label maps must
agree wherever the two best scores differ by more than TOLERANCE. The tables go to docs/parity.md.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
import forms  # noqa: E402
from dense_reference import at_size, cell_pixels, dense_features  # noqa: E402

REPORT = REPOSITORY / "docs" / "parity.md"

MODELS = ("RN50-quickgelu", "RN50x16-quickgelu", "ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu")
BRANCHES_OF_RN50 = 16
MODELS_IN_ALL_FORMS = ("RN50-quickgelu", "ViT-B-16-quickgelu")
# The classes of Pascal VOC.
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
TEMPLATE = "a photo of a {}."  # the template set "simple"
TEMPERATURE = 100.0
SHORT_SIDE = 448

TOLERANCE = 0.03
"""In scores (temperature times cosine). The best two usually differ by 0.2."""
SIMILARITY_TOLERANCE = 1e-3
"""In cosines."""
SMALLEST_SHARE_COMPARED = 0.8
"""Of the pixels. Where scores differ by less than the tolerance, equal labels would prove nothing."""
START_SECONDS = 300
REPLY_SECONDS = 300


def random_model(name: str, photograph: Tensor) -> nn.Module:
    """A model whose random weights tell images and texts apart.

    open_clip's initialisation gives all texts nearly the same embedding and switches off every residual branch of a
    ResNet.
    """
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    with torch.no_grad():
        model.token_embedding.weight.normal_(0.0, 0.3)
        normalisations = {
            name: module for name, module in model.visual.named_modules() if isinstance(module, nn.BatchNorm2d)
        }
        branches = sum("layer" in name and name.endswith("bn3") for name in normalisations)
        # Residual branches stay weak, as training keeps them, and weaker the more there are. At full strength a step of 1/255
        # in one pixel would change labels.
        strength = (BRANCHES_OF_RN50 / max(branches, BRANCHES_OF_RN50)) ** 0.5
        for name, normalisation in normalisations.items():
            if name.endswith("bn3"):
                normalisation.weight.uniform_(0.1 * strength, 0.3 * strength)
            else:
                normalisation.weight.uniform_(0.5, 1.5)
            normalisation.bias.normal_(0.0, 0.2)
            normalisation.momentum = None  # the statistics become exactly those of the next pass
        if normalisations:
            model.visual.train()(F.interpolate(photograph, model.visual.image_size))
            model.visual.eval()
        # A number that fits 16 bits is the same in every form.
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half())
    return model


def save(model: nn.Module, name: str, folder: Path) -> Path:
    """Saves weights and configuration as open_clip puts them on model hubs; returns the weights' path."""
    weights = folder / "open_clip_model.safetensors"
    save_file(model.state_dict(), weights)
    save_config_for_hf(model, folder / "open_clip_config.json", model_config=open_clip.get_model_config(name))
    return weights


def working_size(image: Image.Image, cell: int) -> tuple[int, int]:
    """Width and height of the model's input: short side SHORT_SIDE, each side rounded to a whole number of cells."""
    scale = SHORT_SIDE / min(image.size)
    width, height = (cell * max(1, int(side * scale / cell + 0.5)) for side in image.size)
    return width, height


def model_input(image: Image.Image, cell: int) -> Tensor:
    """The resized and normalised image, 1 x 3 x height x width."""
    resized = image.resize(working_size(image, cell), Image.Resampling.BICUBIC)
    return normalize(pil_to_tensor(resized) / 255, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)[None]


@dataclass(frozen=True)
class Expected:
    """What Python computes for one model and attention."""

    scores: Tensor
    """Scores at the image's size, classes x height x width."""
    similarity: Tensor
    """The best cosine of each class."""
    image_cosines: Tensor
    """The cosine of CLIP's own image feature with each class."""


def expected_scores(model: nn.Module, image: Image.Image) -> dict[str, Expected]:
    """What Python computes for each attention of the model."""
    pixels = model_input(image, cell_pixels(model.visual))
    height, width = (side // cell_pixels(model.visual) for side in pixels.shape[2:])
    tokens = open_clip.tokenize([TEMPLATE.format(name) for name in CLASSES])
    text = F.normalize(model.encode_text(tokens), dim=-1)
    tower = at_size(model.visual, *pixels.shape[2:])
    image_cosines = text @ F.normalize(tower(pixels)[0], dim=0)
    features, _ = dense_features(tower, pixels)
    scores = {}
    for attention, cells in features.items():
        cosines = (text @ F.normalize(cells, dim=-1).T).reshape(1, -1, height, width)
        size = (image.height, image.width)
        full = F.interpolate(TEMPERATURE * cosines, size, mode="bilinear", align_corners=False)
        scores[attention] = Expected(full[0], cosines.amax((0, 2, 3)), image_cosines)
    return scores


@contextmanager
def server(program: Path, weights: Path) -> Iterator[str]:
    """Starts a server on these weights, yields its address once it is ready, and stops it afterwards."""
    command = [program, "serve", "--listen", "127.0.0.1:0", "--model", weights, "--device", "cpu", "--precision", "float32"]
    # The caller's own MASKCLIP_ variables must not reach this server.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MASKCLIP_")}
    environment["MASKCLIP_TELEMETRY__LOG_FILTER"] = "warn"
    environment["MASKCLIP_VOCABULARY__STORE_PATH"] = "none"
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
    """The server's reply; its label map is rows of class ids."""
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


def margin(scores: Tensor) -> Tensor:
    """The difference between the best and the second score of each pixel."""
    best = scores.topk(2, dim=0).values
    return best[0] - best[1]


def compare(model: str, attention: str, expected: Expected, reply: dict) -> tuple[bool, str]:
    """Whether the server agrees, and one row of the table."""
    margins = margin(expected.scores)
    labels = torch.tensor(reply["label_map"]["data"])
    differs = labels != expected.scores.argmax(0)
    compared = (margins > TOLERANCE).float().mean().item()
    largest = margins[differs].max().item() if differs.any() else 0.0
    similarity, probability = (
        torch.tensor([row[field] for row in reply["classes"]]) for field in ("similarity", "image_probability")
    )
    similarity_error = (similarity - expected.similarity).abs().max().item()
    image_errors = probability.log() / TEMPERATURE - expected.image_cosines
    image_error = (image_errors - image_errors.mean()).abs().max().item()
    agrees = (
        largest <= TOLERANCE
        and compared >= SMALLEST_SHARE_COMPARED
        and max(similarity_error, image_error) <= SIMILARITY_TOLERANCE
    )
    row = (
        f"| {model} | {attention} | {len(labels.unique())} | {compared:.1%} | {int(differs.sum())} | {largest:.5f}"
        f" | {similarity_error:.1e} | {image_error:.1e} | {'yes' if agrees else 'NO'} |"
    )
    print(row, flush=True)
    return agrees, row


def save_forms(name: str, model: nn.Module, folder: Path) -> dict[str, Path]:
    """Saves the same weights in each of their other forms; returns the paths by the form's name."""
    config, state = open_clip.get_model_config(name), model.state_dict()
    side = config["vision_cfg"]["image_size"]
    openai = folder / "openai.pt"
    # The trace runs in 32 bits, because 16 are slow on a CPU.
    openai.write_bytes(forms.torchscript(forms.traced(config, state, torch.zeros(3, side, side), open_clip.tokenize("a"))))
    pickle = folder / "open_clip.pt"
    pickle.write_bytes(forms.training_checkpoint(state))
    shutil.copy(folder / "open_clip_config.json", folder / "open_clip.json")
    paths = {"OpenAI's archive": openai, "open_clip's pickle": pickle}
    if name.startswith("ViT"):
        hugging_face = folder / "hugging_face"
        forms.transformers_model(config, state).half().save_pretrained(hugging_face)
        paths["Hugging Face's folder"] = hugging_face
    return paths


def compare_forms(model: str, form: str, expected: Expected, first: dict, reply: dict) -> tuple[bool, str]:
    """Whether a form's label map is that of the safetensors file, and one row of the table."""
    labels, others = (torch.tensor(each["label_map"]["data"]) for each in (first, reply))
    differs = labels != others
    compared = margin(expected.scores) > TOLERANCE
    agrees = not (differs & compared).any()
    row = f"| {model} | {form} | {int(differs.sum())} | {int((differs & compared).sum())} | {'yes' if agrees else 'NO'} |"
    print(row, flush=True)
    return agrees, row


def check(name: str, program: Path, image: Image.Image, png: bytes) -> tuple[list[tuple[bool, str]], list[tuple[bool, str]]]:
    """One model's rows of both tables."""
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        folder = Path(temporary)
        model = random_model(name, model_input(image, 32))
        weights = save(model, name, folder)
        expected = expected_scores(model, image)
        with server(program, weights) as address:
            replies = {attention: segment(address, png, attention) for attention in expected}
        rows = [compare(name, attention, expected[attention], reply) for attention, reply in replies.items()]
        form_rows = []
        if name in MODELS_IN_ALL_FORMS:
            for form, path in save_forms(name, model, folder).items():
                with server(program, path) as address:
                    reply = segment(address, png, "maskclip")
                form_rows.append(compare_forms(name, form, expected["maskclip"], replies["maskclip"], reply))
    return rows, form_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", type=Path, default=REPOSITORY / "target" / "release" / "maskclip")
    program = parser.parse_args().program
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights, which are the point here

    image = Image.fromarray(load_sample_image("china.jpg"))
    png = io.BytesIO()
    image.save(png, "PNG")  # lossless, so that both sides start from the same pixels

    rows, form_rows = [], []
    for name in MODELS:
        rows_of_model, form_rows_of_model = check(name, program, image, png.getvalue())
        rows += rows_of_model
        form_rows += form_rows_of_model
    all_agree = all(agrees for agrees, _ in rows + form_rows)
    REPORT.write_text(report([row for _, row in rows], [row for _, row in form_rows]))
    print(f"labels equal wherever the best two scores differ by more than {TOLERANCE}: {all_agree}; see {REPORT}")
    if not all_agree:
        raise SystemExit(1)


def report(rows: list[str], form_rows: list[str]) -> str:
    """docs/parity.md."""
    newline = "\n"
    return f"""# Parity

Written by `make parity`, which compares the server with Python; tools/parity/parity.py says how. Weights are random, at
full size. The image is a photograph of 640 x 427 pixels. There are {len(CLASSES)} classes, the short side is {SHORT_SIDE}, arithmetic
has 32 bits; open_clip {open_clip.__version__}, PyTorch {torch.__version__}.

## The server and Python

Labels are compared where the best two scores (temperature {TEMPERATURE:.0f} times cosine) differ by more than {TOLERANCE}. These
must be at least {SMALLEST_SHARE_COMPARED:.0%} of the pixels, and all of their labels must be equal. Cosines must agree within
{SIMILARITY_TOLERANCE:.0e}: the best cosine of each class with the dense features, and each class's cosine with CLIP's own image
feature.

The residual branches of a ResNet are weakened, more in a deeper one: random branches at full strength would enlarge the
resize's rounding beyond the tolerance. A row with one label seen compares cosines only.

| model | attention | labels seen | pixels compared | labelled otherwise | largest margin among those | dense cosines' error | image cosines' error | agrees |
|---|---|---:|---:|---:|---:|---:|---:|---|
{newline.join(rows)}

## One set of weights in every form

The table compares the label map from each form with the one from open_clip's safetensors file.

| model | form | labelled otherwise | of these beyond the tolerance | agrees |
|---|---|---:|---:|---|
{newline.join(form_rows)}
"""


if __name__ == "__main__":
    main()
