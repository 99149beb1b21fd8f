"""Fine-tuning with little memory: LoRA on attention and experts, activation checkpointing, bf16, as in the guide."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, TrainingArguments

from conftest import OLD_TRANSFORMERS, mixed_products, tiny_model, tiny_processor, vlm_config
from loss_moon2 import Moon2Loss
from modeling_moon2 import Moon2Model, Moon2Output
from training_moon2.collator import TripletCollator
from training_moon2.model import ATTENTION, EXPERTS
from training_moon2.trainer import Moon2Trainer
from training_moon2.triplets import TripletDataset, load_triplets
from training_moon2.upcycling import model_from_backbone

GUIDE = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")


# SmolVLM itself does not run under autocast before transformers 5.18.
@pytest.fixture(scope="module", params=["qwen3_vl"] if OLD_TRANSFORMERS else ["qwen3_vl", "smolvlm"])
def backbone(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def inputs(backbone) -> dict[str, torch.Tensor]:
    return dict(tiny_processor(backbone)(mixed_products()))


def with_adapter(model: Moon2Model, seed: int = 0, **options) -> PeftModel:
    """The guide's adapter; by default with random matrices, as if it had been trained."""
    defaults = dict(
        task_type="FEATURE_EXTRACTION",
        r=4,
        lora_alpha=8,
        target_modules=ATTENTION,
        target_parameters=EXPERTS,
        modules_to_save=["mlp.gate", "dual_alignment"],
        init_lora_weights=False,
    )
    torch.manual_seed(seed)
    model = get_peft_model(model, LoraConfig(**defaults | options)).eval()
    if not (defaults | options)["init_lora_weights"]:
        for name, parameter in model.named_parameters():
            if ".modules_to_save." in name:
                nn.init.normal_(parameter, std=0.1)
    return model


