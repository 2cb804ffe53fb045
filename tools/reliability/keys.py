"""The rows of docs/reliability.md about clients with keys: turns between them, and the time that a key takes to check."""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

from client import Reply, head, marked_base64, send
from scenarios import ORDINARY, PICNIC, Row, closed_loop, open_loop, quantile, statuses
from server import Server

RATE_OF_THE_GREEDY = 50
"""How many requests the greedy client sends for each one of the other."""
TRIES = 10_000
"""Checks of each kind of key."""
QUOTAS = {"ACCESS__REQUESTS_PER_SECOND": "1000000", "ACCESS__IN_FLIGHT": "1000"}
"""Settings of quotas that nothing uses up."""


@contextmanager
def server_with_keys(program: Path, *names: str, scopes: str = "use", **settings: str) -> Iterator[tuple[Server, list[str]]]:
    """A server that answers with a key alone, and a key of each name with these scopes."""
    with tempfile.TemporaryDirectory() as folder:
        commands = [[program, "key", "new", name, "--scopes", scopes] for name in names]
        made = [subprocess.run(command, capture_output=True, check=True, text=True).stdout for command in commands]
        keys, lines = zip(*(output.split("\n", 1) for output in made))
        file = Path(folder) / "keys.yaml"
        file.write_text("".join(lines))
        with Server(program, ACCESS__KEYS_FILE=str(file), **settings) as server:
            yield server, list(keys)


async def greedy(program: Path, seconds: float) -> list[Row]:
    """One client sends three times what the server can do, and another a fiftieth of that. Every image is new."""
    during = min(seconds, 120)
    with server_with_keys(program, "modest", "greedy") as (server, (modest, other)), ProcessPoolExecutor(1) as pool:
        for key in (modest, other):
            reply = await send(server.port, "POST", "/v1/segment", new_images()(), key=key)
            assert reply.status == 200, f"the ordinary request gets {reply.status}: {reply.detail}"
        sustainable = await closed_loop(server.port, new_images(), clients=4, seconds=max(10.0, during / 6), key=modest)
        rate = 3 * sustainable / RATE_OF_THE_GREEDY
        alone = await open_loop(server.port, new_images(), rate, during, key=modest)
        # In a process of its own, so that the modest client reads its replies at once.
        theirs = pool.submit(load, server.port, RATE_OF_THE_GREEDY * rate, during, other)
        beside = await open_loop(server.port, new_images(), rate, during, key=modest)
        of_the_greedy = await asyncio.wrap_future(theirs)
    quiet, loud = ([reply.seconds for reply in replies if reply.status == 200] for replies in (alone, beside))
    last, last_alone = quantile(loud, 0.99), quantile(quiet, 0.99)
    passed = all(reply.status == 200 for reply in (*alone, *beside)) and last <= 2 * last_alone
    reached = (
        f"{statuses(beside)}, p99 {1000 * last:.0f} ms, alone {1000 * last_alone:.0f} ms; medians "
        f"{1000 * quantile(loud, 0.5):.0f} and {1000 * quantile(quiet, 0.5):.0f} ms; the greedy one: {statuses(of_the_greedy)}"
    )
    test = f"two keys, one sending {RATE_OF_THE_GREEDY} times the other's rate and 3 times what the server can do, for {during:.0f} s"
    return [Row(test, "the slow one's p99 within twice its figure alone, none of its requests refused", reached, passed)]


def new_images() -> Callable[[], dict[str, Any]]:
    """Ordinary requests, each with an image that nobody has sent."""
    marks = count(random.randrange(1_000_000_000))
    return lambda: {**ORDINARY, "image": marked_base64(PICNIC, next(marks)), "output": {"label_map": "none"}}


def load(port: int, rate: float, seconds: float, key: str) -> list[Reply]:
    """Runs `open_loop` in a process of its own."""
    return asyncio.run(open_loop(port, new_images(), rate, seconds, key=key))


async def key_cost(program: Path, seconds: float) -> list[Row]:
    """The same request to a server with keys and quotas, and to one without, in turns."""
    with server_with_keys(program, "client", **QUOTAS) as (closed, (key,)), Server(program) as opened:
        asks = {"with a key": Connection(closed.port).asks("/v1/models", key), "without": Connection(opened.port).asks("/v1/models")}
        return [cost(f"{TRIES} times GET /v1/models, with a key and quotas and without", asks, (closed, opened))]


