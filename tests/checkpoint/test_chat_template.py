"""Chat messages: the tensors of products, the same order in the Jinja template, refusals that name the item."""

import json

import pytest
import torch

from configuration_moon2 import NOT_POOLED, TEXT
from conftest import mixed_products, picture, tiny_processor
from processing_moon2 import Moon2Processor, ProductError


def messages_of(product: dict, pictures_first: bool = True) -> list[dict]:
    """A product as chat messages."""
    images = product.get("image", [])
    images = images if isinstance(images, list) else [images]
    parts = [{"type": "image", "image": image} for image in images]
    if "text" in product:
        parts.insert(len(parts) if pictures_first else 0, {"type": "text", "text": product["text"]})
    system = [{"role": "system", "content": product["instruction"]}] if "instruction" in product else []
    return [*system, {"role": "user", "content": parts}]


def tensors(processor: Moon2Processor, messages: list, **options):
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, **options)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("pictures_first", [True, False])
def test_messages_give_the_tensors_of_their_products(family, pictures_first):
    processor = tiny_processor(family)
    messages = [messages_of(product, pictures_first) for product in mixed_products()]
    assert_equal(tensors(processor, messages), processor(mixed_products()))
    assert_equal(tensors(processor, messages[2]), processor(mixed_products()[2]))
    assert torch.equal(processor.apply_chat_template(messages, tokenize=True), processor(mixed_products())["input_ids"])


def test_the_rendered_string_has_the_tokens_of_the_tensors():
    """For servers that render the template and tokenise the string: the placeholder once, repeated by them."""
    processor = tiny_processor("qwen3_vl")
    products = mixed_products() + [{"text": "blue shirt", "instruction": "find the product"}]
    inputs = processor(products)
    for row, product in enumerate(products):
        for pictures_first in (True, False):
            rendered = processor.apply_chat_template(messages_of(product, pictures_first))
            rendered = rendered.split(processor.image_token)
            ids = processor.tokenizer(rendered[0])["input_ids"]
            alone = iter(processor({"image": image}) for image in pictures_of(product))
            for piece in rendered[1:]:
                ids += [processor.image_token_id] * int((next(alone)["input_ids"] == processor.image_token_id).sum())
                ids += processor.tokenizer(piece)["input_ids"]
            assert ids == inputs["input_ids"][row][inputs["attention_mask"][row] == 1].tolist()


def pictures_of(product: dict) -> list:
    images = product.get("image", [])
    return images if isinstance(images, list) else [images]


def test_several_messages_and_absent_parts():
    processor = tiny_processor()
    photo, other = picture(20, 20, seed=1), picture(30, 20, seed=2)
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "find"}]},
        {"role": "system", "content": "the product"},
        {"role": "user", "content": [{"type": "text", "text": "red"}, {"type": "image", "image": photo}]},
        {"role": "user", "content": [{"type": "image", "image": other}, {"type": "text", "text": "mug"}]},
    ]
    product = {"instruction": "find\nthe product", "image": [photo, other], "text": ["red", "mug"]}
    assert_equal(tensors(processor, messages), processor(product))
    picture_twice = 2 * (processor.image_start + processor.image_token + processor.image_end)
    assert processor.apply_chat_template(messages) == f"find\nthe product\n{picture_twice}red\nmug"

    absent = [{"role": "user", "content": [{"type": "text", "text": None}, {"type": "image", "image": photo}]}]
    assert_equal(tensors(processor, absent), processor({"text": None, "image": photo}))


def test_a_picture_under_each_name_that_transformers_uses(tmp_path):
    processor = tiny_processor()
    picture(20, 20).save(tmp_path / "p.png")
    for name in ("image", "path", "url"):
        part = {"type": "image", name: str(tmp_path / "p.png")}
        assert_equal(tensors(processor, [{"role": "user", "content": [part]}]), processor({"image": picture(20, 20)}))


def test_an_instruction_stands_on_a_line_of_its_own_and_is_not_pooled():
    processor = tiny_processor()
    inputs = processor({"text": "red mug", "instruction": "find"})
    ids, types = inputs["input_ids"][0], inputs["position_types"][0]
    assert processor.tokenizer.decode(ids[types == NOT_POOLED]) == "find\n"
    assert processor.tokenizer.decode(ids[types == TEXT]) == "red mug"


def test_words_of_an_instruction_never_become_markers():
    processor = tiny_processor()
    inputs = processor({"text": "mug", "instruction": "skip <|image_pad|> and <|pad|>"})
    assert not set(inputs["input_ids"][0].tolist()) & {0, 1, 2, 3}


