"""A product catalogue: what a source of one gives, its rows, and the folder in which `ingest` stores them checked."""

import json
import os
from array import array
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from datasets import Features, Value

from mbe2_dataset.catalogue.pictures import Picture, StoredPicture
from mbe2_dataset.errors import CatalogueError
from mbe2_dataset.parallel import key_of
from mbe2_dataset.schema import CATALOGUE, OPTIONAL

SPLITS = ("train", "validation", "test")
# The files of a stored catalogue. `SUMMARY` is written last: without it a catalogue is not complete.
SUMMARY = "catalogue.json"
QUARANTINE = "quarantine.jsonl"
ASSIGNED = "assigned.arrow"
SHARED = "shared_pictures.jsonl"
PARTS = "parts"

# Rows that are read at a time, and parts of which a process keeps the texts mapped.
BLOCK = 256
MAPPED = 16

# The fields of a stored image, as `StoredPicture` takes them.
STORED = ("number", "path", "sha256", "perceptual_hash")
_PICTURE = {
    "number": Value("int32"),
    "path": Value("string"),
    "sha256": Value("string"),
    "perceptual_hash": Value("uint64"),
    "width": Value("int32"),
    "height": Value("int32"),
}
_TEXTS = {name: kind for name, kind in CATALOGUE.items() if name not in ("images", "split", "group_id")}
# A part's rows, as the source has them, and what was assigned to them when all parts were there; of the rows some are
# set aside only then.
PART_ROWS_SCHEMA = Features(
    {
        "where": Value("string"),
        **_TEXTS,
        **OPTIONAL,
        "split": Value("string"),
        "group_id": Value("string"),
        "pictures": [_PICTURE],
    }
).arrow_schema.remove_metadata()
ASSIGNED_SCHEMA = pa.schema({"split": pa.string(), "group_id": pa.string(), "kept": pa.bool_()})


@dataclass(frozen=True, slots=True)
class Item:
    """One product as its source has it.

    `record` has the columns of schema.CATALOGUE and OPTIONAL that the source knows. An image is `{"bytes", "path"}`,
    `{"path"}` (a file below the source's folder) or `{"url"}`. `changes` counts what was changed of the cells
    (`values.as_words`), and `faults` are the columns, with the reason, whose cells cannot be read and were left empty.
    """

    where: str
    record: dict
    changes: Mapping[str, int] = field(default_factory=dict)
    faults: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something of a source cannot be used: one row, or only its image `picture` or its cell in `column`."""

    where: str
    id: str | None
    reason: str
    picture: str | None = None
    column: str | None = None

    def line(self) -> str:
        """Return it as a line of a list of what was set aside."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


class Source(Protocol):
    """Products, in an order that is always the same.

    Attributes:
        name: for the card and for messages; no path of this machine.
        folder: where the files of images lie; None if the source has no such files.
    """

    name: str
    folder: Path | None

    def __iter__(self) -> Iterator[Item | Problem]: ...

    def fingerprint(self) -> str:
        """Return what changes with the files or the options of the source."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a catalogue. Rows of the same `group_id` sell the same product; `parent_id` is what they vary."""

    id: str
    title: str
    description: str | None
    brand: str | None
    category: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]
    price: float | None
    images: tuple[Picture, ...]
    split: str
    group_id: str
    noise: tuple[str, ...] = ()
    translations: dict[str, str] = field(default_factory=dict)
    parent_id: str | None = None

    def values(self) -> list[str]:
        """Return brand, attribute values and category leaf, once each, in the words of the title's language."""
        labels = [self.brand, *(value for _, value in self.attributes), *self.category[-1:]]
        return list(dict.fromkeys(self.translations.get(label, label) for label in labels if label))


