"""The rows of docs/reliability.md about connections: clients that hold them, and a server that leaves behind a proxy."""

from __future__ import annotations

import asyncio
import itertools
import math
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client import Reply, head, send
from scenarios import ORDINARY, Row, quantile, statuses, warm
from server import Server

HELD_CONNECTIONS = 500
UNREADY_SECONDS = 3
"""`server.unready_seconds` of servers behind the proxy: longer than a probe and a reload of the proxy take."""
PROBE_SECONDS = 0.5
LIGHT = {**ORDINARY, "output": {"label_map": "none"}}


async def hold(port: int, number: int) -> None:
    """Holds connections one after the other, in the way of its number, until it is cancelled."""
    body = b" " * 100_000
    start = head("POST", "/v1/segment", body)
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                match number % 4:
                    case 0:  # says nothing
                        await reader.read()
                    case 1:  # a head that trickles
                        await trickle(reader, writer, start)
                    case 2:  # a body that trickles
                        writer.write(start)
                        await trickle(reader, writer, body)
                    case _:  # vanishes in the middle of a body, again and again
                        writer.write(start + body[:1000])
                        await writer.drain()
                        await asyncio.sleep(1)
                        writer.transport.abort()
            finally:
                writer.close()
        except OSError:
            await asyncio.sleep(0.1)


async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> None:
    """Sends a byte a second until the server closes the connection."""
    closed = asyncio.create_task(reader.read())
    try:
        for byte in text:
            writer.write(bytes([byte]))
            done, _ = await asyncio.wait([closed], timeout=1)
            if done:
                return
    finally:
        closed.cancel()


async def one_after_the_other(port: int, value: Any, seconds: float) -> list[Reply]:
    """Sends ordinary requests, 20 a second at most, so that there is time between them."""
    end = time.monotonic() + seconds
    replies = []
    while time.monotonic() < end:
        reply = await send(port, "POST", "/v1/segment", value)
        replies.append(reply)
        await asyncio.sleep(max(0.0, 0.05 - reply.seconds))
    return replies


async def held(program: Path, seconds: float) -> list[Row]:
    """500 clients hang, vanish or trickle while another one sends ordinary requests."""
    with Server(program) as server:
        await warm(server)
        span = min(seconds, 30)
        await one_after_the_other(server.port, LIGHT, 3)
        quiet = await one_after_the_other(server.port, LIGHT, span)
        holders = [asyncio.create_task(hold(server.port, number)) for number in range(HELD_CONNECTIONS)]
        await asyncio.sleep(2)
        others = await one_after_the_other(server.port, LIGHT, span)
        for holder in holders:
            holder.cancel()
        await asyncio.gather(*holders, return_exceptions=True)
        before, after = (quantile([reply.seconds for reply in replies], 0.99) for replies in (quiet, others))
        medians = [quantile([reply.seconds for reply in replies], 0.5) for replies in (quiet, others)]
        passed = all(reply.status == 200 for reply in others) and after <= 2 * before
        reached = (
            f"{statuses(others)}, p99 {1000 * after:.0f} ms, quiet {1000 * before:.0f} ms "
            f"(medians {1000 * medians[1]:.0f} and {1000 * medians[0]:.0f} ms)"
        )
        test = f"{HELD_CONNECTIONS} connections that hang, vanish or trickle"
        return [Row(test, "others' p99 within twice the quiet figure", reached, passed)]


