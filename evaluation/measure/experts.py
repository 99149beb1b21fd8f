"""What a Moon2 checkpoint's experts do: which ones products use, and what each is for (MOON2.0, section 2)."""

from typing import NamedTuple

import numpy as np

from evaluation.models.checkpoint import Checkpoint
from evaluation.models.embed import embed_batches
from evaluation.tables.benchmark import Products, ProductView

VIEWS = ("t", "i", "mm")


class Routing(NamedTuple):
    """Of Z experts and M objectives.

    Attributes:
        usage: {view: (N, Z)}: G~ of N products, the same ones in every view; a product's row sums to 1.
        preference: (Z, M): the softmax of W*, what share of each expert is for each objective.
        objectives: the names of the M.
    """

    usage: dict[str, np.ndarray]
    preference: np.ndarray
    objectives: list[str]


def read_routing(checkpoint: Checkpoint, products: Products, rows: list[int], batch_size: int = 64) -> Routing:
    """Runs the products, which have both text and picture, through the model in each of the three views.

    Raises:
        EvaluationError: a product cannot be prepared.
    """
    model, processor = checkpoint.model, checkpoint.processor

    def prepare(batch: list[dict]) -> dict:
        return dict(processor(batch, return_tensors="pt"))

    def usage(inputs: dict):
        return model(**{name: value.to(model.device) for name, value in inputs.items()}).expert_usage

    found = {}
    for view in VIEWS:
        items = ProductView(products, view, rows)
        lengths, what = items.text_lengths, f"experts ({view})"
        found[view] = embed_batches(prepare, usage, items, lengths, items.describe, batch_size, what).numpy()
    preference = model.dual_alignment.weight.detach().float().softmax(dim=1).cpu().numpy()
    return Routing(found, preference, list(model.config.objectives))
