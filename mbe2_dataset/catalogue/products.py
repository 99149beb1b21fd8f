"""Products in tables with anybody's columns, in files of triplets, and in two data sets as their authors publish them.

The columns of MBE v1 (`id, doc_title, doc_image, doc_industry_name, doc_cate1_name .. doc_cate4_name,
doc_attributes`; MOON2.0, section 6) are among the usual names, and its attributes among the usual forms.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from mbe2_dataset.catalogue.columns import CATALOGUE_NAMES, Columns, find_columns
from mbe2_dataset.catalogue.search_log import NEGATIVE, POSITIVE, Event, query_key
from mbe2_dataset.catalogue.store import Item, Problem
from mbe2_dataset.catalogue.tables import SPLIT_NAMES, LocalTables, Table, Tables, files_fingerprint, selected_rows
from mbe2_dataset.catalogue.values import (
    UNDECIDED,
    Reading,
    as_attributes,
    as_category,
    as_pictures,
    as_price,
    as_text,
    as_words,
    decide,
    optional,
)
from mbe2_dataset.errors import CatalogueError

# What people read; of ids and groups not a character is changed.
WORDS = ("title", "description", "brand")
# Rows of a table from which it is decided how its columns are read.
SAMPLE = 1000


class ProductSource:
    """The products of `tables`.

    Args:
        columns: which columns of theirs hold ours, where they have no usual names (`columns.parse_columns`). Several
            columns for 'category' are its levels; for 'attributes' they are attributes of these names; texts are joined
            by spaces.
        pictures: the folder in which paths of pictures begin; by default that of the tables.
        only: column -> value of the rows that are read, e.g. one locale; the others are skipped.

    Raises:
        CatalogueError: when iterated, if a table lacks a needed column; the message lists those that it has.
    """

    names = CATALOGUE_NAMES
    needed = ("id", "title", "images")

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
        self._readings: dict[str, Reading] = {}

    def __iter__(self) -> Iterator[Item | Problem]:
        for where, row, columns, split in self._rows():
            if isinstance(row, Problem):
                yield row
                continue
            changes, faults = Counter(), []
            try:
                record = self._record(row, columns, changes, faults)
            except ValueError as error:
                yield Problem(where, _known_id(row, columns), str(error))
                continue
            if split is not None:
                record.setdefault("split", split)
            yield Item(where, record, changes, tuple(faults))

    def _rows(self) -> Iterator[tuple[str, dict | Problem, Columns, str | None]]:
        """Yield where a row is, the row, the columns of its table and the split that the table is named by."""
        tables: list[Table] = list(self.tables)
        # A data set with one split says nothing about how to split it.
        named = len([table for table in tables if table.split]) > 1
        for table in tables:
            columns = find_columns(table.columns, self.columns, self.names, self.needed, table.name)
            split = SPLIT_NAMES.get((table.split or "").lower()) if named else None
            self._readings = readings(table, columns)
            for where, row in selected_rows(table, columns, self.only):
                yield where, row, columns, split

    def _record(self, row: dict, columns: Columns, changes: Counter, faults: list) -> dict:
        return product_record(row, columns, self._readings, changes, faults)

    def fingerprint(self) -> str:
        """Return what changes with the files, the columns and the selection."""
        parts = [self.tables.fingerprint(), repr(sorted(self.columns.items())), repr(sorted(self.only.items()))]
        if self._pictures is not None:
            parts.append(files_fingerprint(self.folder))
        return " ".join(parts)


def readings(table: Table, columns: Columns) -> dict[str, Reading]:
    """Return how the columns of a table are read, decided from its first rows."""
    told = {kind: columns.get(kind, ()) for kind in ("category", "attributes", "price")}
    kinds = {theirs[0]: kind for kind, theirs in told.items() if len(theirs) == 1}
    rows = [row for _, row in islice(table.read(list(kinds)), SAMPLE) if isinstance(row, dict)] if kinds else []
    return {name: decide(kind, [row.get(name) for row in rows]) for name, kind in kinds.items()}


def product_record(
    row: Mapping[str, object],
    columns: Columns,
    readings: Mapping[str, Reading] | None = None,
    changes: Counter | None = None,
    faults: list[tuple[str, str]] | None = None,
) -> dict:
    """Return a row of anybody's table in the columns of a catalogue.

    Args:
        readings: how the columns of theirs are read (`readings`).
        changes: counts what was changed (`values.as_words`).
        faults: gets the columns, with the reason, of cells that cannot be read and that a product can do without.

    Raises:
        ValueError: a cell that a product needs has no clear meaning; the message names the column.
    """
    changes, faults = Counter() if changes is None else changes, [] if faults is None else faults

    def reading(name: str) -> Reading:
        return (readings or {}).get(name, UNDECIDED)

    def told(read: Callable[..., object], nothing: object, name: str, *arguments: object) -> object:
        return optional(read, row.get(name), *arguments, column=name, nothing=nothing, faults=faults)

    record: dict = {}
    for ours, theirs in columns.items():
        cells = [(name, row.get(name)) for name in theirs]
        if ours == "category" and len(theirs) == 1:
            record[ours] = told(as_category, [], theirs[0], reading(theirs[0]), changes)
        elif ours == "category":
            record[ours] = [text for name in theirs if (text := told(as_words, None, name, changes, "category"))]
        elif ours == "attributes":
            alone = len(theirs) == 1
            read = [told(as_attributes, [], name, None if alone else name, reading(name), changes) for name in theirs]
            record[ours] = [pair for pairs in read for pair in pairs]
        elif ours == "price":
            prices = (told(as_price, None, name, reading(name), changes) for name in theirs)
            record[ours] = next((price for price in prices if price is not None), None)
        elif ours == "images":
            record[ours] = [picture for name, value in cells for picture in _cell(name, as_pictures, value)]
        elif ours in ("noise", "translations"):
            record[ours] = cells[0][1] or []
        elif ours in WORDS:
            more = (changes, ours, ours != "description")
            texts = [_cell(name, as_words, _joined(value), *more) for name, value in cells]
            record[ours] = " ".join(filter(None, texts)) or None
        else:
            record[ours] = _text(cells)
    if "split" in record:
        record["split"] = SPLIT_NAMES.get((record["split"] or "").lower(), record["split"])
    return record


Cells = list[tuple[str, object]]


def _cell(name: str, read: Callable[..., object], *arguments: object) -> object:
    try:
        return read(*arguments)
    except ValueError as error:
        raise ValueError(f"column {name!r}: {error}") from error


def _joined(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _text(cells: Cells) -> str | None:
    return " ".join(filter(None, (_cell(name, as_text, _joined(value)) for name, value in cells))) or None


def _known_id(row: Mapping[str, object], columns: Columns) -> str | None:
    try:
        return _text([(name, row.get(name)) for name in columns["id"]])
    except ValueError:
        return None


# The authors' MBE2.0 and other files with one query, positive and negative to a row (MOON2.0, section 6). We do not
# know the column names of the published files; those that are not found need a mapping like `positive_title=...`.
ROLES = {"positive": ("positive_", "pos_"), "negative": ("negative_", "neg_")}
QUERY_NAMES = {
    "query_id": ("query_id", "qid"),
    "query_text": ("query_text", "query", "query_title", "search_query", "keyword"),
    "query_image": ("query_image", "query_images", "query_image_url", "query_img"),
    "split": ("split",),
}
PRODUCT_COLUMNS = tuple(name for name in CATALOGUE_NAMES if name not in ("split", "noise", "translations"))


class TripletSource(ProductSource):
    """The positives and negatives of a file of triplets, each product once. `events` are its queries.

    A product without an id column has a hash of its title and first picture as its id. It has the split of the triplet
    in which it is first.

    Args:
        columns: which columns of theirs hold ours: query_id, query_text, query_image, and positive_ and negative_ with
            the columns of a catalogue.
        pictures, only: as for `ProductSource`.
    """

    names = QUERY_NAMES | {
        f"{role}_{ours}": tuple(prefix + name for prefix in prefixes for name in CATALOGUE_NAMES[ours])
        for role, prefixes in ROLES.items()
        for ours in PRODUCT_COLUMNS
    }
    needed = ("positive_title", "positive_images")

    def __iter__(self) -> Iterator[Item | Problem]:
        seen = set()
        for where, row, columns, split in self._rows():
            if isinstance(row, Problem):
                yield row
                continue
            for role in ROLES:
                changes, faults = Counter(), []
                try:
                    record = _product(row, columns, role, changes, faults)
                except ValueError as error:
                    yield Problem(f"the {role} of {where}", None, str(error))
                    continue
                if record is not None and record["id"] not in seen:
                    seen.add(record["id"])
                    record |= {"split": split} if split else {}
                    yield Item(f"the {role} of {where}", record, changes, tuple(faults))

    def events(self) -> Iterator[Event | Problem]:
        """Yield what each query says about its positive and its negative."""
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
        for where, row, columns, split in super()._rows():
            if isinstance(row, dict) and "split" in columns:
                said = as_text(row[columns["split"][0]])
                split = SPLIT_NAMES.get((said or "").lower(), said)
            yield where, row, columns, split


def _product(
    row: Mapping[str, object], columns: Columns, role: str, changes: Counter | None = None, faults: list | None = None
) -> dict | None:
    """Return the record of one product of a triplet; None if the row has no such product."""
    own = {ours.removeprefix(f"{role}_"): theirs for ours, theirs in columns.items() if ours.startswith(f"{role}_")}
    record = product_record(row, own, None, changes, faults)
    if not record.get("title") and not record.get("images"):
        return None
    if not record.get("id"):
        picture = next(iter(record.get("images") or ()), {})
        content = picture.get("bytes") or str(picture.get("url") or picture.get("path")).encode()
        title = (record.get("title") or "").encode()
        record["id"] = hashlib.blake2b(title + b"\0" + content, digest_size=12).hexdigest()
    return record


class M5Product(ProductSource):
    """The products of a table of M5Product, one picture for each.

    Args:
        path: the JSON file, or a JSON lines, CSV or Parquet table, or a folder of them. JSON is read as a whole.
        pictures: the folder of `<item id>.jpg`; by default `images` beside the table.
        columns: which columns of theirs hold ours, where they have other names.

    Raises:
        CatalogueError: there is no such table or folder.
    """

    names = {
        "id": ("item_id", "id", "image_id"),
        "title": ("title", "caption", "text"),
        "attributes": ("pv", "table", "property", "attributes"),
        "category": ("category", "cate_name", "label", "cate_id"),
        "split": ("split",),
    }
    needed = ("id", "title")

    def __init__(
        self,
        path: str | Path,
        pictures: str | Path | None = None,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        encoding: str = "utf-8-sig",
    ) -> None:
        tables = LocalTables(path, encoding)
        super().__init__(tables, columns, tables.folder / "images" if pictures is None else pictures)
        self.name = "m5product"
        if not self.folder.is_dir():
            raise CatalogueError(
                f"There is no folder {self.folder} with the pictures of M5Product, <item id>.jpg: say where they are "
                f"(--pictures)."
            )

    def _record(self, row: dict, columns: Columns, changes: Counter, faults: list) -> dict:
        record = super()._record(row, columns, changes, faults)
        return {**record, "images": [{"path": f"{record['id']}.jpg"}]}

    def fingerprint(self) -> str:
        """Return what changes with the files and the columns."""
        return f"{self.tables.fingerprint()} {files_fingerprint(self.folder)} {sorted(self.columns.items())!r}"


LABELS = re.compile(r"(?P<kind>.+)_(?P<split>train|test)_detect_all\.txt")


class Fashion200K:
    """The products of Fashion200K (Han et al., ICCV 2017): those with the same id in the path are one.

    `labels/<category>_<train|test>_detect_all.txt` has lines of picture path, detection score and description between
    tabs; a path is `women/<category>/<subcategory>/<product id>/<product id>_<n>.jpeg` below the same folder. So say
    the project's README and its users' code; we have not seen the data themselves. The description of a product's first
    picture is its title; other ones are its description.

    Raises:
        CatalogueError: the folder has no label files; the message says what it has.
    """

    name = "fashion200k"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        labels = self.folder / "labels"
        self.files = [path for path in sorted(labels.glob("*.txt")) if LABELS.fullmatch(path.name)]
        if not self.files:
            found = sorted(path.name for path in (labels if labels.is_dir() else self.folder).glob("*"))[:20]
            raise CatalogueError(
                f"{folder} is no copy of Fashion200K: it lacks labels/*_train_detect_all.txt and "
                f"labels/*_test_detect_all.txt; {'labels' if labels.is_dir() else 'it'} has: "
                f"{', '.join(found) or 'nothing'}."
            )

    def __iter__(self) -> Iterator[Item | Problem]:
        for path in self.files:
            # 200,000 lines in ten files: small enough to bring a product's pictures together in memory.
            products: dict[str, Item] = {}
            for number, line in enumerate(_lines(path)):
                where = f"row {number} of labels/{path.name}"
                fields = line.split("\t")
                place = PurePosixPath(fields[0])
                if len(fields) != 3 or len(place.parts) < 3:
                    yield Problem(where, None, "it is not 'women/.../<id>/<file>', a score and a description with tabs")
                    continue
                self._add(products, where, place, fields[2].strip(), LABELS.fullmatch(path.name)["split"])
            yield from products.values()

    def fingerprint(self) -> str:
        """Return what changes with the files."""
        return files_fingerprint(self.folder)

    @staticmethod
    def _add(products: dict[str, Item], where: str, place: PurePosixPath, text: str, split: str) -> None:
        name = place.parent.name
        item = products.get(name)
        if item is None:
            levels = place.parts[:-2]
            category = [level.replace("_", " ") for level in levels]
            record = {"id": name, "title": text, "category": category, "images": [], "split": split, "group_id": name}
            item = products[name] = Item(where, record | {"description": None})
        item.record["images"].append({"path": place.as_posix()})
        told = item.record["description"]
        if text not in (item.record["title"], *(told or "").split("\n")):
            item.record["description"] = f"{told}\n{text}" if told else text


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from (line.rstrip("\r\n") for line in file if line.strip())
    except (OSError, UnicodeError) as error:
        raise CatalogueError(f"{path} cannot be read: {error}") from error
