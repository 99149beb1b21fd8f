"""Draws an attention map: the photo, the photo under its heat, and the title shaded word by word."""

import logging
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.heatmap import AttentionMap

logger = logging.getLogger(__name__)

# Inches, and points for the font.
WIDTH, MARGIN, BAR_WIDTH = 9.0, 0.35, 0.12
PHOTO_SIZE, HEADING, LINE, WORD_PAD, SPACE = 3.75, 0.35, 0.36, 0.06, 0.09
FONT_SIZE, DPI = 13, 150
PHOTO_COLORS, WORD_COLORS, INK = matplotlib.colormaps["inferno"], matplotlib.colormaps["Oranges"], "#222222"


def draw(photo: Image.Image, attention: AttentionMap, output: Path) -> None:
    """Writes one PNG. Its height follows from the photo's shape and the title's length.

    Raises:
        EvaluationError: the file cannot be written.
    """
    style = {"font.family": _fonts_for(attention.title), "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # _fonts_for has said once what matplotlib would say for each character, twice.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, WIDTH), dpi=DPI, facecolor="white")
        lines = _lines(figure, attention)
        photo_size = np.array(photo.size) * PHOTO_SIZE / max(photo.size)
        title_height = HEADING + LINE * len(lines)
        figure.set_figheight(MARGIN + title_height + MARGIN + photo_size[1] + HEADING + MARGIN / 2)
        _draw_photos(figure, photo, attention.patches, photo_size, bottom=2 * MARGIN + title_height)
        _draw_title(figure, attention, lines)
        try:
            figure.savefig(output, format="png")
        except OSError as error:
            raise EvaluationError(f"The heat-map cannot be written to {output}: {error.strerror}.") from error


def heat_of(patches: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Patch weights (h, w) -> one value for each of the photo's (height, width) pixels, smoothed between cell centres.

    Args:
        size: (width, height) of the photo.
    """
    heat = Image.fromarray(patches.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(heat).clip(0, patches.max())


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float):
    """Axes at a place given in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _text(figure: Figure, left: float, bottom: float, text: str, **style):
    across, up = figure.get_size_inches()
    return figure.text(left / across, bottom / up, text, **{"color": INK, "fontsize": FONT_SIZE} | style)


def _draw_photos(figure: Figure, photo: Image.Image, patches: np.ndarray, size: np.ndarray, bottom: float) -> None:
    width, height = size
    scale = _scale(patches)
    heat = scale(heat_of(patches, photo.size)).data
    # The photo under the heat is grey, so that the product's own colours are not mistaken for attention.
    panels = {"Photo": photo, "Attention of the title to the photo": photo.convert("L").convert("RGB")}
    for column, (name, picture) in enumerate(panels.items()):
        left = MARGIN + column * (width + MARGIN)
        axes = _axes(figure, left, bottom, width, height)
        axes.imshow(picture)
        axes.axis("off")
        _text(figure, left, bottom + height + 0.12, name, fontsize=11)
    # Opacity grows with attention, so that the photo stays visible where little goes.
    axes.imshow(PHOTO_COLORS(heat), alpha=0.15 + 0.6 * heat)
    _color_bar(figure, scale, PHOTO_COLORS, left + width + 0.12, bottom, height)


def _draw_title(figure: Figure, attention: AttentionMap, lines: list[list[tuple[int, float]]]) -> None:
    height = LINE * len(lines)
    scale = _scale(attention.word_weights)
    _text(figure, MARGIN, MARGIN + height + 0.12, "Attention of the title to its words", fontsize=11)
    for row, line in enumerate(lines):
        bottom = MARGIN + height - LINE * (row + 0.68)
        for word, left in line:
            start, end = attention.words[word]
            share = scale(attention.word_weights[word])
            box = {
                "boxstyle": f"round,pad={WORD_PAD * 72 / FONT_SIZE}",
                "facecolor": WORD_COLORS(share),
                "linewidth": 0,
            }
            color = "white" if share > 0.6 else INK
            _text(figure, left, bottom, attention.title[start:end], color=color, bbox=box)
    _color_bar(figure, scale, WORD_COLORS, MARGIN + 2 * PHOTO_SIZE + MARGIN + 0.12, MARGIN, height)


def _scale(weights: np.ndarray) -> Normalize:
    """From no attention to the highest weight, but at least to twice an even one: noise must not look like heat."""
    return Normalize(0, max(2.0, weights.max()))


def _color_bar(figure: Figure, scale: Normalize, colors, left: float, bottom: float, height: float) -> None:
    axes = _axes(figure, left, bottom, BAR_WIDTH, height)
    bar = figure.colorbar(ScalarMappable(scale, colors), cax=axes, ticks=[1, scale.vmax])
    bar.ax.set_yticklabels(["even", f"{scale.vmax:.1f}\u00d7"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, color=INK, labelcolor=INK)


def _lines(figure: Figure, attention: AttentionMap) -> list[list[tuple[int, float]]]:
    """Breaks the title into lines: for each line its words (as indices) and their left edges in inches."""
    lines: list[list[tuple[int, float]]] = [[]]
    left, previous_end = MARGIN + WORD_PAD, 0
    right = MARGIN + 2 * PHOTO_SIZE + MARGIN
    for word, (start, end) in enumerate(attention.words):
        probe = _text(figure, 0, 0, attention.title[start:end])
        width = probe.get_window_extent().width / DPI
        probe.remove()
        if lines[-1]:
            # Words of a script without spaces stand close together.
            left += 2 * WORD_PAD + (SPACE if start > previous_end else 0.02)
        if lines[-1] and left + width > right:
            lines.append([])
            left = MARGIN + WORD_PAD
        lines[-1].append((word, left))
        left, previous_end = left + width, end
    return lines


def _fonts_for(text: str) -> list[str]:
    """matplotlib's own font, then installed ones until every character has a glyph; says so if one has none."""
    own = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    families = [own.family_name]
    missing = {character for character in text if not character.isspace() and not own.get_char_index(ord(character))}
    # The files, not matplotlib's cached list of them, which does not know a font that was installed since.
    for path in sorted(font_manager.findSystemFonts()) if missing else ():
        try:
            font = font_manager.get_font(path)
        except (OSError, RuntimeError):  # a kind of font that matplotlib does not read
            continue
        covered = {character for character in missing if font.get_char_index(ord(character))}
        if covered:
            font_manager.fontManager.addfont(path)
            families.append(font.family_name)
            missing -= covered
    if missing:
        logger.warning(
            "No installed font has %s; boxes are drawn instead. Install one: for Chinese, Debian's fonts-noto-cjk.",
            " ".join(sorted(missing)),
        )
    return families
