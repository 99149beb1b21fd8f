"""Tables on disk, read row by row: Parquet, CSV, TSV, JSON lines and JSON, the last four also as .gz."""

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mbe2_dataset.catalogue.columns import Columns
from mbe2_dataset.catalogue.store import Problem
from mbe2_dataset.catalogue.values import as_text
from mbe2_dataset.errors import CatalogueError

# A description of this length is read, which the csv module would otherwise refuse.
LONGEST_CELL = 2**27
DELIMITERS = ",;\t|"
PARQUET_ROWS = 64
PARQUET_BUFFER = 2**20

# What people call the splits that we know.
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
               "val": "validation", "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip

# A row, or why it cannot be read, after where it is.
Located = tuple[str, dict | Problem]


@dataclass(frozen=True, slots=True)
class Table:
    """One file or split: its columns, and its rows, of which only the given columns are read.

    Attributes:
        name: for messages.
        split: the data set's own name of the split, if it has one.
    """

    name: str
    columns: list[str]
    read: Callable[[list[str]], Iterator[Located]]
    split: str | None = None


def selected_rows(table: Table, columns: Columns, only: Mapping[str, str]) -> Iterator[tuple[str, dict | Problem]]:
    """Yield the rows whose columns `only` have the given values, with the columns that are needed.

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


class Tables(Protocol):
    """Tables that belong together. The paths in their cells begin in `folder`, if they are on disk."""

    name: str
    folder: Path | None

    def __iter__(self) -> Iterator[Table]: ...

    def fingerprint(self) -> str:
        """Return what changes with the files."""


class LocalTables:
    """The tables in a folder, or one file.

    Args:
        path: a folder, of which all files of a known kind are read in the order of their names (those in its
            subfolders if it has none itself), or such a file.
        encoding: of CSV, TSV and JSON. The default is UTF-8 with or without a byte order mark.

    Raises:
        CatalogueError: there is no such file. Iterating raises it for a file that cannot be read.
    """

    def __init__(self, path: str | Path, encoding: str = "utf-8-sig") -> None:
        self.path = Path(path)
        self.encoding = encoding
        self.name = self.path.resolve().name
        self.folder = self.path if self.path.is_dir() else self.path.parent
        if not self.path.exists():
            raise CatalogueError(f"There is no file or folder {self.path}.")
        try:
            "".encode(encoding)
        except LookupError:
            raise CatalogueError(f"There is no encoding {encoding!r}; usual ones are utf-8 and gb18030.") from None
        if self.path.is_file():
            self.files = [self.path]
        else:
            self.files = self._known("*") or self._known("**/*")
        if not self.files or _kind(self.files[0]) is None:
            raise CatalogueError(f"{self.path} holds no table: files of {', '.join('*' + kind for kind in _OPENERS)}.")

    def _known(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.path.glob(pattern) if path.is_file() and _kind(path) is not None)

    def __iter__(self) -> Iterator[Table]:
        for path in self.files:
            yield _OPENERS[_kind(path)](path, path.relative_to(self.folder).as_posix(), self.encoding)

    def fingerprint(self) -> str:
        """Hash the names, sizes and times of the folder's files, pictures too, or of the one file."""
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
    if path.name.startswith(".") or (name.endswith(".parquet") and name != path.name.lower()):
        return None
    return next((kind for kind in _OPENERS if name.endswith(kind)), None)


def _parquet(path: Path, name: str, encoding: str) -> Table:
    try:
        columns = pq.ParquetFile(path).schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise CatalogueError(f"{path} is not a readable Parquet file: {error}") from error

    def read(wanted: list[str]) -> Iterator[Located]:
        number = 0
        try:
            # with a buffer, row groups are read in pieces: some files have only one, of gigabytes
            with pq.ParquetFile(path, buffer_size=PARQUET_BUFFER) as file:
                for batch in file.iter_batches(PARQUET_ROWS, columns=wanted):
                    for record in batch.to_pylist():
                        yield f"row {number} of {name}", record
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise CatalogueError(f"{path} cannot be read after row {number}: {error}") from error

    return Table(name, columns, read)


def _open_text(path: Path, encoding: str) -> TextIO:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding=encoding, newline="")


def _reading(path: Path, encoding: str, rows: Iterator[Located]) -> Iterator[Located]:
    """Yield `rows`; a fault of the whole file becomes a sentence."""
    try:
        yield from rows
    except UnicodeError as error:
        raise CatalogueError(
            f"{path} is not {encoding.removesuffix('-sig')} ({error}): say what it is, for example --encoding gb18030."
        ) from error
    except (OSError, EOFError, csv.Error) as error:
        raise CatalogueError(f"{path} cannot be read: {error}") from error


def _csv(path: Path, name: str, encoding: str) -> Table:
    csv.field_size_limit(LONGEST_CELL)

    def lines(header_only: bool) -> Iterator[Located]:
        with _open_text(path, encoding) as file:
            first = file.readline()
            file.seek(0)
            tabs = ".tsv" in path.suffixes[-2:]
            delimiter = "\t" if tabs else max(DELIMITERS, key=first.count)
            reader = csv.reader(file, delimiter=delimiter)
            header = next(reader, [])
            if header_only:
                yield "", {"header": header}
                return
            for number, cells in enumerate(filter(None, reader)):
                where = f"row {number} of {name}"
                if len(cells) == len(header):
                    yield where, dict(zip(header, cells, strict=True))
                else:
                    reason = f"it has {len(cells)} cells, the header has {len(header)}"
                    yield where, Problem(where, None, reason)

    columns = [column for _, row in _reading(path, encoding, lines(True)) for column in row["header"]]
    if not columns:
        raise CatalogueError(f"{path} is empty: not even a line with the names of columns.")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise CatalogueError(f"{path} has several columns named {', '.join(map(repr, twice))}.")
    return Table(name, columns, lambda wanted: _reading(path, encoding, lines(False)))


