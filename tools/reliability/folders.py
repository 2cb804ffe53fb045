"""The rows of docs/reliability.md about `maskclip label` on a folder of many images: ends by force, shards, memory, and rate."""

from __future__ import annotations

import asyncio
import filecmp
import itertools
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from client import marked, marked_base64, send
from scenarios import ORDINARY, PICNIC, Row
from server import REPOSITORY, Server
from weights import write_vit_b_16

SCENES = sorted(path for path in (REPOSITORY / "examples" / "scenes").rglob("*.png") if ".truth" not in path.name)
MOST_IMAGES = 10_000
IMAGES_PER_SECOND = MOST_IMAGES / 600
"""Images for each second that the scenario may take, up to MOST_IMAGES."""
KILLED_AT = (0.3, 0.7)
"""The shares of the images after which a run is killed."""
SETTLED_AT = 0.2
"""The share of the images after which memory has to stay where it is."""
GROWTH = 0.02
SHARE_OF_THE_MODEL = 0.95
CLASSES = ",".join(ORDINARY["classes"])
ROUNDS = 5


class Label:
    """A run of `maskclip label` in the background."""

    def __init__(self, program: Path, images: Path, out: Path, *flags: str) -> None:
        command = [program, "label", images, "--classes", CLASSES, "--out", out, *flags]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MASKCLIP_")}
        environment["MASKCLIP_VOCABULARY__STORE_PATH"] = str(images.parent / "store.sqlite3")
        self.out = out
        self.log = images.parent / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def written(self) -> int:
        """How many images have their results."""
        masks = self.out / "masks"
        return sum(1 for _ in os.scandir(masks)) if masks.exists() else 0

    def until_written(self, count: int, every: Callable[[], object] = lambda: None) -> None:
        while self.process.poll() is None and self.written() < count:
            every()
            time.sleep(0.05)

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    def end(self) -> None:
        if self.process.wait():
            raise RuntimeError(f"maskclip label ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")


async def folder(program: Path, seconds: float) -> list[Row]:
    """A folder of many images, labelled at once, with two ends by force, and in two shards."""
    count = min(MOST_IMAGES, max(100, round(seconds * IMAGES_PER_SECOND)))
    # The model's share is made small: this is about the files.
    flags = ["--short-side", "64", "--format", "png,coco,csv"]
    with tempfile.TemporaryDirectory(prefix="maskclip-reliability-") as name:
        images = Path(name) / "images"
        images.mkdir()
        sources = [path.read_bytes() for path in SCENES]
        for number in range(count):
            (images / f"{number:05}.png").write_bytes(marked(sources[number % len(sources)], number))
        started = time.monotonic()
        run = Label(program, images, Path(name) / "unbroken", *flags)
        run.until_written(round(SETTLED_AT * count))
        settled = run.resident_bytes()
        later: list[int] = []
        run.until_written(count, lambda: later.append(run.resident_bytes()))
        run.end()
        unbroken = time.monotonic() - started
        for share in KILLED_AT:
            run = Label(program, images, Path(name) / "killed", *flags)
            run.until_written(round(share * count))
            run.process.kill()
            run.process.wait()
        Label(program, images, Path(name) / "killed", *flags).end()
        for shard in range(2):
            Label(program, images, Path(name) / "shards", *flags, "--shard", f"{shard}/2").end()
        differing = {other: differences(Path(name) / "unbroken", Path(name) / other) for other in ("killed", "shards")}
    largest = max(filter(None, later))
    growth = largest / settled - 1
    rows = [
        Row(
            f"{count} images, labelled with {len(KILLED_AT)} kill -9, and in two shards",
            "the same files as an unbroken run",
            f"{differing['killed']} and {differing['shards']} files differ; {count / unbroken:.0f} images a second",
            not any(differing.values()),
        ),
        Row(
            f"memory over {count} images",
            f"resident memory grows under {GROWTH:.0%} after {SETTLED_AT:.0%} of them",
            f"{settled / 1e6:.0f} MB, then at most {largest / 1e6:.0f} MB: {growth:+.1%}",
            growth < GROWTH,
        ),
    ]
    return rows


def differences(left: Path, right: Path) -> int:
    """How many files are in one folder alone, or differ in a byte. What the runs keep for themselves does not count."""
    files = [{path.relative_to(side) for path in side.rglob("*") if path.is_file() and ".maskclip" not in path.parts} for side in (left, right)]
    same = sum(filecmp.cmp(left / path, right / path, shallow=False) for path in files[0] & files[1])
    return len(files[0] | files[1]) - same


async def folder_rate(program: Path, seconds: float) -> list[Row]:
    """Images a second of `label`, beside those of the model alone: the time that a server's requests, one at a time, spend
    in it. Both in turns, for the small embedded model and for one of the size that people use."""
    with tempfile.TemporaryDirectory(prefix="maskclip-reliability-") as name:
        weights = Path(name) / "vit-b-16.safetensors"
        write_vit_b_16(weights)
        return [await rate_beside(program, "demo", seconds / 2, 4), await rate_beside(program, str(weights), seconds / 2, 1)]


async def rate_beside(program: Path, model: str, seconds: float, images_per_second: int) -> Row:
    count = max(20, round(seconds / ROUNDS / 2 * images_per_second))
    shares: list[float] = []
    rates: list[float] = []
    marks = itertools.count()
    with tempfile.TemporaryDirectory(prefix="maskclip-reliability-") as name, Server(program, MODELS=f"[{model}]") as server:
        for number in range(ROUNDS + 1):
            images = Path(name) / str(number) / "images"
            images.mkdir(parents=True)
            for image in range(count):
                (images / f"{image}.png").write_bytes(marked(PICNIC, next(marks)))
            before = model_seconds(server)
            for _ in range(count):
                value = {**ORDINARY, "image": marked_base64(PICNIC, next(marks))}
                assert (await send(server.port, "POST", "/v1/segment", value)).status == 200
            own = count / (model_seconds(server) - before)
            run = Label(program, images, Path(name) / str(number) / "out", "--model", model)
            run.until_written(count // 10)
            started, already = time.monotonic(), run.written()
            run.until_written(count)
            rate = (run.written() - already) / (time.monotonic() - started)
            run.end()
            if number:  # The first round warms both.
                rates.append(rate)
                shares.append(rate / own)
    share = statistics.median(shares)
    reached = f"median {share:.0%} of {ROUNDS} rounds ({min(shares):.0%} to {max(shares):.0%}), {statistics.median(rates):.1f} images a second"
    bar = f"{SHARE_OF_THE_MODEL:.0%} of the rate of the model alone"
    named = "demo" if model == "demo" else "ViT-B/16 with random weights"
    return Row(f"the rate of `maskclip label` with {named}, {count} images a round", bar, reached, share >= SHARE_OF_THE_MODEL)


def model_seconds(server: Server) -> float:
    """The seconds that the model has taken so far, over all requests."""
    return sum(map(float, re.findall(r'^maskclip_stage_seconds_sum\{[^}]*stage="model"[^}]*\} (\S+)$', server.metrics(), re.MULTILINE)))


SCENARIOS = {"folder": folder, "folder-rate": folder_rate}
