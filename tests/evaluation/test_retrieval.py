"""Exact search against a double loop, metrics against a reference, pytrec_eval and ranx, chance against enumeration."""

import math
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common_moon2.cli import UserError
from evaluation.measure.metrics import METRICS, chance_metrics, query_metrics, retrieval_metrics
from evaluation.measure.retrieval import Embedded, evaluate_retrieval, relevant_ranks, similarity


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


def reference_metrics(ranking: list[str], grades: dict[str, int]) -> dict[str, float]:
    """The metrics of one query by their definitions: the whole ranking, the grades of the relevant."""
    hits = [name in grades for name in ranking]
    metrics = {f"recall@{k}": sum(hits[:k]) / len(grades) for k in (1, 5, 10)}
    metrics["mrr"] = 1 / (1 + hits.index(True))
    best = sorted(grades.values(), reverse=True)[:10]
    found = [grades.get(name, 0) for name in ranking[:10]]
    gain, ideal = (sum(grade / math.log2(place + 2) for place, grade in enumerate(row)) for row in (found, best))
    return metrics | {"ndcg@10": gain / ideal}


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


def test_a_group_counts_as_one_candidate_as_near_as_its_nearest_member():
    queries, candidates, _, _ = tied_case()
    groups = torch.arange(24) % 5
    tie_order = torch.tensor([3, 0, 4, 1, 2])
    relevant = [[0, 4], [1], [2], [3], [4], [0], [2, 1]]
    expected = []
    for query, targets in zip(queries, relevant, strict=True):
        best = [max(similarity(query[None], candidates[groups == group]).flatten().tolist()) for group in range(5)]
        ranking = sorted(range(5), key=lambda group: (-best[group], tie_order[group].item()))
        expected.append([ranking.index(target) + 1 for target in targets])
    for chunk in (2, 24):
        found = relevant_ranks(queries, candidates, relevant, tie_order, candidate_chunk=chunk, groups=groups)
        assert [row.tolist() for row in found] == expected


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


def graded_run():
    """40 queries, 60 documents: scores without ties, one to fourteen relevant documents of grades 1 to 3 each."""
    generator = np.random.default_rng(1)
    names = [f"d{index:02d}" for index in range(60)]
    run, qrels = {}, {}
    for query in range(40):
        run[f"q{query}"] = dict(zip(names, generator.random(60).tolist(), strict=True))
        relevant = generator.choice(names, size=generator.integers(1, 15), replace=False)
        qrels[f"q{query}"] = {str(name): int(generator.integers(1, 4)) for name in relevant}
    return run, qrels


def our_metrics(run, qrels) -> dict[str, np.ndarray]:
    rankings = {query: sorted(scores, key=scores.get, reverse=True) for query, scores in run.items()}
    ranks = [np.array([rankings[query].index(name) + 1 for name in grades]) for query, grades in qrels.items()]
    return query_metrics(ranks, [np.array(list(grades.values())) for grades in qrels.values()])


def test_metrics_equal_the_reference_query_by_query():
    run, qrels = graded_run()
    found = our_metrics(run, qrels)
    for place, (query, grades) in enumerate(qrels.items()):
        expected = reference_metrics(sorted(run[query], key=run[query].get, reverse=True), grades)
        assert {metric: found[metric][place] for metric in METRICS} == pytest.approx(expected, abs=1e-12)


def test_metrics_equal_pytrec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    run, qrels = graded_run()
    names = {
        "recall@1": "recall_1", "recall@5": "recall_5", "recall@10": "recall_10", "mrr": "recip_rank",
        "ndcg@10": "ndcg_cut_10",
    }  # fmt: skip
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"recall.1,5,10", "recip_rank", "ndcg_cut.10"}).evaluate(run)
    found = our_metrics(run, qrels)
    for metric, name in names.items():
        np.testing.assert_allclose(found[metric], [theirs[query][name] for query in qrels], atol=1e-9)


@pytest.mark.slow  # numba compiles for two minutes
def test_metrics_equal_ranx():
    ranx = pytest.importorskip("ranx", reason="ranx needs numba")
    run, qrels = graded_run()
    theirs = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(METRICS), return_mean=False)
    found = our_metrics(run, qrels)
    for metric in METRICS:
        np.testing.assert_allclose(sorted(found[metric]), sorted(theirs[metric]), atol=1e-9)


