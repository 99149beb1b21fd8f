"""Exact search against a double loop, and chance against enumeration and simulation."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.retrieval import (
    Embedded,
    chance_metrics,
    evaluate_retrieval,
    relevant_ranks,
    retrieval_metrics,
    similarity,
)


def vectors(count: int, dimensions: int, seed: int) -> torch.Tensor:
    values = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def reference_ranks(queries, candidates, relevant, tie_order):
    """Sorts every query's candidates by (similarity down, tie order up) with Python's own sort."""
    ranks = []
    for query, targets in zip(queries, relevant, strict=True):
        scores = [np.float32(np.dot(query.double().numpy(), candidate.double().numpy())) for candidate in candidates]
        ranking = sorted(range(len(candidates)), key=lambda index: (-scores[index], tie_order[index].item()))
        ranks.append([ranking.index(target) + 1 for target in targets])
    return ranks


def tied_case():
    """Many equal candidates: 24 rows, 6 different vectors, in a shuffled tie order, one to four relevant ones each."""
    generator = np.random.default_rng(0)
    candidates = vectors(6, 7, seed=1)[torch.from_numpy(generator.integers(0, 6, 24))]
    queries = torch.cat([vectors(5, 7, seed=2), candidates[[3, 8]]])
    relevant = [generator.choice(24, size=generator.integers(1, 5), replace=False).tolist() for _ in queries]
    return queries, candidates, relevant, torch.from_numpy(generator.permutation(24))


def test_ranks_equal_a_double_loop_for_every_chunk_size():
    queries, candidates, relevant, tie_order = tied_case()
    expected = reference_ranks(queries, candidates, relevant, tie_order)
    for query_chunk in range(1, len(queries) + 1):
        for candidate_chunk in range(1, len(candidates) + 1):
            ranks = relevant_ranks(queries, candidates, relevant, tie_order, query_chunk, candidate_chunk)
            assert [row.tolist() for row in ranks] == expected


def test_equal_vectors_tie_wherever_they_stand():
    """In float32 the product of equal rows differs with their place in the matrix and with the matrix's size."""
    candidates = vectors(1, 515, seed=3).repeat(1001, 1)
    query = vectors(1, 515, seed=4)
    ranks = relevant_ranks(query, candidates, [list(range(1001))], torch.arange(1001), candidate_chunk=37)
    assert ranks[0].tolist() == list(range(1, 1002))


def test_similarity_is_the_cosine():
    left, right = vectors(3, 16, seed=5), vectors(4, 16, seed=6)
    expected = torch.nn.functional.cosine_similarity(left[:, None], right[None], dim=-1)
    torch.testing.assert_close(similarity(left, right), expected)


def test_recall_is_a_share_of_the_relevant_and_averaged_over_queries():
    metrics = retrieval_metrics([np.array([1, 7]), np.array([3]), np.array([2, 4, 30])])
    assert metrics["recall@1"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert metrics["recall@5"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert metrics["recall@10"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)


@pytest.mark.parametrize(("relevant", "candidates"), [(1, 1), (1, 6), (2, 6), (5, 6), (6, 6)])
def test_chance_is_the_mean_over_all_orders(relevant, candidates):
    orders = [np.array(order[:relevant]) for order in permutations(range(1, candidates + 1))]
    expected = retrieval_metrics(orders)
    assert chance_metrics([relevant], candidates) == pytest.approx(expected)


def test_chance_agrees_with_random_vectors():
    counts = [1, 2, 3, 1]
    simulated = []
    for seed in range(400):
        queries, candidates = vectors(4, 8, seed=2 * seed), vectors(30, 8, seed=2 * seed + 1)
        relevant = [list(range(count)) for count in counts]
        simulated.append(retrieval_metrics(relevant_ranks(queries, candidates, relevant, torch.arange(30))))
    for metric, chance in chance_metrics(counts, 30).items():
        assert np.mean([run[metric] for run in simulated]) == pytest.approx(chance, abs=0.025), metric


def small_benchmark() -> SimpleNamespace:
    """Three queries and three products; the ids order ties against the row order."""
    return SimpleNamespace(corpus=SimpleNamespace(ids=["c", "b", "a"]), relevant=[{0}, {1}, {2, 1}])


def test_what_lacks_a_modality_is_left_out_and_counted():
    unit = torch.eye(3)
    corpus = {"t": Embedded([0, 1, 2], unit), "i": Embedded([0, 1], unit[:2]), "mm": Embedded([0, 2], unit[[0, 2]])}
    queries = {
        "text": Embedded([0, 2], unit[[0, 2]]),
        "image": Embedded([1], unit[[1]]),
        "mixed": Embedded([], torch.empty(0, 0)),
    }
    results = evaluate_retrieval(small_benchmark(), queries, corpus)

    assert results["t2mm"]["metrics"]["recall@1"] == 1
    assert results["t2mm"]["candidates_left_out"] == 1
    assert results["t2mm"]["judgements_left_out"] == 1  # the second relevant product of query 2
    assert results["t2mm"]["chance"]["recall@1"] == 1 / 2

    assert results["i2mm"]["queries"] == 0  # its only relevant product has no multimodal view
    assert results["i2mm"]["queries_left_out"] == 1
    assert results["i2mm"]["metrics"] is None
    assert results["mm2mm"]["metrics"] is None

    assert results["t2i"]["queries"] == 2
    assert results["i2t"]["metrics"]["mrr"] == 1


def test_ties_go_to_the_lower_id_not_to_the_lower_row():
    same = torch.ones(3, 1)
    corpus = dict.fromkeys(("t", "i", "mm"), Embedded([0, 1, 2], same))
    queries = dict.fromkeys(("text", "image", "mixed"), Embedded([0, 1], same[:2]))
    metrics = evaluate_retrieval(small_benchmark(), queries, corpus)["t2mm"]["metrics"]
    assert metrics["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)  # "c" is third, "b" second
