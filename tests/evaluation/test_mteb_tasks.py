"""The benchmark through mteb: the same queries, candidates and figures as through our harness."""

import datasets
import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_benchmark import FEATURES, benchmark_rows, write_benchmark
from torch.utils.data import DataLoader

from common_moon2.cli import UserError
from evaluation.measure.evaluate import Options, evaluate
from evaluation.measure.retrieval import DIRECTIONS
from evaluation.models.encoders import FIND_PRODUCT, load_encoder
from evaluation.tables.benchmark import load_benchmark
from evaluation.vectors.catalogue import VectorCache

mteb = pytest.importorskip("mteb")
mteb_tasks = pytest.importorskip("evaluation.mteb_tasks")

# mteb's name of each of our metrics; the ranking of this tiny set is never cut.
NAMES = {"recall@1": "recall_at_1", "recall@5": "recall_at_5", "recall@10": "recall_at_10", "ndcg@10": "ndcg_at_10"}
NAMES |= {"mrr": "mrr_at_1000"}
ROUNDED = 5  # digits that mteb keeps, of all but mrr


pytestmark = pytest.mark.usefixtures("fresh_cache")


def uneven_rows() -> dict[str, list[dict]]:
    """Several relevant products, grades, a judgement of 0, and products that lack a view or a category."""
    rows = benchmark_rows()
    rows["corpus"][3]["image"] = None
    rows["corpus"][7]["text"] = None
    rows["corpus"][8]["category"] = []
    rows["qrels"] += [
        {"query-id": "q0-text", "corpus-id": "p7", "score": 2},
        {"query-id": "q0-text", "corpus-id": "p9", "score": 0},
        {"query-id": "q1-mixed", "corpus-id": "p10", "score": 3},
    ]
    return rows


def scored(model: str, tasks: list) -> dict[str, dict]:
    results = mteb.evaluate(mteb_tasks.mteb_encoder(model), tasks, cache=None, show_progress_bar=False)
    assert not results.exceptions
    return {result.task_name.split("-")[-1]: result.scores["test"][0] for result in results.task_results}


def test_mteb_gives_the_figures_of_our_harness(model, tmp_path):
    folder = str(write_benchmark(tmp_path / "mbe2", uneven_rows()))
    ours = evaluate(load_encoder(model), load_benchmark(folder), VectorCache(tmp_path / "vectors"), Options()).results
    theirs = scored(model, mteb_tasks.mbe2_tasks(folder))
    assert set(theirs) == {*DIRECTIONS, "classification"}
    for direction in DIRECTIONS:
        metrics = ours["retrieval"][direction]["metrics"]
        for metric, name in NAMES.items():
            expected = metrics[metric] if metric == "mrr" else round(metrics[metric], ROUNDED)
            assert theirs[direction][name] == pytest.approx(expected, abs=1e-6), (direction, name)
    labels = ours["classification"]["metrics"]
    assert ours["classification"]["products"] == 9
    for metric in ("accuracy", "precision", "recall", "f1"):
        assert theirs["classification"][metric] == pytest.approx(labels[metric], abs=1e-6)


def test_a_task_has_the_queries_and_the_view_of_its_direction(tmp_path):
    folder = str(write_benchmark(tmp_path / "mbe2", uneven_rows()))
    tasks = {task.metadata.name.split("-")[-1]: task for task in mteb_tasks.mbe2_tasks(folder)}
    task = tasks["i2mm"]
    task.load_data()
    data = task.dataset["default"]["test"]
    assert (task.metadata.category, task.metadata.modalities) == ("i2it", ["text", "image"])
    assert data["queries"].column_names == ["id", "image"] and data["queries"][0]["image"].size == (40, 32)
    assert data["queries"]["id"][:] == [f"q{index}-image" for index in (0, 1, 2, 4, 5)]  # q3's product has no image
    assert data["corpus"].column_names == ["id", "text", "image"]
    assert data["corpus"]["id"][:] == [f"p{index}" for index in range(12) if index not in (3, 7)]


