"""Attention -> patches and words: even attention is 1 everywhere, and what lights up is where the attention went."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common_moon2.cli import UserError
from conftest import picture, tiny_model, tiny_processor, vlm_config
from evaluation.measure import attention as heatmap
from evaluation.measure.attention import WORD, attention_map, patch_attention, read_photo, text_attention


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()  # patches of 8 pixels, merge_size 2


class AttendingModel:
    """Stands for a model of two layers whose attention is given: even, but for one key position."""

    device = "cpu"
    config = SimpleNamespace(vlm_config=vlm_config("qwen3_vl"))

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


def test_both_weightings_give_one_under_even_attention():
    for causal in (True, False):
        even = np.tril(np.ones((7, 7))) if causal else np.ones((7, 7))
        np.testing.assert_allclose(text_attention(even, causal), np.ones(7))


def test_neighbours_that_a_token_joins_are_one_word(processor):
    """Titles are split where both the script and the tokenizer split them."""
    spans = [(0, 2), (2, 3), (2, 3), (3, 4), (5, 8)]
    words, tokens = heatmap._words("红色马克 mug", spans)
    assert words == [(0, 2), (2, 3), (3, 4), (5, 8)]
    assert tokens == [[0], [1, 2], [3], [4]]


def test_every_backbone(family):
    """Real tiny models: the grid tiles the photo, and what a word sees differs from what another one sees."""
    model, processor = tiny_model(family), tiny_processor(family)
    model.set_attn_implementation("eager")
    result = attention_map(model, processor, picture(48, 32), "红色条纹马克杯 red mug", layers=3)
    side = {"smolvlm": 2, "idefics3": 2, "llava": 4, "paligemma": 4}.get(family)
    assert result.patches.shape == ((2, 3) if side is None else (side, side))
    assert result.patches.mean() == pytest.approx(1, rel=1e-5)
    covered = "".join(result.title[start:end] for start, end in result.words)
    assert covered == "红色条纹马克杯redmug"
    assert len(result.word_weights) == len(result.word_patches) == len(result.words)
    assert (result.word_weights > 0).all()
    np.testing.assert_allclose(result.word_patches.mean((1, 2)), 1, rtol=1e-5)
    assert not np.allclose(result.word_patches[0], result.word_patches[-1], rtol=1e-7)


@pytest.mark.parametrize("family", ["llava", "smolvlm", "idefics3"])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (2, 1)])
def test_cells_of_square_grids_are_where_the_photo_changes(family, row, column):
    """A photo of another shape than the grid: what changes in one cell of the photo changes that visual token."""
    processor = tiny_processor(family)
    model = tiny_model(family)
    side = 4 if family == "llava" else 2
    row, column = row * side // 4, column * side // 4
    dark = Image.new("RGB", (64, 32), (9, 9, 9))
    bright = dark.copy()
    left, upper = 64 * column // side, 32 * row // side
    bright.paste("white", (left + 6, upper + 2, left + 64 // side - 6, upper + 32 // side - 2))
    pixels = [processor([{"image": photo}])["pixel_values"] for photo in (dark, bright)]
    # Where in the square of pixels it changed, taken to the photo through the region that is drawn.
    changed = (pixels[0] != pixels[1]).any(1)[0].nonzero().float().mean(0) / pixels[0].shape[-1]
    inputs = processor([{"image": dark}])
    edges = heatmap._region(inputs, processor, dark.size)
    y, x = (edges[axis] + (edges[axis + 2] - edges[axis]) * float(changed[1 - axis]) for axis in (1, 0))
    assert (int(y * side), int(x * side)) == (row, column)
    assert model.config.vlm_config.model_type == family


def test_a_cropped_photo_is_marked_where_it_was_seen():
    crop = SimpleNamespace(image_processor=SimpleNamespace(do_center_crop=True))
    assert heatmap._region({}, crop, (200, 100)) == (0.25, 0.0, 0.75, 1.0)
    padding = SimpleNamespace(image_processor=SimpleNamespace())
    mask = torch.zeros(1, 4, 8, 8)
    mask[..., :4, :] = 1
    assert heatmap._region({"pixel_attention_mask": mask[0]}, padding, (80, 40)) == (0.0, 0.0, 1.0, 2.0)
    upright = mask.transpose(-1, -2)
    assert heatmap._region({"pixel_attention_mask": upright[0]}, padding, (40, 80)) == (0.0, 0.0, 2.0, 1.0)


def test_what_cannot_be_drawn_is_refused(processor, tmp_path):
    model = AttendingModel()
    with pytest.raises(UserError, match="title is blank"):
        attention_map(model, processor, picture(48, 32), "  ")
    with pytest.raises(UserError, match="--layers is 3, but the model has 2"):
        attention_map(model, processor, picture(48, 32), "mug", layers=3)
    with pytest.raises(UserError, match="tokens, the model reads 512"):
        attention_map(model, processor, picture(48, 32), "mug 350 " * 400)
    (tmp_path / "mug.jpg").write_text("<html>")
    with pytest.raises(UserError, match=r"mug\.jpg cannot be read"):
        read_photo(tmp_path / "mug.jpg")
