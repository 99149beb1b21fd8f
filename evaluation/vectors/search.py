"""Search a whole set of queries, into a table: `python -m evaluation search`; and fit what words count: `weigh`.

    hits.parquet        query-id, corpus-id, rank (from 1), score: k rows a query, in the order of the queries
    hits.parquet.json   what was searched, how, and how long it took

Queries are searched part by part. A part is complete or absent, so an interrupted search goes on where it was.
"""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from common_moon2.cli import UserError
from common_moon2.files import staged, write_json
from evaluation.arguments import STORES, Search, Weigh
from evaluation.tables.details import read_filters
from evaluation.tables.products import read_table
from evaluation.vectors.hybrid import (
    FILE,
    Fusion,
    HybridSearch,
    Weight,
    WordedCorpus,
    as_queries,
    fit_weight,
    read_fusion,
)
from evaluation.vectors.nearest import ExactSearch, FaissSearch, Hits, NearestSearch, check_fit, recall_of
from evaluation.vectors.store import Vectors, open_vectors, read_beside, unchanged
from pictures_moon2 import address

PART = 16384  # queries between two marks to go on from
SAMPLE = 200  # queries that the recall of an approximate index is measured on
SCHEMA = pa.schema({"query-id": pa.string(), "corpus-id": pa.string(), "rank": pa.int32(), "score": pa.float32()})


