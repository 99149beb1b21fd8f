"""What a run says of itself: retrieval on the validation triplets, and what the sample filter found."""

import json

import pytest
import torch

from conftest import tiny_model, tiny_processor
from training_moon2.figures import FilterRecord, ValidationRetrieval, precision_and_recall
from training_moon2.triplets import TripletDataset, load_triplets


@pytest.fixture(scope="module")
def dataset(mbe2) -> TripletDataset:
    return TripletDataset(load_triplets(mbe2, "validation", refresh=False))


def test_recalls_are_those_of_a_search_by_hand(dataset):
    """Each direction again, product by product: query against every product, rank of the right ones."""
    model, processor = tiny_model(), tiny_processor()
    found = ValidationRetrieval(dataset, 1000)(model, processor, batch_size=4)
    triplets = [dataset[index] for index in range(len(dataset))]
    products = {t[f"{r}_id"]: (t[r], t[f"{r}_group"]) for t in triplets for r in ("positive", "negative")}
    keys = sorted(products)

    def vector(product, *names):
        with torch.no_grad():
            return model(**processor([{name: product[name] for name in names}])).embeddings[0]

    directions = {
        "t2mm": (("text",), ("text", "image")),
        "i2mm": (("image",), ("text", "image")),
        "mm2mm": (("text", "image"), ("text", "image")),
        "t2i": (("text",), ("image",)),
        "i2t": (("image",), ("text",)),
    }
    for direction, (asked, shown) in directions.items():
        corpus = torch.stack([vector(products[key][0], *shown) for key in keys])
        recalls = []
        for triplet in triplets:
            query = triplet["query"]
            if tuple(name for name in ("text", "image") if query[name] is not None) != asked:
                continue
            best = [keys[place] for place in (corpus @ vector(query, *asked)).argsort(descending=True)[:10].tolist()]
            right = [key for key in keys if products[key][1] == triplet["positive_group"]]
            recalls.append(sum(key in best for key in right) / len(right))
        assert found[f"recall_{direction}"] == pytest.approx(sum(recalls) / len(recalls), abs=1e-6), direction
    assert found["recall_mean"] == pytest.approx(sum(found[f"recall_{name}"] for name in directions) / 5)


def test_a_sample_is_smaller_and_always_the_same(dataset):
    one, other = ValidationRetrieval(dataset, 5), ValidationRetrieval(dataset, 5)
    assert len(one.queries) == 5 and list(one.queries) == list(other.queries)
    assert len(one.products) < len(ValidationRetrieval(dataset, 1000).products)


def test_directions_without_queries_are_left_out(dataset):
    retrieval = ValidationRetrieval(dataset, 1000)
    retrieval.queries = {key: query for key, query in retrieval.queries.items() if query["image"] is None}
    found = retrieval(tiny_model(), tiny_processor(), batch_size=4)
    assert found.keys() == {"recall_t2mm", "recall_t2i", "recall_mean"}
    retrieval.queries = {}
    assert retrieval(tiny_model(), tiny_processor(), batch_size=4) == {}


def test_the_record_of_the_filter_counts_and_forgets():
    record = FilterRecord(0.6, dump=False)
    record.add(1, [0.05, 0.59, 0.61, 1.0], list("abcd"), list("wxyz"), [True, False, True, None])
    told = record.since_last_log(world_size=1)
    assert told["lowest_phi"] == {"a": 0.05, "b": 0.59, "c": 0.61, "d": 1.0}
    assert told["phi_histogram"] == [1, 0, 0, 0, 0, 1, 1, 0, 0, 1]
    assert told["filter_precision"] == 0.5 and told["filter_recall"] == 0.5
    record.add(2, [0.1], ["d"], ["z"], [None])
    assert record.since_last_log(world_size=1) == {"lowest_phi": {"d": 0.1}, "phi_histogram": [0, 1] + [0] * 8}


def test_only_what_can_be_said_of_the_filter_is_said():
    assert precision_and_recall(4, 2, 1) == {"filter_recall": 0.5, "filter_precision": 0.25}
    assert precision_and_recall(0, 2, 0) == {"filter_recall": 0.0}
    assert precision_and_recall(4, 0, 0) == {}


def test_the_latest_phi_of_a_triplet_is_written(tmp_path):
    record = FilterRecord(0.6, dump=True)
    record.add(1, [0.1, 0.2, 0.3], ["q", "q", "r"], ["1", "2", "1"], [True, None, False])
    record.add(5, [0.9, 0.4], ["q", "r"], ["1", "1"], [True, False])
    said = record.dump(tmp_path, world_size=1, write=True)
    lines = (tmp_path / "filtered.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"query_id": "q", "positive_id": "2", "phi": 0.2, "step": 1},
        {"query_id": "r", "positive_id": "1", "phi": 0.4, "step": 5, "false_positive": False},
    ]
    assert (
        "2 of 3 triplets seen have phi below 0.6; against 1 known false positives, recall 0.0%, precision 0.0%" in said
    )


@pytest.mark.parametrize("order", [1, -1])
def test_the_latest_phi_may_be_that_of_any_process(tmp_path, monkeypatch, order):
    record = FilterRecord(0.6, dump=True)
    entry = {"query_id": "q", "positive_id": "1"}
    parts = [{("q", "1"): entry | {"phi": 0.1, "step": 3}}, {("q", "1"): entry | {"phi": 0.2, "step": 5}}]
    monkeypatch.setattr("training_moon2.figures._of_all", lambda value, world_size: parts[::order])
    record.dump(tmp_path, world_size=2, write=True)
    (line,) = (tmp_path / "filtered.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["phi"] == 0.2
