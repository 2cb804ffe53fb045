"""How many times as long float32 takes as bfloat16, by model and by the instructions that oneDNN may use.

    precision.py PROGRAM [--requests 15]

Two servers, one for each precision, answer in turns: each request has an image and three names that they have not seen.
Prints docs/performance.md's table of the medians of `model_seconds` and `text_seconds`. Run it on an idle machine. ViT-B/16
has random weights. Python 3.10 and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))
from client import marked_base64, send  # noqa: E402
from scenarios import PICNIC  # noqa: E402
from server import Server  # noqa: E402
from weights import write_vit_b_16  # noqa: E402

INSTRUCTIONS = (None, "AVX512_CORE", "AVX2")
"""Of oneDNN's ONEDNN_MAX_CPU_ISA."""
PRECISIONS = ("float32", "bfloat16")
STAGES = ("model_seconds", "text_seconds")
WARM = 3
"""Requests of each server that are not counted."""


async def ratios(program: Path, model: str, instructions: str | None, requests: int) -> list[float]:
    """float32's median over bfloat16's, for each stage."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in itertools.product(PRECISIONS, STAGES)}
    limit = {} if instructions is None else {"ONEDNN_MAX_CPU_ISA": instructions}
    with (
        Server(program, limit, MODELS=f"[{model}]", MODEL__PRECISION="float32") as first,
        Server(program, limit, MODELS=f"[{model}]", MODEL__PRECISION="bfloat16") as second,
    ):
        for number in range(WARM + requests):
            for precision, server in zip(PRECISIONS, (first, second), strict=True):
                names = [f"thing {number} {letter}" for letter in "abc"]
                request = {"image": marked_base64(PICNIC, number), "classes": names}
                reply = await send(server.port, "POST", "/v1/segment", request)
                if reply.status != 200:
                    raise RuntimeError(f"{reply.status}: {reply.detail}")
                for stage in STAGES:
                    if number >= WARM:
                        times[precision, stage].append(reply.json()["timings"][stage])
    return [statistics.median(times["float32", stage]) / statistics.median(times["bfloat16", stage]) for stage in STAGES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--requests", type=int, default=15, help="that each server answers (default: 15)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maskclip-precision-") as folder:
        weights = Path(folder) / "vit-b-16.safetensors"
        write_vit_b_16(weights)
        models = {"`demo`": "demo", "`demo-vit`": "demo-vit", "ViT-B/16": str(weights)}
        print("| instructions |" + "".join(f" {name}, image | texts |" for name in models))
        print("|---|" + "---:|---:|" * len(models))
        for instructions in INSTRUCTIONS:
            name = f"`ONEDNN_MAX_CPU_ISA={instructions}`" if instructions else "all"
            row = [ratio for model in models.values() for ratio in asyncio.run(ratios(options.program, model, instructions, options.requests))]
            print(f"| {name} |" + "".join(f" {ratio:.2f} |" for ratio in row), flush=True)


if __name__ == "__main__":
    main()
