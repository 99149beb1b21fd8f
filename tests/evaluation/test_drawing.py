"""The PNG: what is on it, and where."""

import logging
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from common_moon2.cli import UserError
from conftest import picture
from evaluation.measure.attention import WORD, AttentionMap, heat_of
from evaluation.show import heatmap as drawing
from evaluation.show.heatmap import draw, draw_sheet, render


def attention(title: str, patches: np.ndarray, word_weights=None) -> AttentionMap:
    words = [match.span() for match in WORD.finditer(title)]
    weights = np.ones(len(words)) if word_weights is None else np.array(word_weights)
    return AttentionMap(title, patches, words, weights, np.stack([patches] * len(words)))


def drawn(tmp_path: Path, *arguments) -> np.ndarray:
    draw(*arguments, tmp_path / "heatmap.png")
    return np.asarray(Image.open(tmp_path / "heatmap.png").convert("RGB")).astype(int)


def panels(pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The photo and the overlay, cut out of the drawing."""
    width, height = (np.array(size) * drawing.PHOTO_SIZE / max(size) * drawing.DPI).astype(int)
    top = int((drawing.MARGIN / 2 + drawing.HEADING) * drawing.DPI)
    left = int(drawing.MARGIN * drawing.DPI)
    step = width + left
    return tuple(pixels[top + 2 : top + height - 2, x + 2 : x + width - 2] for x in (left, left + step))


def test_heat_is_smooth_and_keeps_cell_centres():
    patches = np.array([[0.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    heat = heat_of(patches, (40, 60))
    assert heat.shape == (60, 40)
    assert np.unravel_index(heat.argmax(), heat.shape)[0] < 20
    assert heat[10, 30] == pytest.approx(4, rel=0.1)
    assert heat[50, 10] == pytest.approx(0, abs=0.05)
    assert heat.min() >= 0


def test_the_overlay_is_hot_where_attention_went(tmp_path):
    patches = np.full((2, 3), 0.2)
    patches[1, 2] = 5.0
    size = (60, 40)
    photo, overlay = panels(drawn(tmp_path, Image.new("RGB", size, (90, 90, 90)), attention("red mug", patches)), size)
    assert np.abs(photo - 90).max() <= 2
    brightness = overlay.sum(-1)
    height, width = brightness.shape
    cells = brightness.reshape(height, width)[: height // 2 * 2, : width // 3 * 3]
    cells = cells.reshape(2, height // 2, 3, width // 3).mean((1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (1, 2)
    assert cells.max() > 1.5 * np.median(cells)


def test_even_attention_shows_no_spot(tmp_path):
    size = (60, 60)
    _, overlay = panels(drawn(tmp_path, Image.new("RGB", size, "gray"), attention("mug", np.ones((3, 3)))), size)
    assert np.ptp(overlay, axis=(0, 1)).max() <= 2


def test_attended_words_are_darker(tmp_path):
    """Two drawings that differ in nothing but which of two words gets the attention."""
    photo, patches = picture(60, 40), np.ones((2, 3))
    first = drawn(tmp_path, photo, attention("mug mug", patches, [3.0, 0.1]))
    second = drawn(tmp_path, photo, attention("mug mug", patches, [0.1, 3.0]))
    columns = np.flatnonzero((first != second).any((0, 2)))
    gap = np.argmax(np.diff(columns))
    left, right = columns[: gap + 1], columns[gap + 1 :]
    rows = np.flatnonzero((first != second).any((1, 2)))
    assert first[np.ix_(rows, left)].sum() < second[np.ix_(rows, left)].sum()
    assert first[np.ix_(rows, right)].sum() > second[np.ix_(rows, right)].sum()


def test_long_titles_break_into_lines_within_the_page(tmp_path):
    photo, patches = picture(60, 40), np.ones((2, 3))
    short, long = (drawn(tmp_path, photo, attention("mug " * count, patches)) for count in (1, 60))
    line = drawing.LINE * drawing.DPI
    assert long.shape[0] - short.shape[0] >= 3 * line - 1
    assert long.shape[1] == short.shape[1]
    # Shaded boxes end before the right margin.
    below = long[-int(4 * line) :, -int(drawing.MARGIN * drawing.DPI / 2) :]
    assert (below == 255).all()


def small_font(path: Path, characters: str) -> None:
    """A font that has just these characters, each a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"g{index}" for index in range(len(characters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): name for character, name in zip(characters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": f"Squares {path.stem}", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def own_fonts(monkeypatch, tmp_path):
    """Only the fonts of this test are installed, and matplotlib forgets them afterwards."""
    known = list(font_manager.fontManager.ttflist)
    paths = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)

    def install(name: str, characters: str) -> None:
        small_font(tmp_path / f"{name}.ttf", characters)
        paths.append(str(tmp_path / f"{name}.ttf"))

    yield install
    font_manager.fontManager.ttflist = known


def test_a_chinese_title_uses_an_installed_font(tmp_path, own_fonts, caplog, recwarn):
    own_fonts("one", "红色")
    own_fonts("two", "马克杯")
    own_fonts("unneeded", "abc")
    title = "红色马克杯 mug"
    assert drawing.fonts_for(title) == ["DejaVu Sans", "Squares one", "Squares two"]
    drawn(tmp_path, picture(60, 40), attention(title, np.ones((2, 3))))
    assert not caplog.records
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_missing_font_is_said_once_and_the_rest_is_drawn(tmp_path, own_fonts, caplog, recwarn):
    own_fonts("one", "红")
    with caplog.at_level(logging.WARNING):
        drawn(tmp_path, picture(60, 40), attention("红色色 mug", np.ones((2, 3))))
    assert [record.getMessage() for record in caplog.records] == [
        "No installed font has 色; boxes are drawn instead. Install one: for Chinese, Debian's fonts-noto-cjk."
    ]
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_dollars_are_no_formulas(tmp_path):
    drawn(tmp_path, picture(60, 40), attention("$5 off_x^ and $\\frac", np.ones((2, 3))))


def test_settings_of_the_caller_stay(tmp_path):
    before = dict(matplotlib.rcParams)
    drawn(tmp_path, picture(60, 40), attention("mug", np.ones((2, 3))))
    assert dict(matplotlib.rcParams) == before


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be written to .*No such file"):
        draw(picture(60, 40), attention("mug", np.ones((2, 3))), tmp_path / "nowhere" / "heatmap.png")


def test_words_are_drawn_below_in_the_title_s_order(tmp_path):
    """Of three words the two with most attention; only what the first one sees differs between the drawings."""
    photo, patches = Image.new("RGB", (60, 60), "gray"), np.ones((2, 2))
    spot = np.array([[4.0, 0.0], [0.0, 0.0]])
    base = attention("red big mug", patches, [1.0, 0.1, 2.0])
    pictures = []
    for seen in (patches, spot):
        words = base._replace(word_patches=np.stack([seen, 9 * spot, patches]))
        pictures.append(np.asarray(render(photo, words, words=2)).astype(int))
    without = render(photo, base)
    assert pictures[0].shape[0] > without.height + drawing.SMALL * drawing.PHOTO_SIZE * drawing.DPI
    changed = np.abs(pictures[0] - pictures[1]).sum(-1) > 60
    small = drawing.SMALL * drawing.PHOTO_SIZE * drawing.DPI
    first = slice(int(drawing.MARGIN * drawing.DPI), int(drawing.MARGIN * drawing.DPI + small / 2))
    assert changed[:, first].any()
    assert not changed[: without.height - int(drawing.MARGIN * drawing.DPI)].any()


def test_heat_lies_only_where_the_model_looked():
    heat = heat_of(np.ones((2, 2)), (40, 20), (0.25, 0.0, 0.75, 1.0))
    assert (heat[:, 10:30] == 1).all() and not heat[:, :10].any() and not heat[:, 30:].any()
    padded = heat_of(np.array([[1.0, 1.0], [0.0, 0.0]]), (40, 20), (0.0, 0.0, 1.0, 2.0))
    assert padded[0, 0] > 0.9 and padded[10, 20] == pytest.approx(0.9, abs=0.15)


def test_a_sheet_holds_every_product(tmp_path):
    photo, patches = picture(60, 40), np.ones((2, 3))
    drawn_ones = [render(photo, attention(title, patches), name=title) for title in ("mug", "cup", "jar " * 40)]
    draw_sheet(drawn_ones, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    width, height = drawn_ones[0].size
    assert sheet.shape[:2] == (height + drawn_ones[2].height, 2 * width)
    np.testing.assert_array_equal(sheet[:height, width:], np.asarray(drawn_ones[1]))
    np.testing.assert_array_equal(sheet[height:, :width], np.asarray(drawn_ones[2]))
