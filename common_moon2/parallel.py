"""Run a function in other processes."""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# So many parts for each process are read ahead, which bounds how many items and results are held in memory.
AHEAD = 3


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], num_proc: int, ordered: bool = True, batch: int = 1
) -> Iterator[Result]:
    """Yield `function(item)` for each item. An exception of the function is raised here and ends the rest.

    The items may themselves come from `in_processes`. joblib cannot do that: its pools share their processes, and one
    waits for the other to end.

    Args:
        num_proc: how many processes; 1: none but this one.
        ordered: in the order of the items; otherwise as they are ready.
        batch: how many items a process takes at a time.

    Raises:
        BrokenProcessPool: a process was killed.
    """
    if num_proc == 1:
        yield from map(function, items)
        return
    items = iter(items)
    parts = iter(lambda: list(islice(items, batch)), [])
    # spawn, because a caller may already run threads (torch), which do not survive a fork
    pool = ProcessPoolExecutor(num_proc, get_context("spawn"), _hold, (function,))

    def more(count: int) -> list[Future]:
        return [pool.submit(_held, part) for part in islice(parts, count)]

    try:
        waiting = more(AHEAD * num_proc)
        while waiting:
            done = waiting[:1] if ordered else list(wait(waiting, return_when=FIRST_COMPLETED).done)
            waiting = [future for future in waiting if future not in done] + more(len(done))
            for future in done:
                yield from future.result()
    except BaseException:  # also Ctrl-C, or that nobody takes the rest
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _hold(function: Callable) -> None:
    """Keep the function in a process, since what it holds may be much larger than an item."""
    global _function
    _function = function
    # Ctrl-C reaches every process of the terminal, but the parent ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _held(part: list[Item]) -> list[Result]:
    return [_function(item) for item in part]
