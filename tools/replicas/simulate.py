#!/usr/bin/env python3
"""A queueing model of replicas, by discrete events. Standard library only.

    simulate.py compare measured.json   the model's prediction beside what measure.py measured
    simulate.py routing                 a thousand replicas: by turns, by the image, and by the image with a bound
    simulate.py scaling                 a load that grows eightfold: autoscaling by queue wait and by processors
    simulate.py start                   a thousand replicas that start at once: where their weights come from
    simulate.py shared                  what a thousand replicas ask of a common Redis

The model: a replica works on one request at a time, in the order in which they came, as a server on its processors
does. A request takes the time of a whole pass, or of a kept image if the replica has its features; these times are
measured ones. A full queue refuses, and so does a replica that could not answer before the deadline. Everything
random comes from a fixed seed.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import json
import math
import random
import statistics
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PASS_SECONDS = 1 / 2.8
KEPT_SECONDS = 0.008
"""ViT-B/16 on two cores in bfloat16: a new image of 1250 x 800 pixels, and another class list for one that was seen
(docs/deploy.md)."""

IMAGE_GIGABYTES = 0.176
"""The container image, compressed (docs/install.md)."""

LOOK_SECONDS = 2
"""How often a replica looks at Redis without a request (LOOK_EVERY in src/engine/vocabulary.rs)."""

QUEUE_CAPACITY = 64
DEADLINE_SECONDS = 30.0
"""Defaults of engine.queue_capacity and engine.default_deadline_seconds."""

RING_POINTS = 160
"""Points of each replica on the ring, as in nginx's `hash ... consistent`."""


class Clock:
    """Events in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, delay: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, event))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until


@dataclass
class Request:
    image: int
    came: float
    done: Callable[[Request, bool], None]
    started: float = 0.0
    kept: bool = False


@dataclass(eq=False)
class Replica:
    """One server: a queue, and the images whose features it keeps."""

    clock: Clock
    room: int
    work_seconds: Callable[[bool], float]
    """The time of a request, by whether the features of its image are kept."""
    total: list[int] = field(default_factory=lambda: [0])
    """The requests of all replicas together, which they share."""
    waiting: deque[Request] = field(default_factory=deque)
    kept: OrderedDict[int, None] = field(default_factory=OrderedDict)
    busy: bool = False
    busy_seconds: float = 0.0

    @property
    def load(self) -> int:
        return len(self.waiting) + self.busy

    def take(self, request: Request) -> None:
        expected = self.load * self.work_seconds(False)
        if self.load >= QUEUE_CAPACITY or expected > DEADLINE_SECONDS:
            request.done(request, False)
            return
        self.waiting.append(request)
        self.total[0] += 1
        if not self.busy:
            self._next()

    def _next(self) -> None:
        request = self.waiting.popleft()
        self.busy, request.started = True, self.clock.now
        request.kept = request.image in self.kept
        seconds = self.work_seconds(request.kept)
        self.busy_seconds += seconds
        self.clock.at(seconds, lambda: self._finish(request))

    def _finish(self, request: Request) -> None:
        self.busy = False
        self.total[0] -= 1
        if self.room:
            self.kept[request.image] = None
            self.kept.move_to_end(request.image)
            if len(self.kept) > self.room:
                self.kept.popitem(last=False)
        request.done(request, True)
        if self.waiting and not self.busy:
            self._next()


Route = Callable[[list[Replica], int], Replica]


def by_turns() -> Route:
    turn = iter(range(sys.maxsize))
    return lambda replicas, image: replicas[next(turn) % len(replicas)]


def to_the_least() -> Route:
    """The less loaded of two that are drawn, as Envoy's least request does."""
    rng = random.Random(5)
    return lambda replicas, image: min(rng.choice(replicas), rng.choice(replicas), key=lambda one: one.load)


def by_image(count: int, bound: float | None = None) -> Route:
    """Consistent hashing. With a bound, a replica that has more than so many times the mean load passes a request on
    to the next."""
    rng = random.Random(11)
    ring = sorted((rng.random(), number) for number in range(count) for _ in range(RING_POINTS))
    places = [place for place, _ in ring]

    def route(replicas: list[Replica], image: int) -> Replica:
        start = bisect.bisect(places, random.Random(image).random())
        if bound is None:
            return replicas[ring[start % len(ring)][1]]
        most = math.ceil(bound * (replicas[0].total[0] + 1) / len(replicas))
        for step in range(len(ring)):
            replica = replicas[ring[(start + step) % len(ring)][1]]
            if replica.load < most:
                return replica
        return replica

    return route


