"""Exact search, in the five directions of MOON2.0, section 6."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from common_moon2.cli import UserError
from evaluation.measure.metrics import (
    ALL_DIRECTIONS,
    DIRECTIONS,
    chance_metrics,
    intervals,
    means,
    query_metrics,
    retrieval_metrics,
)
from evaluation.tables.benchmark import Benchmark

__all__ = ["DIRECTIONS", "Embedded", "evaluate_retrieval", "relevant_ranks", "retrieval_metrics", "similarity"]


CANDIDATES = 8192  # that are compared at a time


class Embedded(NamedTuple):
    """Vectors (N, D), dense or sparse, and the N rows of the table (or tables) that they belong to."""

    rows: list[int]
    vectors: Any


class QueryValues(NamedTuple):
    """The metrics of each query of a direction: Q query ids, and {metric: (Q,)}."""

    ids: list[str]
    values: dict[str, np.ndarray]


def similarity(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the cosine similarity of L2-normalised float32 vectors (A, D) and (B, D), as (A, B) float32.

    Sums run in float64 and are rounded once: a float32 product depends on how the matrices are cut into blocks, and
    equal products would then tie or not by accident.
    """
    return (left.double() @ right.double().T).float()


def relevant_ranks(
    queries: Any,
    candidates: Any,
    relevant: Sequence[Sequence[int]],
    tie_order: torch.Tensor,
    query_chunk: int = 128,
    candidate_chunk: int = CANDIDATES,
    description: str = "search",
    groups: torch.Tensor | None = None,
    scores_of: Callable[[Any, Any], torch.Tensor] = similarity,
) -> list[np.ndarray]:
    """Return the rank (from 1) of every relevant candidate among all candidates, by exact search.

    Memory beyond the arguments: query_chunk * N similarities.

    Args:
        queries: (Q, D); candidates: (N, D), both L2-normalised.
        relevant: for each query, the indices of its relevant candidates.
        tie_order: (N,) integers, all different; of equally similar candidates the one with the lower value is first.
        groups: (N,) the group 0..G-1 of each candidate. Then a group counts as one candidate, as similar as the most
            similar of its members; `relevant` and `tie_order`, now (G,), are about groups.
        scores_of: the similarities (A, B) of A queries and B candidates.
        candidate_chunk: how many candidates `scores_of` gets at a time.

    Returns:
        For each query the ranks, in the order of `relevant`.
    """
    ranks = []
    total, size = queries.shape[0], candidates.shape[0]
    starts = tqdm(range(0, total, query_chunk), desc=description, unit="chunk", leave=False)
    for start in starts:
        chunk = queries[start : start + query_chunk]
        scores = torch.empty(chunk.shape[0], size)
        for column in range(0, size, candidate_chunk):
            block = candidates[column : column + candidate_chunk]
            scores[:, column : column + block.shape[0]] = scores_of(chunk, block)
        if groups is not None:
            lowest = torch.full((len(scores), len(tie_order)), -torch.inf)
            scores = lowest.scatter_reduce_(1, groups.expand_as(scores), scores, "amax")
        for row, targets in zip(scores, relevant[start : start + query_chunk], strict=True):
            better = [
                (row > row[target]).sum() + ((row == row[target]) & (tie_order < tie_order[target])).sum()
                for target in targets
            ]
            ranks.append(np.array([int(count) + 1 for count in better]))
    return ranks


