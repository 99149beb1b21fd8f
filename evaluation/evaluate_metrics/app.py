"""The page of a metric's Space, where the metric's module lies beside it: rankings in, figure out."""

import json
from pathlib import Path

import evaluate
import gradio

(module,) = (path for path in Path(__file__).parent.glob("*.py") if path.name != Path(__file__).name)
metric = evaluate.load(str(module))


def answer(predictions: str, references: str, k: float) -> dict[str, float]:
    """Return the metric of two JSON lists of lists of ids."""
    return metric.compute(predictions=json.loads(predictions), references=json.loads(references), k=int(k))


gradio.Interface(
    fn=answer,
    inputs=[
        gradio.Textbox('[["a", "b"], ["c", "a"]]', label="Found ids of each query, best first (JSON)"),
        gradio.Textbox('[["b"], ["a", "d"]]', label="Relevant ids of each query (JSON)"),
        gradio.Number(10, label="k", precision=0),
    ],
    outputs=gradio.JSON(label="Result"),
    title=f"Metric: {module.stem}",
    description=metric.description,
).launch()