@dataclass
class Outcome:
    """What became of requests."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    kept: int = 0
    refused: int = 0

    @property
    def goodput(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[max(0, round(share * len(ordered) + 0.5) - 1)]


def simulate(
    replicas: list[Replica],
    clock: Clock,
    route: Route,
    image: Callable[[], int],
    seconds: float,
    clients: int | None = None,
    rate: float | None = None,
    warm_seconds: float = 0.0,
) -> Outcome:
    """Clients that send one request after the other, or requests at random times at a rate."""
    outcome, rng = Outcome(seconds), random.Random(17)

    def send(again: Callable[[], None] | None) -> None:
        def done(request: Request, answered: bool) -> None:
            if clock.now >= warm_seconds:
                if answered:
                    outcome.latencies.append(clock.now - request.came)
                    outcome.kept += request.kept
                else:
                    outcome.refused += 1
            if again is not None:
                again()

        number = image()
        route(replicas, number).take(Request(number, clock.now, done))

    def client() -> None:
        # A refused client pauses before it comes again.
        send(lambda: clock.at(0.0, client))

    def arrival() -> None:
        assert rate is not None
        send(None)
        clock.at(rng.expovariate(rate), arrival)

    if clients is not None:
        for _ in range(clients):
            clock.at(0.0, client)
    else:
        clock.at(0.0, arrival)
    clock.run(warm_seconds + seconds)
    return outcome


def fleet(count: int, room: int, work_seconds: Callable[[bool], float]) -> tuple[list[Replica], Clock]:
    clock, total = Clock(), [0]
    return [Replica(clock, room, work_seconds, total) for _ in range(count)], clock


def new_images() -> Callable[[], int]:
    numbers = iter(range(sys.maxsize))
    return lambda: next(numbers)


def popular_images(images: int, exponent: float, seed: int = 23) -> Callable[[], int]:
    """Images whose popularity falls with their rank (Zipf)."""
    sums, total = [], 0.0
    for rank in range(1, images + 1):
        total += rank**-exponent
        sums.append(total)
    rng = random.Random(seed)
    return lambda: bisect.bisect(sums, rng.random() * total)


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def compare(path: Path) -> None:
    """The same loads as measure.py's, from its service times."""
    measured = json.loads(path.read_text())
    row("", "predicted", "measured", "predicted / measured")
    row("---", "---", "---", "---")

    def beside(what: str, predicted: float, real: float, unit: str) -> None:
        row(what, f"{predicted:.2f}{unit}", f"{real:.2f}{unit}", f"{predicted / real:.2f}" if real else "")

    if one := measured.get("goodput"):
        rng = random.Random(29)
        # With two replicas on two cores, the client and the proxy take their time from the replicas' cores.
        for count, other in ((1, 0.0), (2, one["client_seconds"] + one["proxy_seconds"])):
            replicas, clock = fleet(count, 0, lambda kept, other=other: rng.choice(one["service_seconds"]) + other)
            outcome = simulate(replicas, clock, by_turns(), new_images(), 600, clients=one["clients"] * count, warm_seconds=10)
            beside(f"goodput of {count}, a second", outcome.goodput, one[f"goodput_{count}"], "")
        replicas, clock = fleet(2, 0, lambda kept: rng.choice(one["service_seconds"]) + other)
        outcome = simulate(replicas, clock, by_turns(), new_images(), 3000, rate=one["open_rate"])
        what = f"at {one['open_rate']:.1f} a second"
        beside(f"p50 {what}", 1000 * outcome.percentile(0.5), 1000 * one["open_p50"], " ms")
        beside(f"p95 {what}", 1000 * outcome.percentile(0.95), 1000 * one["open_p95"], " ms")
    if one := measured.get("hits"):
        images, times = one["images"], one["times"]
        for room, share in (("all", 2.0), ("some", 0.6)):
            for way, route in (("by turns", by_turns()), ("by the image", by_image(2))):
                order = [number % images for number in range(images * times)]
                random.Random(3).shuffle(order)
                replicas, clock = fleet(2, int(share * images), lambda kept: KEPT_SECONDS if kept else PASS_SECONDS)
                left = iter(order)
                outcome = simulate_list(replicas, clock, route, left)
                beside(f"hits {way}, room for {room}", outcome.kept / len(order), one[f"{room} {way}"], "")


def simulate_list(replicas: list[Replica], clock: Clock, route: Route, left: Iterator[int]) -> Outcome:
    """A client that takes the next of a list of images, until there is none."""
    outcome = Outcome(1.0)

    def client() -> None:
        number = next(left, None)
        if number is None:
            return

        def done(request: Request, answered: bool) -> None:
            outcome.kept += request.kept
            clock.at(0.0, client)

        route(replicas, number).take(Request(number, clock.now, done))

    clock.at(0.0, client)
    clock.run(math.inf)
    return outcome