def outputs_of(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Moon2Output:
    with torch.no_grad():
        return model(**inputs)


def loss_of(model: PeftModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Reads what the method's losses read: both views, the routing, the router's logits, W*."""
    output = model(**inputs)
    views = output.embeddings[:, 0].sum() + output.image_embeddings[:, 1].sum()
    usage = (output.expert_usage @ model.dual_alignment.weight.softmax(-1))[:, 0].sum()
    return views + usage + sum(logits.square().mean() for logits in output.router_logits)


def gradients_of(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(one: Moon2Output, other: Moon2Output, atol: float = 0):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_the_guide_and_the_tests_speak_of_the_same_adapter():
    for value in (ATTENTION, *EXPERTS, "mlp.gate", "dual_alignment"):
        assert f'"{value}"' in GUIDE


def test_adapter_sits_on_the_language_model_of_every_family(family):
    """Three layers: the four projections of attention, two expert tensors, the router; and W*. No vision tower."""
    trained = {
        name for name, parameter in with_adapter(tiny_model(family)).named_parameters() if parameter.requires_grad
    }
    decoder = "text_model" if family in ("smolvlm", "idefics3") else "language_model"
    kinds = [f"self_attn.{letter}_proj.lora_{half}" for letter in "qkvo" for half in "AB"]
    kinds += [f"mlp.experts.{wrapper}lora_{half}" for wrapper in ("base_layer.", "") for half in "AB"]
    layers = [f"base_model.model.vlm.{decoder}.layers.{index}." for index in range(3)]
    expected = {f"{layer}{kind}.default.weight" for layer in layers for kind in kinds}
    expected |= {f"{layer}mlp.gate.modules_to_save.default.weight" for layer in layers}
    assert trained == expected | {"base_model.model.dual_alignment.modules_to_save.default.weight"}


def test_a_new_adapter_changes_nothing_and_can_be_switched_off(backbone, inputs):
    expected = outputs_of(tiny_model(backbone), inputs)
    assert_same(outputs_of(with_adapter(tiny_model(backbone), init_lora_weights=True), inputs), expected, atol=1e-6)
    model = with_adapter(tiny_model(backbone))
    assert (outputs_of(model, inputs).embeddings - expected.embeddings).abs().max() > 0.05
    with model.disable_adapter():
        assert_same(outputs_of(model, inputs), expected)


def test_adapter_round_trip(backbone, inputs, tmp_path):
    model = with_adapter(tiny_model(backbone, router="composition"))
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = PeftModel.from_pretrained(tiny_model(backbone, router="composition"), tmp_path).eval()
    assert_same(outputs_of(loaded, inputs), outputs_of(model, inputs))
    assert torch.equal(loaded.dual_alignment.weight, model.dual_alignment.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(tiny_model(backbone, num_experts=3, router="composition"), tmp_path)


def test_merged_equals_unmerged(backbone, inputs, tmp_path):
    model = with_adapter(tiny_model(backbone, router="composition"))
    expected, alignment = outputs_of(model, inputs), model.dual_alignment.weight.clone()
    merged = model.merge_and_unload()
    assert type(merged) is Moon2Model
    assert merged.state_dict().keys() == tiny_model(backbone, router="composition").state_dict().keys()
    merged.save_pretrained(tmp_path)
    for plain in (merged, Moon2Model.from_pretrained(tmp_path)):
        assert_same(outputs_of(plain, inputs), expected, atol=1e-5)
        assert torch.equal(plain.dual_alignment.weight, alignment)


def test_training_changes_the_adapter_and_nothing_else(backbone, inputs):
    model = with_adapter(tiny_model(backbone))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    adapter = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model.train(), inputs).backward()
    gradients = gradients_of(model)
    assert gradients.keys() == adapter
    assert not [
        name for name, gradient in gradients.items() if not torch.isfinite(gradient).all() or not gradient.any()
    ]
    optimizer.step()
    assert {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])} == adapter


def test_gradients_follow_from_those_of_the_merged_weights(backbone, inputs):
    """The chain rule for W + s B A, expert by expert: dL/dA = s B' dL/dW and dL/dB = s dL/dW A'."""
    model, scaling = with_adapter(tiny_model(backbone)), 2.0
    loss_of(model, inputs).backward()
    merged = with_adapter(tiny_model(backbone)).merge_and_unload().requires_grad_(True)
    loss_of(merged, inputs).backward()
    layers = zip(model.vlm.get_decoder().layers, merged.vlm.get_decoder().layers, strict=True)
    for layer, plain in layers:
        pairs = [(layer.self_attn.q_proj, plain.self_attn.q_proj.weight.grad[None])]
        pairs += [(layer.mlp.experts.base_layer, plain.mlp.experts.gate_up_proj.grad)]
        pairs += [(layer.mlp.experts, plain.mlp.experts.down_proj.grad)]
        for lora, gradient in pairs:
            a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
            count = len(gradient)
            # PEFT numbers the rows of A expert by expert, and the columns of B rank by rank.
            stacked_a, stacked_b = a.view(count, 4, -1), b.view(-1, 4, count).permute(2, 0, 1)
            expected_a = scaling * stacked_b.mT @ gradient
            expected_b = (scaling * gradient @ stacked_a.mT).permute(1, 2, 0)
            torch.testing.assert_close(a.grad.view_as(expected_a), expected_a, atol=1e-5, rtol=1e-3)
            torch.testing.assert_close(b.grad.view_as(expected_b), expected_b, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("router", ["token", "composition"])
def test_router_statistics_are_those_of_the_trained_router(backbone, inputs, router):
    """Routing is read by hooks on the routers, which PEFT wraps: it must be the trained copy that speaks."""
    model = with_adapter(tiny_model(backbone, router=router))
    model(**inputs).expert_usage[:, 0].sum().backward()
    gates = [layer.mlp.gate.modules_to_save["default"] for layer in model.vlm.get_decoder().layers]
    assert all(gate.weight.grad.any() for gate in gates), "the usage of experts must reach the routers' gradient"
    for gate in gates:
        gate.weight.data.zero_()
        gate.weight.data[3] = 1e-3  # tells the trained copy, whose logits are zero but for the last, from the original
        if router == "composition":
            gate.composition_bias.data = torch.tensor([[9.0, 9, 0, 0], [0, 9, 9, 0], [0, 0, 9, 9]])
    output = outputs_of(model, inputs)
    assert len(output.router_logits) == 3
    for layer in output.router_logits:
        if router == "token":
            assert not layer[:, :3].any() and layer[:, 3].any()
        else:
            assert (layer.view(len(output.embeddings), -1, 4)[0, :, :2] == 9).all(), "item 0 is a text"
    if router == "composition":
        chosen = [set(usage.nonzero().flatten().tolist()) for usage in output.expert_usage]
        assert chosen == [{0, 1}, {1, 2}, {2, 3}, {2, 3}, {2, 3}, {0, 1}]


def backward(model: PeftModel, inputs: dict[str, torch.Tensor]) -> int:
    """Fills the gradients; returns the bytes that the forward pass kept for it, besides the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, inputs)
    loss.backward()
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("router", ["token", "composition"])
def test_activation_checkpointing_keeps_less_and_changes_no_gradient(backbone, inputs, router):
    kept, gradients = [], []
    for checkpointing in (False, True):
        model = with_adapter(tiny_model(backbone, router=router)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        kept.append(backward(model, inputs))
        gradients.append(gradients_of(model))
    assert kept[1] < kept[0] / 2
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bf16_stays_close_to_float32(backbone, inputs, tmp_path, how):
    """bf16 keeps 8 bits, so each number is off by up to 2^-9 of itself; through three layers that moves a unit vector
    by about 0.01. A token between two experts may also fall to the other one, which moves a short item more: up to 0.06
    over a few seeds. Two items are mostly 0.7 or more apart."""
    tiny_model(backbone).save_pretrained(tmp_path)
    model = with_adapter(tiny_model(backbone))
    expected = outputs_of(model, inputs)
    if how == "weights":
        trained = dict(model.named_parameters())
        model = with_adapter(Moon2Model.from_pretrained(tmp_path, dtype=torch.bfloat16))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:  # drawn in bf16, which is not the same with every torch
                parameter.data.copy_(trained[name])
        lora = {parameter.dtype for name, parameter in model.named_parameters() if ".lora_" in name}
        assert lora == {model.dual_alignment.weight.dtype} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        output = outputs_of(model, inputs)
        loss = loss_of(model, inputs)
    assert 0 < (output.embeddings - expected.embeddings).norm(dim=-1).max() < 0.1
    assert (output.expert_usage - expected.expert_usage).abs().max() < 0.05
    loss.backward()
    gradients = gradients_of(model)
    assert gradients.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


class ProductTypes(TorchDispatchMode):
    """Notes in which type the experts' grouped matrix products are computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._grouped_mm.default:
            self.seen |= {args[0].dtype, args[1].dtype}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_autocast_reaches_the_experts(backbone, inputs, adapter, checkpointing):
    """Forward, backward, and what checkpointing computes again; the gradients stay float32, as those of Linear do."""
    model = with_adapter(tiny_model(backbone)) if adapter else tiny_model(backbone)
    if checkpointing:
        model.get_base_model().gradient_checkpointing_enable() if adapter else model.gradient_checkpointing_enable()
    gradients = []
    for enabled in (False, True):
        model.train().zero_grad()
        with ProductTypes() as types:
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = loss_of(model, inputs)
            loss.backward()
        assert types.seen == {torch.bfloat16 if enabled else torch.float32}
        gradients.append(gradients_of(model))
    experts = [name for name in gradients[0] if ".experts." in name]
    assert experts and gradients[0].keys() == gradients[1].keys()
    for name in experts:
        assert gradients[1][name].dtype == torch.float32
        assert torch.cosine_similarity(gradients[0][name].flatten(), gradients[1][name].flatten(), dim=0) > 0.9


@pytest.mark.parametrize("width", [12, 16])
def test_experts_whose_rows_bf16_cannot_align_stay_in_float32(width):
    """grouped_mm takes rows of whole 16 bytes: 12 numbers are 48 bytes in float32 but 24 in bf16."""
    model, inputs = tiny_model(moe_intermediate_size=width), dict(tiny_processor()(mixed_products()))
    with torch.autocast("cpu", torch.bfloat16), ProductTypes() as types:
        model(**inputs).embeddings.sum().backward()
    assert types.seen == {torch.float32, torch.bfloat16} if width == 12 else {torch.bfloat16}


@pytest.mark.parametrize("shared_expert_intermediate_size", [None, 32])
def test_dense_checkpoint_and_adapter_restore_the_trained_model(
    backbone, inputs, tmp_path, shared_expert_intermediate_size
):
    """`from_backbone` draws routers and W* at random; the adapter has the ones that were trained."""
    AutoModel.from_config(vlm_config(backbone)).save_pretrained(tmp_path / "dense")
    options = dict(shared_expert_intermediate_size=shared_expert_intermediate_size, router="composition")
    saved = ["mlp.gate", "dual_alignment"] + ["mlp.shared_expert"] * (shared_expert_intermediate_size is not None)
    torch.manual_seed(1)
    model = with_adapter(model_from_backbone(tmp_path / "dense", **options), modules_to_save=saved)
    model.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(2)
    base = model_from_backbone(tmp_path / "dense", **options)
    assert not torch.equal(base.dual_alignment.weight, model.dual_alignment.original_module.weight)
    restored = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert_same(outputs_of(restored, inputs), outputs_of(model, inputs))


def test_trainer_trains_saves_and_restores_an_adapter(mbe2, tmp_path):
    """Moon2Trainer reads the config and W* through PEFT's wrapper; a step moves the adapter only."""
    model, processor = with_adapter(tiny_model(), init_lora_weights=True), tiny_processor()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    adapter = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    options = dict(max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1, report_to="none")
    options |= dict(use_cpu=True, remove_unused_columns=False, label_names=[], gradient_checkpointing=True)
    trainer = Moon2Trainer(
        model,
        TrainingArguments(str(tmp_path), **options),
        loss=Moon2Loss(),
        data_collator=TripletCollator(processor),
        train_dataset=TripletDataset(load_triplets(mbe2, "train"), 0.5, 0.5),
        processing_class=processor,
    )
    trainer.train()
    assert {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])} == adapter
    log = trainer.state.log_history[0]
    assert log["grad_norm"] > 0 and log["omega_sum"] > 0.5 and "expert_3_t" in log
    trainer.save_model()
    inputs = processor(mixed_products())
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        restored = PeftModel.from_pretrained(tiny_model(), folder).eval()
        assert_same(outputs_of(restored, inputs), outputs_of(model.eval(), inputs))
