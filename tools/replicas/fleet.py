"""Replicas on a core each, proxies in front of them, and a client that keeps its connections. Standard library only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))
from server import Server  # noqa: E402

IMAGE_HEADER = "X-MaskCLIP-Image"
"""SHA-256 of an image's bytes, by which a proxy sends all requests about one image to one replica."""

START_SECONDS = 30

TICKS = os.sysconf("SC_CLK_TCK")


class Replica(Server):
    """A server that is bound to one core, whose port a later one may take over."""

    def __init__(self, program: Path, core: int, port: int = 0, **settings: str) -> None:
        self.core = core
        own = os.sched_getaffinity(0)
        # The process inherits it, so that it counts one processor from its start.
        os.sched_setaffinity(0, {core})
        try:
            super().__init__(program, port=port, **settings)
        finally:
            os.sched_setaffinity(0, own)

    def kill(self) -> None:
        """Ends it without a word, as the kernel or a lost node would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def counted(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as reply:
            values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", reply.read().decode(), re.MULTILINE)
        return sum(map(float, values))


@contextlib.contextmanager
def replicas(program: Path, count: int, **settings: str) -> Iterator[list[Replica]]:
    """Ready replicas, each on the next core, as far as there are cores."""
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        started = [Replica(program, cores[number % len(cores)], **settings) for number in range(count)]
        for replica in started:
            stack.enter_context(replica)
        yield started


class Proxy:
    """A proxy in front of replicas, on a free port of the loopback address."""

    def __init__(self, command: list[str], folder: Path, port: int) -> None:
        self.port = port
        with open(folder / "output", "w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} did not start: {(folder / 'output').read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def processor_seconds(self) -> float:
        """Processor time of the proxy and its workers until now."""
        processes = {self.process.pid}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[1]) in processes:
                    processes.add(int(path.parent.name))
        total = 0
        for process in processes:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def proxy(kind: str, ports: list[int], hashed: bool = False, retries: bool = True) -> Iterator[Proxy]:
    """A proxy over replicas: by turns, or `hashed` by the image. `retries` lets it ask another replica for one that
    fails."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="maskclip-replicas-") as name:
        folder = Path(name)
        file = folder / f"{kind}.conf"
        file.write_text({"nginx": nginx, "haproxy": haproxy}[kind](folder, port, ports, hashed, retries))
        commands = {
            "nginx": ["nginx", "-p", name, "-c", str(file), "-e", str(folder / "log")],
            "haproxy": ["haproxy", "-db", "-f", str(file)],
        }
        running = Proxy(commands[kind], folder, port)
        try:
            yield running
        finally:
            running.stop()


def installed() -> list[str]:
    return [kind for kind in ("nginx", "haproxy") if shutil.which(kind)]


def nginx(folder: Path, port: int, ports: list[int], hashed: bool, retries: bool) -> str:
    own = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root; " if os.geteuid() == 0 else ""
    variable = IMAGE_HEADER.lower().replace("-", "_")
    servers = "\n".join(f"server 127.0.0.1:{one};" for one in ports)
    return f"""{user}pid {folder}/pid; error_log {folder}/log; daemon off; worker_processes 1; events {{}}
http {{ access_log off; {own}
    # Requests that name no image go to any replica.
    map $http_{variable} $image {{ default $http_{variable}; "" $request_id; }}
    upstream maskclip {{
        {"hash $image consistent;" if hashed else ""}
        {servers}
        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 32m;
        client_body_buffer_size 1m;
        location / {{
            proxy_pass http://maskclip;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_read_timeout 310s;
            proxy_next_upstream {"error timeout http_503 non_idempotent" if retries else "off"};
        }}
    }}
}}
"""


def haproxy(folder: Path, port: int, ports: list[int], hashed: bool, retries: bool) -> str:
    servers = "\n".join(f"    server replica{number} 127.0.0.1:{one} check inter 500 fall 1 rise 1" for number, one in enumerate(ports))
    again = "retries 2\n    option redispatch 1\n    retry-on conn-failure empty-response 503" if retries else "retries 0"
    return f"""global
    nbthread 1
    tune.bufsize 1048576
defaults
    mode http
    timeout connect 5s
    timeout client 310s
    timeout server 310s
    option http-keep-alive
frontend entry
    bind 127.0.0.1:{port}
    # A request that is to be sent again is read as a whole first.
    option http-buffer-request
    default_backend maskclip
backend maskclip
    option httpchk GET /health/ready
    http-reuse always
    {f"balance hdr({IMAGE_HEADER})" if hashed else "balance roundrobin"}
    {"hash-type consistent" if hashed else ""}
    {again}
{servers}
"""


class Connection(asyncio.Protocol):
    """A connection for one request after the other. `ask` gives the status and the body; status 0 for a connection
    that broke."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.transport: asyncio.Transport | None = None
        self.received = bytearray()
        self.reply: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", image: str | None = None) -> tuple[int, bytes]:
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{IMAGE_HEADER}: {image}"] if image else []
        loop = asyncio.get_running_loop()
        try:
            if self.transport is None or self.transport.is_closing():
                await loop.create_connection(lambda: self, "127.0.0.1", self.port)
        except OSError:
            return 0, b""
        assert self.transport is not None
        self.received.clear()
        self.reply = loop.create_future()
        self.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        return await self.reply

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or self.reply is None or self.reply.done():
            return
        head = self.received[:end].decode("latin-1").lower()
        length = re.search(r"\r\ncontent-length: *(\d+)", head)
        whole = int(length[1]) if length else 0
        if len(self.received) >= end + 4 + whole:
            status, body = int(head.split()[1]), bytes(self.received[end + 4 : end + 4 + whole])
            if "\r\nconnection: close" in head and self.transport is not None:
                self.transport.close()
            self.reply.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.reply is not None and not self.reply.done():
            self.reply.set_result((0, b""))
