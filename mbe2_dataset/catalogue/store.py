"""A product catalogue: its rows, and the folder in which `ingest.ingest` stores one that was checked."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from datasets import Features, Value

from mbe2_dataset.catalogue.pictures import Picture, StoredPicture
from mbe2_dataset.schema import CATALOGUE, OPTIONAL

SPLITS = ("train", "validation", "test")
# The files of a stored catalogue. `SUMMARY` is written last: without it a catalogue is not complete.
SUMMARY = "catalogue.json"
QUARANTINE = "quarantine.jsonl"
ASSIGNED = "assigned.arrow"
PARTS = "parts"

_PICTURE = {
    "number": Value("int32"),
    "path": Value("string"),
    "sha256": Value("string"),
    "perceptual_hash": Value("uint64"),
    "width": Value("int32"),
    "height": Value("int32"),
}
_TEXTS = {name: kind for name, kind in CATALOGUE.items() if name not in ("images", "split", "group_id")}
# A part's rows, as the source has them, and what was assigned to them when all parts were there.
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
ASSIGNED_SCHEMA = pa.schema({"split": pa.string(), "group_id": pa.string()})


class CatalogueError(ValueError):
    """The catalogue cannot be used; the message says which file, row or column, and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One listing. Rows of the same `group_id` are listings of the same product; `parent_id` is what they vary."""

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
        """Brand, attribute values and category leaf in the words of the title's language, each once, in this order."""
        labels = [self.brand, *(value for _, value in self.attributes), *self.category[-1:]]
        return list(dict.fromkeys(self.translations.get(label, label) for label in labels if label))


class Catalogue:
    """A stored catalogue.

    Attributes:
        folder: where it is stored.
        summary: what is known of it, for cards and reports: "source", "options", "counts" (rows and pictures that came
            in, are here, and were set aside), "rows" of each split, "groups" and how they and the splits were made.
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
        """All rows in the order of the source. They hold texts only; pictures are read when they are asked for."""
        assigned = read_stream(self.folder / ASSIGNED)
        # Brands, categories and attributes occur again and again; one object of each is enough.
        known: dict = {}
        return [
            _row(record, split, group, file, known)
            for (record, file), split, group in zip(
                part_records(self.folder),
                assigned.column("split").to_pylist(),
                assigned.column("group_id").to_pylist(),
                strict=True,
            )
        ]

    def quarantine(self) -> Iterator[dict]:
        """What was set aside: {"where", "id", "picture", "reason"}; `picture` is None where it is a whole row."""
        with open(self.folder / QUARANTINE, encoding="utf-8") as file:
            yield from map(json.loads, file)


def part_records(folder: Path) -> Iterator[tuple[dict, Path]]:
    """The records of PART_ROWS_SCHEMA of all parts below `folder`, each with the file of its pictures."""
    for part in sorted((folder / PARTS).glob("[0-9]*")):
        for batch in read_stream(part / "rows.arrow").to_batches():
            yield from ((record, part / "pictures.arrow") for record in batch.to_pylist())


def read_stream(path: Path) -> pa.Table:
    """An Arrow stream file, mapped into memory."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all()


def _row(record: dict, split: str, group_id: str, file: Path, known: dict) -> Row:
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
            StoredPicture(
                file,
                picture["number"],
                picture["path"],
                picture["sha256"],
                picture["perceptual_hash"],
                (picture["width"], picture["height"]),
            )
            for picture in record["pictures"]
        ),
        split=shared(split),
        group_id=shared(group_id),
        noise=tuple(record["noise"]),
        translations={pair["label"]: pair["text"] for pair in record["translations"]},
        parent_id=record["parent_id"],
    )


def read_catalogue(folder: str | Path) -> list[Row]:
    """All rows of the tables in a folder, all of which must be in order; they are stored until this process ends.

    Raises:
        CatalogueError: something is wrong with one of them, or there are none for training or for testing.
    """
    from mbe2_dataset.catalogue import LocalTables, ProductSource
    from mbe2_dataset.catalogue.ingest import ingest  # it imports this module

    stored = tempfile.mkdtemp(prefix="mbe2-catalogue-")
    atexit.register(shutil.rmtree, stored, ignore_errors=True)
    catalogue = ingest(ProductSource(LocalTables(folder)), Path(stored) / "catalogue")
    for problem in catalogue.quarantine():
        picture = f" ({problem['picture']})" if problem["picture"] else ""
        raise CatalogueError(f"{problem['where']}, id {problem['id']!r}{picture}: {problem['reason']}.")
    for split in ("train", "test"):
        if not catalogue.summary["rows"][split]:
            raise CatalogueError(
                f"The catalogue {folder} has no row whose column 'split' is '{split}': triplets need train rows, "
                f"the benchmark needs test rows."
            )
    return catalogue.rows
