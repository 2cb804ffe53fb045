#!/usr/bin/env python3
"""Measures two replicas behind a stock proxy, each replica bound to one core.

    measure.py PROGRAM                           everything, on an idle machine with two cores
    measure.py PROGRAM --seconds 5 hits kill     what counts, not times: also with a debug build, on a busy machine
    measure.py PROGRAM --json measured.json      and what simulate.py is fed with

    goodput   answers a second of one replica and of two, the time of one request alone, and latencies at 70 % of
              what two can do
    cost      what the proxy adds to a request, and what it takes of a processor
    hits      images whose features were kept: replicas by turns, and by consistent hashing of the image
    kill      a replica is killed (SIGKILL) under load, and started again: failures at a client that repeats once

Ends with status 1 if a bar is missed: no request may fail in `kill`, and hashing must find every image but the first
time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import hashlib
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet import Connection, Proxy, Replica, installed, proxy, replicas

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))
from client import marked, marked_base64  # noqa: E402
from server import REPOSITORY  # noqa: E402

CLASSES = ["tiger", "lemon", "grass", "sky"]
PICTURE = (REPOSITORY / "examples" / "picnic.png").read_bytes()
CLIENTS = 4
"""Requests under way for each replica: enough that none is ever idle."""
BACK_SECONDS = 120
"""How long a replica that is back may wait for its first request."""
AGAIN = (0, 502, 503, 504)
"""Statuses after which the client repeats, once; 0 is a connection that broke."""


@dataclass
class Answer:
    status: int
    seconds: float
    first_status: int
    """The status before the repeat, if there was one."""


@functools.lru_cache(maxsize=256)
def request(mark: int, classes: tuple[str, ...] = tuple(CLASSES)) -> tuple[bytes, str]:
    """A body with an image that no other mark has, and the SHA-256 of the image."""
    body = json.dumps({"image": marked_base64(PICTURE, mark), "classes": classes}).encode()
    return body, hashlib.sha256(marked(PICTURE, mark)).hexdigest()


async def ask(connection: Connection, mark: int, classes: tuple[str, ...] = tuple(CLASSES)) -> Answer:
    """Asks for the labels of an image, and once again where that may help."""
    body, image = request(mark, classes)
    begun = time.monotonic()
    first, _ = await connection.ask("POST", "/v1/segment", body, image)
    status = first
    if first in AGAIN:
        status, _ = await connection.ask("POST", "/v1/segment", body, image)
    return Answer(status, time.monotonic() - begun, first)


class Marks:
    """Numbers of images, none of them twice."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        self.last += 1
        return self.last


MARKS = Marks()


