"""Exact search against NumPy: all roundings, sizes and kinds of data, ties above all."""

import numpy as np
import pytest
import torch

from evaluation.errors import EvaluationError
from evaluation.search import coarse
from evaluation.search import exact as search
from evaluation.search.exact import ExactSearch
from evaluation.search.faiss_index import INDEXES, FaissSearch, recall_of
from evaluation.vectors.store import Vectors

PRECISIONS = ["int8", "bfloat16", "float32"]


def reference(queries: np.ndarray, corpus: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = (queries.astype(np.float64) @ corpus.array.astype(np.float64).T).astype(np.float32)
    tie_order = np.argsort(np.argsort(corpus.ids))
    rows = np.stack([np.lexsort((tie_order, -row))[:k] for row in scores])
    return rows, np.take_along_axis(scores, rows, 1)


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def data(kind: str, count: int, dimension: int) -> tuple[Vectors, Vectors]:
    random = np.random.default_rng(count)
    corpus, queries = (unit(random.normal(size=(rows, dimension))) for rows in (count, 70))
    if kind == "clusters":
        centres = random.normal(size=(40, dimension))
        corpus = unit(centres[random.integers(40, size=count)] + 0.03 * random.normal(size=(count, dimension)))
        queries = corpus[:70]
    if kind == "ties":
        corpus = corpus[random.integers(5, size=count)]
    if kind == "zeros":
        corpus[::2] = 0
        queries[3] = 0
    if kind == "negative":
        corpus, queries = np.abs(corpus), -np.abs(queries)
    if kind == "long":
        corpus *= random.uniform(0.01, 100, size=(count, 1)).astype(np.float32)
        corpus[:, 0] *= 50
    ids = [f"{number:06d}" for number in random.permutation(count)]
    return Vectors(queries, [f"q{row}" for row in range(len(queries))]), Vectors(corpus, ids)


@pytest.mark.parametrize("precision", [*PRECISIONS, "auto"])
@pytest.mark.parametrize(
    ("kind", "count", "dimension", "k"),
    [
        ("random", 5000, 32, 10),
        ("clusters", 4500, 24, 7),
        ("ties", 4096, 16, 10),
        ("zeros", 2100, 8, 5),
        ("negative", 4100, 16, 3),
        ("long", 4500, 16, 10),
        ("random", 100, 8, 100),
        ("random", 1, 4, 1),
    ],
)
def test_equal_to_numpy(kind, count, dimension, k, precision):
    queries, corpus = data(kind, count, dimension)
    rows, scores = ExactSearch(corpus, precision, threads=2).search(queries, k)
    expected_rows, expected_scores = reference(queries.array, corpus, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_parts_and_progress():
    queries, corpus = data("random", 3000, 16)
    engine, told = ExactSearch(corpus), []
    whole = engine.search(queries, 4)
    part = engine.search(queries, 4, 20, 50, told.append)
    np.testing.assert_array_equal(part.rows, whole.rows[20:50])
    assert sum(told) == 30
    assert engine.search(queries, 4, 50, 50).rows.shape == (0, 4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bound_holds_and_is_near(precision):
    """No pair is further off than the bound says, and the bound is no more than some ten times too wide."""
    queries, corpus = data("clusters", 4500, 24)
    coarse_corpus = coarse.PRECISIONS[precision](corpus)
    prepared = coarse_corpus.prepare(queries.array)
    worst = 0.0
    for block in range(coarse_corpus.blocks):
        rows = coarse_corpus.rows(block)
        true = queries.array.astype(np.float64) @ corpus.array[rows].astype(np.float64).T
        found = coarse_corpus.product(prepared, block).double().numpy()
        found *= coarse_corpus.unit(prepared, block)[:, None]
        allowed = coarse_corpus.error(prepared, block)[:, None] + coarse_corpus.relative * np.abs(found)
        assert (np.abs(true - found) <= allowed).all()
        worst = max(worst, (np.abs(true - found) / allowed).max())
    assert worst > 0.05


def test_few_pairs_are_looked_at_again():
    """On random vectors the bound leaves a handful of candidates a query, or there would be nothing to gain."""
    queries, corpus = data("random", 40_000, 64)
    engine = ExactSearch(corpus, "int8")
    hits, pairs = search._Chunk(corpus, engine._coarse, engine._tie_order, queries.array, 10).run()
    assert 10 * len(queries) <= pairs < 0.005 * 40_000 * len(queries)


def test_what_waits_to_be_looked_at_is_bounded(monkeypatch):
    monkeypatch.setattr(search, "MOST_PENDING", 500)
    queries, corpus = data("random", 40_000, 16)
    engine, waiting = ExactSearch(corpus, "int8"), []
    settle = search._Chunk._settle

    def noted(chunk):
        waiting.append(sum(len(arrays[0]) for arrays in chunk.pending))
        settle(chunk)

    monkeypatch.setattr(search._Chunk, "_settle", noted)
    hits = engine.search(queries, 10)
    assert max(waiting[1:]) < 500 + coarse.BLOCK * len(queries) * search.DENSE
    assert len(waiting) > 4  # 3 without the bound
    np.testing.assert_array_equal(hits.rows, reference(queries.array, corpus, 10)[0])


def test_vectors_that_are_too_alike_get_a_closer_first_pass(monkeypatch):
    monkeypatch.setattr(search, "fastest_first", lambda dimension: ["int8", "bfloat16", "float32"])
    random = np.random.default_rng(0)
    alike = unit(1 + 0.02 * random.normal(size=(6000, 16)))
    corpus = Vectors(alike, [f"{row:05d}" for row in range(6000)])
    queries = Vectors(np.tile(alike[:300], (4, 1)), np.arange(1200).astype(str))
    engine = ExactSearch(corpus, "auto", threads=1)
    rows, _ = engine.search(queries, 5)
    assert engine.precision == "float32"
    np.testing.assert_array_equal(rows, reference(queries.array, corpus, 5)[0])


def test_a_processor_with_wrong_int8_products_does_without(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", lambda left, right: (left.int() @ right.int()).clamp(max=2**15 - 1))
    assert coarse.fastest_first(16)[0] != "int8" and "int8" not in coarse.fastest_first(16)


def test_what_cannot_be_searched_is_refused():
    queries, corpus = data("random", 30, 8)
    with pytest.raises(EvaluationError, match="k is 31; the array has 30 vectors"):
        ExactSearch(corpus).search(queries, 31)
    with pytest.raises(EvaluationError, match="8 dimensions, those of the array 9"):
        ExactSearch(Vectors(np.ones((3, 9), np.float32), list("abc"))).search(queries, 1)
    with pytest.raises(EvaluationError, match="no vectors"):
        ExactSearch(Vectors(np.ones((0, 8), np.float32), []))
    corpus.array[7, 2] = np.nan
    with pytest.raises(EvaluationError, match=f"vector of '{corpus.ids[7]}' .row 7"):
        ExactSearch(corpus)
    good = data("random", 30, 8)[1]
    queries.array[4, 0] = np.inf
    with pytest.raises(EvaluationError, match="vector of 'q4'"):
        ExactSearch(good).search(queries, 1)


def test_faiss_finds_the_same():
    pytest.importorskip("faiss")
    queries, corpus = data("random", 3000, 16)
    exact = ExactSearch(corpus).search(queries, 5)
    flat = FaissSearch(corpus, "faiss", threads=1)
    np.testing.assert_array_equal(flat.search(queries, 5).rows, exact.rows)
    assert recall_of(flat, queries, 5, 30) == 1
    lists = FaissSearch(corpus, "faiss-ivf", threads=1)
    lists.index.nprobe = 1
    assert 0.05 < recall_of(lists, queries, 5, 30) < 0.95


@pytest.mark.parametrize("engine", INDEXES)
def test_faiss_refuses_what_exact_search_refuses(engine):
    pytest.importorskip("faiss")
    queries, corpus = data("random", 30, 8)
    one = Vectors(corpus.array[:1], corpus.ids[:1])
    assert FaissSearch(one, engine, threads=1).search(queries, 1).rows.tolist() == [[0]] * len(queries)
    found = FaissSearch(corpus, engine, threads=1)
    with pytest.raises(EvaluationError, match="k is 31"):
        found.search(queries, 31)
    with pytest.raises(EvaluationError, match="4 dimensions, those of the array 8"):
        found.search(Vectors(queries.array[:, :4], queries.ids), 1)
    queries.array[4, 0] = np.inf
    with pytest.raises(EvaluationError, match="vector of 'q4' .row 4"):
        found.search(queries, 1)
    corpus.array[7, 2] = np.nan
    with pytest.raises(EvaluationError, match=f"vector of '{corpus.ids[7]}' .row 7"):
        FaissSearch(corpus, engine, threads=1)
