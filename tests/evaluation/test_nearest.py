"""Exact search against NumPy: all roundings, sizes and kinds of data, ties above all."""

import numpy as np
import pytest
import torch

from common_moon2.cli import UserError
from evaluation.vectors import nearest
from evaluation.vectors.nearest import INDEXES, ExactSearch, FaissSearch, recall_of
from evaluation.vectors.store import Vectors

PRECISIONS = ["bfloat16", "float32"]


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
@pytest.mark.parametrize("kind", ["random", "clusters", "ties", "long"])
def test_blocks_do_not_show(monkeypatch, kind, precision):
    """Small blocks, so that most pairs are left out by their bound and the others are scored one by one."""
    monkeypatch.setattr(nearest, "BLOCK", 64)
    monkeypatch.setattr(nearest, "QUERIES", 32)
    queries, corpus = data(kind, 3000, 24)
    rows, scores = ExactSearch(corpus, precision, threads=2).search(queries, 7)
    expected_rows, expected_scores = reference(queries.array, corpus, 7)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_few_pairs_are_scored_in_float64(monkeypatch, precision):
    """On random vectors the bound leaves a small share of the pairs, or there would be nothing to gain."""
    queries, corpus = data("random", 40_000, 64)
    scored, keys_of = [], nearest.keys_of
    monkeypatch.setattr(
        nearest, "keys_of", lambda scores, place: scored.append(scores.numel()) or keys_of(scores, place)
    )
    ExactSearch(corpus, precision).search(queries, 10)
    first, *others = scored
    assert first == nearest.BLOCK * len(queries)
    assert sum(others) < 0.005 * 40_000 * len(queries)


@pytest.mark.parametrize("can", ["avx512_bf16", "amx_bf16", None])
def test_a_processor_multiplies_in_what_it_has_instructions_for(monkeypatch, can):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False, can: True})
    queries, corpus = data("random", 100, 8)
    engine = ExactSearch(corpus)
    assert engine.precision == ("bfloat16" if can else "float32")
    np.testing.assert_array_equal(engine.search(queries, 3).rows, reference(queries.array, corpus, 3)[0])


def test_what_cannot_be_searched_is_refused():
    queries, corpus = data("random", 30, 8)
    with pytest.raises(UserError, match="k is 31; the array has 30 vectors"):
        ExactSearch(corpus).search(queries, 31)
    with pytest.raises(UserError, match="8 dimensions, those of the array 9"):
        ExactSearch(Vectors(np.ones((3, 9), np.float32), list("abc"))).search(queries, 1)
    with pytest.raises(UserError, match="no vectors"):
        ExactSearch(Vectors(np.ones((0, 8), np.float32), []))
    corpus.array[7, 2] = np.nan
    with pytest.raises(UserError, match=f"vector of '{corpus.ids[7]}' .row 7"):
        ExactSearch(corpus)
    good = data("random", 30, 8)[1]
    queries.array[4, 0] = np.inf
    with pytest.raises(UserError, match="vector of 'q4'"):
        ExactSearch(good).search(queries, 1)


def test_faiss_finds_the_same():
    pytest.importorskip("faiss")
    queries, corpus = data("random", 3000, 16)
    exact = ExactSearch(corpus).search(queries, 5)
    flat = FaissSearch(corpus, "faiss", threads=1)
    np.testing.assert_array_equal(flat.search(queries, 5).rows, exact.rows)
    assert recall_of(ExactSearch(corpus), flat, queries, 5, 30) == 1
    lists = FaissSearch(corpus, "faiss-ivf", threads=1)
    lists.index.nprobe = 1
    assert 0.05 < recall_of(ExactSearch(corpus), lists, queries, 5, 30) < 0.95


@pytest.mark.parametrize("engine", INDEXES)
def test_faiss_refuses_what_exact_search_refuses(engine):
    pytest.importorskip("faiss")
    queries, corpus = data("random", 30, 8)
    one = Vectors(corpus.array[:1], corpus.ids[:1])
    assert FaissSearch(one, engine, threads=1).search(queries, 1).rows.tolist() == [[0]] * len(queries)
    found = FaissSearch(corpus, engine, threads=1)
    with pytest.raises(UserError, match="k is 31"):
        found.search(queries, 31)
    with pytest.raises(UserError, match="4 dimensions, those of the array 8"):
        found.search(Vectors(queries.array[:, :4], queries.ids), 1)
    queries.array[4, 0] = np.inf
    with pytest.raises(UserError, match="vector of 'q4' .row 4"):
        found.search(queries, 1)
    corpus.array[7, 2] = np.nan
    with pytest.raises(UserError, match=f"vector of '{corpus.ids[7]}' .row 7"):
        FaissSearch(corpus, engine, threads=1)