def evaluate_retrieval(
    benchmark: Benchmark,
    queries: dict[str, Embedded],
    corpus: dict[str, Embedded],
    by_group: bool = False,
    seed: int = 0,
    scores_of: Callable[[Any, Any], torch.Tensor] = similarity,
    candidate_chunk: int | None = None,
) -> tuple[dict[str, dict], dict[str, QueryValues]]:
    """Score the five directions, and t2t.

    A product that lacks the corpus view of a direction is no candidate there, and a query none of whose relevant
    products is a candidate is not scored; both are counted (our choice, where the paper is silent).

    Args:
        queries: vectors by modality ("text", "image", "mixed"); corpus: vectors by view ("t", "i", "mm"), its rows
            counted through `benchmark.candidates`. A direction for which there is none is not scored.
        by_group: products of one group count as one candidate, and as one hit.
        seed: of the bootstrap.
        scores_of, candidate_chunk: see `relevant_ranks`.

    Returns:
        For each direction: metrics, their `intervals` and `chance` (all `None` if there is nothing to score), and the
        counts `queries`, `queries_left_out`, `candidates`, `candidates_left_out`, `judgements_left_out`; `None` for a
        direction without vectors. And, for the directions that have metrics, those of each query.

    Raises:
        UserError: `by_group`, but the products have no groups.
    """
    keys = candidate_keys(benchmark, by_group)
    order = {key: place for place, key in enumerate(sorted(set(keys)))}

    results: dict[str, dict | None] = {}
    per_query = {}
    for direction, (modality, view) in ALL_DIRECTIONS.items():
        if modality not in queries or view not in corpus:
            results[direction] = None
            continue
        asked, candidates = queries[modality], corpus[view]
        shown = [keys[row] for row in candidates.rows]
        position = {key: index for index, key in enumerate(dict.fromkeys(shown))}
        present = set(candidates.rows)
        judged = [benchmark.relevant[row] for row in asked.rows]
        found = [{row: grade for row, grade in grades.items() if row in present} for grades in judged]
        # By id, so that the bootstrap draws the same queries wherever they stand.
        scored = [index for index, grades in enumerate(found) if grades]
        scored.sort(key=lambda index: benchmark.queries.ids[asked.rows[index]])
        graded = [_best_grades(found[index], keys, position) for index in scored]
        results[direction] = {
            "queries": len(scored),
            "queries_left_out": len(asked.rows) - len(scored),
            "candidates": len(position),
            "candidates_left_out": len(keys) - len(candidates.rows),
            "judgements_left_out": sum(map(len, judged)) - sum(map(len, found)),
            "metrics": None,
            "intervals": None,
            "chance": None,
        }
        if scored:
            ranks = relevant_ranks(
                asked.vectors[scored],
                candidates.vectors,
                [list(best) for best in graded],
                torch.tensor([order[key] for key in position]),
                description=f"search {direction}",
                groups=torch.tensor([position[key] for key in shown]) if by_group else None,
                scores_of=scores_of,
                candidate_chunk=candidate_chunk or CANDIDATES,
            )
            grades = [np.array(list(best.values()), dtype=np.float64) for best in graded]
            values = query_metrics(ranks, grades)
            per_query[direction] = QueryValues([benchmark.queries.ids[asked.rows[index]] for index in scored], values)
            results[direction] |= {
                "metrics": means(values),
                "intervals": intervals(values, seed),
                "chance": chance_metrics(grades, len(position)),
            }
    return results, per_query


def check_groups(benchmark: Benchmark) -> None:
    """Check that every table of candidates has groups, which raises an UserError if not."""
    for products in benchmark.candidates:
        if products.groups is None:
            raise UserError(f"The table {products.name} has no column 'group_id', which --by_group needs.")


def candidate_keys(benchmark: Benchmark, by_group: bool) -> list[str]:
    """Return what each candidate row counts as: its group, or itself."""
    if not by_group:
        return [identifier for products in benchmark.candidates for identifier in products.ids]
    check_groups(benchmark)
    return [group for products in benchmark.candidates for group in products.groups]


def _best_grades(found: dict[int, int], keys: list[str], position: dict[str, int]) -> dict[int, int]:
    """Return {candidate: grade}; of the products of a group the best grade counts."""
    best: dict[int, int] = {}
    for row, grade in sorted(found.items()):
        candidate = position[keys[row]]
        best[candidate] = max(grade, best.get(candidate, 0))
    return best
