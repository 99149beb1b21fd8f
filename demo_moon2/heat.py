"""The heat-map of one product as HTML, which fits a phone: the photo under its heat, the title's words shaded."""

from html import escape

import numpy as np
from matplotlib.colors import to_hex

from demo_moon2.catalogue import Catalogue, data_address
from demo_moon2.query import Reader
from evaluation.errors import EvaluationError
from evaluation.measure.attention import AttentionMap
from evaluation.show.heatmap import WORD_COLORS, overlay, scale_of

SHOWN = 512  # pixels of the photo's longer side
DARK = 0.6  # words of a deeper shade than this are written in white


def heat_panel(catalogue: Catalogue, reader: Reader, row: int) -> str:
    """What a product's title and photo attend to (`evaluation.show.heatmap`).

    Raises:
        EvaluationError: there is no such row, or the product lacks a title or a picture.
    """
    if catalogue.view.get(row) != "mm":
        raise EvaluationError("A heat-map needs a product of the catalogue with title and picture.")
    photo, title = catalogue.photo(row), catalogue.title(row)
    attention = reader.heatmap(photo, title)
    small = photo.copy()
    small.thumbnail((SHOWN, SHOWN))
    scale = scale_of(attention.patches)
    heat = overlay(small, attention.patches, attention.region, scale)
    return (
        '<section class="heat" aria-label="Heat-map" tabindex="-1">'
        f"<h2>{escape(title)}</h2>"
        f'<div class="photos">{_figure(small, "The photo")}'
        f"{_figure(heat, f'What the title attends to; the brightest shade is {scale.vmax:.1f} times an even share')}"
        f'</div><p class="caption">What the title attends to in itself; the darkest shade is '
        f"{scale_of(attention.word_weights).vmax:.1f} times an even share</p>"
        f'<p class="words">{_words(attention)}</p></section>'
    )


def _figure(picture, caption: str) -> str:
    address = data_address(picture, SHOWN, quality=90)
    # With its size the picture takes its place before it is decoded, so that what was scrolled to stays where it is.
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<figure><img src="{address}" {size} alt=""><figcaption>{escape(caption)}</figcaption></figure>'


def _words(attention: AttentionMap) -> str:
    """The title's words in their order, each with its weight in words, too, for those who do not see the shade."""
    shares = scale_of(attention.word_weights)(attention.word_weights)
    parts, end = [], 0
    for (start, stop), share, weight in zip(attention.words, np.asarray(shares), attention.word_weights, strict=True):
        gap = " " if start > end and end else ""
        ink = "#fff" if share > DARK else "#222"
        parts.append(
            f'{gap}<span title="{weight:.2f} times an even share" '
            f'style="background:{to_hex(WORD_COLORS(float(share)))};color:{ink}">'
            f"{escape(attention.title[start:stop])}</span>"
        )
        end = stop
    return "".join(parts)
