"""The demo's promise, from data to figures: about six minutes on two CPU cores."""

import json
from pathlib import Path

import pytest

from evaluation.__main__ import main as evaluate
from mbe2_dataset.__main__ import main as mbe2
from train_moon2 import main as train

RECIPE = Path(__file__).parent.parent / "recipes" / "tiny.yaml"


@pytest.mark.slow
def test_the_demo_beats_chance_tenfold_on_products_it_has_not_seen(tmp_path):
    data, model, results = (str(tmp_path / name) for name in ("mbe2", "moon2", "results"))
    assert mbe2(["build", "--catalogue", "synthetic", "--output", data]) == 0
    assert train([str(RECIPE), "--dataset", data, "--output_dir", model]) == 0
    assert evaluate(["--model", model, "--dataset", data, "--output", results]) == 0
    report = json.loads(Path(results, "results.json").read_text(encoding="utf-8"))
    for direction, row in report["retrieval"].items():
        assert row["metrics"]["recall@10"] >= 10 * row["chance"]["recall@10"], direction
