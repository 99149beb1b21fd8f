"""Copy a folder of vectors to LanceDB or Qdrant, for those who outgrow one machine: `python -m evaluation store`.

Both get the ids and the vectors. A Qdrant collection is compared by cosine; LanceDB is told the distance with a query.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from common_moon2.cli import UserError
from evaluation.arguments import Store
from evaluation.vectors.store import Vectors, open_vectors, read_blocks
from pictures_moon2 import address

BATCH = 1024
SERVER = ("http://", "https://")
MEMORY = (":memory:", "memory://", "shared-memory://")


def to_lancedb(vectors: Vectors, location: str | Path, name: str) -> Any:
    """Write a table with the columns id and vector, and return it.

    Args:
        location: folder of an embedded database, or any address that LanceDB takes.

    Raises:
        UserError: LanceDB is not installed or refuses the location or the name, or there is such a table, or a
            vector is not finite.
    """
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise UserError("The store lancedb needs LanceDB: pip install 'moon2[lancedb]'.") from error
    _check(vectors, location)
    if str(location).startswith(SERVER):
        raise UserError(f"--location {address(str(location))} is a web server; LanceDB is kept in a folder.")
    with _refusals("LanceDB", location, name):
        database = lancedb.connect(str(location))
        if name in database.list_tables().tables:
            raise UserError(f"{address(str(location))} has a table {name!r} already: give another --name, or drop it.")
        vector = pa.list_(pa.float32(), vectors.dimension)
        table = database.create_table(name, schema=pa.schema({"id": pa.string(), "vector": vector}))
        for ids, rows in _batches(vectors, "lancedb"):
            column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), vectors.dimension)
            table.add(pa.table({"id": ids, "vector": column}))
    return table


def to_qdrant(vectors: Vectors, location: str | Path, name: str, api_key: str | None = None) -> Any:
    """Write a collection whose points have the id in their payload, and return the client.

    Args:
        location: a folder, or the address of a server (http://... or https://...).

    Raises:
        UserError: the client is not installed or refuses the location or the name, or the server does not
            answer, or there is such a collection, or a vector is not finite.
    """
    try:
        from qdrant_client import QdrantClient, models
        from qdrant_client.http.exceptions import ApiException
    except ModuleNotFoundError as error:
        raise UserError("The store qdrant needs its client: pip install 'moon2[qdrant]'.") from error
    _check(vectors, location)
    location = str(location)
    is_server = location.startswith(SERVER)
    if ":" in location and not is_server:
        raise UserError(
            f"--location {address(location)} would be a folder of that name: the address of a server begins with "
            "http:// or https://, as in http://localhost:6333."
        )
    with _refusals("Qdrant", location, name, ApiException):
        place = {"url": location, "api_key": api_key, "check_compatibility": False}
        client = QdrantClient(**place if is_server else {"path": location})
        if client.collection_exists(name):
            raise UserError(
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
    return client


def _check(vectors: Vectors, location: str | Path) -> None:
    """Refuse what no store can take, and places where nothing would be kept, before anything is made."""
    if Path(location).is_file():
        raise UserError(f"--location {location} is a file: give a folder, or the address of a server.")
    if str(location).startswith(MEMORY):
        raise UserError(
            f"--location {location} is memory, which ends with this command: give a folder, or the address of a server."
        )
    for _ in read_blocks(vectors):
        pass


@contextmanager
def _refusals(store: str, location: str | Path, name: str, *others: type[Exception]) -> Iterator[None]:
    """Turn a store's own complaint about a name or a place into a sentence."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, *others) as error:
        raise UserError(f"{name!r} cannot be written to {store} at {address(str(location))}: {error}") from error


def _batches(vectors: Vectors, name: str) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield ids and float32 vectors, and show the progress."""
    blocks = tqdm(read_blocks(vectors, BATCH), desc=name, unit="batch", total=-(-len(vectors) // BATCH))
    for start, rows in blocks:
        yield vectors.ids[start : start + len(rows)].tolist(), rows


def export(arguments: Store) -> dict:
    """Copy vectors to the store that was named."""
    vectors, where = open_vectors(arguments.vectors), address(arguments.location)
    if arguments.store == "lancedb":
        to_lancedb(vectors, arguments.location, arguments.name)
    else:
        to_qdrant(vectors, arguments.location, arguments.name, os.environ.get("QDRANT_API_KEY")).close()
    print(f"{len(vectors):,} vectors are in {arguments.name} at {where}")
    return {"vectors": len(vectors), "store": arguments.store, "location": where, "name": arguments.name}
