"""Search logs: what each row says about one query and one item.

ESCI's labels are read (E is positive, I negative, S and C are neither), other labels and grades, and counts of
purchases, clicks and exposures: bought is positive, shown and not bought is negative (MOON2.0, section 6), clicked and
not bought is neither. The last, and reading clicks as positive in a log without purchases, is our choice.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..catalogue import CatalogueError
from .columns import find_columns
from .products import SPLIT_NAMES, selected_rows
from .records import Problem
from .tables import Tables
from .values import as_pictures, as_text

# What is said about an item: from POSITIVE on, its grade is `state - NEITHER`. Of several rows the highest counts.
NEGATIVE, NEITHER, POSITIVE = 0, 1, 2

LOG_NAMES = {
    "query_id": ("query_id", "qid", "search_id"),
    "query": ("query", "query_text", "search_query", "search_term", "keyword", "搜索词", "查询词", "关键词"),
    "query_image": ("query_image", "query_image_url", "query_img"),
    "item": ("item", "item_id", "product_id", "sku", "asin", "doc_id", "商品id", "商品编号"),
    "label": ("esci_label", "label", "event", "action", "relevance", "grade", "gain"),
    "purchases": ("purchases", "purchase", "purchase_count", "orders", "order_count", "buys", "购买数", "购买次数"),
    "clicks": ("clicks", "click", "click_count", "点击数", "点击次数"),
    "exposures": ("exposures", "exposure", "exposure_count", "impressions", "views", "曝光数", "曝光次数"),
    "split": ("split",),
}
LABELS = {
    **dict.fromkeys(("e", "exact", "positive", "purchase", "purchased", "bought", "buy", "order", "true"), POSITIVE),
    **dict.fromkeys(("s", "substitute", "c", "complement", "click", "clicked", "cart"), NEITHER),
    **dict.fromkeys(("i", "irrelevant", "negative", "exposure", "impression", "view", "shown", "false"), NEGATIVE),
}


@dataclass(frozen=True, slots=True)
class Event:
    """A query, an item, and what is said about the two (NEGATIVE, NEITHER, or POSITIVE and above).

    `image` is a picture in one of the forms of `records.Item`. `exposures`: how often a NEGATIVE item was shown.
    """

    where: str
    query: str
    text: str | None
    image: dict | None
    item: str
    state: int
    exposures: int = 1
    split: str | None = None


def query_key(text: str | None, image: dict | None) -> str:
    """An id for a query that has none.

    Raises:
        ValueError: it has neither text nor picture.
    """
    if text is None and image is None:
        raise ValueError("its query has neither text nor picture")
    content = b"" if image is None else image.get("bytes") or str(image.get("url") or image.get("path")).encode()
    return "q-" + hashlib.blake2b((text or "").encode() + b"\0" + content, digest_size=8).hexdigest()


def log_events(
    tables: Tables, columns: Mapping[str, tuple[str, ...]] | None = None, only: Mapping[str, str] | None = None
) -> Iterator[Event | Problem]:
    """The events of a search log.

    Args:
        columns: which columns of theirs hold query_id, query, query_image, item, label, purchases, clicks, exposures
            and split, where they have no usual names.
        only: column -> value of the rows that are read: ESCI's product ids are unique in each `product_locale` only.

    Raises:
        CatalogueError: a needed column was not found; the message lists those that there are.
    """
    for table in tables:
        found = find_columns(table.columns, columns or {}, LOG_NAMES, ("item",), table.name)
        for alternatives in (("query", "query_image"), ("label", "purchases", "clicks")):
            if not any(name in found for name in alternatives):
                raise CatalogueError(
                    f"{table.name} has no column that is known to hold {' or '.join(alternatives)}; it has: "
                    f"{', '.join(map(repr, table.columns))}. Say which does, for example with --log_columns "
                    f"{alternatives[0]}=COLUMN."
                )
        for where, row in selected_rows(table, found, only or {}):
            if isinstance(row, Problem):
                yield row
                continue
            cells = {name: row.get(theirs[0]) for name, theirs in found.items()}
            try:
                yield _event(where, cells)
            except ValueError as error:
                yield Problem(where, None, str(error))


def _event(where: str, cells: Mapping[str, object]) -> Event:
    text = as_text(cells.get("query"))
    image = next(iter(as_pictures(cells.get("query_image"))), None)
    query = as_text(cells.get("query_id")) or query_key(text, image)
    item = as_text(cells.get("item"))
    if item is None:
        raise ValueError("it has no item")
    counts = {name: _count(name, cells[name]) for name in ("purchases", "clicks", "exposures") if name in cells}
    if "label" in cells:
        state = _labelled(as_text(cells["label"]))
    elif counts.get("purchases") or ("purchases" not in counts and counts["clicks"]):
        state = POSITIVE
    else:
        shown = counts.get("exposures", 1)
        state = NEGATIVE if shown and not counts.get("clicks") else NEITHER
    split = as_text(cells.get("split"))
    return Event(
        where,
        query,
        text,
        image,
        item,
        state,
        counts.get("exposures", 1),
        SPLIT_NAMES.get((split or "").lower(), split),
    )


def _labelled(label: str | None) -> int:
    known = LABELS.get((label or "").lower())
    if known is not None:
        return known
    try:
        grade = float(label or "")
    except ValueError:
        grade = -1
    if grade < 0 or not grade.is_integer():
        raise ValueError(f"its label {label!r} is neither a grade (0, 1, 2 ...) nor one of {', '.join(LABELS)}")
    return NEITHER + int(grade) if grade else NEGATIVE


def _count(name: str, value: object) -> int:
    text = as_text(value)
    try:
        count = int(float(text or 0))
    except ValueError:
        count = -1
    if count < 0:
        raise ValueError(f"its {name} are {text!r}, not a number of times")
    return count
