"""Score one run of the study on both galleries and on the transfer set."""

import dataclasses
import os
import subprocess
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

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
from research.study.arguments import EASY_SET, HARD_SET, TRANSFER_SET
from research.study.models import TwoTowers
from research.study.results import pack
from research.study.variants import Variant

# Scores of single queries are kept of this metric. With groups as candidates it is 0 or 1: one bit for each query.
METRIC = "recall@10"
VIEW_DIRECTIONS = ("t2i", "i2t")


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
    """Score t2i and i2t with the benchmark's products as queries: each title among the pictures, and the other way.

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
