"""Kills the server again and again while vocabularies and embeddings are written, and looks at what is left."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from client import send
from scenarios import ORDINARY, Row
from server import Server

KILLS = 200
CLIENTS = 4
LIVE = 40
"""How many vocabularies there are at most."""
COMPARED = 4
"""How many vocabularies are used after each kill. After the last one all are."""
TOLERANCE = 1e-4
"""Texts that are embedded beside others differ by rounding. Another text's similarity differs by hundredths."""


class Ledger:
    """What clients were told, and what may have happened beyond."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.numbers = itertools.count()
        self.told: dict[str, list[str]] = {}
        """The classes of each vocabulary whose last change was acknowledged."""
        self.asked: dict[str, list[list[str] | None]] = {}
        """The changes of each vocabulary that were asked for and not answered; None is its end."""
        self.faults: list[str] = []
        self.changes = 0

    def classes(self) -> list[str]:
        return [f"thing {next(self.numbers)}" for _ in range(self.random.randint(1, 6))]

    async def change(self, port: int) -> None:
        """Defines, replaces or deletes a vocabulary that no other client works on."""
        free = [name for name in self.told if name not in self.asked]
        if free and self.random.random() < 0.3:
            name, after = self.random.choice(free), None
        elif free and (len(self.told) + len(self.asked) >= LIVE or self.random.random() < 0.4):
            name, after = self.random.choice(free), self.classes()
        else:
            name, after = f"list-{next(self.numbers)}", self.classes()
        self.asked[name] = [after]
        body = None if after is None else {"classes": after, "options": {"templates": "simple"}}
        reply = await send(port, "DELETE" if after is None else "PUT", f"/v1/vocabularies/{name}", body)
        if reply.status == 0:
            return
        del self.asked[name]
        if reply.status not in (200, 201, 202, 204):
            self.faults.append(f"a change is answered {reply.status}: {reply.detail}")
            return
        self.changes += 1
        self.settle(name, after)

    def settle(self, name: str, classes: list[str] | None) -> None:
        self.told.pop(name, None)
        if classes is not None:
            self.told[name] = classes

    async def check(self, port: int) -> None:
        """Compares the definitions with what was told. What was asked for and not answered may be there or not."""
        listed = (await fetch(port, "/v1/vocabularies"))["vocabularies"]
        found = {}
        for name in (entry["name"] for entry in listed if not entry["shipped"]):
            found[name] = (await fetch(port, f"/v1/vocabularies/{name}"))["classes"]
        for name in self.told.keys() | self.asked.keys() | found.keys():
            allowed = [self.told.get(name), *self.asked.get(name, [])]
            if found.get(name) not in allowed:
                self.faults.append(f"{name} is {found.get(name)}, and should be one of {allowed}")
            self.settle(name, found.get(name))
        self.asked.clear()


async def fetch(port: int, path: str) -> Any:
    reply = await send(port, "GET", path)
    assert reply.status == 200, f"GET {path} is answered {reply.status}: {reply.detail}"
    return reply.json()


async def similarities(port: int, vocabulary: dict[str, Any]) -> list[float]:
    """The similarity of each class with an image, which shows the embedding of its text."""
    value = {"image": ORDINARY["image"], "templates": "simple", "deadline_seconds": 300, "output": {"label_map": "none"}}
    reply = await send(port, "POST", "/v1/segment", value | vocabulary)
    assert reply.status == 200, f"the request is answered {reply.status}: {reply.detail}"
    return [entry["similarity"] for entry in reply.json()["classes"]]


async def compare(ledger: Ledger, port: int, reference: int, count: int) -> int:
    """Compares what a server labels with vocabularies of its store with what a server computes afresh."""
    names = ledger.random.sample(sorted(ledger.told), min(count, len(ledger.told)))
    for name in names:
        kept = await similarities(port, {"vocabulary": name})
        fresh = await similarities(reference, {"classes": ledger.told[name]})
        if any(abs(one - other) > TOLERANCE for one, other in zip(kept, fresh, strict=True)):
            ledger.faults.append(f"{name} has similarities {kept}, and should have {fresh}")
    return len(names)


async def live(ledger: Ledger, server: Server) -> None:
    """Changes vocabularies and brings new texts along until the server is gone."""

    async def one_client() -> None:
        while server.process.poll() is None:
            if ledger.random.random() < 0.25:
                classes = {"classes": ledger.classes(), "image": ORDINARY["image"], "templates": "simple"}
                await send(server.port, "POST", "/v1/segment", classes)
            else:
                await ledger.change(server.port)

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))


async def kills(program: Path, seconds: float) -> list[Row]:
    """Each life of the server ends by SIGKILL: in one of four while it starts, else under a load of writes."""
    ledger = Ledger()
    started = time.monotonic()
    killed = compared = read = 0
    # In one precision, which the speed of the machine would choose otherwise.
    settings = {"MODEL__PRECISION": "float32"}
    with tempfile.TemporaryDirectory(prefix="maskclip-kills-") as folder, Server(program, **settings) as fresh:
        store = settings | {"VOCABULARY__STORE_PATH": str(Path(folder) / "store.sqlite3")}
        while killed < KILLS and time.monotonic() < started + seconds:
            server = Server(program, **store)
            if ledger.random.random() < 0.25:
                await asyncio.sleep(ledger.random.uniform(0, 1))
            else:
                server.wait_until_ready()
                await ledger.check(server.port)
                compared += await compare(ledger, server.port, fresh.port, COMPARED)
                load = asyncio.create_task(live(ledger, server))
                await asyncio.sleep(ledger.random.uniform(0, 1.5))
                read += await disk_hits(server.port)
                server.process.kill()
                await load
            server.process.kill()
            server.process.wait()
            killed += 1
            if "damaged" in server.log.read_text(errors="replace"):
                ledger.faults.append(f"a file was damaged: {server.log.read_text(errors='replace')[-500:]}")
            server.folder.cleanup()
        with Server(program, **store) as server:
            await ledger.check(server.port)
            compared += await compare(ledger, server.port, fresh.port, LIVE)
            read += await disk_hits(server.port)
    reached = (
        f"{ledger.changes} changes acknowledged, {compared} vocabularies compared, {read} embeddings read from the store, "
        f"{len(ledger.faults)} faults{''.join(f'; {fault}' for fault in ledger.faults[:3])}; {time.monotonic() - started:.0f} s"
    )
    bar = "every restart ready, no wrong embedding, no acknowledged vocabulary lost"
    return [Row(f"{killed} kill -9 at random moments under write load", bar, reached, not ledger.faults)]


async def disk_hits(port: int) -> int:
    reply = await send(port, "GET", "/metrics")
    found = re.search(rb"^maskclip_vocabulary_disk_hits_total (\d+)", reply.body, re.MULTILINE)
    return int(found[1]) if found else 0
