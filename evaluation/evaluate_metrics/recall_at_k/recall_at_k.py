"""Recall@k as a metric module of Hugging Face evaluate."""

# One import per line: evaluate reads them from the text of this file.
import math

import datasets
import evaluate

_DESCRIPTION = """
Recall@k of a ranking: the share of a query's relevant items that stand among its first k, averaged over the queries.
"""

_INPUTS = """
Args:
    predictions: for each query the ids that were found, best first; each id once.
    references: for each query the ids that are relevant, at least one.
    k: how many of the first are looked at (default: 10).
Returns:
    recall_at_k: between 0 and 1.
Examples:
    >>> metric = evaluate.load("recall_at_k")
    >>> metric.compute(predictions=[["a", "b"], ["c", "a"]], references=[["b"], ["a", "d"]], k=2)
    {'recall_at_k': 0.75}
"""


class RecallAtK(evaluate.Metric):
    """Recall@k = |relevant among the first k| / |relevant|, averaged over the queries."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(self, predictions: list[list[str]], references: list[list[str]], k: int = 10) -> dict[str, float]:
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1.")
        shares = []
        for number, (found, wanted) in enumerate(zip(predictions, references, strict=True)):
            relevant = set(wanted)
            if not relevant:
                raise ValueError(f"Query {number} has no relevant id, so it has no recall: leave it out.")
            if len(set(found)) < len(found):
                raise ValueError(f"Query {number} has an id twice among its predictions.")
            shares.append(len(relevant.intersection(found[:k])) / len(relevant))
        return {"recall_at_k": math.fsum(shares) / len(shares)}
