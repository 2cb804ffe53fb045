#!/usr/bin/env python3
"""Labels the images of a folder or of Parquet files on a Ray cluster, into Parquet files.

    examples/ray/label.py photos --classes tiger,lemon,grass --out labels
    examples/ray/label.py s3://bucket/images.parquet --classes classes.txt --out s3://bucket/labels --actors 8 --cpus 4

Each actor starts a `maskclip serve` of its own on its node and asks it through the Python client. README.md beside
this file says what is needed on the nodes, what the files hold, and what happens when a node fails.

The images are divided into parts, of which each becomes one file, `part-000017.parquet`, which takes its name when it
is whole. A part that is labelled twice, since its node failed after the first time, replaces its file by an equal
one; a part whose file is there is not labelled again. So every image is in the files exactly once, however often
nodes, actors or the run itself end.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow
import pyarrow.fs
import pyarrow.parquet
import ray
import ray.data
from maskclip_client import Client, MaskclipError, ProblemError

START_SECONDS = 600
"""How long a server may take until it is ready. Large weights on a slow disk take minutes."""

TRIES = 3
"""How often an actor asks for an image or starts a server anew before the run fails."""

AGAIN = (429, 503, 504)
"""Statuses after which the same image may be labelled another time."""

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")

CLASS = pyarrow.struct(
    [
        ("name", pyarrow.string()),
        ("fraction", pyarrow.float32()),
        ("mean_confidence", pyarrow.float32()),
        ("presence", pyarrow.float32()),
    ]
)
SCHEMA = pyarrow.schema(
    [
        ("image", pyarrow.string()),
        ("width", pyarrow.int32()),
        ("height", pyarrow.int32()),
        ("label_map", pyarrow.binary()),
        ("classes", pyarrow.list_(CLASS)),
        ("error", pyarrow.string()),
    ]
)

Part = dict[str, Any]
"""The number of a part and where its images are: `{"part": 17, "paths": [...]}` or `{"part": 17, "file": ...,
"group": 2}`."""


def main() -> None:
    arguments = _arguments()
    source, root = _file_system(arguments.source)
    out, folder = _file_system(arguments.out)
    out.create_dir(folder, recursive=True)
    parts = list(_parts(source, root, arguments))
    if not parts:
        sys.exit(f"there is no image in {arguments.source}")
    _keep_plan(out, folder, parts, arguments)
    left = [one for one in parts if out.get_file_info(_name(folder, one["part"])).type == pyarrow.fs.FileType.NotFound]
    print(f"{len(parts)} parts, of which {len(left)} are left", flush=True)
    if not left:
        return
    ray.init(address=arguments.address, logging_level="WARNING")
    _label(left, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a folder of images or Parquet files, or one such file: a path, or an address for pyarrow")
    parser.add_argument("--classes", required=True, help="names, separated by commas, or a file with a name in each line")
    parser.add_argument("--out", required=True, help="the folder for the Parquet files")
    parser.add_argument("--model", default="demo", help="the name or path of the model on each node")
    parser.add_argument("--options", type=json.loads, default={}, help='further fields of a request, as in {"short_side": 336}')
    parser.add_argument("--actors", type=int, default=1, help="how many servers there are at once")
    parser.add_argument("--cpus", type=int, default=1, help="processors of each")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each")
    parser.add_argument("--part-images", type=int, default=100, help="images of each part of a folder")
    parser.add_argument("--image-column", default="image", help="the column of Parquet files with the encoded images")
    parser.add_argument("--name-column", default="name", help="the column of Parquet files with the images' names")
    parser.add_argument("--program", default="maskclip", help="the program on each node")
    parser.add_argument("--address", help="the address of the Ray cluster; without it, the one around, or else this machine")
    arguments = parser.parse_args()
    if os.path.isfile(arguments.classes):
        arguments.classes = [line for line in Path(arguments.classes).read_text().splitlines() if line]
    else:
        arguments.classes = [name for name in arguments.classes.split(",") if name]
    return arguments


def _file_system(address: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of an address or path, and the path on it."""
    if "://" not in address:
        address = os.path.abspath(address)
    return pyarrow.fs.FileSystem.from_uri(address)


def _parts(source: pyarrow.fs.FileSystem, root: str, arguments: argparse.Namespace) -> Iterator[Part]:
    """The parts in an order that depends on the names alone."""
    found = source.get_file_info(root)
    files = [found] if found.is_file else source.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
    paths = sorted(one.path for one in files if one.is_file)
    tables = [path for path in paths if path.endswith(".parquet")]
    if tables:
        groups = {path: pyarrow.parquet.ParquetFile(source.open_input_file(path)).num_row_groups for path in tables}
        places = [(path, group) for path, count in groups.items() for group in range(count)]
        for number, (path, group) in enumerate(places):
            yield {"part": number, "file": path, "group": group}
        return
    images = [path for path in paths if path.lower().endswith(ENDINGS)]
    for number, first in enumerate(range(0, len(images), arguments.part_images)):
        yield {"part": number, "paths": images[first : first + arguments.part_images]}


def _keep_plan(out: pyarrow.fs.FileSystem, folder: str, parts: list[Part], arguments: argparse.Namespace) -> None:
    """Refuses to go on in a folder whose parts were of other images or settings."""
    settings = {name: getattr(arguments, name) for name in ("classes", "model", "options", "image_column", "name_column")}
    digest = hashlib.sha256(json.dumps([settings, parts], sort_keys=True).encode()).hexdigest()
    path = f"{folder}/plan.json"
    if out.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
        with out.open_output_stream(path) as file:
            file.write(json.dumps({"sha256": digest, "parts": len(parts), **settings}).encode())
        return
    with out.open_input_stream(path) as file:
        if json.loads(file.read())["sha256"] != digest:
            sys.exit(f"{folder} holds labels of other images or settings")


