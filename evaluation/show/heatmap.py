"""Heat-maps: the photo, the photo under its heat, and the title shaded word by word: `python -m evaluation heatmap`."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from common_moon2.cli import UserError
from common_moon2.files import write_json
from common_moon2.text import table
from evaluation.arguments import SANITY, Heatmap
from evaluation.measure.attention import (
    AttentionMap,
    Located,
    attention_map,
    attention_on_products,
    heat_of,
    read_photo,
    summary,
)
from evaluation.models.checkpoint import Checkpoint, load_checkpoint
from evaluation.tables.benchmark import load_benchmark

logger = logging.getLogger(__name__)

# Inches, and points for the font.
WIDTH, MARGIN, BAR_WIDTH = 9.0, 0.35, 0.12
PHOTO_SIZE, HEADING, LINE, WORD_PAD, SPACE = 3.75, 0.35, 0.36, 0.06, 0.09
FONT_SIZE, DPI = 13, 150
# The overlays of single words: their size as a share of the photo's, how many in a row, and how far apart.
SMALL, SMALL_COLUMNS, SMALL_GAP, LONGEST_LABEL = 0.38, 5, 0.18, 18
PHOTO_COLORS, WORD_COLORS, INK = matplotlib.colormaps["inferno"], matplotlib.colormaps["Oranges"], "#222222"


def draw(photo: Image.Image, attention: AttentionMap, output: Path, words: int = 0) -> None:
    """Write one PNG. Its height follows from the photo's shape and the title's length.

    Args:
        words: how many words have their attention to the photo drawn as well: those with most of the title's attention.

    Raises:
        UserError: the file cannot be written.
    """
    _save(render(photo, attention, words), output)


def draw_sheet(drawn: Sequence[Image.Image], output: Path, columns: int = 2) -> None:
    """Write a contact sheet of what `render` gave, from left to right and from top to bottom.

    Raises:
        UserError: the file cannot be written.
    """
    columns = min(columns, len(drawn))
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (columns * max(picture.width for picture in drawn), sum(heights)), "white")
    for index, row in enumerate(rows):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * sheet.width // columns, sum(heights[:index])))
    _save(sheet, output)


def render(photo: Image.Image, attention: AttentionMap, words: int = 0, name: str = "Photo") -> Image.Image:
    """Return what `draw` writes; `name` stands above the photo."""
    style = {"font.family": fonts_for(attention.title + name), "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # fonts_for has said once what matplotlib would say for each character, twice.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, WIDTH), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        lines = _lines(figure, attention)
        photo_size = np.array(photo.size) * PHOTO_SIZE / max(photo.size)
        title_height = HEADING + LINE * len(lines)
        chosen = np.sort(np.argsort(-attention.word_weights, kind="stable")[:words])
        small_size = photo_size * SMALL
        small_rows = -(-len(chosen) // SMALL_COLUMNS)
        words_height = small_rows * (small_size[1] + HEADING) + (HEADING + MARGIN if small_rows else 0)
        bottom = 2 * MARGIN + words_height + title_height
        figure.set_figheight(bottom + photo_size[1] + HEADING + MARGIN / 2)
        _draw_photos(figure, photo, attention, photo_size, bottom, name)
        _draw_title(figure, attention, lines, MARGIN + words_height)
        _draw_words(figure, photo, attention, chosen, small_size, words_height - HEADING)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _save(picture: Image.Image, output: Path) -> None:
    try:
        picture.save(output, format="png")
    except OSError as error:
        raise UserError(f"The heat-map cannot be written to {output}: {error.strerror}.") from error


def overlay(
    photo: Image.Image, patches: np.ndarray, region: tuple[float, float, float, float], scale: Normalize
) -> Image.Image:
    """Return the photo under its heat, in its own size; see `heat_of`."""
    heat = scale(heat_of(patches, photo.size, region)).data[..., None]
    # The photo under the heat is grey, so that the product's own colours are not mistaken for attention.
    grey = np.asarray(photo.convert("L").convert("RGB")) / 255
    # Opacity grows with attention, so that the photo stays visible where little goes.
    opacity = 0.15 + 0.6 * heat
    blended = PHOTO_COLORS(heat[..., 0])[..., :3] * opacity + grey * (1 - opacity)
    return Image.fromarray((255 * blended).round().astype(np.uint8))


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float):
    """Add axes at a place given in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _text(figure: Figure, left: float, bottom: float, text: str, **style):
    across, up = figure.get_size_inches()
    return figure.text(left / across, bottom / up, text, **{"color": INK, "fontsize": FONT_SIZE} | style)