def test_recall_is_a_share_of_the_relevant_and_averaged_over_queries():
    metrics = retrieval_metrics([np.array([1, 7]), np.array([3]), np.array([2, 4, 30])])
    assert metrics["recall@1"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert metrics["recall@5"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert metrics["recall@10"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)


@pytest.mark.parametrize(
    ("grades", "candidates"), [([1], 1), ([2], 6), ([1, 3], 6), ([1, 1, 2, 1, 1], 6), ([1] * 6, 6)]
)
def test_chance_is_the_mean_over_all_orders(grades, candidates):
    orders = [np.array(order[: len(grades)]) for order in permutations(range(1, candidates + 1))]
    expected = retrieval_metrics(orders, [np.array(grades)] * len(orders))
    assert chance_metrics([np.array(grades)], candidates) == pytest.approx(expected)


def test_chance_agrees_with_random_vectors():
    counts = [1, 2, 3, 1]
    simulated = []
    for seed in range(400):
        queries, candidates = vectors(4, 8, seed=2 * seed), vectors(30, 8, seed=2 * seed + 1)
        relevant = [list(range(count)) for count in counts]
        simulated.append(retrieval_metrics(relevant_ranks(queries, candidates, relevant, torch.arange(30))))
    for metric, chance in chance_metrics([np.ones(count) for count in counts], 30).items():
        assert np.mean([run[metric] for run in simulated]) == pytest.approx(chance, abs=0.03), metric


def products(*ids: str, groups: list[str] | None = None) -> SimpleNamespace:
    return SimpleNamespace(ids=list(ids), groups=groups, name="corpus")


def small_benchmark(*tables: SimpleNamespace, relevant=({0: 1}, {1: 1}, {2: 1, 1: 1})) -> SimpleNamespace:
    """Three queries and three products; the ids order ties against the row order."""
    return SimpleNamespace(
        candidates=list(tables) or [products("c", "b", "a")],
        relevant=list(relevant),
        queries=SimpleNamespace(ids=["q0", "q1", "q2"]),
    )


def test_what_lacks_a_modality_is_left_out_and_counted():
    unit = torch.eye(3)
    corpus = {"t": Embedded([0, 1, 2], unit), "i": Embedded([0, 1], unit[:2]), "mm": Embedded([0, 2], unit[[0, 2]])}
    queries = {
        "text": Embedded([0, 2], unit[[0, 2]]),
        "image": Embedded([1], unit[[1]]),
        "mixed": Embedded([], torch.empty(0, 0)),
    }
    results, per_query = evaluate_retrieval(small_benchmark(), queries, corpus)

    assert results["t2mm"]["metrics"]["recall@1"] == 1
    assert results["t2mm"]["intervals"]["recall@1"] == [1, 1]
    assert results["t2mm"]["candidates_left_out"] == 1
    assert results["t2mm"]["judgements_left_out"] == 1  # the second relevant product of query 2
    assert results["t2mm"]["chance"]["recall@1"] == 1 / 2

    assert results["i2mm"]["queries"] == 0  # its only relevant product has no multimodal view
    assert results["i2mm"]["queries_left_out"] == 1
    assert results["i2mm"]["metrics"] is None
    assert results["mm2mm"]["metrics"] is None

    assert results["t2i"]["queries"] == 2
    assert results["i2t"]["metrics"]["mrr"] == 1
    assert sorted(per_query) == ["i2t", "t2i", "t2mm", "t2t"]
    assert per_query["t2mm"].ids == ["q0", "q2"]


def test_a_direction_that_a_model_cannot_do_has_no_figures_at_all():
    unit = torch.eye(3)
    results, per_query = evaluate_retrieval(
        small_benchmark(), {"text": Embedded([0], unit[:1])}, {"t": Embedded([0, 1, 2], unit)}
    )
    assert [name for name, row in results.items() if row is not None] == ["t2t"] == list(per_query)


def test_ties_go_to_the_lower_id_not_to_the_lower_row():
    same = torch.ones(3, 1)
    corpus = dict.fromkeys(("t", "i", "mm"), Embedded([0, 1, 2], same))
    queries = dict.fromkeys(("text", "image", "mixed"), Embedded([0, 1], same[:2]))
    metrics = evaluate_retrieval(small_benchmark(), queries, corpus)[0]["t2mm"]["metrics"]
    assert metrics["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)  # "c" is third, "b" second


def test_distractors_are_candidates_and_groups_count_once():
    """One query; nearer than its product "c" are two listings of one group among the distractors."""
    tables = [products("c", groups=["g1"]), products("x", "y", "z", groups=["g2", "g2", "g1"])]
    benchmark = small_benchmark(*tables, relevant=[{0: 1}])
    benchmark.queries = SimpleNamespace(ids=["q0"])
    candidates = torch.nn.functional.normalize(torch.tensor([[1.0, 1], [1, 0.1], [1, 0.2], [0, 1]]), dim=-1)
    queries, corpus = {"text": Embedded([0], torch.eye(2)[:1])}, {"mm": Embedded([0, 1, 2, 3], candidates)}
    single = evaluate_retrieval(benchmark, queries, corpus)[0]["t2mm"]
    assert (single["candidates"], single["metrics"]["mrr"]) == (4, 1 / 3)
    grouped = evaluate_retrieval(benchmark, queries, corpus, by_group=True)[0]["t2mm"]
    assert (grouped["candidates"], grouped["metrics"]["mrr"]) == (2, 1 / 2)


def test_the_best_grade_of_a_group_is_the_groups():
    tables = [products("a", "b", "c", groups=["g1", "g1", "g2"])]
    benchmark = small_benchmark(*tables, relevant=[{0: 1, 1: 3, 2: 1}])
    benchmark.queries = SimpleNamespace(ids=["q0"])
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 1], [1, 2], [1, 0]]), dim=-1)
    queries, corpus = {"text": Embedded([0], torch.eye(2)[:1])}, {"mm": Embedded([0, 1, 2], vectors)}
    metrics = evaluate_retrieval(benchmark, queries, corpus, by_group=True)[0]["t2mm"]["metrics"]
    discount = 1 / math.log2(3)
    assert metrics["ndcg@10"] == pytest.approx((1 + 3 * discount) / (3 + discount))


def test_groups_are_needed_to_count_by_group():
    with pytest.raises(UserError, match="corpus has no column 'group_id'"):
        evaluate_retrieval(small_benchmark(), {}, {}, by_group=True)
