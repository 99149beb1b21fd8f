"""The parts of the page as HTML (`parts.html`): messages, results, the query, the heat-map of a product."""

from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.colors import to_hex

from common_moon2.cli import UserError
from demo_moon2.catalogue import Catalogue, Found, data_address
from demo_moon2.query import Query, Reader
from evaluation.measure.attention import AttentionMap
from evaluation.show.heatmap import WORD_COLORS, overlay, scale_of

QUERY_VIEWS = {"t": "text", "i": "image", "mm": "text and image"}
LACKS = {"t": "title only", "i": "image only", "mm": None}
SHOWN = 512  # pixels of a heat-map's longer side
DARK = 0.6  # words of a deeper shade than this are written in white
PARTS = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("parts.html").module
head = PARTS.head  # what the page is over
message = PARTS.message  # a neutral line, which screen readers read out
problem = PARTS.problem  # what was wrong and what to do


def cards(catalogue: Catalogue, found: Found) -> str:
    """Return the results of a search, best first; a card's button carries its row."""
    score = "score of vectors and words" if found.weight else "cosine similarity"
    products = (
        {
            "row": row,
            "score": value,
            "name": catalogue.title(row) or f"Product {catalogue.products.ids[row]}",
            "picture": catalogue.thumbnail(row),
            "lacks": LACKS[catalogue.view[row]],
        }
        for row, value in found.products
    )
    return PARTS.cards(products, score)


def query_panel(query: Query, share: float, weight: float) -> str:
    """Return what kind of query it was, what its words counted, and which experts each view of it used."""
    usage = {name: query.usage[view].tolist() for view, name in QUERY_VIEWS.items() if view in query.usage}
    return PARTS.query(QUERY_VIEWS[query.view], share, weight, query.cut, usage)


def heat_panel(catalogue: Catalogue, reader: Reader, row: int) -> str:
    """Return what a product's title and photo attend to (`evaluation.show.heatmap`), fit for a phone.

    Raises:
        UserError: there is no such row, or the product lacks a title or an image.
    """
    if catalogue.view.get(row) != "mm":
        raise UserError("A heat-map needs a product of the catalogue with title and image.")
    photo, title = catalogue.photo(row), catalogue.title(row)
    attention = reader.heatmap(photo, title)
    small = photo.copy()
    small.thumbnail((SHOWN, SHOWN))
    scale = scale_of(attention.patches)
    brightest = f"What the title attends to; the brightest shade is {scale.vmax:.1f} times an even share"
    pictures = {"The photo": small, brightest: overlay(small, attention.patches, attention.region, scale)}
    figures = [
        {"caption": caption, "width": picture.width, "height": picture.height}
        | {"source": data_address(picture, SHOWN, quality=90)}
        for caption, picture in pictures.items()
    ]
    return PARTS.heat(title, figures, scale_of(attention.word_weights).vmax, _words(attention))


def _words(attention: AttentionMap) -> list[dict]:
    """Return the title's words in their order, each with its weight and shade."""
    shares = np.asarray(scale_of(attention.word_weights)(attention.word_weights))
    words, end = [], 0
    for (start, stop), share, weight in zip(attention.words, shares, attention.word_weights, strict=True):
        word = {"text": attention.title[start:stop], "gap": " " if start > end and end else "", "weight": weight}
        ink = "#fff" if share > DARK else "#222"
        words.append(word | {"shade": to_hex(WORD_COLORS(float(share))), "ink": ink})
        end = stop
    return words
