"""The rows of docs/reliability.md that a load of requests shows. Each scenario measures, and compares with its bar."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import Reply, abandon, all_at_once, base64_of, beside, marked, marked_base64, png, send
from server import REPOSITORY, Server

GIB = 2**30
PICNIC = (REPOSITORY / "examples" / "picnic.png").read_bytes()
ORDINARY = {
    "image": base64_of(PICNIC),
    "classes": ["tiger", "lemon", "hamburger", "penguin", "strawberry", "sunflower"],
    "background": ["green background"],
}
"""A request whose texts are embedded before anything is measured."""
ORDINARY_SECONDS = 2.0
PEAK_BYTES = 2.5 * 1e9
REFUSAL_SECONDS = 0.05


@dataclass(frozen=True)
class Row:
    """A line of the table: what was done, what is asked, what was measured, and whether that is reached."""

    test: str
    bar: str
    reached: str
    passed: bool

    def markdown(self) -> str:
        return f"| {self.test} | {self.bar} | {self.reached} | {'yes' if self.passed else '**no**'} |"


def statuses(replies: Sequence[Reply]) -> str:
    """How many replies had which status, as in `12 x 200, 4 x 429`. 0 is a connection that broke."""
    counts = Counter(reply.status for reply in replies)
    return ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def ordinary_ones(replies: Sequence[Reply]) -> tuple[str, bool]:
    """What became of the ordinary requests, and whether each was answered 200 in time."""
    slowest = max((reply.seconds for reply in replies), default=math.inf)
    good = all(reply.status == 200 for reply in replies) and slowest <= ORDINARY_SECONDS
    return f"{statuses(replies)}, slowest {slowest:.2f} s", good


async def warm(server: Server) -> None:
    reply = await send(server.port, "POST", "/v1/segment", ORDINARY)
    assert reply.status == 200, f"the ordinary request gets {reply.status}: {reply.detail}"


async def abandoned(program: Path, seconds: float) -> list[Row]:
    """Clients ask for many new names and hang up; then ordinary requests come."""
    with Server(program) as server:
        await warm(server)
        names = [[f"thing {client} number {name}" for name in range(100)] for client in range(64)]
        fresh = [{**ORDINARY, "classes": classes} for classes in names]
        await asyncio.gather(*(abandon(server.port, "/v1/segment", value, 0.05) for value in fresh))
        async with beside(server.port, ORDINARY) as ordinary:
            await asyncio.sleep(min(seconds, 60))
        reached, passed = ordinary_ones(ordinary)
        test = "64 abandoned requests of 100 new classes, then one ordinary request a second"
        return [Row(test, "every one 200 within 2 s", reached, passed)]


async def large_images(program: Path, seconds: float) -> list[Row]:
    """Images of a few kilobytes that are hundreds of megabytes once decoded."""
    rows = []
    for colour in ("grey", "rgba"):
        image = png(7000, 7000, colour)
        with Server(program) as server:
            await warm(server)
            server.forget_peak()
            values = [
                {**ORDINARY, "image": base64_of(marked(image, number)), "deadline_seconds": 300, "output": {"label_map": "none"}}
                for number in range(64)
            ]
            replies = await all_at_once([send(server.port, "POST", "/v1/segment", value) for value in values])
            peak = server.peak_bytes()
            passed = peak < PEAK_BYTES and all(reply.status in (200, 429) for reply in replies)
            passed &= any(reply.status == 200 for reply in replies) and server.restarts() == 0
            reached = f"{statuses(replies)}, peak {peak / 1e9:.2f} GB"
            test = f"64 at once of a 49-megapixel PNG ({colour}, {len(image) // 1000} kB)"
            rows.append(Row(test, "peak under 2.5 GB, no admitted request lost", reached, passed))
    return rows


DEAR_CLASSES = [{"name": "a", "synonyms": ["a"] * 32}] * 1000
DEAR = {"classes": DEAR_CLASSES, "synonyms": "max", "templates": "simple", "output": {"label_map": "none"}}
"""A request of 189 kB that asks for 33,000 queries."""


async def dear(program: Path, seconds: float) -> list[Row]:
    """Small requests whose work is huge, alone and many at a time, beside ordinary ones."""
    pixels = base64_of(png(7071, 7071))
    cells = base64_of(png(64, 148))
    kinds = {
        "33,000 queries on 50 megapixels": {**DEAR, "image": pixels, "deadline_seconds": 5},
        "33,000 queries on 16,000 cells": {**DEAR, "image": cells, "short_side": 1344},
    }
    rows = []
    for title, value in kinds.items():
        for count in (1, 16):
            with Server(program) as server:
                await warm(server)
                server.forget_peak()
                async with beside(server.port, ORDINARY) as ordinary:
                    replies = await all_at_once([send(server.port, "POST", "/v1/segment", value) for _ in range(count)])
                    await asyncio.sleep(min(seconds, 10))
                peak = server.peak_bytes()
                reached, passed = ordinary_ones(ordinary)
                details = {reply.detail for reply in replies if reply.status != 200}
                passed &= peak < PEAK_BYTES and all(reply.status in (413, 422, 429) for reply in replies)
                passed &= all("limits." in detail or "engine." in detail for detail in details)
                reached = f"ordinary: {reached}; dear: {statuses(replies)}; peak {peak / 1e9:.2f} GB"
                bar = "ordinary ones 200 within 2 s, peak under 2.5 GB, dear ones refused by a limit's name"
                rows.append(Row(f"{title}, {count} at a time", bar, reached, passed))
    return rows


OVERLOAD_PARTS = 5
"""The load of `overload` comes in so many parts. What the server can do at most is measured before each and after the
last, since the speed of a machine changes by a tenth within minutes."""


async def overload(program: Path, seconds: float) -> list[Row]:
    """Ten times as many requests as the server can answer. Every image is new, so that no features are cached."""
    count = 0

    def value() -> dict[str, Any]:
        nonlocal count
        count += 1
        return {**ORDINARY, "image": marked_base64(PICNIC, count), "short_side": 896, "output": {"label_map": "none"}}

    during = seconds / OVERLOAD_PARTS
    maxima: list[float] = []
    replies: list[Reply] = []
    in_time = 0
    with server_apart(program) as server:
        await warm(server)
        maximum = functools.partial(closed_loop, server.port, value, clients=4, seconds=max(10.0, during / 6))
        for _ in range(OVERLOAD_PARTS):
            maxima.append(await maximum())
            started = time.monotonic()
            part = await open_loop(server.port, value, 10 * maxima[-1], during)
            in_time += sum(reply.status == 200 and reply.sent_at + reply.seconds <= started + during for reply in part)
            replies += part
        maxima.append(await maximum())
    goodput, sustainable = in_time / seconds, statistics.mean(maxima)
    refused = [reply.seconds for reply in replies if reply.status == 429]
    last = quantile([reply.seconds for reply in replies if reply.status == 200], 0.99)
    slowest = quantile(refused, 0.99)
    passed = goodput >= 0.95 * sustainable and last <= 30 and slowest <= REFUSAL_SECONDS
    passed &= all(reply.status in (200, 429) for reply in replies)
    reached = (
        f"{goodput:.2f} of {sustainable:.2f} a second ({goodput / sustainable:.0%}; maxima {min(maxima):.2f} to {max(maxima):.2f}), "
        f"{statuses(replies)}, accepted p99 {last:.1f} s, 429 p99 {1000 * slowest:.0f} ms (median {1000 * quantile(refused, 0.5):.0f})"
    )
    bar = "goodput 95 % of the maximum, p99 of the accepted within the deadline, the rest 429 within 50 ms"
    test = f"10 times the sustainable load for {seconds:.0f} s in {OVERLOAD_PARTS} parts, the client on a processor of its own"
    return [Row(test, bar, reached, passed)]


@contextlib.contextmanager
def server_apart(program: Path) -> Iterator[Server]:
    """A server on all processors but one, which is left to this process: what the load costs to make is not the server's."""
    processors = os.sched_getaffinity(0)
    client = {max(processors)}
    os.sched_setaffinity(0, processors - client or client)
    try:
        with Server(program) as server:
            os.sched_setaffinity(0, client)
            yield server
    finally:
        os.sched_setaffinity(0, processors)


