"""The nearest neighbours of many vectors among many.

Exact search multiplies in bfloat16 where the processor has instructions for it, otherwise in float32. A bound on what
rounding takes tells which products can be among the k best; only their scores are computed, in float64 and rounded once
to float32. So the result depends neither on the processor nor on the order of sums (our choice; the paper does not say
how it searches).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from common_moon2.cli import UserError
from evaluation.vectors.store import Vectors, check_finite, read_blocks

QUERIES, BLOCK = 256, 8192  # of one product: its scores stay in the processor's cache
DENSE = 1 / 8  # above this share of a block, one float64 product is cheaper than its pairs one by one
# Settings of the approximate indexes: our choice, for about 0.9 to 1.0 of the true neighbours.
INDEXES = {"faiss": "Flat", "faiss-hnsw": "HNSW32,Flat", "faiss-ivf": "IVF{lists},Flat"}
PROBES = 32
LOW, NOTHING = 2**32 - 1, torch.iinfo(torch.int64).min  # of keys: the bits of a place, and one below all others


class Hits(NamedTuple):
    """The best corpus rows of each query, best first: rows (Q, k) int64 and scores (Q, k) float32."""

    rows: np.ndarray
    scores: np.ndarray


class NearestSearch(ABC):
    """A corpus that is ready to be searched.

    Raises:
        UserError: the corpus is empty.
    """

    def __init__(self, corpus: Vectors, threads: int | None = None):
        if not len(corpus):
            raise UserError(f"{corpus.name} has no vectors to search in.")
        self.corpus, self.threads = corpus, threads or torch.get_num_threads()

    def search(
        self,
        queries: Vectors,
        k: int,
        start: int = 0,
        stop: int | None = None,
        done: Callable[[int], object] | None = None,
    ) -> Hits:
        """Return the k best for the queries from `start` to `stop`.

        Args:
            done: told how many queries were finished, each time some are.

        Raises:
            UserError: k is more than the corpus has, the dimensions differ, or a query is not finite.
        """
        stop = len(queries) if stop is None else stop
        check_fit(queries, self.corpus, k)

        def one(first: int) -> Hits:
            last = min(first + QUERIES, stop)
            chunk = queries.read(first, last)
            check_finite(chunk, queries, range(first, last))
            found = self._best(chunk, k, first)
            if done is not None:
                done(last - first)
            return found

        # Each thread has queries of its own, and multiplies alone.
        with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(pool.map(one, range(start, stop, QUERIES)))
        empty = Hits(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        return Hits(*(np.concatenate(arrays) for arrays in zip(empty, *parts, strict=True)))

    @abstractmethod
    def _best(self, queries: np.ndarray, k: int, first: int) -> Hits:
        """Return the k best for (Q, D) queries, of which the first is that of a number among all."""


class ExactSearch(NearestSearch):
    """Exact top k by inner product, ties broken by id.

    Memory: some 50 MB for each thread; the corpus is read block by block.

    Args:
        precision: of the first pass: "bfloat16", "float32", or "auto" for what this processor has instructions for.
        threads: how many batches of queries are searched side by side.

    Raises:
        UserError: a vector is not finite (its id is named), or the corpus is empty.
    """

    def __init__(self, corpus: Vectors, precision: str = "auto", threads: int | None = None):
        super().__init__(corpus, threads)
        can = torch.cpu.get_capabilities()
        fast = any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        self.precision = ("bfloat16" if fast else "float32") if precision == "auto" else precision
        self._order, self._place = places_by_id(corpus)
        self._longest = [float(np.linalg.norm(block, axis=1).max()) for _, block in read_blocks(corpus, BLOCK)]

    def _best(self, queries: np.ndarray, k: int, first: int) -> Hits:
        exact, rounded = torch.from_numpy(queries).double(), self._rounded(torch.from_numpy(queries))
        # bfloat16 takes up to 2**-8 of a query, of a product and of their score. Float32 sums lose less.
        share = 3.1 * 2.0**-8 if self.precision == "bfloat16" else 2.0**-22 * (queries.shape[1] + 2)
        errors = share * exact.norm(dim=1, keepdim=True)
        floor = torch.full((len(queries), 1), -torch.inf, dtype=torch.float64)
        best = torch.full((len(queries), k), NOTHING)
        for number, longest in enumerate(self._longest):
            start = number * BLOCK
            block = torch.from_numpy(self.corpus.read(start, min(start + BLOCK, len(self.corpus))))
            place = self._place[start : start + len(block)]
            near = rounded @ self._rounded(block).T >= (floor - errors * longest).float()
            query, column = near.nonzero(as_tuple=True)
            if len(query) > DENSE * near.numel():
                keys = keys_of(exact @ block.double().T, place)
            else:
                scores = torch.linalg.vecdot(exact[query], block[column].double())
                counts = torch.bincount(query, minlength=len(queries))
                keys = torch.full((len(queries), int(counts.max())), NOTHING)
                keys[query, torch.arange(len(query)) - (counts.cumsum(0) - counts)[query]] = keys_of(
                    scores, place[column]
                )
            best = torch.cat([best, keys], 1).topk(k).values
            worst = best[:, -1:]
            floor = torch.where(worst > NOTHING, scores_of_keys(worst).double(), floor)
        return hits_of_keys(best, self._order)

    def _rounded(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.to(getattr(torch, self.precision))


def places_by_id(corpus: Vectors) -> tuple[np.ndarray, torch.Tensor]:
    """Return the rows in the order of their ids, and the place of each row in that order."""
    order = np.argsort(corpus.ids, kind="stable")
    place = torch.empty(len(corpus), dtype=torch.int64)
    place[torch.from_numpy(order)] = torch.arange(len(corpus))
    return order, place


def hits_of_keys(best: torch.Tensor, order: np.ndarray) -> Hits:
    """Return the rows and scores of (Q, k) keys."""
    return Hits(order[LOW - (best & LOW).numpy()], scores_of_keys(best).numpy())


def keys_of(scores: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return integers in the order of the scores as float32, and of equal scores by the places of their ids."""
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0: of a zero without a sign
    return (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() << 32) | (LOW - place)


