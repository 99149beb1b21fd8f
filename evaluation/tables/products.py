"""A table of items to embed: any data set with an id column and texts, pictures or both."""

import csv
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets.exceptions import DatasetsError

from common_moon2.source import load_tables
from evaluation.errors import EvaluationError

FILE_KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
VIEWS = ("own", "t", "i", "mm")
TEXTS = ("string", "large_string", "string_view", "null")


class Columns(NamedTuple):
    """The names of the columns; `None` where there is no such column."""

    id: str = "id"
    text: str | None = "text"
    image: str | None = "image"


class Items:
    """N items, of which pictures stay encoded until they are asked for.

    Attributes:
        ids: (N,) different strings; fingerprint: SHA-256 over ids, texts and pictures.
    """

    def __init__(self, name: str, dataset: datasets.Dataset, columns: Columns, folder: Path):
        self.name, self.columns, self.folder = name, columns, folder
        for kind, column in columns._asdict().items():
            if column and column not in dataset.column_names:
                found = ", ".join(dataset.column_names)
                none = "" if kind == "id" else f', or --{kind}_column "" if it has no {kind}s'
                raise EvaluationError(
                    f"{name} has no column {column!r}; it has: {found}. Name another with --{kind}_column{none}."
                )
        dataset = dataset.select_columns([column for column in columns if column])
        if columns.image and isinstance(dataset.features[columns.image], datasets.Image):
            dataset = dataset.cast_column(columns.image, datasets.Image(decode=False))
        if columns.text and getattr(dataset.features[columns.text], "dtype", None) not in TEXTS:
            raise EvaluationError(
                f"The column {columns.text!r} of {name} holds {dataset.features[columns.text]}, not texts: write them "
                "as strings, or name another with --text_column."
            )
        self.dataset = dataset
        self.ids = [None if value is None else str(value) for value in dataset[columns.id]]
        seen: dict[str, int] = {}
        for row, identifier in enumerate(self.ids):
            if identifier is None:
                raise EvaluationError(f"Row {row} of {name} has no id.")
            if seen.setdefault(identifier, row) != row:
                raise EvaluationError(f"Rows {seen[identifier]} and {row} of {name} have the same id {identifier!r}.")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict:
        """`text` and `image` of a row, `None` where there is none."""
        values = self.dataset[row]
        text = values.get(self.columns.text)
        return {"text": text if text and text.strip() else None, "image": self._picture(values)}

    def have(self, part: str) -> bool:
        """Whether any item has a "text", or an "image"."""
        return bool(getattr(self.columns, part)) and any(self[row][part] is not None for row in range(len(self)))

    def _picture(self, values: dict) -> Any:
        picture = values.get(self.columns.image)
        if isinstance(picture, dict) and picture.get("bytes") is None and picture.get("path") is None:
            return None
        if isinstance(picture, str) and not picture.startswith(("http://", "https://")):
            return str(self.folder / picture)
        return picture

    def fingerprint(self) -> str:
        total = hashlib.sha256()
        for row, identifier in enumerate(self.ids):
            item = self[row]
            total.update(json.dumps([identifier, item["text"]]).encode("utf-8", "surrogatepass"))
            total.update(_digest(item["image"]))
        return total.hexdigest()


class Shown(Sequence):
    """Some rows in one view, as the sequence of products that encoders take."""

    def __init__(self, items: Items, view: str, rows: Sequence[int]):
        self.items, self.view, self.rows = items, view, rows
        column = items.columns.text
        texts = items.dataset.select_columns([column])[rows][column] if column and view != "i" else [None] * len(rows)
        self.text_lengths = [len(text or "") for text in texts]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        item = self.items[self.rows[index]]
        return {
            "text": None if self.view == "i" else item["text"],
            "image": None if self.view == "t" else item["image"],
        }

    def take(self, part: slice) -> "Shown":
        return Shown(self.items, self.view, self.rows[part])

    def describe(self, index: int) -> str:
        row = self.rows[index]
        return f"{self.items.name} row {row} (id {self.items.ids[row]!r})"

    def lacks(self, index: int) -> str | None:
        """What an item has not, of that which the view shows."""
        item = self.items[self.rows[index]]
        parts = {"own": (), "t": ("text",), "i": ("image",), "mm": ("text", "image")}[self.view]
        missing = [part for part in parts if item[part] is None]
        if self.view == "own" and item["text"] is None and item["image"] is None:
            missing = ["text", "image"]
        return f"there is no {' and no '.join(missing)}" if missing else None


def open_items(
    source: str,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 (it cannot be changed)
) -> Items:
    """Opens a table.

    Args:
        source: a Parquet, CSV, TSV, JSON or JSON Lines file, or folder or Hub id of a data set. All that a CSV or TSV
            file holds is text, so ids keep their leading zeros, and "NA" is a word; what is empty is not there.
        config: of a data set; by default "corpus", which MBE2.0-format sets have.
        split: by default the only one.

    Raises:
        EvaluationError: it cannot be read, or lacks a column, or has texts that are no strings, or an id is missing
            or occurs twice.
    """
    path = Path(source)
    if path.suffix.lower() in FILE_KINDS:
        tables, folder = _load_file(path), path.parent
    else:
        tables, folder = load_tables(source, config or "corpus", revision), path
    if split is None and len(tables) > 1:
        raise EvaluationError(f"{source} has the splits {', '.join(tables)}: choose one with --split.")
    split = split or next(iter(tables))
    if split not in tables:
        raise EvaluationError(f"{source} has no split {split!r}; it has: {', '.join(tables)}.")
    return Items(source, tables[split], columns, folder)


def _load_file(path: Path) -> datasets.DatasetDict:
    if not path.is_file():
        raise EvaluationError(f"There is no file {path}.")
    state = path.stat()
    # Kept by size and time: datasets would not notice that the file has changed.
    place = hashlib.sha256(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "evaluation" / place
    try:
        kind = FILE_KINDS[path.suffix.lower()]
        options = _as_strings(path) if kind == "csv" else {}
        return datasets.load_dataset(kind, data_files=str(path), cache_dir=str(cache), **options)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise EvaluationError(f"{path} cannot be read as a table: {reason}") from error


def _as_strings(path: Path) -> dict:
    """Options to read a CSV or TSV file without guessing at types; only what is empty is `None`."""
    options = {"sep": "\t" if path.suffix.lower() == ".tsv" else ","}
    csv.field_size_limit(sys.maxsize)  # pandas, which reads the file afterwards, has no limit either
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = filter(None, csv.reader(file, delimiter=options["sep"]))  # without blank lines, as pandas reads them
        header = next(rows, [])
        first = next(rows, header)
    if len(first) > len(header):  # the first field would be taken for a row's name
        raise ValueError("its first row has more fields than its header; put texts with separators in quotes")
    features = datasets.Features({name: datasets.Value("string") for name in header})
    return options | {"features": features, "keep_default_na": False, "na_values": [""]}


def _digest(picture: Any) -> bytes:
    """Contents where the table holds them, size and time of change where it holds a path."""
    if isinstance(picture, dict):
        if picture.get("bytes") is not None:
            return hashlib.sha256(picture["bytes"]).digest()
        picture = picture["path"]
    path = Path(str(picture))
    state = path.stat() if path.is_file() else None
    return hashlib.sha256(repr((picture, state and (state.st_size, state.st_mtime_ns))).encode()).digest()