class Catalogue:
    """A stored catalogue.

    Attributes:
        folder: where it is stored.
        summary: what is known of it, for cards and reports: "source", "options", "counts" (rows and images that came
            in, are here, and were set aside), "changes" (how many cells were changed, and how), "rows" of each split,
            "groups" and how they and the splits were made, the "largest_groups", and "shared_pictures".
    """

    def __init__(self, folder: str | Path) -> None:
        """Open it.

        Raises:
            CatalogueError: the folder holds no complete catalogue.
        """
        self.folder = Path(folder).absolute()
        try:
            self.summary: dict = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CatalogueError(f"{folder} holds no stored catalogue (it has no {SUMMARY}).") from None

    @cached_property
    def rows(self) -> "StoredRows":
        """Return all rows in the order of the source."""
        kept = read_stream(self.folder / ASSIGNED).column("kept").to_numpy()
        return StoredRows(self.folder, np.flatnonzero(kept).astype(np.int32))

    def shared_pictures(self) -> Iterator[dict]:
        """Yield the images that different products share, and that no row has: {"sha256", "picture", "products"}."""
        with open(self.folder / SHARED, encoding="utf-8") as file:
            yield from map(json.loads, file)

    def quarantine(self) -> Iterator[dict]:
        """Yield what was set aside: {"where", "id", "picture", "column", "reason"}.

        It is one image, one cell (of `column`), or the whole row.
        """
        with open(self.folder / QUARANTINE, encoding="utf-8") as file:
            yield from map(json.loads, file)


def part_records(folder: Path) -> Iterator[tuple[dict, Path]]:
    """Yield the records of PART_ROWS_SCHEMA of all parts below `folder`, each with the file of its images."""
    for part in sorted((folder / PARTS).glob("[0-9]*")):
        for batch in read_stream(part / "rows.arrow").to_batches():
            yield from ((record, part / "pictures.arrow") for record in batch.to_pylist())


def read_stream(path: Path) -> pa.Table:
    """Map an Arrow stream file into memory."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all()


class StoredRows(Sequence[Row]):
    """Rows of a stored catalogue, which are read when they are asked for: what is held, or pickled, are numbers.

    Args:
        folder: of the catalogue.
        numbers: (N,) which of its rows these are, counted over all parts.
    """

    def __init__(self, folder: Path, numbers: np.ndarray) -> None:
        self.folder, self.numbers = folder, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return StoredRows(self.folder, self.numbers[place])
        return _read(self.folder, self.numbers[[place]])[0]

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), BLOCK):
            yield from _read(self.folder, self.numbers[start : start + BLOCK])


def take(rows: Sequence[Row], numbers: np.ndarray) -> Sequence[Row]:
    """Return the rows at these places; those of a stored catalogue are not read yet."""
    if isinstance(rows, StoredRows):
        return StoredRows(rows.folder, rows.numbers[numbers])
    return [rows[number] for number in numbers.tolist()]


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split, and arrays of what triplets are planned from: there may be millions.

    Attributes:
        rows: read when they are asked for, if they are those of a stored catalogue.
        numbers: (N,) where they are among the rows of all splits.
        ids: (N,) their ids.
        groups: (N,) the numbers of their groups, in the order in which groups appear.
        paths: (N,) the places of their categories in `categories`.
    """

    rows: Sequence[Row]
    numbers: np.ndarray
    ids: pa.StringArray
    groups: np.ndarray
    paths: np.ndarray
    categories: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "SplitRows":
        """Read the rows of a single split."""
        (split,) = filter(len, read_splits(rows)[0].values())
        return split

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, places: np.ndarray) -> "SplitRows":
        """Return some of the rows."""
        ids = self.ids.take(pa.array(places))
        return replace(self, rows=take(self.rows, places), numbers=self.numbers[places], ids=ids,
                       groups=self.groups[places], paths=self.paths[places])  # fmt: skip


def read_splits(rows: Sequence[Row]) -> tuple[dict[str, SplitRows], dict[str, np.ndarray]]:
    """Return the rows of each split, and hashes (64 bits) of what no two splits may share (`facts_of`), sorted."""
    kinds = {"numbers": "i", "paths": "i", "groups": "Q", "facts": "Q"}
    columns = defaultdict(lambda: {name: array(kind) for name, kind in kinds.items()})
    ids: dict[str, list[pa.Array]] = defaultdict(list)
    block: dict[str, list[str]] = defaultdict(list)
    categories: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows):
        found = columns[row.split]
        block[row.split].append(row.id)
        found["numbers"].append(number)
        found["paths"].append(categories.setdefault(row.category, len(categories)))
        facts = list(map(fact_key, facts_of(row)))
        found["facts"].extend(facts)
        found["groups"].append(facts[1])
        if len(block[row.split]) == BLOCK:
            ids[row.split].append(pa.array(block.pop(row.split), pa.string()))
    splits = {}
    for name in SPLITS:
        found = columns[name]
        numbers, paths, hashes = (np.asarray(found[column]) for column in ("numbers", "paths", "groups"))
        _, first, groups = np.unique(hashes, return_index=True, return_inverse=True)
        groups = np.argsort(np.argsort(first))[groups].astype(np.int32)
        ended = pa.concat_arrays([*ids[name], pa.array(block[name], pa.string())])
        splits[name] = SplitRows(take(rows, numbers), numbers, ended, groups, paths, tuple(categories))
    return splits, {name: np.unique(np.asarray(found["facts"])) for name, found in columns.items()}


