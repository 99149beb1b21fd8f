"""A folder of vectors on disk: written shard by shard, read without loading it.

    vectors/run.json                   what they are vectors of; written first
    vectors/shards/00000.parquet ...   id (string), vector (D numbers of float32, float16 or int8); of a catalogue also
                                       digest, shows, text, and the columns that --keep names
    vectors/vectors.npy, ids.npy       the same (N, D) and (N,), for NumPy, in the order of the shards
    vectors/manifest.json              what they are vectors of, and how many there are; written last

A shard is complete or absent, so whoever fills a folder goes on where an earlier run ended. An entry of the
evaluation's cache is such a folder up to its shards, named by its fingerprint.

int8 vectors are scaled so that their largest component is 127; only their direction is kept, so they are normalised
again where they are read.

An update fills a folder of its own below, `update-...`, which has all that the new state consists of. Its manifest says
that it is complete; then its files take the places of the old ones, the manifest last. Whoever opens a folder where
that was interrupted finishes it first.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from common_moon2.cli import UserError
from common_moon2.files import staged, sync, write_json
from evaluation.arguments import DTYPES

RUN, MANIFEST, SHARDS, VECTORS, IDS = "run.json", "manifest.json", "shards", "vectors.npy", "ids.npy"
SKIPPED = "skipped.jsonl"
UPDATES = "update-*"
READ = 16384


class Vectors:
    """N vectors with their ids.

    Args:
        array: (N, D) float32, float16 or int8, in memory or a memory-mapped file.
        ids: N different ids, strings.
        name: what errors call it.
    """

    def __init__(self, array: np.ndarray, ids: Sequence[str], name: str = "the array"):
        self.array, self.ids, self.name = array, np.asarray(ids), name
        # The file that was opened: an update may put another one under its name.
        self._file = open(array.filename, "rb") if isinstance(array, np.memmap) else None  # noqa: SIM115

    def __len__(self) -> int:
        return len(self.array)

    @property
    def dimension(self) -> int:
        return self.array.shape[1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return (stop - start, D) float32, from the file and not its mapping, whose pages would stay in memory."""
        if self._file is None:
            return as_float32(self.array[start:stop])
        rows = np.empty((stop - start, self.dimension), self.array.dtype)
        offset = self.array.offset + start * rows.itemsize * self.dimension
        if os.preadv(self._file.fileno(), [rows], offset) != rows.nbytes:
            raise UserError(f"{self.array.filename} is shorter than it says: embed it again.")
        return as_float32(rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), D) float32."""
        return as_float32(self.array[rows])


def as_float32(rows: np.ndarray) -> np.ndarray:
    """Return stored vectors as the vectors that are compared."""
    exact = np.ascontiguousarray(rows, np.float32)
    if rows.dtype == np.int8:
        exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.float32(1e-30))
    return exact


def as_stored(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Return (N, D) float32 as one of `DTYPES`."""
    if dtype == "int8":
        return np.rint(vectors * (127 / np.maximum(np.abs(vectors).max(1, keepdims=True), 1e-30))).astype(np.int8)
    return vectors.astype(dtype)


def open_vectors(path: str | Path) -> Vectors:
    """Open a folder that `python -m evaluation embed` has finished, or any (N, D) .npy file.

    The ids of a file are its row numbers.

    Raises:
        UserError: it is neither, or unfinished, or its files do not fit together.
    """
    path = Path(path)
    folder = path.is_dir()
    if folder:
        identity(path)
    file = path / VECTORS if folder else path
    array = _mapped(file)
    if array.ndim != 2 or array.dtype.name not in DTYPES:
        raise UserError(f"{file} holds {array.dtype} {array.shape}; vectors are (N, D) {', '.join(DTYPES)}.")
    if not array.flags.c_contiguous:
        raise UserError(
            f"{file} is in Fortran order, column after column: save it again with "
            "numpy.save(file, numpy.ascontiguousarray(vectors))."
        )
    ids = np.array(_mapped(path / IDS)) if folder else np.arange(len(array)).astype(str)
    if len(ids) != len(array):
        raise UserError(f"{path} has {len(array)} vectors but {len(ids)} ids: embed it again.")
    return Vectors(array, ids, str(path))


def _mapped(file: Path) -> np.ndarray:
    try:
        return open_memmap(file, "r")
    except (OSError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"{file} cannot be read as vectors: {reason}. Give a folder written by `embed`, or one array as .npy."
        ) from error


def identity(path: str | Path) -> dict:
    """Return what tells these vectors from others: a folder's manifest, or a file's size and time of change.

    Raises:
        UserError: it is neither, or unfinished.
    """
    path = Path(path)
    if path.is_dir():
        finish_update(path)
        if not (path / MANIFEST).exists():
            raise UserError(
                f"{path} has no {MANIFEST}: it is not a folder of vectors, or its embedding was interrupted; run the "
                "same `embed` again to finish it."
            )
        return json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    _mapped(path)
    state = path.stat()
    return {"file": str(path.resolve()), "size": state.st_size, "changed": state.st_mtime_ns}


@contextmanager
def unchanged(*paths: Path) -> Iterator[list[dict]]:
    """Yield the identities of vectors, to be opened and read meanwhile.

    Raises:
        UserError: an update took their place, so that what was read does not fit together.
    """
    before = [identity(path) for path in paths]
    yield before
    for path, one in zip(paths, before, strict=True):
        if identity(path) != one:
            raise UserError(f"{path} was brought up to date while it was read: run the same command again.")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from filling a folder; a lock on the folder itself ends with the process, however it ends.

    Raises:
        UserError: another process is filling it.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(f"Another `embed` is at work in {folder}: wait until it has ended.") from error
    finally:
        os.close(descriptor)


