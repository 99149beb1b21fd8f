"""The authors' MBE2.0 and other files of triplets, one query, positive and negative to a row (MOON2.0, section 6).

The column names of the published files are not known, so those that are not found go through a mapping like
`positive_title=...`. A file becomes the catalogue of all its products, each once, and a search log of its queries.
"""

import hashlib
from collections.abc import Iterator, Mapping

from mbe2_dataset.catalogue.columns import CATALOGUE_NAMES, Columns, find_columns
from mbe2_dataset.catalogue.products import SPLIT_NAMES, ProductSource, product_record, selected_rows
from mbe2_dataset.catalogue.records import Item, Problem
from mbe2_dataset.catalogue.search_log import NEGATIVE, POSITIVE, Event, query_key
from mbe2_dataset.catalogue.tables import Table
from mbe2_dataset.catalogue.values import as_pictures, as_text

ROLES = {"positive": ("positive_", "pos_"), "negative": ("negative_", "neg_")}
QUERY_NAMES = {
    "query_id": ("query_id", "qid"),
    "query_text": ("query_text", "query", "query_title", "search_query", "keyword"),
    "query_image": ("query_image", "query_images", "query_image_url", "query_img"),
    "split": ("split",),
}
PRODUCT_COLUMNS = tuple(name for name in CATALOGUE_NAMES if name not in ("split", "noise", "translations"))
TRIPLET_NAMES = QUERY_NAMES | {
    f"{role}_{ours}": tuple(prefix + name for prefix in prefixes for name in CATALOGUE_NAMES[ours])
    for role, prefixes in ROLES.items()
    for ours in PRODUCT_COLUMNS
}
NEEDED = ("positive_title", "positive_images")


class TripletSource(ProductSource):
    """The positives and negatives of a file of triplets, each product once. `events` are its queries.

    A product without an id column goes by a hash of its title and first picture. It has the split of the triplet in
    which it is first.

    Args:
        columns: which columns of theirs hold ours: query_id, query_text, query_image, and positive_ and negative_ with
            the columns of a catalogue.
        pictures, only: as for `ProductSource`.

    Raises:
        CatalogueError: when iterated, if a table lacks the title or picture of the positive.
    """

    def __iter__(self) -> Iterator[Item | Problem]:
        seen = set()
        for where, row, columns, split in self._rows():
            if isinstance(row, Problem):
                yield row
                continue
            for role in ROLES:
                try:
                    record = _product(row, columns, role)
                except ValueError as error:
                    yield Problem(f"the {role} of {where}", None, str(error))
                    continue
                if record is not None and record["id"] not in seen:
                    seen.add(record["id"])
                    yield Item(f"the {role} of {where}", record | ({"split": split} if split else {}))

    def events(self) -> Iterator[Event | Problem]:
        """What each query says about its positive and its negative."""
        for where, row, columns, split in self._rows():
            if isinstance(row, Problem):
                yield row
                continue
            try:
                query = {name: [row[column] for column in columns.get(name, ())][:1] for name in QUERY_NAMES}
                text = next(map(as_text, query["query_text"]), None)
                image = next((picture for value in query["query_image"] for picture in as_pictures(value)), None)
                key = next(map(as_text, query["query_id"]), None) or query_key(text, image)
                products = {role: _product(row, columns, role) for role in ROLES}
            except ValueError as error:
                yield Problem(where, None, str(error))
                continue
            for role, state in (("positive", POSITIVE), ("negative", NEGATIVE)):
                if products[role] is not None:
                    yield Event(where, key, text, image, products[role]["id"], state, split=split)

    def _rows(self) -> Iterator[tuple[str, dict | Problem, Columns, str | None]]:
        tables: list[Table] = list(self.tables)
        for table in tables:
            columns = find_columns(table.columns, self.columns, TRIPLET_NAMES, NEEDED, table.name)
            named = SPLIT_NAMES.get((table.split or "").lower()) if len(tables) > 1 else None
            for where, row in selected_rows(table, columns, self.only):
                split = named
                if isinstance(row, dict) and "split" in columns:
                    said = as_text(row[columns["split"][0]])
                    split = SPLIT_NAMES.get((said or "").lower(), said)
                yield where, row, columns, split


def _product(row: Mapping[str, object], columns: Columns, role: str) -> dict | None:
    """The record of one product of a triplet; None if the row has no such product."""
    own = {ours.removeprefix(f"{role}_"): theirs for ours, theirs in columns.items() if ours.startswith(f"{role}_")}
    record = product_record(row, own)
    if not record.get("title") and not record.get("images"):
        return None
    if not record.get("id"):
        record["id"] = _content_id(record)
    return record


def _content_id(record: dict) -> str:
    picture = next(iter(record.get("images") or ()), {})
    content = picture.get("bytes") or str(picture.get("url") or picture.get("path")).encode()
    return hashlib.blake2b((record.get("title") or "").encode() + b"\0" + content, digest_size=12).hexdigest()
