"""Writes the published rows, shard by shard: each by itself, in any process or on any machine, and only once."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from common_moon2.files import staged, write_json
from mbe2_dataset.catalogue.store import Row, take
from mbe2_dataset.journal import Made
from mbe2_dataset.parallel import Engine
from mbe2_dataset.schema import CONFIGS
from mbe2_dataset.triplets.make import Benchmark, Plan, Plans, Question, document, question_record, triplet_record

ROW_GROUP = 200
# Who reads one row, or a page of the Hub's viewer, reads its whole row group.
ROW_GROUP_BYTES = 32 * 1024 * 1024

# Pages are cut where the content says so: a row more or less changes few of them, and the Hub stores and moves only
# those that changed. With the index of pages a single row can be read out of a row group.
PARQUET = {"compression": "zstd", "use_content_defined_chunking": True, "write_page_index": True}


def _row_groups(records: Iterable[dict]) -> Iterator[list[dict]]:
    """Yield the records in lists of at most ROW_GROUP, and of at most ROW_GROUP_BYTES unless one alone has more."""
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
    """Count the bytes of images in a record, or part of one."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_picture_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_picture_bytes, value))
    return 0


# What is counted for the card, besides rows.
MODALITY, NEGATIVE, NOISE, ORIGIN, FIELDS = "triplet query", "negative", "noise", "query image", "augmented field"


@dataclass(frozen=True, slots=True)
class Shard:
    """What one file holds: plans of triplets, rows of the corpus, questions, or finished records of qrels.

    Attributes:
        path: of the file; beside it is a JSON file with what was counted.
        items: those of the whole split, of which the shard has the places from `start` to `end`.
        made: reads what was made of the products of plans.
    """

    config: str
    path: Path
    items: Sequence[Plan | Row | Question | dict]
    start: int
    end: int
    made: Made

    def __len__(self) -> int:
        return self.end - self.start

    def alone(self) -> "Shard":
        """Return the shard with no more than its own items, to be sent to another process."""
        items, ids = self.items[self.start : self.end], []
        if isinstance(items, Plans):
            ids = items.split.ids.take(pa.array(items.products())).to_pylist()
        return replace(self, items=items, start=0, end=len(items), made=self.made.only(ids))

    @property
    def counted(self) -> Path:
        """Return the file with what was counted."""
        return self.path.with_suffix(".json")


def plan_shards(
    folder: Path, triplets: dict[str, Plans], benchmark: Benchmark, made: Made, rows_per_shard: int
) -> list[Shard]:
    """Return all shards of the data set, in order; a split of triplets without rows has none."""
    shards = []
    parts = {("triplets", split): plans for split, plans in triplets.items() if plans}
    parts |= {("corpus", "test"): take(benchmark.split.rows, benchmark.corpus)}
    parts |= {("queries", "test"): benchmark.questions, ("qrels", "test"): benchmark.qrels}
    for (config, split), items in parts.items():
        # Judgements are small: of them many more fit into one file.
        size = rows_per_shard * (100 if config == "qrels" else 1)
        starts = range(0, max(1, len(items)), size)
        for number, start in enumerate(starts):
            path = folder / config / f"{split}-{number:05d}-of-{len(starts):05d}.parquet"
            shards.append(Shard(config, path, items, start, min(start + size, len(items)), made))
    return shards


def write_shards(shards: Sequence[Shard], seed: int, engine: Engine) -> Counter:
    """Write those shards that are not there yet.

    Returns:
        How often (what is counted, kind) occurs, over all shards; ("rows", config/split) are the rows.
    """
    missing = [shard for shard in shards if not shard.path.exists()]
    total = sum(map(len, shards))
    with tqdm(total=total, initial=total - sum(map(len, missing)), desc="write rows", unit="row") as bar:
        for rows in engine.map(partial(_write, seed=seed), map(Shard.alone, missing), len(missing)):
            bar.update(rows)
    counts = Counter()
    for shard in shards:
        for name, kind, count in json.loads(shard.counted.read_text(encoding="utf-8")):
            counts[name, kind] += count
    return counts


def _write(shard: Shard, seed: int) -> int:
    counts = Counter()
    schema, rows = CONFIGS[shard.config].arrow_schema, 0
    with staged(shard.path) as temporary:
        with pq.ParquetWriter(temporary, schema, **PARQUET) as writer:
            for group in _row_groups(_records(shard, seed, counts)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                rows += len(group)
        content = [(name, kind, count) for (name, kind), count in sorted(counts.items())]
        write_json(shard.counted, content, indent=None)  # before the shard has its name
    return rows


def _records(shard: Shard, seed: int, counts: Counter) -> Iterator[dict]:
    split = shard.path.name.partition("-")[0]
    for item in shard.items:
        counts["rows", f"{shard.config}/{split}"] += 1
        if shard.config == "triplets":
            record = triplet_record(item, shard.made, seed)
            counts[MODALITY, record["query_modality"]] += 1
            counts[NEGATIVE, record["negative_kind"]] += 1
            counts.update((NOISE, noise) for noise in record["noise"] or ["none"])
            counts.update(_fates(record["provenance"]))
            yield record
        elif shard.config == "corpus":
            yield document(item)
        elif shard.config == "queries":
            record, origin = question_record(item, seed)
            if origin is not None:
                counts[ORIGIN, origin] += 1
            yield record
        else:
            yield item


def _fates(records: Iterable[dict]) -> Iterator[tuple[str, str]]:
    """Yield what became of each augmented field: kept, or why not (without the figures of this one)."""
    for made in records:
        name = made["field"].removeprefix("positive_")
        if name.startswith(("enriched_title", "augmented_images")):
            reason = "kept" if made["kept"] else made["reason"].split(":")[0].split(" is below")[0].split(" 0.")[0]
            yield FIELDS, f"{name.partition('[')[0]}: {reason}"
