"""Zero-shot classification and attribute prediction by the nearest label text (MOON2.0, section 6)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix

from common_moon2.cli import UserError
from evaluation.measure.metrics import RESAMPLES, bounds, resampled_counts
from evaluation.measure.retrieval import Embedded, similarity
from evaluation.tables.benchmark import Benchmark

# How a label becomes a text to embed (our choice, where the paper is silent).
CATEGORY_TEMPLATE = "{label}"
ATTRIBUTE_TEMPLATE = "{name}: {value}"
# Products that must have a value for it to be one of an attribute's labels. Real catalogues have hundreds of names
# whose values occur once or twice, where one product is a large share of the figure (our choice).
MIN_SUPPORT = 5
# (L texts) -> (L, D)
EmbedTexts = Callable[[list[str]], torch.Tensor]
RESAMPLED = ("accuracy", "precision", "recall", "f1")


class Labelled(NamedTuple):
    """The predictions of one task: products, their true labels, the predicted ones, and the number of labels."""

    products: list[int]
    truths: list[list[int]]
    predictions: np.ndarray
    num_labels: int


class ProductHits(NamedTuple):
    """For N products: id, share of their predictions that are right (N,), and the number of predictions (N,)."""

    ids: list[str]
    accuracy: np.ndarray
    weights: np.ndarray


def nearest(products: torch.Tensor, labels: torch.Tensor, chunk: int = 8192) -> np.ndarray:
    """Return the index of the most similar of (L, D) labels for each of (N, D) products; of equals, the first."""
    # numpy's argmax promises the first maximum, torch's does not.
    return np.concatenate([similarity(part, labels).numpy().argmax(1) for part in products.split(chunk)])


def label_metrics(truths: Sequence[Sequence[int]], predictions: np.ndarray, num_labels: int) -> dict[str, float]:
    """Return accuracy, and precision, recall and F1 as means over the labels, with two yardsticks.

    A product may have several true labels. A prediction is right if it is one of them; a wrong one is held against
    the first (our choice, where the paper is silent).

    Args:
        truths: for each of N products its true labels, at least one; predictions: (N,); both as indices.

    Returns:
        `accuracy`, `precision`, `recall`, `f1`, `chance` (the expected accuracy of labels drawn uniformly; 1 / L if
        every product has one label) and `majority` (the accuracy of always saying the most frequent label).
    """
    single = _single_truths(truths, predictions)
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support  # it takes seconds to import

    precision, recall, f1, _ = precision_recall_fscore_support(
        single, predictions, labels=range(num_labels), average="macro", zero_division=0
    )
    frequency = Counter(label for truth in truths for label in truth)
    return {
        "accuracy": float(accuracy_score(single, predictions)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "chance": fmean(len(truth) for truth in truths) / num_labels,
        "majority": max(frequency.values()) / len(truths),
    }


def label_intervals(
    tasks: Sequence[Labelled], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[list[dict], dict, dict]:
    """Return 95 % percentile bootstrap intervals of `label_metrics`.

    Products are drawn, each with all its predictions.

    Returns:
        {metric: [low, high]} for each task, for `micro` (accuracy over all predictions) and for `macro` (means over the
        tasks).
    """
    cells: dict[tuple[int, int, int], int] = {}
    places, holders = [], []
    for number, task in enumerate(tasks):
        singles = _single_truths(task.truths, task.predictions)
        for product, truth, guess in zip(task.products, singles, task.predictions.tolist(), strict=True):
            places.append(cells.setdefault((number, truth, guess), len(cells)))
            holders.append(product)
    drawn = sorted(set(holders))
    position = {product: place for place, product in enumerate(drawn)}
    entries = (np.ones(len(places)), (places, [position[holder] for holder in holders]))
    table = csr_matrix(entries, shape=(len(cells), len(drawn)))
    counts = np.concatenate([(table @ block.T).T for block in resampled_counts(len(drawn), seed, resamples)])

    number, truth, guess = np.array(list(cells)).T
    samples = [
        _resampled_metrics(counts[:, number == index], truth[number == index], guess[number == index], task.num_labels)
        for index, task in enumerate(tasks)
    ]
    right = counts[:, truth == guess].sum(1) / counts.sum(1)
    macro = {metric: np.nanmean([sample[metric] for sample in samples], axis=0) for metric in RESAMPLED}
    return [_bounds(sample) for sample in samples], _bounds({"accuracy": right}), _bounds(macro)


def score_labels(task: Labelled, seed: int = 0) -> dict:
    """Return `metrics` and their `intervals` for one task."""
    (found,), _, _ = label_intervals([task], seed)
    return {"metrics": label_metrics(task.truths, task.predictions, task.num_labels), "intervals": found}


def _single_truths(truths: Sequence[Sequence[int]], predictions: np.ndarray) -> list[int]:
    return [guess if guess in truth else truth[0] for truth, guess in zip(truths, predictions.tolist(), strict=True)]


def _resampled_metrics(counts: np.ndarray, truth: np.ndarray, guess: np.ndarray, num_labels: int) -> dict:
    """Return the metrics (R,) of R confusion tables, which count each of C pairs of truth and guess, (R, C)."""
    labels = np.arange(num_labels)
    hits = counts * (truth == guess)
    found = hits @ (truth[:, None] == labels)
    true, said = counts @ (truth[:, None] == labels), counts @ (guess[:, None] == labels)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0)

    total = counts.sum(1)
    # A resample may lack every holder of a rare attribute: then it says nothing about it.
    accuracy = np.divide(hits.sum(1), total, out=np.full(len(total), np.nan), where=total > 0)
    return {
        "accuracy": accuracy,
        "precision": share(found, said).mean(1),
        "recall": share(found, true).mean(1),
        "f1": share(2 * found, true + said).mean(1),
    }


def _bounds(samples: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {metric: bounds(values) for metric, values in samples.items()}


def category_labels(paths: Sequence[Sequence[str]]) -> dict[tuple[str, ...], str]:
    """Return the label of each category path: its leaf, or the whole path if another one ends in the same leaf."""
    distinct = sorted({tuple(path) for path in paths if path})
    leaves = Counter(path[-1] for path in distinct)
    return {path: path[-1] if leaves[path[-1]] == 1 else " > ".join(path) for path in distinct}


def evaluate_classification(
    benchmark: Benchmark, corpus: Embedded, embed_texts: EmbedTexts, seed: int = 0
) -> tuple[dict, ProductHits | None]:
    """Predict the category of each product: the nearest text among all category labels of the corpus.

    Args:
        corpus: the multimodal view. Products without it or without a category are counted in `products_left_out`.

    Returns:
        `labels`, `products`, `products_left_out`, `metrics` and `intervals` (`None` if there is no category at all);
        and which products were right.
    """
    names = category_labels(benchmark.categories)
    labels = sorted(names.values())
    index = {label: position for position, label in enumerate(labels)}
    known = [position for position, row in enumerate(corpus.rows) if benchmark.categories[row]]
    result = {
        "labels": len(labels),
        "products": len(known),
        "products_left_out": len(benchmark.corpus) - len(known),
        "metrics": None,
        "intervals": None,
    }
    if not known:
        return result, None
    truths = [[index[names[tuple(benchmark.categories[corpus.rows[position]])]]] for position in known]
    vectors = embed_texts([CATEGORY_TEMPLATE.format(label=label) for label in labels])
    task = Labelled(known, truths, nearest(corpus.vectors[known], vectors), len(labels))
    return result | score_labels(task, seed), _hits([task], benchmark, corpus)


def attribute_labels(attributes: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Return the attributes to predict, and of each the values, at least two, that `MIN_SUPPORT` products have."""
    support: dict[str, Counter] = defaultdict(Counter)
    for product in attributes:
        for name, values in product.items():
            support[name].update(values)
    frequent = {
        name: sorted(value for value, count in counts.items() if count >= MIN_SUPPORT)
        for name, counts in sorted(support.items())
    }
    return {name: values for name, values in frequent.items() if len(values) >= 2}


