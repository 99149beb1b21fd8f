"""Figures of rankings, and how sure they are: percentile bootstrap intervals, and paired tests of a difference."""

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

# direction: (modality of the queries, view of the corpus)
DIRECTIONS = {
    "t2mm": ("text", "mm"),
    "i2mm": ("image", "mm"),
    "mm2mm": ("mixed", "mm"),
    "t2i": ("text", "i"),
    "i2t": ("image", "t"),
}
# Not one of the paper's: what the titles alone would give, which text-only encoders can be compared by.
ALL_DIRECTIONS = DIRECTIONS | {"t2t": ("text", "t")}
ARROWS = {name: name.replace("2", "->") for name in ALL_DIRECTIONS}  # for people

CUTOFFS = (1, 5, 10)
NDCG_CUTOFF = 10
METRICS = (*(f"recall@{k}" for k in CUTOFFS), "mrr", f"ndcg@{NDCG_CUTOFF}")
METRIC_NAMES = dict(zip(METRICS, ("R@1", "R@5", "R@10", "MRR", "nDCG@10"), strict=True))


def query_metrics(ranks: Sequence[np.ndarray], grades: Sequence[np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Return the metrics of each query.

    Recall@k = |relevant in the top k| / |relevant|; MRR = 1 / rank of the first relevant; nDCG@10 with the grade as
    gain and 1 / log2(rank + 1) as discount, against the best order of the relevant (as trec_eval and mteb have it).

    Args:
        ranks: for each of Q >= 1 queries the ranks (from 1) of its relevant candidates, at least one.
        grades: for each query the grades above zero in the same order; all 1 by default.

    Returns:
        {metric: (Q,) float64}.
    """
    counts = np.array([len(row) for row in ranks])
    starts = np.cumsum(counts) - counts
    query = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate(ranks).astype(np.int64)
    gain = np.ones(len(rank)) if grades is None else np.concatenate(grades).astype(np.float64)

    def per_query(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts)

    metrics = {f"recall@{k}": per_query((rank <= k).astype(np.float64)) / counts for k in CUTOFFS}
    metrics["mrr"] = 1 / np.minimum.reduceat(rank, starts)
    found = np.where(rank <= NDCG_CUTOFF, gain / np.log2(rank + 1), 0)
    place = np.arange(len(rank)) - starts[query]
    ideal = np.where(place < NDCG_CUTOFF, gain[np.lexsort((-gain, query))] / np.log2(place + 2), 0)
    metrics[f"ndcg@{NDCG_CUTOFF}"] = per_query(found) / per_query(ideal)
    return metrics


def means(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of every metric."""
    # fmean sums exactly, so the order of the queries does not show in the last digit.
    return {metric: fmean(row.tolist()) for metric, row in values.items()}


def retrieval_metrics(ranks: Sequence[np.ndarray], grades: Sequence[np.ndarray] | None = None) -> dict[str, float]:
    """Return the means of `query_metrics` over the queries."""
    return means(query_metrics(ranks, grades))


def chance_metrics(grades: Sequence[np.ndarray], num_candidates: int) -> dict[str, float]:
    """Return the expected `retrieval_metrics` of candidates in random order; exact, not simulated.

    Args:
        grades: for each query the grades of its relevant candidates, at least one.
    """
    metrics = {f"recall@{k}": min(k, num_candidates) / num_candidates for k in CUTOFFS}
    reciprocal = {count: _chance_reciprocal_rank(count, num_candidates) for count in {len(row) for row in grades}}
    metrics["mrr"] = fmean(reciprocal[len(row)] for row in grades)
    discounts = 1 / np.log2(np.arange(min(NDCG_CUTOFF, num_candidates)) + 2)
    ideal = {grade: _ideal(grade) for grade in {tuple(sorted(row, reverse=True)) for row in grades}}
    metrics[f"ndcg@{NDCG_CUTOFF}"] = fmean(
        float(sum(row)) / num_candidates * discounts.sum() / ideal[tuple(sorted(row, reverse=True))] for row in grades
    )
    return metrics


def _ideal(grades: tuple) -> float:
    best = np.array(grades[:NDCG_CUTOFF], dtype=np.float64)
    return float((best / np.log2(np.arange(len(best)) + 2)).sum())


def _chance_reciprocal_rank(relevant: int, candidates: int) -> float:
    """Return E[1 / rank of the first of R relevant among N in random order] = sum over j of P(first = j) / j."""
    ranks = np.arange(1, candidates - relevant + 2)
    # P(first = j + 1) / P(first = j) = (N - j - R + 1) / (N - j), from P(first = 1) = R / N
    steps = (candidates - ranks[:-1] - relevant + 1) / (candidates - ranks[:-1])
    probabilities = relevant / candidates * np.concatenate([[1.0], np.cumprod(steps)])
    return float((probabilities / ranks).sum())


RESAMPLES = 1000
PERMUTATIONS = 10_000
CONFIDENCE = 0.95
# So many numbers at a time, whatever the number of items.
BLOCK = 4_000_000


def resampled_counts(items: int, seed: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """Yield how often each of N items is drawn when N are drawn with replacement: blocks (r, N) of `resamples` rows."""
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // max(1, items))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(items, size=(rows, items)) + items * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items)


def bounds(samples: np.ndarray) -> list:
    """Return the lower and the upper bound of the interval of resampled figures (R, ...)."""
    tail = (1 - CONFIDENCE) / 2
    return np.nanquantile(samples, [tail, 1 - tail], axis=0).tolist()


def intervals(
    values: dict[str, np.ndarray], seed: int = 0, weights: np.ndarray | None = None, resamples: int = RESAMPLES
) -> dict[str, list[float]]:
    """Return 95 % percentile bootstrap intervals of means over items (queries, products).

    Args:
        values: {metric: (N,)}.
        weights: (N,), for weighted means.

    Returns:
        {metric: [low, high]}.
    """
    table = np.stack(list(values.values()), axis=1)
    low, high = bounds(_resampled_means(table, seed, weights, resamples))
    return {metric: [low[column], high[column]] for column, metric in enumerate(values)}


def paired_test(
    first: np.ndarray,
    second: np.ndarray,
    seed: int = 0,
    weights: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
) -> list[dict]:
    """Test the differences second - first of the means over the same N items, one for each of M metrics.

    Args:
        first, second: (N, M).
        weights: (N,), for weighted means.

    Returns:
        For each metric `difference`, `interval` (paired bootstrap: items are drawn, each with both its figures) and
        `p_value` (two-sided: the share of random exchanges of the two figures of items that differ as much).
    """
    weights = np.ones(len(first)) if weights is None else weights
    difference = second - first
    low, high = bounds(_resampled_means(difference, seed, weights, resamples))
    sums = weights[:, None] * difference
    observed = sums.sum(axis=0)
    generator = np.random.default_rng(seed)
    extreme = np.zeros(len(observed), dtype=int)
    block = max(1, BLOCK // max(1, len(first)))
    for start in range(0, permutations, block):
        signs = generator.integers(2, size=(min(block, permutations - start), len(first))) * 2.0 - 1
        # A hair's breadth of tolerance: the same exchange summed in another order must count as as extreme.
        extreme += (np.abs(signs @ sums) >= np.abs(observed) * (1 - 1e-12)).sum(axis=0)
    return [
        {
            "difference": float(observed[column] / weights.sum()),
            "interval": [low[column], high[column]],
            "p_value": float((extreme[column] + 1) / (permutations + 1)),
        }
        for column in range(difference.shape[1])
    ]


def _resampled_means(table: np.ndarray, seed: int, weights: np.ndarray | None, resamples: int) -> np.ndarray:
    """Return (resamples, M) means of (N, M)."""
    weights = np.ones(len(table)) if weights is None else weights
    return np.concatenate(
        [
            (counts @ (weights[:, None] * table)) / (counts @ weights)[:, None]
            for counts in resampled_counts(len(table), seed, resamples)
        ]
    )
