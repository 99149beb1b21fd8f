"""Bootstrap and permutation against references, and the comparison of two results folders."""

import json
from itertools import product as combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common_moon2.cli import UserError
from evaluation.__main__ import main
from evaluation.measure.compare import compare_runs
from evaluation.measure.metrics import bounds, intervals, paired_test


def test_intervals_are_those_of_resampled_means():
    values = np.random.default_rng(0).random((50, 2))
    draws = np.random.default_rng(7).integers(50, size=(300, 50))
    means = np.array([values[draw].mean(0) for draw in draws])
    found = intervals({"a": values[:, 0], "b": values[:, 1]}, seed=7, resamples=300)
    for column, metric in enumerate("ab"):
        assert found[metric] == pytest.approx(np.quantile(means[:, column], [0.025, 0.975]))


def test_intervals_do_not_depend_on_the_size_of_blocks(monkeypatch):
    values = {"a": np.random.default_rng(0).random(40)}
    expected = intervals(values, seed=1, resamples=100)
    monkeypatch.setattr("evaluation.measure.metrics.BLOCK", 90)
    assert intervals(values, seed=1, resamples=100)["a"] == pytest.approx(expected["a"])


def test_weighted_means_are_resampled_with_their_weights():
    generator = np.random.default_rng(0)
    values, weights = generator.random(30), generator.integers(1, 6, 30).astype(float)
    draws = np.random.default_rng(2).integers(30, size=(200, 30))
    means = [np.average(values[draw], weights=weights[draw]) for draw in draws]
    found = intervals({"a": values}, seed=2, weights=weights, resamples=200)
    assert found["a"] == pytest.approx(np.quantile(means, [0.025, 0.975]))


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        low, high = intervals({"a": generator.random(60)}, seed=seed, resamples=300)["a"]
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_the_paired_test_equals_all_exchanges():
    """With 8 pairs all 256 exchanges can be enumerated."""
    generator = np.random.default_rng(4)
    first = generator.random((8, 1))
    second = first + 0.3 * generator.random((8, 1)) - 0.05
    (found,) = paired_test(first, second, permutations=20_000)
    difference = (second - first).ravel()
    sums = [abs(np.dot(signs, difference)) for signs in combinations((-1, 1), repeat=8)]
    exact = np.mean(np.array(sums) >= abs(difference.sum()) - 1e-12)
    assert found["p_value"] == pytest.approx(exact, abs=0.005)
    assert found["difference"] == pytest.approx(difference.mean())
    draws = np.random.default_rng(0).integers(8, size=(1000, 8))
    assert found["interval"] == pytest.approx(bounds(difference[draws].mean(1)))


def test_equal_runs_do_not_differ():
    values = np.random.default_rng(5).random((40, 2))
    for row in paired_test(values, values):
        assert (row["difference"], row["interval"], row["p_value"]) == (0, [0, 0], 1)


def write_run(folder: Path, recall: list[float], accuracy: list[float], first: int = 0, **facts) -> Path:
    folder.mkdir()
    data = {"fingerprint": "f", "gallery": "easy", "by_group": False} | facts
    (folder / "results.json").write_text(json.dumps({"run": {"dataset": data}}))
    rows = [
        {"task": "t2mm", "id": f"q{place}", "weight": 1.0, "mrr": value} for place, value in enumerate(recall, first)
    ]
    rows += [
        {"task": "attribute", "id": f"p{place}", "weight": float(place + 1), "accuracy": value}
        for place, value in enumerate(accuracy)
    ]
    columns = ("task", "id", "weight", "mrr", "accuracy")
    table = pa.table({name: [row.get(name) for row in reversed(rows)] for name in columns})
    pq.write_table(table, folder / "scores.parquet")
    return folder


def test_two_runs_are_compared_item_by_item(tmp_path, capsys):
    a = write_run(tmp_path / "a", [0.0, 0.5, 1.0] * 20, [0.0, 1.0])
    b = write_run(tmp_path / "b", [0.5, 0.5, 1.0] * 20, [1.0, 1.0])
    attribute, text = compare_runs(a, b)["rows"]
    assert (text["task"], text["metric"], text["items"]) == ("t2mm", "mrr", 60)
    assert (text["a"], text["b"]) == pytest.approx((0.5, 2 / 3))
    assert text["difference"] == pytest.approx(1 / 6)
    assert 0 < text["interval"][0] < 1 / 6 < text["interval"][1]
    assert text["p_value"] < 0.001
    assert (attribute["a"], attribute["b"]) == pytest.approx((2 / 3, 1))
    output = tmp_path / "made" / "difference.json"
    assert main(["compare", str(a), str(b), "--output", str(output)]) == 0
    assert json.loads(output.read_text())["rows"] == [attribute, text]
    assert "+16.67" in capsys.readouterr().out


def test_what_only_one_run_has_is_named(tmp_path, capsys):
    a, b = write_run(tmp_path / "a", [0.0, 1.0], [1.0]), write_run(tmp_path / "b", [0.0, 1.0], [])
    for first, second, side in ((a, b, "A"), (b, a, "B")):
        assert main(["compare", str(first), str(second)]) == 0
        assert f"Only {side} has figures for attribute." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"fingerprint": "g"}, "different data"),
        ({"gallery": "hard"}, "different galleries"),
        ({"by_group": True}, "groups"),
    ],
)
def test_runs_on_different_data_are_refused(tmp_path, capsys, facts, message):
    a, b = write_run(tmp_path / "a", [0.0, 1.0], []), write_run(tmp_path / "b", [0.0, 1.0], [], **facts)
    assert main(["compare", str(a), str(b)]) == 2
    assert message in capsys.readouterr().err


def test_runs_on_different_queries_are_refused(tmp_path):
    a, b = write_run(tmp_path / "a", [0.0, 1.0], []), write_run(tmp_path / "b", [0.0], [])
    with pytest.raises(UserError, match="different queries or products for t2mm"):
        compare_runs(a, b)
    with pytest.raises(UserError, match="different queries or products for t2mm"):
        compare_runs(a, write_run(tmp_path / "others", [0.0, 1.0], [], first=5))
    with pytest.raises(UserError, match="no figure in common"):
        compare_runs(a, write_run(tmp_path / "c", [], [1.0]))
    with pytest.raises(UserError, match="holds no results"):
        compare_runs(a, tmp_path / "nowhere")
