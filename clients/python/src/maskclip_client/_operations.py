"""What each method does, apart from how bytes travel.

An operation is a generator. It yields requests to send and times to wait, is sent the responses, and returns the
method's result. So `Client` and `AsyncClient` share all of it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, TypeVar, Union
from urllib.parse import quote

import httpx

from ._errors import MaskclipError, Problem, ProblemError
from ._request import HELD, ClassSpec, ImageInput, Output, encoded, form, segment_body
from ._result import HeldImage, Segmentation, VocabularyStatus
from ._retry import retry_after

T = TypeVar("T")


@dataclass
class Call:
    """A request to send."""

    method: str
    path: str
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of httpx."""


@dataclass
class Wait:
    """A time to wait."""

    seconds: float


Steps = Generator[Union[Call, Wait], Optional[httpx.Response], T]


def about(file: bytes, arguments: Optional[dict[str, Any]] = None) -> dict[str, Any]:
    """Further arguments of httpx for a request about an image's file.

    The header brings all of them to the replica that has the image's features, through a proxy that hashes it.
    """
    return {**(arguments or {}), "headers": {"x-maskclip-image": hashlib.sha256(file).hexdigest()}}


def checked(response: httpx.Response) -> httpx.Response:
    """The response, if it is a success.

    Raises `ProblemError` otherwise.
    """
    if response.is_success:
        return response
    raise problem_of(response)


def problem_of(response: httpx.Response) -> ProblemError:
    """The problem in a response; one made of the status where something else than the server has answered."""
    try:
        problem = Problem.of({"status": response.status_code, **response.json()})
    except (ValueError, TypeError):
        problem = Problem("about:blank", response.reason_phrase, response.status_code)
    return ProblemError(problem, retry_after(response.headers))


def asked(call: Call) -> Steps[Any]:
    """Sends a request and returns the JSON of its reply."""
    response = yield call
    assert response is not None
    return parsed(response.text)


@dataclass
class Held:
    """An image on its way to the server, or there."""

    name: str
    file: bytes
    options: dict[str, Any]
    """How it is left there; requests name the same."""
    known: Optional[HeldImage] = None

    @classmethod
    def of(cls, image: ImageInput, options: Mapping[str, Any]) -> Held:
        name, file = encoded(image)
        return cls(name, file, {name: options[name] for name in HELD if name in options})


def hold(held: Held) -> Steps[HeldImage]:
    """Leaves an image with the server, unless it is there already."""
    if held.known is None:
        call = Call("POST", "v1/images", about(held.file, form([(held.name, held.file)], held.options)))
        body = yield from asked(call)
        known = HeldImage(body["image_id"], body["width"], body["height"], body["expires_in_seconds"])
        held.known = known
    return held.known


def release(held: Held) -> Steps[None]:
    """Drops an image from the server."""
    known, held.known = held.known, None
    if known is not None:
        try:
            yield Call("DELETE", f"v1/images/{known.image_id}", about(held.file))
        except ProblemError as error:
            if error.problem.type != "/problems/image-not-held":
                raise


def segment(
    image: Union[Held, tuple[str, bytes]],
    classes: Optional[Sequence[ClassSpec]],
    vocabulary: Optional[str],
    output: Output,
    options: Mapping[str, Any],
) -> Steps[Segmentation]:
    """Labels an image. One that is held goes over the wire once, and again where the server has forgotten it."""
    if isinstance(image, Held):
        options = {**image.options, **options}
        name, file = image.name, image.file
    else:
        name, file = image
    body = segment_body(classes, vocabulary, output, options)
    if isinstance(image, Held):
        try:
            reply = yield from segment_held(image, body)
        except ProblemError as error:
            if error.problem.type != "/problems/image-not-held":
                raise
            image.known = None
            reply = yield from segment_held(image, body)
    else:
        reply = yield from asked(Call("POST", "v1/segment", about(file, form([(name, file)], body))))
    return Segmentation.of(reply, file, output.unlabelled, options.get("orientation", "exif"))


def segment_held(image: Held, body: Mapping[str, Any]) -> Steps[Any]:
    known = yield from hold(image)
    arguments = {"json": {"image_id": known.image_id, **body}}
    return (yield from asked(Call("POST", "v1/segment", about(image.file, arguments))))


def models() -> Steps[Any]:
    return (yield from asked(Call("GET", "v1/models")))


def put_vocabulary(
    name: str,
    classes: Sequence[ClassSpec],
    background: Sequence[str],
    options: Mapping[str, Any],
    wait: Optional[float],
) -> Steps[VocabularyStatus]:
    """Defines a vocabulary, and waits until its texts are embedded."""
    body = {"classes": classes, "background": background, "options": options}
    yield Call("PUT", _vocabulary(name), {"json": body})
    until = None if wait is None else time.monotonic() + wait
    while True:
        response = yield Call("GET", _vocabulary(name) + "/status")
        assert response is not None
        status = VocabularyStatus.of(response.json())
        if status.ready or until is None:
            return status
        left = until - time.monotonic()
        if left <= 0:
            raise MaskclipError(f"{status.embedded} of {status.total} texts of {name!r} were embedded in {wait} s")
        yield Wait(min(retry_after(response.headers) or 1.0, left))


def vocabulary_status(name: str) -> Steps[VocabularyStatus]:
    body = yield from asked(Call("GET", _vocabulary(name) + "/status"))
    return VocabularyStatus.of(body)


def vocabulary(name: str) -> Steps[Any]:
    return (yield from asked(Call("GET", _vocabulary(name))))


def delete_vocabulary(name: str) -> Steps[None]:
    yield Call("DELETE", _vocabulary(name))


def _vocabulary(name: str) -> str:
    return f"v1/vocabularies/{quote(name, safe='')}"


def line_of(text: str) -> Optional[dict[str, Any]]:
    """A line of a batch; `None` for an empty one."""
    return parsed(text) if text.strip() else None


def parsed(text: str) -> Any:
    """The value of a reply's JSON.

    Raises `MaskclipError` where something else than the server has answered.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise MaskclipError(f"the reply is no JSON: {text[:80]!r}") from error
