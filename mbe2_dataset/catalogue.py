"""Reads and checks a product catalogue: a folder of Parquet files in the schema `CATALOGUE`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .pictures import Picture, decode
from .schema import CATALOGUE, OPTIONAL

SPLITS = ("train", "validation", "test")
BATCH_ROWS = 500


class CatalogueError(ValueError):
    """The catalogue cannot be used; the message says which file, row or column, and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One listing. Rows of the same `group_id` are listings of the same product."""

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

    def values(self) -> list[str]:
        """Brand, attribute values and category leaf in the words of the title's language, each once, in this order."""
        labels = [self.brand, *(value for _, value in self.attributes), *self.category[-1:]]
        return list(dict.fromkeys(self.translations.get(label, label) for label in labels if label))


def read_catalogue(folder: str | Path) -> list[Row]:
    """All rows of `<folder>/*.parquet`, files in the order of their names; pictures stay encoded.

    Every picture is decoded once, to be sure that it can be. A row without a group is a group of its own.

    Raises:
        CatalogueError: at the first thing that is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CatalogueError(f"The catalogue {folder} is not a folder: give a folder of Parquet files, or 'synthetic'.")
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise CatalogueError(f"The catalogue {folder} holds no *.parquet file.")
    opened = [(path, _open(path)) for path in files]
    rows: list[Row] = []
    seen: dict[str, str] = {}
    with tqdm(total=sum(file.metadata.num_rows for _, file in opened), desc="read catalogue") as bar:
        for path, file in opened:
            for number, record in enumerate(_records(path, file)):
                row = _row(record, path, number)
                where = f"row {number} of {path.name}"
                if row.id in seen:
                    raise CatalogueError(
                        f"The id {row.id!r} occurs twice, in {seen[row.id]} and {where}: ids must be unique."
                    )
                seen[row.id] = where
                rows.append(row)
                bar.update()
    if not rows:
        raise CatalogueError(f"The catalogue {folder} is empty: its {len(files)} Parquet file(s) hold no row.")
    for split in ("train", "test"):
        if not any(row.split == split for row in rows):
            raise CatalogueError(
                f"The catalogue {folder} has no row whose column 'split' is '{split}': triplets need train rows, "
                f"the benchmark needs test rows."
            )
    return rows


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CatalogueError(f"{path} is not a readable Parquet file: {error}") from error
    found = file.schema_arrow.names
    for column in CATALOGUE:
        if column not in found:
            raise CatalogueError(f"{path} has no column '{column}'; it has: {', '.join(found)}.")
    return file


def _records(path: Path, file: pq.ParquetFile) -> Iterator[dict]:
    types = {column.name: column.type for features in (CATALOGUE, OPTIONAL) for column in features.arrow_schema}
    columns = [name for name in types if name in file.schema_arrow.names]
    for batch in file.iter_batches(BATCH_ROWS, columns=columns):
        arrays = []
        for name in columns:
            found = batch.column(name)
            try:
                arrays.append(found.cast(types[name]))
            except pa.ArrowException as error:
                raise CatalogueError(
                    f"Column '{name}' of {path} is {found.type}, which cannot be read as {types[name]}: {error}"
                ) from error
        yield from pa.RecordBatch.from_arrays(arrays, names=columns).to_pylist()


def _row(record: dict, path: Path, number: int) -> Row:
    if not record["id"]:
        raise CatalogueError(f"Row {number} of {path} has no id (column 'id').")
    where = f"row '{record['id']}' of {path}"
    if not (record["title"] or "").strip():
        raise CatalogueError(f"The {where} has no title (column 'title').")
    if record["split"] not in SPLITS:
        raise CatalogueError(
            f"The {where} has {record['split']!r} in column 'split'; it must be one of {', '.join(SPLITS)}."
        )
    if not record["images"]:
        raise CatalogueError(f"The {where} has no picture (column 'images'); every product needs one.")
    pictures = []
    for index, image in enumerate(record["images"]):
        name = (image or {}).get("path") or f"images[{index}]"
        if not image or not image["bytes"]:
            raise CatalogueError(
                f"The picture '{name}' in the {where} has no bytes: pictures must be stored in the Parquet file."
            )
        picture = Picture(image["bytes"], name)
        try:
            decode(picture)
        except ValueError as error:
            raise CatalogueError(f"The picture '{name}' in the {where} cannot be read: {error}.") from error
        pictures.append(picture)
    return Row(
        id=record["id"],
        title=record["title"],
        description=record["description"],
        brand=record["brand"],
        category=tuple(record["category"] or ()),
        attributes=tuple((attribute["name"], attribute["value"]) for attribute in record["attributes"] or ()),
        price=record["price"],
        images=tuple(pictures),
        split=record["split"],
        group_id=record["group_id"] or record["id"],
        noise=tuple(record.get("noise") or ()),
        translations={pair["label"]: pair["text"] for pair in record.get("translations") or ()},
    )
