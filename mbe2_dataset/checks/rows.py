"""Checks one row group of a published data set by itself."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbe2_dataset.catalogue.pictures import Picture, decode, perceptual_hash

LEVELS = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault in one place.

    Attributes:
        level: "error" (the data set is broken or unfair), "warning" (look at it) or "info".
        check: what was looked at: files, schema, nulls, ids, pictures, modality, provenance, qrels, leakage ...
        message: what is wrong, in the plural.
        where: a config, a split of one, or the splits that share something.
        count: how many.
        examples: the first few in words.
    """

    level: str
    check: str
    message: str
    where: str
    count: int
    examples: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say it for a terminal."""
        shown = f": {'; '.join(self.examples)}" if self.examples else ""
        more = f"; and {self.count - len(self.examples):,} more" if 0 < len(self.examples) < self.count else ""
        return f"{self.where}: {self.count:,} {self.message}{shown}{more}."


ROLES = ("positive", "negative")
EXAMPLES = 5
# What a title made without any model gives as its model.
OFFLINE = "template"
# Width of the bins in which consistency scores are counted.
SCORE_BIN = 0.02

# Columns that must not be null, and of these the texts that must not be blank.
REQUIRED = {
    "triplets": (
        "query_id", "query_modality", "query_group_id", "positive_category", "negative_kind", "provenance", "noise",
        *(f"{role}_{name}" for role in ROLES
          for name in ("id", "title", "image", "augmented_images", "group_id")),
    ),
    "corpus": ("id", "text", "image", "category", "attributes", "group_id"),
    "queries": ("id", "modality"),
    "qrels": ("query-id", "corpus-id", "score"),
}  # fmt: skip
# Pictures of each config and the column with the group of what they show (corpus and triplets only).
PICTURES = {
    "triplets": {
        "query_image": "query_group_id",
        **{f"{role}_{name}": f"{role}_group_id" for role in ROLES for name in ("image", "augmented_images")},
    },
    "corpus": {"image": "group_id"},
    "queries": {"image": None},
    "qrels": {},
}
# Texts whose lengths are counted, and columns that are kept whole because they are compared across the data set.
TEXTS = {
    "triplets": ("query_text", *(f"{role}_{name}" for role in ROLES for name in ("title", "enriched_title"))),
    "corpus": ("text",),
    "queries": ("text",),
    "qrels": (),
}
KEPT = {
    "triplets": (
        "query_id", "query_group_id", "positive_id", "negative_id", "positive_group_id", "negative_group_id",
    ),
    "corpus": ("id", "group_id", "text"),
    "queries": ("id",),
    "qrels": ("query-id", "corpus-id"),
}  # fmt: skip

# One picture: the first 64 bits of its sha256, its perceptual hash (0 for augmented ones, which are not compared by
# it), its group (0 unknown) and where it is. 37 bytes, so that those of millions of rows can be held.
PICTURE = np.dtype(
    [("sha", "u8"), ("phash", "u8"), ("group", "u8"), ("file", "i4"), ("row", "i8"), ("column", "i1")]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A row group: `file` numbers the files of the data set, `first` is its first row within the file."""

    path: Path
    file: int
    config: str
    split: str
    row_group: int
    first: int

    @property
    def where(self) -> str:
        """Return config and split."""
        return f"{self.config}/{self.split}"


@dataclass
class Scan:
    """What was found in a part.

    Attributes:
        problems: (level, check, message) -> their number, and the first few in words.
        counts: what is counted -> how often each value occurs.
        columns: the columns `KEPT`.
        pictures: an array of PICTURE.
    """

    part: Part
    rows: int = 0
    problems: dict[tuple[str, str, str], list] = field(default_factory=dict)
    counts: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    columns: dict[str, pa.Array] = field(default_factory=dict)
    pictures: np.ndarray = field(default_factory=lambda: np.empty(0, PICTURE))

    def add(self, level: str, check: str, message: str, example: str) -> None:
        """Count a problem, and keep the first few examples."""
        found = self.problems.setdefault((level, check, message), [0, []])
        found[0] += 1
        if len(found[1]) < EXAMPLES:
            found[1].append(example)


def key_of(text: str) -> int:
    """Hash a text to 64 bits."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def scan(part: Part) -> Scan:
    """Read a row group whole, decode every picture in it, and check every row."""
    found = Scan(part)
    try:
        table = pq.ParquetFile(part.path).read_row_group(part.row_group)
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        found.add("error", "files", "row groups cannot be read", f"{part.path.name}, from row {part.first}: {reason}")
        return found
    found.rows = table.num_rows
    found.columns = {name: table.column(name).combine_chunks() for name in KEPT[part.config]}
    pictures = []
    for number, record in enumerate(table.to_pylist()):
        row = part.first + number
        name = f"row {row} of {part.path.name}"
        for level, check, message, detail in _problems(part.config, record):
            found.add(level, check, message, f"{name}: {detail}")
        pictures += _scan_pictures(part, record, row, name, found)
        _count(part, record, found.counts)
    found.pictures = np.array(pictures, PICTURE)
    return found


def named_pictures(config: str, record: dict) -> Iterator[tuple[int, str, dict]]:
    """Yield the column's number, a name like `positive_augmented_images[1]` and the picture, of all in a record."""
    for column, name in enumerate(PICTURES[config]):
        value = record[name]
        if isinstance(value, list):
            yield from ((column, f"{name}[{number}]", picture) for number, picture in enumerate(value))
        elif value is not None:
            yield column, name, value


