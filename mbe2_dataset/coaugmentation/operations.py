"""Carries out what is done once for each product, and writes every result into the journal."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, Protocol

from tqdm import tqdm

from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.journal import Journal, Result, key_for
from mbe2_dataset.parallel import Engine, in_threads


class Operation(Protocol):
    """Something that is made of a product: an enriched title, changed views, a score, a vector.

    Attributes:
        name: of the operation, for the journal and the progress bar.
        place: where it runs: in "processes" or on Ray (work for a processor), in "threads" (calls to a server that is
            waited for), or "here" (a model that uses all cores itself).
        batch: how many products it takes at a time.
        threads: with place "threads": how many calls at a time.
    """

    name: str
    place: Literal["processes", "threads", "here"]
    batch: int
    threads: int

    def identity(self) -> dict:
        """All that results depend on besides the product: parameters, seed, model, revision, prompt version."""

    def inputs(self, row: Row) -> list:
        """What of the product results depend on, in a form that JSON can hold."""

    def __call__(self, rows: Sequence[Row]) -> list[Result]:
        """One result for each row. What goes wrong with one product is a fact of its result and no exception."""


def keys_for(operation: Operation, rows: Sequence[Row]) -> list[str]:
    """The journal's key for each row."""
    identity = operation.identity()
    return [key_for(operation=operation.name, identity=identity, inputs=operation.inputs(row)) for row in rows]


def carry_out(operation: Operation, rows: Sequence[Row], journal: Journal, engine: Engine) -> list[str]:
    """Sees to it that the journal has a result for each row; what it has already is not made again.

    Returns:
        the key of each row's result.
    """
    keys = keys_for(operation, rows)
    known = journal.known(keys)
    pending = [pair for pair in dict(zip(keys, rows, strict=True)).items() if pair[0] not in known]
    batches = [pending[start : start + operation.batch] for start in range(0, len(pending), operation.batch)]
    with tqdm(total=len(keys), initial=len(keys) - len(pending), desc=operation.name, unit="product") as bar:
        for results in _run(operation, batches, engine):
            journal.add(operation.name, results)
            bar.update(len(results))
    return keys


def _run(operation: Operation, batches: list, engine: Engine) -> Iterator[list[tuple[str, Result]]]:
    function = partial(_results, operation)
    if operation.place == "threads":
        return in_threads(function, batches, operation.threads)
    if operation.place == "here":
        return map(function, batches)
    return engine.map(function, batches)


def _results(operation: Operation, batch: list[tuple[str, Row]]) -> list[tuple[str, Result]]:
    keys, rows = zip(*batch, strict=True)
    return list(zip(keys, operation(rows), strict=True))
