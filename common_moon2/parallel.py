"""Run a function in other processes."""

import signal
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from joblib import Parallel, delayed

Item = TypeVar("Item")
Result = TypeVar("Result")

# joblib runs ahead of whoever takes the results. Windows bound how many items and results are held in memory.
WINDOW = 256
# Seconds after which a process without work ends.
IDLE_SECONDS = 30


def in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_proc: int,
    ordered: bool = True,
    batch: int = 1,
    window: int = WINDOW,
) -> Iterator[Result]:
    """Yield `function(item)` for each item. An exception of the function is raised here and ends the rest.

    Args:
        num_proc: how many processes; 1: none but this one.
        ordered: in the order of the items; otherwise as they are ready.
        batch: how many items a process takes at a time.
        window: so many items are taken before the results of all of them have been.
    """
    if num_proc == 1:
        yield from map(function, items)
        return
    pool = Parallel(
        num_proc,
        return_as="generator" if ordered else "generator_unordered",
        batch_size=batch,
        max_nbytes=None,
        idle_worker_timeout=IDLE_SECONDS,
        initializer=_hold,
        initargs=(function,),
    )
    items = iter(items)
    while part := list(islice(items, window)):
        yield from pool(delayed(_held)(item) for item in part)


def _hold(function: Callable) -> None:
    """Keep the function in a process, since what it holds may be much larger than an item."""
    global _function
    _function = function
    # Ctrl-C reaches every process of the terminal, but the parent ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _held(item: Item) -> Result:
    return _function(item)
