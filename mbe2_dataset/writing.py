"""Writes rows as Parquet files that `datasets.load_dataset` reads back with their features."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

ROW_GROUP = 200
# Who reads one row, or a page of the Hub's viewer, reads its whole row group.
ROW_GROUP_BYTES = 32 * 1024 * 1024

# Pages are cut where the content says so: a row more or less changes few of them, and the Hub stores and moves only
# those that changed. With the index of pages a single row can be read out of a row group.
PARQUET = {"compression": "zstd", "use_content_defined_chunking": True, "write_page_index": True}


def write_shard(path: Path, features: Features, records: Iterable[dict]) -> int:
    """Write one Parquet file; the same records give the same bytes.

    Returns:
        The number of rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = features.arrow_schema
    rows = 0
    with pq.ParquetWriter(path, schema, **PARQUET) as writer:
        for group in _row_groups(records):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            rows += len(group)
    return rows


def _row_groups(records: Iterable[dict]) -> Iterator[list[dict]]:
    """The records in lists of at most ROW_GROUP, and of at most ROW_GROUP_BYTES unless one alone has more."""
    group, size = [], 0
    for record in records:
        own = _picture_bytes(record)
        if group and (len(group) == ROW_GROUP or size + own > ROW_GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(record)
        size += own
    if group:
        yield group


def _picture_bytes(value: object) -> int:
    """How many bytes of pictures a record, or part of one, holds."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_picture_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_picture_bytes, value))
    return 0
