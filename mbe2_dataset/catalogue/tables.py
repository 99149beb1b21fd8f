"""Tables read row by row: Parquet, CSV, TSV, text, JSON lines, JSON, XML feeds and Excel, all but Parquet also as .gz.

What `datasets` has builders for is left to them: data sets on the Hub, folders of images and WebDataset.
"""

import csv
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, count, islice
from pathlib import Path
from xml.etree import ElementTree

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mbe2_dataset.catalogue.store import Problem
from mbe2_dataset.catalogue.texts import (
    faults_of,
    find_delimiter,
    find_encoding,
    has_bare_quotes,
    is_text_table,
    open_bytes,
    open_text,
)
from mbe2_dataset.catalogue.values import NAMES, PICTURE_FILE, as_text
from mbe2_dataset.errors import CatalogueError

DELIMITER_NAMES = {"\t": "tab", ",": "','", ";": "';'", "|": "'|'"}
PARQUET_ROWS = 64
PARQUET_BUFFER = 2**20
# More texts than these in a folder are no tables.
MOST_TEXTS = 100
# Lines may leave out what is empty, so columns are those of so many.
FIRST_ROWS = 2000
# Above the names of columns may stand a title, a date ...: so many rows are looked at.
TOP_ROWS = 20
# What no column is called: the file of an image, an address, a number with decimals.
NO_NAME = re.compile(rf"{PICTURE_FILE.pattern}|^https?://|^\d+[.,]\d+$", re.IGNORECASE)

# The column of `numbered`.
ROW = "#row"
# What people call the splits that we know.
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
               "val": "validation", "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip

# A row, or why it cannot be read, after where it is.
Located = tuple[str, dict | Problem]


@dataclass(frozen=True, slots=True)
class Table:
    """One file or split: its columns, and its rows, of which only the given columns are read.

    `split` is the data set's own name of it; `said` tells people how the file was read. Reading it `again` costs no
    download.
    """

    name: str
    columns: list[str]
    read: Callable[[list[str]], Iterator[Located]]
    split: str | None = None
    said: str = ""
    again: bool = True


def selected_rows(table: Table, columns: list[str], only: Mapping[str, str]) -> Iterator[Located]:
    """Yield the rows whose columns `only` have the given values, with those columns and the given ones.

    Raises:
        CatalogueError: a column of `only` is not there, or holds structures.
    """
    for name in only:
        if name not in table.columns:
            raise CatalogueError(
                f"{table.name} has no column {name!r} to select by; it has: {', '.join(table.columns)}."
            )
    for where, row in table.read(list(dict.fromkeys([*columns, *only]))):
        told = {} if isinstance(row, Problem) else {name: row[name] for name in only}
        if name := next((name for name in told if isinstance(told[name], (list, dict, bytes))), None):
            kind = type(told[name]).__name__
            raise CatalogueError(f"Column {name!r} of {where} holds a {kind}; --only needs one of texts or numbers.")
        if isinstance(row, Problem) or all(as_text(told[name]) == value for name, value in only.items()):
            yield where, row


def numbered(table: Table) -> Table:
    """Return a table with a further column ROW: the name of the table and the number of the row."""

    def read(wanted: list[str]) -> Iterator[Located]:
        rows = table.read([name for name in wanted if name != ROW] or table.columns[:1])
        for number, (where, row) in enumerate(rows):
            yield where, row if isinstance(row, Problem) else {**row, ROW: f"{table.name}#{number}"}

    return replace(table, columns=[*table.columns, ROW], read=read)


def open_tables(path: str | Path, encoding: str | None = None) -> "Tables":
    """Return the tables of a file or folder, by `datasets` if it has a builder for what the folder holds.

    Raises:
        CatalogueError: there is no such file, or none of a known kind.
    """
    path = Path(path)
    tars = [path] if path.name.endswith((".tar", ".tar.gz")) else _files(path, "*.tar") or _files(path, "**/*.tar")
    if tars:
        return HubTables(str(path), files=list(map(str, tars)), builder="webdataset")
    metadata = [found for found in _files(path, "**/metadata.*") if _names_its_files(found)]
    return HubTables(str(path), builder="imagefolder") if metadata else LocalTables(path, encoding)


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file()) if folder.is_dir() else []


