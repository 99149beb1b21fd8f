"""The benchmark of search runs from end to end at its smallest size."""

import pytest

from benchmarks import search


@pytest.mark.slow
def test_search_compares_three_ways(capsys):
    pytest.importorskip("faiss")
    words = ["--sizes", "300", "--dimension", "16", "--queries", "20", "--slow_queries", "10", "--k", "3"]
    assert search.main([*words, "--repeats", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 300")]
    assert len(rows) == 3 and all("100.0000%" in row for row in rows)
