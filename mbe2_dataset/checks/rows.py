"""Checks one row group of a published data set by itself, and says what its images look like."""

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.parallel import key_of
from pictures_moon2 import check_shape

LEVELS = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault in one place.

    Attributes:
        level: "error" (the data set is broken or unfair), "warning" (look at it) or "info".
        check: what was looked at: files, schema, nulls, ids, images, modality, provenance, qrels, leakage ...
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
# Images of each config and the column with the group of what they show (corpus and triplets only).
PICTURES = {
    "triplets": {
        "query_image": "query_group_id",
        **{f"{role}_{name}": f"{role}_group_id" for role in ROLES for name in ("image", "augmented_images")},
    },
    "corpus": {"image": "group_id"},
    "queries": {"image": None},
    "qrels": {},
}
# Texts whose lengths are counted, and columns of which hashes are kept to compare them across the data set.
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

# One image of a row: the first 64 bits of its sha256, its group (0 unknown) and where it is (`number` in a list).
PICTURE = np.dtype(
    [("sha", "u8"), ("group", "u8"), ("file", "i4"), ("row", "i4"), ("column", "i1"), ("number", "i4")]
)  # fmt: skip
# What an image looks like, once for all that have its bytes: its longest side, and of photos mean colours (16 x 16 and
# 4 x 4) and a perceptual hash.
THUMBNAIL = 16
SIDE = np.dtype([("sha", "u8"), ("side", "i4")])
LOOK = np.dtype([("sha", "u8"), ("hash", "u8"), ("small", "u1", (48,)), ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL, 3))])
# What ends the data of a scan of a JPEG.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# A photo is decoded in pixels that are so many at least on its shorter side.
LEAST = 4 * THUMBNAIL
REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}
_FREQUENCIES = np.cos(np.pi / THUMBNAIL * np.arange(8)[:, None] * (np.arange(THUMBNAIL) + 0.5))


@dataclass(frozen=True, slots=True)
class Part:
    """A row group of so many `rows`: `file` numbers the files of the data set, `first` is its first row in the file."""

    path: Path
    file: int
    config: str
    split: str
    row_group: int
    first: int
    rows: int

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
        keys: hashes (64 bits) of the columns `KEPT`; 0 for a null.
        pictures: an array of PICTURE.
    """

    part: Part
    rows: int = 0
    problems: dict[tuple[str, str, str], list] = field(default_factory=dict)
    counts: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    keys: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: np.ndarray = field(default_factory=lambda: np.empty(0, PICTURE))

    def add(self, level: str, check: str, message: str, example: str) -> None:
        """Count a problem, and keep the first few examples."""
        found = self.problems.setdefault((level, check, message), [0, []])
        found[0] += 1
        if len(found[1]) < EXAMPLES:
            found[1].append(example)


def scan(part: Part) -> Scan:
    """Read a row group whole, check every row, and hash every image; none is decoded (see `look`)."""
    found = Scan(part)
    try:
        table = pq.ParquetFile(part.path).read_row_group(part.row_group)
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        found.add("error", "files", "row groups cannot be read", f"{part.path.name}, from row {part.first}: {reason}")
        return found
    found.rows = table.num_rows
    for name in KEPT[part.config]:
        values = table.column(name).to_pylist()
        found.keys[name] = np.fromiter((0 if value is None else key_of(value) for value in values), "u8", len(values))
    pictures = []
    for column, (name, group) in enumerate(PICTURES[part.config].items()):
        groups = table.column(group).to_pylist() if group else [None] * table.num_rows
        groups = [0 if group is None else key_of(group) for group in groups]
        for row, number, content in _contents(table.column(name)):
            place = (part.first + row, column, number)
            if content:
                sha = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
                pictures.append((sha, groups[row], part.file, *place))
            else:
                found.add("error", "pictures", "images have no bytes", place_of(part, *place))
        # Of its images, a record below has how many there are in a list, and True for a single one.
        values = table.column(name)
        is_list = pa.types.is_list(values.type)
        light = (
            pc.list_value_length(values)
            if is_list
            else pc.if_else(values.is_valid(), True, pa.scalar(None, pa.bool_()))
        )
        table = table.set_column(table.schema.get_field_index(name), name, light)
    found.pictures = np.sort(np.array(pictures, PICTURE), order=["row", "column", "number"])
    for number, record in enumerate(table.to_pylist()):
        row = f"row {part.first + number} of {part.path.name}"
        for level, check, message, detail in _problems(part.config, record):
            found.add(level, check, message, f"{row}: {detail}")
        _count(part, record, found.counts)
    return found


def place_of(part: Part, row: int, column: int, number: int) -> str:
    """Return where an image is, like `row 3 of train-00000-of-00001.parquet, positive_augmented_images[1]`."""
    name = list(PICTURES[part.config])[column]
    return f"row {row} of {part.path.name}, {name}{'' if is_photo(part.config, column) else f'[{number}]'}"


def is_photo(config: str, columns: np.ndarray) -> np.ndarray:
    """Tell which of the numbers (N,) of columns of images are not of lists of augmented ones."""
    made = [number for number, name in enumerate(PICTURES[config]) if name.endswith("augmented_images")]
    return ~np.isin(columns, made)


def _contents(column: pa.ChunkedArray) -> Iterator[tuple[int, int, pa.Buffer | None]]:
    """Yield row, number within the row and encoded bytes of all images of a column; a null is no image."""
    first = 0
    for values in column.chunks:
        rows, numbers, pictures = np.arange(len(values)), np.zeros(len(values), dtype=int), values
        if pa.types.is_list(values.type):
            rows = pc.list_parent_indices(values).to_numpy()
            numbers = np.arange(len(rows)) - np.searchsorted(rows, rows)
            pictures = pc.list_flatten(values)
        else:
            rows = np.flatnonzero(values.is_valid())
            numbers, pictures = numbers[rows], values.drop_null()
        contents = pc.struct_field(pictures, "bytes")
        for row, number, content in zip(rows.tolist(), numbers.tolist(), contents, strict=True):
            yield first + row, number, content.as_buffer() if content.is_valid else None
        first += len(values)


def look(task: tuple[Part, np.ndarray]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Decode images (an array of PICTURE, all of one part).

    Returns:
        An array of SIDE, one of LOOK for photos, and of those that cannot be decoded sha -> why.
    """
    part, wanted = task
    wanted = {(column, row - part.first, number): sha for sha, _, _, row, column, number in wanted.tolist()}
    columns = [name for column, name in enumerate(PICTURES[part.config]) if any(key[0] == column for key in wanted)]
    table = pq.ParquetFile(part.path).read_row_group(part.row_group, columns=columns)
    sides, photos, thumbnails, faults = [], [], [], {}
    for column, name in enumerate(PICTURES[part.config]):
        are_photos = bool(is_photo(part.config, column))
        for row, number, content in _contents(table.column(name)) if name in columns else ():
            sha = wanted.get((column, row, number))
            if sha is None:
                continue
            try:
                side, thumbnail = seen(content.to_pybytes(), are_photos)
            except ValueError as error:
                faults[sha] = str(error)
                continue
            sides.append((sha, side))
            if are_photos:
                photos.append(sha)
                thumbnails.append(thumbnail)
    looks = np.empty(len(photos), LOOK)
    if photos:
        looks["sha"], looks["thumbnail"] = photos, np.stack(thumbnails)
        looks["hash"], looks["small"] = _hashed(looks["thumbnail"])
    return np.array(sides, SIDE), looks, faults


