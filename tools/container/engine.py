"""A Docker Engine for the tests and builds of images: the one that answers, or one that is started while it is needed.

As a program it runs a command with DOCKER (the client) and DOCKER_HOST set: engine.py COMMAND [...]. Where no engine answers and
none can be started, it says so and ends with status 75, which the callers take for "skipped".
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STATE = REPOSITORY / ".cache" / "container"
"""Where an engine of our own keeps its images."""
START_SECONDS = 60
SKIPPED = 75


def answers(client: str, host: str | None = None) -> bool:
    command = [client, *(["--host", host] if host else []), "info"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def client() -> str | None:
    """Docker's client. Debian's own comes first: it has BuildKit without a plugin."""
    chosen = os.environ.get("DOCKER")
    candidates = [chosen] if chosen else ["/usr/bin/docker", shutil.which("docker")]
    return next((name for name in candidates if name and os.access(shutil.which(name) or name, os.X_OK)), None)


@contextlib.contextmanager
def engine() -> Iterator[dict[str, str] | None]:
    """Yields the environment in which the client finds an engine, or None if there is none to be had."""
    name = client()
    if name and answers(name):
        yield {"DOCKER": name}
    elif name and shutil.which("dockerd") and os.geteuid() == 0:
        with started(name) as environment:
            yield environment
    else:
        yield None


@contextlib.contextmanager
def started(name: str) -> Iterator[dict[str, str] | None]:
    """Starts an engine on a socket of its own, and ends it by its process."""
    STATE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="maskclip-engine.") as run:
        host = f"unix://{run}/docker.sock"
        command = ["dockerd", f"--host={host}", f"--data-root={STATE}/data", f"--exec-root={run}/exec", f"--pidfile={run}/pid"]
        with open(STATE / "log", "w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            end = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < end and not answers(name, host):
                time.sleep(0.2)
            runs = process.poll() is None and answers(name, host)
            if not runs:
                print(f"the engine cannot be started here; {STATE}/log says why", file=sys.stderr)
            yield {"DOCKER": name, "DOCKER_HOST": host} if runs else None
        finally:
            process.terminate()
            process.wait(60)


def main() -> int:
    with engine() as environment:
        if environment is None:
            print("no Docker Engine answers here, and none can be started (Debian's docker.io, as root): skipped")
            return SKIPPED
        return subprocess.run(sys.argv[1:], env={**os.environ, **environment, "DOCKER_BUILDKIT": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
