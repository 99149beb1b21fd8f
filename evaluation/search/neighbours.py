"""The nearest neighbours of a whole set of queries, as a table: `python -m evaluation search`.

    hits.parquet        query-id, corpus-id, rank (from 1), score: k rows a query, in the order of the queries
    hits.parquet.json   what was searched, how, and how long it took

Queries are searched part by part; a part is whole or not there, so an interrupted search goes on where it was.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from common_moon2.cli import whole
from evaluation.errors import EvaluationError
from evaluation.search.exact import ExactSearch, Hits, check_fit
from evaluation.search.faiss_index import INDEXES, FaissSearch, recall_of
from evaluation.vectors.store import Vectors, identity, open_vectors, staged, write_json

PART = 16384
SAMPLE = 200
PRECISIONS = ("auto", "int8", "bfloat16", "float32")


def search_all(
    queries: str | Path,
    corpus: str | Path,
    k: int,
    output: Path,
    engine: str = "exact",
    precision: str = "auto",
    threads: int | None = None,
    part: int = PART,
) -> dict:
    """Writes the k best corpus vectors of every query.

    Args:
        queries, corpus: what `open_vectors` takes; may be the same.
        engine: "exact", or one of `evaluation.search.faiss_index.INDEXES`.
        precision, threads: see `ExactSearch`; of the exact engine, whose result does not depend on them.
        part: queries between two marks to go on from.

    Returns:
        What is written to `<output>.json`.

    Raises:
        EvaluationError: the vectors cannot be read or do not fit together, or `output` holds another search's parts.
    """
    asked, searched = open_vectors(queries), open_vectors(corpus)
    settings = {"queries": identity(queries), "corpus": identity(corpus), "k": k, "engine": engine, "part": part}
    parts = output.with_name(f"{output.name}.parts")
    if output.is_dir():
        raise EvaluationError(f"--output {output} is a folder; give a file.")
    check_fit(asked, searched, k)
    _claim(parts, settings)
    start = time.perf_counter()
    files = [parts / f"{number:05d}.parquet" for number in range(-(-len(asked) // part))]
    if engine != "exact" or not all(file.exists() for file in files):
        index = (
            ExactSearch(searched, precision, threads) if engine == "exact" else FaissSearch(searched, engine, threads)
        )
        with tqdm(total=len(asked), desc="search", unit="query") as progress:
            for number, file in enumerate(files):
                first, last = number * part, min((number + 1) * part, len(asked))
                if file.exists():
                    progress.update(last - first)
                    continue
                found = index.search(asked, k, first, last, progress.update)
                with staged(file) as temporary:
                    pq.write_table(_table(asked, searched, found, first), temporary, compression="zstd")
        settings |= {"recall": recall_of(index, asked, k, SAMPLE), "recall_sample": SAMPLE} if engine != "exact" else {}
    with staged(output) as temporary, pq.ParquetWriter(temporary, _schema(), compression="zstd") as writer:
        for file in files:
            writer.write_table(pq.read_table(file))
    facts = settings | {"count": len(asked), "seconds_of_last_run": round(time.perf_counter() - start, 3)}
    write_json(output.with_name(f"{output.name}.json"), facts)
    shutil.rmtree(parts)
    return facts


def _claim(parts: Path, settings: dict) -> None:
    """Takes a folder without parts, or with parts of the same search."""
    path = parts / "search.json"
    if not any(parts.glob("*.parquet")):
        write_json(path, settings)
    elif json.loads(path.read_text(encoding="utf-8")) != settings:
        raise EvaluationError(f"{parts} holds the parts of another search: give another --output, or delete it.")


def _schema() -> pa.Schema:
    return pa.schema({"query-id": pa.string(), "corpus-id": pa.string(), "rank": pa.int32(), "score": pa.float32()})


def _table(queries: Vectors, corpus: Vectors, hits: Hits, first: int) -> pa.Table:
    count, k = hits.rows.shape
    found = hits.rows.flatten() >= 0  # an approximate engine may find fewer than k
    columns = [
        np.repeat(queries.ids[first : first + count], k)[found],
        corpus.ids[hits.rows.flatten()[found]],
        np.tile(np.arange(1, k + 1, dtype=np.int32), count)[found],
        hits.scores.flatten()[found],
    ]
    return pa.table(columns, schema=_schema())


def add_search(commands) -> None:
    """`python -m evaluation search`."""
    parser = commands.add_parser(
        "search",
        examples=[
            "python -m evaluation search --queries vectors --corpus vectors --output hits.parquet",
            "python -m evaluation search --queries asked.npy --corpus vectors --k 100 --output hits.parquet",
            "python -m evaluation search --queries asked --corpus vectors --engine faiss-hnsw --output hits.parquet",
        ],
        description="Writes the k nearest corpus vectors of every query, by inner product (cosine, as vectors are "
        "normalised). The default engine is exact, ties broken by id. A search that was interrupted goes on "
        "where it was when it is started again.",
    )
    what = "folder written by `embed`, or an .npy file"
    parser.add_argument("--queries", required=True, help=what)
    parser.add_argument("--corpus", required=True, help=what)
    parser.add_argument("--k", type=whole(1), default=10, help="neighbours of each query")
    parser.add_argument("--output", required=True, type=Path, help="the Parquet file to write")
    parser.add_argument("--engine", choices=("exact", *INDEXES), default="exact", help="faiss is exact up to float32 "
                        "sums; faiss-hnsw and faiss-ivf are approximate, and their recall against exact search is "
                        "measured on a sample")  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the exact engine's first pass; the "
                        "result does not depend on it")  # fmt: skip
    parser.add_argument(
        "--threads", type=whole(1), help="batches of queries searched side by side (default: one for each core)"
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> dict:
    facts = search_all(
        options.queries, options.corpus, options.k, options.output, options.engine, options.precision, options.threads
    )
    kinds = {"exact": "exact", "faiss": "exact up to float32 sums"}
    kind = kinds.get(options.engine) or f"approximate: {facts['recall']:.4f} of the exact ones on a sample"
    print(f"The {options.k} nearest of {facts['count']:,} queries ({kind}) are in {options.output}")
    return {"output": options.output, **facts}