def _names_its_files(path: Path) -> bool:
    """Tell whether a file is what `datasets` calls the metadata of a folder of images."""
    if _kind(path) is None:
        return False
    names = _OPENERS[_kind(path)](path, path.name, None).columns
    return any(name == "file_name" or name.endswith(("_file_name", "_file_names")) for name in names)


class LocalTables:
    """The tables in a folder, or one file.

    Args:
        path: a folder, of which all files of a known kind are read in the order of their names (those in its
            subfolders if it has none itself), or such a file.
        encoding: of text and JSON; by default what the file looks like.

    Raises:
        CatalogueError: there is no such file. Iterating raises it for a file that cannot be read.
    """

    def __init__(self, path: str | Path, encoding: str | None = None) -> None:
        self.path = Path(path)
        self.encoding = encoding
        self.name = self.path.resolve().name
        self.folder = self.path if self.path.is_dir() else self.path.parent
        if not self.path.exists():
            raise CatalogueError(f"There is no file or folder {self.path}.")
        try:
            "".encode(encoding or "utf-8")
        except LookupError:
            raise CatalogueError(f"There is no encoding {encoding!r}; usual ones are utf-8 and gb18030.") from None
        if self.path.is_file():
            self.files = [self.path]
        else:
            self.files = self._known("*") or self._known("**/*")
        if not self.files or _kind(self.files[0]) is None:
            raise CatalogueError(f"{self.path} holds no table: files of {', '.join('*' + kind for kind in _OPENERS)}.")

    def _known(self, pattern: str) -> list[Path]:
        """Return the tables that fit; a text or XML file beside others may be anything, so it must look like one."""
        found = [path for path in _files(self.path, pattern) if _kind(path) is not None]
        unsure = [path for path in found if _kind(path) in _LOOKED_AT]
        if len(unsure) > MOST_TEXTS:  # captions beside images
            return [path for path in found if path not in set(unsure)]
        return [path for path in found if path not in unsure or _LOOKED_AT[_kind(path)](path)]

    def __iter__(self) -> Iterator[Table]:
        yield from self._tables

    @cached_property
    def _tables(self) -> list[Table]:
        return [
            _OPENERS[_kind(path)](path, path.relative_to(self.folder).as_posix(), self.encoding) for path in self.files
        ]

    def fingerprint(self) -> str:
        """Hash the names, sizes and times of the folder's files, images too, or of the one file."""
        return files_fingerprint(self.path, self.encoding)


