"""The modality-driven mixture of experts (MOON2.0, section 2): router, experts, and the matrix W*."""

from contextlib import nullcontext
from contextvars import ContextVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.integrations.moe import use_experts_implementation

try:
    from .configuration_moon2 import COMPOSITIONS, Moon2Config
except ImportError:  # in the repository these files are top-level modules, in a checkpoint they are a package
    from configuration_moon2 import COMPOSITIONS, Moon2Config


class Routing:
    """Carry what one forward tells its routers, and what they answer. Nothing of a call may live on a module: threads
    share the modules.

    Attributes:
        composition (`torch.LongTensor` of shape `(B,)`, *optional*): index into `COMPOSITIONS` of each item.
        gates (`list`, *optional*): the routers' outputs, in the order of the layers; `None` once the forward has
            ended, since activation checkpointing then runs the layers a second time.
    """

    def __init__(self, composition: torch.LongTensor | None = None):
        self.composition = composition
        self.gates: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] | None = []


# The routing of the layer that this thread is running.
ROUTING: ContextVar[Routing | None] = ContextVar("moon2_routing", default=None)


class Moon2Router(nn.Module):
    """The gate G = softmax(W_g h) and its top-k, renormalised (section 2).

    With `router="composition"` a bias for the item's modality composition, zero at first, is added to the logits.
    """

    def __init__(self, config: Moon2Config, hidden_size: int, **factory):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.empty(config.num_experts, hidden_size, **factory))
        by_composition = config.router == "composition"
        shape = (len(COMPOSITIONS), config.num_experts)
        self.composition_bias = nn.Parameter(torch.empty(shape, **factory)) if by_composition else None

    def forward(
        self, hidden_states: torch.Tensor, composition: torch.LongTensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(tokens, D) -> logits (tokens, Z), weights (tokens, k) that sum to one, expert indices (tokens, k).

        Args:
            composition (`(tokens,)`, with `router="composition"`): index into `COMPOSITIONS` of each token's item.

        Raises:
            ValueError: `router="composition"`, and no composition is given.
        """
        logits = F.linear(hidden_states, self.weight)
        if self.composition_bias is not None:
            if composition is None:
                raise ValueError(
                    'router="composition" must know what each item is made of; call the Moon2Model, not its vlm.'
                )
            logits = logits + self.composition_bias[composition.to(logits.device)]
        weights, indices = logits.softmax(-1, dtype=torch.float32).topk(self.top_k, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), indices


@use_experts_implementation
class Moon2Experts(nn.Module):
    """Z gated feed-forward experts, stored as 3-D tensors; `experts_implementation` chooses how they are run."""

    def __init__(self, config: Moon2Config, hidden_size: int, intermediate_size: int, act_fn: nn.Module, **factory):
        super().__init__()
        self.num_experts = config.num_experts
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * intermediate_size, hidden_size, **factory))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden_size, intermediate_size, **factory))
        self.act_fn = act_fn

    def forward(self, hidden_states: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The eager implementation: sum over the chosen experts z of weight_z * f_z(h); shapes as in `Moon2Router`."""
        output = torch.zeros_like(hidden_states)
        for expert in range(self.num_experts):
            token, slot = torch.where(indices == expert)
            gate, up = F.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            expert_output = F.linear(self.act_fn(gate) * up, self.down_proj[expert])
            output.index_add_(0, token, (expert_output * weights[token, slot, None]).to(output.dtype))
        return output


class AutocastGroupedMM(TorchFunctionMode):
    """Under autocast, runs grouped matrix products in autocast's type: torch's own autocast leaves them out, and the
    experts would be computed in the float32 of their weights."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._grouped_mm:  # what torch.nn.functional.grouped_mm calls
            device, dtype = args[0].device.type, torch.get_autocast_dtype(args[0].device.type)
            # The kernel wants rows of whole 16 bytes; transformers has checked that for the weights' type only.
            rows = {size for matrix in args for size in matrix.shape[-2:][matrix.ndim == 2 :]}
            if torch.is_autocast_enabled(device) and not any(size * dtype.itemsize % 16 for size in rows):
                args = [matrix.to(dtype) for matrix in args]
        return func(*args, **(kwargs or {}))


class Moon2SharedExpert(nn.Module):
    """A gated feed-forward unit that every token passes (`shared_expert_intermediate_size`; our addition)."""

    def __init__(self, hidden_size: int, intermediate_size: int, act_fn: nn.Module, **factory):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False, **factory)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False, **factory)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False, **factory)
        self.act_fn = act_fn

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(tokens, D) -> (tokens, D)"""
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class Moon2SparseMoeBlock(nn.Module):
    """Takes the place of one dense feed-forward layer of the backbone (section 2). No token is ever dropped."""

    def __init__(self, config: Moon2Config, dense: nn.Module):
        super().__init__()
        intermediate_size, hidden_size = dense.gate_proj.weight.shape
        factory = {"dtype": dense.gate_proj.weight.dtype, "device": dense.gate_proj.weight.device}
        self.gate = Moon2Router(config, hidden_size, **factory)
        width = config.moe_intermediate_size or intermediate_size
        self.experts = Moon2Experts(config, hidden_size, width, dense.act_fn, **factory)
        shared = config.shared_expert_intermediate_size
        self.shared_expert = Moon2SharedExpert(hidden_size, shared, dense.act_fn, **factory) if shared else None

    @torch.no_grad()
    def upcycle(self, dense: nn.Module):
        """Starts the experts from the dense layer.

        Experts as wide as the layer are copies of it: whatever the router chooses, the block computes what the layer
        did. A narrower expert z gets the next `width` of its neurons, scaled so that the mean over experts that cover
        all neurons evenly is the dense layer; with few experts chosen the block then computes something else.

        Raises:
            ValueError: the experts are wider than the dense layer, or its weights are not in memory.
        """
        width, dense_width = self.experts.down_proj.shape[-1], dense.down_proj.weight.shape[-1]
        if width > dense_width:
            raise ValueError(f"moe_intermediate_size is {width}, but a dense layer has only {dense_width} neurons.")
        if dense.down_proj.weight.is_meta:
            raise ValueError(
                "device_map offloaded some layers of the backbone; load it without offloading to make experts of them."
            )
        for expert in range(self.experts.num_experts):
            neurons = (torch.arange(width) + expert * width) % dense_width
            gate_up = [dense.gate_proj.weight[neurons], dense.up_proj.weight[neurons]]
            self.experts.gate_up_proj[expert] = torch.cat(gate_up)
            self.experts.down_proj[expert] = dense.down_proj.weight[:, neurons] * (dense_width / width)
        if self.shared_expert is not None:
            self.shared_expert.down_proj.weight.zero_()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)"""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        routing = ROUTING.get() or Routing()
        composition = routing.composition
        if composition is not None:
            composition = composition.repeat_interleave(hidden_states.shape[1])
        gate = self.gate(tokens, composition)
        if routing.gates is not None:
            routing.gates.append(gate)
        _, weights, indices = gate
        with AutocastGroupedMM() if torch.is_autocast_enabled(tokens.device.type) else nullcontext():
            output = self.experts(tokens, indices, weights.to(tokens.dtype))
        if self.shared_expert is not None:
            output = output + self.shared_expert(tokens)
        return output.reshape(hidden_states.shape)


class Moon2DualAlignment(nn.Module):
    """W* of section 2: how much each expert is for each alignment objective. The losses read `weight`.

    Attributes:
        weight (`nn.Parameter` of shape `(Z, M)`): experts against objectives.
    """

    def __init__(self, config: Moon2Config):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, len(config.objectives)))


def receive_routing(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Take the keyword `routing` from a call of a layer's attention, for the `Moon2SparseMoeBlock` that comes next.

    A forward pre-hook: a decoder layer hands its keywords to its attention but not to its feed-forward part. Unlike a
    hook of the layer itself, this one runs again when activation checkpointing runs the layer's forward again.
    """
    ROUTING.set(kwargs.pop("routing", None))
    return args, kwargs


def gated_unit(layer: nn.Module, index: int) -> nn.Module:
    """The dense feed-forward layer that a block replaces.

    Raises:
        ValueError: it does not have the form that experts can take.
    """
    dense = getattr(layer, "mlp", None)
    parts = [getattr(dense, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(part, nn.Linear) and part.bias is None for part in parts) or not hasattr(dense, "act_fn"):
        raise ValueError(
            f"Layer {index} of the backbone has no gated feed-forward unit without "
            f"bias (mlp.gate_proj, up_proj, down_proj, act_fn) but a {type(dense).__name__}; experts cannot replace it."
        )
    return dense


def spread(weights: torch.Tensor, indices: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Top-k weights and indices (tokens, k) -> G~ (tokens, Z), zero for the experts that were not chosen."""
    return weights.new_zeros(weights.shape[0], num_experts).scatter(1, indices, weights)
