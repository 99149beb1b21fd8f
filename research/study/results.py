"""What runs gave: a Parquet file with a row for each run.

The columns `variant`, `seed` and `key` (of the variant's form) name the run. The column `run` has all of it as JSON:
settings, figures of each gallery, hits of single queries, versions, hardware.
"""

import base64
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common_moon2.files import staged
from research.study.arguments import StudyError
from research.study.variants import Variant

SCHEMA = pa.schema([("variant", pa.string()), ("seed", pa.int64()), ("key", pa.string()), ("run", pa.string())])


class Runs(NamedTuple):
    """The results of one variant by seed, of one form of it."""

    variant: Variant
    by_seed: dict[int, dict]

    def of(self, seeds: list[int]) -> "Runs":
        """Return those with these seeds."""
        return self._replace(by_seed={seed: run for seed, run in self.by_seed.items() if seed in seeds})


def read_keys(file: Path) -> dict[tuple[str, int], str]:
    """Return the key of each run by (variant, seed); empty if there is no file.

    Raises:
        StudyError: the file is none of the study's.
    """
    columns = ["variant", "seed", "key"]
    return {(row["variant"], row["seed"]): row["key"] for row in _rows(file, columns)}


def read_results(file: Path, variants: dict[str, Variant]) -> dict[str, Runs]:
    """Return the results in the order of the variants, without those of an earlier form of a variant.

    Raises:
        StudyError: the file is none of the study's, or there is no result at all.
    """
    rows = {(row["variant"], row["seed"]): row for row in _rows(file)}
    found: dict[str, Runs] = {}
    for name, variant in variants.items():
        key = variant.key()
        own = {seed: rows[name, seed] for seed in range(variant.seeds) if (name, seed) in rows}
        by_seed = {seed: json.loads(row["run"]) for seed, row in own.items() if row["key"] == key}
        if by_seed:
            found[name] = Runs(variant, by_seed)
    if not found:
        raise StudyError(f"{file} has no results yet: python -m research.study run")
    return found


def add_result(file: Path, run: dict) -> None:
    """Add a run to the file, replacing an earlier one of the same variant and seed; other processes may do the same."""
    row = {name: run[name] for name in ("variant", "seed", "key")} | {"run": json.dumps(run, ensure_ascii=False)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file.parent):
        rows = {(one["variant"], one["seed"]): one for one in [*_rows(file), row]}
        ordered = [rows[place] for place in sorted(rows)]
        with staged(file) as temporary:
            pq.write_table(pa.Table.from_pylist(ordered, SCHEMA), temporary, compression="zstd")


def _rows(file: Path, columns: list[str] | None = None) -> list[dict]:
    if not file.exists():
        return []
    try:
        return pq.read_table(file).select(columns or SCHEMA.names).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"{file} holds no results of the study: {error}.") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from the same, without leaving a file in the repository."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def pack(hits: np.ndarray) -> str:
    """Return zeros and ones (N,), in the order of the query ids, as a short text.

    Raises:
        ValueError: there is something between 0 and 1.
    """
    if not np.isin(hits, (0, 1)).all():
        raise ValueError("A query has several right groups; its hits are not one bit.")
    return base64.b64encode(np.packbits(hits.astype(bool)).tobytes()).decode()


def unpack(text: str, count: int) -> np.ndarray:
    """Return the zeros and ones of which `pack` made a text."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8))[:count].astype(np.float64)
