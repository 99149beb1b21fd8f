"""The encoder: views, batch invariance, experts, upcycling, saving and loading."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from backbones_moon2 import BACKBONES
from configuration_moon2 import IMAGE, Moon2Config
from conftest import FAMILIES, OLD_TRANSFORMERS, mixed_products, picture, tiny_model, tiny_processor, vlm_config
from modeling_moon2 import Moon2Model, Moon2SparseMoeBlock
from training_moon2.upcycling import model_from_backbone

TOLERANCE = dict(atol=1e-5, rtol=0)


def composition_model(family: str = "qwen3_vl"):
    """A model whose router sends texts to experts 0 and 1, images to 1 and 2, and both to 2 and 3."""
    model = tiny_model(family, router="composition")
    spread_compositions(model)
    return model


def spread_compositions(model):
    for layer in model.vlm.get_decoder().layers:
        layer.mlp.gate.composition_bias.data = torch.tensor(
            [[9.0, 9, 0, 0], [0, 9, 9, 0], [0, 0, 9, 9]], requires_grad=False
        )


def without_text(product: dict) -> dict:
    return {name: value for name, value in product.items() if name != "text"}


def test_image_only_view_is_a_prefix_of_the_multimodal_one(family):
    """Section 1: the image-only view read from the multimodal pass equals a pass without text, gradients included."""
    model, processor = tiny_model(family), tiny_processor(family)
    assert model.image_view_is_prefix == (family != "paligemma")
    assert_image_only_view_is_exact(model, processor)


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_image_only_view_takes_its_own_pass_where_the_router_knows_the_composition(family):
    model, processor = composition_model(family), tiny_processor(family)
    assert not model.image_view_is_prefix
    assert_image_only_view_is_exact(model, processor)


def assert_image_only_view_is_exact(model, processor):
    products = [product for product in mixed_products() if "image" in product and "text" in product]
    together = model(**processor(products))
    alone = model(**processor([without_text(product) for product in products]))
    torch.testing.assert_close(together.image_embeddings, alone.embeddings, **TOLERANCE)
    torch.testing.assert_close(together.image_expert_usage, alone.expert_usage, **TOLERANCE)
    assert (together.embeddings - together.image_embeddings).abs().max() > 1e-3, "the text must count in the own view"

    direction = torch.randn(together.embeddings.shape, generator=torch.Generator().manual_seed(0))
    names, parameters = zip(*model.named_parameters(), strict=True)
    first = torch.autograd.grad((together.image_embeddings * direction).sum(), parameters, allow_unused=True)
    second = torch.autograd.grad((alone.embeddings * direction).sum(), parameters, allow_unused=True)
    for name, one, other in zip(names, first, second, strict=True):
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert all(gradient is None or not gradient.any() for gradient in (one, other)), name


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_composition_router_tells_the_modalities_apart_in_any_batch(padding_side):
    model, processor = composition_model(), tiny_processor()
    products = mixed_products()
    with torch.no_grad():
        batch = model(**processor(products, padding_side=padding_side))
        alone = [model(**processor([product])) for product in products]
        pictures = model(**processor([without_text(product) for product in products if "image" in product]))
    torch.testing.assert_close(batch.embeddings, torch.cat([item.embeddings for item in alone]), **TOLERANCE)
    torch.testing.assert_close(batch.image_embeddings[batch.has_image], pictures.embeddings, **TOLERANCE)
    # A bias this strong decides alone: texts go to experts 0 and 1, images to 1 and 2, both to 2 and 3.
    chosen = [set(usage.nonzero().flatten().tolist()) for usage in batch.expert_usage]
    assert chosen == [{0, 1}, {1, 2}, {2, 3}, {2, 3}, {2, 3}, {0, 1}]
    assert (batch.image_expert_usage[batch.has_image] > 0).tolist() == [[False, True, True, False]] * 4


def test_composition_router_starts_as_the_token_router_does():
    token, composition = tiny_model(), tiny_model(router="composition")
    missing, unexpected = composition.load_state_dict(token.state_dict(), strict=False)
    assert len(missing) == 3 and all(name.endswith("gate.composition_bias") for name in missing) and not unexpected
    inputs = tiny_processor()(mixed_products())
    with torch.no_grad():
        torch.testing.assert_close(composition(**inputs).embeddings, token(**inputs).embeddings, **TOLERANCE)


@pytest.mark.skipif(OLD_TRANSFORMERS, reason="before transformers 5.18 every pass sees the images")
@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "smolvlm", "paligemma"])
def test_the_vision_tower_sees_each_picture_once(family):
    model, processor = tiny_model(family, router="composition"), tiny_processor(family)
    seen = []
    original = model.vlm.get_image_features
    model.vlm.get_image_features = lambda *args, **kwargs: seen.append(1) or original(*args, **kwargs)
    model(**processor(mixed_products()))
    assert len(seen) == 1
    model(**processor([{"text": "red mug"}]))
    assert len(seen) == 1


@pytest.mark.parametrize("router", ["token", "composition"])
def test_activation_checkpointing_changes_no_gradient(family, router):
    """Several forwards before one backward, as in training: what the second run of a layer sees must be its own."""
    model, processor = tiny_model(family, router=router).train(), tiny_processor(family)
    if router == "composition":
        spread_compositions(model)
    batches = [processor(mixed_products()[:3]), processor(mixed_products()[3:]), processor([{"text": "红色"}])]
    gradients = []
    for checkpointing in (False, True):
        model.gradient_checkpointing_enable() if checkpointing else None
        model.zero_grad()
        outputs = [model(**inputs) for inputs in batches]
        total = sum((output.embeddings[:, 0] * 3 + output.expert_usage[:, 0]).sum() for output in outputs)
        total = total + sum(output.image_embeddings[:, 1].sum() for output in outputs)
        total = total + sum(logits.square().mean() for output in outputs for logits in output.router_logits)
        total.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(name.endswith("gate.weight") and gradient.any() for name, gradient in gradients[0].items())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_image_positions_without_pictures_are_refused():
    inputs = tiny_processor()([{"image": picture(20, 20)}])
    del inputs["pixel_values"]
    with pytest.raises(ValueError, match="there are no pixel_values"):
        tiny_model()(**inputs)


def test_reentrant_checkpointing_is_refused():
    with pytest.raises(ValueError, match="use_reentrant=True would cut"):
        tiny_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_an_embedding_does_not_depend_on_its_batch(family, padding_side):
    model, processor = tiny_model(family), tiny_processor(family)
    products = mixed_products()
    with torch.no_grad():
        batch = model(**processor(products, padding_side=padding_side))
        alone = torch.cat([model(**processor([product])).embeddings for product in products])
        reverse = model(**processor(products[::-1])).embeddings.flip(0)
    torch.testing.assert_close(batch.embeddings, alone, **TOLERANCE)
    torch.testing.assert_close(reverse, alone, **TOLERANCE)
    assert batch.has_image.tolist() == ["image" in product for product in products]
    assert not batch.image_embeddings[~batch.has_image].any()
    torch.testing.assert_close(batch.embeddings.norm(dim=-1), torch.ones(len(products)))
    torch.testing.assert_close(batch.expert_usage.sum(-1), torch.ones(len(products)))


def test_upcycled_model_computes_what_the_dense_one_did(family, tmp_path):
    torch.manual_seed(0)
    dense = AutoModel.from_config(vlm_config(family)).eval()
    dense.save_pretrained(tmp_path)
    processor = tiny_processor(family)
    model = model_from_backbone(tmp_path, num_experts=3, num_experts_per_tok=2).eval()
    assert sum(isinstance(module, Moon2SparseMoeBlock) for module in model.modules()) == 3
    for product in mixed_products():
        inputs = processor([product])
        output = model(**inputs)
        inputs.pop("position_types")
        if "pixel_values" in inputs and family in ("smolvlm", "idefics3"):
            inputs["pixel_values"] = inputs["pixel_values"][None]
            inputs["pixel_attention_mask"] = inputs["pixel_attention_mask"][None]
        if "pixel_values" in inputs and family.startswith("qwen"):
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == dense.config.image_token_id).int()
        torch.testing.assert_close(output.last_hidden_state, dense(**inputs).last_hidden_state, **TOLERANCE)


def test_eager_and_grouped_experts_agree_and_selected_layers_only():
    model, processor = tiny_model(moe_layers=[1], moe_intermediate_size=48), tiny_processor()
    inputs = processor(mixed_products())
    blocks = [index for index, layer in enumerate(model.vlm.language_model.layers)
              if isinstance(layer.mlp, Moon2SparseMoeBlock)]  # fmt: skip
    assert blocks == [1]
    assert model.vlm.language_model.layers[1].mlp.experts.down_proj.shape == (4, 64, 48)
    outputs = []
    for implementation in ("eager", "grouped_mm"):
        model.set_experts_implementation(implementation)
        outputs.append(model(**inputs).embeddings)
    torch.testing.assert_close(*outputs, **TOLERANCE)


def test_expert_usage_is_the_mean_of_the_renormalised_gates():
    """G~ of section 2, recomputed token by token from the router's logits."""
    model, processor = tiny_model(), tiny_processor()
    inputs = processor(mixed_products())
    output = model(**inputs)
    rows, length = inputs["input_ids"].shape
    assert len(output.router_logits) == 3
    for row in range(rows):
        usage, image_usage = [], []
        for logits in output.router_logits:
            for position in range(length):
                gates = logits.view(rows, length, -1)[row, position].softmax(-1)
                top = gates.topk(2)
                spread = torch.zeros_like(gates).scatter(0, top.indices, top.values / top.values.sum())
                if inputs["position_types"][row, position]:
                    usage.append(spread)
                if inputs["position_types"][row, position] == IMAGE:
                    image_usage.append(spread)
        torch.testing.assert_close(output.expert_usage[row], torch.stack(usage).mean(0), **TOLERANCE)
        if image_usage:
            torch.testing.assert_close(output.image_expert_usage[row], torch.stack(image_usage).mean(0), **TOLERANCE)


