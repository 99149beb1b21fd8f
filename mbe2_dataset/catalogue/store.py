"""A product catalogue: what a source of one gives, its rows, and the folder in which `ingest` stores them checked."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from datasets import Features, Value

from mbe2_dataset.catalogue.pictures import Picture, StoredPicture
from mbe2_dataset.errors import CatalogueError
from mbe2_dataset.schema import CATALOGUE, OPTIONAL

SPLITS = ("train", "validation", "test")
# The files of a stored catalogue. `SUMMARY` is written last: without it a catalogue is not complete.
SUMMARY = "catalogue.json"
QUARANTINE = "quarantine.jsonl"
ASSIGNED = "assigned.arrow"
SHARED = "shared_pictures.jsonl"
PARTS = "parts"

# The fields of a stored picture, as `StoredPicture` takes them.
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

    `record` has the columns of schema.CATALOGUE and OPTIONAL that the source knows. A picture is `{"bytes", "path"}`,
    `{"path"}` (a file below the source's folder) or `{"url"}`. `changes` counts what was changed of the cells
    (`values.as_words`), and `faults` are the columns, with the reason, whose cells cannot be read and were left empty.
    """

    where: str
    record: dict
    changes: Mapping[str, int] = field(default_factory=dict)
    faults: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something of a source cannot be used: one row, or only its picture `picture` or its cell in `column`."""

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
        folder: where the files of pictures lie; None if the source has no such files.
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
        summary: what is known of it, for cards and reports: "source", "options", "counts" (rows and pictures that came
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
    def rows(self) -> list[Row]:
        """Return all rows in the order of the source. They hold texts; pictures are read when they are asked for."""
        assigned = read_stream(self.folder / ASSIGNED)
        shared = {picture["sha256"] for picture in self.shared_pictures()}
        # Brands, categories and attributes occur again and again; one object of each is enough.
        known: dict = {}
        return [
            _row(record, split, group, file, known, shared)
            for (record, file), split, group, kept in zip(
                part_records(self.folder),
                assigned.column("split").to_pylist(),
                assigned.column("group_id").to_pylist(),
                assigned.column("kept").to_pylist(),
                strict=True,
            )
            if kept
        ]

    def shared_pictures(self) -> Iterator[dict]:
        """Yield the pictures that different products share, and that no row has: {"sha256", "picture", "products"}."""
        with open(self.folder / SHARED, encoding="utf-8") as file:
            yield from map(json.loads, file)

    def quarantine(self) -> Iterator[dict]:
        """Yield what was set aside: {"where", "id", "picture", "column", "reason"}.

        It is one picture, one cell (of `column`), or the whole row.
        """
        with open(self.folder / QUARANTINE, encoding="utf-8") as file:
            yield from map(json.loads, file)


def part_records(folder: Path) -> Iterator[tuple[dict, Path]]:
    """Yield the records of PART_ROWS_SCHEMA of all parts below `folder`, each with the file of its pictures."""
    for part in sorted((folder / PARTS).glob("[0-9]*")):
        for batch in read_stream(part / "rows.arrow").to_batches():
            yield from ((record, part / "pictures.arrow") for record in batch.to_pylist())


def read_stream(path: Path) -> pa.Table:
    """Map an Arrow stream file into memory."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all()


def _row(record: dict, split: str, group_id: str, file: Path, known: dict, left_out: set[str]) -> Row:
    def shared(value: object) -> object:
        return known.setdefault(value, value)

    pairs = [(shared(attribute["name"]), shared(attribute["value"])) for attribute in record["attributes"]]
    return Row(
        id=record["id"],
        title=record["title"],
        description=record["description"],
        brand=shared(record["brand"]),
        category=shared(tuple(record["category"])),
        attributes=tuple(map(shared, pairs)),
        price=record["price"],
        images=tuple(
            StoredPicture(file, *map(found.get, STORED), size=(found["width"], found["height"]))
            for found in record["pictures"]
            if found["sha256"] not in left_out
        ),
        split=shared(split),
        group_id=shared(group_id),
        noise=tuple(record["noise"]),
        translations={pair["label"]: pair["text"] for pair in record["translations"]},
        parent_id=record["parent_id"],
    )
