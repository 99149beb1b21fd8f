"""What the page accepts, and what it never gives away."""

import json
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pictures_moon2 import PICTURE_FORMATS, PILLOW_ERRORS

MAX_UPLOAD = 8 << 20  # bytes
MAX_PIXELS = 32_000_000  # what a PNG of few bytes may unfold to
MAX_TEXT = 500  # characters
MAX_WAITING = 32  # requests; more are told to come back
MAX_REQUEST = 64 << 10  # bytes of other requests, and of an upload beside its file
HOURS_KEPT = 1  # of an uploaded image

NO_ADDRESSES = "This page fetches no addresses."
TOO_LARGE = f"An image may have at most {MAX_UPLOAD >> 20} MiB."
TOO_MANY_PIXELS = f"The image has more than {MAX_PIXELS // 1_000_000} million pixels."

# The page loads what it consists of from where it comes from, and nothing from elsewhere. Gradio compiles templates.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)


def picture_problem(content: bytes | Path) -> str | None:
    """Return why a file is refused, or `None`, by its content and not its name. Nothing is decoded."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size > MAX_UPLOAD:
        return TOO_LARGE
    kinds = f"{', '.join(PICTURE_FORMATS[:-1])} or {PICTURE_FORMATS[-1]}"
    try:
        with Image.open(
            BytesIO(content) if isinstance(content, bytes) else content, formats=PICTURE_FORMATS
        ) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        return TOO_MANY_PIXELS
    except UnidentifiedImageError:
        return f"This file is no {kinds} image."
    except PILLOW_ERRORS:
        return f"This file is damaged; it cannot be read as a {kinds} image."
    return TOO_MANY_PIXELS if width * height > MAX_PIXELS else None


class Guard:
    """The door of the page's server: it bounds requests, checks uploads before they are stored, and closes routes that
    fetch addresses.

    What is too large is answered with 413, an upload that is no image with 415, each with a sentence.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if _fetches(path):
            await PlainTextResponse(NO_ADDRESSES, 403)(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            uploads = path.rstrip("/").endswith("/upload")
            body = await _read(receive, MAX_REQUEST + (MAX_UPLOAD if uploads else 0))
            if body is None:
                refusal = PlainTextResponse(TOO_LARGE if uploads else "The request is too large.", 413)
            elif uploads:
                refusal = await _refusal(Request(scope, _replay(body, receive)))
            else:
                refusal = PlainTextResponse(NO_ADDRESSES, 403) if _names_address(body) else None
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            receive = _replay(body, receive)
        await self.app(scope, receive, _with_policy(send))


def _fetches(path: str) -> bool:
    """Tell whether a route would have the server fetch from an address, which gradio offers for other pages."""
    if "/proxy=" in path:
        return True
    _, _, name = path.partition("/file=")
    return ":/" in name


def _names_address(body: bytes) -> bool:
    """Tell whether a request calls an address a file; gradio would fetch it before it asks the page."""
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):  # no JSON, or absurdly deep; gradio says so
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if ":/" in str(value.get("path", "")):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


async def _read(receive: Receive, limit: int) -> bytes | None:
    """Return a request's body; `None` if it is longer than `limit` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _refusal(request: Request) -> PlainTextResponse | None:
    """Return the answer to an upload that is no form with one image in it; `None` if it is one."""
    try:
        form = await request.form(max_files=1)
    except (MultiPartException, HTTPException) as error:
        reason = error.message if isinstance(error, MultiPartException) else error.detail
        return PlainTextResponse(f"The upload cannot be read: {reason}", 400)
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        problems = [picture_problem(await file.read()) for file in files]
    finally:
        await form.close()
    problem = next(filter(None, problems), None)
    return None if problem is None else PlainTextResponse(problem, 415)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a body that was read already once more, then what comes after it."""
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Message:
        return next(parts, None) or await receive()

    return receive_again


def _with_policy(send: Send) -> Send:
    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(
                {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
            )
        await send(message)

    return send_with_policy
