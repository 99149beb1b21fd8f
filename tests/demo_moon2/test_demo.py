"""The demo's promise, from data to figures: about six minutes on two CPU cores."""

import json
from pathlib import Path

import pytest
from datasets import load_dataset

from evaluation.__main__ import main as evaluate
from mbe2_dataset.__main__ import main as mbe2
from train_moon2 import main as train

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny.yaml"


@pytest.mark.slow
def test_the_demo_beats_chance_tenfold_on_products_it_has_not_seen(tmp_path):
    data, model, results = (str(tmp_path / name) for name in ("mbe2", "moon2", "results"))
    assert mbe2(["build", "--catalogue", "synthetic", "--output", data]) == 0
    assert train([str(RECIPE), "--dataset", data, "--output_dir", model]) == 0
    assert evaluate(["--model", model, "--dataset", data, "--output", results]) == 0
    report = json.loads(Path(results, "results.json").read_text(encoding="utf-8"))
    for direction, row in report["retrieval"].items():
        assert row["metrics"]["recall@10"] >= 10 * row["chance"]["recall@10"], direction

    # The dynamic filter must distrust what the catalogue knows to be wrong.
    triplets = load_dataset(data, split="train").select_columns(["query_id", "noise"])
    wrong = {row["query_id"] for row in triplets if "false_positive" in row["noise"]}
    log = [json.loads(line) for line in Path(model, "filter.jsonl").read_text(encoding="utf-8").splitlines()]
    lowest = {query_id for entry in log[len(log) // 2 :] for query_id in entry["lowest_phi"]}
    shares = len(lowest & wrong) / len(lowest), len(wrong) / len(triplets)
    print(f"false positives: {shares[0]:.0%} of the triplets with the lowest phi, {shares[1]:.0%} of all")
    assert shares[0] >= 5 * shares[1]
