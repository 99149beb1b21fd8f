"""Products to tensors: the template, the image formats, and errors that name the item."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import PreTrainedTokenizerFast

from configuration_moon2 import IMAGE, NOT_POOLED, TEXT
from conftest import OLD_TRANSFORMERS, mixed_products, picture, tiny_model, tiny_processor, vlm_config
from pictures_moon2 import load_picture
from processing_moon2 import Moon2Processor, ProductError
from training_moon2.upcycling import processor_from_backbone


def needs_no_torchvision(family: str):
    if OLD_TRANSFORMERS and family in ("smolvlm", "idefics3"):
        pytest.skip("before 5.18 transformers finds this image processor only beside torchvision")


def test_pictures_come_first_then_text(family):
    processor = tiny_processor(family)
    inputs = processor([{"text": "red mug", "image": [picture(32, 32), picture(40, 24)], "instruction": "find"}])
    types = inputs["position_types"][0].tolist()
    assert types == sorted(types, key=[NOT_POOLED, IMAGE, TEXT].index), "instruction, then images, then text"
    ids = inputs["input_ids"][0]
    image_positions = ids == processor.image_token_id
    assert set(inputs["position_types"][0][image_positions].tolist()) == {IMAGE}
    text_ids = ids[inputs["position_types"][0] == TEXT]
    assert processor.tokenizer.decode(text_ids) == "red mug"
    instruction = (inputs["position_types"][0] == NOT_POOLED) & (inputs["attention_mask"][0] == 1)
    assert processor.tokenizer.decode(ids[instruction]) == "find\n"


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


@pytest.mark.parametrize(
    "product, words",
    [
        ({}, "neither text nor image"),
        ({"text": "  "}, "neither text nor image"),
        ({"text": 7}, "the text is 7; give a string"),
        ({"text": ["mug", None]}, "give a string"),
        ({"text": "half an emoji \ud83d"}, "valid Unicode"),
        ({"text": "mug", "instruction": "half an emoji \ud83d"}, "the instruction .* valid Unicode"),
        ({"titel": "mug", 7: 8}, "'7', 'titel'"),
        ("mug", "dict"),
        ({"image": "https://example.org/p.jpg"}, "not fetched"),
        ({"image": "no_such_picture.jpg"}, "no_such_picture.jpg"),
        ({"image": {"bytes": b"<html>", "path": "page.jpg"}}, "page.jpg"),
        ({"image": 3.5}, "float"),
        ({"image": torch.zeros(3, 8, 8)}, "Tensor"),
        ({"image": [picture(8, 8), np.zeros((8, 8))]}, "float64"),
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


def test_tiny_and_narrow_pictures_can_be_used(family):
    processor = tiny_processor(family)
    sizes = [(1, 1), (1, 3), (3, 1), (2, 200), (4, 500), (20, 20)]
    inputs = processor([{"image": picture(*size)} for size in sizes])
    alone = [processor([{"image": picture(*size)}]) for size in sizes]
    assert torch.equal(inputs["pixel_values"], torch.cat([one["pixel_values"] for one in alone]))
    tokens = (inputs["input_ids"] == processor.image_token_id).sum(1)
    assert tokens.tolist() == [(one["input_ids"] == processor.image_token_id).sum().item() for one in alone]


def test_a_picture_that_the_backbone_cannot_take_is_named(family):
    for size in [(1, 500), (20_000, 1)]:
        words = f"Item 1: an image of {size[0]} x {size[1]} pixels cannot be used: one side is more than 200 times"
        with pytest.raises(ProductError, match=words):
            tiny_processor(family)(
                [{"image": picture(20, 20)}, {"text": "thread", "image": [picture(9, 9), picture(*size)]}]
            )


@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_a_picture_that_the_backbone_would_take_for_padding_is_named(name):
    """These backbones drop images of zeros, and then fail over the count of images in the whole batch."""
    processor = tiny_processor(name)
    black = Image.new("RGB", (20, 20))
    assert processor([{"image": black}])["pixel_values"].abs().min() > 0
    processor.image_processor.do_normalize = False
    with pytest.raises(ProductError, match="Item 1: .* takes for padding"):
        processor([{"image": picture(20, 20)}, {"image": black}])


def test_items_that_cannot_be_prepared_are_skipped_if_asked():
    products = [
        {"text": "red mug", "image": picture(40, 30)},
        {"text": "shirt", "image": "no_such.jpg"},
        {"image": picture(1, 500)},
        {"text": "blue shirt", "image": [picture(20, 20), picture(30, 30)]},
        {},
        {"text": "shirt", "instruction": "find"},
    ]
    processor = tiny_processor()
    batch = processor(products, on_error="skip")
    good = processor([products[0], products[3], products[5]])
    assert batch.keys() == good.keys() and all(torch.equal(batch[name], good[name]) for name in good)
    assert [error.index for error in batch.skipped] == [1, 2, 4] and good.skipped == []
    assert [str(error).split(":")[0] for error in batch.skipped] == ["Item 1", "Item 2", "Item 4"]
    assert all(
        words in error.problem for error, words in zip(batch.skipped, ["no_such", "1 x 500", "neither"], strict=True)
    )
    assert "skipped" not in batch and "skipped" not in dict(**batch)

    usual = processor(text=["mug", "shirt"], images=["no_such.jpg", None], on_error="skip")
    assert usual["input_ids"].shape[0] == 1 and [error.index for error in usual.skipped] == [0]
    with pytest.raises(ProductError, match="Item 1: .*no_such"):
        processor(products)


def test_what_was_skipped_goes_where_the_batch_goes():
    batch = tiny_processor()([{"text": "mug"}, {}], on_error="skip")
    moved = batch.to("cpu").to(torch.float64)
    read = pickle.loads(pickle.dumps(batch))  # as from the worker processes of a DataLoader
    for other in (moved, read, copy.copy(batch)):
        assert [(error.index, error.problem) for error in other.skipped] == [(1, batch.skipped[0].problem)]
        assert torch.equal(other["input_ids"], batch["input_ids"]) and isinstance(other.skipped[0], ProductError)


def test_skipping_everything_is_an_error():
    products = [{}, {"image": "no_such.jpg"}, {"text": " "}, {"text": 7}]
    with pytest.raises(ValueError, match="None of the 4 items.*Item 0: .*Item 1: .*no_such.*Item 2: ") as error:
        tiny_processor()(products, on_error="skip")
    assert "Item 3" not in str(error.value) and not isinstance(error.value, ProductError)


def test_addresses_are_fetched_only_when_asked_in_the_call(monkeypatch, tmp_path):
    file = io.BytesIO()
    picture(20, 20).save(file, "PNG")
    fetched = []

    def fetch(url: str) -> bytes:
        fetched.append(url)
        return file.getvalue()

    products = [{"image": "https://example.org/p.png"}]
    processor = tiny_processor()
    with pytest.raises(ProductError, match="Item 0: the image https://example.org/p.png cannot be read: .* not fetch"):
        processor(products)
    inputs = processor(products, fetch=fetch)
    assert torch.equal(inputs["pixel_values"], processor([{"image": picture(20, 20)}])["pixel_values"])
    assert fetched == ["https://example.org/p.png"]
    processor.fetch = fetch
    processor.save_pretrained(tmp_path)
    assert "fetch" not in (tmp_path / "processor_config.json").read_text()


def test_pictures_are_decoded_no_larger_than_needed_and_scaled_once(monkeypatch):
    """A JPEG is read at a fraction of its size, but never below what the image processor scales it to."""
    seen = []

    def watched(*arguments, **options):
        seen.append(load_picture(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr("processing_moon2.load_picture", watched)
    smooth = Image.linear_gradient("L").resize((800, 600)).convert("RGB")
    files = {kind: io.BytesIO() for kind in ("JPEG", "PNG")}
    for kind, file in files.items():
        smooth.save(file, kind)
    # Qwen: 48 x 48 pixels at most; the others: 32 x 32, and twice of it on both sides.
    for name, size in [("qwen3_vl", (100, 75)), ("llava", (100, 75)), ("smolvlm", (100, 75))]:
        processor = tiny_processor(name)
        draft, whole = (processor([{"image": file}]) for file in files.values())
        assert [image.size for image in seen[-2:]] == [size, (800, 600)]
        assert (draft["pixel_values"] - whole["pixel_values"]).abs().mean() < 0.03
        assert torch.equal(draft["input_ids"], whole["input_ids"])
    processor = tiny_processor("llava")
    smooth.resize((800, 100)).save(narrow := io.BytesIO(), "JPEG")
    processor([{"image": narrow}])
    assert seen[-1].size == (800, 100), "the shorter side would be less than twice 32 pixels"
    processor.image_processor.do_resize = False
    assert processor([{"image": files["JPEG"]}])["pixel_values"].shape == (1, 3, 600, 800)


def backbone_folder(folder, processor: Moon2Processor, **settings) -> str:
    """What `from_backbone` finds in a checkpoint."""
    for name, value in settings.items():
        setattr(processor.image_processor, name, value)
    processor.image_processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_size_of_pictures_is_bounded_in_pixels(tmp_path):
    size = {"shortest_edge": 4096, "longest_edge": 12_845_056}
    folder = backbone_folder(tmp_path / "qwen", tiny_processor("qwen3_vl"), size=size)
    config = vlm_config("qwen3_vl")
    assert processor_from_backbone(folder, config).image_processor.size == size | {"longest_edge": 1024 * 1024}
    for most in (20_000_000, 6000, 3000):
        processor = processor_from_backbone(folder, config, max_pixels=most)
        processor.save_pretrained(tmp_path / "moon2")
        loaded = Moon2Processor.from_pretrained(tmp_path / "moon2")
        for each in (processor, loaded):
            assert each.image_processor.size == {"shortest_edge": min(4096, most // 2), "longest_edge": most}
        for photo in (picture(300, 200), picture(10, 10)):
            grid = loaded([{"image": photo}])["image_grid_thw"]
            assert 64 * grid.prod() <= most, "patches of 8 x 8 pixels"
    with pytest.raises(ValueError, match="max_pixels is 255; a single visual token takes 256 pixels"):
        processor_from_backbone(folder, config, max_pixels=255)

    small = backbone_folder(tmp_path / "small", tiny_processor("qwen3_vl"))
    assert processor_from_backbone(small, config).image_processor.size["longest_edge"] == 48 * 48
    llava = backbone_folder(tmp_path / "llava", tiny_processor("llava"))
    assert processor_from_backbone(llava, vlm_config("llava")).image_processor.size["height"] == 32
    with pytest.raises(ValueError, match="max_pixels is 5000, but a llava scales all images to one size"):
        processor_from_backbone(llava, vlm_config("llava"), max_pixels=5000)


@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_pictures_are_not_cut_into_tiles(tmp_path, name):
    """As these checkpoints are published, a large image becomes many blocks of visual tokens."""
    needs_no_torchvision(name)
    settings = {"do_image_splitting": True, "size": {"longest_edge": 128}}
    folder = backbone_folder(tmp_path, tiny_processor(name), **settings)
    processor = processor_from_backbone(folder, vlm_config(name))
    inputs = processor([{"image": picture(100, 100)}])
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    tiny_model(name)(**inputs)


def test_pixels_do_not_depend_on_torchvision(tmp_path, family, monkeypatch):
    """transformers takes another image processor where torchvision is installed, unless it is told otherwise."""
    needs_no_torchvision(family)
    processor = tiny_processor(family)
    processor.save_pretrained(tmp_path / "moon2")
    backbone = backbone_folder(tmp_path / "backbone", processor)
    module = transformers.models.auto.image_processing_auto
    chosen = []

    def resolve(*arguments, original=module._resolve_backend):
        chosen.append(original(*arguments))
        return chosen[-1]

    monkeypatch.setattr(module, "is_torchvision_available", lambda: True)
    monkeypatch.setattr(module, "_resolve_backend", resolve)
    module.AutoImageProcessor.from_pretrained(backbone)
    assert chosen == ["torchvision"] or family in ("smolvlm", "idefics3"), "the test sees the choice"
    chosen.clear()
    for loaded in (
        processor_from_backbone(backbone, vlm_config(family)),
        Moon2Processor.from_pretrained(tmp_path / "moon2"),
        transformers.AutoProcessor.from_pretrained(tmp_path / "moon2", trust_remote_code=True),
    ):
        assert type(loaded.image_processor).__name__.endswith("Pil") and loaded.image_processor.backend == "pil"
    assert chosen == ["pil"] * 3


def test_a_call_that_fits_no_form_is_refused():
    processor = tiny_processor()
    for arguments, words in [
        ({"text": ["a", "b"], "images": [None]}, "2 texts but 1 images"),
        ({}, "Give products"),
        ({"products": []}, "empty"),
        ({"products": [{"text": "a"}], "text": ["a"]}, "not both"),
        ({"text": "a", "return_tensors": "np"}, "PyTorch"),
        ({"text": "a", "on_error": "ignore"}, "'ignore'; it must be 'raise' or 'skip'"),
    ]:
        with pytest.raises(ValueError, match=words):
            processor(**arguments)


def test_save_and_load_give_the_same_tensors(tmp_path, family):
    needs_no_torchvision(family)
    processor = tiny_processor(family)
    processor.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} >= {"processing_moon2.py", "pictures_moon2.py"}
    loaded = Moon2Processor.from_pretrained(tmp_path)
    before, after = processor(mixed_products()), loaded(mixed_products())
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_blank_text_beside_a_picture_is_as_absent():
    processor, photo = tiny_processor(), picture(30, 30)
    expected = processor([{"image": photo}])
    for text in ("", "  ", [], ["", " "]):
        found = processor([{"text": text, "image": photo}])
        assert all(torch.equal(found[name], expected[name]) for name in expected), text


def test_a_sequence_that_is_too_long_is_refused_by_name(tmp_path):
    processor = tiny_processor()
    processor.max_positions = 40
    many = {"image": [picture(48, 48)] * 12}
    with pytest.raises(ProductError, match="Item 1: its sequence has .* the model takes 40. Give fewer images"):
        processor([{"text": "mug"}, many])
    with pytest.raises(ProductError, match="Item 0: .* shorter instruction"):
        processor([{"text": "mug", "instruction": "find it " * 40}])
    batch = processor([many, {"text": "mug"}], on_error="skip")
    assert len(batch["input_ids"]) == 1 and [error.index for error in batch.skipped] == [0]
    processor.save_pretrained(tmp_path)
    assert Moon2Processor.from_pretrained(tmp_path).max_positions == 40


def test_an_image_token_that_is_not_special_cannot_come_from_a_title():
    processor = tiny_processor()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=processor.tokenizer.backend_tokenizer, pad_token="<|pad|>")
    tokenizer.add_tokens(["<image>"])
    processor = Moon2Processor(processor.image_processor, tokenizer, "<image>", "", "")
    assert processor.image_token_id not in processor([{"text": "red <image> mug"}])["input_ids"]
    assert processor.image_token_id in processor([{"text": "red mug", "image": picture(20, 20)}])["input_ids"]
