"""Vectors and words together: how much each counts for a query, and the score that follows (our choice).

    score = (1 - w) * cosine + w * BM25 / bound

The bound is the BM25 that no title can exceed, so both parts are at most 1, and neither depends on what else is in the
catalogue or passes a filter. w depends on the query: on whether it has an image as well, a number (sizes, models,
SKUs), and on how rare its rarest word is. Without words w is 0, and the result is that of the vectors alone.

w is fitted on queries with known answers. First come the weights under which the right products are most probable, if
probabilities are the softmax of the scores: that takes few queries, and tells how w follows the query. Then all w are
shifted to where Recall@10 and reciprocal rank are best, maybe as far as to one of the two alone.

Reciprocal-rank fusion (Cormack et al. 2009) needs no weights, and is there to compare with.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, diags_array
from scipy.special import expit, log_softmax

from common_moon2.cli import UserError
from common_moon2.files import write_json
from evaluation.measure.metrics import ARROWS
from evaluation.measure.retrieval import similarity
from evaluation.models.bm25 import Bm25
from evaluation.vectors.nearest import BLOCK, NOTHING, Hits, NearestSearch, hits_of_keys, keys_of, places_by_id
from evaluation.vectors.store import Vectors, read_blocks

FILE = "fusion.json"
NUMBER = re.compile(r"\d")
WORDED = ("t2mm", "mm2mm", "t2t")  # the directions in which queries have words and products titles
CONSTANT = 60  # of reciprocal-rank fusion, as its authors have it
DEPTH = 1000  # ranks that it looks at
RANKED = 2**24  # scores that it holds at a time
FEWEST = 30  # queries of a modality to fit weights on
LISTED = 200  # best candidates of vectors, and as many of words, that a fit looks at for each query
SHIFTS = np.linspace(-4, 4, 33)
NEARLY = 0.999  # the weight of words alone: vectors order what has equal words, or none of the query's
PRIOR = 1.0  # how many queries' worth of evidence it takes before a query's own words shift the weight


@dataclass(frozen=True)
class Weight:
    """The weight of words in one direction: w = sigmoid(bias + number * has a number + rare * rarity).

    Attributes:
        use: "both", or "vectors" or "words" alone.
        queries: how many it was fitted on.
        mean: the mean of w over these.
    """

    bias: float
    number: float
    rare: float
    use: str
    queries: int
    mean: float

    def of(self, features: np.ndarray) -> np.ndarray:
        """Return (Q,) weights for (Q, 3) features."""
        if self.use != "both":
            return np.full(len(features), NEARLY * (self.use == "words"))
        return expit(features @ [self.bias, self.number, self.rare])


WORDS_ALONE = Weight(bias=0.0, number=0.0, rare=0.0, use="words", queries=0, mean=1.0)


@dataclass(frozen=True)
class Fusion:
    """The weights by direction ("t2mm", "mm2mm", "t2t"), and what they were fitted on.

    A direction that is not there had too few queries; then vectors are used alone.

    Attributes:
        model: the fingerprint of the model whose vectors they were fitted on; `None`: not known.
    """

    weights: dict[str, Weight]
    source: str
    model: str | None = None

    def save(self, path: Path) -> None:
        """Write the weights as JSON."""
        write_json(path, asdict(self))

    def sentence(self) -> str:
        """Return the weights for people."""
        uses = {"vectors": "vectors alone", "words": "words alone"}
        said = [
            f"{ARROWS[name]}: {uses.get(one.use, f'words count {one.mean:.2f} on average')} ({one.queries} queries)"
            for name, one in self.weights.items()
        ]
        if not said:
            return f"vectors alone: {self.source} give fewer than {FEWEST} queries with words to fit weights on"
        return f"{'; '.join(said)}; fitted on {self.source}"


def read_fusion(path: Path, model: str | None = None) -> Fusion:
    """Read the weights from a fusion.json, a results.json, or a folder with one of these.

    Args:
        model: the fingerprint of the model whose vectors they are for.

    Raises:
        UserError: there are none, or they are damaged, or were fitted for another model.
    """
    files = [path / FILE, path / "results.json"] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(
            f"{path} has no weights of words and vectors: fit them with `python -m evaluation weigh`, name the results "
            "of a model+bm25 with --weights, or give --hybrid rrf."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if file.name == "results.json":
            content = content["hybrid"]["fusion"] | {"model": content["run"]["model"]["fingerprint"]}
        weights = {name: Weight(**one) for name, one in content["weights"].items()}
        fusion = Fusion(weights, content["source"], content.get("model"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} holds no weights of words and vectors: {error}.") from error
    if None not in (model, fusion.model) and model != fusion.model:
        raise UserError(
            f"The weights of {file} were fitted for another model, or another state of this one: fit them again with "
            "`python -m evaluation weigh`, or name others with --weights."
        )
    return fusion


class Texts(NamedTuple):
    """Vectors (N, D) with their words: of products BM25's documents, of queries its counts divided by their bounds.

    Attributes:
        weights: (N,) of queries: how much the words count.
    """

    vectors: torch.Tensor
    words: csr_matrix
    weights: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.vectors.shape)

    def __getitem__(self, rows) -> "Texts":
        return Texts(self.vectors[rows], self.words[rows], self.weights[rows])


def as_queries(
    bm25: Bm25, vectors: torch.Tensor, texts: Sequence[str | None], weights: Sequence[Weight | None]
) -> Texts:
    """Return queries with the weight that each one's words have; without a word that is known it is 0."""
    counts = bm25.queries(texts)
    bounds = bm25.bounds(counts)
    features, values = features_of(bm25, counts, texts), np.zeros(len(texts))
    for weight in set(weights) - {None}:
        own = np.array([one == weight for one in weights])
        values[own] = weight.of(features[own])
    shares = csr_matrix(diags_array(np.divide(1, bounds, out=np.zeros(len(texts)), where=bounds > 0)) @ counts)
    return Texts(vectors, shares, np.where(bounds > 0, values, 0))


