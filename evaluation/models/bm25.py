"""BM25 of text queries against titles: what matching words alone gives.

Many text queries can be answered that way, so a text figure means little without it beside.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import bm25s
import numpy as np
import torch
from scipy.sparse import csc_matrix, csr_matrix

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
        titles: the collection that the weights of words are taken from; `None` counts as a title without words.

    Attributes:
        documents: (N, V): what each word of a title adds if a query has it.

    Raises:
        UserError: there is no word in any of them.
    """

    def __init__(self, titles: Sequence[str | None]):
        words = [tokens(title or "") for title in titles]
        if not any(words):
            raise UserError(f"None of the {len(titles)} titles has a word in it: {BM25} has nothing to match.")
        index = bm25s.BM25(k1=K1, b=B, method="atire", idf_method="lucene")
        index.index(words, show_progress=False)
        self._vocabulary = index.vocab_dict
        shape = len(titles), len(index.scores["indptr"]) - 1
        by_word = csc_matrix((index.scores["data"], index.scores["indices"], index.scores["indptr"]), shape=shape)
        holders = np.diff(by_word.indptr)
        self._idf = np.log1p((len(titles) - holders + 0.5) / (holders + 0.5))
        self.documents = by_word.tocsr()

    def queries(self, texts: Sequence[str | None]) -> csr_matrix:
        """Return (Q, V): how often each word stands in a query."""
        counts = [Counter(word for word in tokens(text or "") if word in self._vocabulary) for text in texts]
        places = [self._vocabulary[word] for row in counts for word in row]
        starts = np.cumsum([0, *map(len, counts)])
        times = [float(count) for row in counts for count in row.values()]
        return csr_matrix((times, places, starts), shape=(len(texts), self.documents.shape[1]))

    def rareness(self, word: str) -> float:
        """Return the weight of a word that titles have (its inverse document frequency), 0 of another one."""
        place = self._vocabulary.get(word)
        return 0.0 if place is None else float(self._idf[place])

    def bounds(self, queries: csr_matrix) -> np.ndarray:
        """Return (Q,): the score that no title can exceed."""
        return np.asarray(queries @ (self._idf * (K1 + 1)))

    def rarity(self, queries: csr_matrix) -> np.ndarray:
        """Return (Q,) from 0 to 1: how rare the rarest known word of a query is, 1 for a word of one title only."""
        rarest = np.log1p((len(self.documents.indptr) - 1.5) / 1.5)
        weights = queries.copy()
        weights.data = self._idf[queries.indices] / rarest
        return np.asarray(weights.max(axis=1).todense()).ravel()


def tokens(text: str) -> list[str]:
    """Return the words of a text; an accent of its own makes one letter with the one before."""
    return TOKEN.findall(unicodedata.normalize("NFC", text).lower())


def evaluate_lexical(
    benchmark: Benchmark, by_group: bool = False, seed: int = 0
) -> tuple[dict[str, dict | None], dict[str, QueryValues]]:
    """Score the directions in which texts ask for titles: t2mm (by the products' titles) and t2t.

    Raises:
        UserError: no title has a word in it.
    """
    views = {view: candidate_rows(benchmark, view) for view in ("t", "mm")}
    titles = [text for products in benchmark.candidates for text in products.texts]
    asked = [row for row, modality in enumerate(benchmark.modalities) if modality == "text"]
    if not asked or not views["t"]:
        return evaluate_retrieval(benchmark, {}, {}, by_group, seed)
    bm25 = Bm25([titles[row] for row in views["t"]])
    place = {row: number for number, row in enumerate(views["t"])}
    corpus = {
        view: Embedded(rows, bm25.documents[[place[row] for row in rows]]) for view, rows in views.items() if rows
    }
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
