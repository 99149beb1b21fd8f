"""One pool for all rooms: order, pools within pools, exceptions, killed processes."""

import os
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pytest

from common_moon2.parallel import in_processes


def work(item: int, faulty: int | None = None, end: bool = False) -> int:
    if item == faulty and end:
        os._exit(3)
    if item == faulty:
        raise ValueError(f"item {item}")
    return item * item


@pytest.mark.parametrize("num_proc", [1, 2])
def test_results_come_in_the_order_of_the_items_also_from_a_pool_within_a_pool(num_proc):
    """A synthetic catalogue is drawn in processes while others read its images."""
    squares = in_processes(work, range(50), num_proc, batch=7)
    assert list(in_processes(work, squares, num_proc)) == [number**4 for number in range(50)]
    assert sorted(in_processes(work, range(20), num_proc, ordered=False)) == [number**2 for number in range(20)]
    assert list(in_processes(work, [], num_proc)) == []


@pytest.mark.parametrize(("end", "error"), [(False, ValueError), (True, BrokenProcessPool)])
def test_an_exception_or_a_killed_process_ends_the_rest(end, error):
    with pytest.raises(error):
        list(in_processes(partial(work, faulty=5, end=end), range(1000), 2, ordered=False))