def evaluate_attributes(
    benchmark: Benchmark, corpus: Embedded, embed_texts: EmbedTexts, seed: int = 0
) -> tuple[dict, ProductHits | None]:
    """Predict the values of attributes: the nearest text among an attribute's values.

    The multimodal view contains the title, which may state the value: so it is in the paper's setting.

    Args:
        corpus: the multimodal view.

    Returns:
        `attributes`: for each name `values`, `products` (with one of these values), `products_left_out` (with rarer
        values only), the metrics and their `intervals`; `attributes_left_out`: how many names have too little support;
        `products_left_out`: how many products lack the multimodal view;
        `micro`: accuracy, chance and majority over all predictions, the headline figure (our choice); `macro`: every
        metric as the mean over attributes; both with `intervals`, and `None` if no attribute has enough support.
        And which share of each product's predictions were right.
    """
    rows = [benchmark.attributes[row] for row in corpus.rows]
    labels = attribute_labels(rows)
    texts = [ATTRIBUTE_TEMPLATE.format(name=name, value=value) for name, values in labels.items() for value in values]
    parts = embed_texts(texts).split([len(values) for values in labels.values()]) if labels else []

    table, tasks = {}, []
    for (name, values), vectors in zip(labels.items(), parts, strict=True):
        index = {value: position for position, value in enumerate(values)}
        holders = [position for position, product in enumerate(rows) if name in product]
        truths = {position: [index[value] for value in rows[position][name] if value in index] for position in holders}
        known = [position for position in holders if truths[position]]
        expected = [truths[position] for position in known]
        task = Labelled(known, expected, nearest(corpus.vectors[known], vectors), len(values))
        tasks.append(task)
        table[name] = {
            "values": len(values),
            "products": len(known),
            "products_left_out": len(holders) - len(known),
            **label_metrics(expected, task.predictions, len(values)),
        }
    result = {
        "attributes": table,
        "attributes_left_out": len({name for product in rows for name in product}) - len(table),
        "products_left_out": len(benchmark.corpus) - len(rows),
        "micro": None,
        "macro": None,
    }
    if not table:
        return result, None
    weights = [row["products"] for row in table.values()]

    def mean(metric: str, weights: list[int] | None = None) -> float:
        return fmean((row[metric] for row in table.values()), weights)

    single, micro, macro = label_intervals(tasks, seed)
    every = (*RESAMPLED, "chance", "majority")
    result["micro"] = {metric: mean(metric, weights) for metric in ("accuracy", "chance", "majority")}
    result["micro"]["intervals"] = micro
    result["macro"] = {metric: mean(metric) for metric in every} | {"intervals": macro}
    for row, found in zip(table.values(), single, strict=True):
        row["intervals"] = found
    return result, _hits(tasks, benchmark, corpus)


