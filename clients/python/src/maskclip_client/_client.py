"""The clients: the same methods, with and without `await`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Optional, TypeVar, Union

import httpx
from typing_extensions import Self, Unpack

from . import _operations as operations
from ._errors import MaskclipError, ProblemError
from ._operations import Call, Held, Steps, Wait, checked, line_of, problem_of
from ._request import Batch, ClassSpec, ImageInput, Options, Output, Probabilities, batches, encoded, form, segment_body
from ._result import BatchItem, Segmentation, VocabularyStatus
from ._retry import Retry

T = TypeVar("T")

MOST_BYTES = 32 * 1024 * 1024
"""Bytes of a batch: the server's own default of `limits.max_request_bytes`."""

MOST_IMAGES = 100
"""Images of a batch: the server's own default of `limits.max_batch_images`."""


def _arguments(url: str, key: Optional[str], timeout: float) -> dict[str, Any]:
    headers = {"user-agent": "maskclip-client"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return {"base_url": url.rstrip("/") + "/", "headers": headers, "timeout": timeout}


class Client:
    """A client of one server.

    `key` is the server's key for you, if it asks for one. `timeout` is in seconds, for a connection and for each piece of
    a reply; give it more than the deadline of your requests (`deadline_seconds`, 30 s on the server). `transport` is
    httpx's, for tests and proxies.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        key: Optional[str] = None,
        *,
        timeout: float = 120.0,
        retry: Optional[Retry] = None,
        transport: Optional[httpx.BaseTransport] = None,
    ) -> None:
        self._http = httpx.Client(**_arguments(url, key, timeout), transport=transport)
        self._retry = retry or Retry()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def segment(
        self,
        image: ImageInput,
        classes: Optional[Sequence[ClassSpec]] = None,
        *,
        vocabulary: Optional[str] = None,
        confidence: bool = False,
        probabilities: Probabilities = None,
        unlabelled: Optional[int] = None,
        polygons: bool = False,
        panoptic: bool = False,
        **options: Unpack[Options],
    ) -> Segmentation:
        """Labels an image by classes, or by those of a vocabulary that the server knows.

        `confidence` brings the probability of each pixel's own label, and `probabilities` those of the classes named
        there in every pixel, or of `"all"`. `unlabelled` is the value of pixels without a class. `polygons` and
        `panoptic` bring the label map in these forms of COCO, too.
        """
        output = Output(confidence, probabilities, unlabelled, polygons, panoptic)
        steps = operations.segment(encoded(image), classes, vocabulary, output, options)
        return self._run(steps)

    def hold(self, image: ImageInput, **options: Unpack[Options]) -> Image:
        """Keeps an image at hand for several questions. It goes over the wire once, with the first of them."""
        return Image(self, Held.of(image, options))

    def segment_many(
        self,
        images: Iterable[ImageInput],
        classes: Optional[Sequence[ClassSpec]] = None,
        *,
        vocabulary: Optional[str] = None,
        confidence: bool = False,
        probabilities: Probabilities = None,
        unlabelled: Optional[int] = None,
        polygons: bool = False,
        panoptic: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[BatchItem]:
        """Labels several images, and yields what became of each as soon as it is done.

        Images travel in batches, and are read as their batch comes to its turn. One that fails has its error in its
        item, and the others go on.
        """
        output = Output(confidence, probabilities, unlabelled, polygons, panoptic)
        body = segment_body(classes, vocabulary, output, options)
        orientation = options.get("orientation", "exif")
        for batch in batches(images, MOST_IMAGES, MOST_BYTES):
            for unreadable in batch.unreadable:
                yield BatchItem.unread(unreadable)
            left = len(batch.images)
            if not left:
                continue
            with self._stream("v1/segment/batch", form([image for _, image in batch.images], body)) as response:
                for text in response.iter_lines():
                    line = line_of(text)
                    if line is not None:
                        index, image = batch.images[line["index"]]
                        yield BatchItem.of(line, index, image, unlabelled, orientation)
                        left -= 1
            if left:
                raise MaskclipError(f"the server broke off: {left} images have no result")

    def models(self) -> Mapping[str, Any]:
        """The models of the server, and its limits."""
        return self._run(operations.models())

    def put_vocabulary(
        self,
        name: str,
        classes: Sequence[ClassSpec],
        *,
        background: Sequence[str] = (),
        options: Optional[Mapping[str, Any]] = None,
        wait: Optional[float] = 300.0,
    ) -> VocabularyStatus:
        """Defines a vocabulary, and waits for at most `wait` seconds until it is embedded; `None` does not wait."""
        return self._run(operations.put_vocabulary(name, classes, background, options or {}, wait))

    def vocabulary_status(self, name: str) -> VocabularyStatus:
        """How far the embedding of a vocabulary has come."""
        return self._run(operations.vocabulary_status(name))

    def vocabulary(self, name: str) -> Mapping[str, Any]:
        """A vocabulary as it is defined."""
        return self._run(operations.vocabulary(name))

    def delete_vocabulary(self, name: str) -> None:
        """Drops a vocabulary."""
        self._run(operations.delete_vocabulary(name))

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    response = self._send(step)
                except ProblemError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _send(self, call: Call) -> httpx.Response:
        """Sends a request, again where that may help."""
        for attempt in itertools.count(1):
            try:
                response = self._http.request(call.method, call.path, **call.arguments)
            except httpx.TransportError as error:
                wait = _wait(self._retry, attempt, error)
            else:
                wait = _wait(self._retry, attempt, response)
            if wait is None:
                return checked(response)
            time.sleep(wait)
        raise AssertionError("the count never ends")

    @contextmanager
    def _stream(self, path: str, arguments: dict[str, Any]) -> Iterator[httpx.Response]:
        """Sends a request whose reply is read as it comes; again where that may help, before it comes."""
        for attempt in itertools.count(1):
            try:
                response = self._http.send(self._http.build_request("POST", path, **arguments), stream=True)
            except httpx.TransportError as error:
                wait = _wait(self._retry, attempt, error)
            else:
                try:
                    if response.is_success:
                        with _broken_off():
                            yield response
                        return
                    response.read()
                finally:
                    response.close()
                wait = _wait(self._retry, attempt, response)
            if wait is None:
                raise problem_of(response)
            time.sleep(wait)


class Image:
    """An image for several questions. The server holds it from the first one on, until it is closed."""

    def __init__(self, client: Client, held: Held) -> None:
        self._client = client
        self._held = held

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    @property
    def image_id(self) -> Optional[str]:
        """What stands for the image; `None` before the first question."""
        return None if self._held.known is None else self._held.known.image_id

    def segment(
        self,
        classes: Optional[Sequence[ClassSpec]] = None,
        *,
        vocabulary: Optional[str] = None,
        confidence: bool = False,
        probabilities: Probabilities = None,
        unlabelled: Optional[int] = None,
        polygons: bool = False,
        panoptic: bool = False,
        **options: Unpack[Options],
    ) -> Segmentation:
        """Labels the image, as `Client.segment` does. A server that has forgotten it gets it again."""
        output = Output(confidence, probabilities, unlabelled, polygons, panoptic)
        steps = operations.segment(self._held, classes, vocabulary, output, options)
        return self._client._run(steps)

    def close(self) -> None:
        """Drops the image from the server."""
        self._client._run(operations.release(self._held))


@contextmanager
def _broken_off() -> Iterator[None]:
    """Raises `MaskclipError` for a connection that breaks while a reply comes: some of it is read, so none is repeated."""
    try:
        yield
    except httpx.TransportError as error:
        raise MaskclipError(f"the server broke off: {type(error).__name__}: {error}") from error


def _next(divided: Iterator[Batch]) -> Optional[Batch]:
    return next(divided, None)


def _wait(retry: Retry, attempt: int, outcome: Union[httpx.Response, httpx.TransportError]) -> Optional[float]:
    """The seconds to wait before a request is sent again; `None` for a response that stands.

    Raises `MaskclipError` for a connection that has broken too often.
    """
    if isinstance(outcome, httpx.Response):
        return None if outcome.is_success else retry.seconds(attempt, outcome.status_code, outcome.headers)
    wait = retry.seconds(attempt, None, {})
    if wait is None:
        raise MaskclipError(f"{type(outcome).__name__}: {outcome}") from outcome
    return wait


class AsyncClient:
    """`Client` with coroutines. The arguments and results are the same."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        key: Optional[str] = None,
        *,
        timeout: float = 120.0,
        retry: Optional[Retry] = None,
        transport: Optional[httpx.AsyncBaseTransport] = None,
    ) -> None:
        self._http = httpx.AsyncClient(**_arguments(url, key, timeout), transport=transport)
        self._retry = retry or Retry()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def segment(
        self,
        image: ImageInput,
        classes: Optional[Sequence[ClassSpec]] = None,
        *,
        vocabulary: Optional[str] = None,
        confidence: bool = False,
        probabilities: Probabilities = None,
        unlabelled: Optional[int] = None,
        polygons: bool = False,
        panoptic: bool = False,
        **options: Unpack[Options],
    ) -> Segmentation:
        """As `Client.segment`."""
        output = Output(confidence, probabilities, unlabelled, polygons, panoptic)
        steps = operations.segment(encoded(image), classes, vocabulary, output, options)
        return await self._run(steps)

    def hold(self, image: ImageInput, **options: Unpack[Options]) -> AsyncImage:
        """As `Client.hold`."""
        return AsyncImage(self, Held.of(image, options))

    async def segment_many(
        self,
        images: Iterable[ImageInput],
        classes: Optional[Sequence[ClassSpec]] = None,
        *,
        vocabulary: Optional[str] = None,
        confidence: bool = False,
        probabilities: Probabilities = None,
        unlabelled: Optional[int] = None,
        polygons: bool = False,
        panoptic: bool = False,
        **options: Unpack[Options],
    ) -> AsyncIterator[BatchItem]:
        """As `Client.segment_many`."""
        output = Output(confidence, probabilities, unlabelled, polygons, panoptic)
        body = segment_body(classes, vocabulary, output, options)
        orientation = options.get("orientation", "exif")
        # Files are read and pixels encoded on a thread, so that other coroutines go on.
        divided = batches(images, MOST_IMAGES, MOST_BYTES)
        while (batch := await asyncio.to_thread(_next, divided)) is not None:
            for unreadable in batch.unreadable:
                yield BatchItem.unread(unreadable)
            left = len(batch.images)
            if not left:
                continue
            form_of_batch = form([image for _, image in batch.images], body)
            async with self._stream("v1/segment/batch", form_of_batch) as response:
                async for text in response.aiter_lines():
                    line = line_of(text)
                    if line is not None:
                        index, image = batch.images[line["index"]]
                        yield BatchItem.of(line, index, image, unlabelled, orientation)
                        left -= 1
            if left:
                raise MaskclipError(f"the server broke off: {left} images have no result")

    async def models(self) -> Mapping[str, Any]:
        """As `Client.models`."""
        return await self._run(operations.models())

    async def put_vocabulary(
        self,
        name: str,
        classes: Sequence[ClassSpec],
        *,
        background: Sequence[str] = (),
        options: Optional[Mapping[str, Any]] = None,
        wait: Optional[float] = 300.0,
    ) -> VocabularyStatus:
        """As `Client.put_vocabulary`."""
        return await self._run(operations.put_vocabulary(name, classes, background, options or {}, wait))

    async def vocabulary_status(self, name: str) -> VocabularyStatus:
        """As `Client.vocabulary_status`."""
        return await self._run(operations.vocabulary_status(name))

    async def vocabulary(self, name: str) -> Mapping[str, Any]:
        """As `Client.vocabulary`."""
        return await self._run(operations.vocabulary(name))

    async def delete_vocabulary(self, name: str) -> None:
        """As `Client.delete_vocabulary`."""
        await self._run(operations.delete_vocabulary(name))

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    response = await self._send(step)
                except ProblemError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _send(self, call: Call) -> httpx.Response:
        for attempt in itertools.count(1):
            try:
                response = await self._http.request(call.method, call.path, **call.arguments)
            except httpx.TransportError as error:
                wait = _wait(self._retry, attempt, error)
            else:
                wait = _wait(self._retry, attempt, response)
            if wait is None:
                return checked(response)
            await asyncio.sleep(wait)
        raise AssertionError("the count never ends")

    @asynccontextmanager
    async def _stream(self, path: str, arguments: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        for attempt in itertools.count(1):
            try:
                response = await self._http.send(self._http.build_request("POST", path, **arguments), stream=True)
            except httpx.TransportError as error:
                wait = _wait(self._retry, attempt, error)
            else:
                try:
                    if response.is_success:
                        with _broken_off():
                            yield response
                        return
                    await response.aread()
                finally:
                    await response.aclose()
                wait = _wait(self._retry, attempt, response)
            if wait is None:
                raise problem_of(response)
            await asyncio.sleep(wait)


class AsyncImage:
    """`Image` with coroutines."""

    def __init__(self, client: AsyncClient, held: Held) -> None:
        self._client = client
        self._held = held

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    @property
    def image_id(self) -> Optional[str]:
        """As `Image.image_id`."""
        return None if self._held.known is None else self._held.known.image_id

    async def segment(
        self,
        classes: Optional[Sequence[ClassSpec]] = None,
        *,
        vocabulary: Optional[str] = None,
        confidence: bool = False,
        probabilities: Probabilities = None,
        unlabelled: Optional[int] = None,
        polygons: bool = False,
        panoptic: bool = False,
        **options: Unpack[Options],
    ) -> Segmentation:
        """As `Image.segment`."""
        output = Output(confidence, probabilities, unlabelled, polygons, panoptic)
        steps = operations.segment(self._held, classes, vocabulary, output, options)
        return await self._client._run(steps)

    async def close(self) -> None:
        """As `Image.close`."""
        await self._client._run(operations.release(self._held))