def test_a_fractional_grade_is_refused_as_by_the_harness(tmp_path, monkeypatch):
    """mteb takes whole grades only: 0.5 would be 0 there."""
    monkeypatch.setitem(FEATURES["qrels"], "score", datasets.Value("float64"))
    rows = benchmark_rows()
    for row in rows["qrels"]:
        row["score"] = 2.0
    task = mteb_tasks.mbe2_tasks(str(write_benchmark(tmp_path / "whole", rows)))[0]
    task.load_data()
    assert task.dataset["default"]["test"]["relevant_docs"]["q0-text"] == {"p0": 2}
    rows["qrels"][0]["score"] = 0.5
    with pytest.raises(UserError, match="Row 0 of qrels has the score 0.5"):
        mteb_tasks.mbe2_tasks(str(write_benchmark(tmp_path / "half", rows)))


def test_another_state_of_a_folder_is_another_revision(tmp_path):
    rows = benchmark_rows()
    first = mteb_tasks.mbe2_tasks(str(write_benchmark(tmp_path / "a", rows)))[0].metadata.dataset["revision"]
    rows["corpus"][0]["text"] = "another title"
    assert mteb_tasks.mbe2_tasks(str(write_benchmark(tmp_path / "b", rows)))[0].metadata.dataset["revision"] != first


def test_directions_without_queries_are_no_tasks_and_nothing_at_all_is_an_error(tmp_path):
    rows = benchmark_rows()
    rows["queries"] = [row for row in rows["queries"] if row["modality"] == "image"]
    rows["qrels"] = [row for row in rows["qrels"] if row["query-id"].endswith("image")]
    for row in rows["corpus"]:
        row["category"] = []
    tasks = mteb_tasks.mbe2_tasks(str(write_benchmark(tmp_path / "images", rows)))
    assert [task.metadata.name for task in tasks] == ["MBE2Format-i2mm", "MBE2Format-i2t"]
    for row in rows["qrels"]:
        row["score"] = 0
    with pytest.raises(UserError, match="neither a query with a relevant product nor a category"):
        mteb_tasks.mbe2_tasks(str(write_benchmark(tmp_path / "nothing", rows)))


def test_an_encoder_that_is_taken_for_text_only_is_refused(model, tmp_path):
    folder = str(write_benchmark(tmp_path / "mbe2", uneven_rows()))
    encoder = mteb.models.SentenceTransformerEncoderWrapper(SentenceTransformer(model, trust_remote_code=True))
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": ["text"]})
    (task,) = [task for task in mteb_tasks.mbe2_tasks(folder) if task.metadata.name.endswith("mm2mm")]
    with pytest.raises(UserError, match="would drop the image of .*: load it with evaluation.mteb_tasks"):
        mteb.evaluate(encoder, [task], cache=None, show_progress_bar=False)


def test_a_model_is_told_what_a_task_is_for(model, monkeypatch):
    """FashionIQ says it itself; where a task says nothing, it is our own words."""
    wrapper, told = mteb_tasks.mteb_encoder(model), []

    def encode(products, batch_size, workers, role, description):
        told.append((role, wrapper.encoder.instruction, description, [product["text"] for product in products]))
        return torch.ones(len(products), 4)

    monkeypatch.setattr(wrapper.encoder, "encode", encode)
    inputs = DataLoader(datasets.Dataset.from_dict({"text": ["red"]}))
    options = {"hf_split": "test", "hf_subset": "default", "prompt_type": mteb.types.PromptType.query}
    for name in ("FashionIQIT2IRetrieval", "RP2kI2IRetrieval"):
        wrapper.encode(inputs, task_metadata=mteb.get_task(name).metadata, **options)
    assert told == [
        (
            *("query", "Find a fashion image that aligns with the reference image and style note."),
            *("FashionIQIT2IRetrieval queries", ["red"]),
        ),
        ("query", FIND_PRODUCT, "RP2kI2IRetrieval queries", ["red"]),
    ]