def _hits(tasks: Sequence[Labelled], benchmark: Benchmark, corpus: Embedded) -> ProductHits:
    right, said = np.zeros(len(corpus.rows)), np.zeros(len(corpus.rows))
    for task in tasks:
        hit = [guess in truth for truth, guess in zip(task.truths, task.predictions.tolist(), strict=True)]
        np.add.at(right, task.products, hit)
        np.add.at(said, task.products, 1)
    asked = np.flatnonzero(said)
    ids = [benchmark.corpus.ids[corpus.rows[position]] for position in asked]
    return ProductHits(ids, right[asked] / said[asked], said[asked])


def linear_probe(
    train: torch.Tensor,
    train_paths: Sequence[Sequence[str]],
    test: torch.Tensor,
    test_paths: Sequence[Sequence[str]],
    seed: int = 0,
) -> dict:
    """Train a classifier of categories: logistic regression with scikit-learn's defaults, on standardised vectors.

    A category of the test products that no train product has cannot be predicted, and counts as wrong.

    Args:
        train: (N, D) and test: (M, D), both with a category path each, maybe empty: then the product is left out.

    Returns:
        `labels`, `train_products`, `products`, `unseen_products` (of categories that training does not have),
        `metrics` and `intervals`.

    Raises:
        UserError: there are not two categories to train on, or nothing to test.
    """
    known, asked = ([row for row, path in enumerate(paths) if path] for paths in (train_paths, test_paths))
    names = category_labels([*train_paths, *test_paths])
    index = {label: place for place, label in enumerate(sorted(names.values()))}
    truths = [index[names[tuple(train_paths[row])]] for row in known]
    if len(set(truths)) < 2 or not asked:
        raise UserError("The linear probe needs train products of two categories, and test products with one.")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(train[known].numpy(), truths)
    predictions = classifier.predict(test[asked].numpy())
    expected = [[index[names[tuple(test_paths[row])]]] for row in asked]
    seen = set(truths)
    return {
        "labels": len(index),
        "train_products": len(known),
        "products": len(asked),
        "unseen_products": sum(truth[0] not in seen for truth in expected),
        **score_labels(Labelled(list(range(len(asked))), expected, predictions, len(index)), seed),
    }
