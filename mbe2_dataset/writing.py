"""Writes rows as Parquet shards that `datasets.load_dataset` reads back with their features."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

ROW_GROUP = 200
SHARD_BYTES = 256 * 1024 * 1024


def write_shards(folder: Path, split: str, features: Features, records: Iterable[dict]) -> int:
    """Write `<folder>/<split>-00000-of-0000N.parquet` ...; the same records give the same bytes.

    Returns:
        The number of rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema = features.arrow_schema
    records = iter(records)
    shards: list[Path] = []
    rows = 0
    chunk = list(islice(records, ROW_GROUP))
    while chunk or not shards:
        shard = folder / f"{split}-{len(shards):05d}.parquet"
        shards.append(shard)
        size = 0
        with pq.ParquetWriter(shard, schema, compression="zstd") as writer:
            while chunk and size < SHARD_BYTES:
                table = pa.Table.from_pylist(chunk, schema=schema)
                writer.write_table(table)
                size += table.nbytes
                rows += len(chunk)
                chunk = list(islice(records, ROW_GROUP))
    for number, shard in enumerate(shards):
        shard.rename(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
    return rows
