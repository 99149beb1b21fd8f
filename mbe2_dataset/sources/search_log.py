"""Search logs joined to a catalogue: which of its items are right for a query, and which were shown and are not."""

import json
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from ..pictures import PICTURES_SCHEMA, Picture, StoredPicture, decode, perceptual_hash
from .contents import fetch_all, picture_name, picture_place, read_content
from .events import NEGATIVE, NEITHER, POSITIVE, Event
from .records import Problem

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


class _Query:
    """What is known of a query while its log is read."""

    __slots__ = ("image", "items", "split", "text")

    def __init__(self, text: str | None, image: Picture | None, split: str | None) -> None:
        self.text, self.image, self.split = text, image, split
        self.items: dict[str, list[int]] = {}  # id -> what is said, and how often it was shown


def join_log(
    events: Iterable[Event | Problem],
    items: Container[str],
    folder: str | Path,
    pictures: Path | None = None,
    allow_urls: bool = False,
    min_exposures: int = 1,
) -> SearchLog:
    """The queries of a log whose items are in the catalogue.

    Of several rows about a query and an item the best counts: bought before seen. Rows that cannot be used are written
    to `<folder>/log_quarantine.jsonl` with the reason, pictures of queries to `<folder>/query_pictures.arrow`.

    Args:
        items: the ids of the catalogue.
        folder: of work; made if it is not there.
        pictures: the folder in which paths of pictures of queries begin.
        allow_urls: pictures of queries may be fetched, one at a time.
        min_exposures: an item that was shown fewer times is not taken for a negative (our choice).
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
                quarantine.write(json.dumps(asdict(problem), ensure_ascii=False) + "\n")
                continue
            counts["rows_joined"] += 1
            said = queries[event.query].items.setdefault(event.item, [event.state, 0])
            said[0] = max(said[0], event.state)
            said[1] += event.exposures
    logged = [_logged(name, query, min_exposures) for name, query in queries.items()]
    kept = [query for query in logged if query.positives]
    counts |= Counter(queries=len(kept), queries_without_positive=len(logged) - len(kept))
    return SearchLog(kept, dict(counts))


def _refused(event: Event, items: Container[str], queries: dict[str, _Query]) -> tuple[str, Problem | None]:
    """Why a row cannot be used, as a short kind and as a problem; no problem if it can."""
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


def _logged(name: str, query: _Query, min_exposures: int) -> LoggedQuery:
    return LoggedQuery(
        name,
        query.text,
        query.image,
        tuple((item, state - NEITHER) for item, (state, _) in query.items.items() if state >= POSITIVE),
        tuple(item for item, (state, shown) in query.items.items() if state == NEGATIVE and shown >= min_exposures),
        query.split,
    )
