"""Experts in training on a CPU, with fewer copies: the numbers are those of transformers' "grouped_mm"."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.integrations.moe import ExpertsInterface, grouped_mm_experts_forward

# The name under which transformers knows them.
NAME = "moon2_sorted_rows"
# Fewer tokens have no use for `_IntoExperts`: more calls of smaller products than they save copies.
FEW_TOKENS = 256


def use_sorted_rows(model: nn.Module) -> None:
    """Run the experts of a model that is trained on a CPU by `sorted_rows`, unless it runs them in a way of its own."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if model.device.type == "cpu" and model.get_experts_implementation()[""] == "grouped_mm":
        model.set_experts_implementation({"": NAME})


def sorted_rows(
    experts: nn.Module, hidden_states: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Run experts as "grouped_mm" of transformers does: outputs are the same to the bit, gradients to rounding.

    The backward pass sorts tokens by copying rows, where autograd would add them up one by one; gate and up are
    products of their own, whose gradients need not be joined. Where nothing is trained, it is "grouped_mm".

    Args:
        hidden_states: (tokens, D); indices, weights: (tokens, k), the experts of each token.

    Returns:
        (tokens, D).
    """
    weight = experts.gate_up_proj
    plain = hidden_states.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
    training = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if weight.device.type != "cpu" or len(hidden_states) < FEW_TOKENS or not plain or not training:
        return grouped_mm_experts_forward(experts, hidden_states, indices, weights)
    chosen, order = indices.flatten().sort()
    sizes = torch.bincount(chosen, minlength=experts.num_experts).tolist()
    place = order.argsort().view_as(indices)
    gate, up = _IntoExperts.apply(hidden_states, weight, order, place, sizes)
    return _OutOfExperts.apply(experts.act_fn(gate) * up, weights, experts.down_proj, order, place, sizes)


ExpertsInterface.register(NAME, sorted_rows)


def _products(rows: torch.Tensor, matrices: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Multiply each group of rows, in all (S, n), by its own of (Z, n, m): (S, m)."""
    products = rows.new_empty(len(rows), matrices.shape[2])
    for group, matrix, product in zip(rows.split(sizes), matrices, products.split(sizes), strict=True):
        torch.mm(group, matrix, out=product)
    return products


def _weight_gradients(errors: torch.Tensor, rows: torch.Tensor, gradients: torch.Tensor, sizes: list[int]):
    """Write into (Z, m, n) the gradients of the matrices that made errors (S, m) of rows (S, n)."""
    for error, group, gradient in zip(errors.split(sizes), rows.split(sizes), gradients, strict=True):
        torch.mm(error.T, group, out=gradient)


class _IntoExperts(torch.autograd.Function):
    """(tokens, D) -> gate and up (S, width), sorted by expert, of the S = tokens * k pairs of a token and an expert."""

    @staticmethod
    def forward(ctx, hidden_states, gate_up_proj, order, place, sizes):
        ctx.save_for_backward(hidden_states, gate_up_proj, order, place)
        ctx.sizes = sizes
        rows = hidden_states.index_select(0, order // place.shape[1])
        return tuple(_products(rows, part.transpose(1, 2), sizes) for part in gate_up_proj.chunk(2, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, *errors):
        hidden_states, gate_up_proj, order, place = ctx.saved_tensors
        gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            gate_proj, up_proj = gate_up_proj.chunk(2, 1)
            rows = _products(errors[0], gate_proj, ctx.sizes)
            for row, error, matrix in zip(rows.split(ctx.sizes), errors[1].split(ctx.sizes), up_proj, strict=True):
                row.addmm_(error, matrix)
            gradient = rows.index_select(0, place.flatten()).view(*place.shape, -1).sum(1)
        if ctx.needs_input_grad[1]:
            rows = hidden_states.index_select(0, order // place.shape[1])  # quicker again than kept
            weight_gradient = torch.empty_like(gate_up_proj)
            for error, part in zip(errors, weight_gradient.chunk(2, 1), strict=True):
                _weight_gradients(error, rows, part, ctx.sizes)
        return gradient, weight_gradient, None, None, None


class _OutOfExperts(torch.autograd.Function):
    """Activations (S, width) of `_IntoExperts` and weights (tokens, k) -> their weighted sums (tokens, D)."""

    @staticmethod
    def forward(ctx, activations, weights, down_proj, order, place, sizes):
        ctx.save_for_backward(activations, weights, down_proj, order, place)
        ctx.sizes = sizes
        rows = _products(activations, down_proj.transpose(1, 2), sizes)
        rows *= weights.flatten()[order, None]
        return rows.index_select(0, place.flatten()).view(*place.shape, -1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, error):
        activations, weights, down_proj, order, place = ctx.saved_tensors
        errors = error.index_select(0, order // place.shape[1])
        gradient = _products(errors, down_proj, ctx.sizes)
        # The weight of an expert has the gradient <error, down(a)>, which is <down^T(error), a>.
        weights_gradient = torch.linalg.vecdot(gradient, activations)[place]
        own = weights.flatten()[order, None]
        down_gradient = None
        if ctx.needs_input_grad[2]:
            errors *= own
            down_gradient = torch.empty_like(down_proj)
            _weight_gradients(errors, activations, down_gradient, ctx.sizes)
        return gradient.mul_(own), weights_gradient, down_gradient, None, None, None
