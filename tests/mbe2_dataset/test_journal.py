"""Work for single products: done once, written down at once, in any engine, whatever stops it."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import fresh
import pytest

from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.operations import carry_out
from mbe2_dataset.journal import Journal, Result, key_for
from mbe2_dataset.parallel import Engine, in_threads

ROOT = Path(__file__).parents[2]


def rows(count: int) -> list[Row]:
    return [Row(f"r{n}", f"title {n}", None, None, (), (), None, (), "train", f"g{n}") for n in range(count)]


@dataclass
class Shout:
    """Titles in upper case; leaves a line in a file for each that it makes."""

    log: Path
    suffix: str = "!"
    place: str = "processes"
    stop_at: str | None = None
    name: str = "shout"
    batch: int = 2
    threads: int = 3

    def identity(self) -> dict:
        return {"suffix": self.suffix}

    def inputs(self, row: Row) -> list:
        return [row.title]

    def __call__(self, rows) -> list[Result]:
        for row in rows:
            if row.id == self.stop_at:
                raise RuntimeError(f"out of money at {row.id}")
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(row.id + "\n")
        return [Result({"title": row.title.upper() + self.suffix}, (row.id.encode(), b"")) for row in rows]


def made(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").split() if log.exists() else []


def test_a_result_comes_back_as_it_was(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    result = Result({"text": "红色 ☕", "number": 0.1, "none": None}, (b"\x00\xff", b""))
    journal.add("op", [("a", result), ("b", Result({}))])
    journal.add("op", [("a", Result({"other": 1}, (b"other",)))])  # the first result stays
    journal.close()
    again = Journal(tmp_path / "journal.sqlite", read_only=True)
    assert again.result("a") == result and again.result("b") == Result({}) and again.facts("a") == result.facts
    assert again.known(["a", "c"]) == {"a"}
    with pytest.raises(KeyError):
        again.result("c")


def test_a_result_that_is_not_final_is_tried_again(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    journal.add("op", [("a", Result({"try": 1}, (b"x", b"y"), final=False))])
    assert journal.known(["a"]) == set() and not journal.result("a").final
    journal.add("op", [("a", Result({"try": 2}, (b"z",)))])
    journal.add("op", [("a", Result({"try": 3}))])
    assert journal.known(["a"]) == {"a"} and journal.result("a") == Result({"try": 2}, (b"z",))


def test_many_keys_are_looked_up(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    journal.add("op", [(str(n), Result({})) for n in range(2000)])
    assert journal.known(map(str, range(1500, 3500))) == set(map(str, range(1500, 2000)))


def test_keys_tell_everything_apart():
    parts = dict(operation="o", identity={"model": "m", "seed": 0}, inputs=["title", ["a", "b"]])
    assert key_for(**parts) == key_for(**parts)
    others = [{"operation": "p"}, {"identity": {"model": "m", "seed": 1}}, {"inputs": ["title", ["ab"]]}]
    assert len({key_for(**parts), *(key_for(**(parts | other)) for other in others)}) == 4


@pytest.mark.parametrize("place", ["here", "threads", "processes"])
def test_each_product_is_worked_on_once(tmp_path, place):
    journal, log = Journal(tmp_path / "journal.sqlite"), tmp_path / "log"
    operation = Shout(log, place=place)
    keys = carry_out(operation, rows(7), journal, Engine(num_proc=2))
    assert sorted(made(log)) == [f"r{n}" for n in range(7)]
    assert [journal.result(key) for key in keys] == operation_results(rows(7))
    assert carry_out(operation, rows(9), journal, Engine(num_proc=1))[:7] == list(keys)
    assert sorted(made(log)) == [f"r{n}" for n in range(9)]
    carry_out(Shout(log, place=place, suffix="?"), rows(1), journal, Engine())
    assert made(log)[9:] == ["r0"]


def operation_results(rows) -> list[Result]:
    return [Result({"title": row.title.upper() + "!"}, (row.id.encode(), b"")) for row in rows]


@pytest.mark.parametrize("place", ["here", "threads"])
def test_what_was_done_before_an_error_is_kept(tmp_path, place):
    journal, log = Journal(tmp_path / "journal.sqlite"), tmp_path / "log"
    with pytest.raises(RuntimeError, match="out of money at r5"):
        carry_out(Shout(log, place=place, stop_at="r5", batch=1), rows(40), journal, Engine())
    done = made(log)
    assert set(done) >= {f"r{n}" for n in range(5)} and len(done) < 40
    carry_out(Shout(log, place=place), rows(40), journal, Engine())
    assert sorted(made(log)) == sorted(f"r{n}" for n in range(40)), "some product was paid for twice"


def test_threads_are_bounded_and_stop_taking_items_after_an_error():
    lock, running, most, begun = threading.Lock(), 0, 0, []

    def call(item: int) -> int:
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
            begun.append(item)
        time.sleep(0.02)
        with lock:
            running -= 1
        if item == 6:
            raise ValueError("six")
        return item

    results = []
    with pytest.raises(ValueError, match="six"):
        for result in in_threads(call, range(100), 4):
            results.append(result)
    assert most == 4 and len(begun) < 16
    assert sorted(results) == sorted(set(begun) - {6}), "a result that was under way got lost"
    assert sorted(in_threads(call, range(5), 4)) == list(range(5))
    assert list(in_threads(call, [], 4)) == []


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import time
from mbe2_dataset.journal import Journal
from mbe2_dataset.coaugmentation.operations import carry_out
from mbe2_dataset.parallel import Engine
from test_journal import Shout, rows
class Slow(Shout):
    def __call__(self, rows):
        time.sleep(0.02)
        return super().__call__(rows)
carry_out(Slow(Path({log!r}), place={place!r}), rows(200), Journal(Path({journal!r})), Engine(num_proc=2))
"""


@pytest.mark.parametrize("place", ["threads", "here"])
def test_kill_minus_nine_loses_at_most_what_was_under_way(tmp_path, place):
    log, journal = tmp_path / "log", tmp_path / "journal.sqlite"
    here = str(Path(__file__).parent)
    code = KILLED.format(root=str(ROOT), tests=here, log=str(log), journal=str(journal), place=place)
    child = fresh.start(["-c", code])
    end = time.monotonic() + 60
    while len(made(log)) < 20 and time.monotonic() < end:
        time.sleep(0.01)
    child.kill()
    child.join()
    before = made(log)
    assert 20 <= len(before) < 200
    keys = carry_out(Shout(log, place=place), rows(200), Journal(journal), Engine())
    twice = len(made(log)) - 200
    assert set(made(log)) == {f"r{n}" for n in range(200)} and len(set(keys)) == 200
    assert 0 <= twice <= Shout.batch * Shout.threads, "more was repeated than was under way"


@pytest.mark.slow
def test_ray_gives_the_same_results(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    journal, log = Journal(tmp_path / "journal.sqlite"), tmp_path / "log"
    keys = carry_out(Shout(log), rows(11), journal, Engine("ray", 2))
    assert sorted(made(log)) == sorted(f"r{n}" for n in range(11))
    assert [journal.result(key) for key in keys] == operation_results(rows(11))