class Proxy:
    """nginx in front of the servers that are ready. It keeps connections to them and never repeats a request."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.upstream: list[int] = []

    def configure(self, upstream: list[int]) -> None:
        self.upstream = upstream
        servers = "".join(f"server 127.0.0.1:{port} max_fails=0; " for port in upstream)
        (self.folder / "nginx.conf").write_text(f"""
            pid {self.folder}/pid;
            error_log {self.folder}/error.log;
            worker_processes 1;
            daemon off;
            events {{ worker_connections 1024; }}
            http {{
                access_log off;
                client_body_temp_path {self.folder}/body;
                proxy_temp_path {self.folder}/proxy;
                fastcgi_temp_path {self.folder}/fastcgi;
                uwsgi_temp_path {self.folder}/uwsgi;
                scgi_temp_path {self.folder}/scgi;
                upstream maskclip {{ {servers} keepalive 16; }}
                server {{
                    listen 127.0.0.1:{self.port};
                    client_max_body_size 32m;
                    client_body_buffer_size 1m;
                    proxy_max_temp_file_size 0;
                    location / {{
                        proxy_pass http://maskclip;
                        proxy_http_version 1.1;
                        proxy_set_header Connection "";
                        proxy_set_header Host $http_host;
                        proxy_next_upstream off;
                    }}
                }}
            }}
        """)

    @contextmanager
    def running(self, upstream: list[int]) -> Iterator[None]:
        self.configure(upstream)
        command = ["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-e", str(self.folder / "error.log")]
        process = subprocess.Popen(command)
        self.process = process
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def reload(self, upstream: list[int]) -> None:
        self.configure(upstream)
        self.process.send_signal(signal.SIGHUP)


async def follow_readiness(proxy: Proxy, servers: list[Server]) -> None:
    """What an orchestrator does: asks every server whether it is ready, and has the proxy leave out those that are not."""
    while True:
        replies = [await send(server.port, "GET", "/health/ready", timeout=1) for server in servers]
        ready = [server.port for server, reply in zip(servers, replies) if reply.status == 200]
        if ready and ready != proxy.upstream:
            proxy.reload(ready)
        await asyncio.sleep(PROBE_SECONDS)


async def rollover(program: Path, seconds: float) -> list[Row]:
    """Two servers behind a proxy are replaced one after the other under load."""
    if shutil.which("nginx") is None:
        raise SystemExit("rollover needs nginx")
    settings = {"SERVER__UNREADY_SECONDS": str(UNREADY_SECONDS)}
    with tempfile.TemporaryDirectory(prefix="maskclip-proxy-") as folder:
        servers = [Server(program, **settings), Server(program, **settings)]
        proxy = Proxy(Path(folder), free_port())
        retired: list[int | None] = []
        for server in servers:
            server.wait_until_ready()
            await warm(server)
        with proxy.running([server.port for server in servers]):
            await listening(proxy.port)
            follower = asyncio.create_task(follow_readiness(proxy, servers))
            stop = asyncio.Event()
            clients = [asyncio.create_task(client(proxy.port, stop)) for _ in range(8)]
            for place in range(2):
                await asyncio.sleep(2)
                servers[place].process.send_signal(signal.SIGTERM)
                retired.append(await asyncio.to_thread(servers[place].process.wait, 60))
                servers[place].folder.cleanup()
                servers[place] = Server(program, **settings)
                await asyncio.to_thread(servers[place].wait_until_ready)
            await asyncio.sleep(2)
            stop.set()
            replies = list(itertools.chain.from_iterable(await asyncio.gather(*clients)))
            follower.cancel()
        for server in servers:
            server.__exit__(None, None, None)
    slowest = max((reply.seconds for reply in replies), default=math.nan)
    passed = all(reply.status == 200 for reply in replies) and retired == [0, 0]
    reached = f"{statuses(replies)}, slowest {slowest:.1f} s, exit statuses {retired}"
    test = "SIGTERM under load behind a proxy, two servers one after the other"
    return [Row(test, "no failed request at a client that follows readiness", reached, passed)]


async def client(port: int, stop: asyncio.Event) -> list[Reply]:
    replies = []
    while not stop.is_set():
        replies.append(await send(port, "POST", "/v1/segment", LIGHT))
    return replies


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


SCENARIOS: dict[str, Callable[[Path, float], Awaitable[list[Row]]]] = {
    "held-connections": held,
    "rollover": rollover,
}
