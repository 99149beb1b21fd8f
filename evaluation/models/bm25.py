"""BM25 of text queries against titles: what matching words alone gives.

Many text queries can be answered that way, so a text figure means little without it beside.
"""

import re

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

from common_moon2.cli import UserError
from evaluation.arguments import BM25
from evaluation.measure.retrieval import Embedded, QueryValues, evaluate_retrieval
from evaluation.tables.benchmark import Benchmark

# The usual values (Robertson and Zaragoza 2009).
K1, B = 1.2, 0.75
# Words; of Chinese, which has no spaces, the characters.
TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")


class Bm25:
    """Titles and queries as sparse vectors whose product is BM25.

    Args:
        titles: the collection that the weights of words are taken from.

    Raises:
        UserError: there is no word in any of them.
    """

    def __init__(self, titles: list[str]):
        self._counts = CountVectorizer(tokenizer=tokens, token_pattern=None, lowercase=False)
        try:
            found = self._counts.fit_transform(titles)
        except ValueError as error:
            raise UserError(
                f"None of the {len(titles)} titles has a word in it: {BM25} has nothing to match."
            ) from error
        documents = np.bincount(found.indices, minlength=found.shape[1])
        self._idf = np.log1p((len(titles) - documents + 0.5) / (documents + 0.5))
        self._mean_length = found.sum() / len(titles)

    def documents(self, titles: list[str]) -> csr_matrix:
        """Return (N, V): what each word of a title adds if a query has it."""
        counts = csr_matrix(self._counts.transform(titles), dtype=np.float64)
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        row = np.repeat(np.arange(len(titles)), np.diff(counts.indptr))
        norm = K1 * (1 - B + B * lengths / self._mean_length)
        counts.data = self._idf[counts.indices] * counts.data * (K1 + 1) / (counts.data + norm[row])
        return counts

    def queries(self, texts: list[str]) -> csr_matrix:
        """Return (Q, V): how often each word stands in a query."""
        return csr_matrix(self._counts.transform(texts), dtype=np.float64)


def tokens(text: str) -> list[str]:
    """Return the words of a text."""
    return TOKEN.findall(text.lower())


def evaluate_lexical(
    benchmark: Benchmark, by_group: bool = False, seed: int = 0
) -> tuple[dict[str, dict | None], dict[str, QueryValues]]:
    """Score the directions in which texts ask for titles: t2mm (by the products' titles) and t2t.

    Raises:
        UserError: no title has a word in it.
    """
    corpus = {}
    views = {view: candidate_rows(benchmark, view) for view in ("t", "mm")}
    titles = [text for products in benchmark.candidates for text in products.texts]
    asked = [row for row, modality in enumerate(benchmark.modalities) if modality == "text"]
    if not asked or not views["t"]:
        return evaluate_retrieval(benchmark, {}, {}, by_group, seed)
    bm25 = Bm25([titles[row] for row in views["t"]])
    for view, rows in views.items():
        if rows:
            corpus[view] = Embedded(rows, bm25.documents([titles[row] for row in rows]))
    queries = {"text": Embedded(asked, bm25.queries([benchmark.queries.texts[row] for row in asked]))}
    return evaluate_retrieval(benchmark, queries, corpus, by_group, seed, scores_of=_scores)


def candidate_rows(benchmark: Benchmark, view: str) -> list[int]:
    """Return the candidates that have a view, counted through all their tables."""
    rows, start = [], 0
    for products in benchmark.candidates:
        rows += [start + row for row in products.rows(view)]
        start += len(products)
    return rows


def _scores(queries: csr_matrix, documents: csr_matrix) -> torch.Tensor:
    return torch.from_numpy((queries @ documents.T).toarray().astype(np.float32))
