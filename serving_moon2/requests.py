"""What strangers send -> products, and what `Moon2Processor` makes of them. Nothing here needs a server."""

import base64
import re
from collections.abc import Callable
from typing import Any

from transformers import BatchFeature

from configuration_moon2 import NOT_POOLED
from processing_moon2 import Moon2Processor, ProductError, read_messages, read_product

# Of one product, so that none exhausts the process. An image is at most a thousand tokens or so.
MAX_CHARACTERS, MAX_IMAGES, MAX_TOKENS = 20_000, 8, 16_384
NO_JSON = "The body is not JSON; send a product or a list of products as Content-Type: application/json."
NO_BASE64 = "an image is not base64; send its file's bytes in base64 (paths and addresses are not opened)."
DATA_URL = re.compile(r"\Adata:[^,]*;base64,", re.IGNORECASE)


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


def read_chat(messages: list[dict]) -> dict:
    """Return the product that a conversation tells of; its images are `image_url` parts, as OpenAI has them.

    Raises:
        ValueError: it tells of none; the message says why.
    """
    try:
        return read_messages([message | {"content": _parts(message)} for message in messages])
    except ValueError as error:
        raise ValueError(f"The messages do not tell of a product: {error}") from error


def _parts(message: dict) -> list | str:
    """Return what a message holds, with images named as transformers names them."""
    content = message.get("content")
    if not content or isinstance(content, str):
        return content
    try:
        parts = list(content)  # the server checks them while they are read
    except ValueError:
        raise ValueError(
            "a part is neither {'type': 'text', 'text': ...} nor of type 'image_url', with a 'url'."
        ) from None
    return [
        {"type": "image", "image": url["url"] if isinstance(url, dict) else url}
        if isinstance(part, dict) and (url := part.get("image_url")) is not None
        else part
        for part in parts
    ]


def prepare(
    processor: Moon2Processor, product: Any, index: int, most_images: int, fetch: Callable[[str], bytes]
) -> BatchFeature:
    """Run the processor on one product of a request.

    Args:
        index: its place in the request, for errors.
        fetch: address -> bytes; raises a `ValueError` for one that is not to be fetched.

    Returns:
        As the processor, for one item.

    Raises:
        ProductError: it cannot be prepared; the message says why.
    """
    try:
        if isinstance(product, dict) and product.get("image") is not None:
            sources = product["image"] if isinstance(product["image"], list) else [product["image"]]
            if len(sources) > most_images:
                raise ValueError(f"it has {len(sources)} images; {most_images} are allowed.")
            product = product | {"image": [_in_base64(source, fetch) for source in sources]}
        return processor(read_products([product]))
    except ValueError as error:
        raise ProductError(index, getattr(error, "problem", str(error))) from error


def _in_base64(source: Any, fetch: Callable[[str], bytes]) -> Any:
    """Return the base64 of what an address or a data URL names; anything else as it is."""
    if not isinstance(source, str):
        return source
    if source.lower().startswith(("http://", "https://")):
        return base64.b64encode(fetch(source)).decode()
    return DATA_URL.sub("", source)


def marked_ids(features: BatchFeature, vocab_size: int) -> list[int]:
    """Return the token ids of one item. Those of an instruction are moved up by `vocab_size`, by which the pooling
    knows them."""
    (ids,), (types,) = features["input_ids"], features["position_types"]
    return (ids + (types == NOT_POOLED) * vocab_size).tolist()


def image_places(ids: list[int], features: BatchFeature, processor: Moon2Processor) -> list[tuple[int, int]]:
    """Return where the visual tokens of each image start, and how many they are."""
    places = [place for place, token in enumerate(ids) if token == processor.image_token_id]
    lengths = (features["image_grid_thw"].prod(-1) // processor.image_processor.merge_size**2).tolist()
    return [(places[sum(lengths[:count])], length) for count, length in enumerate(lengths)]
