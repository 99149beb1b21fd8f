"""Bring a folder of vectors to a store, and keep the two equal: `python -m evaluation store`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from common_moon2.cli import UserError
from evaluation.arguments import Store as StoreArguments
from evaluation.stores.bulk import FILES
from evaluation.stores.engines import ENGINES
from evaluation.stores.records import BATCH, Asking, Engine, Records, Source, Store
from evaluation.tables.details import Filter
from evaluation.vectors.nearest import Hits, NearestSearch
from evaluation.vectors.store import Vectors, unchanged
from pictures_moon2 import address

STORES = ENGINES | FILES


def load(arguments: StoreArguments) -> dict:
    """Copy vectors to a store, or bring it up to date; print what was done.

    Products are compared by their versions, so that an interrupted run is just started again.

    Raises:
        UserError: the vectors cannot be read, or the store refuses.
    """
    with unchanged(arguments.vectors):
        source, where = Source(arguments.vectors), address(arguments.location)
    source.check()
    with STORES[arguments.store](arguments.location, arguments.name, source, arguments.update) as store:
        facts = synchronise(store, source, arguments.index)
    done = f"{facts['written']:,} written, {facts['removed']:,} removed; " if arguments.update else ""
    print(f"{done}{len(source):,} vectors are in {arguments.name} at {where}")
    return {"vectors": len(source), "store": arguments.store, "location": where, "name": arguments.name, **facts}


def synchronise(store: Store, source: Source, index: bool = False) -> dict[str, int]:
    """Write what a store has not, or has otherwise; remove what is gone. Return the numbers of both."""
    there, seen, written = store.versions(), set(), 0
    with tqdm(total=len(source), desc="store", unit="product") as progress:
        waiting: list[Records] = []
        for records in source.batches():
            seen.update(records.ids)
            changed = [row for row, name in enumerate(records.ids) if there.get(name) != records.versions[row]]
            if changed:
                waiting.append(_chosen(records, changed))
                written += len(changed)
            if sum(len(one.ids) for one in waiting) >= BATCH:
                store.write(_joined(waiting))
                waiting = []
            progress.update(len(records.ids))
        if waiting:
            store.write(_joined(waiting))
    gone = [identifier for identifier in there if identifier not in seen]
    for start in range(0, len(gone), BATCH):
        store.delete(gone[start : start + BATCH])
    store.finish(index)
    return {"written": written, "removed": len(gone)}


def _chosen(records: Records, rows: list[int]) -> Records:
    if len(rows) == len(records.ids):
        return records
    ids, versions = ([values[row] for row in rows] for values in (records.ids, records.versions))
    texts = None if records.texts is None else [records.texts[row] for row in rows]
    details = records.details.take(rows) if records.details.num_columns else records.details
    return Records(ids, versions, records.vectors[rows], texts, details)


def _joined(parts: list[Records]) -> Records:
    if len(parts) == 1:
        return parts[0]
    texts = None if parts[0].texts is None else sum((part.texts for part in parts), [])
    details = pa.concat_tables([part.details for part in parts])
    ids, versions = sum((part.ids for part in parts), []), sum((part.versions for part in parts), [])
    return Records(ids, versions, np.concatenate([part.vectors for part in parts]), texts, details)


@dataclass
class StoreSearch(NearestSearch):
    """Asks a store, one query after another, by its own indexes; row -1: fewer were found.

    Args:
        corpus: the folder that the store was loaded from, whose rows are returned.
        asking: makes the queries.
    """

    corpus: Vectors
    store: Engine
    asking: Asking
    filters: Sequence[Filter] = ()
    threads: int = field(default=1, init=False)

    def __post_init__(self):
        self._rows = {identifier: row for row, identifier in enumerate(self.corpus.ids.tolist())}

    def _best(self, queries: np.ndarray, k: int, first: int) -> Hits:
        hits = Hits(np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32))
        for number, vector in enumerate(queries):
            found = self.store.search(self.asking(first + number, vector), self.filters, k)
            for rank, (identifier, score) in enumerate(found):
                if identifier not in self._rows:
                    raise UserError(
                        f"The store has a product {identifier!r}, which {self.corpus.name} lacks: bring it up to date "
                        "with `store --update`."
                    )
                hits.rows[number, rank], hits.scores[number, rank] = self._rows[identifier], score
        return hits


def open_store(kind: str, location: str, name: str) -> Engine:
    """Open a store to ask it."""
    return ENGINES[kind](location, name)
