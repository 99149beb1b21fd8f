"""Scores on tiny models against a direct computation, and thresholds that are applied afterwards."""

import re

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)  # fmt: skip

from conftest import TEXTS, picture, tiny_model, tiny_processor
from mbe2_dataset.coaugmentation import consistency
from mbe2_dataset.coaugmentation.consistency import (
    ClipScorer,
    SentenceTransformerModel,
    Threshold,
    apply_threshold,
    histogram,
)
from training_moon2.model import train_tokenizer

PAIRS = [(text, picture(40, 30, seed)) for seed, text in enumerate(TEXTS)]
TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)


def tokenizer() -> PreTrainedTokenizerFast:
    backend = train_tokenizer(TEXTS * 5, 400)
    # CLIP reads a text's vector at its end-of-text token; without one in the text it is the first token's.
    backend.add_special_tokens({"eos_token": "<|end|>"})
    backend.pad_token = backend.pad_token or backend.eos_token
    return backend


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp(request.param))
    words = tokenizer()
    text = TOWER | dict(
        vocab_size=len(words), max_position_embeddings=16, eos_token_id=words.eos_token_id, pad_token_id=0
    )
    vision = TOWER | dict(image_size=32, patch_size=8)
    torch.manual_seed(0)
    if request.param == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
        images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    model.save_pretrained(path)
    words.save_pretrained(path)
    images.save_pretrained(path)
    return path


def test_scores_are_the_models_own_cosines(folder, monkeypatch):
    monkeypatch.setattr(consistency, "BATCH_SIZE", 3)
    scores = ClipScorer(folder).score(PAIRS)
    siglip = "siglip" in folder
    model = (SiglipModel if siglip else CLIPModel).from_pretrained(folder).eval()
    images = (SiglipImageProcessorPil if siglip else CLIPImageProcessorPil).from_pretrained(folder)
    words = PreTrainedTokenizerFast.from_pretrained(folder)
    for (text, image), score in zip(PAIRS, scores, strict=True):
        tokens = words([text], return_tensors="pt", padding="max_length" if siglip else True, max_length=16)
        with torch.inference_mode():
            output = model(**tokens, pixel_values=images(images=[image], return_tensors="pt")["pixel_values"])
        assert score == pytest.approx(float((output.text_embeds * output.image_embeds).sum()), abs=1e-5)
    assert len(set(np.round(scores, 6))) == len(scores)


def test_long_titles_are_truncated(folder):
    long = TEXTS[0] + " red mug" * 100
    scorer = ClipScorer(folder)
    assert scorer.score([(long, PAIRS[0][1])]) == pytest.approx(
        scorer.score([(long + " blue shirt", PAIRS[0][1])]), abs=1e-6
    )


def test_of_no_pairs_there_are_no_scores(folder):
    assert ClipScorer(folder).score([]) == SentenceTransformerModel(folder).score([]) == []


def test_a_broken_model_gives_nan_and_not_a_score(folder, tmp_path):
    scorer = ClipScorer(folder)
    model = scorer._loaded[0]
    with torch.no_grad():
        for parameter in model.vision_model.parameters():
            parameter.fill_(float("nan"))
    assert np.isnan(scorer.score(PAIRS)).all()


def test_a_model_that_is_no_clip_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded as a CLIP or SigLIP"):
        ClipScorer(str(tmp_path)).score(PAIRS)
    tiny_model().vlm.language_model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    SiglipImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a CLIP or SigLIP|cannot be loaded as a CLIP"):
        ClipScorer(str(tmp_path)).score(PAIRS)


def test_a_moon2_checkpoint_is_a_sentence_transformer(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    scores = SentenceTransformerModel(str(tmp_path)).score(PAIRS)
    model = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    for (text, image), score in zip(PAIRS, scores, strict=True):
        assert score == pytest.approx(float(model.encode(text) @ model.encode(image)), abs=1e-5)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("0.2", (0.2, False)),
        (" -0.1 ", (-0.1, False)),
        ("5%", (0.05, True)),
        ("0%", (0, True)),
        ("9.5 %", (0.095, True)),
    ],
)
def test_thresholds_are_read(text, expected):
    threshold = Threshold.parse(text)
    assert (threshold.value, threshold.is_quantile) == expected
    assert Threshold.parse(str(threshold)) == threshold


@pytest.mark.parametrize("text", ["", "low", "1.5", "-2", "100%", "-5%", "nan", "nan%", "%"])
def test_what_is_no_threshold_is_refused(text):
    with pytest.raises(ValueError, match="is no threshold: give a cosine similarity"):
        Threshold.parse(text)


def test_an_absolute_threshold_keeps_what_reaches_it():
    assert apply_threshold([0.1, 0.2, 0.3], Threshold.parse("0.2")) == ((False, True, True), 0.2)


def test_a_quantile_drops_the_lowest_and_spares_ties():
    scores = list(np.random.default_rng(0).permutation(100) / 100)
    kept, _ = apply_threshold(scores, Threshold.parse("29%"))
    assert sorted(score for score, keep in zip(scores, kept, strict=True) if not keep) == [
        number / 100 for number in range(29)
    ]
    assert apply_threshold([0.5] * 10, Threshold.parse("50%")) == ((True,) * 10, 0.5)
    assert apply_threshold([0.1, 0.1, 0.1, 0.9], Threshold.parse("50%")) == ((True,) * 4, 0.1)
    assert all(apply_threshold(scores, Threshold.parse("0%"))[0])


def test_missing_scores_are_never_kept_and_do_not_count():
    scores = [0.1, None, float("nan"), 0.9, float("inf")]
    assert apply_threshold(scores, Threshold.parse("50%")) == ((False, False, False, True, False), 0.9)
    assert apply_threshold(scores, Threshold.parse("-1")) == ((True, False, False, True, False), -1)


def test_nothing_to_select_from():
    assert apply_threshold([], Threshold.parse("5%")) == ((), None)
    assert apply_threshold([None], Threshold.parse("5%")) == ((False,), None)
    assert histogram([None], [False]) == "without a score: 1"


def test_the_histogram_counts_every_score_once():
    scores = [*np.linspace(-0.2, 0.8, 101), None]
    kept, _ = apply_threshold(scores, Threshold.parse("10%"))
    *lines, last = histogram(scores, kept, bins=10).splitlines()
    counts = [tuple(map(int, re.search(r"(\d+) kept, (\d+) dropped", line).groups())) for line in lines]
    assert len(lines) == 10 and last == "without a score: 1"
    assert lines[0].startswith(" -0.200 to") and "to   0.800 " in lines[-1]
    assert counts[0] == (0, 10) and sum(keep for keep, _ in counts) == 91 and not any(drop for _, drop in counts[1:])
    assert set(lines[0][20:30]) == {"-"} and set(lines[-1][20:30]) == {"#"}


def test_equal_scores_have_a_histogram():
    assert "2 kept, 0 dropped" in histogram([0.3, 0.3], [True, True])
