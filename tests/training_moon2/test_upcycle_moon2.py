"""Dense checkpoints become Moon2 models: the same function at first, any way they are stored or loaded."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText

from conftest import OLD_TRANSFORMERS, TEXTS, mixed_products, picture, tiny_processor, vlm_config
from modeling_moon2 import Moon2Model, Moon2SparseMoeBlock
from processing_moon2 import Moon2Processor
from training_moon2.triplets import load_triplets
from training_moon2.upcycling import (
    expert_distance,
    model_from_backbone,
    part_experts,
    routers_from_inputs,
    some_products,
)
from upcycle_moon2 import main

TOLERANCE = dict(atol=1e-5, rtol=0)


def save_dense(folder, family: str = "qwen3_vl", **options):
    """A dense vision-language folder as transformers writes it, with tokenizer and image processor; its backbone."""
    torch.manual_seed(0)
    dense = AutoModelForImageTextToText.from_config(vlm_config(family)).eval()
    dense.save_pretrained(folder, **options)
    processor = tiny_processor(family)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    return dense.model


def hidden_states(vlm, processor) -> torch.Tensor:
    inputs = processor([{"text": "red striped mug"}])
    with torch.no_grad():
        return vlm(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state


def test_the_command_converts_saves_and_verifies(family, tmp_path, capsys):
    if OLD_TRANSFORMERS and family in ("smolvlm", "idefics3"):
        pytest.skip("before transformers 5.18 this image processor wants torchvision")
    dense = save_dense(tmp_path / "dense", family)
    words = ["--model", str(tmp_path / "dense"), "--output_dir", str(tmp_path / "moon2"), "--num_experts", "3"]
    assert main([*words, "--router", "composition", "--moe_layers", "0", "2", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "Largest difference of the last hidden states to the dense model: 0" in shown or "e-0" in shown
    assert f"a {family} with experts in layers 0, 2;" in shown
    model, processor = (
        Moon2Model.from_pretrained(tmp_path / "moon2"),
        Moon2Processor.from_pretrained(tmp_path / "moon2"),
    )
    with torch.no_grad():
        ours = model(**processor([{"text": "red striped mug"}])).last_hidden_state
    torch.testing.assert_close(ours, hidden_states(dense, processor), **TOLERANCE)
    assert model.config.router == "composition" and model.config.num_experts == 3
    assert torch.isfinite(model(**processor(mixed_products())).embeddings).all()


def test_sharded_checkpoints_and_a_device_map(tmp_path):
    dense = save_dense(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    processor = tiny_processor()
    for options in ({}, {"device_map": "cpu"}, {"device_map": {"": "cpu"}}):
        model = model_from_backbone(tmp_path, **options).eval()
        with torch.no_grad():
            ours = model(**processor([{"text": "red striped mug"}])).last_hidden_state
        torch.testing.assert_close(ours, hidden_states(dense, processor), **TOLERANCE)
    model.save_pretrained(tmp_path / "moon2", max_shard_size="200KB")
    again = Moon2Model.from_pretrained(tmp_path / "moon2", device_map="cpu")
    inputs = processor(mixed_products())
    with torch.no_grad():
        assert torch.equal(again(**inputs).embeddings, model(**inputs).embeddings)


def test_bf16_stays_bf16_and_computes_what_the_dense_model_does(tmp_path):
    save_dense(tmp_path)
    model = model_from_backbone(tmp_path, dtype=torch.bfloat16).eval()
    kinds = {name.split(".")[0]: parameter.dtype for name, parameter in model.named_parameters()}
    assert kinds == {"vlm": torch.bfloat16, "dual_alignment": torch.float32} and model.dtype == torch.bfloat16
    dense = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    processor = tiny_processor()
    with torch.no_grad():
        ours = model(**processor([{"text": "red striped mug"}])).last_hidden_state
    # The two chosen experts are rounded each before they are added: half a bf16 step of difference.
    torch.testing.assert_close(ours, hidden_states(dense, processor), atol=0.05, rtol=0.02)
    assert torch.isfinite(model(**processor(mixed_products())).embeddings).all()


def test_narrow_experts_share_out_the_dense_neurons(tmp_path):
    """With all experts chosen evenly, narrow experts that cover the dense layer once are the dense layer."""
    dense = save_dense(tmp_path)
    model = model_from_backbone(
        tmp_path, num_experts=3, num_experts_per_tok=3, moe_intermediate_size=32, shared_expert_intermediate_size=16
    ).eval()
    for layer in model.vlm.get_decoder().layers:
        assert layer.mlp.experts.down_proj.shape == (3, 64, 32)
        layer.mlp.gate.weight.data.zero_()  # equal gates
    processor = tiny_processor()
    with torch.no_grad():
        ours = model(**processor([{"text": "red striped mug"}])).last_hidden_state
    torch.testing.assert_close(ours, hidden_states(dense, processor), **TOLERANCE)


def test_a_shared_expert_adds_nothing_at_first_and_learns(tmp_path):
    dense = save_dense(tmp_path)
    model = model_from_backbone(tmp_path, shared_expert_intermediate_size=16, experts_implementation="eager")
    assert model.config._experts_implementation == "eager"
    processor = tiny_processor()
    output = model(**processor([{"text": "red striped mug"}]))
    torch.testing.assert_close(output.last_hidden_state, hidden_states(dense, processor), **TOLERANCE)
    output.embeddings.mul(torch.arange(64)).sum().backward()
    blocks = [module for module in model.modules() if isinstance(module, Moon2SparseMoeBlock)]
    assert len(blocks) == 3 and all(block.shared_expert.down_proj.weight.grad.any() for block in blocks)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model", "nowhere"], "The model nowhere is neither a folder nor available on the Hub"),
        (["--moe_intermediate_size", "97"], "moe_intermediate_size is 97, but a dense layer has only 96 neurons"),
        (["--num_experts", "1"], "num_experts_per_tok is 2"),
        (["--moe_layers", "3"], "moe_layers is [3]"),
        (["--router", "sample"], "router is 'sample'"),
        (["--max_pixels", "10"], "max_pixels is 10"),
        (["--model", "{moon2}"], "is a Moon2 already"),
        (["--upcycling_amount", "0.1"], "upcycling_amount only means something with"),
        (["--upcycling", "drop", "--upcycling_amount", "2"], "upcycling_amount is 2.0; with upcycling: drop it must"),
        (["--router_start", "kmeans"], "--router_start kmeans and --dataset go together"),
    ],
)
def test_what_cannot_be_converted_is_explained(tmp_path, capsys, words, message):
    save_dense(tmp_path / "dense")
    if "{moon2}" in words:
        model_from_backbone(tmp_path / "dense").save_pretrained(tmp_path / "moon2")
    words = [word.format(moon2=tmp_path / "moon2") for word in words]
    assert main(["--model", str(tmp_path / "dense"), "--output_dir", str(tmp_path / "new"), *words]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_dense_weights_that_do_not_fit_are_refused_by_name(tmp_path, change):
    save_dense(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        name = "model.language_model.layers.9.mlp.up_proj.weight"
        weights[name] = torch.zeros(2, 2)
    else:
        weights[name] = torch.zeros(95, 64)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name.removeprefix('model.')}"):
        model_from_backbone(tmp_path)


def test_offloaded_layers_are_refused(tmp_path):
    save_dense(tmp_path)
    device_map = {"visual": "cpu", "language_model": "disk"}
    with pytest.raises(ValueError, match="device_map offloaded some layers"):
        model_from_backbone(tmp_path, device_map=device_map, offload_folder=str(tmp_path / "offload"))


def gate_gradient(model, processor) -> float:
    """The largest gradient that the routers get from a contrastive loss, without any balancing term."""
    text = model(**processor([{"text": "red striped mug"}, {"text": "blue cotton shirt"}])).embeddings
    images = model(**processor([{"image": picture(48, 48, seed=1)}, {"image": picture(48, 48, seed=2)}])).embeddings
    nn.functional.cross_entropy(text @ images.T / 0.05, torch.arange(2)).backward()
    return max(weight.grad.abs().max().item() for name, weight in model.named_parameters() if "mlp.gate." in name)


def test_copies_give_routers_no_gradient_and_other_experts_do(tmp_path):
    save_dense(tmp_path)
    processor, gradients, distances = tiny_processor(), {}, {}
    for upcycling, amount in (("copy", 0.0), ("noise", 0.01), ("drop", 0.5)):
        torch.manual_seed(1)
        model = model_from_backbone(tmp_path, experts_implementation="eager")
        part_experts(model, upcycling, amount)
        distances[upcycling] = expert_distance(model)
        gradients[upcycling] = gate_gradient(model, processor)
    assert gradients["copy"] < 1e-6 and distances["copy"] == 0, "only rounding errors"
    assert gradients["noise"] > 100 * gradients["copy"] and gradients["drop"] > 10 * gradients["noise"]
    assert 0.005 < distances["noise"] < 0.02 and 0.5 < distances["drop"] < 1.3


def test_drop_draws_the_given_share_of_neurons_anew_others_in_each_expert(tmp_path):
    dense = save_dense(tmp_path)
    model = model_from_backbone(tmp_path, num_experts=3)
    part_experts(model, "drop", 0.25)
    layer, experts = dense.language_model.layers[1].mlp, model.vlm.get_decoder().layers[1].mlp.experts
    changed = []
    for expert in range(3):
        gate, up = experts.gate_up_proj[expert].chunk(2)
        rows = (gate != layer.gate_proj.weight).any(1)
        assert torch.equal(rows, (up != layer.up_proj.weight).any(1))
        assert torch.equal(rows, (experts.down_proj[expert] != layer.down_proj.weight).any(0))
        assert rows.sum() == 24, "a quarter of 96"
        changed.append(rows)
    assert not torch.equal(changed[0], changed[1])


def test_routers_start_at_clusters_of_what_their_layers_see(tmp_path):
    save_dense(tmp_path)
    torch.manual_seed(0)
    model, processor = model_from_backbone(tmp_path, num_experts=2, num_experts_per_tok=1), tiny_processor()
    products = [{"text": text} for text in TEXTS] + [{"image": picture(48, 48, seed=seed)} for seed in range(4)]
    routers_from_inputs(model, processor, products)
    seen, features = [], processor(products)
    block = model.vlm.get_decoder().layers[0].mlp
    block.register_forward_pre_hook(lambda block, args: seen.append(args[0]))
    with torch.no_grad():
        output = model.eval()(**features)
    own = features["attention_mask"].bool()
    for logits in output.router_logits:
        assert logits[own.flatten()].std().item() == pytest.approx(1, abs=0.05)
        assert logits[own.flatten()].argmax(1).unique().tolist() == [0, 1]
    tokens = nn.functional.normalize(seen[0][own], dim=-1)
    clusters = KMeans(2, n_init=4, random_state=0).fit_predict(tokens.numpy())
    assert adjusted_rand_score(clusters, output.router_logits[0][own.flatten()].argmax(1)) > 0.8
    with pytest.raises(ValueError, match="kmeans needs more than"):
        routers_from_inputs(model_from_backbone(tmp_path, num_experts=64), processor, [{"text": "mug"}])


def test_products_for_routers_are_spread_over_the_data_set(mbe2):
    rows = load_triplets(mbe2, "train", refresh=False)
    found, last = some_products(rows, 3), len(rows) - 1
    assert [product["text"] for product in found] == rows[[0, last // 2, last]]["positive_title"]
    assert all(product["image"]["bytes"] for product in found) and len(some_products(rows, 1000)) == len(rows)


def test_the_command_parts_experts_and_says_what_it_did(tmp_path, mbe2, capsys):
    save_dense(tmp_path / "dense")
    words = ["--model", str(tmp_path / "dense"), "--output_dir", str(tmp_path / "moon2"), "--upcycling", "noise"]
    assert main([*words, "--router_start", "kmeans", "--dataset", mbe2, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert not facts["same_function"] and 0.005 < facts["expert_distance"] < 0.02
    model = Moon2Model.from_pretrained(tmp_path / "moon2")
    assert expert_distance(model) == pytest.approx(facts["expert_distance"], rel=1e-4)


def test_a_single_expert_is_the_dense_layer_to_the_bit(tmp_path):
    dense = save_dense(tmp_path)
    one = dict(num_experts=1, num_experts_per_tok=1)
    model, processor = model_from_backbone(tmp_path, **one, experts_implementation="eager"), tiny_processor()
    inputs = processor([{"text": text} for text in TEXTS])
    ours = model.eval()(**inputs).last_hidden_state
    theirs = dense(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    assert torch.equal(ours, theirs)
    direction = torch.randn_like(ours)
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    for block, layer in zip(model.vlm.get_decoder().layers, dense.language_model.layers, strict=True):
        gate, up = block.mlp.experts.gate_up_proj.grad[0].chunk(2)
        found = (gate, up, block.mlp.experts.down_proj.grad[0])
        for ours, part in zip(found, (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj), strict=True):
            # Rounding only: two products of matrices are one here, whose gradient is added up in another order.
            torch.testing.assert_close(ours, part.weight.grad, rtol=1e-4, atol=1e-3)
        assert not block.mlp.gate.weight.grad.any(), "there is nothing to choose"
