"""Runs one peer under a clock: what people would use in place of a stage of the server. stages.py starts it.

It speaks the protocol of benches/stages.rs: it prints `{"ready": true}` once everything is loaded, then an answer to
each line `run` or `write PATH` of standard input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import open_clip
import torch
import torch.nn.functional as F
from inputs import LABEL_MAP_SIZE, PATCH, SIDE, TEMPLATES, DenseMaskClip, Inputs, load_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.functional import normalize, pil_to_tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GEMM_SIDE = 2048


class Peer:
    """`run` is timed; `tensors` turns its result into the tensors that are compared with ours."""

    def __init__(self, run: Callable[[], Any], tensors: Callable[[Any], dict[str, Tensor]]) -> None:
        self.run = run
        self.tensors = tensors


def cells(features: Tensor) -> dict[str, Tensor]:
    """The cells of 1 x tokens x embedding, without the class token."""
    return {"features": features[0, 1:].float().contiguous()}


def gemm(inputs: Inputs, precision: str, threads: int) -> Peer:
    """A product of two matrices: the machine's limit."""
    left, right = (torch.randn(GEMM_SIDE, GEMM_SIDE).to(DTYPES[precision]) for _ in range(2))
    return Peer(lambda: left @ right, lambda product: {"product": product.float()})


def eager(inputs: Inputs, precision: str, threads: int) -> Peer:
    """open_clip's modules, eager."""
    module = DenseMaskClip(load_model(inputs)).eval().to(DTYPES[precision])
    pixels = load_file(inputs.tensors)["pixels"][None].to(DTYPES[precision])
    return Peer(lambda: module(pixels), cells)


def compiled(inputs: Inputs, precision: str, threads: int) -> Peer:
    """The same through torch.compile with frozen weights, which are packed for oneDNN beforehand."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    module = torch.compile(DenseMaskClip(load_model(inputs)).eval().to(DTYPES[precision]), dynamic=False)
    pixels = load_file(inputs.tensors)["pixels"][None].to(DTYPES[precision])
    return Peer(lambda: module(pixels), cells)


def onnxruntime(inputs: Inputs, precision: str, threads: int) -> Peer:
    """ONNX Runtime, which has no bfloat16 on CPUs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Its threads may spin during a run, but not during another side's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(inputs.onnx, options, providers=["CPUExecutionProvider"])
    pixels = {"pixels": load_file(inputs.tensors)["pixels"][None].numpy()}
    return Peer(lambda: session.run(None, pixels)[0], lambda features: cells(torch.from_numpy(features)))


def openvino(inputs: Inputs, precision: str, threads: int) -> Peer:
    """OpenVINO, with its hint for latency."""
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
    }
    request = core.compile_model(inputs.onnx, "CPU", settings).create_infer_request()
    pixels = load_file(inputs.tensors)["pixels"][None].numpy()
    request.set_input_tensor(openvino.Tensor(pixels))

    def run() -> numpy.ndarray:
        request.infer()
        return request.get_output_tensor().data

    return Peer(run, lambda features: cells(torch.from_numpy(features.copy())))


def texts(inputs: Inputs, precision: str, threads: int) -> Peer:
    """open_clip's encode_text of the sampled prompts, which are tokens already."""
    model = load_model(inputs).to(DTYPES[precision])
    tokens = load_file(inputs.tensors)["tokens"]
    names, templates = inputs.compared_names.read_text().splitlines(), TEMPLATES.read_text().splitlines()

    def ensembles(_: Tensor) -> dict[str, Tensor]:
        prompts = [template.replace("{}", name, 1) for name in names for template in templates]
        features = F.normalize(model.encode_text(open_clip.tokenize(prompts)).float(), dim=-1)
        # names * templates x embedding -> names x templates x embedding -> names x embedding
        means = features.reshape(len(names), len(templates), -1).mean(1)
        return {"embeddings": F.normalize(means, dim=-1)}

    return Peer(lambda: model.encode_text(tokens), ensembles)


def label_map(inputs: Inputs, precision: str, threads: int) -> Peer:
    """PyTorch's interpolate, softmax and maximum."""
    scores = load_file(inputs.tensors)["scores"][None]
    width, height = LABEL_MAP_SIZE

    def run() -> tuple[Tensor, Tensor]:
        full = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
        return full.softmax(1).max(1)

    def tensors(result: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        probability, labels = result
        return {"labels": labels[0].int(), "confidence": (255 * probability[0]).round().byte()}

    return Peer(run, tensors)


def pixels(inputs: Inputs, precision: str, threads: int) -> Peer:
    """Pillow's decoder and resize, torchvision's normalisation."""
    return Peer(lambda: model_input(Image.open(inputs.jpeg)), lambda pixels: {"pixels": pixels.contiguous()})


def model_input(image: Image.Image) -> Tensor:
    """The model's input, 3 x height x width: short side SIDE, each side rounded to a whole number of patches."""
    scale = SIDE / min(image.size)
    size = tuple(PATCH * max(1, int(side * scale / PATCH + 0.5)) for side in image.size)
    resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return normalize(pil_to_tensor(resized) / 255, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


PEERS = {
    "gemm": gemm,
    "eager": eager,
    "compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "texts": texts,
    "label-map": label_map,
    "pixels": pixels,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--inputs", type=Path, required=True, help="the folder that inputs.py made")
    parser.add_argument("--precision", choices=DTYPES, default="float32")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    # Libraries print to standard error; standard output has only answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        peer = PEERS[arguments.peer](Inputs(arguments.inputs), arguments.precision, arguments.threads)
        print(json.dumps({"ready": True}), file=answers)
        result = None
        for line in sys.stdin:
            command, _, path = line.strip().partition(" ")
            if command == "run":
                result = None  # frees the memory before the clock starts
                start = time.perf_counter()
                result = peer.run()
                print(json.dumps({"seconds": time.perf_counter() - start}), file=answers)
            elif command == "write":
                save_file(peer.tensors(result), path)
                print(json.dumps({"written": path}), file=answers)
            else:
                raise SystemExit(f"{line!r} is no command")


if __name__ == "__main__":
    main()
