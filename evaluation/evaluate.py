"""One evaluation: embed every view once, then retrieval, classification and attribute prediction."""

import torch
from transformers import PreTrainedModel, ProcessorMixin

from evaluation.benchmark import QUERY_VIEWS, Benchmark, Products, ProductView
from evaluation.classification import evaluate_attributes, evaluate_classification
from evaluation.embed import embed
from evaluation.retrieval import Embedded, evaluate_retrieval


def evaluate(
    model: PreTrainedModel, processor: ProcessorMixin, benchmark: Benchmark, batch_size: int = 64, workers: int = 0
) -> dict:
    """Scores a model zero-shot on a benchmark (MOON2.0, section 6).

    Args:
        model: a Moon2 model; left in eval mode.
        batch_size, workers: see `embed`.

    Returns:
        `retrieval`, `classification` and `attributes`, as the functions of that name give them. All figures are
        shares in 0..1.

    Raises:
        EvaluationError: a product cannot be prepared (an unreadable picture, say), or its vector is not finite.
    """
    model.eval()

    def embed_view(products: Products, view: str, rows: list[int], what: str) -> Embedded:
        chosen = ProductView(products, view, rows)
        description = f"embed {products.name} ({what})"
        lengths, describe = chosen.text_lengths, chosen.describe
        return Embedded(rows, embed(model, processor, chosen, lengths, describe, batch_size, description, workers))

    def embed_texts(texts: list[str]) -> torch.Tensor:
        products = [{"text": text, "image": None} for text in texts]
        lengths = [len(text) for text in texts]

        def describe(index: int) -> str:
            return f"label {texts[index]!r}"

        return embed(model, processor, products, lengths, describe, batch_size, "embed labels")

    queries = {}
    for modality, view in QUERY_VIEWS.items():
        rows = [row for row, found in enumerate(benchmark.modalities) if found == modality]
        queries[modality] = embed_view(benchmark.queries, view, rows, modality)
    corpus = {view: embed_view(benchmark.corpus, view, benchmark.corpus.rows(view), view) for view in ("t", "i", "mm")}
    return {
        "retrieval": evaluate_retrieval(benchmark, queries, corpus),
        "classification": evaluate_classification(benchmark, corpus["mm"], embed_texts),
        "attributes": evaluate_attributes(benchmark, corpus["mm"], embed_texts),
    }
