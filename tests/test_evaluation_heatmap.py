"""Attention -> patches and words: even attention is 1 everywhere, and what lights up is where the attention went."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import picture, tiny_model, tiny_processor
from evaluation.errors import EvaluationError
from evaluation.heatmap import WORD, attention_map, patch_attention, read_photo, text_attention


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()  # patches of 8 pixels, merge_size 2


class AttendingModel:
    """Stands for a model of two layers whose attention is given: even, but for one key position."""

    device = "cpu"

    def __init__(self, key: int | None = None, layer: int = 1):
        self.key, self.layer = key, layer

    def __call__(self, input_ids, output_attentions, **_):
        length = input_ids.shape[1]
        even = torch.ones(length, length).tril()
        chosen = even.clone()
        if self.key is not None:
            chosen[:, self.key] *= 30
        layers = [chosen if layer == self.layer else even for layer in range(2)]
        layers = [layer / layer.sum(1, keepdim=True) for layer in layers]
        return SimpleNamespace(attentions=tuple(layer.expand(1, 3, -1, -1) for layer in layers))


def test_even_attention_is_one_everywhere(processor):
    result = attention_map(AttendingModel(), processor, picture(48, 32), "red striped mug 350 ml")
    np.testing.assert_allclose(result.patches, np.ones((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(result.word_weights, np.ones(5), rtol=1e-5)


@pytest.mark.parametrize(("size", "grid"), [((48, 32), (2, 3)), ((16, 64), (4, 1)), ((32, 48), (3, 2))])
def test_the_attended_cell_lights_up(processor, size, grid):
    """The cell is found from the pixels: with merge_size 2 and a grid that is not square, what the image processor
    gives as visual token k must be where the heat-map shows it."""
    for row in range(grid[0]):
        for column in range(grid[1]):
            dark = Image.new("RGB", size)
            bright = dark.copy()
            bright.paste("white", (16 * column, 16 * row, 16 * column + 16, 16 * row + 16))
            patches = [processor([{"image": photo}])["pixel_values"] for photo in (dark, bright)]
            changed = (patches[0] != patches[1]).any(1).nonzero().flatten() // 4
            assert len(changed.unique()) == 1
            start_marker = 1
            model = AttendingModel(key=start_marker + int(changed[0]))
            weights = attention_map(model, processor, bright, "mug", layers=1).patches
            assert weights.shape == grid
            assert np.unravel_index(weights.argmax(), grid) == (row, column)


def test_markers_around_the_picture_are_no_patches(processor):
    result = attention_map(AttendingModel(key=0), processor, picture(48, 32), "mug", layers=1)
    np.testing.assert_allclose(result.patches, np.ones((2, 3)), rtol=1e-5)


@pytest.mark.parametrize("title", ["red striped mug 350 ml", "红色条纹马克杯", "蓝色 cotton 衬衫"])
def test_the_attended_word_gets_the_most(processor, title):
    """Chinese characters too, which the byte-level tokenizer may cut in pieces or join to longer tokens."""
    offsets = processor.tokenizer(title, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    before = len(processor([{"image": picture(48, 32)}])["input_ids"][0])
    for token, (start, end) in enumerate(offsets):
        if title[start:end].isspace():
            continue  # belongs to no word
        result = attention_map(AttendingModel(key=before + token), processor, picture(48, 32), title, layers=1)
        overlapping = [start < word[1] and word[0] < end for word in result.words]
        assert overlapping[int(result.word_weights.argmax())]


def test_only_the_last_layers_count(processor):
    key = len(processor([{"image": picture(48, 32)}])["input_ids"][0])
    first_layer = AttendingModel(key=key, layer=0)
    one = attention_map(first_layer, processor, picture(48, 32), "red mug", layers=1)
    two = attention_map(first_layer, processor, picture(48, 32), "red mug", layers=2)
    np.testing.assert_allclose(one.word_weights, np.ones(2), rtol=1e-5)
    assert two.word_weights[0] > 1.1


def test_early_tokens_have_no_advantage():
    """Each token's share of every row that sees it is drawn alike, so no place may come out ahead."""
    generator = np.random.default_rng(0)
    weights = np.mean([text_attention(np.tril(generator.gamma(1.0, size=(12, 12)))) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(weights, np.ones(12), atol=0.03)


def test_patch_weights_have_mean_one_whatever_goes_to_the_text():
    attention = np.random.default_rng(0).random((5, 6)) * np.array([[0.01], [1], [0.5], [0.2], [3]])
    weights = patch_attention(attention, (2, 3))
    assert weights.mean() == pytest.approx(1)
    assert weights[0, 1] == pytest.approx(np.mean(attention[:, 1] / attention.sum(1)) * 6)


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("polo-neck cardigan, 2 pcs", ["polo-neck", "cardigan,", "2", "pcs"]),
        ("红色马克杯350ml", ["红", "色", "马", "克", "杯", "350ml"]),
        ("カップ", ["カ", "ッ", "プ"]),
        ("थैला नीला", ["थैला", "नीला"]),
        ("\u0e40\u0e2a\u0e37\u0e49\u0e2d", ["\u0e40", "\u0e2a\u0e37\u0e49", "\u0e2d"]),
        ("머그컵 빨강", ["머그컵", "빨강"]),
    ],
)
def test_words_in_any_script(title, words):
    assert [match.group() for match in WORD.finditer(title)] == words


def test_a_real_model(processor):
    model = tiny_model()
    model.set_attn_implementation("eager")
    result = attention_map(model, processor, picture(48, 32), "红色条纹马克杯 red mug", layers=3)
    assert result.patches.shape == (2, 3)
    assert result.patches.mean() == pytest.approx(1, rel=1e-5)
    assert len(result.word_weights) == 9
    assert (result.word_weights > 0).all()


def test_what_cannot_be_drawn_is_refused(processor, tmp_path):
    model = AttendingModel()
    with pytest.raises(EvaluationError, match="title is blank"):
        attention_map(model, processor, picture(48, 32), "  ")
    with pytest.raises(EvaluationError, match="--layers is 3, but the model has 2"):
        attention_map(model, processor, picture(48, 32), "mug", layers=3)
    with pytest.raises(EvaluationError, match="tokens, the model reads 512"):
        attention_map(model, processor, picture(48, 32), "mug 350 " * 400)
    with pytest.raises(EvaluationError, match="image_grid_thw"):
        attention_map(model, tiny_processor("llava"), picture(48, 32), "mug")
    (tmp_path / "mug.jpg").write_text("<html>")
    with pytest.raises(EvaluationError, match=r"mug\.jpg cannot be read"):
        read_photo(tmp_path / "mug.jpg")
