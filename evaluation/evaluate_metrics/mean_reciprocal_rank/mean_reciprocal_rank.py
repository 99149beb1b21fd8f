"""Mean reciprocal rank as a metric module of Hugging Face evaluate."""

# One import per line: evaluate reads them from the text of this file.
import math

import datasets
import evaluate

_DESCRIPTION = """
Mean reciprocal rank: 1 / rank of the first relevant item of a ranking, averaged over the queries.
"""

_INPUTS = """
Args:
    predictions: for each query the ids that were found, best first; each id once.
    references: for each query the ids that are relevant, at least one.
    k: how many of the first are looked at; a query with no relevant id among them counts 0 (default: all).
Returns:
    mean_reciprocal_rank: between 0 and 1.
Examples:
    >>> metric = evaluate.load("mean_reciprocal_rank")
    >>> metric.compute(predictions=[["a", "b"], ["c", "a"]], references=[["b"], ["c", "d"]])
    {'mean_reciprocal_rank': 0.75}
"""


class MeanReciprocalRank(evaluate.Metric):
    """1 / rank of the first relevant id, 0 where none was found, averaged over the queries."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]], k: int | None = None
    ) -> dict[str, float]:
        if k is not None and k < 1:
            raise ValueError(f"k is {k}; it must be at least 1.")
        reciprocals = []
        for number, (found, wanted) in enumerate(zip(predictions, references, strict=True)):
            relevant = set(wanted)
            if not relevant:
                raise ValueError(f"Query {number} has no relevant id, so it has no rank: leave it out.")
            if len(set(found)) < len(found):
                raise ValueError(f"Query {number} has an id twice among its predictions.")
            reciprocals.append(next((1 / rank for rank, item in enumerate(found[:k], 1) if item in relevant), 0.0))
        return {"mean_reciprocal_rank": math.fsum(reciprocals) / len(reciprocals)}
