"""Products -> vectors, in batches."""

from collections.abc import Callable, Sequence

import torch
from tqdm.auto import tqdm
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from evaluation.errors import EvaluationError


@torch.inference_mode()
def embed(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    products: Sequence[dict],
    text_lengths: Sequence[int],
    describe: Callable[[int], str],
    batch_size: int = 64,
    description: str = "embed",
) -> torch.Tensor:
    """Embeds products, similar text lengths together to save padding, and restores their order.

    Args:
        model: a Moon2 model in eval mode.
        products: N product dicts; one is asked for only when its batch is due.
        text_lengths: N lengths (of any unit) to sort by.
        describe: index -> what an error calls that product.
        description: what the progress bar says.

    Returns:
        (N, D) L2-normalised float32 vectors on the CPU; (0, 0) if there are no products.

    Raises:
        EvaluationError: a product cannot be prepared (an unreadable picture, say), or its vector is not finite.
    """
    # Longest first: if a batch does not fit into memory, that shows at once.
    order = sorted(range(len(products)), key=lambda index: -text_lengths[index])
    vectors = torch.empty(0, 0)
    with tqdm(total=len(products), desc=description, unit="item") as progress:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            inputs = _prepare(processor, [products[index] for index in indices], [*map(describe, indices)])
            batch = model(**inputs.to(model.device)).embeddings.cpu()
            if not batch.isfinite().all():
                first = indices[int(batch.isfinite().all(1).int().argmin())]
                raise EvaluationError(f"The model's vector of {describe(first)} is not finite: check its weights.")
            if start == 0:
                vectors = batch.new_empty(len(products), batch.shape[1])
            vectors[indices] = batch
            progress.update(len(indices))
    return vectors


def _prepare(processor: ProcessorMixin, products: list[dict], names: list[str]) -> BatchFeature:
    try:
        return processor(products, return_tensors="pt")
    except ValueError:
        # Alone, each product shows whether it is the one.
        for product, name in zip(products, names, strict=True):
            try:
                processor([product], return_tensors="pt")
            except ValueError as error:
                reason = str(error).removeprefix("Item 0: ")
                raise EvaluationError(f"{name} cannot be prepared: {reason}") from error
        raise
