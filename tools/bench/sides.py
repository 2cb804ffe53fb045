"""The processes that take turns: programs that speak the protocol of benches/stages.rs, and servers.

This module owns their environment, start, end and memory. stages.py decides what they are asked.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from safetensors.torch import load_file
from torch import Tensor

START_SECONDS = 600
REPLY_SECONDS = 600
BOUNDARY = "a-boundary-that-no-part-holds"


def environment(threads: int, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every process: `threads` threads that sleep while they wait and so slow no other side down.

    The caller's own MASKCLIP_ settings are left out.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("MASKCLIP_")}
    count = str(threads)
    shared = {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return own | shared | dict(more or {})


class Process:
    """A running program."""

    def __init__(self, name: str, command: list[str | Path], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
            )

    def read_line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}; its log is {self.log}")
        return line

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def status_bytes(self, field: str) -> int:
        """A field of /proc in bytes: VmRSS is the memory now, VmHWM the most memory since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1])

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


class Side(Process):
    """A program that does one thing for each request."""

    def __init__(self, name: str, command: list[str | Path], environment: dict[str, str], log: Path) -> None:
        super().__init__(name, command, environment, log)
        self.peak_bytes = 0
        """The most memory that a run took beyond what the program had before it."""
        if not json.loads(self.read_line()).get("ready"):
            raise SystemExit(f"{name} is not ready")

    def ask(self, command: str) -> dict:
        self.process.stdin.write(f"{command}\n")
        return json.loads(self.read_line())

    def run(self) -> float:
        """The seconds of one run, by the program's own clock."""
        self.forget_peak()
        before = self.status_bytes("VmRSS")
        seconds = self.ask("run")["seconds"]
        self.peak_bytes = max(self.peak_bytes, self.status_bytes("VmHWM") - before)
        return seconds

    def output(self, folder: Path) -> dict[str, Tensor]:
        """The result of a new run."""
        self.run()
        return self.result(folder)

    def result(self, folder: Path) -> dict[str, Tensor]:
        """The result of the last run."""
        path = folder / "output.safetensors"
        self.ask(f"write {path}")
        tensors = load_file(path)
        path.unlink()
        return tensors


@dataclass(frozen=True)
class Reply:
    seconds: float
    """The time from before the request is written until its answer is read."""
    status: int
    body: bytes


class Server(Process):
    """A ready server on its own port."""

    def __init__(self, name: str, command: list[str | Path], environment: dict[str, str], log: Path) -> None:
        start = time.perf_counter()
        super().__init__(name, command, environment, log)
        while not (found := re.search(r"listening on (http://\S+)", self.read_line())):
            pass
        address = urlsplit(found[1])
        self.host, self.port = address.hostname, address.port
        while self.request(self.connect(), "GET", "/health/ready", allowed=(200, 503)).status != 200:
            if time.perf_counter() - start > START_SECONDS:
                raise SystemExit(f"{name} is not ready after {START_SECONDS} seconds")
            time.sleep(0.005)
        self.start_seconds = time.perf_counter() - start
        """The time from the start of the process until it is ready."""

    def connect(self) -> http.client.HTTPConnection:
        """A connection to keep for many requests."""
        return http.client.HTTPConnection(self.host, self.port, timeout=REPLY_SECONDS)

    def request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        allowed: tuple[int, ...] = (200,),
    ) -> Reply:
        start = time.perf_counter()
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        content = response.read()
        seconds = time.perf_counter() - start
        if response.status not in allowed:
            raise SystemExit(f"{self.name} answered {response.status} to {method} {path}: {content[:500].decode()}")
        return Reply(seconds, response.status, content)

    def segment(
        self, connection: http.client.HTTPConnection, image: bytes, request: dict, accept: str, allowed: tuple[int, ...] = (200,)
    ) -> Reply:
        """Segments one image."""
        return self.upload(connection, "/v1/segment", image, request, accept, allowed)

    def upload(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        image: bytes,
        request: dict,
        accept: str = "application/json",
        allowed: tuple[int, ...] = (200,),
    ) -> Reply:
        """Sends one image as a multipart form."""
        parts = [
            ('name="image"; filename="image.jpg"', "image/jpeg", image),
            ('name="request"', "application/json", json.dumps(request).encode()),
        ]
        body = b"".join(
            f"--{BOUNDARY}\r\nContent-Disposition: form-data; {name}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
            for name, kind, content in parts
        )
        body += f"--{BOUNDARY}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Accept": accept}
        return self.request(connection, "POST", path, body, headers, allowed)

    def model_seconds(self) -> float:
        """The seconds that the model has taken so far, over all requests."""
        metrics = self.request(self.connect(), "GET", "/metrics").body.decode()
        values = re.findall(r'^maskclip_stage_seconds_sum\{[^}]*stage="model"[^}]*\} (\S+)$', metrics, re.MULTILINE)
        return sum(map(float, values))
