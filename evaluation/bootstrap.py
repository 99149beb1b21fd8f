"""How sure a figure is: percentile bootstrap intervals, and paired tests of a difference."""

from collections.abc import Iterator

import numpy as np

RESAMPLES = 1000
PERMUTATIONS = 10_000
CONFIDENCE = 0.95
# So many numbers at a time, whatever the number of items.
BLOCK = 4_000_000


def resampled_counts(items: int, seed: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each of N items is drawn when N are drawn with replacement: blocks (r, N) of `resamples` rows."""
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // max(1, items))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(items, size=(rows, items)) + items * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items)


def bounds(samples: np.ndarray) -> list:
    """Of resampled figures (R, ...) the lower and the upper bound of the interval."""
    tail = (1 - CONFIDENCE) / 2
    return np.nanquantile(samples, [tail, 1 - tail], axis=0).tolist()


def intervals(
    values: dict[str, np.ndarray], seed: int = 0, weights: np.ndarray | None = None, resamples: int = RESAMPLES
) -> dict[str, list[float]]:
    """95 % percentile bootstrap intervals of means over items (queries, products).

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
    """The differences second - first of the means over the same N items, one for each of M metrics.

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
    """(N, M) -> (resamples, M)."""
    weights = np.ones(len(table)) if weights is None else weights
    return np.concatenate(
        [
            (counts @ (weights[:, None] * table)) / (counts @ weights)[:, None]
            for counts in resampled_counts(len(table), seed, resamples)
        ]
    )
