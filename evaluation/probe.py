"""The linear probe: how well a linear classifier reads the category from the vectors."""

from collections.abc import Sequence

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evaluation.classification import Labelled, category_labels, score_labels
from evaluation.errors import EvaluationError


def linear_probe(
    train: torch.Tensor,
    train_paths: Sequence[Sequence[str]],
    test: torch.Tensor,
    test_paths: Sequence[Sequence[str]],
    seed: int = 0,
) -> dict:
    """Logistic regression (scikit-learn's defaults, on standardised vectors) from vectors to categories.

    A category of the test products that no train product has cannot be said, and counts as wrong.

    Args:
        train: (N, D) and test: (M, D), both with a category path each, maybe empty: then the product is left out.

    Returns:
        `labels`, `train_products`, `products`, `unseen_products` (of categories that training does not have),
        `metrics` and `intervals`.

    Raises:
        EvaluationError: there are not two categories to train on, or nothing to test.
    """
    known, asked = ([row for row, path in enumerate(paths) if path] for paths in (train_paths, test_paths))
    names = category_labels([*train_paths, *test_paths])
    index = {label: place for place, label in enumerate(sorted(names.values()))}
    truths = [index[names[tuple(train_paths[row])]] for row in known]
    if len(set(truths)) < 2 or not asked:
        raise EvaluationError("The linear probe needs train products of two categories, and test products with one.")
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