async def edge_cost(program: Path, seconds: float) -> list[Row]:
    """The same, with everything that may stand before a route: a key, quotas, names, origins, a proxy, a path, a trace."""
    edge = {
        "SERVER__ALLOWED_HOSTS": '["labels.example"]',
        "SERVER__CORS_ORIGINS": '["https://labels.example"]',
        "SERVER__TRUSTED_PROXIES": '["127.0.0.0/8"]',
        "SERVER__BASE_PATH": "/maskclip",
    }
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    fields = {"X-Forwarded-For": "203.0.113.7, 127.0.0.1", "Traceparent": trace, "Origin": "https://labels.example"}
    with collector() as endpoint:
        settings = QUOTAS | edge | {"TELEMETRY__OTLP__ENDPOINT": endpoint}
        with server_with_keys(program, "client", **settings) as (guarded, (key,)), Server(program) as opened:
            asks = {
                "with all of it": Connection(guarded.port).asks("/maskclip/v1/models", key, fields),
                "without": Connection(opened.port).asks("/v1/models"),
            }
            test = f"{TRIES} times GET /v1/models, with a key, quotas, a proxy, a path, an origin and a trace, and without"
            return [cost(test, asks, (guarded, opened))]


def in_turns(asks: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The seconds of each of several requests, in turns, so that they share whatever else the machine does."""
    times: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(TRIES + 100):
        for name, ask in asks.items():
            elapsed = ask()
            if number >= 100:
                times[name].append(elapsed)
    return times


def cost(test: str, asks: dict[str, Callable[[], float]], servers: tuple[Server, Server]) -> Row:
    """How much longer the first of two requests takes, and how much more of the processors, which a busy machine changes less."""
    before = [server.processor_seconds() for server in servers]
    times = in_turns(asks)
    used = [1e6 * (server.processor_seconds() - earlier) / (TRIES + 100) for server, earlier in zip(servers, before)]
    medians = {name: 1e6 * statistics.median(values) for name, values in times.items()}
    more, less = medians.values()
    reached = "; ".join(f"{name}: {median:.1f} us" for name, median in medians.items()) + f": {more - less:.1f} us"
    reached += f"; processor time {used[0]:.1f} and {used[1]:.1f} us"
    return Row(test, "medians within 50 us", reached, more - less <= 50)


@contextmanager
def collector() -> Iterator[str]:
    """A collector of traces that takes whatever comes, and its address."""

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Taking) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


async def key_timing(program: Path, seconds: float) -> list[Row]:
    """Right keys and wrong ones in turns on one connection, at a route that neither opens: only the check differs."""
    with server_with_keys(program, "client") as (server, (key,)):
        near = key[:-1] + ("A" if key[-1] != "A" else "B")
        far = key[0] + ("A" * (len(key) - 1))
        kinds = {"right": key, "wrong in the last letter": near, "wrong in all": far}
        connection = Connection(server.port)
        times = in_turns({name: connection.asks("/metrics", text) for name, text in kinds.items()})
    medians = {name: 1e6 * statistics.median(values) for name, values in times.items()}
    spread = 1e6 * (quantile(times["right"], 0.75) - quantile(times["right"], 0.25))
    reached = "; ".join(f"{name}: {median:.1f} us" for name, median in medians.items()) + f"; quartiles of the right one {spread:.1f} us apart"
    wrong = abs(medians["wrong in the last letter"] - medians["wrong in all"])
    passed = wrong <= 0.05 * spread
    bar = "wrong keys, near and far, as far apart as chance has it: within a twentieth of the quartiles' distance"
    return [Row(f"{TRIES} requests with each of a right key and two wrong ones", bar, reached, passed)]


class Connection:
    """A connection that stays open, for requests whose time is small."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def asks(self, path: str, key: str | None = None, fields: dict[str, str] | None = None) -> Callable[[], float]:
        """What sends a request, and returns the seconds from its first byte to the last one of the reply."""
        request = head("GET", path, b"", key=key).replace(b"Connection: close\r\n", b"")
        more = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        return partial(self.ask, request.removesuffix(b"\r\n") + more.encode() + b"\r\n")

    def ask(self, request: bytes) -> float:
        started = time.perf_counter()
        self.socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.socket.recv(65536)
        fields, _, body = received.partition(b"\r\n\r\n")
        lines = fields.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        while len(body) < length:
            body += self.socket.recv(65536)
        return time.perf_counter() - started


SCENARIOS: dict[str, Callable[[Path, float], Awaitable[list[Row]]]] = {
    "greedy": greedy,
    "key-cost": key_cost,
    "edge-cost": edge_cost,
    "key-timing": key_timing,
}
