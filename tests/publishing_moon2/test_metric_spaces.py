"""The metric modules: equal to our own metrics, loaded from folders offline, pushed to a small Hub and loaded again."""

import json
import runpy
import shutil
import sys
from types import ModuleType

import evaluate
import numpy as np
import pytest
import yaml
from hub_server import hub as hub
from hub_server import run_python

from common_moon2.cli import UserError
from evaluation.measure.metrics import retrieval_metrics
from publishing_moon2.push import METRICS, metric_files, metric_folder


def load(name: str) -> evaluate.Metric:
    return evaluate.load(str(metric_folder(name)))


@pytest.fixture(scope="module")
def rankings() -> tuple[list[list[str]], list[list[str]]]:
    """Thirty whole rankings of forty ids, with one to four relevant ones each."""
    random = np.random.default_rng(0)
    ids = np.array([f"p{number}" for number in range(40)])
    found = [random.permutation(ids).tolist() for _ in range(30)]
    return found, [random.choice(ids, size, replace=False).tolist() for size in random.integers(1, 5, 30)]


def test_they_are_the_metrics_of_our_harness(rankings):
    found, wanted = rankings
    ranks = [np.array([ids.index(item) + 1 for item in own]) for ids, own in zip(found, wanted, strict=True)]
    ours = retrieval_metrics(ranks)
    recall = load("recall_at_k")
    for k in (1, 5, 10):
        theirs = recall.compute(predictions=found, references=wanted, k=k)["recall_at_k"]
        assert theirs == pytest.approx(ours[f"recall@{k}"], abs=1e-12)
    assert recall.compute(predictions=found, references=wanted)["recall_at_k"] == pytest.approx(ours["recall@10"])
    mrr = load("mean_reciprocal_rank").compute(predictions=found, references=wanted)
    assert mrr["mean_reciprocal_rank"] == pytest.approx(ours["mrr"], abs=1e-12)


def test_what_is_beyond_k_was_not_found():
    found, wanted = [["a", "b", "c"], ["a", "b", "c"]], [["b"], ["c"]]
    mrr = load("mean_reciprocal_rank")
    assert mrr.compute(predictions=found, references=wanted, k=2) == {"mean_reciprocal_rank": 0.25}
    assert mrr.compute(predictions=[["a"]], references=[["b"]]) == {"mean_reciprocal_rank": 0.0}
    assert load("recall_at_k").compute(predictions=[["a"]], references=[["a", "b"]]) == {"recall_at_k": 0.5}


@pytest.mark.parametrize("name", METRICS)
def test_what_has_no_answer_is_an_error(name):
    metric = load(name)
    with pytest.raises(ValueError, match="Query 1 has no relevant id"):
        metric.compute(predictions=[["a"], ["b"]], references=[["a"], []])
    with pytest.raises(ValueError, match="Query 0 has an id twice"):
        metric.compute(predictions=[["a", "a"]], references=[["a"]])
    with pytest.raises(ValueError, match="k is 0"):
        metric.compute(predictions=[["a"]], references=[["a"]], k=0)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_a_space(name, monkeypatch, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    for path, file in metric_files(name).items():
        shutil.copy(file, folder / path)
    front = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (front["sdk"], front["tags"]) == ("gradio", ["evaluate", "metric"])
    assert (folder / front["app_file"]).is_file() and (folder / "requirements.txt").is_file()
    # gradio is not among the requirements: what stands in for it keeps what the page is made of.
    made = {}
    gradio = ModuleType("gradio")
    gradio.Textbox, gradio.Number = (lambda value, **_: value), (lambda value, **_: value)
    gradio.JSON = lambda **_: None

    class Interface:
        def __init__(self, **options):
            made.update(options)

        def launch(self):
            made["launched"] = True

    gradio.Interface = Interface
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    runpy.run_path(str(folder / front["app_file"]))
    assert made["launched"] and "averaged over the queries" in made["description"]
    assert made["fn"](*made["inputs"]) == {name: {"recall_at_k": 0.75, "mean_reciprocal_rank": 0.5}[name]}


def test_a_pushed_metric_is_loaded_by_its_name(hub):
    code = """
import json, sys
import evaluate
from evaluation.__main__ import main
assert main(["push_metric", "recall_at_k"]) == 0
assert main(["push_metric", "recall_at_k", "--owner", "user"]) == 0  # a second time it is brought up to date
metric = evaluate.load("user/recall_at_k", module_type="metric")
print(json.dumps(metric.compute(predictions=[["a", "b"]], references=[["b"]], k=1)))
sys.exit(main(["push_metric", "recall_at_k", "--owner", "stranger"]))
"""
    done = run_python(code, hub)
    assert done.returncode == 2, done.stderr
    assert "error: The token may not write to stranger/recall_at_k: " in done.stderr
    assert f"The metric is at {hub.url}/spaces/user/recall_at_k" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == {"recall_at_k": 0.0}
    assert len(hub.repositories["space", "user/recall_at_k"].commits) == 2, "the Hub's first, and one of two pushes"
    files = hub.files("user/recall_at_k", kind="space")
    own = {path: file.read_bytes() for path, file in metric_files("recall_at_k").items()}
    assert {path: content for path, content in files.items() if path != ".gitattributes"} == own


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match="There is no metric 'recall'; there are recall_at_k"):
        metric_folder("recall")
