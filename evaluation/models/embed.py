"""Products to vectors, in batches, and to the experts that a Moon2 model uses for them (MOON2.0, section 2)."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from common_moon2.cli import UserError
from evaluation.models.checkpoint import Checkpoint
from evaluation.tables.products import Products, ProductView

VIEWS = ("t", "i", "mm")


def embed(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    products: Sequence[dict],
    lengths: Sequence[int],
    describe: Callable[[int], str],
    batch_size: int = 64,
    output: str = "embeddings",
    **options,
) -> torch.Tensor:
    """Embed products with a Moon2 model in eval mode, or return another of its outputs; see `embed_batches`."""
    prepare, forward = partial(moon2_inputs, processor), partial(moon2_output, model, output)
    return embed_batches(prepare, forward, products, lengths, describe, batch_size, **options)


class Routing(NamedTuple):
    """The routing of N products by Z experts for M objectives.

    Attributes:
        usage: {view: (N, Z)}: G~ of the same products in every view; a product's row sums to 1.
        preference: (Z, M): the softmax of W*, what share of each expert is for each objective.
        objectives: the names of the M.
    """

    usage: dict[str, np.ndarray]
    preference: np.ndarray
    objectives: list[str]


def read_routing(checkpoint: Checkpoint, products: Products, rows: list[int], batch_size: int = 64) -> Routing:
    """Run products, which have both text and image, through a Moon2 model in each of the three views.

    Raises:
        UserError: a product cannot be prepared.
    """
    model, usage = checkpoint.model, {}
    for view in VIEWS:
        shown, what = ProductView(products, view, rows), f"experts ({view})"
        told = model, checkpoint.processor, shown, shown.text_lengths, shown.describe, batch_size, "expert_usage"
        usage[view] = embed(*told, description=what).numpy()
    preference = model.dual_alignment.weight.detach().float().softmax(dim=1).cpu().numpy()
    return Routing(usage, preference, list(model.config.objectives))


@torch.inference_mode()
def embed_batches(
    prepare: Callable[[list[dict]], Any],
    forward: Callable[[Any], torch.Tensor],
    products: Sequence[dict],
    lengths: Sequence[int],
    describe: Callable[[int], str],
    batch_size: int = 64,
    description: str = "embed",
    workers: int = 0,
    leave: bool = True,
) -> torch.Tensor:
    """Embed products, similar lengths together to save padding, and restore their order.

    Args:
        prepare: turns products into what `forward` takes; raises a ValueError if one cannot be prepared. It runs in
            the workers.
        forward: turns that into (B, D) L2-normalised.
        products: N product dicts; one is asked for only when its batch is due.
        lengths: N lengths (of any unit) to sort by.
        describe: index -> what an error calls that product.
        description: what the progress bar says.
        workers: processes that read images and texts while the model is at work; 0: none, one after the other.
        leave: keep the full progress bar on the screen.

    Returns:
        (N, D) L2-normalised float32 vectors on the CPU; (0, 0) if there are no products.

    Raises:
        UserError: a product cannot be prepared (an unreadable image, say), or its vector is not finite.
    """
    # Longest first: if a batch does not fit into memory, that shows at once.
    order = sorted(range(len(products)), key=lambda index: -lengths[index])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    loader = DataLoader(_Prepared(prepare, products, batches), batch_size=None, num_workers=workers)
    vectors = torch.empty(0, 0)
    with _cores_left_for(workers), tqdm(total=len(products), desc=description, unit="product", leave=leave) as progress:
        for indices, inputs in zip(batches, loader, strict=True):
            if isinstance(inputs, _Unprepared):
                raise UserError(f"{describe(inputs.index)} cannot be prepared: {inputs.reason}")
            batch = forward(inputs).float().cpu()
            if not batch.isfinite().all():
                first = indices[int(batch.isfinite().all(1).int().argmin())]
                raise UserError(f"The model's vector of {describe(first)} is not finite: check its weights.")
            if not vectors.numel():
                vectors = batch.new_empty(len(products), batch.shape[1])
            vectors[indices] = batch
            progress.update(len(indices))
    return vectors


def moon2_inputs(processor: ProcessorMixin, products: list[dict]) -> dict[str, torch.Tensor]:
    """Return what a Moon2 model takes."""
    return dict(processor(products, return_tensors="pt"))


def moon2_output(model: PreTrainedModel, name: str, inputs: dict) -> torch.Tensor:
    """Return one of the outputs of a Moon2 model."""
    return getattr(model(**{key: value.to(model.device) for key, value in inputs.items()}), name)


@contextmanager
def _cores_left_for(workers: int):
    """Leave cores to the workers: with more threads than cores, threads wait for one another in vain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Unprepared(NamedTuple):
    index: int
    reason: str


class _Prepared(Dataset):
    """Batches of products as model inputs; a batch that cannot be prepared is replaced by the product to blame.

    An exception would reach the user with a worker's traceback before it.
    """

    def __init__(self, prepare: Callable[[list[dict]], Any], products: Sequence[dict], batches: list[list[int]]):
        self.prepare, self.products, self.batches = prepare, products, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: int) -> Any:
        products = [self.products[index] for index in self.batches[position]]
        try:
            return self.prepare(products)
        except ValueError:
            # Alone, each product shows whether it is the one.
            for index, product in zip(self.batches[position], products, strict=True):
                try:
                    self.prepare([product])
                except ValueError as error:
                    return _Unprepared(index, str(error).removeprefix("Item 0: "))
            raise
