"""How fast exact search is: `evaluation.vectors.nearest` against faiss's flat index and a plain NumPy loop.

    python -m research.benchmarks.search [--sizes 100000 636241] [--dimension 256] [--queries 4096] [--repeats 3]

The vectors are random but have a structure as embeddings do: products in clusters, most of the variance in some
directions, noise over all. All ways get as many threads; each run is a process of its own that reads the vectors from
a file, and whose peak memory is measured. The corpus is made ready before the clock starts, which is reported beside.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from common_moon2.cli import whole
from evaluation.vectors.nearest import ExactSearch, FaissSearch
from evaluation.vectors.store import Vectors, open_vectors
from research.benchmarks.measure import machine, print_table, ratios, spread

DIRECTIONS, CLUSTER, WRITE = 96, 40, 50_000


def write_vectors(path: Path, count: int, dimension: int, seed: int, clusters: np.ndarray) -> None:
    """(count, dimension) unit vectors around the clusters' centres."""
    random = np.random.default_rng(seed)
    spread_of = np.linspace(1, 0.1, DIRECTIONS, dtype=np.float32)[:, None]
    # The same for corpus and queries, whose seeds differ.
    mixing = np.random.default_rng(0).normal(size=(DIRECTIONS, dimension)).astype(np.float32) * spread_of
    array = np.lib.format.open_memmap(path, "w+", np.float32, (count, dimension))
    for start in range(0, count, WRITE):
        rows = min(WRITE, count - start)
        hidden = clusters[random.integers(len(clusters), size=rows)]
        hidden = hidden + 0.6 * random.standard_normal((rows, DIRECTIONS), dtype=np.float32)
        block = hidden @ mixing + 0.3 * random.standard_normal((rows, dimension), dtype=np.float32)
        array[start : start + rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    array.flush()


class NumpySearch:
    """The loop that one would write: a product for each batch of queries, then its k largest."""

    def __init__(self, corpus: Vectors):
        self.corpus = corpus.read(0, len(corpus))

    def search(self, queries: Vectors, k: int):
        rows = []
        for start in range(0, len(queries), 64):
            scores = queries.read(start, min(start + 64, len(queries))) @ self.corpus.T
            best = np.argpartition(scores, -k, axis=1)[:, -k:]
            order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
            rows.append(np.take_along_axis(best, order, 1))
        return np.concatenate(rows), None


WAYS = {
    "ours": lambda corpus, threads: ExactSearch(corpus, threads=threads),
    "faiss flat": lambda corpus, threads: FaissSearch(corpus, "faiss", threads),
    "NumPy loop": lambda corpus, threads: NumpySearch(corpus),
}


def measure(options: argparse.Namespace) -> dict:
    """One way, in this process."""
    folder = Path(options.folder)
    corpus, queries = (open_vectors(folder / f"{name}.npy") for name in ("corpus", "queries"))
    if options.way != "ours":  # the others take milliseconds for each query, and do not profit from more of them
        queries = Vectors(queries.read(0, min(options.slow_queries, len(queries))), queries.ids[: options.slow_queries])
    start = time.perf_counter()
    engine = WAYS[options.way](corpus, torch.get_num_threads())
    ready = time.perf_counter() - start
    start = time.perf_counter()
    rows = engine.search(queries, options.k)[0]
    seconds = time.perf_counter() - start
    np.save(folder / f"{options.way}.npy", rows)
    return {
        "ready": ready,
        "milliseconds": 1000 * seconds / len(queries),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "precision": getattr(engine, "precision", "float32"),
    }


def compare(options: argparse.Namespace, size: int) -> list[list[str]]:
    """Rows of the table for one size of the corpus."""
    found = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        random = np.random.default_rng(options.seed)
        clusters = random.standard_normal((max(1, size // CLUSTER), DIRECTIONS), dtype=np.float32)
        write_vectors(Path(folder) / "corpus.npy", size, options.dimension, options.seed + 1, clusters)
        write_vectors(Path(folder) / "queries.npy", options.queries, options.dimension, options.seed + 2, clusters)
        words = ["--k", str(options.k), "--slow_queries", str(options.slow_queries), "--folder", folder]
        for _ in range(options.repeats):
            for way in WAYS:
                command = [sys.executable, "-m", "research.benchmarks.search", *words, "--way", way]
                root = Path(__file__).parents[2]
                run = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True, text=True)
                found[way].append(json.loads(run.stdout.splitlines()[-1]))
        rows = {way: np.load(Path(folder) / f"{way}.npy") for way in WAYS}
    times = {way: [run["milliseconds"] for run in runs] for way, runs in found.items()}
    return [
        [
            f"{size:,}, {way} ({found[way][-1]['precision']})",
            spread(ratios(times["faiss flat"], times[way])),
            spread(ratios(times[way], [1] * options.repeats)),
            f"{float(np.median([run['ready'] for run in found[way]])):.1f}",
            f"{max(run['megabytes'] for run in found[way]):,.0f}",
            f"{(rows[way][: len(rows['faiss flat'])] == rows['faiss flat']).mean():.4%}",
        ]
        for way in WAYS
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=whole(1), nargs="+", default=[100_000, 636_241])
    parser.add_argument("--dimension", type=whole(1), default=256)
    parser.add_argument("--queries", type=whole(1), default=4096)
    parser.add_argument("--slow_queries", type=whole(1), default=512, help="for faiss and NumPy")
    parser.add_argument("--k", type=whole(1), default=10)
    parser.add_argument("--repeats", type=whole(1), default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", help="where the vectors are written (default: the system's temporary folder)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.way:
        print(json.dumps(measure(options)))
        return 0
    print(f"k = {options.k}, {options.dimension} dimensions; {machine()}, seed {options.seed}\n")
    header = ["", "times faster than faiss flat", "ms a query", "s to get ready", "peak MB", "rows as faiss"]
    print_table(header, (row for size in options.sizes for row in compare(options, size)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