def test_all_tokens_to_one_expert_and_a_single_expert():
    model, processor = tiny_model(num_experts_per_tok=1), tiny_processor()
    inputs = processor(mixed_products())
    for layer in model.vlm.language_model.layers:
        layer.mlp.gate.weight.data.zero_()  # equal logits: top-1 is one and the same expert everywhere
    output = model(**inputs)
    assert output.expert_usage.max() == 1 and torch.isfinite(output.embeddings).all()
    output.embeddings.pow(2).mul(torch.arange(64)).sum().backward()
    single = tiny_model(num_experts=1, num_experts_per_tok=1)
    assert single(**inputs).expert_usage.tolist() == [[1.0]] * len(mixed_products())


def test_new_weights_are_initialised_everywhere():
    """Swapped modules sit in a nested model whose class does not know them: they must not stay uninitialised."""
    model = Moon2Model(Moon2Config(vlm_config=vlm_config("qwen3_vl"), initializer_range=0.5))
    for name, parameter in model.named_parameters():
        if ".mlp.experts." in name or ".mlp.gate." in name or name == "dual_alignment.weight":
            assert 0.3 < parameter.std() < 0.7, name


def test_save_and_load_give_the_same_vectors(tmp_path):
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = Moon2Model.from_pretrained(tmp_path)
    inputs = processor(mixed_products())
    assert torch.equal(loaded(**inputs).embeddings, model(**inputs).embeddings)
    assert torch.equal(loaded.dual_alignment.weight, model.dual_alignment.weight)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change):
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "vlm.language_model.layers.1.mlp.experts.down_proj"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        name = "vlm.language_model.layers.1.mlp.experts.down_proj_copy"
        weights[name] = torch.zeros(1)
    else:
        name = "dual_alignment.weight"
        weights[name] = torch.zeros(4, 7)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match=name.rsplit(".", 1)[-1]):
        Moon2Model.from_pretrained(tmp_path)


