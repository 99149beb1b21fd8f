"""How fast exact search is, and how fast vectors become figures."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from evaluation.measure.metrics import CONFIDENCE, METRICS, RESAMPLES, intervals, query_metrics
from evaluation.measure.retrieval import relevant_ranks, similarity
from evaluation.vectors.nearest import ExactSearch, FaissSearch
from evaluation.vectors.store import Vectors, open_vectors
from research.benchmarks import arguments
from research.benchmarks.measure import of_rounds, print_table, ratios, run_paired, spread, time_paired

MEASURES = {
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "mrr": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
}
CHUNK = 100
Relevant = list[dict[int, int]]  # for each query {candidate: grade}
DIRECTIONS, CLUSTER, WRITE = 96, 40, 50_000


def write_vectors(path: Path, count: int, dimension: int, seed: int, clusters: np.ndarray) -> None:
    """Write (count, dimension) unit vectors around the clusters' centres."""
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


@contextmanager
def made_up_vectors(
    options: arguments.Search | arguments.Compression | arguments.Stores, size: int
) -> Iterator[tuple[Path, Vectors, Vectors]]:
    """Write a corpus of a size and its queries to a temporary folder; yield the folder and both."""
    random = np.random.default_rng(options.seed)
    clusters = random.standard_normal((max(1, size // CLUSTER), DIRECTIONS), dtype=np.float32)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        files = [Path(scratch, f"{name}.npy") for name in ("corpus", "queries")]
        for number, (file, count) in enumerate(zip(files, (size, options.queries), strict=True), 1):
            write_vectors(file, count, options.dimension, options.seed + number, clusters)
        yield Path(scratch), *map(open_vectors, files)


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


def search(options: arguments.Search) -> dict:
    """Print how fast each way searches, by size of the corpus."""
    header = ["", "times faster than faiss flat", "ms a query", "s to get ready", "peak MB", "rows as faiss"]
    title = f"k = {options.k}, {options.dimension} dimensions, seed {options.seed}"
    return print_table(header, (row for size in options.sizes for row in compare_ways(options, size)), title)


def compare_ways(options: arguments.Search, size: int) -> list[list[str]]:
    """Return rows of the table for one size of the corpus."""
    with made_up_vectors(options, size) as (folder, *_):
        told = (str(folder), options.slow_queries, options.k)
        found = run_paired("research.benchmarks.search:measure", WAYS, options.repeats, *told)
        rows = {way: np.load(folder / f"{way}.npy") for way in WAYS}
    expected = rows["faiss flat"]
    return [
        [
            f"{size:,}, {way} ({figures['precision'][-1]})",
            spread(ratios(found["faiss flat"]["milliseconds"], figures["milliseconds"])),
            spread(of_rounds(figures["milliseconds"])),
            f"{float(np.median(figures['ready'])):.1f}",
            f"{max(figures['megabytes']):,.0f}",
            f"{(rows[way][: len(expected)] == expected).mean():.4%}",
        ]
        for way, figures in found.items()
    ]


def measure(way: str, folder: str, slow_queries: int, k: int) -> dict:
    """Return milliseconds and peak memory of one way, in this process; the rows that it finds go to a file."""
    corpus, queries = (open_vectors(Path(folder) / f"{name}.npy") for name in ("corpus", "queries"))
    if way != "ours":  # the others take milliseconds for each query, and do not profit from more of them
        queries = Vectors(queries.read(0, min(slow_queries, len(queries))), queries.ids[:slow_queries])
    start = time.perf_counter()
    engine = WAYS[way](corpus, torch.get_num_threads())
    ready = time.perf_counter() - start
    start = time.perf_counter()
    rows = engine.search(queries, k)[0]
    seconds = time.perf_counter() - start
    np.save(Path(folder) / f"{way}.npy", rows)
    return {
        "ready": ready,
        "milliseconds": 1000 * seconds / len(queries),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "precision": getattr(engine, "precision", "float32"),
    }


def made_up(queries: int, candidates: int, dimension: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, Relevant]:
    """Return unit vectors of queries and candidates; each query has one to three relevant candidates."""
    random = np.random.default_rng(seed)
    corpus = random.standard_normal((candidates, dimension), dtype=np.float32)
    relevant = []
    for _ in range(queries):
        rows = random.choice(candidates, random.integers(1, 4), replace=False).tolist()
        relevant.append({row: int(random.integers(1, 4)) for row in rows})
    noise = random.standard_normal((queries, dimension), dtype=np.float32)
    asked = np.stack([corpus[list(grades)].mean(0) for grades in relevant]) + 2 * noise
    return *(torch.nn.functional.normalize(torch.from_numpy(rows), dim=1) for rows in (asked, corpus)), relevant


def ours(asked: torch.Tensor, corpus: torch.Tensor, relevant: Relevant) -> dict[str, np.ndarray]:
    """Return each metric of each query by the evaluation."""
    ranks = relevant_ranks(asked, corpus, [list(grades) for grades in relevant], torch.arange(len(corpus)))
    return query_metrics(ranks, [np.array(list(grades.values())) for grades in relevant])


def with_pytrec_eval(asked: torch.Tensor, corpus: torch.Tensor, relevant: Relevant) -> dict[str, np.ndarray]:
    """Return each metric of each query by pytrec_eval."""
    import pytrec_eval

    names = [str(row) for row in range(len(corpus))]
    found = {metric: [] for metric in METRICS}
    for start in range(0, len(asked), CHUNK):
        scores = similarity(asked[start : start + CHUNK], corpus).tolist()
        run = {str(row): dict(zip(names, line, strict=True)) for row, line in enumerate(scores)}
        qrels = {
            str(row): {str(candidate): grade for candidate, grade in grades.items()}
            for row, grades in enumerate(relevant[start : start + CHUNK])
        }
        values = pytrec_eval.RelevanceEvaluator(qrels, set(MEASURES.values())).evaluate(run)
        for metric, measure in MEASURES.items():
            found[metric] += [values[query][measure] for query in qrels]
    return {metric: np.array(values) for metric, values in found.items()}


def with_scipy(values: dict[str, np.ndarray], seed: int) -> dict[str, list[float]]:
    """Return the interval of each metric by SciPy."""
    bounds = {}
    for metric, row in values.items():
        options = {"n_resamples": RESAMPLES, "confidence_level": CONFIDENCE, "method": "percentile"}
        interval = scipy.stats.bootstrap((row,), np.mean, rng=np.random.default_rng(seed), **options)
        bounds[metric] = list(interval.confidence_interval)
    return bounds


def metrics(options: arguments.Metrics) -> dict:
    """Print how many times faster the evaluation is than pytrec_eval and SciPy."""
    header = ["", "times faster", "s", "s of the other"]
    return print_table(header, compare_metrics(options), f"{options.dimension} dimensions, seed {options.seed}")


def compare_metrics(options: arguments.Metrics) -> Iterator[list[str]]:
    """Yield the rows of the table."""
    for candidates in options.candidates:
        told = made_up(options.queries, candidates, options.dimension, options.seed)
        values, theirs = ours(*told), with_pytrec_eval(*told)
        for metric in METRICS:
            np.testing.assert_allclose(values[metric], theirs[metric], atol=1e-9, err_msg=metric)
        what = f"{options.queries:,} x {candidates:,}: ranks and metrics, against pytrec_eval"
        ways = (lambda told=told: ours(*told), lambda told=told: with_pytrec_eval(*told))
        yield compare_two(what, *ways, options.repeats)
    ways = (lambda: intervals(values, options.seed), lambda: with_scipy(values, options.seed))
    yield compare_two(f"{options.queries:,}: intervals, against SciPy", *ways, options.repeats)


def compare_two(what: str, own: Callable, other: Callable, repeats: int) -> list[str]:
    """Return a row of the table."""
    seconds = time_paired({"own": own, "other": other}, repeats)
    return [what, spread(ratios(seconds["other"], seconds["own"])), *(spread(of_rounds(s)) for s in seconds.values())]
