"""Zero-shot classification and attribute prediction by the nearest label text (MOON2.0, section 6)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from evaluation.benchmark import Benchmark
from evaluation.retrieval import Embedded, similarity

# How a label becomes a text to embed (our choice, where the paper is silent).
CATEGORY_TEMPLATE = "{label}"
ATTRIBUTE_TEMPLATE = "{name}: {value}"
# Products that must have a value for it to be one of an attribute's labels. Real catalogues have hundreds of names
# whose values occur once or twice, where one product is a large share of the figure (our choice).
MIN_SUPPORT = 5
# (L texts) -> (L, D)
EmbedTexts = Callable[[list[str]], torch.Tensor]


def nearest(products: torch.Tensor, labels: torch.Tensor, chunk: int = 8192) -> np.ndarray:
    """For each of the (N, D) products the index of the most similar of the (L, D) labels; the first one of equals."""
    # numpy's argmax promises the first maximum, torch's does not.
    return np.concatenate([similarity(part, labels).numpy().argmax(1) for part in products.split(chunk)])


def label_metrics(truths: Sequence[Sequence[int]], predictions: np.ndarray, num_labels: int) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 as means over the labels, with two yardsticks.

    A product may have several true labels. A prediction is right if it is one of them; a wrong one is held against
    the first (our choice, where the paper is silent).

    Args:
        truths: for each of N products its true labels, at least one; predictions: (N,); both as indices.

    Returns:
        `accuracy`, `precision`, `recall`, `f1`, `chance` (the expected accuracy of labels drawn uniformly; 1 / L if
        every product has one label) and `majority` (the accuracy of always saying the most frequent label).
    """
    single = [guess if guess in truth else truth[0] for truth, guess in zip(truths, predictions.tolist(), strict=True)]
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


def category_labels(paths: Sequence[Sequence[str]]) -> dict[tuple[str, ...], str]:
    """Category path -> label: its leaf, or the whole path where another path ends in the same leaf."""
    distinct = sorted({tuple(path) for path in paths if path})
    leaves = Counter(path[-1] for path in distinct)
    return {path: path[-1] if leaves[path[-1]] == 1 else " > ".join(path) for path in distinct}


def evaluate_classification(benchmark: Benchmark, corpus: Embedded, embed_texts: EmbedTexts) -> dict:
    """Category of each product: the nearest text among all category labels of the corpus.

    Args:
        corpus: the multimodal view. Products without it or without a category are counted in `products_left_out`.

    Returns:
        `labels`, `products`, `products_left_out` and `metrics` (`None` if there is no category at all).
    """
    names = category_labels(benchmark.categories)
    labels = sorted(names.values())
    index = {label: position for position, label in enumerate(labels)}
    known = [position for position, row in enumerate(corpus.rows) if benchmark.categories[row]]
    metrics = None
    if known:
        truths = [[index[names[tuple(benchmark.categories[corpus.rows[position]])]]] for position in known]
        vectors = embed_texts([CATEGORY_TEMPLATE.format(label=label) for label in labels])
        metrics = label_metrics(truths, nearest(corpus.vectors[known], vectors), len(labels))
    return {
        "labels": len(labels),
        "products": len(known),
        "products_left_out": len(benchmark.corpus) - len(known),
        "metrics": metrics,
    }


def attribute_labels(attributes: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """The attributes to predict: name -> values, of those with two values or more that `MIN_SUPPORT` products have."""
    support: dict[str, Counter] = defaultdict(Counter)
    for product in attributes:
        for name, values in product.items():
            support[name].update(values)
    frequent = {
        name: sorted(value for value, count in counts.items() if count >= MIN_SUPPORT)
        for name, counts in sorted(support.items())
    }
    return {name: values for name, values in frequent.items() if len(values) >= 2}


def evaluate_attributes(benchmark: Benchmark, corpus: Embedded, embed_texts: EmbedTexts) -> dict:
    """For each attribute, its value for a product: the nearest text among the attribute's values.

    The multimodal view contains the title, which may state the value: so it is in the paper's setting.

    Args:
        corpus: the multimodal view.

    Returns:
        `attributes`: for each name `values`, `products` (with one of these values), `products_left_out` (with rarer
        values only) and the metrics; `attributes_left_out`: how many names have too little support;
        `products_left_out`: how many products lack the multimodal view;
        `micro`: accuracy, chance and majority over all predictions, the headline figure (our choice); `macro`: every
        metric as the mean over attributes. The last two are `None` if no attribute has enough support.
    """
    rows = [benchmark.attributes[row] for row in corpus.rows]
    labels = attribute_labels(rows)
    texts = [ATTRIBUTE_TEMPLATE.format(name=name, value=value) for name, values in labels.items() for value in values]
    parts = embed_texts(texts).split([len(values) for values in labels.values()]) if labels else []

    table = {}
    for (name, values), vectors in zip(labels.items(), parts, strict=True):
        index = {value: position for position, value in enumerate(values)}
        holders = [position for position, product in enumerate(rows) if name in product]
        truths = {position: [index[value] for value in rows[position][name] if value in index] for position in holders}
        known = [position for position in holders if truths[position]]
        predictions = nearest(corpus.vectors[known], vectors)
        table[name] = {
            "values": len(values),
            "products": len(known),
            "products_left_out": len(holders) - len(known),
            **label_metrics([truths[position] for position in known], predictions, len(values)),
        }
    weights = [row["products"] for row in table.values()]

    def mean(metric: str, weights: list[int] | None = None) -> float:
        return fmean((row[metric] for row in table.values()), weights)

    every = ("accuracy", "precision", "recall", "f1", "chance", "majority")
    return {
        "attributes": table,
        "attributes_left_out": len({name for product in rows for name in product}) - len(table),
        "products_left_out": len(benchmark.corpus) - len(rows),
        "micro": {metric: mean(metric, weights) for metric in ("accuracy", "chance", "majority")} if table else None,
        "macro": {metric: mean(metric) for metric in every} if table else None,
    }