def _name(folder: str, part: int) -> str:
    return f"{folder}/part-{part:06}.parquet"


def _label(parts: list[Part], arguments: argparse.Namespace) -> None:
    texts = [{"part": json.dumps(one)} for one in parts]
    # A task for each part, so that a node takes no more than its own ones with it.
    labelled = ray.data.from_items(texts, override_num_blocks=len(parts)).map(
        Labeller,
        fn_constructor_args=[vars(arguments)],
        compute=ray.data.ActorPoolStrategy(size=arguments.actors, max_tasks_in_flight_per_actor=2),
        num_cpus=arguments.cpus,
        num_gpus=arguments.gpus or None,
        scheduling_strategy="SPREAD",
    )
    begun, images, failed = time.monotonic(), 0, 0
    for row in labelled.iter_rows():
        images, failed = images + row["images"], failed + row["failed"]
        rate = images / (time.monotonic() - begun)
        print(f"part {row['number']} on {row['node']}: {images} images, {failed} failed, {rate:.1f} a second", flush=True)


class Labeller:
    """An actor: a server on this node and a client of it."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.source, _ = _file_system(arguments["source"])
        self.out, self.folder = _file_system(arguments["out"])
        self.server: subprocess.Popen[bytes] | None = None
        self._start()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = json.loads(row["part"])
        rows = self._labelled(list(self._images(part)))
        table = pyarrow.Table.from_pylist(rows, SCHEMA)
        node = ray.get_runtime_context().get_node_id()
        table = table.replace_schema_metadata({"node": node, "model": self.arguments["model"]})
        name = _name(self.folder, part["part"])
        partial = f"{self.folder}/.{part['part']:06}-{os.uname().nodename}-{os.getpid()}.partial"
        with self.out.open_output_stream(partial) as file:
            pyarrow.parquet.write_table(table, file)
        self.out.move(partial, name)
        failed = sum(one["error"] is not None for one in rows)
        return {"number": part["part"], "images": len(rows), "failed": failed, "node": node[:8]}

    def _images(self, part: Part) -> Iterator[tuple[str, bytes]]:
        """The names and the encoded bytes of a part's images."""
        if "paths" in part:
            for path in part["paths"]:
                with self.source.open_input_stream(path) as file:
                    yield path, file.read()
            return
        names, images = self.arguments["name_column"], self.arguments["image_column"]
        file = pyarrow.parquet.ParquetFile(self.source.open_input_file(part["file"]))
        table = file.read_row_group(part["group"], [names, images])
        yield from zip(table[names].to_pylist(), table[images].to_pylist())

    def _labelled(self, images: list[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """The rows of images in their order.

        What may succeed another time is tried again: images for which there was no time or room, and all that are left
        where the server ended or broke off, which is started again.
        """
        rows: dict[int, dict[str, Any]] = {}
        for attempt in range(1, TRIES + 1):
            left = [number for number in range(len(images)) if number not in rows]
            try:
                contents = [images[number][1] for number in left]
                for item in self.client.segment_many(contents, self.arguments["classes"], **self.arguments["options"]):
                    may_succeed = isinstance(item.error, ProblemError) and item.error.problem.status in AGAIN
                    if not may_succeed or attempt == TRIES:
                        rows[left[item.index]] = _row(images[left[item.index]][0], item)
            except (MaskclipError, httpx.TransportError):
                if attempt == TRIES:
                    raise
                self._start()
            if len(rows) == len(images):
                break
        return [rows[number] for number in range(len(images))]

    def _start(self) -> None:
        self._stop()
        variables = {"MASKCLIP_MODELS": self.arguments["model"], "MASKCLIP_VOCABULARY__STORE_PATH": "none"}
        # Images come once, and Ray counts processors without binding actors to them.
        variables |= {"MASKCLIP_IMAGES__CACHE_BYTES": "0", "MASKCLIP_MODEL__THREADS": str(self.arguments["cpus"])}
        if not self.arguments["gpus"]:
            variables["MASKCLIP_MODEL__DEVICE"] = "cpu"
        self.server = subprocess.Popen(
            [self.arguments["program"], "serve", "--listen", "127.0.0.1:0"],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            preexec_fn=_end_with_parent,
        )
        address = _address(self.server)
        _wait_until_ready(self.server, address)
        self.client = Client(address, timeout=START_SECONDS)

    def _stop(self) -> None:
        if self.server is not None:
            self.client.close()
            self.server.kill()
            self.server.wait()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._stop()


def _row(name: str, item: Any) -> dict[str, Any]:
    if isinstance(item.error, ProblemError):
        return {"image": name, "error": f"{item.error.problem.type}: {item.error.problem.detail}"}
    if item.error is not None:
        return {"image": name, "error": str(item.error)}
    result = item.result
    classes = [
        {"name": one.name, "fraction": one.fraction, "mean_confidence": one.mean_confidence, "presence": one.presence}
        for one in result.classes
    ]
    label_map = base64.b64decode(result.reply["label_map"]["data"])
    size = {"width": result.width, "height": result.height}
    return {"image": name, **size, "label_map": label_map, "classes": classes, "error": None}


def _end_with_parent() -> None:
    """Lets the kernel end a server whose actor was killed (prctl's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _address(server: subprocess.Popen[bytes]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(rb"listening on (http://\S+)", line):
            return found[1].decode()
    raise RuntimeError(f"the server ended with status {server.wait()} before it listened")


def _wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health/ready", timeout=5):
            return
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}")
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready after {START_SECONDS} seconds")


if __name__ == "__main__":
    main()
