"""Search with faiss: as `evaluation.search.exact`, exact up to float32 sums, or approximate."""

from collections.abc import Callable

import numpy as np
import torch

from evaluation.errors import EvaluationError
from evaluation.search.exact import ExactSearch, Hits, check_fit
from evaluation.vectors.store import Vectors, check_finite, read_blocks

# Settings of the approximate kinds: our choice, for about 0.9 to 1.0 of the true neighbours.
INDEXES = {"faiss": "Flat", "faiss-hnsw": "HNSW32,Flat", "faiss-ivf": "IVF{lists},Flat"}
PROBES = 32


class FaissSearch:
    """A faiss index of a corpus. Memory: the vectors as float32, and for HNSW some 300 bytes more for each.

    Raises:
        EvaluationError: faiss is not installed, or a vector is not finite (its id is named).
    """

    def __init__(self, corpus: Vectors, engine: str, threads: int | None = None):
        try:
            import faiss
        except ModuleNotFoundError as error:
            raise EvaluationError(f"--engine {engine} needs faiss: pip install 'moon2[search]'.") from error
        faiss.omp_set_num_threads(threads or torch.get_num_threads())
        self.corpus = corpus
        lists = min(len(corpus), int(4 * len(corpus) ** 0.5))
        self.index = faiss.index_factory(
            corpus.dimension, INDEXES[engine].format(lists=lists), faiss.METRIC_INNER_PRODUCT
        )
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

    def search(
        self, queries: Vectors, k: int, start: int = 0, stop: int | None = None, done: Callable | None = None
    ) -> Hits:
        """As `ExactSearch.search`, by faiss's scores and in its order; -1 stands for a neighbour that was not found."""
        check_fit(queries, self.corpus, k)
        stop = len(queries) if stop is None else stop
        parts = []
        for first in range(start, stop, 1024):
            last = min(first + 1024, stop)
            chunk = queries.read(first, last)
            check_finite(chunk, queries, range(first, last))
            scores, rows = self.index.search(chunk, k)
            parts.append(Hits(rows, scores))
            if done is not None:
                done(last - first)
        return Hits(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def recall_of(engine: FaissSearch, queries: Vectors, k: int, sample: int, seed: int = 0) -> float:
    """The share of the exact top k that an engine finds, over a sample of the queries."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(queries))[:sample])
    asked = Vectors(queries.take(rows), queries.ids[rows], queries.name)
    exact, found = ExactSearch(engine.corpus).search(asked, k).rows, engine.search(asked, k).rows
    return float(np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(exact, found, strict=True)]))