def test_auto_classes_work_in_a_fresh_process_elsewhere(tmp_path):
    """Remote code: AutoConfig, AutoModel and AutoProcessor, without the repository on the path."""
    model, processor = tiny_model(), tiny_processor()
    folder, elsewhere = tmp_path / "moon2", tmp_path / "elsewhere"
    elsewhere.mkdir()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    picture(40, 30).save(elsewhere / "mug.png")
    with torch.no_grad():
        expected = model(**processor([{"text": "红色 mug", "image": str(elsewhere / "mug.png")}])).embeddings
    torch.save(expected, elsewhere / "expected.pt")
    script = f"""
import sys, torch
assert not any(path.rstrip("/") == {os.getcwd()!r} for path in sys.path), sys.path
from transformers import AutoConfig, AutoModel, AutoProcessor
config = AutoConfig.from_pretrained({str(folder)!r}, trust_remote_code=True)
model = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({str(folder)!r}, trust_remote_code=True)
assert config.model_type == "moon2" and config.hidden_size == 64
with torch.no_grad():
    vector = model(**processor([{{"text": "红色 mug", "image": "mug.png"}}])).embeddings
assert torch.equal(vector, torch.load("expected.pt")), (vector - torch.load("expected.pt")).abs().max()
print("same vector")
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HOME"] = str(tmp_path / "cache")
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0 and run.stdout.strip() == "same vector", run.stderr


def test_unknown_family_and_ungated_unit_are_refused():
    with pytest.raises(ValueError, match="gemma3.*qwen3_vl"):
        Moon2Model(Moon2Config(vlm_config=AutoConfig.for_model("gemma3")))
    gemma = dict(model_type="gemma", use_bidirectional_attention=True)
    with pytest.raises(ValueError, match="would depend on the padding"):
        Moon2Model(Moon2Config(vlm_config=AutoConfig.for_model("llava", text_config=gemma)))
    phi = dict(model_type="phi", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    config = vlm_config("llava")
    config = AutoConfig.for_model("llava", text_config=phi, vision_config=config.vision_config.to_dict())
    with pytest.raises(ValueError, match="no gated feed-forward unit"):
        Moon2Model(Moon2Config(vlm_config=config))


def test_every_supported_family_is_tested():
    assert set(FAMILIES) == set(BACKBONES)