def as_products(vectors: torch.Tensor, words: csr_matrix) -> Texts:
    """Return products, whose words are rows of `Bm25.documents`."""
    return Texts(vectors, words, np.zeros(len(vectors)))


def features_of(bm25: Bm25, counts: csr_matrix, texts: Sequence[str | None]) -> np.ndarray:
    """Return (Q, 3) what the weight of a query depends on: 1, whether it has a number, how rare its rarest word is."""
    numbers = [bool(NUMBER.search(text or "")) for text in texts]
    return np.column_stack([np.ones(len(texts)), numbers, bm25.rarity(counts)])


def word_scores(queries: Texts, products: Texts) -> torch.Tensor:
    """Return (A, B) shares of BM25 in its bound, float64."""
    return torch.from_numpy((queries.words @ products.words.T).toarray().astype(np.float64, copy=False))


def weighted(queries: Texts, products: Texts) -> torch.Tensor:
    """Return the (A, B) float32 scores of vectors and words together."""
    weights = torch.from_numpy(queries.weights)[:, None]
    vectors = queries.vectors.double() @ products.vectors.double().T
    return ((1 - weights) * vectors + weights * word_scores(queries, products)).float()


def by_rank(queries: Texts, products: Texts) -> torch.Tensor:
    """Return the (A, B) float32 scores of reciprocal-rank fusion; B must be all candidates.

    What shares no word with the query has no rank among words.
    """
    words, vectors = word_scores(queries, products), similarity(queries.vectors, products.vectors)
    total = torch.zeros(vectors.shape, dtype=torch.float64)
    depth = min(DEPTH, vectors.shape[1])
    shares = 1 / (CONSTANT + torch.arange(1, depth + 1, dtype=torch.float64)).expand(len(total), depth)
    for scores in (vectors, words):
        best = scores.sort(dim=1, descending=True, stable=True)
        found = shares if scores is vectors else shares * (best.values[:, :depth] > 0)
        total.scatter_add_(1, best.indices[:, :depth], found)
    return total.float()


class WordedCorpus:
    """A corpus with BM25 over its texts.

    Args:
        rows: of the products that may be found; words are weighed by all.

    Raises:
        UserError: no text has a word, or a vector is not finite.
    """

    def __init__(self, corpus: Vectors, texts: Sequence[str | None], rows: np.ndarray | None = None):
        self.bm25 = Bm25(texts)
        self.documents = self.bm25.documents
        if rows is not None:
            corpus = Vectors(corpus.array[rows], corpus.ids[rows], corpus.name)
            self.documents = self.documents[rows]
        self.corpus = corpus
        self.order, self.place = places_by_id(corpus)
        for _ in read_blocks(corpus):
            pass

    def products(self, start: int = 0, stop: int | None = None) -> Texts:
        """Return products with their words."""
        stop = len(self.corpus) if stop is None else stop
        return as_products(torch.from_numpy(self.corpus.read(start, stop)), self.documents[start:stop])


