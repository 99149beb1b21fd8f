"""Exact top-k by inner product, for catalogues of some hundred thousand to some million vectors on a processor.

A first pass multiplies rounded vectors (`evaluation.search.coarse`). Its bound tells which products can be among the k
best; these, and only these, are computed in float64. So the result is that of float64 sums rounded once to float32,
ties broken by id, whichever rounding was used (our choice; the paper does not say how it searches).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from evaluation.errors import EvaluationError
from evaluation.search.coarse import PRECISIONS, Coarse, Queries, fastest_first
from evaluation.vectors.store import Vectors, check_finite

QUERIES = 512
# Columns of which the maximum is looked at before any single one.
GROUP = 32
FIRST_BLOCKS = 8
MOST_PENDING = 1 << 20
RESCORED = 2048
# Above this share of a block, one float64 product of all is cheaper than the pairs one by one.
DENSE = 1 / 16
# Above this share of the corpus, looking again costs more than a slower and closer first pass.
TOO_MANY = 1 / 256


class Hits(NamedTuple):
    """The best corpus rows of each query, best first: rows (Q, k) int64 and scores (Q, k) float32."""

    rows: np.ndarray
    scores: np.ndarray


def check_fit(queries: Vectors, corpus: Vectors, k: int) -> None:
    """Whether a corpus can be searched for the k best of each query.

    Raises:
        EvaluationError: k is more than the corpus has, or the dimensions differ.
    """
    if not 1 <= k <= len(corpus):
        raise EvaluationError(f"k is {k}; {corpus.name} has {len(corpus)} vectors, so give 1 to {len(corpus)}.")
    if queries.dimension != corpus.dimension:
        raise EvaluationError(
            f"The vectors of {queries.name} have {queries.dimension} dimensions, those of {corpus.name} "
            f"{corpus.dimension}: they come from different models or options."
        )


class ExactSearch:
    """A corpus that is ready to be searched.

    Memory: N x D bytes for int8, twice that for bfloat16, beside the part of the vectors' file that the system keeps in
    memory, and some 50 MB for each thread.

    Args:
        precision: of the first pass: "int8", "bfloat16", "float32", or "auto" for what this processor does fastest;
            "auto" then moves on to a closer one if the vectors are so alike that too many have to be looked at again.
        threads: how many batches of queries are searched side by side.

    Raises:
        EvaluationError: a vector is not finite (its id is named), or the corpus is empty.
    """

    def __init__(self, corpus: Vectors, precision: str = "auto", threads: int | None = None):
        if not len(corpus):
            raise EvaluationError(f"{corpus.name} has no vectors to search in.")
        self.corpus = corpus
        self.threads = threads or torch.get_num_threads()
        self._names = fastest_first(corpus.dimension) if precision == "auto" else [precision]
        self._use(self._names.pop(0))
        self._tie_order = np.empty(len(corpus), np.int64)
        self._tie_order[np.argsort(corpus.ids, kind="stable")] = np.arange(len(corpus))

    def _use(self, precision: str) -> None:
        self.precision = precision
        self._coarse: Coarse = PRECISIONS[precision](self.corpus)

    def search(
        self,
        queries: Vectors,
        k: int,
        start: int = 0,
        stop: int | None = None,
        done: Callable[[int], object] | None = None,
    ) -> Hits:
        """The k best for the queries from `start` to `stop`.

        Args:
            done: told how many queries were finished, each time some are.

        Raises:
            EvaluationError: k is more than the corpus has, the dimensions differ, or a query is not finite.
        """
        stop = len(queries) if stop is None else stop
        check_fit(queries, self.corpus, k)

        def one(first: int) -> tuple[Hits, int]:
            last = min(first + QUERIES, stop)
            chunk = queries.read(first, last)
            check_finite(chunk, queries, range(first, last))
            found = _Chunk(self.corpus, self._coarse, self._tie_order, chunk, k).run()
            if done is not None:
                done(last - first)
            return found

        starts, parts = list(range(start, stop, QUERIES)), []
        with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            while starts:
                # One after the other while a better precision may still be found, then all.
                now, starts = (starts[: self.threads], starts[self.threads :]) if self._names else (starts, [])
                found = list(pool.map(one, now))
                parts += [hits for hits, _ in found]
                if self._names and sum(pairs for _, pairs in found) > TOO_MANY * len(self.corpus) * QUERIES * len(now):
                    self._use(self._names.pop(0))
        if not parts:
            return Hits(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        return Hits(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class _Chunk:
    """One batch of queries on its way through the corpus.

    Attributes:
        kept: query, corpus row and true score of the best so far, at most k a query.
        floor: (Q,) no more than the true score of the k-th best: what is surely below it need not be looked at.
    """

    def __init__(self, corpus: Vectors, coarse: Coarse, tie_order: np.ndarray, queries: np.ndarray, k: int):
        self.corpus, self.coarse, self.tie_order, self.k = corpus, coarse, tie_order, k
        self.exact = torch.from_numpy(queries).double()
        self.queries: Queries = coarse.prepare(queries)
        self.kept = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        self.floor = np.full(len(queries), -np.inf)
        self.pending: list[tuple[np.ndarray, ...]] = []
        self.rescored = 0

    def run(self) -> tuple[Hits, int]:
        """The hits, and how many pairs were computed in float64."""
        self._first_floor()
        waiting, due = 0, FIRST_BLOCKS
        for block in range(self.coarse.blocks):
            waiting += self._scan(block)
            # As the floor rises with the logarithm of what was seen, looking after every doubling is enough.
            if block + 1 >= due or waiting > MOST_PENDING:
                self._settle()
                waiting, due = 0, max(due, 2 * (block + 1))
        self._settle()
        shape = (len(self.floor), self.k)
        _, rows, scores = self.kept
        return Hits(rows.reshape(shape), scores.reshape(shape)), self.rescored

    def _first_floor(self) -> None:
        """The k-th best maximum of a group is at most the k-th best of all, and is found without looking at all."""
        blocks = min(self.coarse.blocks, max(FIRST_BLOCKS, -(-4 * self.k * GROUP // len(self.coarse.rows(0)))))
        best = torch.empty(len(self.floor), 0, dtype=torch.float64)
        for block in range(min(blocks, 1 + self.coarse.blocks // 8)):
            product = self.coarse.product(self.queries, block)
            if product.shape[1] % GROUP:
                continue
            approximate = product.view(len(product), GROUP, -1).amax(1).double().numpy()
            unit, error = self.coarse.unit(self.queries, block), self.coarse.error(self.queries, block)
            lower, _ = self._bounds(approximate * unit[:, None], error[:, None])
            best = torch.cat([best, torch.from_numpy(lower)], 1)
            best = best.topk(min(self.k, best.shape[1])).values
        if best.shape[1] == self.k:
            self.floor = best[:, -1].numpy().copy()

    def _bounds(self, approximate: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Between which the true scores lie."""
        error = error + self.coarse.relative * np.abs(approximate)
        return approximate - error, approximate + error

    def _scan(self, block: int) -> int:
        """Finds the pairs of a block that may be among the best; returns how many wait to be looked at."""
        product = self.coarse.product(self.queries, block)
        unit, error = self.coarse.unit(self.queries, block), self.coarse.error(self.queries, block)
        least = self.floor - error
        least = np.where(least > 0, least / (1 + self.coarse.relative), least / (1 - self.coarse.relative)) / unit
        query, column = _reaching(product, least)
        if not len(query):
            return 0
        if len(query) > DENSE * product.numel():
            self._settle_block(block, query, column)
            return 0
        query, column = query.numpy(), column.numpy()
        approximate = product.flatten()[torch.from_numpy(query * product.shape[1] + column)].double().numpy()
        lower, upper = self._bounds(approximate * unit[query], error[query])
        self.pending.append((query, self.coarse.rows(block)[column], lower, upper))
        return len(query)

    def _settle(self) -> None:
        """Computes the pending pairs that can still be among the best, and keeps the best."""
        if not self.pending:
            return
        query, row, lower, upper = (np.concatenate(arrays) for arrays in zip(*self.pending, strict=True))
        self.pending = []
        known_query, _, known = self.kept
        floor = _kth(np.concatenate([known_query, query]), np.concatenate([known, lower]), self.k, len(self.floor))
        open_ = upper >= np.maximum(floor, self.floor)[query]
        query, row = query[open_], row[open_]
        scores = np.empty(len(query), np.float32)
        for start in range(0, len(query), RESCORED):
            part = slice(start, start + RESCORED)
            candidates = torch.from_numpy(self.corpus.take(row[part])).double()
            scores[part] = torch.linalg.vecdot(self.exact[query[part]], candidates).float().numpy()
        self._keep(query, row, scores)

    def _settle_block(self, block: int, query: torch.Tensor, column: torch.Tensor) -> None:
        """As `_settle`, for a block of which much can be among the best."""
        rows = self.coarse.rows(block)
        scores = (self.exact @ torch.from_numpy(self.corpus.take(rows)).double().T).float()[query, column].numpy()
        query, column = query.numpy(), column.numpy()
        open_ = scores >= self.floor[query]
        self._keep(query[open_], rows[column[open_]], scores[open_])

    def _keep(self, query: np.ndarray, row: np.ndarray, scores: np.ndarray) -> None:
        self.rescored += len(query)
        query, row, scores = (np.concatenate(pair) for pair in zip(self.kept, (query, row, scores), strict=True))
        order = np.lexsort((self.tie_order[row], -scores, query))
        query = query[order]
        best = np.arange(len(query)) - np.searchsorted(query, query) < self.k
        order = order[best]
        self.kept = (query[best], row[order], scores[order])
        self.floor = np.maximum(self.floor, _kth(self.kept[0], self.kept[2], self.k, len(self.floor)))


