"""Products to tensors: the template, the picture formats, and errors that name the item."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from configuration_moon2 import IMAGE, NOT_POOLED, TEXT
from conftest import mixed_products, picture, tiny_processor
from processing_moon2 import Moon2Processor, ProductError, load_picture


def test_pictures_come_first_then_text(family):
    processor = tiny_processor(family)
    inputs = processor([{"text": "red mug", "image": [picture(32, 32), picture(40, 24)], "instruction": "find"}])
    types = inputs["position_types"][0].tolist()
    assert types == sorted(types, key=[NOT_POOLED, IMAGE, TEXT].index), "instruction, then pictures, then text"
    ids = inputs["input_ids"][0]
    image_positions = ids == processor.image_token_id
    assert set(inputs["position_types"][0][image_positions].tolist()) == {IMAGE}
    text_ids = ids[inputs["position_types"][0] == TEXT]
    assert processor.tokenizer.decode(text_ids) == "red mug"
    instruction = (inputs["position_types"][0] == NOT_POOLED) & (inputs["attention_mask"][0] == 1)
    assert processor.tokenizer.decode(ids[instruction]) == "find"


def test_visual_tokens_follow_the_pictures_shape():
    processor = tiny_processor("qwen3_vl")
    inputs = processor([{"image": picture(64, 32)}, {"image": picture(32, 32)}])
    counts = (inputs["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert counts == (inputs["image_grid_thw"].prod(-1) // 4).tolist() and counts[0] != counts[1]
    assert inputs["pixel_values"].shape[0] == inputs["image_grid_thw"].prod(-1).sum()


def test_words_of_a_title_never_become_markers():
    processor = tiny_processor()
    inputs = processor([{"text": "mug <|image_pad|> <|pad|> <|vision_end|>", "image": picture(16, 16)}])
    text_ids = inputs["input_ids"][0][inputs["position_types"][0] == TEXT]
    assert not set(text_ids.tolist()) & {0, 1, 2, 3}
    assert processor.tokenizer.decode(text_ids) == "mug <|image_pad|> <|pad|> <|vision_end|>"


def test_padding_sides_and_long_texts():
    processor = tiny_processor()
    processor.max_text_length = 5
    inputs = processor([{"text": "blue " * 50}, {"text": "红"}], padding_side="left")
    assert inputs["input_ids"].shape == (2, 5)
    assert inputs["attention_mask"][1].tolist() == sorted(inputs["attention_mask"][1].tolist())
    assert torch.equal(inputs["attention_mask"] == 0, inputs["position_types"] == NOT_POOLED)


def test_usual_form_equals_products():
    processor = tiny_processor()
    usual = processor(text=["red mug", None], images=[None, picture(20, 20)])
    products = processor([{"text": "red mug"}, {"image": picture(20, 20)}])
    assert usual.keys() == products.keys() and all(torch.equal(usual[name], products[name]) for name in usual)
    assert torch.equal(processor(text="red mug")["input_ids"], processor({"text": ["red mug"]})["input_ids"])


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path):
    photo = picture(24, 16)
    photo.save(tmp_path / "p.png")
    encoded = (tmp_path / "p.png").read_bytes()
    forms = [photo, str(tmp_path / "p.png"), tmp_path / "p.png", io.BytesIO(encoded), np.asarray(photo),
             {"bytes": encoded, "path": None}, {"bytes": None, "path": str(tmp_path / "p.png")}]  # fmt: skip
    for form in forms:
        assert np.array_equal(np.asarray(load_picture(form)), np.asarray(photo))


def test_modes_and_orientation():
    photo = picture(24, 16)
    upright = np.asarray(photo)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees, to be shown upright
    file = io.BytesIO()
    photo.rotate(90, expand=True).save(file, "PNG", exif=exif)
    assert np.array_equal(np.asarray(load_picture(file)), upright)

    glass = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    glass.putpixel((1, 0), (0, 0, 0, 0))
    assert np.asarray(load_picture(glass)).tolist() == [[[255, 0, 0], [255, 255, 255]]]

    grey = load_picture(Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)))
    assert np.asarray(grey)[0, :, 0].tolist() == [0, 128, 255]
    for mode in ("L", "P", "CMYK", "1", "LA"):
        assert load_picture(photo.convert("L").convert(mode)).mode == "RGB"


@pytest.mark.parametrize(
    "product, words",
    [
        ({}, "neither text nor image"),
        ({"text": "  "}, "non-empty"),
        ({"text": 7}, "non-empty"),
        ({"titel": "mug"}, "titel"),
        ("mug", "dict"),
        ({"image": "https://example.org/p.jpg"}, "not fetched"),
        ({"image": "no_such_picture.jpg"}, "no_such_picture.jpg"),
        ({"image": {"bytes": b"<html>", "path": "page.jpg"}}, "page.jpg"),
        ({"image": 3.5}, "float"),
    ],
)
def test_a_bad_item_is_named(product, words):
    with pytest.raises(ProductError, match=words) as error:
        tiny_processor()([{"text": "fine"}, product])
    assert error.value.index == 1 and str(error.value).startswith("Item 1: ")


def test_a_truncated_picture_is_refused():
    file = io.BytesIO()
    picture(64, 64).save(file, "JPEG")
    for end in range(len(file.getvalue()) // 16, len(file.getvalue()) * 15 // 16, 200):
        with pytest.raises(ProductError, match="Item 0"):
            tiny_processor()([{"image": {"bytes": file.getvalue()[:end], "path": "cut.jpg"}}])


def test_a_picture_that_the_backbone_cannot_take_is_named():
    with pytest.raises(ProductError, match="Item 1: a picture of 1 x 500 pixels"):
        tiny_processor()([{"image": picture(20, 20)}, {"text": "thread", "image": [picture(9, 9), picture(1, 500)]}])


def test_a_call_that_fits_no_form_is_refused():
    processor = tiny_processor()
    for arguments, words in [
        ({"text": ["a", "b"], "images": [None]}, "2 texts but 1 images"),
        ({}, "Give products"),
        ({"products": []}, "empty"),
        ({"products": [{"text": "a"}], "text": ["a"]}, "not both"),
        ({"text": "a", "return_tensors": "np"}, "PyTorch"),
    ]:
        with pytest.raises(ValueError, match=words):
            processor(**arguments)


def test_save_and_load_give_the_same_tensors(tmp_path, family):
    processor = tiny_processor(family)
    processor.save_pretrained(tmp_path)
    loaded = Moon2Processor.from_pretrained(tmp_path)
    before, after = processor(mixed_products()), loaded(mixed_products())
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
