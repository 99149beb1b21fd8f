"""The benchmarks of search and of metrics run from end to end at their smallest size."""

import pytest

from research.benchmarks import metrics, search


@pytest.mark.slow
def test_search_compares_three_ways(capsys):
    pytest.importorskip("faiss")
    words = ["--sizes", "300", "--dimension", "16", "--queries", "20", "--slow_queries", "10", "--k", "3"]
    assert search.main([*words, "--repeats", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 300")]
    assert len(rows) == 3 and all("100.0000%" in row for row in rows)


def test_metrics_compare_with_pytrec_eval_and_scipy(capsys, monkeypatch):
    pytest.importorskip("pytrec_eval")
    words = ["--queries", "30", "--candidates", "40", "--dimension", "8", "--repeats", "1"]
    assert metrics.main(words) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 30")]
    assert [row.split(":")[0] for row in rows] == ["| 30 x 40", "| 30"]
    monkeypatch.setattr(metrics, "with_pytrec_eval", lambda *_: dict.fromkeys(metrics.METRICS, 0.5))
    with pytest.raises(AssertionError, match="recall@1"):
        metrics.main(words)
