"""How fast vectors become figures: the evaluation's exact ranks against pytrec_eval, its intervals against SciPy's.

    python -m research.benchmarks.metrics [--queries 2000] [--candidates 1000 10000] [--repeats 3]

Ranks and metrics: from vectors to Recall@1/5/10, MRR and nDCG@10 of each query, over all candidates. pytrec_eval is
given every similarity of a query, as it wants them, 100 queries at a time; both must find the same figures, else
nothing is timed. Intervals: 95 % percentile bootstrap of five means, 1,000 resamples. pytrec_eval comes with
pytrec-eval-terrier, which the extra `dev` installs.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import numpy as np
import scipy.stats
import torch

from common_moon2.cli import whole
from evaluation.measure.metrics import CONFIDENCE, METRICS, RESAMPLES, intervals, query_metrics
from evaluation.measure.retrieval import relevant_ranks, similarity
from research.benchmarks.measure import machine, print_table, ratios, spread, time_paired

MEASURES = {
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "mrr": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
}
CHUNK = 100
Relevant = list[dict[int, int]]  # for each query {candidate: grade}


def made_up(queries: int, candidates: int, dimension: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, Relevant]:
    """Unit vectors of queries and candidates; each query has one to three relevant candidates."""
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
    ranks = relevant_ranks(asked, corpus, [list(grades) for grades in relevant], torch.arange(len(corpus)))
    return query_metrics(ranks, [np.array(list(grades.values())) for grades in relevant])


def with_pytrec_eval(asked: torch.Tensor, corpus: torch.Tensor, relevant: Relevant) -> dict[str, np.ndarray]:
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
    bounds = {}
    for metric, row in values.items():
        options = {"n_resamples": RESAMPLES, "confidence_level": CONFIDENCE, "method": "percentile"}
        interval = scipy.stats.bootstrap((row,), np.mean, rng=np.random.default_rng(seed), **options)
        bounds[metric] = list(interval.confidence_interval)
    return bounds


def compare_metrics(candidates: int, options: argparse.Namespace) -> tuple[list[str], dict[str, np.ndarray]]:
    """A row of the table, and the figures of each query."""
    asked, corpus, relevant = made_up(options.queries, candidates, options.dimension, options.seed)
    mine, theirs = ours(asked, corpus, relevant), with_pytrec_eval(asked, corpus, relevant)
    for metric in METRICS:
        np.testing.assert_allclose(mine[metric], theirs[metric], atol=1e-9, err_msg=metric)
    ways = (lambda: ours(asked, corpus, relevant), lambda: with_pytrec_eval(asked, corpus, relevant))
    what = f"{options.queries:,} x {candidates:,}: ranks and metrics, against pytrec_eval"
    return row(what, *ways, options.repeats), mine


def row(what: str, own: Callable, other: Callable, repeats: int) -> list[str]:
    seconds = time_paired({"own": own, "other": other}, repeats)
    cells = [spread(ratios(seconds[name], [1] * repeats)) for name in ("own", "other")]
    return [what, spread(ratios(seconds["other"], seconds["own"])), *cells]


def compare(options: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of the table."""
    for candidates in options.candidates:
        cells, values = compare_metrics(candidates, options)
        yield cells
    ways = (lambda: intervals(values, options.seed), lambda: with_scipy(values, options.seed))
    yield row(f"{options.queries:,}: intervals, against SciPy", *ways, options.repeats)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=whole(1), default=2000)
    parser.add_argument("--candidates", type=whole(10), nargs="+", default=[1000, 10_000])
    parser.add_argument("--dimension", type=whole(1), default=256)
    parser.add_argument("--repeats", type=whole(1), default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    print(f"{options.dimension} dimensions; {machine()}, seed {options.seed}\n")
    print_table(["", "times faster", "s", "s of the other"], compare(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
