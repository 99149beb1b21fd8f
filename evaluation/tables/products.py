"""A table of products: any data set with an id column and texts, images or both."""

import csv
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from datasets.exceptions import DatasetsError

from common_moon2.cli import UserError
from common_moon2.source import cache_of, load_tables
from evaluation.arguments import FILE_KINDS

TEXTS = ("string", "large_string", "string_view", "null")
# view: what it shows
PARTS = {"own": (), "t": ("text",), "i": ("image",), "mm": ("text", "image")}


class Columns(NamedTuple):
    """The names of the columns; `None` where there is no such column. Rows without ids are counted from 0."""

    id: str | None = "id"
    text: str | None = "text"
    image: str | None = "image"


class Products:
    """N products, whose images stay encoded until they are asked for.

    Args:
        name: what errors call the table.
        folder: where the images of a column of file names lie.

    Attributes:
        ids: (N,) different strings.

    Raises:
        UserError: an id is missing or occurs twice.
    """

    def __init__(self, name: str, dataset: datasets.Dataset, columns: Columns = Columns(), folder: Path = Path()):  # noqa: B008 (neither can be changed)
        self.name, self.columns, self.folder = name, columns, folder
        if columns.image and isinstance(dataset.features[columns.image], datasets.Image):
            dataset = dataset.cast_column(columns.image, datasets.Image(decode=False))
        self.dataset = dataset
        self._shown = dataset.select_columns([column for column in columns if column])
        own = dataset[columns.id] if columns.id else range(len(dataset))
        self.ids = [None if value is None else str(value) for value in own]
        seen: dict[str, int] = {}
        for row, identifier in enumerate(self.ids):
            if identifier is None:
                raise UserError(f"Row {row} of {name} has no id.")
            if seen.setdefault(identifier, row) != row:
                raise UserError(f"Rows {seen[identifier]} and {row} of {name} have the same id {identifier!r}.")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def texts(self) -> list[str | None]:
        """Return the text of each row, `None` where there is none."""
        return self.texts_of(range(len(self)))

    @cached_property
    def images(self) -> list[str | None]:
        """Return for each row the SHA-256 of its image, `None` where there is none."""
        if self.columns.image is None:
            return [None] * len(self)
        batches = self._shown.select_columns(self.columns.image).with_format("arrow").iter(256)
        values = (value for batch in batches for value in batch.column(self.columns.image).to_pylist())
        return [_digest(self._image(value)) for value in values]

    @cached_property
    def groups(self) -> list[str] | None:
        """Return for each row its group, which is its id where the row has none; `None` if there is no such column."""
        if "group_id" not in self.dataset.column_names:
            return None
        return [group or own for group, own in zip(self.dataset["group_id"], self.ids, strict=True)]

    def texts_of(self, rows: Sequence[int]) -> list[str | None]:
        """Return the texts of some rows."""
        column = self.columns.text
        if column is None or not len(rows):
            return [None] * len(rows)
        # A blank text says as little as a missing one.
        found = self._shown.select_columns(column)[rows][column]
        return [text if text and text.strip() else None for text in found]

    def product(self, row: int, view: str = "own") -> dict:
        """Return the product dict of a row in a view; an image is one of the kinds that `load_picture` reads."""
        values = self._shown[row]
        text = values.get(self.columns.text)
        return {
            "text": text if view != "i" and text and text.strip() else None,
            "image": self._image(values.get(self.columns.image)) if view != "t" else None,
        }

    def rows(self, view: str) -> list[int]:
        """Return the rows that have all that a view ("t", "i" or "mm") shows."""
        has = {"text": self.texts, "image": self.images}
        found = [np.array([value is not None for value in has[part]], bool) for part in PARTS[view]]
        return np.flatnonzero(np.logical_and.reduce(found)).tolist()

    def have(self, part: str) -> bool:
        """Return whether any product has a "text", or an "image"."""
        return bool(getattr(self.columns, part)) and any(
            self.product(row)[part] is not None for row in range(len(self))
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 over ids, texts and images."""
        total = hashlib.sha256()
        for row, identifier in enumerate(self.ids):
            product = self.product(row)
            total.update(json.dumps([identifier, product["text"]]).encode("utf-8", "surrogatepass"))
            total.update(bytes.fromhex(_digest(product["image"]) or _digest_of(None)))
        return total.hexdigest()

    def digest(self, row: int, view: str = "own") -> str:
        """Return the SHA-256 of what a row shows in a view; of a file by its contents, of an address by its name."""
        product = self.product(row, view)
        image = product["image"]
        if isinstance(image, dict):
            image = image["path"] if image.get("bytes") is None else image["bytes"]
        if isinstance(image, str):
            image = Path(image).read_bytes() if Path(image).is_file() else image.encode("utf-8", "surrogatepass")
        seen = None if image is None else hashlib.sha256(image).hexdigest()
        return hashlib.sha256(json.dumps([product["text"], seen]).encode("utf-8", "surrogatepass")).hexdigest()

    def _image(self, value: Any) -> Any:
        if isinstance(value, dict) and value.get("bytes") is None and value.get("path") is None:
            return None
        if isinstance(value, str) and not value.startswith(("http://", "https://")):
            return str(self.folder / value)
        return value


class ProductView(Sequence):
    """Chosen rows in one view, as a sequence of products that encoders take.

    Attributes:
        text_lengths: the length of each product's text, known without reading images.
    """

    def __init__(self, products: Products, view: str, rows: Sequence[int]):
        self.products, self.view, self.rows = products, view, rows
        self._texts = [None] * len(rows) if view == "i" else products.texts_of(rows)
        self.text_lengths = [len(text or "") for text in self._texts]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.products.product(self.rows[index], self.view)

    @property
    def contents(self) -> list[tuple]:
        """Return what each product shows, the image by its digest: of equal contents the vectors are equal."""
        images = [None if self.view == "t" else self.products.images[row] for row in self.rows]
        return list(zip(self._texts, images, strict=True))

    def take(self, indices: Sequence[int]) -> "ProductView":
        """Return the view of some of the rows."""
        return ProductView(self.products, self.view, [self.rows[index] for index in indices])

    def describe(self, index: int) -> str:
        """Return what an error calls the product."""
        row = self.rows[index]
        return f"{self.products.name} row {row} (id {self.products.ids[row]!r})"

    def lacks(self, index: int) -> str | None:
        """Return what a product does not have of that which the view shows."""
        product = self[index]
        missing = [part for part in PARTS[self.view] if product[part] is None]
        if self.view == "own" and product["text"] is None and product["image"] is None:
            missing = ["text", "image"]
        return f"there is no {' and no '.join(missing)}" if missing else None


def open_products(
    source: str,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 (it cannot be changed)
) -> Products:
    """Open a table.

    Args:
        source: a Parquet, CSV, TSV, JSON or JSON Lines file, or folder or Hub id of a data set. All that a CSV or TSV
            file holds is text, so ids keep their leading zeros, and "NA" is a word; what is empty is not there.
        config: of a data set; by default "corpus", which MBE2.0-format sets have.
        split: by default the only one.

    Raises:
        UserError: it cannot be read, or lacks a column, or has texts that are no strings, or an id is missing
            or occurs twice.
    """
    path = Path(source)
    if path.suffix.lower() in FILE_KINDS:
        tables, folder = _load_file(path), path.parent
    else:
        tables, folder = load_tables(source, config or "corpus", revision), path
    if split is None and len(tables) > 1:
        raise UserError(f"{source} has the splits {', '.join(tables)}: choose one with --split.")
    split = split or next(iter(tables))
    if split not in tables:
        raise UserError(f"{source} has no split {split!r}; it has: {', '.join(tables)}.")
    dataset = tables[split]
    for kind, column in columns._asdict().items():
        if column and column not in dataset.column_names:
            found = ", ".join(dataset.column_names)
            none = "" if kind == "id" else f', or --{kind}_column "" if it has no {kind}s'
            raise UserError(
                f"{source} has no column {column!r}; it has: {found}. Name another with --{kind}_column{none}."
            )
    if columns.text and getattr(dataset.features[columns.text], "dtype", None) not in TEXTS:
        raise UserError(
            f"The column {columns.text!r} of {source} holds {dataset.features[columns.text]}, not texts: write them "
            "as strings, or name another with --text_column."
        )
    return Products(source, dataset, columns, folder)


def read_table(source: str, config: str, columns: Sequence[str]) -> dict[str, list]:
    """Return columns of a table: a file, or a configuration of a data set, whose splits are read one after another.

    Raises:
        UserError: it cannot be read, or lacks a column.
    """
    path = Path(source)
    tables = _load_file(path) if path.suffix.lower() in FILE_KINDS else load_tables(source, config)
    table = datasets.concatenate_datasets(list(tables.values()))
    for column in columns:
        if column not in table.column_names:
            raise UserError(f"{source} has no column {column!r}; it has: {', '.join(table.column_names)}.")
    return {column: list(table[column]) for column in columns}


def _load_file(path: Path) -> datasets.DatasetDict:
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        kind = FILE_KINDS[path.suffix.lower()]
        options = _as_strings(path) if kind == "csv" else {}
        return datasets.load_dataset(kind, data_files=str(path), cache_dir=cache_of(path), **options)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read as a table: {reason}") from error


def _as_strings(path: Path) -> dict:
    """Return options to read a CSV or TSV file without guessing at types; only what is empty is `None`."""
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


def _digest(image: Any) -> str | None:
    """Return the SHA-256 of an image where the table holds it, otherwise that of its path, size and time of change."""
    if isinstance(image, dict):
        if image.get("bytes") is not None:
            return hashlib.sha256(image["bytes"]).hexdigest()
        image = image["path"]
    return None if image is None else _digest_of(image)


def _digest_of(path: Any) -> str:
    file = Path(str(path))
    state = file.stat() if file.is_file() else None
    return hashlib.sha256(repr((path, state and (state.st_size, state.st_mtime_ns))).encode()).hexdigest()
