"""The page of a run: which queries it shows, what they were answered, that it needs nothing else, what it escapes."""

import json
import re
import shutil
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_benchmark import benchmark_rows, write_benchmark
from test_encoders import save_clip

from conftest import tiny_model, tiny_processor
from evaluation.__main__ import COMMANDS, main
from evaluation.measure.retrieval import Embedded, evaluate_retrieval
from evaluation.models.checkpoint import load_checkpoint
from evaluation.models.embed import VIEWS, read_routing
from evaluation.show.page import answer_queries, choose_queries, top_categories
from evaluation.show.plots import draw_compression, draw_directions, principal_components
from evaluation.tables.benchmark import load_benchmark

HOSTILE = '<script>alert("mug")</script>'


pytestmark = pytest.mark.usefixtures("fresh_cache")


class Reader(HTMLParser):
    """What a page refers to, and the tags in it."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]


def written(run: Path, *options: str) -> str:
    assert main(["report", str(run), *options]) == 0
    return (run / "report.html").read_text(encoding="utf-8")


def evaluated(model: str, rows: dict, folder: Path, *options: str) -> Path:
    dataset = str(write_benchmark(folder / "mbe2", rows))
    assert main(["--model", model, "--dataset", dataset, "--output", str(folder / "results"), *options]) == 0
    return folder / "results"


def test_a_page_shows_all_and_needs_nothing_else(model, tmp_path):
    rows = benchmark_rows()
    rows["corpus"][0]["text"] = HOSTILE
    rows["queries"][0]["text"] = HOSTILE
    run = evaluated(model, rows, tmp_path, "--dims", "16,32", "--precisions", "float32,binary")
    text = written(run, "--queries", "4")
    page = Reader(text)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"url\(|@import|https?:", text.split("<body>")[0])
    assert "script" not in page.tags and "&lt;script&gt;alert(&#34;mug&#34;)&lt;/script&gt;" in text
    assert page.tags.count("section") == 6 * 4
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert f"{100 * results['retrieval']['t2mm']['metrics']['recall@10']:.2f}" in text
    assert "<td>majority</td>" in text
    for labels in (
        results["classification"],
        {"intervals": results["attributes"]["attributes"]["colour"]["intervals"]},
    ):
        assert "[{:.2f}, {:.2f}]".format(*(100 * bound for bound in labels["intervals"]["f1"])) in text
    pictures = [b64decode(address.split(",")[1]) for address in page.addresses if address.startswith("data:image/jpeg")]
    assert len(pictures) >= 6 * 4 * 10 and max(Image.open(BytesIO(content)).width for content in pictures) <= 132
    names = {"directions", "compression", "usage", "preference", "map"}
    assert {path.stem for path in (run / "plots").iterdir()} == names
    for name in names:
        picture = Image.open(run / "plots" / f"{name}.png").convert("L")
        assert picture.width > 300 and np.asarray(picture).std() > 10, name
    assert written(run, "--queries", "4") == text  # the same run gives the same page


def test_what_a_model_cannot_show_is_said(tmp_path):
    rows = benchmark_rows()
    clip = evaluated(save_clip(tmp_path / "clip-model"), rows, tmp_path / "clip")
    assert "Only Moon2 models have experts" in written(clip, "--queries", "1")
    assert {path.stem for path in (clip / "plots").iterdir()} == {"directions", "map"}
    words = evaluated("bm25", rows, tmp_path / "words")
    text = written(words)
    assert "bm25 makes no vectors" in text and "<section" not in text


def test_another_model_or_other_data_are_refused(model, tmp_path, capsys):
    run = evaluated(model, benchmark_rows(), tmp_path)
    other = tmp_path / "other"
    tiny_model(seed=1).save_pretrained(other)
    tiny_processor().save_pretrained(other)
    assert main(["report", str(run), "--model", str(other)]) == 2
    assert "has changed since the run" in capsys.readouterr().err
    rows = benchmark_rows()
    rows["corpus"][0]["text"] = "another"
    assert main(["report", str(run), "--dataset", str(write_benchmark(tmp_path / "b", rows))]) == 2
    assert "have changed since the run" in capsys.readouterr().err
    moved = shutil.copytree(tmp_path / "mbe2", tmp_path / "moved")
    shutil.rmtree(tmp_path / "mbe2")
    assert "<section" in written(run, "--dataset", str(moved), "--queries", "1")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "has no results.json"), ("{", "cannot be read"), ("{}", "was not written by this")]
)
def test_a_folder_without_results_is_a_sentence(content, said, tmp_path, capsys):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_half_of_the_queries_are_misses_where_there_are_enough():
    recall = {f"q{number}": float(number % 4 > 0) for number in range(40)}
    names = choose_queries(recall, 10, seed=0)
    assert len(set(names)) == 10 and sum(recall[name] for name in names) == 5
    assert names == choose_queries(dict(reversed(recall.items())), 10, seed=0) != choose_queries(recall, 10, seed=1)
    few = {f"q{number}": float(number > 1) for number in range(40)}
    assert sum(few[name] == 0 for name in choose_queries(few, 10, seed=0)) == 2
    assert len(choose_queries(few, 10, seed=0)) == 10
    none = dict.fromkeys(few, 0.0)
    assert len(choose_queries(none, 10, seed=0)) == 10
    assert choose_queries({"q": 1.0}, 10, seed=0) == ["q"]


@pytest.mark.parametrize("by_group", [False, True])
def test_answers_stand_where_the_metrics_say(by_group, tmp_path):
    rows = benchmark_rows()
    rows["corpus"][1]["group_id"] = rows["corpus"][4]["group_id"] = "g0"
    rows["corpus"][11]["group_id"] = "g10"
    benchmark = load_benchmark(str(write_benchmark(tmp_path / "mbe2", rows)))
    vectors = torch.nn.functional.normalize(torch.randn(24, 3, generator=torch.manual_seed(3)), dim=-1)
    vectors[7] = vectors[6]  # a tie
    asked = [row for row, modality in enumerate(benchmark.modalities) if modality == "text"]
    queries, corpus = {"text": Embedded(asked, vectors[12:18])}, {"mm": Embedded(list(range(12)), vectors[:12])}
    _, values = evaluate_retrieval(benchmark, queries, corpus, by_group)
    parts = queries["text"], corpus["mm"]
    answers = answer_queries(benchmark, values["t2mm"].ids, parts, by_group=by_group)
    assert [1 / answer.first.rank for answer in answers] == values["t2mm"].values["mrr"].tolist()
    assert [answer.hit for answer in answers] == (values["t2mm"].values["recall@10"] > 0).tolist()
    for answer in answers:
        assert [item.rank for item in answer.best] == list(range(1, 11 if not by_group else 10))
        scores = [item.score for item in answer.best]
        assert scores == sorted(scores, reverse=True)
        if not by_group:
            assert answer.first.id == f"p{answer.query.id[1]}" and answer.query.picture is None
            ids = [item.id for item in answer.best]
            assert "p7" not in ids or ids.index("p7") == ids.index("p6") + 1


def test_routing_is_what_the_model_says(model, tmp_path):
    benchmark = load_benchmark(str(write_benchmark(tmp_path / "mbe2", benchmark_rows())))
    checkpoint = load_checkpoint(model)
    routing = read_routing(checkpoint, benchmark.corpus, [2, 5, 0], batch_size=2)
    for view in VIEWS:
        assert np.allclose(routing.usage[view].sum(1), 1, atol=1e-5)
        with torch.no_grad():
            alone = checkpoint.model(**checkpoint.processor([benchmark.corpus.product(5, view)])).expert_usage[0]
        assert np.allclose(routing.usage[view][1], alone, atol=1e-5)
    weight = checkpoint.model.dual_alignment.weight.detach()
    assert np.allclose(routing.preference, torch.softmax(weight, 1).numpy())
    assert len(routing.objectives) == weight.shape[1]


def test_the_map_has_the_components_of_scikit_learn():
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=(30, 6)) * [5, 3, 1, 1, 1, 1]
    points, shares = principal_components(vectors)
    pca = PCA(2).fit(vectors)
    assert np.allclose(np.abs(points), np.abs(pca.transform(vectors)))
    assert np.allclose(shares, pca.explained_variance_ratio_)


def test_categories_are_those_of_the_first_level_that_differs():
    assert top_categories([["goods", "mug", "tall"], ["goods", "shirt"], ["goods"], []]) == [
        "mug",
        "shirt",
        "none",
        "none",
    ]
    assert top_categories([["goods"], ["goods"]]) == ["goods", "goods"]
    assert top_categories([[], []]) == ["none", "none"]


def test_nothing_to_draw_is_no_plot():
    empty = {"t2mm": {"metrics": None}, "t2i": None}
    assert draw_directions(empty) is None
    assert draw_compression([{"dimension": 8, "precision": "float32", "retrieval": empty}]) is None


def test_damaged_scores_are_a_sentence(model, tmp_path, capsys):
    run = evaluated(model, benchmark_rows(), tmp_path)
    columns = [name for name in pq.read_schema(run / "scores.parquet").names if name != "recall@10"]
    pq.write_table(pq.read_table(run / "scores.parquet", columns=columns), run / "scores.parquet")
    assert main(["report", str(run)]) == 2
    assert "scores.parquet cannot be read" in capsys.readouterr().err


def test_help_lists_every_command(capsys):
    """What it imports: see `test_code_map.py`."""
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"    {name}" in shown for name in COMMANDS)
