"""Hands a folder of vectors to a vector store, for those who outgrow one machine: LanceDB or Qdrant.

Both get the ids and the vectors, compared by cosine. Searches here are exact in the store's own sense (float32); what a
store does approximately it does with an index that its user adds.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from evaluation.errors import EvaluationError
from evaluation.vectors import Vectors, open_vectors
from fetch_moon2 import address

BATCH = 1024
STORES = ("lancedb", "qdrant")


def to_lancedb(vectors: Vectors, location: str | Path, name: str) -> Any:
    """Writes a table with the columns id and vector; returns it.

    Args:
        location: folder of an embedded database, or any address that LanceDB takes.

    Raises:
        EvaluationError: LanceDB is not installed, or there is such a table.
    """
    database = _lancedb().connect(str(location))
    if name in database.list_tables().tables:
        raise EvaluationError(
            f"{address(str(location))} has a table {name!r} already: give another --name, or drop it."
        )
    vector = pa.list_(pa.float32(), vectors.dimension)
    table = database.create_table(name, schema=pa.schema({"id": pa.string(), "vector": vector}))
    for ids, rows in _batches(vectors, "lancedb"):
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), vectors.dimension)
        table.add(pa.table({"id": ids, "vector": column}))
    return table


def search_lancedb(table: Any, queries: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
    """For each query (Q, D) the k best as (id, cosine), best first."""
    results = []
    for query in queries:
        rows = table.search(query).distance_type("cosine").bypass_vector_index().limit(k).to_list()
        results.append([(row["id"], 1 - row["_distance"]) for row in rows])
    return results


def to_qdrant(vectors: Vectors, location: str, name: str, api_key: str | None = None) -> Any:
    """Writes a collection whose points have the id in their payload; returns the client.

    Args:
        location: ":memory:", a folder, or the address of a server (http://... or https://...).

    Raises:
        EvaluationError: the client is not installed, the server does not answer, or there is such a collection.
    """
    client, models = _qdrant(location, api_key)
    from qdrant_client.http.exceptions import ApiException

    try:
        if client.collection_exists(name):
            raise EvaluationError(
                f"{address(location)} has a collection {name!r} already: give another --name, or delete it."
            )
        parameters = models.VectorParams(size=vectors.dimension, distance=models.Distance.COSINE)
        client.create_collection(name, vectors_config=parameters)
        start = 0
        for ids, rows in _batches(vectors, "qdrant"):
            # Qdrant's own ids are numbers or UUIDs only.
            numbers, payloads = list(range(start, start + len(ids))), [{"id": identifier} for identifier in ids]
            client.upsert(name, models.Batch(ids=numbers, vectors=rows.tolist(), payloads=payloads), wait=True)
            start += len(ids)
    except ApiException as error:
        raise EvaluationError(f"Qdrant at {address(location)} does not answer as it should: {error}") from error
    return client


def search_qdrant(client: Any, name: str, queries: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
    """As `search_lancedb`."""
    _, models = _import_qdrant()
    exact = models.SearchParams(exact=True)
    found = [client.query_points(name, query=query.tolist(), limit=k, search_params=exact).points for query in queries]
    return [[(point.payload["id"], point.score) for point in points] for points in found]


def _batches(vectors: Vectors, name: str):
    for start in tqdm(range(0, len(vectors), BATCH), desc=name, unit="batch"):
        stop = min(start + BATCH, len(vectors))
        yield vectors.ids[start:stop].tolist(), vectors.read(start, stop)


def _lancedb():
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise EvaluationError("The store lancedb needs LanceDB: pip install 'moon2[lancedb]'.") from error
    return lancedb


def _import_qdrant():
    try:
        from qdrant_client import QdrantClient, models
    except ModuleNotFoundError as error:
        raise EvaluationError("The store qdrant needs its client: pip install 'moon2[qdrant]'.") from error
    return QdrantClient, models


def _qdrant(location: str, api_key: str | None):
    client, models = _import_qdrant()
    if location.startswith(("http://", "https://")):
        return client(url=location, api_key=api_key, check_compatibility=False), models
    return client(":memory:") if location == ":memory:" else client(path=location), models


def add_store(commands) -> None:
    """`python -m evaluation store`."""
    parser = commands.add_parser(
        "store",
        examples=[
            "python -m evaluation store --vectors vectors --store lancedb --location lance",
            "python -m evaluation store --vectors vectors --store qdrant --location http://localhost:6333 --name shop",
        ],
        description="Copies a folder of vectors to a vector store, with their ids. The key of a Qdrant server is read "
        "from QDRANT_API_KEY.",
    )
    parser.add_argument("--vectors", required=True, help="folder written by `embed`, or an .npy file")
    parser.add_argument("--store", required=True, choices=STORES, help="which kind of store")
    parser.add_argument("--location", required=True, help="a folder, or the address of a server")
    parser.add_argument("--name", default="products", help="of the table or collection")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> dict:
    vectors = open_vectors(options.vectors)
    if options.store == "lancedb":
        to_lancedb(vectors, options.location, options.name)
    else:
        to_qdrant(vectors, options.location, options.name, os.environ.get("QDRANT_API_KEY")).close()
    where = address(options.location)
    print(f"{len(vectors):,} vectors are in {options.name} at {where}")
    return {"vectors": len(vectors), "store": options.store, "location": where, "name": options.name}