def claim(folder: Path, settings: dict) -> None:
    """Take an empty folder, or one that a run of the same settings has begun to fill.

    What a killed run was writing is removed.

    Raises:
        UserError: it holds something else.
    """
    path = folder / RUN
    for unfinished in folder.rglob(".*.part"):
        unfinished.unlink()
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(name for name in settings if before.get(name) != settings[name])
        if differing:
            raise UserError(
                f"{folder} holds vectors of another run ({', '.join(differing)} differ): give another --output, or "
                "delete it."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"--output {folder} holds other files: give a new folder.")
    else:
        write_json(path, settings, sort_keys=True)


def finish_update(folder: Path) -> None:
    """Put a complete update in the place of what a folder holds, or wait for the process that does."""
    while any(folder.glob(f"{UPDATES}/{MANIFEST}")):
        with suppress(UserError), alone(folder):
            take_over(folder)
            continue
        time.sleep(0.05)


def take_over(folder: Path) -> None:
    """Put a complete update in the place of what a folder holds, which must be `alone`."""
    for update in [path.parent for path in folder.glob(f"{UPDATES}/{MANIFEST}")]:
        for name in (SHARDS, VECTORS, IDS, SKIPPED, RUN, MANIFEST):  # the manifest last: until then there is work left
            new, old = update / name, folder / name
            if name == SHARDS and new.exists() and old.exists():
                old.rename(update / "replaced")
            if new.exists():
                new.replace(old)
        sync(folder)
        for leftover in folder.glob(UPDATES):
            shutil.rmtree(leftover)


def shards_of(folder: Path, products: int, size: int) -> dict[Path, range]:
    """Return the shards of a folder, whether there or not, and the places of the products in each."""
    starts = range(0, products, size)
    return {
        folder / SHARDS / f"{number:05d}.parquet": range(start, min(start + size, products))
        for number, start in enumerate(starts)
    }


def write_shard(path: Path, ids: Sequence[str], vectors: np.ndarray, beside: pa.Table | None = None) -> None:
    """Write one shard, maybe with further columns; the same content gives the same bytes."""
    rows = pa.array(vectors.reshape(-1), pa.from_numpy_dtype(vectors.dtype))
    columns = {"id": pa.array(ids, pa.string()), "vector": pa.FixedSizeListArray.from_arrays(rows, vectors.shape[1])}
    if beside is not None:
        columns |= dict(zip(beside.column_names, beside.columns, strict=True))
    with staged(path) as temporary:
        # Vectors are noise to a compressor.
        pq.write_table(pa.table(columns), temporary, compression="none", use_dictionary=False)


def read_shard(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the ids, and the vectors as they are stored."""
    table = pq.read_table(path, columns=["id", "vector"])
    column = table["vector"].combine_chunks()
    return table["id"].to_pylist(), column.flatten().to_numpy().reshape(len(table), column.type.list_size)


def read_beside(path: str | Path, names: Sequence[str] | None = None) -> pa.Table:
    """Return what a folder keeps beside its vectors, (N,) rows in their order.

    Args:
        names: of the columns; `None` for all but the vectors.

    Raises:
        UserError: it is no folder, or has no such column.
    """
    shards = sorted(Path(path).glob(f"{SHARDS}/*.parquet"))
    if not shards:
        raise UserError(f"{path} has vectors only, no texts or columns: give a folder written by `embed`.")
    there = [name for name in pq.read_schema(shards[0]).names if name != "vector"]
    missing = [name for name in names or () if name not in there]
    if missing:
        raise UserError(
            f"{path} keeps no column {missing[0]!r}, but {', '.join(there)}: name it with --keep when you embed."
        )
    return pa.concat_tables([pq.read_table(shard, columns=list(names or there)) for shard in shards])


def join_shards(folder: Path, shards: Sequence[Path]) -> int:
    """Write `vectors.npy` and `ids.npy` from the shards, one at a time; return how many vectors there are."""
    metadata = [pq.read_schema(path) for path in shards]
    counts = [pq.read_metadata(path).num_rows for path in shards]
    vector = metadata[0].field("vector").type
    ids: list[str] = []
    with staged(folder / VECTORS) as temporary:
        array = open_memmap(temporary, "w+", vector.value_type.to_pandas_dtype(), (sum(counts), vector.list_size))
        for path in shards:
            names, rows = read_shard(path)
            array[len(ids) : len(ids) + len(names)] = rows
            ids += names
        array.flush()
    with staged(folder / IDS) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(ids, dtype=str), allow_pickle=False)
    return len(ids)


def read_blocks(vectors: Vectors, size: int = READ) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, float32 (n, D)) from first to last, with n at most `size`.

    Raises:
        UserError: a value is not finite; the message names the id.
    """
    for start in range(0, len(vectors), size):
        stop = min(start + size, len(vectors))
        block = vectors.read(start, stop)
        check_finite(block, vectors, range(start, stop))
        yield start, block


def check_finite(block: np.ndarray, vectors: Vectors, rows: Sequence[int]) -> None:
    """Check that every value of float32 (n, D), which are the n `rows`, is finite."""
    finite = np.isfinite(block).all(1)
    if not finite.all():
        row = rows[int(finite.argmin())]
        raise UserError(f"The vector of {str(vectors.ids[row])!r} (row {row} of {vectors.name}) is not finite.")
