"""Experts in training on a CPU against those of transformers."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import grouped_mm_experts_forward

from configuration_moon2 import Moon2Config
from conftest import tiny_model
from modeling_moon2 import Moon2Experts, Moon2Model
from training_moon2.experts import FEW_TOKENS, NAME, use_sorted_rows


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_in_training_are_those_of_transformers(activation, top_k, dtype):
    """Outputs to the bit, gradients to rounding; an expert that no token chose has zeros."""
    torch.manual_seed(0)
    config = Moon2Config(num_experts=5, num_experts_per_tok=top_k)
    config._experts_implementation = NAME
    experts = Moon2Experts(config, 24, 16, ACT2FN[activation], dtype=dtype)
    for weight in experts.parameters():
        nn.init.normal_(weight, std=0.2)
    indices = torch.rand(FEW_TOKENS + 1, 4).topk(top_k).indices  # never the fifth
    gradient = torch.randn(len(indices), 24, dtype=dtype)
    states, weights = torch.randn(len(indices), 24, dtype=dtype), torch.rand(len(indices), top_k, dtype=dtype)
    found = []
    for run in (experts, partial(grouped_mm_experts_forward, experts)):
        experts.zero_grad()
        given = [values.clone().requires_grad_() for values in (states, weights)]
        output = run(given[0], indices, given[1])
        output.backward(gradient)
        found.append([output.detach(), *(value.grad for value in (*given, *experts.parameters()))])
    assert "OutOfExperts" in type(experts(states, indices, weights).grad_fn).__name__
    assert torch.equal(found[0][0], found[1][0])
    rounding = 1e-5 if dtype == torch.float32 else 2e-2
    for one, other in zip(found[0], found[1], strict=True):
        assert other.any() and (one - other).abs().max() <= rounding * other.abs().max()
    assert not found[0][3][4].any() and not found[0][4][4].any()


def test_frozen_experts_in_training_get_no_gradients():
    config = Moon2Config()
    config._experts_implementation = NAME
    experts = Moon2Experts(config, 24, 16, nn.SiLU()).requires_grad_(False)
    for weight in experts.parameters():
        nn.init.normal_(weight)
    states = torch.randn(FEW_TOKENS, 24, requires_grad=True)
    indices = torch.rand(FEW_TOKENS, 4).topk(2).indices
    experts(states, indices, torch.rand(FEW_TOKENS, 2)).sum().backward()
    assert states.grad.any() and all(weight.grad is None for weight in experts.parameters())


def test_models_that_train_on_a_cpu_use_it_and_save_nothing_of_it(tmp_path):
    model = tiny_model()
    use_sorted_rows(model)
    assert model.get_experts_implementation()[""] == NAME
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert Moon2Model.from_pretrained(tmp_path).get_experts_implementation()[""] == "grouped_mm"
    model.set_experts_implementation("eager")
    use_sorted_rows(model)
    assert model.get_experts_implementation()[""] == "eager", "chosen by the user"