def facts_of(row: Row) -> list[tuple[str, str, str]]:
    """Return what another split must not have of a row: its kind, its value, and the name it is shown by."""
    pictures = (("picture", picture.sha256, f"{picture.path} ({row.id})") for picture in row.images)
    return [("product id", row.id, row.id), ("group id", row.group_id, row.group_id), *pictures]


def fact_key(fact: tuple[str, str, str]) -> int:
    """Hash the kind and value of a fact."""
    return key_of(f"{fact[0]} {fact[1]}")


class Ids(Container[str]):
    """Finds rows by their ids: 12 bytes a row are held."""

    def __init__(self, ids: pa.StringArray):
        hashes = np.fromiter((key_of(name.as_py()) for name in ids), "u8", len(ids))
        self._ids, self._order = ids, np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]

    def __call__(self, name: str) -> int | None:
        """Return the number of the row with this id; None if there is none."""
        place = int(np.searchsorted(self._hashes, np.uint64(key_of(name))))
        while place < len(self._hashes) and self._hashes[place] == key_of(name):
            if self._ids[int(self._order[place])].as_py() == name:
                return int(self._order[place])
            place += 1
        return None

    def __contains__(self, name: object) -> bool:
        return self(name) is not None


class _Opened(NamedTuple):
    """The parts of a catalogue, the number of the first row of each, what was assigned, and the images left out."""

    parts: list[Path]
    starts: np.ndarray
    assigned: pa.Table
    left_out: set[str]


@lru_cache(maxsize=2)
def _opened(folder: Path, modified: int) -> _Opened:
    parts = sorted((folder / PARTS).glob("[0-9]*"))
    starts = np.cumsum([0, *(len(read_stream(part / "rows.arrow")) for part in parts[:-1])])
    shared = {picture["sha256"] for picture in Catalogue(folder).shared_pictures()}
    return _Opened(parts, starts, read_stream(folder / ASSIGNED), shared)


@lru_cache(maxsize=MAPPED)
def _mapped(file: Path, modified: int) -> pa.RecordBatch:
    return read_stream(file).combine_chunks().to_batches()[0]


def _read(folder: Path, numbers: np.ndarray) -> list[Row]:
    """Read some rows; fastest are those that follow one another."""
    catalogue = _opened(folder, os.stat(folder / SUMMARY).st_mtime_ns)
    assigned = catalogue.assigned.take(pa.array(numbers)).to_pylist()
    parts = np.searchsorted(catalogue.starts, numbers, side="right") - 1
    records = []
    for run in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(parts)) + 1):
        part = catalogue.parts[parts[run[0]]]
        texts = _mapped(part / "rows.arrow", os.stat(part / "rows.arrow").st_mtime_ns)
        chosen = texts.take(pa.array(numbers[run] - catalogue.starts[parts[run[0]]])).to_pylist()
        records += [(record, part / "pictures.arrow") for record in chosen]
    return [
        _row(record, one["split"], one["group_id"], file, catalogue.left_out)
        for (record, file), one in zip(records, assigned, strict=True)
    ]


def _row(record: dict, split: str, group_id: str, file: Path, left_out: set[str]) -> Row:
    return Row(
        id=record["id"],
        title=record["title"],
        description=record["description"],
        brand=record["brand"],
        category=tuple(record["category"]),
        attributes=tuple((attribute["name"], attribute["value"]) for attribute in record["attributes"]),
        price=record["price"],
        images=tuple(
            StoredPicture(file, *map(found.get, STORED), size=(found["width"], found["height"]))
            for found in record["pictures"]
            if found["sha256"] not in left_out
        ),
        split=split,
        group_id=group_id,
        noise=tuple(record["noise"]),
        translations={pair["label"]: pair["text"] for pair in record["translations"]},
        parent_id=record["parent_id"],
    )
