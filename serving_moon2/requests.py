"""Requests of strangers -> what `Moon2Processor` makes of them. Nothing here needs vLLM.

No string is taken for a path: a picture is the base64 of its file, or an address if the server may fetch from there.
"""

import base64
import re
from collections.abc import Callable
from typing import Any

from transformers import BatchFeature

from configuration_moon2 import NOT_POOLED
from processing_moon2 import Moon2Processor, ProductError, read_messages

DATA_URL = re.compile(r"\Adata:[^,]*;base64,", re.IGNORECASE)


def read_chat(messages: list[dict]) -> dict:
    """Return the product that one conversation tells of; its system messages are the instruction.

    Raises:
        ValueError: it tells of none; the message says why.
    """
    try:
        return read_messages([_with_images(message) for message in messages])
    except ValueError as error:
        raise ValueError(f"The messages do not tell of a product: {error}") from error


def _with_images(message: Any) -> Any:
    """Return a message with pictures named as transformers does; OpenAI's parts are of the type `image_url`."""
    content = message.get("content") if isinstance(message, dict) else None
    if content is None or isinstance(content, str):
        return message
    parts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "image_url":
            url = part.get("image_url")
            part = {"type": "image", "image": url.get("url") if isinstance(url, dict) else url}
        parts.append(part)
    return message | {"content": parts}


def prepare(
    processor: Moon2Processor, product: Any, index: int, most_pictures: int, fetch: Callable[[str], bytes]
) -> BatchFeature:
    """Run the processor on one product of a request.

    Args:
        index: its place in the request, for errors.
        most_pictures: of one product.
        fetch: address -> bytes; raises a `ValueError` for one that is not to be fetched.

    Returns:
        As the processor, for one item.

    Raises:
        ProductError: it cannot be prepared; the message says why.
    """
    try:
        sources = product.get("image") if isinstance(product, dict) else None
        if sources is not None:
            sources = sources if isinstance(sources, list) else [sources]
            if len(sources) > most_pictures:
                raise ProductError(index, f"there are {len(sources)} pictures; at most {most_pictures} are taken.")
            product = product | {"image": [{"bytes": _picture(source, fetch)} for source in sources]}
        return processor([product])
    except ProductError as error:
        raise ProductError(index, error.problem) from error
    except ValueError as error:
        raise ProductError(index, str(error)) from error


def _picture(source: Any, fetch: Callable[[str], bytes]) -> bytes:
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        return fetch(source)
    try:
        return base64.b64decode(DATA_URL.sub("", source), validate=True)
    except (TypeError, ValueError):
        raise ValueError(
            "a picture is neither 'data:image/...;base64,...' nor the base64 of a file; paths are not read."
        ) from None


def marked_ids(features: BatchFeature, vocab_size: int) -> list[int]:
    """Return the token ids of one item, those of an instruction moved up by `vocab_size`: the model's pooling leaves
    them out."""
    (ids,), (types,) = features["input_ids"], features["position_types"]
    return (ids + (types == NOT_POOLED) * vocab_size).tolist()


def picture_places(ids: list[int], features: BatchFeature, processor: Moon2Processor) -> list[tuple[int, int]]:
    """Return where the visual tokens of each picture start, and how many they are.

    Raises:
        ValueError: some of them were cut off.
    """
    places = [place for place, token in enumerate(ids) if token == processor.image_token_id]
    lengths = (features["image_grid_thw"].prod(-1) // processor.image_processor.merge_size**2).tolist()
    if len(places) != sum(lengths):
        raise ValueError("truncate_prompt_tokens would cut a picture: leave it out, or raise it.")
    return [(places[sum(lengths[:count])], length) for count, length in enumerate(lengths)]