def routing(count: int = 1000) -> None:
    """Requests about images of which some come often, at a load of which three quarters would be answered without
    keeping features."""
    seconds, warm, images, room = 40, 20, 200_000, 300
    rate = 0.75 * count / PASS_SECONDS

    def work(kept: bool) -> float:
        return KEPT_SECONDS if kept else PASS_SECONDS

    print(f"{count} replicas, {rate:.0f} requests a second about {images} images, features of {room} images kept by each\n")
    for exponent in (0.6, 1.0):
        most = popular_images(images, exponent)
        top = Counter(most() for _ in range(100_000)).most_common(1)[0][1] / 1000
        print(f"Popularity falls with the rank to the power of {exponent}: the most popular image has {top:.2f} % of the requests\n")
        row("route", "kept", "p50", "p99", "refused", "busiest replica")
        row(*["---"] * 6)
        ways = {
            "by turns": by_turns(),
            "the less loaded of two": to_the_least(),
            "by the image": by_image(count),
            "by the image, at most 1.5 times the mean": by_image(count, 1.5),
            "by the image, at most 4 times the mean": by_image(count, 4),
        }
        for name, route in ways.items():
            replicas, clock = fleet(count, room, work)
            outcome = simulate(replicas, clock, route, popular_images(images, exponent), seconds, rate=rate, warm_seconds=warm)
            busiest = max(one.busy_seconds for one in replicas) / (seconds + warm)
            asked = len(outcome.latencies) + outcome.refused
            row(
                name,
                f"{outcome.kept / len(outcome.latencies):.0%}",
                f"{outcome.percentile(0.5):.2f} s",
                f"{outcome.percentile(0.99):.2f} s",
                f"{outcome.refused / asked:.1%}",
                f"{busiest:.0%}",
            )
        print()


@dataclass
class Autoscaler:
    """A HorizontalPodAutoscaler with the chart's behaviour: at most twice as many in a minute, and one less a minute
    after five."""

    replicas: int
    least: int = 2
    most: int = 40
    wished: deque[tuple[float, int]] = field(default_factory=deque)
    changes: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, now: float, ratio: float) -> int:
        wish = self.replicas if abs(ratio - 1) <= 0.1 else math.ceil(self.replicas * ratio)
        wish = min(max(wish, self.least), self.most)
        self.wished.append((now, wish))
        while self.wished[0][0] < now - 300:
            self.wished.popleft()
        while self.changes and self.changes[0][0] <= now - 60:
            self.changes.popleft()
        a_minute_ago = self.replicas - sum(change for _, change in self.changes)
        if wish > self.replicas:
            wish = min(wish, 2 * a_minute_ago)
        else:
            wish = max(max(one for _, one in self.wished), a_minute_ago - 1)
            wish = min(wish, self.replicas)
        if wish != self.replicas:
            self.changes.append((now, wish - self.replicas))
            self.replicas = wish
        return wish


def scaling(start_seconds: float = 30.0) -> None:
    """From 60 % of two replicas to eight times as much after five minutes, and back after twenty-five."""
    base = 0.6 * 2 / PASS_SECONDS
    steps = [(0.0, base), (300.0, 8 * base), (1500.0, base)]
    print(f"New pods are ready after {start_seconds:.0f} s; {base:.1f} requests a second, from 5 to 25 minutes {8 * base:.1f}\n")
    row("by", "threshold", "most pods", "at 25 min", "refused", "p95 of minutes 8 to 25", "pod hours")
    row(*["---"] * 7)
    for way, threshold in (("queue wait", 0.25), ("queue wait", 0.5), ("queue wait", 1.0), ("processors", 0.5), ("processors", 0.7)):
        _scale(way, threshold, steps, start_seconds)


