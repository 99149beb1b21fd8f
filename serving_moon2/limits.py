"""What a request may hold, and what it is told if it holds anything else."""

import base64
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from processing_moon2 import ProductError, read_product

# Of one product, so that none exhausts the process. An image is at most a thousand tokens or so.
MAX_CHARACTERS, MAX_IMAGES, MAX_TOKENS = 20_000, 8, 16_384
NO_JSON = "The body is not JSON; send a product or a list of products as Content-Type: application/json."
NO_BASE64 = "an image is not base64; send its file's bytes in base64 (paths and addresses are not opened)."


def refusal(status: int, sentence: str) -> JSONResponse:
    """Return an answer that says what is wrong, without the whole of a long value."""
    short = sentence if len(sentence) < 500 else f"{sentence[:400]} ... {sentence[-90:]}"
    return JSONResponse({"detail": short}, status, {"Retry-After": "1"} if status == 503 else None)


def read_products(body: Any) -> list[dict]:
    """Return the products of a request, each image as `{"bytes"}`; no image is opened yet.

    Raises:
        ValueError: the body is not JSON, or a product is wrong; it names the product's index.
    """
    if isinstance(body, bytes) or body == []:
        raise ValueError(NO_JSON if body else "There are no products; send one, or a list of them.")
    products = []
    for index, product in enumerate(body if isinstance(body, list) else [body]):
        texts = [product.get("text"), product.get("instruction")] if isinstance(product, dict) else []
        if len(str(texts)) > MAX_CHARACTERS:
            raise ProductError(index, f"its texts have more than {MAX_CHARACTERS:,} characters.")
        text, instruction, images = read_product(product, index)
        if len(images) > MAX_IMAGES:
            raise ProductError(index, f"it has {len(images)} images; {MAX_IMAGES} are allowed.")
        try:
            images = [{"bytes": base64.b64decode(image, validate=True)} for image in images]
        except (TypeError, ValueError):
            raise ProductError(index, NO_BASE64) from None
        products.append({"text": text, "instruction": instruction, "image": images})
    return products


class BoundedQueue:
    """Answer 503 while `most` requests are being read, waiting or embedded."""

    def __init__(self, app: ASGIApp, most: int):
        self.app, self.most, self.inside = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "POST":
            return await self.app(scope, receive, send)
        if self.inside >= self.most:
            full = refusal(503, f"{self.most} requests are waiting already; try again later.")
            return await full(scope, receive, send)
        self.inside += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.inside -= 1