class HybridSearch(NearestSearch):
    """Exact top k of vectors and words together, ties broken by id.

    Args:
        texts: of all queries that will be searched, in their order.
        weights: of each query; `None` for reciprocal-rank fusion, which needs the scores of all products at once.

    Attributes:
        weights: (Q,) what the words of each query count.
    """

    def __init__(
        self,
        worded: WordedCorpus,
        texts: Sequence[str | None],
        weights: Sequence[Weight | None] | None,
        threads: int | None = None,
    ):
        super().__init__(worded.corpus, threads)
        self._worded, self._by_rank = worded, weights is None
        nothing = torch.empty(len(texts), 0)
        self._asked = as_queries(worded.bm25, nothing, texts, weights or [None] * len(texts))
        self.weights = self._asked.weights

    def _best(self, queries: np.ndarray, k: int, first: int) -> Hits:
        asked = self._asked[first : first + len(queries)]._replace(vectors=torch.from_numpy(queries))
        size = len(self.corpus)
        at_once, block = (max(1, RANKED // size), size) if self._by_rank else (len(queries), BLOCK)
        parts = []
        for number in range(0, len(queries), at_once):
            some = asked[number : number + at_once]
            best = torch.full((len(some.weights), k), NOTHING)
            for start in range(0, size, block):
                stop = min(start + block, size)
                scores = (by_rank if self._by_rank else weighted)(some, self._worded.products(start, stop))
                best = torch.cat([best, keys_of(scores, self._worded.place[start:stop])], 1).topk(k).values
            parts.append(hits_of_keys(best, self._worded.order))
        return Hits(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class _List(NamedTuple):
    """The candidates that decide about one query: cosines, shares of BM25, and which of them are right."""

    vectors: np.ndarray
    words: np.ndarray
    right: np.ndarray


def fit_weight(
    bm25: Bm25, queries: Texts, products: Texts, texts: Sequence[str], right: Sequence[Sequence[int]]
) -> Weight | None:
    """Fit the weight for queries of one direction.

    Args:
        right: for each query the places of its right products among the products; queries without one are left out.

    Returns:
        The `Weight`, or `None` where there are fewer than `FEWEST` queries with words and a right product.
    """
    kept = [row for row, places in enumerate(right) if len(places) and queries.words[[row]].nnz]
    if len(kept) < FEWEST:
        return None
    lists = [_listed(queries[[row]], products, right[row]) for row in kept]
    features = features_of(bm25, bm25.queries([texts[row] for row in kept]), [texts[row] for row in kept])
    longest = max(len(one.vectors) for one in lists)

    def padded(part: str, fill: float) -> np.ndarray:
        rows = [getattr(one, part) for one in lists]
        return np.stack([np.pad(row.astype(float), (0, longest - len(row)), constant_values=fill) for row in rows])

    vectors, words, is_right = padded("vectors", -np.inf), padded("words", 0), padded("right", 0)

    def loss(parameters: np.ndarray) -> float:
        scale, *weights = parameters
        share = expit(features @ weights)[:, None]
        chances = log_softmax(np.exp(scale) * ((1 - share) * vectors + share * words), axis=1)
        told = np.where(is_right > 0, chances, 0).sum(1) / is_right.sum(1)
        return -told.mean() + PRIOR * (weights[1] ** 2 + weights[2] ** 2) / len(kept)

    found = minimize(loss, [2.0, 0.0, 0.0, 0.0], method="L-BFGS-B", bounds=[(-2, 6), *[(-8, 8)] * 3]).x[1:]
    figures = []
    for shift in SHIFTS:
        share = expit(features @ found + shift)[:, None]
        figures.append(_figure((1 - share) * vectors + share * words, is_right > 0))
    # The mean of three neighbours: what one query does at one place is chance.
    best = int(np.convolve(np.pad(figures, 1, "edge"), np.ones(3) / 3, "valid").argmax())
    alone = {"vectors": vectors, "words": (1 - NEARLY) * vectors + NEARLY * words}
    better = {name: _figure(scores, is_right > 0) for name, scores in alone.items()}
    use = max(better, key=better.get)
    found[0] += SHIFTS[best]
    weight = Weight(*map(float, found), use if better[use] > figures[best] else "both", len(kept), 0.0)
    return replace(weight, mean=float(weight.of(features).mean()))


def _listed(query: Texts, products: Texts, right: Sequence[int]) -> _List:
    """Return the best candidates of either way, and the right ones."""
    vectors = similarity(query.vectors, products.vectors)[0].numpy()
    words = word_scores(query, products)[0].numpy()
    count = min(LISTED, len(vectors))
    chosen = [np.argpartition(-scores, count - 1)[:count] for scores in (vectors, words)]
    places = np.union1d(np.concatenate(chosen), np.asarray(right, int))
    return _List(vectors[places], words[places], np.isin(places, right))


def _figure(scores: np.ndarray, right: np.ndarray) -> float:
    """Return the mean of Recall@10 and reciprocal rank, ties broken by place."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(right, order, 1)
    return float((ordered[:, :10].sum(1) / right.sum(1) + 1 / (ordered.argmax(1) + 1)).mean() / 2)
