"""Products in tables of anybody's columns: folders, files, data sets of the Hub, and MBE (MOON2.0, section 6).

The columns of MBE v1 (`id, doc_title, doc_image, doc_industry_name, doc_cate1_name .. doc_cate4_name,
doc_attributes`) are among the usual names, and its attributes among the usual forms, so it needs no mapping.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mbe2_dataset.catalogue.columns import CATALOGUE_NAMES, Columns, find_columns
from mbe2_dataset.catalogue.records import Item, Problem
from mbe2_dataset.catalogue.store import CatalogueError
from mbe2_dataset.catalogue.tables import Table, Tables, files_fingerprint
from mbe2_dataset.catalogue.values import as_attributes, as_category, as_pictures, as_price, as_text

NEEDED = ("id", "title", "images")
# What people call the splits that we know.
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
               "val": "validation", "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip


class ProductSource:
    """The products of `tables`.

    Args:
        columns: which columns of theirs hold ours, where that is not to be guessed from usual names
            (`columns.parse_columns`). Several columns for 'category' are its levels, for 'attributes' attributes of
            these names; texts are joined by spaces.
        pictures: the folder in which paths of pictures begin; by default that of the tables.
        only: column -> value of the rows that are read; the others are passed over (e.g. one locale).

    Raises:
        CatalogueError: when iterated, if a table lacks a needed column; the message lists those that it has.
    """

    def __init__(
        self,
        tables: Tables,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        pictures: str | Path | None = None,
        only: Mapping[str, str] | None = None,
    ) -> None:
        self.tables = tables
        self.columns = dict(columns or {})
        self.only = dict(only or {})
        self.name = tables.name
        self.folder = tables.folder if pictures is None else Path(pictures)
        self._pictures = pictures

    def __iter__(self) -> Iterator[Item | Problem]:
        tables = list(self.tables)
        # A data set with one split says nothing about how to split it.
        named = len([table for table in tables if table.split]) > 1
        for table in tables:
            columns = find_columns(table.columns, self.columns, CATALOGUE_NAMES, NEEDED, table.name)
            split = SPLIT_NAMES.get((table.split or "").lower()) if named else None
            for where, row in selected_rows(table, columns, self.only):
                if isinstance(row, Problem):
                    yield row
                    continue
                try:
                    record = product_record(row, columns)
                except ValueError as error:
                    yield Problem(where, _known_id(row, columns), str(error))
                    continue
                if split is not None:
                    record.setdefault("split", split)
                yield Item(where, record)

    def fingerprint(self) -> str:
        parts = [self.tables.fingerprint(), repr(sorted(self.columns.items())), repr(sorted(self.only.items()))]
        if self._pictures is not None:
            parts.append(files_fingerprint(self.folder))
        return " ".join(parts)


def selected_rows(table: Table, columns: Columns, only: Mapping[str, str]) -> Iterator[tuple[str, dict | Problem]]:
    """The rows of a table whose columns `only` have the given values, with the columns that are needed.

    Raises:
        CatalogueError: a column of `only` is not there.
    """
    for name in only:
        if name not in table.columns:
            raise CatalogueError(
                f"{table.name} has no column {name!r} to select by; it has: {', '.join(table.columns)}."
            )
    wanted = list(dict.fromkeys([*(name for theirs in columns.values() for name in theirs), *only]))
    for where, row in table.read(wanted):
        if isinstance(row, Problem) or all(as_text(row.get(name)) == value for name, value in only.items()):
            yield where, row


def product_record(row: Mapping[str, object], columns: Columns) -> dict:
    """A row of anybody's table in the columns of a catalogue.

    Raises:
        ValueError: a cell has no clear meaning; the message names the column.
    """
    return {ours: _READERS[ours](ours, [(name, row.get(name)) for name in theirs]) for ours, theirs in columns.items()}


Cells = list[tuple[str, object]]


def _cell(name: str, read: Callable[..., object], *arguments: object) -> object:
    try:
        return read(*arguments)
    except ValueError as error:
        raise ValueError(f"column {name!r}: {error}") from error


def _text(ours: str, cells: Cells) -> str | None:
    texts = [
        _cell(name, as_text, " ".join(map(str, value)) if isinstance(value, list) else value) for name, value in cells
    ]
    return " ".join(filter(None, texts)) or None


def _split(ours: str, cells: Cells) -> str | None:
    text = _text(ours, cells)
    return SPLIT_NAMES.get((text or "").lower(), text)


def _category(ours: str, cells: Cells) -> list[str]:
    if len(cells) == 1:
        return _cell(cells[0][0], as_category, cells[0][1])
    return [text for name, value in cells if (text := _cell(name, as_text, value))]


def _attributes(ours: str, cells: Cells) -> list[dict[str, str]]:
    alone = len(cells) == 1
    return [pair for name, value in cells for pair in _cell(name, as_attributes, value, None if alone else name)]


def _price(ours: str, cells: Cells) -> float | None:
    return next((price for name, value in cells if (price := _cell(name, as_price, value)) is not None), None)


def _images(ours: str, cells: Cells) -> list[dict[str, object]]:
    return [picture for name, value in cells for picture in _cell(name, as_pictures, value)]


def _as_it_is(ours: str, cells: Cells) -> object:
    return cells[0][1] or []


_READERS: dict[str, Callable[[str, Cells], object]] = {
    **dict.fromkeys(CATALOGUE_NAMES, _text),
    "split": _split,
    "category": _category,
    "attributes": _attributes,
    "price": _price,
    "images": _images,
    "noise": _as_it_is,
    "translations": _as_it_is,
}


def _known_id(row: Mapping[str, object], columns: Columns) -> str | None:
    try:
        return _text("id", [(name, row.get(name)) for name in columns["id"]])
    except ValueError:
        return None
