"""Requests as clients send them, and as clients break them off. Standard library only."""

from __future__ import annotations

import asyncio
import base64
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
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
        return Reply(0, time.monotonic() - started, sent_at=started)
    return Reply(status, time.monotonic() - started, headers, received, started)


async def _exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        try:
            writer.write(request)
            await writer.drain()
        except ConnectionError:
            pass  # The server may answer before it has read everything; its answer is still to be read.
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines[1:] if line)}
        length = headers.get("content-length")
        body = await (reader.read() if length is None else reader.readexactly(int(length)))
        return int(lines[0].split()[1]), headers, body
    finally:
        writer.close()


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
    text = b"mark\0" + str(mark).encode()
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    return image[:33] + chunk + image[33:]  # after the signature and IHDR


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