def _json_lines(path: Path, name: str, encoding: str) -> Table:
    def lines() -> Iterator[Located]:
        with _open_text(path, encoding) as file:
            for number, line in enumerate(filter(str.strip, file)):
                where = f"row {number} of {name}"
                try:
                    record = json.loads(line)
                except ValueError as error:
                    yield where, Problem(where, None, f"its line is not JSON: {error}")
                    continue
                if isinstance(record, dict):
                    yield where, record
                else:
                    yield where, Problem(where, None, f"its line is a {type(record).__name__}, not an object")

    # Lines may leave out what is empty, so columns are those of the first hundred.
    columns: dict[str, None] = {}
    for number, (_, record) in enumerate(_reading(path, encoding, lines())):
        columns |= dict.fromkeys(record if isinstance(record, dict) else ())
        if number == 99:
            break
    return Table(name, list(columns), lambda wanted: _reading(path, encoding, lines()))


def _json(path: Path, name: str, encoding: str) -> Table:
    """Read a list of objects, or an object of objects by id, which get a column 'id'. It is read as a whole."""

    def objects() -> Iterator[Located]:
        with _open_text(path, encoding) as file:
            try:
                loaded = json.load(file)
            except json.JSONDecodeError as error:
                raise CatalogueError(f"{path} is not JSON: {error}. Files of JSON lines are named *.jsonl.") from error
        if isinstance(loaded, dict):
            loaded = [{"id": key, **value} if isinstance(value, dict) else value for key, value in loaded.items()]
        if not isinstance(loaded, list) or not all(isinstance(record, dict) for record in loaded):
            raise CatalogueError(f"{path} must hold a list of objects, or an object of objects by id.")
        yield from ((f"row {number} of {name}", record) for number, record in enumerate(loaded))

    rows = list(_reading(path, encoding, objects()))
    columns = dict.fromkeys(column for _, record in rows[:100] for column in record)
    return Table(name, list(columns), lambda wanted: iter(rows))


_OPENERS: dict[str, Callable[[Path, str, str], Table]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
}


class HubTables:
    """The splits of a data set, each a table.

    Args:
        path: `user/name`, or a folder.
        config: one of its configurations.
        split: one split only, also in the syntax of slices of `datasets`.
        revision: a branch, a tag or, to be sure of what is read, a commit.

    Raises:
        CatalogueError: it cannot be loaded; the message says why.
    """

    def __init__(
        self, path: str, config: str | None = None, split: str | None = None, revision: str | None = None
    ) -> None:
        self.path, self.config, self.split, self.revision = path, config, split, revision
        local = Path(path)
        self.folder = local if local.is_dir() else None
        self.name = local.resolve().name if self.folder else path
        try:
            builder = datasets.load_dataset_builder(path, config, revision=revision)
            loaded = datasets.load_dataset(path, config, split=split, revision=revision, streaming=True)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise CatalogueError(
                f"The data set {path!r} (config {config or 'default'}, split {split or 'all'}, revision "
                f"{revision or 'main'}) cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
        self._splits = {None: loaded} if split else dict(loaded)
        self._hash = builder.hash

    def __iter__(self) -> Iterator[Table]:
        for split, dataset in self._splits.items():
            dataset = dataset.decode(False)
            name = f"split {split or self.split} of {self.name}"
            # Streams of CSV and JSON do not know their columns beforehand; they hold no pictures.
            kinds = dict(dataset.features or dict.fromkeys(next(iter(dataset), {})))
            yield Table(name, list(kinds), lambda wanted, d=dataset, n=name, k=kinds: _rows(d, n, k, wanted), split)

    def fingerprint(self) -> str:
        """Hash the files of a folder; otherwise name the commit, as `datasets` does."""
        options = (self.path, self.config, self.split, self.revision, self._hash)
        return files_fingerprint(self.folder, *options[1:]) if self.folder else repr(options)


def _rows(dataset: datasets.IterableDataset, name: str, kinds: dict, wanted: list[str]) -> Iterator[Located]:
    for number, record in enumerate(dataset.select_columns(wanted)):
        where = f"row {number} of {name}"
        try:
            yield where, {column: _with_bytes(value, kinds[column]) for column, value in record.items()}
        except (OSError, ValueError) as error:
            yield where, Problem(where, None, f"its picture cannot be read: {error}")


def _with_bytes(value: object, kind: object) -> object:
    """Return the value with the bytes of its pictures, which streams leave in their files."""
    if value is None:
        return None
    if isinstance(kind, datasets.Image) and value.get("bytes") is None:
        with fsspec.open(value["path"], "rb") as file:
            return {"bytes": file.read(), "path": Path(value["path"]).name}
    if isinstance(kind, datasets.List):
        return [_with_bytes(entry, kind.feature) for entry in value]
    return value
