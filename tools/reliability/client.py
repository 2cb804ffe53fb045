"""Requests as clients send them, and as clients break them off. Standard library only."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import struct
import time
import zlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

COLOUR_TYPES = {"grey": (0, 1), "rgb": (2, 3), "rgba": (6, 4)}
"""PNG's colour types, with the channels of each."""


@dataclass
class Reply:
    """A reply, or how the request ended without one."""

    status: int
    """The HTTP status; 0 without a reply."""
    seconds: float
    """From the connection's first byte to the reply's last."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent_at: float = 0.0

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The problem's words, or the start of the body."""
        try:
            problem = json.loads(self.body)
            return str(problem.get("detail") or problem.get("title"))
        except ValueError:
            return self.body[:200].decode(errors="replace")


def head(method: str, path: str, body: bytes, content_type: str = "application/json", key: str | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", "Accept: application/json"]
    lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def send(port: int, method: str, path: str, value: Any = None, timeout: float = 600, key: str | None = None) -> Reply:
    """Sends a JSON body, and returns the reply. A connection that breaks is a reply with the status 0."""
    body = b"" if value is None else json.dumps(value).encode()
    return await send_bytes(port, method, path, body, "application/json", timeout, key)


async def send_bytes(
    port: int, method: str, path: str, body: bytes, content_type: str, timeout: float = 600, key: str | None = None
) -> Reply:
    """Sends a body as it stands, and returns the reply. A connection that breaks is a reply with the status 0."""
    started = time.monotonic()
    request = head(method, path, body, content_type, key) + body
    try:
        status, headers, received = await asyncio.wait_for(_exchange(port, request), timeout)
    except (OSError, asyncio.TimeoutError):
        return Reply(0, time.monotonic() - started, sent_at=started)
    return Reply(status, time.monotonic() - started, headers, received, started)


class _Exchange(asyncio.Protocol):
    """One request and its reply on a connection of its own. A stream for each took three times as long, of processors
    that the server needs."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.received = bytearray()
        self.reply: asyncio.Future[tuple[int, dict[str, str], bytes]] = asyncio.get_running_loop().create_future()
        self.status, self.headers, self.start, self.length = 0, {}, 0, None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.status and (end := self.received.find(b"\r\n\r\n")) >= 0:
            lines = self.received[:end].decode("latin-1").split("\r\n")
            self.status = int(lines[0].split()[1])
            self.headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines[1:])}
            self.start = end + 4
            self.length = int(self.headers["content-length"]) if "content-length" in self.headers else None
        if self.length is not None and len(self.received) >= self.start + self.length:
            self._end(whole=True)

    def connection_lost(self, error: Exception | None) -> None:
        # The server may answer before it has read everything; its answer still counts.
        self._end(whole=self.status != 0 and self.length is None)

    def _end(self, whole: bool) -> None:
        if not self.reply.done():
            if whole:
                self.reply.set_result((self.status, self.headers, bytes(self.received[self.start :])))
            else:
                self.reply.set_exception(ConnectionResetError("the connection ended before the reply"))


async def _exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    transport, exchange = await asyncio.get_running_loop().create_connection(lambda: _Exchange(request), "127.0.0.1", port)
    try:
        return await exchange.reply
    finally:
        transport.abort()


async def abandon(port: int, path: str, value: Any, after: float) -> None:
    """Sends a request and hangs up `after` seconds later."""
    body = json.dumps(value).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head("POST", path, body) + body)
    await writer.drain()
    await asyncio.sleep(after)
    writer.close()


@asynccontextmanager
async def beside(port: int, value: Any, every: float = 1.0) -> AsyncIterator[list[Reply]]:
    """Sends an ordinary request every so many seconds while the block runs. Yields the list that the replies go to."""
    replies: list[Reply] = []
    running: set[asyncio.Task[None]] = set()

    async def one() -> None:
        replies.append(await send(port, "POST", "/v1/segment", value))

    async def all_of_them() -> None:
        while True:
            task = asyncio.create_task(one())
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(every)

    sender = asyncio.create_task(all_of_them())
    try:
        yield replies
    finally:
        sender.cancel()
        await asyncio.gather(*running)


async def all_at_once(requests: list[Awaitable[Reply]]) -> list[Reply]:
    return list(await asyncio.gather(*requests))


def png(width: int, height: int, colour: str = "grey", mark: int = 0) -> bytes:
    """A PNG of one colour, which compresses to next to nothing. Images of different marks have different bytes."""
    kind, channels = COLOUR_TYPES[colour]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    compressor = zlib.compressobj(9)
    row = b"\0" + b"\x80" * (channels * width)
    data = b"".join([*(compressor.compress(row) for _ in range(height)), compressor.flush()])
    chunks = [(b"IHDR", header), (b"tEXt", b"mark\0" + str(mark).encode()), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks)


def marked(image: bytes, mark: int) -> bytes:
    """The same PNG with other bytes, as another upload of another image."""
    start, end = _halves(image)
    return start + _mark(mark) + end


def marked_base64(image: bytes, mark: int) -> str:
    """`marked` in base64. All but the mark is encoded once."""
    start, end = _encoded_halves(image)
    return start + base64_of(_mark(mark)) + end


@functools.lru_cache(maxsize=4)
def _encoded_halves(image: bytes) -> tuple[str, str]:
    start, end = _halves(image)
    return base64_of(start), base64_of(end)


def _halves(image: bytes) -> tuple[bytes, bytes]:
    """A PNG up to the end of IHDR, and the rest. The first half ends with a whole group of base64, as a mark does."""
    return image[:33], image[33:]


def _mark(mark: int) -> bytes:
    text = b"mark\0%010d" % mark
    return struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
