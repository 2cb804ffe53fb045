"""Does the server survive what no honest client sends? The row of docs/reliability.md about the hostile corpus."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from client import Reply, base64_of, send, send_bytes
from corpus import bodies, files
from scenarios import ORDINARY, Row
from server import Server

LIMIT_SECONDS = 30.0
"""engine.default_deadline_seconds: nothing may take longer."""
CLIENTS = 4
BOUNDARY = "a-boundary-that-no-part-holds"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
REQUEST = b'{"classes": ["tiger"], "output": {"label_map": "none"}}'

Sending = tuple[str, str, str, bytes, str]
"""A name, a method, a path, a body and its media type."""


async def hostile(program: Path, seconds: float) -> list[Row]:
    """Sends every file and body on every route that takes one, and prints what fails."""
    sendings = [sending for name, content in files() for sending in as_image(name, content)]
    sendings += [sending for name, content in bodies() for sending in as_body(name, content)]
    replies: list[tuple[Sending, Reply]] = []
    with Server(program) as server:
        todo = iter(sendings)

        async def client() -> None:
            for sending in todo:
                name, method, path, body, kind = sending
                reply = await send_bytes(server.port, method, path, body, kind, 4 * LIMIT_SECONDS)
                replies.append((sending, reply))
                if not is_fine(reply):
                    print(f"{method} {path} ({kind}), {name}: {reply.status} in {reply.seconds:.1f} s, {reply.detail}", flush=True)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        after = await send(server.port, "POST", "/v1/segment", ORDINARY)
        alive = after.status == 200 and server.process.poll() is None and server.restarts() == 0
    slowest = max(reply.seconds for _, reply in replies)
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(Counter(reply.status for _, reply in replies).items()))
    passed = alive and all(is_fine(reply) for _, reply in replies)
    test = f"hostile corpus: {len(files())} files and {len(bodies())} bodies on every route that takes one"
    reached = f"{statuses}; slowest {slowest:.1f} s; {'no restart' if alive else 'a restart'}"
    return [Row(test, f"no 5xx, no restart, none slower than {LIMIT_SECONDS:.0f} s", reached, passed)]


def is_fine(reply: Reply) -> bool:
    """The server may refuse and may understand, but neither fail, nor break off, nor be late."""
    return 200 <= reply.status < 500 and reply.seconds <= LIMIT_SECONDS


def as_image(name: str, content: bytes) -> list[Sending]:
    """A file on the routes that take an image, in both encodings."""
    text = b'"image": "' + base64_of(content).encode() + b'"'
    form = multipart(("image", content))
    return [
        (name, "POST", "/v1/segment", b"{" + text + b", " + REQUEST[1:], "application/json"),
        (name, "POST", "/v1/segment", multipart(("image", content), ("request", REQUEST)), MULTIPART),
        (name, "POST", "/v1/images", b"{" + text + b"}", "application/json"),
        (name, "POST", "/v1/images", form, MULTIPART),
    ]


def as_body(name: str, content: bytes) -> list[Sending]:
    """A body on the routes that take JSON, and as a part of a form."""
    routes = (("POST", "/v1/segment"), ("POST", "/v1/images"), ("PUT", "/v1/vocabularies/hostile"))
    sent = [(name, method, path, content, "application/json") for method, path in routes]
    form = multipart(("image", b"hi"), ("request", content))
    return [*sent, (name, "POST", "/v1/segment", form, MULTIPART), (name, "POST", "/v1/segment", content, MULTIPART)]


def multipart(*parts: tuple[str, bytes]) -> bytes:
    lines = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n" for name, content in parts
    ]
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


SCENARIOS = {"hostile": hostile}
