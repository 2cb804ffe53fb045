"""Repeats, without a server."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

import httpx
import pytest

from maskclip_client import AsyncClient, Client, MaskclipError, ProblemError, Retry, UnreadableImage, _client

PROBLEM = {"type": "/problems/overloaded", "title": "The server is overloaded", "status": 429, "detail": "full"}


def answers(*responses: httpx.Response) -> tuple[httpx.MockTransport, list[float]]:
    """A transport that answers in this order, and the times at which it was asked."""
    asked: list[float] = []
    left = list(responses)

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(time.monotonic())
        return left.pop(0)

    return httpx.MockTransport(handle), asked


def full(**headers: str) -> httpx.Response:
    return httpx.Response(429, json=PROBLEM, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_the_seconds_that_the_server_names_are_waited() -> None:
    transport, asked = answers(full(retry_after="1"), httpx.Response(200, json={"models": []}))
    with Client(transport=transport) as client:
        assert client.models() == {"models": []}
    assert 1.0 <= asked[1] - asked[0] < 20.0


def test_coroutines_wait_as_well() -> None:
    async def run() -> None:
        transport, asked = answers(full(retry_after="1"), httpx.Response(200, json={"models": []}))
        async with AsyncClient(transport=transport) as client:
            assert await client.models() == {"models": []}
        assert 1.0 <= asked[1] - asked[0] < 20.0

    asyncio.run(run())


def test_a_full_server_that_names_no_time_is_not_asked_again() -> None:
    transport, asked = answers(full())
    with Client(transport=transport) as client, pytest.raises(ProblemError) as caught:
        client.models()
    assert len(asked) == 1
    assert caught.value.problem.detail == "full"


def test_a_wait_that_is_too_long_is_not_waited() -> None:
    transport, asked = answers(full(retry_after="61"))
    with Client(transport=transport) as client, pytest.raises(ProblemError) as caught:
        client.models()
    assert len(asked) == 1
    assert caught.value.retry_after_seconds == 61


def test_other_failures_are_repeated_after_times_that_double() -> None:
    retry = Retry(attempts=4, first_seconds=0.1)
    waits = [retry.seconds(attempt, 503, {}) for attempt in (1, 2, 3)]
    for wait, expected in zip(waits, (0.1, 0.2, 0.4)):
        assert wait is not None and 0.75 * expected <= wait <= 1.25 * expected
    assert retry.seconds(4, 503, {}) is None
    assert retry.seconds(1, 422, {"retry-after": "1"}) is None


def test_attempts_come_to_an_end_and_the_last_answer_is_told() -> None:
    transport, asked = answers(*(httpx.Response(503, text="a proxy") for _ in range(3)))
    with Client(transport=transport, retry=Retry(attempts=3, first_seconds=0.01)) as client:
        with pytest.raises(ProblemError) as caught:
            client.models()
    assert (len(asked), caught.value.problem.status) == (3, 503)


@pytest.mark.parametrize("ask", [Client.models, lambda client: list(client.segment_many([b"image"], ["cat"]))])
def test_a_connection_that_breaks_is_tried_again(ask: Callable[[Client], object]) -> None:
    asked = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ConnectError("refused", request=request)

    with Client(transport=httpx.MockTransport(handle), retry=Retry(attempts=2, first_seconds=0.01)) as client:
        with pytest.raises(MaskclipError, match="refused"):
            ask(client)
    assert len(asked) == 2


def test_a_batch_that_breaks_off_is_told() -> None:
    line = b'{"index": 0, "status": 422, "problem": {"type": "t", "title": "a", "status": 422}}\n'
    transport, _ = answers(httpx.Response(200, content=line))
    with Client(transport=transport) as client, pytest.raises(MaskclipError, match="1 images have no result"):
        list(client.segment_many([b"one", b"two"], ["cat"]))


class Breaking(httpx.SyncByteStream):
    """A reply that breaks off after its first line."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"\n"
        raise httpx.RemoteProtocolError("peer closed connection")


def test_a_batch_that_breaks_off_and_a_reply_of_something_else_are_errors_of_the_client() -> None:
    transport, _ = answers(httpx.Response(200, stream=Breaking()), httpx.Response(200, text="<html>"))
    with Client(transport=transport) as client:
        with pytest.raises(MaskclipError, match="broke off: RemoteProtocolError"):
            list(client.segment_many([b"image"], ["cat"]))
        with pytest.raises(MaskclipError, match="no JSON: '<html>'"):
            client.models()


def refusals(request: httpx.Request) -> httpx.Response:
    """A batch of which every image is refused."""
    images = request.content.count(b'; name="image"')
    problem = {"type": "t", "title": "refused", "status": 422}
    lines = [json.dumps({"index": index, "status": 422, "problem": problem}) for index in range(images)]
    return httpx.Response(200, text="\n".join(lines))


def test_images_are_read_as_their_batch_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client, "MOST_IMAGES", 2)
    read: list[int] = []

    def images() -> Iterator[bytes]:
        for number in range(5):
            read.append(number)
            yield b"image"

    with Client(transport=httpx.MockTransport(refusals)) as client:
        items = client.segment_many(images(), ["cat"])
        assert next(items).index == 0
        # The first image of the next batch is read before it is known to be one.
        assert read == [0, 1, 2]
        assert [item.index for item in items] == [1, 2, 3, 4]


def test_an_image_that_cannot_be_read_has_its_error_in_its_item(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"image")
    gone = tmp_path / "gone.png"

    async def run() -> list[Optional[MaskclipError]]:
        async with AsyncClient(transport=httpx.MockTransport(refusals)) as client:
            items = [item async for item in client.segment_many([gone, image], ["cat"])]
            return [item.error for item in sorted(items, key=lambda item: item.index)]

    with Client(transport=httpx.MockTransport(refusals)) as client:
        items = sorted(client.segment_many([gone, image, gone], ["cat"]), key=lambda item: item.index)
        assert [item.name for item in items] == ["gone.png", "image.png", "gone.png"]
        assert [type(item.error) for item in items] == [UnreadableImage, ProblemError, UnreadableImage]
        with pytest.raises(UnreadableImage, match="gone.png cannot be read: .*No such file"):
            items[0].unwrap()
        assert [type(item.error) for item in client.segment_many([gone], ["cat"])] == [UnreadableImage]
    assert [type(error) for error in asyncio.run(run())] == [UnreadableImage, ProblemError]