def _reaching(product: torch.Tensor, least: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and column of every element of (Q, B) that is at least `least` (Q,)."""
    if product.dtype == torch.int32:
        bound = torch.from_numpy(np.ceil(least).clip(-(2**31), 2**31 - 1)).int()[:, None]
    else:
        bound = torch.from_numpy(np.nextafter(least.astype(np.float32), np.float32(-np.inf)))[:, None]
    count, width = product.shape
    if width % GROUP:
        return (product >= bound).nonzero(as_tuple=True)
    folded = product.view(count, GROUP, -1)
    if product.dtype == torch.bfloat16 and bool((bound > 0).all()):
        # Positive floats are in the order of their bits, and integers have a fast maximum. A negative maximum may be
        # wrong, but stays negative.
        maxima = folded.view(torch.int16).amax(1).view(torch.bfloat16)
    else:
        maxima = folded.amax(1)
    query, group = (maxima >= bound).nonzero(as_tuple=True)
    found, member = (folded[query, :, group] >= bound[query]).nonzero(as_tuple=True)
    return query[found], member * (width // GROUP) + group[found]


def _kth(query: np.ndarray, values: np.ndarray, k: int, count: int) -> np.ndarray:
    """(count,) the k-th largest value of each query, minus infinity where it has fewer."""
    order = np.lexsort((-values, query))
    query, values = query[order], values[order]
    starts = np.searchsorted(query, np.arange(count + 1))
    places = starts[:-1] + k - 1
    enough = places < starts[1:]
    result = np.full(count, -np.inf)
    result[enough] = values[places[enough]]
    return result