def scores_of_keys(keys: torch.Tensor) -> torch.Tensor:
    """Return the scores of keys."""
    bits = (keys >> 32).int()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)


class FaissSearch(NearestSearch):
    """A faiss index of a corpus, by faiss's scores and in its order; row -1: a neighbour was not found.

    Memory: the vectors as float32, and for HNSW some 300 bytes more for each.

    Raises:
        UserError: faiss is not installed, or a vector is not finite (its id is named).
    """

    def __init__(self, corpus: Vectors, engine: str, threads: int | None = None):
        super().__init__(corpus, 1)
        try:
            import faiss
        except ModuleNotFoundError as error:
            raise UserError(f"--engine {engine} needs faiss: pip install 'moon2[search]'.") from error
        faiss.omp_set_num_threads(threads or torch.get_num_threads())
        lists = min(len(corpus), int(4 * len(corpus) ** 0.5))
        kind = INDEXES[engine].format(lists=lists)
        self.index = faiss.index_factory(corpus.dimension, kind, faiss.METRIC_INNER_PRODUCT)
        if not self.index.is_trained:
            sample = np.sort(np.random.default_rng(0).permutation(len(corpus))[: 40 * lists])
            points = corpus.take(sample)
            check_finite(points, corpus, sample)
            self.index.train(points)
        for _, block in read_blocks(corpus):
            self.index.add(block)
        if engine == "faiss-ivf":
            self.index.nprobe = min(PROBES, lists)
        if engine == "faiss-hnsw":
            self.index.hnsw.efSearch = 128

    def _best(self, queries: np.ndarray, k: int, first: int) -> Hits:
        scores, rows = self.index.search(queries, k)
        return Hits(rows, scores)


def check_fit(queries: Vectors, corpus: Vectors, k: int) -> None:
    """Check that a corpus can be searched for the k best of each query.

    Raises:
        UserError: k is more than the corpus has, or the dimensions differ.
    """
    if not 1 <= k <= len(corpus):
        raise UserError(f"k is {k}; {corpus.name} has {len(corpus)} vectors, so give 1 to {len(corpus)}.")
    if queries.dimension != corpus.dimension:
        raise UserError(
            f"The vectors of {queries.name} have {queries.dimension} dimensions, those of {corpus.name} "
            f"{corpus.dimension}: they come from different models or options."
        )


def recall_of(
    exact: NearestSearch, index: NearestSearch, queries: Vectors, k: int, sample: int, seed: int = 0
) -> float:
    """Return the share of the exact top k that an index finds, over a sample of the queries."""
    shares = []
    for row in np.sort(np.random.default_rng(seed).permutation(len(queries))[:sample]).tolist():
        # One by one, so that each keeps its number, by which a search knows its text.
        found = [engine.search(queries, k, row, row + 1).rows[0] for engine in (exact, index)]
        best, other = (engine.corpus.ids[rows[rows >= 0]] for engine, rows in zip((exact, index), found, strict=True))
        shares.append(np.isin(best, other).mean())
    return float(np.mean(shares))