def _scan_pictures(part: Part, record: dict, row: int, where: str, found: Scan) -> list[tuple]:
    groups = list(PICTURES[part.config].values())
    facts = []
    for column, name, record_of_picture in named_pictures(part.config, record):
        if record_of_picture is None or not record_of_picture["bytes"]:
            found.add("error", "pictures", "pictures have no bytes", f"{where}, {name}")
            continue
        picture = Picture(record_of_picture["bytes"], record_of_picture["path"])
        try:
            image = decode(picture)
        except ValueError as error:
            found.add("error", "pictures", "pictures cannot be decoded", f"{where}, {name}: {error}")
            continue
        found.counts["longest side of pictures in pixels"][max(image.size)] += 1
        group = record[groups[column]] if groups[column] else None
        facts.append(
            (
                int(picture.sha256[:16], 16),
                0 if "[" in name else perceptual_hash(image),
                0 if group is None else key_of(group),
                part.file,
                row,
                column,
            )
        )
    return facts


def _problems(config: str, record: dict) -> Iterator[tuple[str, str, str, str]]:
    """Yield level, check, message and what exactly, for all that is wrong in a record itself."""
    missing = [name for name in REQUIRED[config] if record[name] is None]
    for name in missing:
        yield "error", "nulls", "values are missing that must be there", name
    for name in REQUIRED[config]:
        if isinstance(record[name], str) and not record[name].strip():
            yield "error", "nulls", "texts are empty that must not be", name
    if config == "queries":
        yield from _modality_problems(record["modality"], record["text"], record["image"])
    if config == "qrels" and record["score"] is not None and record["score"] < 1:
        yield "error", "qrels", "scores are below 1", str(record["score"])
    if config == "triplets" and not missing:
        yield from _modality_problems(record["query_modality"], record["query_text"], record["query_image"])
        if record["negative_group_id"] in (record["positive_group_id"], record["query_group_id"]):
            yield (
                "error", "negatives", "negatives are of the group of the query or the positive",
                f"{record['negative_id']} is of the group {record['negative_group_id']}",
            )  # fmt: skip
        yield from _provenance_problems(record)


def _modality_problems(modality: str, text: str | None, image: dict | None) -> Iterator[tuple[str, str, str, str]]:
    held = {(True, False): "text", (False, True): "image", (True, True): "mixed"}.get(
        (text is not None, image is not None), "nothing"
    )
    if modality != held:
        yield "error", "modality", "queries do not hold what their modality says", f"{modality!r} holds {held}"


def _provenance_problems(record: dict) -> Iterator[tuple[str, str, str, str]]:
    kept = Counter(made["field"].split("[")[0] for made in record["provenance"] if made["kept"])
    expected = {name: int(record[name] is not None) for name in ("query_text", "query_image")}
    for role in ROLES:
        expected[f"{role}_enriched_title"] = int(record[f"{role}_enriched_title"] is not None)
        expected[f"{role}_augmented_images"] = len(record[f"{role}_augmented_images"])
    for name, number in expected.items():
        if kept[name] != number:
            yield (
                "error", "provenance", "fields have not one record of provenance for each thing in them",
                f"{name} has {kept[name]} for {number}",
            )  # fmt: skip
    for made in record["provenance"]:
        if not made["operation"]:
            yield "error", "provenance", "records of provenance name no operation", made["field"]
        if not made["kept"] and not made["reason"]:
            yield "error", "provenance", "records of provenance do not say why the thing was dropped", made["field"]
        if made["model"] not in ("", OFFLINE) and not made["revision"]:
            yield (
                "warning", "provenance", "records of provenance name a model but not its revision",
                f"{made['field']}: {made['model']}",
            )  # fmt: skip
        try:
            json.loads(made["parameters"])
        except (TypeError, ValueError):
            yield "error", "provenance", "records of provenance have parameters that are no JSON", made["field"]


def _count(part: Part, record: dict, counts: dict[str, Counter]):
    """Add a record to what is counted; the names are shown in the report."""
    for name in TEXTS[part.config]:
        if record[name] is not None:
            counts[f"characters of {part.where} {name}"][len(record[name])] += 1
    if part.config == "queries":
        counts[f"modality of {part.where}"][record["modality"]] += 1
    if part.config != "triplets":
        return
    counts[f"modality of {part.where}"][record["query_modality"]] += 1
    counts[f"negatives of {part.where}"][record["negative_kind"]] += 1
    counts[f"noise of {part.where}"].update(record["noise"] or ["none"])
    for role in ROLES:
        rich, title = record[f"{role}_enriched_title"], record[f"{role}_title"]
        state = "none" if rich is None else "same as the title" if rich == title else "different from the title"
        counts["enriched titles"][state] += 1
        counts["augmented pictures of a product"][len(record[f"{role}_augmented_images"] or [])] += 1
    for made in record["provenance"] or []:
        kind = made["field"].split("[")[0].removeprefix("positive_").removeprefix("negative_")
        state = "kept" if made["kept"] else "dropped"
        counts[f"{state}, by field and operation"][f"{kind}: {made['operation']}"] += 1
        if made["model"]:
            counts["models"][" ".join(filter(None, (made["model"], made["revision"], made["prompt_version"])))] += 1
        if not made["kept"]:
            counts["why things were dropped"][made["reason"]] += 1
        if made["consistency_score"] is not None:
            counts[f"consistency scores, {state}"][round(made["consistency_score"] // SCORE_BIN * SCORE_BIN, 4)] += 1
