"""Reads search logs: what each row says about one query and one product.

ESCI's labels are read (E is positive, I negative, S and C are neither), other labels and grades, and counts of
purchases, clicks and exposures: bought is positive, shown and not bought is negative (MOON2.0, section 6), clicked and
not bought is neither. The last, and reading clicks as positive in a log without purchases, is our choice.
"""

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from mbe2_dataset.catalogue.columns import LOG_NAMES, find_columns
from mbe2_dataset.catalogue.pictures import (
    PICTURES_SCHEMA,
    Picture,
    StoredPicture,
    decode,
    fetch_all,
    perceptual_hash,
    picture_name,
    picture_place,
    read_content,
)
from mbe2_dataset.catalogue.store import Problem
from mbe2_dataset.catalogue.tables import SPLIT_NAMES, Table, selected_rows
from mbe2_dataset.catalogue.values import NAMES, as_pictures, as_text
from mbe2_dataset.errors import CatalogueError

# What is said about an item: from POSITIVE on, its grade is `state - NEITHER`. Of several rows the highest counts.
NEGATIVE, NEITHER, POSITIVE = 0, 1, 2

STATES = {"negative": NEGATIVE, "neither": NEITHER, "positive": POSITIVE}
LABELS = {word: STATES[kind] for kind, words in NAMES["labels"].items() for word in words.split()}


