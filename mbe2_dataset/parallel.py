"""Maps a function over items in processes, in threads, or on a Ray cluster; results come as they are ready."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Literal, TypeVar

import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")

# A pool reads all its items at once and keeps every result that nobody took yet; windows keep that bounded.
WINDOW = 256


class EngineError(RuntimeError):
    """The engine that was asked for is not there; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where functions run: `num_proc` processes of this machine, or Ray Data on the cluster that `ray.init` finds.

    Functions and items are pickled, so they hold no open files, and what they name on disk must be seen by all
    machines. Results do not depend on the engine.
    """

    kind: Literal["processes", "ray"] = "processes"
    num_proc: int = 1

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results, in any order. An exception of the function is raised here, and the rest is given up."""
        if not items:
            return iter(())
        if self.kind == "ray":
            return _ray(function, items, self.num_proc)
        if self.num_proc == 1 or len(items) == 1:
            return map(function, items)
        return _processes(function, items, self.num_proc)


def _processes(function: Callable[[Item], Result], items: Sequence[Item], num_proc: int) -> Iterator[Result]:
    # spawn, because a caller may already run threads (torch), which do not survive a fork
    with get_context("spawn").Pool(min(num_proc, len(items)), _hold, (function,)) as pool:
        for start in range(0, len(items), WINDOW):
            yield from pool.imap_unordered(_held, items[start : start + WINDOW])


def _hold(function: Callable) -> None:
    """Keeps the function in a process, since what it holds may be much larger than an item."""
    global _function
    _function = function
    leave_interrupts_alone()


def leave_interrupts_alone() -> None:
    """For the processes of a pool: Ctrl-C reaches them, too, but it is their parent who ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _held(item: Item) -> Result:
    return _function(item)


def _ray(function: Callable[[Item], Result], items: Sequence[Item], num_proc: int) -> Iterator[Result]:
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


def in_order(function: Callable[[Item], Result], items: Sequence[Item], num_proc: int) -> Iterator[Result]:
    """`map(function, items)` in `num_proc` processes (1: this one)."""
    if num_proc == 1:
        yield from map(function, items)
        return
    with get_context("spawn").Pool(num_proc, leave_interrupts_alone) as pool:
        for start in range(0, len(items), WINDOW):
            yield from pool.imap(function, items[start : start + WINDOW], chunksize=16)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """The results of calls that wait for somebody else, at most `threads` at a time, in any order.

    After an exception, or Ctrl-C, no call is begun any more, but the results of those under way still come, since they
    may have been paid for; then it is raised.
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
    """`seconds`: stage -> seconds so far, in the order in which the stages began."""

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
    """A 63-bit seed from any keys (their `str`), e.g. `seed_for(0, "triplet", row.id)`."""
    digest = hashlib.blake2b("\x1f".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rng_for(*keys: object) -> np.random.Generator:
    """A generator of its own for these keys."""
    return np.random.default_rng(seed_for(*keys))