def _draw_photos(
    figure: Figure, photo: Image.Image, attention: AttentionMap, size: np.ndarray, bottom: float, name: str
) -> None:
    width, height = size
    scale = scale_of(attention.patches)
    axes = _axes(figure, MARGIN, bottom, width, height)
    axes.imshow(photo)
    axes.axis("off")
    left = MARGIN + width + MARGIN
    _draw_heat(figure, photo, attention.patches, attention.region, scale, (left, bottom, width, height))
    _text(figure, MARGIN, bottom + height + 0.12, name, fontsize=11)
    _text(figure, left, bottom + height + 0.12, "Attention of the title to the photo", fontsize=11)
    _color_bar(figure, scale, PHOTO_COLORS, left + width + 0.12, bottom, height)


def _draw_heat(figure: Figure, photo: Image.Image, patches: np.ndarray, region, scale: Normalize, box: tuple) -> None:
    axes = _axes(figure, *box)
    axes.imshow(overlay(photo, patches, region, scale))
    axes.axis("off")


def _draw_words(
    figure: Figure, photo: Image.Image, attention: AttentionMap, chosen: np.ndarray, size: np.ndarray, top: float
) -> None:
    """Draw a small overlay for each chosen word; all share one scale."""
    if not len(chosen):
        return
    width, height = size
    scale = scale_of(attention.word_patches[chosen])
    _text(figure, MARGIN, top + 0.12, "Attention of single words to the photo", fontsize=11)
    for number, word in enumerate(chosen):
        row, column = divmod(number, SMALL_COLUMNS)
        left = MARGIN + column * (SMALL * PHOTO_SIZE + SMALL_GAP)
        bottom = top - (row + 1) * (height + HEADING) + HEADING
        box = (left, bottom, width, height)
        _draw_heat(figure, photo, attention.word_patches[word], attention.region, scale, box)
        start, end = attention.words[word]
        label = attention.title[start:end]
        # A word longer than its image would run into the next one.
        label = label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "\u2026"
        _text(figure, left, bottom - 0.2, label, fontsize=10)
    left = MARGIN + 2 * PHOTO_SIZE + MARGIN + 0.12
    _color_bar(figure, scale, PHOTO_COLORS, left, top - height, height)


def _draw_title(figure: Figure, attention: AttentionMap, lines: list[list[tuple[int, float]]], foot: float) -> None:
    height = LINE * len(lines)
    scale = scale_of(attention.word_weights)
    _text(figure, MARGIN, foot + height + 0.12, "Attention of the title to its words", fontsize=11)
    for row, line in enumerate(lines):
        bottom = foot + height - LINE * (row + 0.68)
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
    _color_bar(figure, scale, WORD_COLORS, MARGIN + 2 * PHOTO_SIZE + MARGIN + 0.12, foot, height)


def scale_of(weights: np.ndarray) -> Normalize:
    """Return a scale from no attention to the highest weight, at least twice an even one: noise is no heat."""
    return Normalize(0, max(2.0, weights.max()))


