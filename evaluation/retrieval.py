"""Exact search and its metrics, in the five directions of MOON2.0, section 6."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from evaluation.benchmark import Benchmark

CUTOFFS = (1, 5, 10)
# direction: (modality of the queries, view of the corpus)
DIRECTIONS = {
    "t2mm": ("text", "mm"),
    "i2mm": ("image", "mm"),
    "mm2mm": ("mixed", "mm"),
    "t2i": ("text", "i"),
    "i2t": ("image", "t"),
}


class Embedded(NamedTuple):
    """Vectors (N, D) and the N rows of the table that they belong to."""

    rows: list[int]
    vectors: torch.Tensor


def similarity(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of L2-normalised float32 vectors (A, D) and (B, D), as (A, B) float32.

    Sums run in float64 and are rounded once: a float32 product depends on how the matrices are cut into blocks, and
    equal products would then tie or not by accident.
    """
    return (left.double() @ right.double().T).float()


def relevant_ranks(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    relevant: Sequence[Sequence[int]],
    tie_order: torch.Tensor,
    query_chunk: int = 128,
    candidate_chunk: int = 8192,
    description: str = "search",
) -> list[np.ndarray]:
    """The rank (from 1) of every relevant candidate among all candidates, by exact search.

    Memory beyond the arguments: query_chunk * N similarities.

    Args:
        queries: (Q, D); candidates: (N, D), both L2-normalised.
        relevant: for each query, the indices of its relevant candidates.
        tie_order: (N,) integers, all different; of equally similar candidates the one with the lower value is first.

    Returns:
        For each query the ranks, in the order of `relevant`.
    """
    ranks = []
    starts = tqdm(range(0, len(queries), query_chunk), desc=description, unit="chunk", leave=False)
    for start in starts:
        chunk = queries[start : start + query_chunk]
        scores = torch.empty(len(chunk), len(candidates))
        for column in range(0, len(candidates), candidate_chunk):
            block = candidates[column : column + candidate_chunk]
            scores[:, column : column + len(block)] = similarity(chunk, block)
        for row, targets in zip(scores, relevant[start : start + query_chunk], strict=True):
            better = [
                (row > row[target]).sum() + ((row == row[target]) & (tie_order < tie_order[target])).sum()
                for target in targets
            ]
            ranks.append(np.array([int(count) + 1 for count in better]))
    return ranks


def retrieval_metrics(ranks: Sequence[np.ndarray]) -> dict[str, float]:
    """Means over queries: Recall@k = |relevant in the top k| / |relevant|, and MRR = 1 / rank of the first relevant."""
    # fmean sums exactly, so the order of the queries does not show in the last digit.
    metrics = {f"recall@{k}": fmean((row <= k).mean() for row in ranks) for k in CUTOFFS}
    return metrics | {"mrr": fmean(1 / row.min() for row in ranks)}


def chance_metrics(num_relevant: Sequence[int], num_candidates: int) -> dict[str, float]:
    """What `retrieval_metrics` gives on average if the candidates stand in random order; exact, not simulated."""
    metrics = {f"recall@{k}": min(k, num_candidates) / num_candidates for k in CUTOFFS}
    reciprocal = {count: _chance_reciprocal_rank(count, num_candidates) for count in set(num_relevant)}
    return metrics | {"mrr": fmean(reciprocal[count] for count in num_relevant)}


def _chance_reciprocal_rank(relevant: int, candidates: int) -> float:
    """E[1 / rank of the first of R relevant among N in random order] = sum over j of P(first = j) / j."""
    ranks = np.arange(1, candidates - relevant + 2)
    # P(first = j + 1) / P(first = j) = (N - j - R + 1) / (N - j), from P(first = 1) = R / N
    steps = (candidates - ranks[:-1] - relevant + 1) / (candidates - ranks[:-1])
    probabilities = relevant / candidates * np.concatenate([[1.0], np.cumprod(steps)])
    return float((probabilities / ranks).sum())


def evaluate_retrieval(
    benchmark: Benchmark, queries: dict[str, Embedded], corpus: dict[str, Embedded]
) -> dict[str, dict]:
    """Scores the five directions.

    A product that lacks the corpus view of a direction is no candidate there, and a query none of whose relevant
    products is a candidate is not scored; both are counted (our choice, where the paper is silent).

    Args:
        queries: vectors by modality ("text", "image", "mixed"); corpus: vectors by view ("t", "i", "mm").

    Returns:
        For each direction: metrics and `chance` (both `None` if there is nothing to score), and the counts `queries`,
        `queries_left_out`, `candidates`, `candidates_left_out`, `judgements_left_out`.
    """
    ids = benchmark.corpus.ids
    tie_order = torch.empty(len(ids), dtype=torch.long)
    tie_order[sorted(range(len(ids)), key=ids.__getitem__)] = torch.arange(len(ids))

    results = {}
    for direction, (modality, view) in DIRECTIONS.items():
        asked, candidates = queries[modality], corpus[view]
        position = {row: index for index, row in enumerate(candidates.rows)}
        judged = [sorted(benchmark.relevant[row]) for row in asked.rows]
        relevant = [[position[row] for row in rows if row in position] for rows in judged]
        scored = [index for index, targets in enumerate(relevant) if targets]
        relevant_scored = [relevant[index] for index in scored]
        results[direction] = {
            "queries": len(scored),
            "queries_left_out": len(asked.rows) - len(scored),
            "candidates": len(candidates.rows),
            "candidates_left_out": len(ids) - len(candidates.rows),
            "judgements_left_out": sum(map(len, judged)) - sum(map(len, relevant)),
            "metrics": None,
            "chance": None,
        }
        if scored:
            ranks = relevant_ranks(
                asked.vectors[scored],
                candidates.vectors,
                relevant_scored,
                tie_order[candidates.rows],
                description=f"search {direction}",
            )
            results[direction]["metrics"] = retrieval_metrics(ranks)
            results[direction]["chance"] = chance_metrics([len(row) for row in relevant_scored], len(candidates.rows))
    return results
