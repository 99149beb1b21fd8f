"""Stores a source as a catalogue: every row is either in it or set aside with the reason."""

import atexit
import hashlib
import json
import math
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from common_moon2.files import replace_folder, write_text
from common_moon2.parallel import in_processes
from mbe2_dataset.catalogue.groups import assign, find_shared, read_rows
from mbe2_dataset.catalogue.pictures import (
    PICTURES_SCHEMA,
    Picture,
    decode,
    encode,
    fetch_all,
    is_heic,
    perceptual_hash,
    picture_name,
    picture_place,
    read_content,
)
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.store import (
    ASSIGNED,
    ASSIGNED_SCHEMA,
    PART_ROWS_SCHEMA,
    PARTS,
    QUARANTINE,
    SHARED,
    SPLITS,
    SUMMARY,
    Catalogue,
    Item,
    Problem,
    Row,
    Source,
    part_records,
)
from mbe2_dataset.catalogue.tables import LocalTables
from mbe2_dataset.errors import CatalogueError

FORMAT = 2
MADE = "same title, or nearly the same with a byte-identical image"
SHOWS_NONE = "products with different titles share it, so it shows none of them"
# Rows of the source in a part, which is what survives if the ingest is killed, and in what a process takes at a time.
PART_ROWS = 2048
CHUNK_ROWS = 8
# Images are written in batches of so many bytes: every batch takes memory wherever the file is mapped.
BATCH_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What is taken from a source, and what replaces what it lacks.

    Attributes:
        seed: of the splits.
        shares: of train, validation and test among the groups, where the source has no split.
        assign_splits: assign splits even if the source has some.
        max_pixels: store larger images as smaller JPEGs; by default all are stored as they are.
        allow_urls: fetch images from the public Internet (`common_moon2.fetch.fetch`).
        connections: how many images each process fetches at a time; it changes the speed only.
        limit: take only the first rows of the source.
    """

    seed: int = 0
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    assign_splits: bool = False
    max_pixels: int | None = None
    allow_urls: bool = False
    connections: int = 8
    limit: int | None = None


def ingest(
    source: Source, folder: str | Path, options: IngestOptions | None = None, num_proc: int = 1, overwrite: bool = False
) -> Catalogue:
    """Store the catalogue of `source` in `folder`, or use it if it is there already, of the same files and options.

    A row is set aside, with the reason, if it has no id, title or image, if its id occurred before, if its split is
    unknown or if none of its images can be used; so are single images. Images that products with different titles
    share are left out (`groups.find_shared`). Where the source has no groups, rows with the same title (but for case
    and blanks) become one, and so do rows with nearly the same title and a byte-identical image, transitively. Where
    it has no splits, groups are assigned to them by the seed. All this is our choice. A run that is killed goes on
    where it was; the bytes in the folder depend on the source and the options only. A stored catalogue of something
    else is replaced with `overwrite`.

    Raises:
        CatalogueError: the source cannot be read, no row of it can be used, or the folder holds something else.
    """
    options = options or IngestOptions()
    folder = Path(folder).absolute()
    shaping = {name: value for name, value in asdict(options).items() if name != "connections"}
    identity = json.dumps([FORMAT, source.name, source.fingerprint(), shaping])
    key = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    if (folder / SUMMARY).exists():
        catalogue = Catalogue(folder)
        if catalogue.summary["key"] == key:
            return catalogue
        if not overwrite:
            raise CatalogueError(
                f"{folder} holds the catalogue of another source, of other files or with other options: remove it, or "
                f"choose another folder."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise CatalogueError(f"{folder} is not empty and holds no stored catalogue: choose another folder.")
    staging = folder.with_name(f".{folder.name}.incomplete")
    mark = staging / "key"
    if not mark.exists() or mark.read_text() != key:  # what an ingest of the same left behind is kept
        shutil.rmtree(staging, ignore_errors=True)
        (staging / PARTS).mkdir(parents=True)
        write_text(mark, key)
    try:
        counts, changes = _write_parts(source, staging / PARTS, options, num_proc)
        _finish(staging, source.name, key, shaping, counts, changes)
    except CatalogueError:
        shutil.rmtree(staging)
        raise
    mark.unlink()
    replace_folder(staging, folder)
    return Catalogue(folder)


# What became of one row of the source: its record for PART_ROWS_SCHEMA, if it is kept, the bytes of its images, what
# is wrong with it, and counts of what was changed.
Checked = tuple[dict | None, list[bytes], list[Problem], Mapping[str, int]]


def _write_parts(source: Source, folder: Path, options: IngestOptions, num_proc: int) -> tuple[Counter, Counter]:
    """Write the parts that are not there yet; return counts of rows and images, and of changes, over all of them."""
    for rest in folder.glob(".*"):
        shutil.rmtree(rest)
    # On the disk, since there may be millions of ids; SQLite removes a file without a name itself.
    seen = sqlite3.connect("")
    seen.execute("PRAGMA journal_mode = OFF")
    seen.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID")
    earlier = ((record["id"], record["where"]) for record, _ in part_records(folder.parent))
    seen.executemany("INSERT INTO seen VALUES (?, ?)", earlier)
    done = sorted(folder.iterdir())
    items = islice(iter(source), options.limit)
    with tqdm(desc=f"read {source.name}", unit=" rows") as bar:
        bar.update(sum(1 for _ in islice(items, len(done) * PART_ROWS)))
        check = partial(_check_chunk, folder=source.folder, options=options)
        checked = chain.from_iterable(_in_order(check, items, num_proc))
        number = len(done)
        while (first := next(checked, None)) is not None:
            _write_part(chain([first], islice(checked, PART_ROWS - 1)), folder, number, seen, bar)
            number += 1
    seen.close()
    counts = Counter({f"{kind}_{end}": 0 for kind in ("rows", "pictures") for end in ("in", "out", "quarantined")})
    changes: Counter = Counter()
    for part in sorted(folder.iterdir()):
        found = json.loads((part / "counts.json").read_text(encoding="utf-8"))
        counts.update(found["counts"])
        changes.update(found["changes"])
    return counts, changes


def _in_order(check, items: Iterator[Item | Problem], num_proc: int) -> Iterator[list[Checked]]:
    """Yield `check` of chunks of items in their order; only so many are read ahead as keep the processes busy."""
    yield from in_processes(check, iter(lambda: list(islice(items, CHUNK_ROWS)), []), num_proc)


def _write_part(rows: Iterable[Checked], folder: Path, number: int, seen: sqlite3.Connection, bar: tqdm) -> None:
    """Write part `number`, which is complete or absent."""
    staged = folder / f".{number:05d}"
    staged.mkdir()
    counts, changes, pictures, records, batch = Counter(), Counter(), 0, [], []
    with (
        pa.OSFile(str(staged / "rows.arrow"), "wb") as rows_file,
        pa.ipc.new_stream(rows_file, PART_ROWS_SCHEMA) as rows_writer,
        pa.OSFile(str(staged / "pictures.arrow"), "wb") as pictures_file,
        pa.ipc.new_stream(pictures_file, PICTURES_SCHEMA) as pictures_writer,
        open(staged / QUARANTINE, "w", encoding="utf-8") as quarantine,
    ):
        for record, contents, problems, changed in rows:
            if record is not None and (first := _first_place(seen, record)) is not None:
                reason = f"the id {record['id']!r} occurs in {first} already; ids must be unique"
                record, problems = None, [Problem(record["where"], record["id"], reason)]
            quarantine.writelines(problem.line() for problem in problems)
            counts["rows_in"] += 1
            changes.update(changed)
            bar.update()
            if record is None:
                counts["rows_quarantined"] += 1
                continue
            counts["rows_out"] += 1
            unread = sum(problem.column is None for problem in problems)
            counts["pictures_out"] += len(contents)
            counts["pictures_quarantined"] += unread
            counts["pictures_in"] += len(contents) + unread
            changes.update(f"{problem.column}: cannot be read, left empty" for problem in problems if problem.column)
            for picture in record["pictures"]:
                picture["number"] = pictures
                pictures += 1
            records.append(record)
            batch += contents
            if sum(map(len, batch)) >= BATCH_BYTES:
                pictures_writer.write_batch(pa.RecordBatch.from_pydict({"bytes": batch}, schema=PICTURES_SCHEMA))
                batch = []
        pictures_writer.write_batch(pa.RecordBatch.from_pydict({"bytes": batch}, schema=PICTURES_SCHEMA))
        rows_writer.write_table(pa.Table.from_pylist(records, schema=PART_ROWS_SCHEMA))
    found = {"counts": counts, "changes": changes}
    (staged / "counts.json").write_text(json.dumps(found, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    replace_folder(staged, folder / f"{number:05d}")


def _first_place(seen: sqlite3.Connection, record: dict) -> str | None:
    """Return where a row of the same id is; if there is none, remember this one."""
    if seen.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (record["id"], record["where"])).rowcount:
        return None
    return seen.execute("SELECT place FROM seen WHERE id = ?", (record["id"],)).fetchone()[0]


def _check_chunk(items: list[Item | Problem], folder: Path | None, options: IngestOptions) -> list[Checked]:
    """Read, decode and hash the images of some rows; runs in a process of its own."""
    fetched = None
    if options.allow_urls:
        pictures = [picture for item in items if isinstance(item, Item) for picture in item.record.get("images") or []]
        fetched = fetch_all((picture["url"] for picture in pictures if "url" in picture), options.connections)
    return [
        (None, [], [item], {}) if isinstance(item, Problem) else _check(item, folder, options, fetched)
        for item in items
    ]


def _check(item: Item, folder: Path | None, options: IngestOptions, fetched: dict | None) -> Checked:
    record = item.record
    identity = record.get("id")
    reason = _fault(record, options)
    if reason:
        return None, [], [Problem(item.where, identity, reason)], item.changes
    found, contents, problems = [], [], []
    for index, source in enumerate(record["images"]):
        try:
            picture = Picture(read_content(source, folder, fetched), picture_name(source, f"{identity}-{index}"))
            image = decode(picture)
        except ValueError as error:
            problems.append(Problem(item.where, identity, str(error), picture_place(source) or f"images[{index}]"))
            continue
        scale = ((options.max_pixels or math.inf) / (image.width * image.height)) ** 0.5
        if scale < 1:
            image.thumbnail((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        if scale < 1 or is_heic(picture.bytes):  # which others who load the data set may not be able to read
            picture = encode(image, str(Path(picture.path).with_suffix(".jpg")))
        contents.append(picture.bytes)
        facts = {"width": image.width, "height": image.height, "perceptual_hash": perceptual_hash(image)}
        found.append({"path": picture.path, "sha256": picture.sha256, **facts})
    if not found:
        first = problems[0]
        reason = f"none of its images can be used: {first.picture}: {first.reason}"
        return None, [], [Problem(item.where, identity, reason)], item.changes
    kept = {name: record.get(name) for name in PART_ROWS_SCHEMA.names}
    for name in ("category", "attributes", "noise", "translations"):
        kept[name] = list(kept[name] or ())
    if "group_id" in record:
        kept["group_id"] = record["group_id"] or identity
    problems += [Problem(item.where, identity, reason, column=column) for column, reason in item.faults]
    return {**kept, "where": item.where, "pictures": found}, contents, problems, item.changes


def _fault(record: dict, options: IngestOptions) -> str | None:
    """Return why a row cannot be used, whatever its images are."""
    for name in ("id", "title"):
        if not (record.get(name) or "").strip():
            return f"it has no {name}"
    if not record.get("images"):
        return "it has no image (column 'images'); every product needs one"
    if "split" in record and record["split"] not in SPLITS and not options.assign_splits:
        return f"it has {record['split']!r} in column 'split', which must be one of {', '.join(SPLITS)}"
    return None


def _finish(staging: Path, name: str, key: str, options: dict, counts: Counter, changes: Counter) -> None:
    """Write groups, splits, the list of what was set aside, and the summary, which makes the catalogue complete."""
    with open(staging / QUARANTINE, "wb") as quarantine:
        for part in sorted((staging / PARTS).iterdir()):
            quarantine.write((part / QUARANTINE).read_bytes())
    if not counts["rows_in"]:
        raise CatalogueError(f"The catalogue {name} is empty: it has no row.")
    if not counts["rows_out"]:
        with open(staging / QUARANTINE, encoding="utf-8") as quarantine:
            first = json.loads(quarantine.readline())
        raise CatalogueError(
            f"None of the {counts['rows_in']:,} rows of {name} can be used; the first: {first['where']}: "
            f"{first['reason']}."
        )
    rows = read_rows(staging, options["assign_splits"])
    is_shared, shared = find_shared(staging, rows)
    with open(staging / SHARED, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(picture), ensure_ascii=False) + "\n" for picture in shared)
    kept = np.bincount(rows.row[~is_shared], minlength=len(rows.ids)) > 0
    if shared:
        _leave_out(staging, is_shared, kept, counts)
    groups, splits, largest = assign(rows, is_shared, kept, options["seed"], options["shares"])
    table = pa.Table.from_pydict({"split": splits, "group_id": groups, "kept": kept}, schema=ASSIGNED_SCHEMA)
    with pa.OSFile(str(staging / ASSIGNED), "wb") as file, pa.ipc.new_stream(file, ASSIGNED_SCHEMA) as writer:
        writer.write_table(table)
    used = table.filter(pa.array(kept))
    summary = {
        "format": FORMAT,
        "key": key,
        "source": name,
        "options": options,
        "counts": dict(sorted(counts.items())),
        "changes": dict(sorted(changes.items())),
        "rows": {split: pc.sum(pc.equal(used["split"], split)).as_py() or 0 for split in SPLITS},
        "groups": pc.count_distinct(used["group_id"]).as_py(),
        "groups_made": MADE if rows.groups.null_count else "given by the source",
        "largest_groups": largest,
        "splits_made": f"by group and seed {options['seed']}" if (rows.splits < 0).any() else "given by the source",
        "shared_pictures": len(shared),
    }
    for kind in ("rows", "pictures"):
        taken, aside = counts[f"{kind}_out"], counts[f"{kind}_quarantined"]
        if counts[f"{kind}_in"] != taken + aside:
            raise AssertionError(f"{kind}: {counts[f'{kind}_in']} in, but {taken} out and {aside} set aside")
    write_text(staging / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False))


def _leave_out(staging: Path, is_shared: np.ndarray, kept: np.ndarray, counts: Counter) -> None:
    """Add to what was set aside the images that different products share, and the products that have no other.

    Raises:
        CatalogueError: there is no other product.
    """
    place = 0
    with open(staging / QUARANTINE, "a", encoding="utf-8") as quarantine:
        for (record, _), stays in zip(part_records(staging), kept.tolist(), strict=True):
            pictures = record["pictures"]
            left = [picture["path"] for picture, out in zip(pictures, is_shared[place:], strict=False) if out]
            place += len(pictures)
            if not left:
                continue
            where = record["where"], record["id"]
            if stays:
                problems = [Problem(*where, f"it is left out: {SHOWS_NONE}", path) for path in left]
                counts.update(pictures_out=-len(left), pictures_quarantined=len(left))
            else:
                problems = [Problem(*where, f"it has no other image than {left[0]}, and {SHOWS_NONE}")]
                counts.update(rows_out=-1, rows_quarantined=1, pictures_out=-len(left), pictures_in=-len(left))
            quarantine.writelines(problem.line() for problem in problems)
    if not counts["rows_out"]:
        raise CatalogueError(
            f"None of the {counts['rows_in']:,} rows can be used: no product has an image of its own; {SHOWS_NONE}."
        )


def told_lines(catalogue: Catalogue) -> list[str]:
    """Return what people should know: what was changed, which images different products share, large groups."""
    summary = catalogue.summary
    lines = [f"{what}: {count:,}" for what, count in summary["changes"].items()]
    for picture in islice(catalogue.shared_pictures(), 3):
        lines.append(
            f"left out: {picture['picture']}, which {picture['products']:,} products with different titles share"
        )
    if summary["shared_pictures"] > 3:
        lines.append(f"left out: {summary['shared_pictures'] - 3:,} more images that different products share")
    for group in summary["largest_groups"]:
        lines.append(f"group {group['group_id']}: {group['rows']:,} rows ({group['reason']})")
    return lines


def read_catalogue(folder: str | Path) -> list[Row]:
    """Return all rows of the tables in a folder, none of which may have a fault.

    They are stored until this process ends.

    Raises:
        CatalogueError: something is wrong with one of them, or there are none for training or for testing.
    """
    stored = tempfile.mkdtemp(prefix="mbe2-catalogue-")
    atexit.register(shutil.rmtree, stored, ignore_errors=True)
    catalogue = ingest(ProductSource(LocalTables(folder)), Path(stored) / "catalogue")
    for problem in catalogue.quarantine():
        part = problem["picture"] or (problem["column"] and f"column {problem['column']!r}")
        part = f" ({part})" if part else ""
        raise CatalogueError(f"{problem['where']}, id {problem['id']!r}{part}: {problem['reason']}.")
    for split in ("train", "test"):
        if not catalogue.summary["rows"][split]:
            raise CatalogueError(
                f"The catalogue {folder} has no row whose column 'split' is '{split}': triplets need train rows, "
                f"the benchmark needs test rows."
            )
    return catalogue.rows