def _scale(way: str, threshold: float, steps: list[tuple[float, float]], start_seconds: float) -> None:
    end = 2400.0
    clock, rng = Clock(), random.Random(31)
    live = [Replica(clock, 0, lambda kept: rng.expovariate(1 / PASS_SECONDS) / 2 + PASS_SECONDS / 2) for _ in range(2)]
    autoscaler, route, late = Autoscaler(2), to_the_least(), []
    waits: deque[tuple[float, float]] = deque()
    refused = asked = 0
    pods: list[tuple[float, int]] = [(0.0, 2)]
    used = {id(one): 0.0 for one in live}

    def done(request: Request, answered: bool) -> None:
        nonlocal refused
        if not answered:
            refused += 1
            return
        waits.append((clock.now, request.started - request.came))
        if 480 <= request.came < 1500:
            late.append(clock.now - request.came)

    def arrival() -> None:
        nonlocal asked
        asked += 1
        route(live, asked).take(Request(asked, clock.now, done))
        rate = [rate for since, rate in steps if since <= clock.now][-1]
        clock.at(rng.expovariate(rate), arrival)

    def look() -> None:
        while waits and waits[0][0] < clock.now - 60:
            waits.popleft()
        if way == "queue wait":
            ratio = (statistics.mean(wait for _, wait in waits) if waits else 0.0) / threshold
        else:
            shares = [min(1.0, (one.busy_seconds - used.get(id(one), 0.0)) / 15) for one in live]
            used.update({id(one): one.busy_seconds for one in live})
            ratio = statistics.mean(shares) / threshold
        before, wish = autoscaler.replicas, autoscaler.decide(clock.now, ratio)
        for _ in range(wish - before):
            clock.at(start_seconds, lambda: live.append(Replica(clock, 0, live[0].work_seconds)))
        for _ in range(before - wish):
            # What it has, it answers: it is only asked no more.
            if len(live) > 1:
                live.pop()
        if wish != before:
            pods.append((clock.now, wish))
        clock.at(15.0, look)

    clock.at(0.0, arrival)
    clock.at(15.0, look)
    clock.run(end)
    hours = sum(count * (until - since) for (since, count), (until, _) in zip(pods, [*pods[1:], (end, 0)])) / 3600
    then = [count for since, count in pods if since <= 1500][-1]
    unit = " s" if way == "queue wait" else " of a processor"
    row(way, f"{threshold}{unit}", max(count for _, count in pods), then, f"{refused / asked:.1%}", f"{Outcome(1, late).percentile(0.95):.1f} s", f"{hours:.1f}")


def start(count: int = 1000, per_node: int = 8) -> None:
    """Seconds until the last of all replicas has its weights, if they start at once. Rates of networks and disks are
    assumed."""
    weights, image = 0.351, IMAGE_GIGABYTES
    nodes = math.ceil(count / per_node)
    print(f"{count} replicas on {nodes} nodes, {weights} GB of weights (ViT-B/16), an image of {image} GB\n")
    row("source", "bytes from it", "assumed", "the last one after")
    row(*["---"] * 4)
    sources = [
        ("the hub, by each replica", count * weights, "1 Gbit/s from the hub to all", 0.125),
        ("a mirror in the cluster, by each replica", count * weights, "10 Gbit/s from it", 1.25),
        ("a file server's volume, read-only, read once by each node", nodes * weights, "10 Gbit/s from it", 1.25),
        ("a part of the image, pulled by each node", nodes * (weights + image), "10 Gbit/s from the registry", 1.25),
        ("the image without weights, pulled by each node", nodes * image, "10 Gbit/s from the registry", 1.25),
    ]
    for name, size, assumed, rate in sources:
        row(name, f"{size:.0f} GB", assumed, f"{size / rate:.0f} s")


def shared(count: int = 1000) -> None:
    """Operations and bytes a second between replicas and a common Redis, by what is asked of it. Sizes are assumed."""
    requests, text, image = 0.75 * count / PASS_SECONDS, 512 * 4, 400_000
    names, state = 2000, 80
    print(f"{count} replicas, {requests:.0f} requests a second, {text} bytes a text, {image} an image, {state} the state of a name\n")
    row("what", "operations a second", "Gbit/s")
    row("---", "---", "---")
    cases = [
        ("known class lists in requests: every text is in a replica's own memory", 0, 0),
        ("all name a vocabulary: each looks once for changes", 1, state),
        ("1 % of requests with 20 new names: claimed, written, given back", 0.01 * 20 * 3, 0.01 * 20 * text),
        ("a tenth of the requests upload an image, which is written once", 0.1, 0.1 * image),
        ("all go by an id, by turns: each looks, and all but one in a thousand read the image", 2, image),
        ("all go by an id, routed by the image: each looks, and one in a hundred reads it", 1.01, 0.01 * image),
    ]
    each = [(what, requests * operations, requests * size) for what, operations, size in cases]
    looks = count / LOOK_SECONDS
    each += [
        (f"no requests: each replica looks every {LOOK_SECONDS} s for changes, and for deletions of its images", 2 * looks, looks * state),
        (f"a change every 10 s, with {names} names and deletions: each replica reads all their states", count / 10, count / 10 * names * state),
    ]
    for what, operations, size in each:
        row(what, f"{operations:.0f}", f"{8 * size / 1e9:.2f}")
    start = count * 200 * text
    print(f"\nA start of all at once reads 200 texts each: {start / 1e6:.0f} MB, {8 * start / 10e9:.1f} s at 10 Gbit/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scenarios = parser.add_subparsers(required=True)
    one = scenarios.add_parser("compare")
    one.add_argument("measured", type=Path)
    one.set_defaults(run=lambda arguments: compare(arguments.measured))
    for name, run in {"routing": routing, "scaling": scaling, "start": start, "shared": shared}.items():
        scenarios.add_parser(name).set_defaults(run=lambda arguments, run=run: run())
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
