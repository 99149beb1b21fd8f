"""What strangers send to vLLM becomes what the processor makes of products; test_vllm.py sends it to a server."""

import base64
import io
from pathlib import Path

import pytest
import torch

from configuration_moon2 import NOT_POOLED
from conftest import mixed_products, picture, tiny_processor
from processing_moon2 import ProductError

pytest.importorskip("fastapi")
from serving_moon2.requests import image_places, marked_ids, prepare, read_chat

VOCABULARY = 512


def encoded(photo, prefix: str = "") -> str:
    file = io.BytesIO()
    photo.save(file, "PNG")
    return prefix + base64.b64encode(file.getvalue()).decode()


def sent(product: dict, prefix: str = "") -> dict:
    """A product as a client sends it."""
    photos = product.get("image") or []
    photos = photos if isinstance(photos, list) else [photos]
    return product | ({"image": [encoded(photo, prefix) for photo in photos]} if photos else {})


def chat(product: dict) -> list[dict]:
    """A product as OpenAI's chat messages."""
    product = sent(product, "data:image/png;base64,")
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in product.get("image", [])]
    parts += [{"type": "text", "text": product["text"]}] if "text" in product else []
    system = [{"role": "system", "content": product["instruction"]}] if "instruction" in product else []
    return [*system, {"role": "user", "content": parts}]


def no_fetching(address: str) -> bytes:
    raise ValueError(f"{address} is not fetched.")


def prepared(product, most_images: int = 4, fetch=no_fetching):
    return prepare(tiny_processor(), product, 0, most_images, fetch)


def test_requests_become_what_the_processor_makes_of_products():
    marks = {"text": "red <|image_pad|> mug <|vision_start|>"}
    for product in [*mixed_products(), marks, {"text": "shirt " * 600}]:
        expected = tiny_processor()([product])
        for found in (prepared(sent(product)), prepared(read_chat(chat(product)))):
            assert found.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], atol=0, rtol=0)


def test_ids_tell_what_is_pooled_and_where_pictures_are():
    product = {"instruction": "find", "image": [picture(40, 30), picture(30, 60)], "text": "mug"}
    features, processor = prepared(sent(product)), tiny_processor()
    ids, types = marked_ids(features, VOCABULARY), features["position_types"][0]
    assert [token % VOCABULARY for token in ids] == features["input_ids"][0].tolist()
    assert [token >= VOCABULARY for token in ids] == (types == NOT_POOLED).tolist()
    places = image_places(ids, features, processor)
    around = [(ids[start - 1], set(ids[start : start + length]), ids[start + length]) for start, length in places]
    assert around == [(2, {1}, 3)] * 2  # the start mark, visual tokens, the end mark
    assert [length for _, length in places] == (features["image_grid_thw"].prod(-1) // 4).tolist()


def test_no_file_of_the_machine_is_read(tmp_path):
    picture(40, 30).save(tmp_path / "photo.png")
    path = str(tmp_path / "photo.png")
    for source in (
        path,
        f"file://{path}",
        {"path": path},
        {"bytes": None, "path": path},
        Path(path),
        "photo.png",
        3,
        ["x"],
    ):
        with pytest.raises(ProductError, match="paths and addresses are not opened|not a JPEG"):
            prepared({"image": source})
    with pytest.raises(ProductError, match="not a JPEG"):  # base64 of something, and not opened either
        prepared({"image": base64.b64encode(path.encode()).decode()})


def test_addresses_are_asked_for_and_otherwise_refused():
    asked, file = [], io.BytesIO()
    picture(40, 30).save(file, "PNG")

    def fetch(address: str) -> bytes:
        asked.append(address)
        return file.getvalue()

    found = prepared({"image": "HTTPS://example.com/mug.png"}, fetch=fetch)
    expected = tiny_processor()([{"image": picture(40, 30)}])
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"])
    assert asked == ["HTTPS://example.com/mug.png"]
    with pytest.raises(ProductError, match="is not fetched"):
        prepared({"image": "http://example.com/mug.png"})


@pytest.mark.parametrize(
    ("product", "complaint"),
    [
        ("mug", "a product is a dict"),
        ({}, "neither text nor image"),
        ({"txt": "mug"}, "unknown keys"),
        ({"text": "mug " * 10_000}, "20,000 characters"),
        ({"image": "data:image/svg+xml,<svg/>"}, "not base64"),
        ({"image": [encoded(picture(20, 20))] * 5}, "it has 5 images; 4 are allowed"),
        ({"image": encoded(picture(900, 4))}, "200 times the other"),
    ],
)
def test_wrong_products_are_named(product, complaint):
    with pytest.raises(ProductError, match=complaint) as caught:
        prepare(tiny_processor(), product, 7, 4, no_fetching)
    assert caught.value.index == 7


def test_wrong_messages_are_named():
    def lazily():
        """As the server hands over parts that are none."""
        yield {"type": "text", "text": "mug"}
        raise ValueError("8 validation errors")

    user = {"role": "user", "content": "mug"}
    wrong = {
        "'assistant'": [user | {"role": "assistant"}],
        "'input_audio'": [user | {"content": [{"type": "input_audio"}]}],
        "image_url": [user | {"content": lazily()}],
    }
    for complaint, messages in wrong.items():
        with pytest.raises(ValueError, match=f"do not tell of a product: .*{complaint}"):
            read_chat(messages)