def after(seconds: float) -> Callable[[], bool]:
    """Says whether so many seconds are over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


async def closed_loop(port: int, clients: int, over: Callable[[], bool]) -> list[Answer]:
    """Clients that send new images one after the other, until it is over."""
    answers: list[Answer] = []

    async def client() -> None:
        connection = Connection(port)
        while not over():
            answers.append(await ask(connection, MARKS.next()))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def open_loop(port: int, rate: float, seconds: float) -> list[Answer]:
    """New images at random times, `rate` a second, whatever becomes of those before."""
    rng, answers, free = random.Random(7), [], []

    async def one() -> None:
        connection = free.pop() if free else Connection(port)
        answers.append(await ask(connection, MARKS.next()))
        free.append(connection)

    running, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        running.append(asyncio.create_task(one()))
        await asyncio.sleep(rng.expovariate(rate))
    await asyncio.gather(*running)
    for connection in free:
        connection.close()
    return answers


def percentile(values: list[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[max(0, round(share * len(values) + 0.5) - 1)]


def rate_of(answers: list[Answer], seconds: float) -> float:
    return sum(one.status == 200 for one in answers) / seconds


def goodput(program: Path, kind: str, seconds: float) -> tuple[dict[str, Any], bool]:
    found: dict[str, Any] = {}
    with replicas(program, 2) as both:
        ports = [replica.port for replica in both]
        for port in ports:
            asyncio.run(closed_loop(port, 1, after(min(3, seconds))))
        alone = asyncio.run(closed_loop(ports[0], 1, after(seconds)))
        found["service_seconds"] = [one.seconds for one in alone if one.status == 200]
        for count in (1, 2):
            with proxy(kind, ports[:count]) as front:
                asyncio.run(closed_loop(front.port, CLIENTS * count, after(1)))
                own, others, begun = time.process_time(), front.processor_seconds(), time.monotonic()
                answers = asyncio.run(closed_loop(front.port, CLIENTS * count, after(seconds)))
                took = time.monotonic() - begun
                found[f"goodput_{count}"] = rate_of(answers, took)
                found[f"refused_{count}"] = sum(one.status != 200 for one in answers)
                found["client_seconds"] = (time.process_time() - own) / len(answers)
                found["proxy_seconds"] = (front.processor_seconds() - others) / len(answers)
        found["open_rate"] = 0.7 * found["goodput_2"]
        with proxy(kind, ports) as front:
            answers = asyncio.run(open_loop(front.port, found["open_rate"], 2 * seconds))
        latencies = [one.seconds for one in answers if one.status == 200]
        found |= {"open_p50": percentile(latencies, 0.5), "open_p95": percentile(latencies, 0.95), "open_answers": len(latencies)}
    found["clients"] = CLIENTS
    service = statistics.mean(found["service_seconds"])
    show("one request alone, mean", f"{1000 * service:.0f} ms, {len(found['service_seconds'])} of them")
    show("goodput of 1 replica", f"{found['goodput_1']:.2f} a second")
    show("goodput of 2 replicas", f"{found['goodput_2']:.2f} a second, {found['goodput_2'] / found['goodput_1']:.2f} times as many")
    show("client and proxy, processor time a request", f"{1000 * found['client_seconds']:.1f} and {1000 * found['proxy_seconds']:.1f} ms")
    show(f"at {found['open_rate']:.1f} a second", f"p50 {1000 * found['open_p50']:.0f} ms, p95 {1000 * found['open_p95']:.0f} ms")
    return found, True


def cost(program: Path, kind: str, seconds: float) -> tuple[dict[str, Any], bool]:
    """A request in turns with and without the proxy: one whose features are kept, and the smallest that there is."""

    async def turns(direct: int, front: Proxy, method: str, path: str, body: bytes) -> tuple[float, float, float]:
        ways = {"direct": Connection(direct), "proxy": Connection(front.port)}
        times: dict[str, list[float]] = {way: [] for way in ways}
        end, before = time.monotonic() + seconds / 2, front.processor_seconds()
        while time.monotonic() < end:
            for way, connection in ways.items():
                begun = time.monotonic()
                status, _ = await connection.ask(method, path, body)
                assert status == 200, status
                times[way].append(time.monotonic() - begun)
        spent = (front.processor_seconds() - before) / len(times["proxy"])
        for connection in ways.values():
            connection.close()
        return statistics.median(times["direct"]), statistics.median(times["proxy"]), spent

    found: dict[str, Any] = {}
    body, _ = request(MARKS.next())
    with replicas(program, 1) as (replica,), proxy(kind, [replica.port]) as front:
        for name, asked in {
            "small": ("GET", "/health/live", b""),
            "labels": ("POST", "/v1/segment", body),
        }.items():
            direct, through, spent = asyncio.run(turns(replica.port, front, *asked))
            found[name] = {"direct": direct, "proxy": through, "processor": spent, "bytes": len(asked[2])}
            what = "GET /health/live" if name == "small" else f"labels of a kept image, a body of {len(body) // 1000} kB"
            show(what, f"{1000 * direct:.2f} ms, through {kind} {1000 * through:.2f} ms, {1e6 * spent:.0f} us of a processor")
    return found, True


async def visits(port: int, order: list[int]) -> int:
    """Requests about images, one after the other, each with another class list. Returns how many failed.

    Two at once about one image would both compute its features.
    """
    connection, failed = Connection(port), 0
    for number, mark in enumerate(order):
        answer = await ask(connection, mark, ("tiger", f"thing {number % 7}"))
        failed += answer.status != 200
    connection.close()
    return failed


def hits(program: Path, kind: str, seconds: float) -> tuple[dict[str, Any], bool]:
    """Each image comes several times, in random order: with room for all features in each replica, and for six in
    ten."""
    images, times = (40, 6) if seconds >= 20 else (8, 4)
    first = MARKS.last + 1
    MARKS.last += images
    order = [first + number % images for number in range(images * times)]
    random.Random(3).shuffle(order)
    with replicas(program, 1) as (replica,):
        asyncio.run(visits(replica.port, [first]))
        features = int(replica.counted("maskclip_feature_bytes"))
    found: dict[str, Any] = {"images": images, "times": times, "feature_bytes": features}
    held = True
    for room, share in (("all", 2.0), ("some", 0.6)):
        for way, hashed in (("by turns", False), ("by the image", True)):
            cache = str(int(share * images * features))
            with replicas(program, 2, IMAGES__CACHE_BYTES=cache) as both:
                with proxy(kind, [one.port for one in both], hashed) as front:
                    failed = asyncio.run(visits(front.port, order))
                hit = sum(one.counted("maskclip_feature_hits_total") for one in both)
            reached = hit / len(order)
            found[f"{room} {way}"] = reached
            held &= not failed and (room == "some" or not hashed or hit == len(order) - images)
            which = "all" if room == "all" else "six in ten"
            show(f"hits {way}, room for {which} in each", f"{reached:.0%} of {len(order)} requests, {failed} failed")
    show("at most, each image computed once", f"{1 - 1 / times:.0%}")
    return found, held


async def killed(port: int, doomed: Replica, again: Callable[[], Replica], seconds: float) -> tuple[list[Answer], int]:
    """Kills a replica after a third of the time, and brings it back after two. Waits until it has answered something.

    Returns the answers of all, and how many it has given since.
    """
    over = asyncio.Event()

    async def fate() -> int:
        await asyncio.sleep(seconds / 3)
        doomed.kill()
        await asyncio.sleep(seconds / 3)
        new = await asyncio.to_thread(again)
        # nginx asks a replica that failed again after 10 seconds.
        end = time.monotonic() + BACK_SECONDS
        await asyncio.sleep(seconds / 3)
        while not (given := await asyncio.to_thread(new.counted, "maskclip_feature_misses_total")) and time.monotonic() < end:
            await asyncio.sleep(0.5)
        over.set()
        return int(given)

    answers, given = await asyncio.gather(closed_loop(port, 2 * CLIENTS, over.is_set), fate())
    return answers, given


def kill(program: Path, kind: str, seconds: float) -> tuple[dict[str, Any], bool]:
    found: dict[str, Any] = {}
    held = True
    for name, retries in (("the proxy repeats", True), ("the proxy does not repeat", False)):
        with replicas(program, 2) as both, contextlib.ExitStack() as stack:

            def again() -> Replica:
                return stack.enter_context(Replica(program, both[1].core, both[1].port))

            with proxy(kind, [one.port for one in both], retries=retries) as front:
                answers, back = asyncio.run(killed(front.port, both[1], again, seconds))
        repeated = sum(one.first_status in AGAIN for one in answers)
        failed = sum(one.status != 200 for one in answers)
        found[name] = {"answers": len(answers), "repeated": repeated, "failed": failed, "by_the_new_one": back}
        held &= failed == 0 and back > 0
        counts = f"{len(answers)} requests, {repeated} repeated by the client, {failed} failed"
        show(f"kill -9, {name}", f"{counts}; the replica that came back answered {back}")
    return found, held


def show(what: str, value: str) -> None:
    print(f"| {what} | {value} |", flush=True)


SCENARIOS = {"goodput": goodput, "cost": cost, "hits": hits, "kill": kill}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: Path(text).resolve())
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seconds", type=float, default=30, help="of each part of a scenario")
    parser.add_argument("--proxy", choices=["nginx", "haproxy"], help="the first that is installed, if not given")
    parser.add_argument("--json", type=Path, help="the file for what was measured")
    arguments = parser.parse_intermixed_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    kinds = [arguments.proxy] if arguments.proxy else installed()
    if not kinds:
        print("There is neither nginx nor haproxy, so replicas are not tested.")
        return
    print(f"| behind {kinds[0]}, load average {os.getloadavg()[0]:.1f} | |\n|---|---|")
    found, missed = {}, []
    for name in arguments.scenarios or SCENARIOS:
        found[name], held = SCENARIOS[name](arguments.program, kinds[0], arguments.seconds)
        missed += [] if held else [name]
    if arguments.json:
        arguments.json.write_text(json.dumps(found))
    passed = len(found) - len(missed)
    print(f"\n{passed} passed, {len(missed)} failed" + (f" ({', '.join(missed)})" if missed else ""))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
