"""Nearest label texts, with vectors made by hand so that every figure can be worked out on paper."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.measure.classification import (
    MIN_SUPPORT,
    Labelled,
    attribute_labels,
    category_labels,
    evaluate_attributes,
    evaluate_classification,
    label_intervals,
    label_metrics,
    nearest,
)
from evaluation.measure.retrieval import Embedded


def unit(*indices: int) -> torch.Tensor:
    return torch.eye(4)[list(indices)]


def test_nearest_is_the_most_similar_label_and_the_first_of_equals():
    products = torch.nn.functional.normalize(torch.tensor([[1.0, 0.9, 0, 0], [0, 1, 1, 0], [0, 0, 0, -1]]), dim=-1)
    for chunk in (1, 2, 3):
        assert nearest(products, unit(0, 1, 2), chunk).tolist() == [0, 1, 0]


def test_label_metrics_by_hand():
    """Label 0: 2 of 3 found, 2 of 2 right; label 1: 1 of 1 found, 1 of 2 right; label 2 neither occurs nor is said."""
    metrics = label_metrics([[0], [0], [0], [1]], np.array([0, 0, 1, 1]), 3)
    assert metrics == pytest.approx(
        {
            "accuracy": 3 / 4,
            "precision": (1 + 1 / 2 + 0) / 3,
            "recall": (2 / 3 + 1 + 0) / 3,
            "f1": (4 / 5 + 2 / 3 + 0) / 3,
            "chance": 1 / 3,
            "majority": 3 / 4,
        }
    )


def test_any_of_several_true_labels_is_right():
    metrics = label_metrics([[0, 2], [0, 2], [1]], np.array([2, 1, 1]), 3)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["recall"] == pytest.approx((0 + 1 + 1) / 3)  # the wrong one is held against its first label, 0
    assert metrics["chance"] == pytest.approx((2 + 2 + 1) / 3 / 3)
    assert metrics["majority"] == pytest.approx(2 / 3)


def test_a_leaf_that_two_paths_share_is_told_apart():
    paths = [["Men", "Tees"], ["Women", "Tees"], ["Women", "Dresses"], ["Women", "Tees"], []]
    assert category_labels(paths) == {
        ("Men", "Tees"): "Men > Tees",
        ("Women", "Tees"): "Women > Tees",
        ("Women", "Dresses"): "Dresses",
    }


class corpus_of(list):
    """A corpus of so many products, of which only the ids are looked at."""

    def __init__(self, count: int):
        super().__init__(range(count))
        self.ids = [f"p{index}" for index in range(count)]


def embed_by_table(table: dict[str, int]):
    return lambda texts: unit(*(table[text] for text in texts))


def test_classification_counts_what_it_leaves_out():
    benchmark = SimpleNamespace(categories=[["mugs"], ["hats"], [], ["mugs"], ["mugs"]], corpus=corpus_of(5))
    corpus = Embedded([0, 1, 2, 3], unit(1, 0, 2, 0))  # row 4 has no multimodal view
    result, hits = evaluate_classification(benchmark, corpus, embed_by_table({"hats": 0, "mugs": 1}))
    assert (result["labels"], result["products"], result["products_left_out"]) == (2, 3, 2)
    assert result["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert result["metrics"]["majority"] == pytest.approx(2 / 3)
    assert (hits.ids, hits.accuracy.tolist()) == (["p0", "p1", "p3"], [1, 1, 0])


def test_classification_without_any_category():
    benchmark = SimpleNamespace(categories=[[], []], corpus=corpus_of(2))
    result, hits = evaluate_classification(benchmark, Embedded([0, 1], unit(0, 1)), embed_by_table({}))
    assert result == {"labels": 0, "products": 0, "products_left_out": 2, "metrics": None, "intervals": None}
    assert hits is None


def attribute_rows() -> list[dict[str, list[str]]]:
    """colour: red and blue with support, one green; size: one value only; material: two values, too rare."""
    rows = [{"colour": ["red"], "size": ["M"]} for _ in range(MIN_SUPPORT + 2)]
    rows += [{"colour": ["blue"], "size": ["M"]} for _ in range(MIN_SUPPORT)]
    rows += [{"colour": ["green"], "material": ["wool"]}, {"material": ["silk"]}]
    return rows


def test_attributes_need_two_values_with_support():
    assert attribute_labels(attribute_rows()) == {"colour": ["blue", "red"]}
    assert attribute_labels(attribute_rows()[:-3]) == {}


def test_attribute_prediction_by_hand():
    rows = attribute_rows()
    vectors = unit(*[0] * MIN_SUPPORT, 1, 1, *[1] * MIN_SUPPORT, 2, 2)  # two red ones look blue
    benchmark = SimpleNamespace(attributes=[*rows, {"colour": ["red"]}], corpus=corpus_of(len(rows) + 1))
    corpus = Embedded(list(range(len(rows))), vectors)
    result, _ = evaluate_attributes(benchmark, corpus, embed_by_table({"colour: red": 0, "colour: blue": 1}))
    count = 2 * MIN_SUPPORT + 2
    colour = result["attributes"]["colour"]
    assert (colour["values"], colour["products"], colour["products_left_out"]) == (2, count, 1)
    assert colour["accuracy"] == pytest.approx((count - 2) / count)
    assert colour["majority"] == pytest.approx((MIN_SUPPORT + 2) / count)
    assert result["attributes_left_out"] == 2
    assert result["products_left_out"] == 1


def test_micro_weighs_predictions_and_macro_weighs_attributes():
    few, many = MIN_SUPPORT, 3 * MIN_SUPPORT
    rows = [{"fit": ["slim"], "colour": ["red"]}] * few + [{"fit": ["wide"], "colour": ["red"]}] * few
    rows += [{"colour": ["blue"]}] * (many - 2 * few)
    table = {"fit: slim": 0, "fit: wide": 1, "colour: red": 0, "colour: blue": 2}
    benchmark = SimpleNamespace(attributes=rows, corpus=corpus_of(many))
    corpus = Embedded(list(range(many)), unit(*[0] * few, *[0] * few, *[2] * (many - 2 * few)))
    result, hits = evaluate_attributes(benchmark, corpus, embed_by_table(table))
    assert result["attributes"]["fit"]["accuracy"] == pytest.approx(1 / 2)
    assert result["attributes"]["colour"]["accuracy"] == 1
    assert result["macro"]["accuracy"] == pytest.approx(3 / 4)
    assert result["micro"]["accuracy"] == pytest.approx((few + many) / (2 * few + many))
    assert np.average(hits.accuracy, weights=hits.weights) == pytest.approx(result["micro"]["accuracy"])


def test_without_supported_attributes_there_are_no_figures():
    benchmark = SimpleNamespace(attributes=[{"colour": ["red"]}], corpus=corpus_of(1))
    result, _ = evaluate_attributes(benchmark, Embedded([0], unit(0)), embed_by_table({}))
    assert (result["attributes"], result["micro"], result["macro"]) == ({}, None, None)


def test_label_intervals_equal_label_metrics_of_every_resample():
    """Two tasks over 30 products; each resample draws products, with all that was predicted for them."""
    generator = np.random.default_rng(3)
    tasks = []
    for count, labels in ((30, 3), (22, 2)):
        products = sorted(generator.choice(30, size=count, replace=False).tolist())
        truths = [[int(generator.integers(labels))] for _ in products]
        tasks.append(Labelled(products, truths, generator.integers(labels, size=count), labels))
    single, micro, macro = label_intervals(tasks, seed=5, resamples=60)

    drawn = np.random.default_rng(5).integers(30, size=(60, 30))
    samples = []
    for draw in drawn:
        rows = []
        for task in tasks:
            places = [task.products.index(product) for product in draw if product in task.products]
            rows.append(
                label_metrics([task.truths[place] for place in places], task.predictions[places], task.num_labels)
            )
            rows[-1]["size"] = len(places)
        samples.append(rows)
    for number, found in enumerate(single):
        for metric, interval in found.items():
            assert interval == pytest.approx(np.quantile([rows[number][metric] for rows in samples], [0.025, 0.975]))
    expected = [
        np.average([row["accuracy"] for row in rows], weights=[row["size"] for row in rows]) for rows in samples
    ]
    assert micro["accuracy"] == pytest.approx(np.quantile(expected, [0.025, 0.975]))
    expected = [np.mean([row["f1"] for row in rows]) for rows in samples]
    assert macro["f1"] == pytest.approx(np.quantile(expected, [0.025, 0.975]))
