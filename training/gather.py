"""Rows of all processes as if they had been one batch, with gradient."""

import torch
from torch import distributed


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
    """(n, ...) of each process -> (sum of n, ...), in the order of the processes.

    Every process is meant to compute the same loss of the result. Its gradient for a process's own rows is then whole,
    and nothing has to be added up; it is multiplied by the number of processes, because DDP and FSDP average parameter
    gradients over them. What all processes hold alike, such as W*, is averaged to itself.

    Args:
        rows: the numbers of rows may differ between processes.
        counts: the number of rows of every process, see `gather_counts`.
    """
    return _Gather.apply(rows, counts)


def gather_counts(count: int, device: torch.device) -> list[int]:
    """How many rows every process has."""
    counts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([count], device=device))
    return torch.cat(counts).tolist()


def largest(values: list[int], device: torch.device) -> list[int]:
    """The largest of each value over all processes."""
    values = torch.tensor(values, device=device)
    distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values.tolist()
