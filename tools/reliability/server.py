"""The server under test: a process of its own with a free port, its memory, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 120
"""How long a server may take until it is ready. A debug build on a busy machine takes half a minute."""


class Server:
    """`maskclip serve` with a store of its own. Settings are environment variables, such as `ENGINE__WORKERS=2`; `more` are
    others than the project's."""

    def __init__(self, program: Path, more: dict[str, str] | None = None, port: int = 0, **settings: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="maskclip-reliability-")
        self.log = Path(self.folder.name) / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MASKCLIP_")}
        environment |= {"MASKCLIP_VOCABULARY__STORE_PATH": str(Path(self.folder.name) / "store.sqlite3")}
        environment |= {f"MASKCLIP_{name}": value for name, value in settings.items()} | (more or {})
        with self.log.open("wb") as log:
            command = [str(program), "serve", "--listen", f"127.0.0.1:{port}"]
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log)
        self.port = self._announced_port()

    def __enter__(self) -> Server:
        self.wait_until_ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.folder.cleanup()

    def _announced_port(self) -> int:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(rb"listening on http://[^ ]*:(\d+)", line):
                return int(found[1])
        raise RuntimeError(f"the server ended before it listened: {self.log.read_text()}")

    def wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not become ready: {self.log.read_text()}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def processor_seconds(self) -> float:
        """Seconds that all threads of the server have used of the processors."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        return self._memory("VmRSS")

    def peak_bytes(self) -> int:
        """The largest resident memory since the last `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as reply:
            return reply.read().decode()

    def metric(self, name: str) -> int:
        """The value of a metric without labels."""
        found = re.search(rf"^{name} (\d+)$", self.metrics(), re.MULTILINE)
        assert found, f"the server has the metric {name}"
        return int(found[1])

    def restarts(self) -> int:
        """How often a model was loaded again."""
        return self.log.read_text(errors="replace").count("loading it again")

    def _memory(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found, f"the system tells {name} of its processes"
        return int(found[1]) * 1024
