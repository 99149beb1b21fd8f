"""An ordered map over processes with a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

# Pool.imap reads all its items and keeps every result that nobody took yet; windows keep that bounded.
WINDOW = 2048


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], num_proc: int, desc: str
) -> Iterator[Result]:
    """`map(function, items)` in the order of `items`, in `num_proc` processes (1: this one)."""
    if num_proc == 1:
        yield from tqdm(map(function, items), total=len(items), desc=desc)
        return
    # spawn, because a caller may already run threads (torch), which do not survive a fork
    with get_context("spawn").Pool(num_proc) as pool, tqdm(total=len(items), desc=desc) as bar:
        for start in range(0, len(items), WINDOW):
            for result in pool.imap(function, items[start : start + WINDOW], chunksize=16):
                bar.update()
                yield result