async def closed_loop(port: int, value: Callable[[], Any], clients: int, seconds: float, key: str | None = None) -> float:
    """The answered requests a second of clients that send the next request once the last is answered."""
    end = time.monotonic() + seconds
    answered = 0

    async def client() -> None:
        nonlocal answered
        while time.monotonic() < end:
            reply = await send(port, "POST", "/v1/segment", value(), key=key)
            answered += reply.status == 200 and time.monotonic() <= end

    await asyncio.gather(*(client() for _ in range(clients)))
    return answered / seconds


async def open_loop(port: int, value: Callable[[], Any], rate: float, seconds: float, key: str | None = None) -> list[Reply]:
    """Sends `rate` requests a second, whatever becomes of those before."""
    start = time.monotonic()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(send(port, "POST", "/v1/segment", value(), key=key)))
    return list(await asyncio.gather(*tasks))


async def starts(program: Path, seconds: float) -> list[Row]:
    """A server starts again and again on one store while other programs keep the processors busy."""
    count = max(3, min(30, round(seconds / 20)))
    names = [f"thing number {number}" for number in range(40)]
    precisions: Counter[str] = Counter()
    computed = []
    with tempfile.TemporaryDirectory() as folder, busy_loops(2):
        for _ in range(count):
            # Only the vocabulary's texts are computed and counted.
            settings = {"VOCABULARY__STORE_PATH": str(Path(folder) / "store.sqlite3"), "VOCABULARY__EMBED_AHEAD": "none"}
            with Server(program, **settings) as server:
                await send(server.port, "PUT", "/v1/vocabularies/things", {"classes": names})
                await until_embedded(server.port, "things")
                models = await send(server.port, "GET", "/v1/models")
                precisions[json.loads(models.body)["models"][0]["precision"]] += 1
                computed.append(server.metric("maskclip_vocabulary_misses_total"))
    reached = f"{', '.join(f'{count} x {precision}' for precision, count in precisions.items())}, {sum(computed)} texts computed"
    passed = len(precisions) == 1 and sum(computed) == len(names)
    test = f"{count} starts beside two busy loops, with a vocabulary of {len(names)} texts"
    return [Row(test, f"one precision, no embedding computed twice ({len(names)})", reached, passed)]


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Programs that keep one processor busy each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


async def until_embedded(port: int, vocabulary: str) -> None:
    """Waits until all texts of a vocabulary are embedded for all models."""
    for _ in range(6000):
        reply = await send(port, "GET", f"/v1/vocabularies/{vocabulary}")
        if all(state["embedded"] == state["total"] for state in json.loads(reply.body)["embeddings"]):
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"the vocabulary {vocabulary} is not embedded")


SCENARIOS: dict[str, Callable[[Path, float], Awaitable[list[Row]]]] = {
    "abandoned": abandoned,
    "large-images": large_images,
    "dear": dear,
    "overload": overload,
    "starts": starts,
}