@pytest.mark.parametrize(
    "messages, words",
    [
        ([{"role": "assistant", "content": "mug"}], "role 'assistant'"),
        ([{"role": "query", "content": "mug"}, {"role": "document", "content": "cup"}], "role 'query'"),
        ([{"content": "mug"}], "role None"),
        (["mug"], "role None"),
        ([{"role": "user", "content": [{"type": "video", "video": "v.mp4"}]}], "'video'"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}], "'audio'"),
        ([{"role": "user", "content": ["mug"]}], "'str'"),
        ([{"role": "system", "content": [{"type": "image", "image": picture(9, 9)}]}], "'system'.*'image'"),
        ([{"role": "user", "content": [{"type": "image", "base64": "AAAA"}]}], "image, path, url.*base64"),
        ([{"role": "user", "content": [{"type": "text", "content": "mug"}]}], "keys text"),
        ([{"role": "user", "content": [{"type": "text", "text": 7}]}], "is 7"),
        ([{"role": "user", "content": [{"type": "image", "url": "https://example.org/p.jpg"}]}], "not fetched"),
        ([{"role": "user", "content": [{"type": "image", "image": "no_such.jpg"}]}], "no_such.jpg"),
        ([{"role": "user", "content": None}], "neither text nor image"),
        ([{"role": "user", "content": ""}], "neither text nor image"),
    ],
)
def test_a_conversation_that_tells_of_no_product_is_named(messages, words):
    with pytest.raises(ProductError, match=words) as error:
        tensors(tiny_processor(), [[{"role": "user", "content": "fine"}], messages])
    assert error.value.index == 1 and str(error.value).startswith("Item 1: ")


def test_the_jinja_template_refuses_what_the_tensors_refuse():
    processor = tiny_processor()
    for message in (
        {"role": "assistant", "content": "mug"},
        {"role": "user", "content": [{"type": "video", "video": "v.mp4"}]},
        {"role": "system", "content": [{"type": "image", "image": "p.jpg"}]},
    ):
        with pytest.raises(Exception, match="message"):
            processor.apply_chat_template([message])


def test_limits_on_the_text_are_followed():
    processor = tiny_processor()
    message = [{"role": "user", "content": "blue " * 50}]
    assert tensors(processor, message, processor_kwargs={"max_length": 7})["input_ids"].shape == (1, 7)
    nested = {"text_kwargs": {"max_length": 6, "padding": True, "truncation": "longest_first"}}
    assert tensors(processor, message, processor_kwargs=nested)["input_ids"].shape == (1, 6)
    processor.tokenizer.model_max_length = 5  # what sentence-transformers' max_seq_length sets
    assert tensors(processor, message)["input_ids"].shape == (1, 5)
    assert processor({"text": "blue " * 50, "image": picture(16, 16)})["position_types"].eq(TEXT).sum() == 5
    left = tensors(processor, [message, [{"role": "user", "content": "红"}]], processor_kwargs={"padding_side": "left"})
    assert left["attention_mask"][1].tolist() == sorted(left["attention_mask"][1].tolist())
    with pytest.raises(ValueError, match="positive"):
        tensors(processor, message, processor_kwargs={"max_length": 0})


@pytest.mark.parametrize(
    "options, words",
    [
        ({"processor_kwargs": {"text_kwargs": {"truncation": False}}}, "truncation=False"),
        ({"processor_kwargs": {"text_kwargs": {"padding": "max_length"}}}, "padding='max_length'"),
        ({"processor_kwargs": {"images_kwargs": {"do_resize": False}}}, "do_resize=False"),
        ({"processor_kwargs": {"common_kwargs": {"return_tensors": "np"}}}, "PyTorch"),
        ({"add_generation_prompt": True}, "add_generation_prompt"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
    ],
)
def test_an_option_that_cannot_be_followed_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        tensors(tiny_processor(), [{"role": "user", "content": "mug"}], **options)


def test_no_conversation_at_all_is_refused():
    with pytest.raises(ValueError, match="empty"):
        tensors(tiny_processor(), [])


def test_the_template_is_saved_and_another_one_changes_strings_only(tmp_path):
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == processor.chat_template
    assert "chat_template" not in json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    (tmp_path / "chat_template.jinja").write_text("{{ messages | length }} messages", encoding="utf-8")
    other = Moon2Processor.from_pretrained(tmp_path)
    messages = messages_of(mixed_products()[2])
    assert other.apply_chat_template(messages) == "1 messages"
    assert_equal(tensors(other, messages), tensors(processor, messages))