@dataclass(frozen=True, slots=True)
class Event:
    """A query, an item, and what is said about the two (NEGATIVE, NEITHER, or POSITIVE and above).

    `image` is an image in one of the forms of `store.Item`. `exposures`: how often a NEGATIVE item was shown.
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
    """Return an id for a query that has none.

    Raises:
        ValueError: it has neither text nor image.
    """
    if text is None and image is None:
        raise ValueError("its query has neither text nor image")
    content = b"" if image is None else image.get("bytes") or str(image.get("url") or image.get("path")).encode()
    return "q-" + hashlib.blake2b((text or "").encode() + b"\0" + content, digest_size=8).hexdigest()


def log_events(
    tables: Iterable[Table],
    columns: Mapping[str, tuple[str, ...]] | None = None,
    only: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Iterator[Event | Problem]:
    """Yield the events of a search log.

    Args:
        columns: our column (`LOG_NAMES`) -> theirs, where they have no usual names.
        only: column -> value of the rows that are read: ESCI's product ids are unique in each `product_locale` only.
        texts: query id -> text, where another table has the texts.

    Raises:
        CatalogueError: a needed column was not found; the message lists those that there are.
    """
    for table in tables:
        found = find_columns(table.columns, columns or {}, LOG_NAMES, ("item",), table.name)
        for alternatives in (("query", "query_image"), ("label", "purchases", "clicks")):
            if not any(name in found for name in alternatives) and (texts is None or "query" not in alternatives):
                raise CatalogueError(
                    f"{table.name} has no column that is known to hold {' or '.join(alternatives)}; it has: "
                    f"{', '.join(map(repr, table.columns))}. Say which does, for example with --log_columns "
                    f"{alternatives[0]}=COLUMN."
                )
        for where, row in selected_rows(table, [name for theirs in found.values() for name in theirs], only or {}):
            if isinstance(row, Problem):
                yield row
                continue
            cells = {name: row.get(theirs[0]) for name, theirs in found.items()}
            try:
                yield _event(where, cells, texts or {})
            except ValueError as error:
                yield Problem(where, None, str(error))


def _event(where: str, cells: Mapping[str, object], texts: Mapping[str, str]) -> Event:
    text = as_text(cells.get("query")) or texts.get(as_text(cells.get("query_id")) or "")
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
    split = SPLIT_NAMES.get((split or "").lower(), split)
    return Event(where, query, text, image, item, state, counts.get("exposures", 1), split)


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


QUERY_PICTURES = "query_pictures.arrow"
LOG_QUARANTINE = "log_quarantine.jsonl"


@dataclass(frozen=True, slots=True)
class LoggedQuery:
    """A query with at least one right item, as (item id, grade from 1). `split` is None if the log has none."""

    id: str
    text: str | None
    image: Picture | None
    positives: tuple[tuple[str, int], ...]
    negatives: tuple[str, ...]
    split: str | None


@dataclass(frozen=True, slots=True)
class SearchLog:
    """Queries in the order of the log, and what became of its rows.

    `counts`: "rows_in", "rows_joined" and, of the others, how many there are for each reason; then "queries" and
    "queries_without_positive", which are left out.
    """

    queries: list[LoggedQuery]
    counts: dict[str, int]


@dataclass(slots=True)
class _Query:
    """What is known of a query while its log is read: of each item what is said, and how often it was shown."""

    text: str | None
    image: Picture | None
    split: str | None
    items: dict[str, list[int]] = field(default_factory=dict)


def join_log(
    events: Iterable[Event | Problem],
    items: Container[str],
    folder: str | Path,
    pictures: Path | None = None,
    allow_urls: bool = False,
    min_exposures: int = 1,
) -> SearchLog:
    """Return the queries of a log whose items are in the catalogue.

    Of several rows about a query and an item the best counts: bought before seen. Rows that cannot be used are written
    to `<folder>/log_quarantine.jsonl` with the reason, images of queries to `<folder>/query_pictures.arrow`.

    Args:
        items: the ids of the catalogue.
        pictures: the folder in which paths of images of queries begin; with `allow_urls` they may be addresses.
        min_exposures: an item that was shown fewer times is no negative (our choice).
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter(rows_in=0, rows_joined=0)
    queries: dict[str, _Query] = {}
    stored = folder / QUERY_PICTURES
    with (
        open(folder / LOG_QUARANTINE, "w", encoding="utf-8") as quarantine,
        pa.OSFile(str(stored), "wb") as file,
        pa.ipc.new_stream(file, PICTURES_SCHEMA) as writer,
    ):
        number = 0
        for event in tqdm(events, desc="read log", unit=" rows"):
            counts["rows_in"] += 1
            kind, problem = "unreadable", event
            if isinstance(event, Event):
                kind, problem = _refused(event, items, queries)
            if problem is None and event.query not in queries:
                image = None
                if event.image is not None:
                    try:
                        image, content = _stored(event, stored, number, pictures, allow_urls)
                        writer.write_batch(pa.RecordBatch.from_pydict({"bytes": [content]}, schema=PICTURES_SCHEMA))
                        number += 1
                    except ValueError as error:
                        place = picture_place(event.image)
                        kind, problem = "query_picture", Problem(event.where, event.query, str(error), place)
                if problem is None:
                    queries[event.query] = _Query(event.text, image, event.split)
            if problem is not None:
                counts[f"rows_{kind}"] += 1
                quarantine.write(problem.line())
                continue
            counts["rows_joined"] += 1
            said = queries[event.query].items.setdefault(event.item, [event.state, 0])
            said[0] = max(said[0], event.state)
            said[1] += event.exposures
    logged = [
        LoggedQuery(
            name,
            query.text,
            query.image,
            tuple((item, state - NEITHER) for item, (state, _) in query.items.items() if state >= POSITIVE),
            tuple(item for item, (state, shown) in query.items.items() if state == NEGATIVE and shown >= min_exposures),
            query.split,
        )
        for name, query in queries.items()
    ]
    kept = [query for query in logged if query.positives]
    counts |= Counter(queries=len(kept), queries_without_positive=len(logged) - len(kept))
    return SearchLog(kept, dict(counts))


def _refused(event: Event, items: Container[str], queries: dict[str, _Query]) -> tuple[str, Problem | None]:
    """Return why a row cannot be used, as a short kind and as a problem; no problem if it can."""
    if event.item not in items:
        return "item_unknown", Problem(event.where, event.query, f"its item {event.item!r} is not in the catalogue")
    known = queries.get(event.query)
    if known is not None and known.text != event.text:
        reason = f"the query {event.query!r} has the text {known.text!r} in another row, and {event.text!r} here"
        return "query_differs", Problem(event.where, event.query, reason)
    return "", None


def _stored(
    event: Event, file: Path, number: int, folder: Path | None, allow_urls: bool
) -> tuple[StoredPicture, bytes]:
    fetched = fetch_all([event.image["url"]] if "url" in event.image else [], 1) if allow_urls else None
    picture = Picture(read_content(event.image, folder, fetched), picture_name(event.image, event.query))
    image = decode(picture)
    found = StoredPicture(file, number, picture.path, picture.sha256, perceptual_hash(image), image.size)
    return found, picture.bytes
