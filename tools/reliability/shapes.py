"""Does resident memory stay bounded, whatever is asked and whatever shapes images have? The row of docs/reliability.md
about shapes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

from client import base64_of, png, send
from scenarios import Row
from server import Server

SHAPES, FIRST, MIXED = 1000, 2000, 20_000
"""Shapes of the model's input, requests that visit all of them in turn, and requests of mostly usual shapes after these."""
FULL_SECONDS = 600
"""With fewer seconds, all three numbers are reduced in proportion."""
GROWTH = 0.02
UNIT = 32
"""The sides of all shapes are multiples of so many pixels. Every embedded model's patch divides them."""
SMALLEST = 2
"""The shortest side in units."""
MOST_OBLONG = 8
"""How many times as long as its shorter side the longer one is at most."""
USUAL = 6
"""Shapes that most of the mixed requests have: photographs of a few cameras."""
USUAL_SHARE = 0.9
TEXTS = 200
"""Texts and vocabularies among the mixed requests. Few enough that the memory for text embeddings does not grow by them."""
CLIENTS = 2
REST_SECONDS = 12
"""Longer than the 10 seconds after which the server returns free memory."""
READINGS = 10
"""Of memory during each half of the run."""

Shape = tuple[int, int]


@dataclass(frozen=True)
class Question:
    """A request, and the status of its answer."""

    method: str
    path: str
    value: dict[str, Any] | None
    statuses: tuple[int, ...] = (200,)


async def shapes(program: Path, seconds: float) -> list[Row]:
    """Sends images of many shapes with the image cache off, and prints memory on the way."""
    share = min(1.0, seconds / FULL_SECONDS)
    count, first, later = (max(1, int(number * share)) for number in (SHAPES, FIRST, MIXED))
    rng = random.Random(1)
    every = distinct_shapes(count)
    rng.shuffle(every)
    with Server(program, IMAGES__CACHE_BYTES="0", ENGINE__DEFAULT_DEADLINE_SECONDS="300") as server:
        print(f"requests 0: {server.resident_bytes() / 1e6:.0f} MB", flush=True)
        # Every shape, and then everything else that is asked, so that later requests do nothing for the first time.
        warm = chain(map(segment, every), (mixed(rng, every[number % count]) for number in range(first - count)))
        settled = await visit(server, warm, 0, first // READINGS)
        sizes = (rng.choice(every[:USUAL] if rng.random() < USUAL_SHARE else every) for _ in range(later))
        highest = await visit(server, (mixed(rng, size) for size in sizes), first, later // READINGS)
    growth = highest / settled - 1
    test = f"{first} requests over {count} input shapes, then {later} mixed ones"
    reached = f"at most {settled / 1e6:.0f} MB, then at most {highest / 1e6:.0f} MB: {growth:+.1%}"
    return [Row(test, f"after the first {first} resident memory grows under {GROWTH:.0%}", reached, growth < GROWTH)]


def distinct_shapes(count: int) -> list[Shape]:
    """The `count` smallest widths and heights in pixels, by their product: the most shapes in the least time."""
    sides = range(SMALLEST, count)
    pairs = [(width, height) for width, height in product(sides, sides) if max(width, height) <= MOST_OBLONG * min(width, height)]
    pairs.sort(key=lambda pair: (pair[0] * pair[1], pair))
    return [(width * UNIT, height * UNIT) for width, height in pairs[:count]]


async def visit(server: Server, questions: Iterable[Question], before: int, step: int) -> int:
    """Asks everything, CLIENTS at a time. Prints memory every `step` requests. Returns the highest.

    Memory is read at rest, after the server has returned what is free: in between it depends on the shapes of the last
    passes, which are drawn by lot."""
    answered, highest, started = 0, 0, time.monotonic()
    for part in batched(questions, max(1, step)):
        todo = iter(part)
        await asyncio.gather(*(client(server, todo) for _ in range(CLIENTS)))
        answered += len(part)
        await asyncio.sleep(REST_SECONDS)
        resident = server.resident_bytes()
        highest = max(highest, resident)
        print(f"requests {before + answered}: {resident / 1e6:.0f} MB, {time.monotonic() - started:.0f} s", flush=True)
    return highest


async def client(server: Server, todo: Iterator[Question]) -> None:
    for question in todo:
        reply = await send(server.port, question.method, question.path, question.value)
        assert reply.status in question.statuses, f"{question} gets {reply.status}: {reply.detail}"


def batched(questions: Iterable[Question], length: int) -> Iterator[list[Question]]:
    """The questions in parts of `length`; the last part may be shorter. `itertools` has it from Python 3.12."""
    questions = iter(questions)
    while part := list(islice(questions, length)):
        yield part


def segment(size: Shape, **more: Any) -> Question:
    """Labels a plain image that the model sees at its own size: content does not change what is allocated."""
    value = {"image": base64_of(png(*size)), "classes": ["tiger", "lemon"], "short_side": min(size), "output": {"label_map": "none"}}
    return Question("POST", "/v1/segment", value | more)


def mixed(rng: random.Random, size: Shape) -> Question:
    """One of what clients ask: most label an image, here of this size."""
    text = f"thing {rng.randrange(TEXTS)}"
    vocabulary = f"/v1/vocabularies/{text.replace(' ', '-')}"
    return rng.choices(
        [
            segment(size),
            segment(size, classes=["tiger", text], output={"label_map": "png", "confidence_map": True}),
            Question("POST", "/v1/classify", {"image": base64_of(png(*size)), "classes": ["tiger", text]}),
            Question("POST", "/v1/embeddings", {"model": "demo", "input": [text]}),
            Question("PUT", vocabulary, {"classes": ["tiger", text]}, (200, 201, 202)),
            Question("DELETE", vocabulary, None, (204, 404)),
        ],
        weights=[60, 20, 5, 5, 5, 5],
    )[0]


SCENARIOS = {"shapes": shapes}