def seen(content: bytes, is_photo: bool = True) -> tuple[int, np.ndarray | None]:
    """Return the longest side of an encoded image, and of a photo its mean colours (16, 16, 3), uint8.

    A usual JPEG is decoded by OpenCV in as few pixels as that takes; all of its data are read, in a quarter of the time
    of Pillow. OpenCV passes over damage that Pillow finds, so the data are looked through for it; `decode` gets all
    else. A damaged header that only Pillow refuses is not found.

    Raises:
        ValueError: it cannot be decoded, or is of a shape that no processor takes.
    """
    width, height = _usual_jpeg(content)
    pixels = None
    if 0 < width * height <= (Image.MAX_IMAGE_PIXELS or math.inf):
        check_shape((width, height))
        least = LEAST if is_photo else 1
        scale = next(scale for scale in REDUCED if scale == 1 or min(width, height) >= least * scale)
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), REDUCED[scale])
    if pixels is None:
        pixels = np.asarray(decode(Picture(content, "")))[..., ::-1]
        height, width = pixels.shape[:2]
    if not is_photo:
        return max(width, height), None
    small = cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return max(width, height), small[..., ::-1]


def _usual_jpeg(content: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG that is grey or RGB, upright, of one scan and whole; (0, 0) for all else."""
    place, size = 2, (0, 0)
    while content[:2] == b"\xff\xd8" and content[place : place + 1] == b"\xff":
        kind, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if kind in (0xC0, 0xC1) and content[place + 4] == 8 and content[place + 9] in (1, 3):
            size = tuple(int.from_bytes(content[place + at : place + at + 2], "big") for at in (7, 5))
        elif kind == 0xDA:
            end = MARKER.search(content, place + 2 + length)
            return size if end is not None and end.group() == b"\xff\xd9" and end.end() == len(content) else (0, 0)
        elif kind not in (0xE0, 0xE2, 0xDB, 0xC4, 0xDD, 0xFE):  # JFIF, colour profile, tables, restarts, comment
            break
        place += 2 + length
    return 0, 0


def _hashed(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return perceptual hashes (N,) and 4 x 4 mean colours (N, 48) of (N, 16, 16, 3) thumbnails.

    A bit of the hash says whether one of the 64 lowest frequencies is above their median.
    """
    grey = thumbnails @ np.array([0.299, 0.587, 0.114])
    # Rounded, because in an image of one colour only errors of rounding would differ.
    strengths = (_FREQUENCIES @ grey @ _FREQUENCIES.T).round(3).reshape(-1, 64)
    bits = strengths > np.median(strengths, axis=1, keepdims=True)
    small = thumbnails.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4)).round().astype(np.uint8)
    return np.packbits(bits, axis=1).view(">u8")[:, 0], small.reshape(-1, 48)


def _problems(config: str, record: dict) -> Iterator[tuple[str, str, str, str]]:
    """Yield level, check, message and what exactly, for all that is wrong in a record itself, images apart."""
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
        expected[f"{role}_augmented_images"] = record[f"{role}_augmented_images"]
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
        counts["augmented images of a product"][record[f"{role}_augmented_images"] or 0] += 1
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
