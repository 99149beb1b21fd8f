"""The page of the metric's Space: rankings in, figure out."""

import json
from pathlib import Path

import evaluate
import gradio

metric = evaluate.load(str(Path(__file__).with_name("mean_reciprocal_rank.py")))


def answer(predictions: str, references: str, k: float) -> dict[str, float]:
    """The metric of two JSON lists of lists of ids."""
    return metric.compute(predictions=json.loads(predictions), references=json.loads(references), k=int(k))


gradio.Interface(
    fn=answer,
    inputs=[
        gradio.Textbox('[["a", "b"], ["c", "a"]]', label="Found ids of each query, best first (JSON)"),
        gradio.Textbox('[["b"], ["a", "d"]]', label="Relevant ids of each query (JSON)"),
        gradio.Number(10, label="k", precision=0),
    ],
    outputs=gradio.JSON(label="Result"),
    title="Metric: mean_reciprocal_rank",
    description=metric.description,
).launch()
