"""The nearest neighbours of a whole set of queries, as a table: `python -m evaluation search`.

    hits.parquet        query-id, corpus-id, rank (from 1), score: k rows a query, in the order of the queries
    hits.parquet.json   what was searched, how, and how long it took

Exact search multiplies in bfloat16 where the processor has instructions for it, otherwise in float32. A bound on what
rounding takes tells which products can be among the k best; only their scores are computed, in float64 and rounded once
to float32. So the result depends neither on the processor nor on the order of sums (our choice; the paper does not say
how it searches).

Queries are searched part by part. A part is complete or absent, so an interrupted search goes on where it was.
"""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from common_moon2.cli import UserError
from common_moon2.files import staged, write_json
from evaluation.arguments import Search
from evaluation.vectors.store import Vectors, check_finite, identity, open_vectors, read_blocks

QUERIES, BLOCK = 256, 8192  # of one product: its scores stay in the processor's cache
DENSE = 1 / 8  # above this share of a block, one float64 product is cheaper than its pairs one by one
# Settings of the approximate indexes: our choice, for about 0.9 to 1.0 of the true neighbours.
INDEXES = {"faiss": "Flat", "faiss-hnsw": "HNSW32,Flat", "faiss-ivf": "IVF{lists},Flat"}
PROBES = 32
LOW, NOTHING = 2**32 - 1, torch.iinfo(torch.int64).min  # of keys: the bits of a place, and one below all others
PART = 16384  # queries between two marks to go on from
SAMPLE = 200  # queries that the recall of an approximate index is measured on
SCHEMA = pa.schema({"query-id": pa.string(), "corpus-id": pa.string(), "rank": pa.int32(), "score": pa.float32()})


class Hits(NamedTuple):
    """The best corpus rows of each query, best first: rows (Q, k) int64 and scores (Q, k) float32."""

    rows: np.ndarray
    scores: np.ndarray


class NearestSearch:
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
            found = self._best(chunk, k)
            if done is not None:
                done(last - first)
            return found

        # Each thread has queries of its own, and multiplies alone.
        with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(pool.map(one, range(start, stop, QUERIES)))
        empty = Hits(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        return Hits(*(np.concatenate(arrays) for arrays in zip(empty, *parts, strict=True)))

    def _best(self, queries: np.ndarray, k: int) -> Hits:
        """Return the k best for (Q, D) queries."""
        raise NotImplementedError


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
        self._order = np.argsort(corpus.ids, kind="stable")  # rows by their ids
        self._place = torch.empty(len(corpus), dtype=torch.int64)
        self._place[torch.from_numpy(self._order)] = torch.arange(len(corpus))
        self._longest = [float(np.linalg.norm(block, axis=1).max()) for _, block in read_blocks(corpus, BLOCK)]

    def _best(self, queries: np.ndarray, k: int) -> Hits:
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
                keys = _keys(exact @ block.double().T, place)
            else:
                scores = torch.linalg.vecdot(exact[query], block[column].double())
                counts = torch.bincount(query, minlength=len(queries))
                keys = torch.full((len(queries), int(counts.max())), NOTHING)
                keys[query, torch.arange(len(query)) - (counts.cumsum(0) - counts)[query]] = _keys(
                    scores, place[column]
                )
            best = torch.cat([best, keys], 1).topk(k).values
            worst = best[:, -1:]
            floor = torch.where(worst > NOTHING, _scores(worst).double(), floor)
        return Hits(self._order[LOW - (best & LOW).numpy()], _scores(best).numpy())

    def _rounded(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.to(getattr(torch, self.precision))


def _keys(scores: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return integers in the order of the scores as float32, and of equal scores by the places of their ids."""
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0: of a zero without a sign
    return (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() << 32) | (LOW - place)


def _scores(keys: torch.Tensor) -> torch.Tensor:
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

    def _best(self, queries: np.ndarray, k: int) -> Hits:
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


def recall_of(index: FaissSearch, queries: Vectors, k: int, sample: int, seed: int = 0) -> float:
    """Return the share of the exact top k that an index finds, over a sample of the queries."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(queries))[:sample])
    asked = Vectors(queries.take(rows), queries.ids[rows], queries.name)
    exact, found = ExactSearch(index.corpus).search(asked, k).rows, index.search(asked, k).rows
    return float(np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(exact, found, strict=True)]))


def search_all(arguments: Search, part: int = PART) -> dict:
    """Write the k best corpus vectors of every query.

    Args:
        part: queries between two marks to go on from.

    Returns:
        What is written to `<output>.json`, and the output.

    Raises:
        UserError: the vectors cannot be read or do not fit together, or `output` holds another search's parts.
    """
    queries, corpus = open_vectors(arguments.queries), open_vectors(arguments.corpus)
    output, k = arguments.output, arguments.k
    sources = {"queries": identity(arguments.queries), "corpus": identity(arguments.corpus)}
    settings = sources | {"k": k, "engine": arguments.engine, "part": part}
    parts = output.with_name(f"{output.name}.parts")
    check_fit(queries, corpus, k)
    _claim(parts, settings)
    start = time.perf_counter()
    files = [parts / f"{number:05d}.parquet" for number in range(-(-len(queries) // part))]
    exact = arguments.engine == "exact"
    if not exact or not all(file.exists() for file in files):
        index = (
            ExactSearch(corpus, arguments.precision, arguments.threads)
            if exact
            else FaissSearch(corpus, arguments.engine, arguments.threads)
        )
        with tqdm(total=len(queries), desc="search", unit="query") as progress:
            for number, file in enumerate(files):
                first, last = number * part, min((number + 1) * part, len(queries))
                if file.exists():
                    progress.update(last - first)
                    continue
                found = index.search(queries, k, first, last, progress.update)
                with staged(file) as temporary:
                    pq.write_table(_table(queries, corpus, found, first), temporary, compression="zstd")
        settings |= {} if exact else {"recall": recall_of(index, queries, k, SAMPLE), "recall_sample": SAMPLE}
    with staged(output) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for file in files:
            writer.write_table(pq.read_table(file))
    facts = settings | {"count": len(queries), "seconds_of_last_run": round(time.perf_counter() - start, 3)}
    write_json(output.with_name(f"{output.name}.json"), facts, sort_keys=True)
    shutil.rmtree(parts)
    kinds = {"exact": "exact", "faiss": "exact up to float32 sums"}
    kind = kinds.get(arguments.engine) or f"approximate: {facts['recall']:.4f} of the exact ones on a sample"
    print(f"The {k} nearest of {len(queries):,} queries ({kind}) are in {output}")
    return {"output": output, **facts}


def _claim(parts: Path, settings: dict) -> None:
    """Take a folder without parts, or with parts of the same search."""
    path = parts / "search.json"
    if not any(parts.glob("*.parquet")):
        write_json(path, settings)
    elif json.loads(path.read_text(encoding="utf-8")) != settings:
        raise UserError(f"{parts} holds the parts of another search: give another --output, or delete it.")


def _table(queries: Vectors, corpus: Vectors, hits: Hits, first: int) -> pa.Table:
    count, k = hits.rows.shape
    found = hits.rows.flatten() >= 0  # an approximate index may find fewer than k
    columns = [
        np.repeat(queries.ids[first : first + count], k)[found],
        corpus.ids[hits.rows.flatten()[found]],
        np.tile(np.arange(1, k + 1, dtype=np.int32), count)[found],
        hits.scores.flatten()[found],
    ]
    return pa.table(columns, schema=SCHEMA)
