"""What a run is worth, and where that is kept: a Parquet file with a row for each run.

The columns `variant`, `seed` and `key` (of the variant's form) name the run. The column `run` has all of it as JSON:
settings, figures of each gallery, hits of single queries, versions, hardware.
"""

import base64
import dataclasses
import fcntl
import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common_moon2.files import staged
from common_moon2.machine import versions
from evaluation.measure.evaluate import Options, embed_benchmark, evaluate
from evaluation.measure.retrieval import DIRECTIONS, Embedded, QueryValues, evaluate_retrieval
from evaluation.models.checkpoint import Checkpoint
from evaluation.models.encoders import Moon2Encoder
from evaluation.tables.benchmark import HARD, Benchmark, load_benchmark, with_gallery
from evaluation.vectors.catalogue import VectorCache
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from research.benchmarks.measure import machine
from research.study.arguments import EASY_SET, HARD_SET, TRANSFER_SET, StudyError
from research.study.models import TwoTowers
from research.study.variants import Variant

SCHEMA = pa.schema([("variant", pa.string()), ("seed", pa.int64()), ("key", pa.string()), ("run", pa.string())])
# Scores of single queries are kept of this metric. With groups as candidates it is 0 or 1: one bit for each query.
METRIC = "recall@10"
VIEW_DIRECTIONS = ("t2i", "i2t")


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


def score(
    variant: Variant, model: Path, dataset: Path, transfer: Path | None, vectors: Path, device: str = "cpu"
) -> dict:
    """Return all figures of a trained model, as shares in 0..1; vectors are embedded once and kept in `vectors`.

    Raises:
        UserError: a product cannot be embedded.
    """
    kind = TwoTowers if variant.encoder == "two_towers" else Moon2Model
    loaded = kind.from_pretrained(model).eval().to(device)
    checkpoint = Checkpoint(loaded, Moon2Processor.from_pretrained(model), model, None)
    encoder, cache = Moon2Encoder(checkpoint, variant.name), VectorCache(vectors)
    start = time.perf_counter()
    easy = load_benchmark(str(dataset))
    sets = {EASY_SET: easy, HARD_SET: with_gallery(easy, HARD, str(dataset))}
    if transfer is not None:
        sets[TRANSFER_SET] = load_benchmark(str(transfer))
    figures = {name: _figures(encoder, benchmark, cache) for name, benchmark in sets.items()}
    return {"sets": figures, "evaluation_seconds": round(time.perf_counter() - start, 1)}


def _figures(encoder: Moon2Encoder, benchmark: Benchmark, cache: VectorCache) -> dict:
    options = Options(by_group=True)
    evaluation = evaluate(encoder, benchmark, cache, options)
    _, candidates = embed_benchmark(encoder, benchmark, cache, options)  # from the cache
    between_views, hits = evaluate_views(benchmark, candidates)
    retrieval = evaluation.results["retrieval"] | between_views
    queries = evaluation.queries | hits
    found = {
        "fingerprint": benchmark.fingerprint,
        "candidates": max(retrieval[direction]["candidates"] for direction in DIRECTIONS),
        "retrieval": {
            direction: {name: round(value, 6) for name, value in retrieval[direction]["metrics"].items()}
            for direction in DIRECTIONS
        },
        "hits": {direction: pack(queries[direction].values[METRIC]) for direction in DIRECTIONS},
        "queries": {direction: len(queries[direction].ids) for direction in DIRECTIONS},
    }
    # As in the paper's table: accuracy over products, and over all predictions of attributes.
    for task, kind in (("classification", "metrics"), ("attributes", "micro")):
        figures = (evaluation.results[task] or {}).get(kind)
        found[task] = None if figures is None else round(figures["accuracy"], 6)
    return found


def evaluate_views(
    benchmark: Benchmark, candidates: dict[str, Embedded]
) -> tuple[dict[str, dict], dict[str, QueryValues]]:
    """Score t2i and i2t with the benchmark's products as queries: each title among the images, and the other way.

    The other directions are for what shoppers ask.

    Args:
        candidates: vectors of all candidates by view.

    Returns:
        For the two directions what `evaluate_retrieval` gives; rows of one group count as one product.
    """
    own = benchmark.corpus
    alike = defaultdict(dict)
    for row, group in enumerate(own.groups):
        alike[group][row] = 1
    asked = dataclasses.replace(benchmark, queries=own, relevant=[alike[group] for group in own.groups])
    queries = {}
    for modality, view in (("text", "t"), ("image", "i")):
        places = [place for place, row in enumerate(candidates[view].rows) if row < len(own)]
        rows = [candidates[view].rows[place] for place in places]
        queries[modality] = Embedded(rows, candidates[view].vectors[places])
    retrieval, hits = evaluate_retrieval(asked, queries, {view: candidates[view] for view in "ti"}, by_group=True)
    return {name: retrieval[name] for name in VIEW_DIRECTIONS}, {name: hits[name] for name in VIEW_DIRECTIONS}


def environment() -> dict:
    """Return where and with what a run was made, without any path of the machine."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip() or None,
        "versions": versions(("torch", "transformers", "datasets", "numpy")),
        "hardware": machine(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
