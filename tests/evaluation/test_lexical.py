"""BM25 against its formula, and in which directions it means something."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from common_moon2.cli import UserError
from evaluation.models.bm25 import K1, B, Bm25, evaluate_lexical, tokens

TITLES = ["red striped mug", "red mug red mug", "Blue cotton shirt for women", "红色杯子", "mug"]


def reference(query: str, title: str) -> float:
    """Robertson's sum over the words of the query."""
    documents = [tokens(text) for text in TITLES]
    words, mean_length, score = tokens(title), np.mean([len(document) for document in documents]), 0.0
    for word in tokens(query):
        holders = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
        count = words.count(word)
        score += idf * count * (K1 + 1) / (count + K1 * (1 - B + B * len(words) / mean_length))
    return score


def test_products_of_the_vectors_are_bm25():
    bm25, queries = Bm25(TITLES), ["red mug", "RED red shirt", "红杯", "nothing known"]
    found = (bm25.queries(queries) @ bm25.documents.T).toarray()
    expected = [[reference(query, title) for title in TITLES] for query in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[2].argmax() == 3
    assert not found[3].any()


def products(name: str, texts: list, pictures: list) -> SimpleNamespace:
    def rows(view: str) -> list[int]:
        shown = {"t": [texts], "mm": [texts, pictures]}[view]
        return [row for row in range(len(texts)) if all(column[row] for column in shown)]

    ids = [f"{name}{row}" for row in range(len(texts))]
    return SimpleNamespace(ids=ids, texts=texts, rows=rows, groups=None, name=name)


class Table(SimpleNamespace):
    def __len__(self):
        return len(self.ids)


def test_only_texts_are_asked_of_titles():
    corpus = Table(**vars(products("p", TITLES, [1, 0, 1, 1, 1])))
    benchmark = SimpleNamespace(
        candidates=[corpus],
        queries=SimpleNamespace(ids=["q0", "q1", "q2"], texts=["striped mug", None, "cotton"]),
        modalities=["text", "image", "text"],
        relevant=[{0: 1}, {1: 1}, {2: 1}],
    )
    results, per_query = evaluate_lexical(benchmark)
    assert [name for name, row in results.items() if row is not None] == ["t2mm", "t2t"]
    assert (results["t2mm"]["candidates"], results["t2t"]["candidates"]) == (4, 5)
    assert results["t2t"]["metrics"]["mrr"] == pytest.approx(1)
    assert per_query["t2mm"].ids == ["q0", "q2"]


def test_titles_without_a_word_are_refused():
    with pytest.raises(UserError, match="None of the 2 titles has a word in it: bm25 has nothing to match"):
        Bm25(["***", "!?"])
    assert not Bm25(["***", "mug"]).documents[[0]].nnz


def test_an_accent_written_apart_is_the_same_word():
    assert tokens("cafe\u0301 CAFÉ") == ["café", "café"]
