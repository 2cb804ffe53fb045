"""Where requests about an image go, without a server."""

import hashlib
from io import BytesIO

import httpx
import PIL.Image

from maskclip_client import Client, ProblemError


def picture() -> bytes:
    png = BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(png, "PNG")
    return png.getvalue()


def test_every_request_about_an_image_names_its_digest() -> None:
    asked: list[tuple[str, str | None]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append((f"{request.method} {request.url.path}", request.headers.get("x-maskclip-image")))
        held = {"image_id": "held", "width": 8, "height": 8, "expires_in_seconds": 60}
        problem = {"type": "/problems/test", "title": "Not here", "status": 404, "detail": "no model"}
        return {
            "/v1/images": httpx.Response(201, json=held),
            "/v1/images/held": httpx.Response(204),
        }.get(request.url.path, httpx.Response(404, json=problem))

    image = picture()
    with Client(transport=httpx.MockTransport(handle)) as client:
        for question in (lambda: client.segment(image, ["cat"]), client.models):
            try:
                question()
            except ProblemError:
                pass
        with client.hold(image) as held:
            try:
                held.segment(["cat"])
            except ProblemError:
                pass
    digest = hashlib.sha256(image).hexdigest()
    assert asked == [
        ("POST /v1/segment", digest),
        ("GET /v1/models", None),
        ("POST /v1/images", digest),
        ("POST /v1/segment", digest),
        ("DELETE /v1/images/held", digest),
    ]
