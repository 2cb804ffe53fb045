"""A server as one would write it with FastAPI, open_clip and PyTorch: an image and class names in, a PNG of labels out.

It has what such servers usually have. It keeps text embeddings, and positions at each size. One request at a time uses
the model; the rest of the requests' work overlaps. Its metric of the model's seconds has our metric's name. stages.py
starts it.
"""

from __future__ import annotations

import argparse
import io
import json
import socket
import threading
import time
from functools import lru_cache
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
import uvicorn
from fastapi import FastAPI, File, Form
from fastapi.responses import PlainTextResponse, Response
from inputs import PATCH, DenseMaskClip, Inputs, load_model
from peer import DTYPES, model_input
from PIL import Image
from torch import Tensor

TEMPERATURE = 100.0
TEMPLATE = "a photo of a {}."


class Model:
    """Computes the scores of an image's cells, for one caller at a time."""

    def __init__(self, inputs: Inputs, dtype: torch.dtype) -> None:
        self.model = load_model(inputs).to(dtype)
        self.dtype = dtype
        self.lock = threading.Lock()
        self.seconds = 0.0
        """The seconds that `scores` has taken so far, without waiting."""
        self.tower = lru_cache(8)(self.tower)
        self.embeddings = lru_cache(8)(self.embeddings)

    def tower(self, height: int, width: int) -> DenseMaskClip:
        return DenseMaskClip(self.model, height, width).eval().to(self.dtype)

    def embeddings(self, classes: tuple[str, ...]) -> Tensor:
        """The text embeddings, classes x embedding."""
        tokens = open_clip.tokenize([TEMPLATE.format(name) for name in classes])
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

    def scores(self, pixels: Tensor, classes: tuple[str, ...]) -> Tensor:
        """The scores, 1 x classes x rows x columns."""
        with self.lock:
            start = time.perf_counter()
            height, width = pixels.shape[1:]
            text = self.embeddings(classes)
            cells = self.tower(height, width)(pixels[None].to(self.dtype))[0, 1:].float()
            scores = TEMPERATURE * text @ F.normalize(cells, dim=-1).T
            self.seconds += time.perf_counter() - start
        return scores.reshape(1, -1, height // PATCH, width // PATCH)


def application(model: Model) -> FastAPI:
    app = FastAPI()

    @app.get("/health/ready")
    def ready() -> None:
        return None

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        return f'maskclip_stage_seconds_sum{{stage="model"}} {model.seconds}\n'

    # This is no coroutine, so FastAPI runs it on one of its threads.
    @app.post("/v1/segment")
    def segment(image: bytes = File(), request: str = Form()) -> Response:
        classes = tuple(json.loads(request)["classes"])
        with torch.inference_mode():
            photograph = Image.open(io.BytesIO(image))
            scores = model.scores(model_input(photograph), classes)
            full = F.interpolate(scores, (photograph.height, photograph.width), mode="bilinear", align_corners=False)
            _, labels = full.softmax(1).max(1)
        png = io.BytesIO()
        Image.fromarray(labels[0].byte().numpy()).save(png, "PNG")
        return Response(png.getvalue(), media_type="image/png")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=Path, required=True, help="the folder that inputs.py made")
    parser.add_argument("--precision", choices=DTYPES, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    app = application(Model(Inputs(arguments.inputs), DTYPES[arguments.precision]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


if __name__ == "__main__":
    main()
