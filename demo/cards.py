"""The page's own HTML: results as cards, what the model made of the query, messages. All text is escaped."""

from collections.abc import Sequence
from html import escape

import numpy as np

from demo.catalogue import Catalogue
from demo.query import Query

QUERY_VIEWS = {"t": "text", "i": "picture", "mm": "text and picture"}
PRODUCT_VIEWS = {"t": "title only", "i": "picture only", "mm": "title and picture"}


def message(text: str) -> str:
    """A neutral line, which screen readers read out."""
    return f'<p class="message" role="status">{escape(text)}</p>'


def problem(text: str) -> str:
    """What was wrong and what to do."""
    return f'<p class="message problem" role="alert">{escape(text)}</p>'


def cards(catalogue: Catalogue, found: Sequence[tuple[int, float]]) -> str:
    """The results of a search, best first; a card's button carries its row."""
    return f'<ol class="cards">{"".join(_card(catalogue, *hit) for hit in found)}</ol>'


def _card(catalogue: Catalogue, row: int, score: float) -> str:
    title, picture, view = catalogue.title(row), catalogue.thumbnail(row), catalogue.view[row]
    name = escape(title or f"Product {catalogue.products.ids[row]}", quote=True)
    shown = f'<img src="{picture}" alt="">' if picture else '<div class="blank">no picture</div>'
    if view == "mm":
        more = f'<button type="button" data-row="{row}" aria-label="Heat-map of {name}">Heat-map</button>'
    else:
        more = f'<span class="lacks">{PRODUCT_VIEWS[view]}</span>'
    # The scale of the bar is that of the cosine between vectors that point the same way: 0 to 1.
    width = 100 * min(max(score, 0), 1)
    return (
        f'<li class="card">{shown}<p class="title">{name}</p>'
        f'<p class="score"><span class="bar"><span style="width:{width:.1f}%"></span></span>'
        f'<span title="cosine similarity">{score:.3f}</span></p>{more}</li>'
    )


def query_panel(query: Query, share: float) -> str:
    """What kind of query it was, and which experts each view of it used."""
    what = f"Query: <strong>{QUERY_VIEWS[query.view]}</strong>"
    if query.view == "mm":
        what += f", {share:.0%} picture"
    notes = ""
    if query.cut is not None:
        notes = (
            f'<p class="problem">The text has {query.cut} tokens, more than the model reads: its end was left out.</p>'
        )
    experts = range(len(next(iter(query.usage.values()))))
    head = "".join(f'<th scope="col">{expert + 1}</th>' for expert in experts)
    rows = "".join(
        f'<tr><th scope="row">{QUERY_VIEWS[view]}</th>{"".join(map(_share, query.usage[view]))}</tr>'
        for view in QUERY_VIEWS
        if view in query.usage
    )
    return (
        f'<div class="query"><p>{what}</p>{notes}<div class="scroll"><table><caption>Use of the experts</caption>'
        f'<thead><tr><th scope="col">Expert</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></div>'
    )


def _share(value: np.floating) -> str:
    return f'<td style="--share:{100 * value:.1f}%">{100 * value:.0f} %</td>'
