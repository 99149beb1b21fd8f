"""A model from nothing: a tokenizer for any script, and a backbone that fits it."""

import pytest
import torch
import yaml

from conftest import TEXTS, picture
from test_train_moon2 import RECIPE
from training_moon2.model import EMBEDDING_STD, scratch_model, scratch_processor, train_tokenizer

ARCHITECTURE = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["architecture"]


@pytest.mark.parametrize("text", ["red mug", "红色马克杯", "كوب أحمر", "สีแดง", "emoji 🫖", "a\u0301"])
def test_every_text_survives_the_tokenizer(text):
    tokenizer = train_tokenizer(TEXTS, 400)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_words_of_the_catalogue_become_single_tokens():
    tokenizer = train_tokenizer(TEXTS * 5, 400)
    assert len(tokenizer(" striped")["input_ids"]) == 1
    assert len(tokenizer("红色条纹马克杯")["input_ids"]) < len("红色条纹马克杯")


def test_folded_words_are_the_same_in_any_case_and_at_any_place():
    tokenizer = train_tokenizer(TEXTS * 5, 400, fold_words=True)
    assert tokenizer("Striped mug STRIPED")["input_ids"] == tokenizer("striped ｍug striped")["input_ids"]
    assert len(set(tokenizer("Striped striped")["input_ids"])) == 1
    # A Chinese character is a token, wherever it stands, and the spans are those of the text as it was given.
    found = tokenizer("红色马克杯 red", return_offsets_mapping=True)
    assert len(found["input_ids"]) == len("红色马克杯") + len(tokenizer("red")["input_ids"])
    assert found["offset_mapping"][:5] == [(place, place + 1) for place in range(5)]
    assert tokenizer("杯")["input_ids"] == found["input_ids"][4:5]


def test_model_and_processor_fit_each_other():
    processor = scratch_processor(TEXTS, ARCHITECTURE, vocab_size=300, max_pixels=4096)
    torch.manual_seed(0)
    model = scratch_model(ARCHITECTURE, processor.tokenizer, num_experts=3, moe_intermediate_size=32)
    embeddings = model.get_input_embeddings().weight
    assert len(embeddings) == len(processor.tokenizer)
    assert embeddings.std().item() == pytest.approx(EMBEDDING_STD, rel=0.05)
    inputs = processor([{"text": "red mug", "image": picture(300, 100)}, {"image": picture(8, 8)}])
    areas = inputs["image_grid_thw"].prod(-1) * 16 * 16
    assert (areas <= 4096).all() and (areas >= 1024).all()
    assert model(**inputs).embeddings.shape == (2, ARCHITECTURE["text_config"]["hidden_size"])
