"""Where the work of a build is done: processes, threads or a Ray cluster; how long it took; and seeds."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, TypeVar

import numpy as np

from common_moon2.parallel import in_processes
from mbe2_dataset.errors import EngineError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Engine:
    """`num_proc` processes of this machine, or Ray Data on the cluster that `ray.init` finds.

    Functions and items are pickled, so they hold no open files, and every machine must see what they name on disk.
    Results do not depend on the engine.
    """

    kind: Literal["processes", "ray"] = "processes"
    num_proc: int = 1

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
        """Yield the results in any order. An exception of the function is raised here and ends the rest.

        Args:
            items: `count` of them at most. Processes take them when they are needed, and Ray all before the first.
        """
        if self.kind == "ray" and (listed := list(items)):
            return _ray(function, listed, self.num_proc)
        return in_processes(function, items, min(self.num_proc, max(1, count)), ordered=False)


def _ray(function: Callable[[Item], Result], items: list[Item], num_proc: int) -> Iterator[Result]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError("The engine 'ray' needs Ray Data: pip install 'moon2[ray]'.") from error
    started = not ray.is_initialized()
    if started:
        # Workers find the modules where this process does.
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
        ray.init(
            num_cpus=num_proc, runtime_env=paths, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
    try:
        rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
        rows = rows.map(partial(_apply, function), concurrency=num_proc)
        yield from (row["result"] for row in rows.iter_rows())
    finally:
        if started:
            ray.shutdown()


def _apply(function: Callable[[Item], Result], row: dict[str, Item]) -> dict[str, Result]:
    return {"result": function(row["item"])}


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield the results of calls that wait for a server, at most `threads` at a time, in any order.

    After an exception, or Ctrl-C, no further call begins. The results of those under way still come, since they may
    have been paid for; then the exception is raised.
    """
    failure: BaseException | None = None
    waiting: set[Future] = set()
    remaining = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        while True:
            try:
                if failure is None:
                    waiting |= {pool.submit(function, item) for item in islice(remaining, threads - len(waiting))}
                if not waiting:
                    break
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt as interrupt:
                if failure is not None:
                    raise
                failure, done = interrupt, set()
            for future in done:
                error = future.exception()
                if error is None:
                    yield future.result()
                failure = failure or error
    if failure is not None:
        raise failure


class Stopwatch:
    """Adds up the seconds of each stage, in the order in which the stages began."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def __str__(self) -> str:
        return ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.seconds.items())


def seed_for(*keys: object) -> int:
    """Return a 63-bit seed from any keys (their `str`), e.g. `seed_for(0, "triplet", row.id)`."""
    digest = hashlib.blake2b("\x1f".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def key_of(text: str) -> int:
    """Hash a text to 64 bits."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def rng_for(*keys: object) -> np.random.Generator:
    """Return a random generator of its own for these keys."""
    return np.random.default_rng(seed_for(*keys))