def _color_bar(figure: Figure, scale: Normalize, colors, left: float, bottom: float, height: float) -> None:
    axes = _axes(figure, left, bottom, BAR_WIDTH, height)
    bar = figure.colorbar(ScalarMappable(scale, colors), cax=axes, ticks=[1, scale.vmax])
    bar.ax.set_yticklabels(["even", f"{scale.vmax:.1f}\u00d7"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, color=INK, labelcolor=INK)


def _lines(figure: Figure, attention: AttentionMap) -> list[list[tuple[int, float]]]:
    """Break the title into lines: for each line its words (as indices) and their left edges in inches."""
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


def fonts_for(text: str) -> list[str]:
    """Return matplotlib's own font, then installed ones until every character has a glyph; log what has none."""
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


SANITY_SIZE = 96  # of the built-in catalogue's images, in pixels a side


class Shown(NamedTuple):
    """A product to draw."""

    name: str
    photo: Image.Image
    title: str


def draw_heatmap(arguments: Heatmap) -> dict:
    """Draw the products that were asked for, or measure the attention on those of the built-in catalogue.

    Raises:
        UserError: there are no such products, or the model or a photo cannot be read.
    """
    shown = [] if arguments.sanity else _shown(arguments)
    checkpoint = load_checkpoint(arguments.model, arguments.model_revision, attn_implementation="eager")
    if arguments.sanity:
        return _measure(checkpoint, arguments)
    model, processor, output = checkpoint.model, checkpoint.processor, arguments.file
    maps = [attention_map(model, processor, one.photo, one.title, arguments.layers) for one in shown]
    if arguments.products or arguments.count:
        drawn = [render(one.photo, attention, name=one.name) for one, attention in zip(shown, maps, strict=True)]
        draw_sheet(drawn, output)
    else:
        draw(shown[0].photo, maps[0], output, arguments.words)
    print(f"The heat-map is in {output}")
    return {"output": output, "products": [{"name": one.name, "title": one.title} for one in shown]}


def _shown(arguments: Heatmap) -> list[Shown]:
    """Return what --image and --text give, or products of --dataset.

    Raises:
        UserError: there are no such products.
    """
    if arguments.dataset is None:
        return [Shown("Photo", read_photo(arguments.image), arguments.text)]
    corpus = load_benchmark(arguments.dataset, arguments.dataset_revision).corpus
    rows = {corpus.ids[row]: row for row in corpus.rows("mm")}
    named = arguments.products.split(",") if arguments.products else [arguments.product] if arguments.product else None
    wanted = list(rows)[: arguments.count or 1] if named is None else named
    missing = [identifier for identifier in wanted if identifier not in rows]
    if missing or not wanted:
        what = f"product {missing[0]!r}" if missing else "product"
        raise UserError(f"The corpus of {arguments.dataset} has no {what} with title and image.")
    products = [(identifier, corpus.product(rows[identifier], "mm")) for identifier in wanted]
    return [Shown(identifier, read_photo(product["image"]), product["text"]) for identifier, product in products]


def _measure(checkpoint: Checkpoint, arguments: Heatmap) -> dict:
    products = synthetic_products(arguments.count or SANITY, arguments.seed)
    found = attention_on_products(checkpoint.model, checkpoint.processor, products, arguments.layers)
    means = summary(found)
    facts = {"model": arguments.model, "revision": checkpoint.revision}
    facts |= {"layers": arguments.layers, "seed": arguments.seed}
    content = facts | {"summary": means, "products": [one._asdict() for one in found]}
    try:
        write_json(arguments.file, content)
    except OSError as error:
        raise UserError(f"The figures cannot be written to {arguments.file}: {error.strerror}.") from error
    low, high = means["ratio_interval_95"]
    figures = [str(means["products"]), f"{means['area']:.1%}", f"{means['attention']:.1%}"]
    figures += [f"{means['ratio']:.3f} ({low:.3f} to {high:.3f})", f"{means['above_area']:.1%}"]
    header = ["products", "product's area", "attention on it", "ratio (95 % interval)", "above its area"]
    print(table(header, [figures]))
    print("\nEven attention has the ratio 1.")
    return content


def synthetic_products(count: int, seed: int = 0) -> list[Located]:
    """Return the first row of each of `count` test products of the built-in catalogue (our choice)."""
    from mbe2_dataset.synthetic.catalogue import synthetic_photo, synthetic_rows  # only here is the data builder needed

    rows = synthetic_rows(seed, num_products=0, num_validation=0, num_test=count, picture_size=SANITY_SIZE)
    first = {row.group_id: row for row in reversed(rows)}
    chosen = [first[group] for group in sorted(first)]
    return [
        Located(
            row.id, read_photo(row.images[0].as_record()), row.title, synthetic_photo(row.id, 0, seed, SANITY_SIZE)[1]
        )
        for row in chosen
    ]
