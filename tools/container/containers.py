"""Containers under test: their start and end, requests to the server inside, and what the engine says of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = os.environ.get("DOCKER", "docker")
AT_LAST = 300
"""The most seconds that anything may take on a busy machine."""


def docker(*arguments: str, check: bool = True) -> str:
    """What the client prints, both streams together."""
    done = subprocess.run([DOCKER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def until(what: str, holds: Callable[[], object]) -> None:
    end = time.monotonic() + AT_LAST
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(what)
        time.sleep(0.05)


class Container:
    """A container that was started."""

    def __init__(self, name: str) -> None:
        self.name = name

    def state(self) -> dict:
        return json.loads(docker("inspect", self.name))[0]["State"]

    def health(self) -> str:
        return self.state()["Health"]["Status"]

    def logs(self) -> str:
        return docker("logs", self.name)

    def until_healthy(self) -> None:
        def is_healthy() -> bool:
            state = self.state()
            assert state["Running"], f"it ended with {state['ExitCode']}:\n{self.logs()}"
            return state["Health"]["Status"] == "healthy"

        until(f"{self.name} is healthy", is_healthy)

    def until_ready(self) -> None:
        """Asks from outside, as a client would. A check inside takes an engine long on a busy machine."""
        inside = ["nsenter", "--net", "--target", str(self.state()["Pid"]), "curl", "--fail", "--silent", "--output", os.devnull]

        def is_answered() -> bool:
            state = self.state()
            assert state["Running"], f"it ended with {state['ExitCode']}:\n{self.logs()}"
            return subprocess.run([*inside, "http://127.0.0.1:8080/health/ready"]).returncode == 0

        until(f"{self.name} is ready", is_answered)

    def end(self) -> int:
        """Waits for the end. Returns the exit code."""
        until("it ends", lambda: not self.state()["Running"])
        return self.state()["ExitCode"]

    def address(self) -> str:
        """Its address on the engine's bridge."""
        networks = json.loads(docker("inspect", self.name))[0]["NetworkSettings"]["Networks"]
        return f"http://{next(iter(networks.values()))['IPAddress']}:8080"

    def published(self) -> str:
        return f"http://{docker('port', self.name, '8080/tcp').split()[0]}"

    def signal(self, name: str) -> None:
        docker("kill", "--signal", name, self.name)

    def catches(self, number: int) -> bool:
        """Whether the server has a handler for a signal. Without one the kernel drops it, as this is process 1."""
        status = Path(f"/proc/{self.state()['Pid']}/status").read_text()
        caught = int(re.search(r"^SigCgt:\t(\w+)$", status, re.MULTILINE)[1], 16)
        return bool(caught >> (number - 1) & 1)

    def threads(self) -> list[str]:
        """The names of the server's threads."""
        return [path.read_text().strip() for path in Path(f"/proc/{self.state()['Pid']}/task").glob("*/comm")]


def remove(name: str) -> None:
    """Removes a container. An engine on a busy machine may give up waiting for its end at the first try."""
    for _ in range(5):
        if subprocess.run([DOCKER, "rm", "--force", "--volumes", name], capture_output=True).returncode == 0:
            return
        time.sleep(1)


@contextlib.contextmanager
def started(image: str, *options: str, command: tuple[str, ...] = ()) -> Iterator[Container]:
    """Starts an image with options of `docker run` and removes the container at the end."""
    name = f"maskclip-{uuid.uuid4().hex[:12]}"
    try:
        docker("run", "--detach", "--name", name, *options, image, *command)
        yield Container(name)
    finally:
        remove(name)


@contextlib.contextmanager
def volume() -> Iterator[str]:
    name = f"maskclip-{uuid.uuid4().hex[:12]}"
    docker("volume", "create", name)
    try:
        yield name
    finally:
        docker("volume", "rm", name, check=False)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=AT_LAST) as reply:
        return reply.read()


def send(url: str, body: dict, method: str = "POST") -> tuple[int, dict]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=AT_LAST) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def metric(address: str, name: str) -> float:
    line = re.search(rf"^{name} (.*)$", get(f"{address}/metrics").decode(), re.MULTILINE)
    assert line, f"{name} is not in the metrics"
    return float(line[1])


def readme_curl(address: str, prefix: tuple[str, ...] = ()) -> dict:
    """The answer to the README's request."""
    readme = (REPOSITORY / "README.md").read_text()
    command = re.search(r"^\$ (curl -s http://127\.0\.0\.1:8080/v1/segment .*?)\n```", readme, re.MULTILINE | re.DOTALL)[1]
    line = command.replace("http://127.0.0.1:8080", address)
    done = subprocess.run([*prefix, "bash", "-c", line], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def is_ready(address: str) -> bool:
    try:
        return get(f"{address}/health/ready") != b""
    except OSError:
        return False


def post_image(url: str, picture: bytes, classes: list[str]) -> int:
    """Sends an image with classes as a form. Returns the status, 0 for a connection without an answer."""
    boundary = uuid.uuid4().hex
    part = f"--{boundary}\r\ncontent-disposition: form-data; name="
    fields = f'{part}"request"\r\n\r\n{json.dumps({"classes": classes, "deadline_seconds": AT_LAST})}\r\n{part}"image"; filename="image"\r\n\r\n'
    body = fields.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(url, body, {"content-type": f"multipart/form-data; boundary={boundary}"})
    try:
        with urllib.request.urlopen(request, timeout=AT_LAST) as reply:
            reply.read()
            return reply.status
    except urllib.error.HTTPError as error:
        print(f"\n{error.code}: {error.read().decode()}")
        return error.code
    except OSError:
        return 0