def search_all(arguments: Search, part: int = PART) -> dict:
    """Write the k best corpus vectors of every query.

    Args:
        part: queries between two marks to go on from.

    Returns:
        What is written to `<output>.json`, and the output.

    Raises:
        UserError: the vectors cannot be read or do not fit together, no product fits the filters, or `output` holds
            another search's parts.
    """
    output, engine = arguments.output, arguments.engine
    exact, parts, index = engine == "exact", output.with_name(f"{output.name}.parts"), None
    with unchanged(arguments.queries, arguments.corpus) as made:
        queries, corpus = open_vectors(arguments.queries), open_vectors(arguments.corpus)
        settings = dict(zip(("queries", "corpus"), made, strict=True))
        check_fit(queries, corpus, arguments.k)
        _check_models(*made)
        search = _Search(arguments, queries, corpus, made[1].get("model_fingerprint"))
        settings |= {"k": arguments.k, "engine": engine, "part": part} | search.facts
        k = min(arguments.k, search.fitting)
        _claim(parts, settings)
        start = time.perf_counter()
        files = [parts / f"{number:05d}.parquet" for number in range(-(-len(queries) // part))]
        if not exact or not all(file.exists() for file in files):
            index, truth = search.exact() if exact else search.engine(), None if exact else search.exact()
    if index is not None:
        with tqdm(total=len(queries), desc="search", unit="query") as progress:
            for number, file in enumerate(files):
                first, last = number * part, min((number + 1) * part, len(queries))
                if file.exists():
                    progress.update(last - first)
                    continue
                found = index.search(queries, k, first, last, progress.update)
                with staged(file) as temporary:
                    pq.write_table(_table(queries, index.corpus, found, first), temporary, compression="zstd")
        if not exact:
            settings |= {"recall": recall_of(truth, index, queries, k, SAMPLE), "recall_sample": SAMPLE}
    with staged(output) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for file in files:
            writer.write_table(pq.read_table(file))
    facts = settings | {"count": len(queries), "seconds_of_last_run": round(time.perf_counter() - start, 3)}
    write_json(output.with_name(f"{output.name}.json"), facts, sort_keys=True)
    shutil.rmtree(parts)
    kinds = {"exact": "exact", "faiss": "exact up to float32 sums"}
    kind = kinds.get(engine) or f"approximate: {facts['recall']:.4f} of the exact ones on a sample"
    for sentence in search.said:
        print(sentence)
    print(f"The {k} nearest of {len(queries):,} queries ({kind}) are in {output}")
    return {"output": output, **facts}


class _Search:
    """What a search was told, read: filters as rows of the corpus, texts and weights of words.

    Attributes:
        fitting: how many products the filters leave.
        facts: of filters and words, for the manifest of the search.
        said: the same for people.
    """

    def __init__(self, arguments: Search, queries: Vectors, corpus: Vectors, model: str | None):
        self.arguments, self.queries, self.corpus = arguments, queries, corpus
        self.facts, self.said, self.fitting = {}, [], len(corpus)
        self._rows, self._fusion, self._filters = None, None, []
        if arguments.engine in STORES:
            self.facts |= {"location": address(arguments.location), "name": arguments.name}
        if arguments.filter:
            beside = read_beside(arguments.corpus)
            self._filters = read_filters(arguments.filter, beside.schema, str(arguments.corpus))
            self._rows = np.flatnonzero(np.logical_and.reduce([one.mask(beside) for one in self._filters]))
            self.fitting = len(self._rows)
            self.facts |= {"filter": list(arguments.filter), "fitting": self.fitting}
            if not self.fitting:
                raise UserError(f"No product of {arguments.corpus} fits {', '.join(arguments.filter)}.")
            self.said.append(f"{self.fitting:,} products fit {', '.join(arguments.filter)}")
        if arguments.hybrid == "weighted":
            self._fusion = read_fusion(arguments.weights or arguments.corpus, model)
            self.said.append(f"Words and vectors: {self._fusion.sentence()}")
            if self._fusion.model is None:
                self.said.append("The weights do not say for which model they were fitted")
            shown = {direction for direction in _directions(arguments) if direction[0] != "i"}
            for direction in sorted(shown - self._fusion.weights.keys()):
                self.said.append(f"No weights for {direction.replace('2', '->')}: its queries use vectors alone")
        elif arguments.hybrid:
            self.said.append("Words and vectors: reciprocal-rank fusion")
        if arguments.hybrid:
            self.facts["hybrid"] = asdict(self._fusion) if self._fusion else arguments.hybrid

    def exact(self) -> NearestSearch:
        """Return the exact search."""
        arguments, rows = self.arguments, self._rows
        if arguments.hybrid:
            worded = WordedCorpus(self.corpus, _texts(arguments.corpus), rows)
            return HybridSearch(worded, _texts(arguments.queries), self._weights(), arguments.threads)
        corpus = self.corpus
        if rows is not None:
            corpus = Vectors(corpus.array[rows], corpus.ids[rows], corpus.name)
        return ExactSearch(corpus, arguments.precision, arguments.threads)

    def engine(self) -> NearestSearch:
        """Return the search that the engine does."""
        arguments = self.arguments
        if arguments.engine not in STORES:
            return FaissSearch(self.corpus, arguments.engine, arguments.threads)
        # Their libraries are not needed otherwise.
        from evaluation.stores.load import StoreSearch, open_store
        from evaluation.stores.records import Asking

        told = (_texts(arguments.corpus), _texts(arguments.queries)) if arguments.hybrid else ((), None)
        asking = Asking(*told, self._weights() or [])
        store = open_store(arguments.engine, arguments.location, arguments.name)
        return StoreSearch(self.corpus, store, asking, self._filters)

    def _weights(self) -> list[Weight | None] | None:
        if self._fusion is None:
            return None
        return [self._fusion.weights.get(direction) for direction in _directions(self.arguments)]


def _check_models(queries: dict, corpus: dict) -> None:
    """Refuse vectors of two models, also of one size; what is not told of a model is taken as it is."""
    models = [told.get("model_fingerprint") for told in (queries, corpus)]
    if None not in models and models[0] != models[1]:
        raise UserError(
            f"The queries were embedded with {queries['model']}, the corpus with {corpus['model']}: these are two "
            "models, or two states of one. Embed both with the same."
        )


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


def _texts(folder: Path) -> list[str | None]:
    return read_beside(folder, ["text"])["text"].to_pylist()


def _directions(arguments: Search | Weigh) -> list[str]:
    """Return the direction of each query, as "mm2mm": by what it shows, and by whether products show images."""
    shows = [read_beside(folder, ["shows"])["shows"].to_pylist() for folder in (arguments.queries, arguments.corpus)]
    view = "t" if set(shows[1]) == {"t"} else "mm"
    return [f"{shown}2{view}" for shown in shows[0]]


def weigh(arguments: Weigh) -> dict:
    """Fit what words count beside vectors, on queries whose right products are known; write it beside the corpus.

    Raises:
        UserError: the vectors or the judgements cannot be read, do not fit together, or are too few.
    """
    with unchanged(arguments.queries, arguments.corpus) as made:
        queries, corpus = open_vectors(arguments.queries), open_vectors(arguments.corpus)
        check_fit(queries, corpus, 1)
        _check_models(*made)
        worded, texts, shown = WordedCorpus(corpus, _texts(arguments.corpus)), _texts(arguments.queries), {}
        for row, direction in enumerate(_directions(arguments)):
            shown.setdefault(direction, []).append(row)
    judged = read_table(arguments.qrels, "qrels", ("query-id", "corpus-id", "score"))
    places = {identifier: row for row, identifier in enumerate(corpus.ids.tolist())}
    asked = {identifier: row for row, identifier in enumerate(queries.ids.tolist())}
    right: list[list[int]] = [[] for _ in asked]
    unknown = []
    for row, (query, product, score) in enumerate(zip(*judged.values(), strict=True)):
        try:
            value = float(score)
        except (TypeError, ValueError):
            value = np.nan
        if np.isnan(value):
            raise UserError(f"Row {row} of {arguments.qrels} has the score {score!r}, which is no number.")
        if str(query) not in asked:
            unknown.append((row, query))
        elif value > 0:
            if str(product) not in places:
                raise UserError(
                    f"Row {row} of {arguments.qrels} names the product {product!r}, which {corpus.name} lacks."
                )
            right[asked[str(query)]].append(places[str(product)])
    if unknown:
        row, query = unknown[0]
        print(
            f"{len(unknown):,} of {len(judged['score']):,} judgements are left out: {queries.name} lacks their queries "
            f"(row {row}: {query!r})"
        )
    weights = {}
    for direction, rows in shown.items():
        own = [texts[row] for row in rows]
        vectors = torch.from_numpy(queries.take(np.array(rows)))
        told = as_queries(worded.bm25, vectors, own, [None] * len(rows))
        weight = fit_weight(worded.bm25, told, worded.products(), own, [right[row] for row in rows])
        weights |= {direction: weight} if weight else {}
    if not weights:
        raise UserError(
            f"{arguments.qrels} has too few judgements above zero of the queries with words in {queries.name}: "
            "some dozens are needed."
        )
    fusion = Fusion(weights, str(arguments.qrels), made[1].get("model_fingerprint"))
    output = arguments.output or arguments.corpus / FILE
    fusion.save(output)
    print(f"{fusion.sentence()}; written to {output}")
    return {"output": output, **asdict(fusion)}
