"""The passes of a step: what the model gives for some items at a time, and how the views are found in it."""

from functools import partial
from typing import NamedTuple

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from configuration_moon2 import TEXT
from loss_moon2 import Role, View
from modeling_moon2 import Moon2Output


class Items(NamedTuple):
    """What passes give for N items and their T tokens, without the hidden states; see `Moon2Output`.

    embeddings, image_embeddings (N, D); has_image, has_text (N,) bool; expert_usage, image_expert_usage (N, Z);
    router_logits (T, layers, Z), without padding.
    """

    embeddings: torch.Tensor
    image_embeddings: torch.Tensor
    has_image: torch.Tensor
    has_text: torch.Tensor
    expert_usage: torch.Tensor
    image_expert_usage: torch.Tensor
    router_logits: torch.Tensor

    @classmethod
    def of(cls, output: Moon2Output, features: dict[str, torch.Tensor]) -> "Items":
        """Return the items of one pass."""
        return cls(
            embeddings=output.embeddings,
            image_embeddings=output.image_embeddings,
            has_image=output.has_image,
            has_text=(features["position_types"] == TEXT).any(1),
            expert_usage=output.expert_usage,
            image_expert_usage=output.image_expert_usage,
            router_logits=torch.stack(output.router_logits, dim=1)[features["attention_mask"].flatten().bool()],
        )

    def none(self) -> "Items":
        """Return no items that are part of the graph all the same: the pass has a backward pass, with zeros."""
        return Items(*(part[:0] for part in self))


class Passes:
    """Runs the passes of one step; each call is one.

    With `again` (GradCache) a pass keeps its inputs only: it is computed without gradient first, and a second time,
    with the same random numbers, when its gradient is due. That second time has a backward pass of its own (torch's
    reentrant form of checkpointing), so that no graph lies between the two and memory hardly grows with their number.

    Under DDP, which sends gradients off when every parameter has had its turn, they all have it in the pass that is
    last to be computed with gradient, also those without a task in this batch; what earlier passes computed again is
    added up by then, as in gradient accumulation.

    Args:
        model: as the trainer has wrapped it.
        count: how many calls there will be.
    """

    def __init__(self, model: nn.Module, count: int, again: bool):
        self._model, self._left, self._again = model, count, again

    def __call__(self, features: dict[str, torch.Tensor]) -> Items:
        if not (self._again and torch.is_grad_enabled()):
            return Items(*self._run(features))
        # Without an input that wants a gradient the outputs would have none.
        start = torch.zeros((), device=features["input_ids"].device, requires_grad=True)
        return Items(*checkpoint(partial(self._run, features), start, use_reentrant=True))

    def _run(self, features: dict[str, torch.Tensor], *start: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parallel = isinstance(self._model, DistributedDataParallel)
        self._left -= torch.is_grad_enabled()
        last = torch.is_grad_enabled() and self._left == 0
        model = self._model.module if parallel and self._again and not last else self._model
        items = Items.of(model(**features), features)
        if parallel and last:
            turn = sum(value.flatten()[0] for value in model.parameters() if value.requires_grad)
            items = items._replace(embeddings=items.embeddings + 0 * turn)
        return tuple(items)


def role_views(items: Items, rows: dict[str, torch.Tensor]) -> Role:
    """Find the three views of one role among the items of all passes.

    Args:
        rows: the place of every triplet's item with images, and of its text alone: (B,) each, -1 where there is none.
    """
    pictures, texts = rows["pictures"].clamp(min=0), rows["texts"].clamp(min=0)
    has_image, has_text = rows["pictures"] >= 0, rows["texts"] >= 0
    return Role(
        t=View(items.embeddings[texts], items.expert_usage[texts], has_text),
        i=View(items.image_embeddings[pictures], items.image_expert_usage[pictures], has_image),
        mm=View(items.embeddings[pictures], items.expert_usage[pictures], has_image & has_text),
        own=items.embeddings[torch.where(has_image, pictures, texts)],
    )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
        ctx.start, ctx.count, ctx.world_size = sum(counts[:rank]), counts[rank], world_size
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(received, padded)
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient[ctx.start : ctx.start + ctx.count] * ctx.world_size, None


def gather(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Join (n, ...) of each process to (sum of n, ...), in the order of the processes.

    Every process is meant to compute the same loss of the result. Its gradient for a process's own rows is then whole,
    and nothing has to be added up; it is multiplied by the number of processes, because DDP and FSDP average parameter
    gradients over them. What all processes hold alike, such as W*, is averaged to itself.

    Args:
        rows: the numbers of rows may differ between processes.
        counts: the number of rows of every process, see `gather_counts`.
    """
    return _Gather.apply(rows, counts)


def gather_counts(count: int, device: torch.device) -> list[int]:
    """Count the rows of every process."""
    counts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([count], device=device))
    return torch.cat(counts).tolist()


def largest(values: list[int], device: torch.device) -> list[int]:
    """Return the largest of each value over all processes."""
    values = torch.tensor(values, device=device)
    distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values.tolist()