def files_fingerprint(path: Path, *more: object) -> str:
    """Hash the names, sizes and times of a file, or of all files below a folder, and `more`."""
    digest = hashlib.blake2b(repr(more).encode(), digest_size=16)
    if path.is_file():
        found = [(path.name, path.stat())]
    else:
        found = []
        for folder, folders, names in os.walk(path):
            folders.sort()
            found += [
                (os.path.relpath(place, path), os.stat(place))
                for place in (os.path.join(folder, name) for name in sorted(names))
                if os.path.exists(place)
            ]
    for name, stat in found:
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _kind(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    if path.name.startswith((".", "~$")) or (name.endswith((".parquet", ".xlsx")) and name != path.name.lower()):
        return None
    return next((kind for kind in _OPENERS if name.endswith(kind)), None)


def _parquet(path: Path, name: str, encoding: str | None) -> Table:
    try:
        columns = pq.ParquetFile(path).schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise CatalogueError(f"{path} is not a readable Parquet file: {error}") from error

    def read(wanted: list[str]) -> Iterator[Located]:
        number = 0
        try:
            # with a buffer, row groups are read in pieces: some files have only one, of gigabytes
            with pq.ParquetFile(path, buffer_size=PARQUET_BUFFER) as file:
                # One reader of all row groups would keep something of each that it has read.
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(PARQUET_ROWS, [group], columns=wanted):
                        for record in batch.to_pylist():
                            yield f"row {number} of {name}", record
                            number += 1
        except (pa.ArrowException, OSError) as error:
            raise CatalogueError(f"{path} cannot be read after row {number}: {error}") from error

    return Table(name, columns, read)


# Text


def _csv(path: Path, name: str, encoding: str | None) -> Table:
    encoding = encoding or find_encoding(path)
    delimiter = find_delimiter(path, encoding)
    quoting = csv.QUOTE_NONE if has_bare_quotes(path, encoding, delimiter) else csv.QUOTE_MINIMAL

    def cells_of_rows() -> Iterator[list[str]]:
        with faults_of(path, encoding), open_text(path, encoding) as file:
            reader = csv.reader(file, delimiter=delimiter, quoting=quoting)
            for cells in filter(None, reader):
                if reader.line_num > 1 or not re.fullmatch(r"sep=.?", delimiter.join(cells).strip()):
                    yield cells

    first = list(islice(cells_of_rows(), FIRST_ROWS))
    header, above, said = _header(path, first)
    # Spreadsheets end their lines with separators of empty columns; pandas gives none to its index.
    for place in (place for place, column in enumerate(header) if not column):
        if first[above + 1 :] and all(len(cells) > place and cells[place].strip() for cells in first[above + 1 :]):
            header[place] = f"column {place + 1}"
    places = {column: place for place, column in enumerate(header) if column}
    width = max(places.values()) + 1

    def read(wanted: list[str]) -> Iterator[Located]:
        chosen = [(column, places[column]) for column in wanted]
        for number, cells in enumerate(islice(cells_of_rows(), above + 1, None)):
            where = f"row {number} of {name}"
            if len(cells) == len(header) or (len(cells) >= width and not any(map(str.strip, cells[len(header) :]))):
                yield where, {column: cells[place] for column, place in chosen}
            else:
                lines = sum(cell.count("\n") for cell in cells)
                more = f"; it is {lines + 1:,} lines long, so a quote in it may not be closed" if lines > 9 else ""
                yield where, Problem(where, None, f"it has {len(cells)} cells, the header has {len(header)}{more}")

    unnamed = len(header) - len(places)
    said = [encoding.removesuffix("-sig"), f"separator {DELIMITER_NAMES.get(delimiter, delimiter)}", *said]
    said += [f"{unnamed} columns without a name left out"] if unnamed else []
    return Table(name, list(places), read, said=", ".join(said))


def _header(path: Path, rows: Sequence[Sequence[object]]) -> tuple[list[str], int, list[str]]:
    """Return the names of columns, how many rows stand above them, and what people should know of it.

    A row above has one or two cells, and the table's own more than twice as many. Of columns of one name the later ones
    get a number.

    Raises:
        CatalogueError: there is no such row; the first is already a product's.
    """
    filled = [sum(cell is not None and str(cell).strip() != "" for cell in row) for row in rows[:TOP_ROWS]]
    above = 0
    while above < len(filled) and filled[above] <= 2 and 2 * filled[above] < max(filled):
        above += 1
    header = ["" if cell is None else str(cell).strip() for cell in (rows[above] if above < len(rows) else ())]
    if not any(header):
        raise CatalogueError(f"{path} is empty: not even a line with the names of columns.")
    if value := next(filter(NO_NAME.search, header), None):
        raise CatalogueError(
            f"{path} has no line with the names of columns: the first has {value!r}. Put such a line above it, for "
            f"example id,title,image."
        )
    known, twice = set(header), []
    for place, name in enumerate(header):
        if name and name in header[:place]:
            number = next(number for number in count(2) if f"{name} {number}" not in known)
            twice += [] if name in twice else [name]
            header[place] = f"{name} {number}"
            known.add(header[place])
    said = [f"{above} line{'s' * (above > 1)} above the names of columns left out"] if above else []
    return header, above, said + [f"several columns named {', '.join(map(repr, twice))} numbered"] * bool(twice)


# JSON

WRAPPED = set(NAMES["wrapped"].split())


def _objects(value: object) -> Iterator[object]:
    """Yield the products in a value of JSON: itself, or those of a graph, a list, or of pages of an interface."""
    if not isinstance(value, dict):
        yield value
    elif isinstance(value.get("_source"), dict):  # of a search engine
        yield {"id": value.get("_id"), **value["_source"]}
    elif isinstance(value.get("@graph"), list):
        yield from chain.from_iterable(map(_objects, value["@graph"]))
    elif isinstance(value.get("itemListElement"), list) and value.get("@type") != "BreadcrumbList":
        yield from chain.from_iterable(map(_objects, value["itemListElement"]))
    elif value.get("@type") == "ListItem" and isinstance(value.get("item"), dict):
        yield from _objects(value.get("item"))
    elif isinstance(value.get("hasVariant"), list):
        group = {name: told for name, told in value.items() if name != "hasVariant"}
        known = {name: group[name] for name in ("productGroupID", "@id", "sku", "name") if group.get(name)}
        yield group
        yield from ({"isVariantOf": known, **variant} for variant in value["hasVariant"] if isinstance(variant, dict))
    else:
        yield value


def _listed(value: object) -> list | None:
    """Return the longest list of objects in a document of JSON, however it is wrapped."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    if "@graph" in value or "@type" in value:
        return [value]
    inner = [found for entry in value.values() if (found := _listed(entry)) and isinstance(found[0], dict)]
    return max(inner, key=len, default=None)


def _plain(value: dict) -> object:
    """Return the nodes of a connection of GraphQL, what MongoDB's {"$oid": ...} holds, else the object itself."""
    if len(value) == 1 and (key := next(iter(value))).startswith("$"):
        return value[key]
    if value and set(value) <= {"edges", "nodes", "pageInfo", "totalCount"}:
        return value["nodes"] if "nodes" in value else [edge.get("node") for edge in value.get("edges") or ()]
    return value


def _json(path: Path, name: str, encoding: str | None) -> Table:
    """Read JSON lines, a line at a time; or a document of JSON as a whole.

    A document is a list of objects, an object of objects by id, which get a column 'id', or what wraps a list.
    """
    encoding = encoding or find_encoding(path)

    def lines() -> Iterator[Located]:
        number = 0
        with faults_of(path, encoding), open_text(path, encoding) as file:
            for line in filter(str.strip, file):
                reason = None
                try:
                    found = list(_objects(json.loads(line, object_hook=_plain)))
                except ValueError as error:
                    found, reason = [None], f"its line is not JSON: {error}"
                for record in found:
                    where = f"row {number} of {name}"
                    number += 1
                    known = isinstance(record, dict)
                    said = reason or f"its line is a {type(record).__name__}, not an object"
                    yield where, record if known else Problem(where, None, said)

    def document() -> list[Located]:
        with faults_of(path, encoding), open_text(path, encoding) as file:
            try:
                loaded = json.load(file, object_hook=_plain)
            except json.JSONDecodeError as error:
                raise CatalogueError(f"{path} is not JSON: {error}. Files of JSON lines are named *.jsonl.") from error
        if isinstance(loaded, dict) and loaded and all(isinstance(entry, dict) for entry in loaded.values()):
            wraps = [not WRAPPED.isdisjoint(entry) and _listed(entry) for entry in loaded.values()]
            wraps = any(wraps) and (len(loaded) == 1 or not all(wraps))  # a list of products beside facts of the page
            loaded = _listed(loaded) if wraps else [{"id": key, **entry} for key, entry in loaded.items()]
        else:
            loaded = _listed(loaded)
        records = list(chain.from_iterable(map(_objects, loaded))) if loaded is not None else [None]
        if not all(isinstance(record, dict) for record in records):
            raise CatalogueError(f"{path} must hold a list of objects, or an object of objects by id.")
        return [(f"row {number} of {name}", record) for number, record in enumerate(records)]

    rows = lines if _is_json_lines(path, encoding) else partial(iter, document())
    return Table(name, _columns_of(rows()), partial(_chosen, rows), said=encoding.removesuffix("-sig"))


def _columns_of(rows: Iterator[Located]) -> list[str]:
    """Return the columns of the first rows; each may leave out what is empty."""
    return list(dict.fromkeys(name for _, row in islice(rows, FIRST_ROWS) if isinstance(row, dict) for name in row))


def _chosen(rows: Callable[[], Iterator[Located]], wanted: list[str]) -> Iterator[Located]:
    """Yield rows with the wanted columns; where a row leaves one out, it is None."""
    for where, row in rows():
        yield where, row if isinstance(row, Problem) else {name: row.get(name) for name in wanted}


def _is_json_lines(path: Path, encoding: str) -> bool:
    """Tell lines from a document, which some sets name alike: of lines, the first is whole."""
    if ".jsonl" in path.suffixes or ".ndjson" in path.suffixes:
        return True
    with faults_of(path, encoding), open_text(path, encoding) as file:
        lines = list(islice(filter(str.strip, file), 2))
    try:
        return len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False


# XML

XML_ROWS = set(NAMES["rows"].split())


def _is_feed(path: Path) -> bool:
    with faults_of(path), open_bytes(path) as file:
        head = file.read(2**16).decode("utf-8", "replace").lower()
    return any(re.search(rf"<(?:\w+:)?{tag}[\s>]", head) for tag in XML_ROWS)


def _xml(path: Path, name: str, encoding: str | None) -> Table:
    """Read the products of a feed, one at a time; an element that occurs again makes a list."""

    def rows() -> Iterator[Located]:
        number, row_tag, parents = 0, None, []
        with faults_of(path), open_bytes(path) as file:
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                tag = _local(element.tag)
                if event == "start":
                    if row_tag is None and tag.lower() in XML_ROWS:
                        row_tag = element.tag
                    parents.append(element)
                    continue
                parents.pop()
                if element.tag == row_tag and not any(parent.tag == row_tag for parent in parents):
                    yield f"row {number} of {name}", _fields(element)
                    number += 1
                    if parents:
                        parents[-1].clear()

    columns = _columns_of(rows())
    if not columns:
        raise CatalogueError(f"{path} holds no product: an element {', '.join(sorted(XML_ROWS))}.")
    return Table(name, columns, partial(_chosen, rows), said="XML")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _fields(element: ElementTree.Element) -> dict[str, object]:
    found: dict[str, list] = {_local(key): [value] for key, value in element.attrib.items()}
    # Google's fields stand beside those of RSS and Atom, and count before them.
    shop = {_local(child.tag) for child in element if child.tag.startswith("{http://base.google.com")}
    for child in element:
        if _local(child.tag) not in shop or child.tag.startswith("{http://base.google.com"):
            found.setdefault(_local(child.tag), []).append(_value(child))
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _value(element: ElementTree.Element) -> object:
    if len(element):
        return _fields(element)
    text = (element.text or "").strip()
    if "name" in element.attrib:  # <param name="Colour">Red</param>
        return {"name": element.attrib["name"], "value": " ".join(filter(None, [text, element.attrib.get("unit")]))}
    return text or element.attrib.get("href") or element.attrib.get("url")


# Excel


def _xlsx(path: Path, name: str, encoding: str | None) -> Table:
    """Read the first sheet that is not empty."""
    try:
        import openpyxl
    except ImportError:
        raise CatalogueError(
            f"{path} is an Excel file, which openpyxl reads: pip install 'moon2[excel]', or save it as CSV."
        ) from None

    def rows(title: str | None = None) -> Iterator[tuple[str, tuple]]:
        """Yield title and cells of the rows of all sheets, or of one, that are not empty."""
        try:
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CatalogueError(f"{path} is not a readable Excel file: {error}") from error
        with closing(book):
            for sheet in (sheet for sheet in book.worksheets if title in (None, sheet.title)):
                cells_of_rows = (tuple(map(_shown, row)) for row in sheet.iter_rows())
                yield from ((sheet.title, row) for row in cells_of_rows if any(cell is not None for cell in row))

    title = next((title for title, _ in rows()), None)
    header, above, said = _header(path, [cells for _, cells in islice(rows(title), TOP_ROWS)])
    places = {column: place for place, column in enumerate(header) if column}

    def read(wanted: list[str]) -> Iterator[Located]:
        for number, (_, cells) in enumerate(islice(rows(title), above + 1, None)):
            found = {column: cells[places[column]] if places[column] < len(cells) else None for column in wanted}
            yield f"row {number} of {name}", found

    return Table(name, list(places), read, said=", ".join([f"sheet {title!r}", *said]))


def _shown(cell) -> object:
    """Return the value of a cell, a whole number with the zeros before it that its format shows."""
    value = cell.value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and set(cell.number_format) == {"0"}:
        return f"{value:.0f}".zfill(len(cell.number_format)) if len(cell.number_format) > 1 else value
    return value


_OPENERS: dict[str, Callable[[Path, str, str | None], Table]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _csv,
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".xml": _xml,
    ".xlsx": _xlsx,
}
_LOOKED_AT: dict[str, Callable[[Path], bool]] = {".txt": is_text_table, ".xml": _is_feed}


class HubTables:
    """The splits of a data set, each a table.

    Args:
        path: `user/name`, or a folder.
        config, split, revision: as of `datasets.load_dataset`; by default all splits of the newest revision.
        builder: of `datasets`, for files on disk.
        files: what the builder reads; by default all below `path`.

    Raises:
        CatalogueError: it cannot be loaded; the message says why.
    """

    def __init__(
        self,
        path: str,
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        builder: str | None = None,
        files: Sequence[str] | None = None,
    ) -> None:
        self.path, self.config, self.split, self.revision = path, config, split, revision
        local = Path(path)
        self.folder = local if local.is_dir() else local.parent if local.is_file() else None
        self.name = local.resolve().name if self.folder else path
        self._builder = builder
        where = {"data_files": list(files)} if files and local.is_file() else {"data_dir": path} if builder else {}
        try:
            told = (builder or path, config)
            self._hash = datasets.load_dataset_builder(*told, revision=revision, **where).hash
            loaded = datasets.load_dataset(*told, split=split, revision=revision, streaming=True, **where)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise CatalogueError(
                f"The data set {path!r} (config {config or 'default'}, split {split or 'all'}, revision "
                f"{revision or 'main'}) cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
        self._splits = {None: loaded} if split else dict(loaded)

    def __iter__(self) -> Iterator[Table]:
        for split, dataset in self._splits.items():
            dataset = dataset.decode(False)
            name = f"split {split or self.split} of {self.name}"
            # Streams of CSV and JSON do not know their columns beforehand; they hold no images.
            kinds = dict(dataset.features or dict.fromkeys(next(iter(dataset), {})))
            said = f"read as {self._builder} by datasets" if self._builder else "read by datasets"
            spread = self._builder == "webdataset"
            read = partial(_rows, dataset, name, kinds, spread)
            columns = list(kinds)
            if spread:
                rows = partial(read, [])
                columns, read = _columns_of(rows()), partial(_chosen, rows)
            yield Table(name, columns, read, split, said, again=self.folder is not None)

    def fingerprint(self) -> str:
        """Hash the files of a folder; otherwise name the commit, as `datasets` does."""
        options = (self.path, self.config, self.split, self.revision, self._hash)
        return files_fingerprint(Path(self.path), *options[1:]) if self.folder else repr(options)


def _rows(dataset: datasets.IterableDataset, name: str, kinds: dict, spread: bool, wanted: list[str]):
    """Yield the rows of a split; with `spread` all columns, and as further ones the fields of WebDataset's JSON."""
    for number, record in enumerate(dataset.select_columns(list(kinds) if spread else wanted)):
        where = f"row {number} of {name}"
        try:
            row = {column: _with_bytes(value, kinds[column]) for column, value in record.items()}
        except (OSError, ValueError) as error:
            yield where, Problem(where, None, f"its image cannot be read: {error}")
            continue
        inner = row.pop("json", None) if spread else None
        yield where, {**inner, **row} if isinstance(inner, dict) else row


def _with_bytes(value: object, kind: object) -> object:
    """Return the value with the bytes of its images, which streams leave in their files."""
    if value is None:
        return None
    if isinstance(kind, datasets.Image) and value.get("bytes") is None:
        with fsspec.open(value["path"], "rb") as file:
            return {"bytes": file.read(), "path": Path(value["path"]).name}
    if isinstance(kind, datasets.List):
        return [_with_bytes(entry, kind.feature) for entry in value]
    return value


# Tables that belong together. The paths in their cells begin in `folder`, if they are on disk.
Tables = LocalTables | HubTables
