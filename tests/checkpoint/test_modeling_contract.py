"""What transformers asks of every model, asked of Moon2Model over two tiny backbones.

The yardstick is transformers' own test suite (`test_modeling_common.py`, `test_configuration_common.py`). Its mixins
are not in the wheel, and of the helpers that are (`transformers.testing_utils`) one serves here; the checks are written
anew. Those that are about the method itself, such as the image-only view, are in `test_modeling_moon2.py`.
"""

import copy
import inspect
import json
import pickle
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.testing_utils import check_json_file_has_correct_format

from configuration_moon2 import Moon2Config
from conftest import OLD_TRANSFORMERS, mixed_products, tiny_model, tiny_processor, vlm_config
from modeling_moon2 import Moon2DualAlignment, Moon2Experts, Moon2Model, Moon2Output, Moon2Router
from training_moon2.upcycling import model_from_backbone

# A mixture-of-experts layer in its usual form, and with every part that the config can add.
EVERYTHING = {"router": "composition", "moe_intermediate_size": 40, "shared_expert_intermediate_size": 32}
LAYOUTS = pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["default", "everything"])


@pytest.fixture(scope="module", params=["qwen3_vl", "smolvlm"])
def backbone(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def inputs(backbone) -> dict[str, torch.Tensor]:
    return dict(tiny_processor(backbone)(mixed_products()))


def assert_same(one: Moon2Output, other: Moon2Output, atol: float = 0):
    """Every output is the same, up to `atol`."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def without_padding(output: Moon2Output, mask: torch.Tensor) -> Moon2Output:
    """The outputs at positions that mean something: what stands at padding depends on the attention's kernel."""
    mask = mask.bool()
    output = Moon2Output(**output)
    output["last_hidden_state"] = output.last_hidden_state[mask]
    output["router_logits"] = tuple(logits[mask.flatten()] for logits in output.router_logits)
    return output


def loss_of(output: Moon2Output) -> torch.Tensor:
    """Something that all outputs of the method take part in."""
    views = output.embeddings[:, 0].sum() + output.image_embeddings[:, 1].sum()
    usage = output.expert_usage[:, 0].sum() + output.image_expert_usage[:, 1].sum()
    return views + usage + sum(logits.square().mean() for logits in output.router_logits)


@contextmanager
def poisoned_memory():
    """New memory holds NaN, so that a weight that nothing initialises shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def assert_initialised(model: nn.Module):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert not [name for name, tensor in tensors if not torch.isfinite(tensor).all()]


# Configuration


def test_config_common(backbone, tmp_path):
    config = Moon2Config(vlm_config=vlm_config(backbone), num_experts=3, initializer_range=0.5)
    assert json.loads(config.to_json_string())["num_experts"] == 3
    config.save_pretrained(tmp_path)
    check_json_file_has_correct_format(tmp_path / "config.json")
    assert Moon2Config.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()
    assert Moon2Config.from_dict(config.to_dict()).to_dict() == config.to_dict()
    changed = Moon2Config.from_pretrained(tmp_path, num_experts=5)
    assert (changed.num_experts, changed.initializer_range) == (5, 0.5)

    copied = copy.deepcopy(config)
    assert copied.to_dict() == config.to_dict()
    copied.vlm_config.text_config.hidden_size = 128
    copied.objectives.remove("t2mm")
    assert config.hidden_size == 64 and "t2mm" in config.objectives


def test_config_keeps_unknown_fields_and_hands_back_unknown_arguments(backbone, tmp_path):
    Moon2Config(vlm_config=vlm_config(backbone), added_by_a_later_version=7).save_pretrained(tmp_path)
    config, unused = Moon2Config.from_pretrained(tmp_path, not_a_field=1, return_unused_kwargs=True)
    assert config.added_by_a_later_version == 7 and unused == {"not_a_field": 1}
    assert config.to_dict()["added_by_a_later_version"] == 7


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"num_experts": 0}, r"num_experts \(0\)"),
        ({"num_experts": "four"}, "num_experts.*expected int, got str"),
        ({"num_experts_per_tok": 2.0}, "num_experts_per_tok.*expected int, got float"),
        ({"moe_intermediate_size": -1}, "moe_intermediate_size is -1"),
        ({"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size is 0"),
        ({"moe_layers": [-1]}, "layers 0 to 2"),
        ({"moe_layers": 1}, "moe_layers"),
        ({"router": "modality"}, "router is 'modality'"),
        ({"objectives": "t2mm"}, "objectives"),
        ({"vlm_config": "qwen3_vl"}, "vlm_config"),
        ({"vlm_config": {"model_type": "qwen9_vl"}}, "qwen9_vl"),
    ],
)
def test_invalid_configs_name_the_field(fields, words):
    # Wrong types are found by huggingface_hub's strict data classes, whose error is no ValueError.
    with pytest.raises(Exception, match=f"(?s){words}"):
        Moon2Config(**{"vlm_config": vlm_config("qwen3_vl")} | fields)


def test_model_and_backbone_share_one_config(backbone):
    model = tiny_model(backbone)
    assert model.config.vlm_config is model.vlm.config
    assert model.config.get_text_config() is model.vlm.get_decoder().config


# Initialisation


@LAYOUTS
def test_no_weight_stays_uninitialised(backbone, tmp_path, options):
    AutoModel.from_config(vlm_config(backbone)).save_pretrained(tmp_path / "dense")
    with poisoned_memory():
        untrained = Moon2Model(Moon2Config(vlm_config=vlm_config(backbone), **options))
        assert_initialised(untrained)
        assert_initialised(model_from_backbone(tmp_path / "dense", **options))
        untrained.save_pretrained(tmp_path)
        assert_initialised(Moon2Model.from_pretrained(tmp_path))


def test_own_weights_have_the_distribution_of_the_config(backbone):
    model = tiny_model(backbone, router="composition", initializer_range=0.5)
    for module in model.modules():
        if isinstance(module, (Moon2Router, Moon2Experts, Moon2DualAlignment)):
            for name, parameter in module.named_parameters(recurse=False):
                # W* has 20 numbers only.
                assert not parameter.any() if name == "composition_bias" else 0.25 < parameter.std() < 0.75
                assert name == "composition_bias" or parameter.mean().abs() < 0.4


def test_same_seed_same_weights(backbone):
    one, same, other = (tiny_model(backbone, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["dual_alignment.weight"], other["dual_alignment.weight"])


def test_from_config_of_a_saved_folder(backbone, tmp_path):
    tiny_model(backbone).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    with poisoned_memory():
        model = AutoModel.from_config(config, trust_remote_code=True)
    assert type(model).__name__ == "Moon2Model" and type(model) is not Moon2Model
    assert_initialised(model)


def test_built_on_the_meta_device(backbone):
    with torch.device("meta"):
        model = Moon2Model(Moon2Config(vlm_config=vlm_config(backbone)))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_all_tensors_are_parameters_or_buffers(backbone):
    for name, module in tiny_model(backbone, router="composition").named_modules():
        loose = [attribute for attribute, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert not loose, f"{name}: {loose}"


# Saving and loading


def test_every_way_of_loading_gives_the_same_outputs(backbone, inputs, tmp_path):
    model = tiny_model(backbone)
    with torch.no_grad():
        expected = model(**inputs)
        model.save_pretrained(tmp_path / "whole")
        model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
        assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
        for folder in ("whole", "shards"):
            assert_same(Moon2Model.from_pretrained(tmp_path / folder)(**inputs), expected)
        assert_same(Moon2Model.from_pretrained(tmp_path / "whole", device_map="cpu")(**inputs), expected)
        with torch.device("cpu"):
            assert_same(Moon2Model.from_pretrained(tmp_path / "whole")(**inputs), expected)

        torch.save(model.state_dict(), tmp_path / "weights.pt")
        other = tiny_model(backbone, seed=1)
        other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert_same(other(**inputs), expected)


def test_layers_offloaded_to_disk(backbone, inputs, tmp_path):
    model = tiny_model(backbone)
    model.save_pretrained(tmp_path)
    device_map = {f"vlm.{name}": "cpu" for name, _ in model.vlm.named_children()} | {"dual_alignment": "cpu"}
    (decoder,) = (name for name, module in model.named_modules() if module is model.vlm.get_decoder())
    device_map[decoder] = "disk"
    loaded = Moon2Model.from_pretrained(tmp_path, device_map=device_map, offload_folder=str(tmp_path / "offload"))
    assert loaded.vlm.get_decoder().layers[0].mlp.experts.down_proj.is_meta
    with torch.no_grad():
        assert_same(loaded(**inputs), model(**inputs))


def test_nothing_is_tied_and_nothing_is_left_out(backbone, tmp_path):
    model = tiny_model(backbone)
    assert not model.all_tied_weights_keys
    model.save_pretrained(tmp_path)
    loaded, info = Moon2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    pointers = [parameter.data_ptr() for parameter in loaded.parameters()]
    assert len(set(pointers)) == len(pointers)


def test_missing_weights_are_never_made_up(backbone):
    """Where transformers would initialise what a checkpoint lacks, Moon2Model refuses it; every name is said."""
    config = Moon2Config(vlm_config=vlm_config(backbone))
    with pytest.raises(ValueError, match="missing keys") as error:
        Moon2Model.from_pretrained(None, config=config, state_dict={})
    assert not [name for name, _ in Moon2Model(config).named_parameters() if name not in str(error.value)]


@pytest.mark.parametrize("router", ["token", "composition"])
def test_copies_and_pickles_are_independent(backbone, inputs, router):
    """With router="composition" the layers hold references to each other: a copy's must point into the copy."""
    model = tiny_model(backbone, router=router)
    for layer in model.vlm.get_decoder().layers if router == "composition" else ():
        nn.init.normal_(layer.mlp.gate.composition_bias, std=3)
    with torch.no_grad():
        expected = model(**inputs)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for parameter in model.parameters():
            parameter.zero_()
        for copied in copies:
            assert_same(copied(**inputs), expected)


def test_bf16_round_trip(backbone, inputs, tmp_path):
    """W* stays in float32 wherever weights are loaded; the rest is as asked for, and comes back as it was saved."""
    model, dtype = tiny_model(backbone), torch.bfloat16
    model.save_pretrained(tmp_path / "float32")
    half = Moon2Model.from_pretrained(tmp_path / "float32", dtype=dtype)
    half.save_pretrained(tmp_path / "bf16")
    AutoModel.from_config(vlm_config(backbone)).save_pretrained(tmp_path / "dense")
    upcycled = model_from_backbone(tmp_path / "dense", dtype=dtype)
    for loaded in (half, Moon2Model.from_pretrained(tmp_path / "bf16"), upcycled):
        assert loaded.dtype == dtype and loaded.dual_alignment.weight.dtype == torch.float32
        backbone_dtypes = {weight.dtype for name, weight in loaded.vlm.named_parameters() if ".mlp.gate." not in name}
        assert backbone_dtypes == {dtype}
    assert json.loads((tmp_path / "bf16" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    assert torch.equal(half.dual_alignment.weight, model.dual_alignment.weight)
    again = Moon2Model.from_pretrained(tmp_path / "bf16", dtype=torch.float32)
    assert {tensor.dtype for tensor in [*again.parameters(), *again.buffers()]} == {torch.float32}

    with torch.no_grad():
        expected, found = model(**inputs), half(**inputs)
    assert found.last_hidden_state.dtype == dtype and found.embeddings.dtype == torch.float32
    # Rounding to bf16 moves a number by up to 2^-9 of itself; through three layers that moves a unit vector by 0.01.
    distance = (expected.embeddings - found.embeddings).norm(dim=-1).max()
    assert 0 < distance < 0.02


@pytest.mark.parametrize("how", ["at load", "later"])
def test_implementations_reach_the_parts(backbone, inputs, tmp_path, how):
    model = tiny_model(backbone)
    assert (model.config._attn_implementation, model.config._experts_implementation) == ("sdpa", "grouped_mm")
    model.save_pretrained(tmp_path)
    if how == "at load":
        loaded = Moon2Model.from_pretrained(tmp_path, attn_implementation="eager", experts_implementation="eager")
    else:
        loaded = Moon2Model.from_pretrained(tmp_path)
        loaded.set_attn_implementation("eager")
        loaded.set_experts_implementation("eager")
    decoder = loaded.vlm.get_decoder()
    assert decoder.config._attn_implementation == loaded.vlm.config.vision_config._attn_implementation == "eager"
    assert {layer.mlp.experts.config._experts_implementation for layer in decoder.layers} == {"eager"}
    with torch.no_grad():
        outputs = [without_padding(one(**inputs), inputs["attention_mask"]) for one in (loaded, model)]
    assert_same(*outputs, atol=1e-5)


@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm", "eager"])
def test_every_way_to_run_the_experts_can_be_chosen_at_load(backbone, tmp_path, experts):
    tiny_model(backbone).save_pretrained(tmp_path)
    loaded = Moon2Model.from_pretrained(tmp_path, experts_implementation=experts)
    assert {layer.mlp.experts.config._experts_implementation for layer in loaded._decoder_layers} == {experts}


@pytest.mark.parametrize("option", ["attn_implementation", "experts_implementation"])
def test_unknown_implementations_are_refused(backbone, tmp_path, option):
    tiny_model(backbone).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f'{option}="fastest"` is not supported'):
        Moon2Model.from_pretrained(tmp_path, **{option: "fastest"})


# Forward


def test_what_the_backbone_cannot_take_is_refused(inputs):
    model = tiny_model()
    model.config.get_text_config().max_position_embeddings = 4
    with pytest.raises(ValueError, match="An item has .* positions; the backbone has 4"):
        model(**inputs)


def test_the_backbone_alone_does_not_know_compositions():
    model, features = tiny_model(router="composition"), tiny_processor()([{"text": "mug"}])
    with pytest.raises(ValueError, match="call the Moon2Model, not its vlm"):
        model.vlm(input_ids=features["input_ids"], attention_mask=features["attention_mask"])


def test_forward_signature(backbone):
    """What Trainer and sentence-transformers look at. The model takes ids, for it has to find the images' places."""
    names = list(inspect.signature(Moon2Model.forward).parameters)
    assert names[1] == Moon2Model.main_input_name == "input_ids" and "inputs_embeds" not in names
    assert set(tiny_processor(backbone).model_input_names) <= set(names)


@pytest.mark.parametrize("router", ["token", "composition"])
def test_deterministic_and_without_side_effects(backbone, inputs, router):
    """There is no dropout: training and evaluation mode agree. Neither inputs nor model are changed by a forward."""
    model = tiny_model(backbone, router=router)
    given, keys = {name: value.clone() for name, value in inputs.items()}, model.state_dict().keys()
    with torch.no_grad():
        first, second, training = model(**inputs), model(**inputs), model.train()(**inputs)
    assert_same(first, second)
    assert_same(first, training)
    assert inputs.keys() == given.keys() and all(torch.equal(inputs[name], given[name]) for name in given)
    assert model.state_dict().keys() == keys


@pytest.mark.skipif(OLD_TRANSFORMERS, reason="before transformers 5.18 some backbones let this pass")
def test_a_failed_forward_leaves_nothing_behind(backbone, inputs):
    model = tiny_model(backbone)
    with torch.no_grad():
        before = model(**inputs).embeddings
    ids = inputs["input_ids"].where(inputs["input_ids"] != model.config.vlm_config.image_token_id, 5)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        model(**inputs | {"input_ids": ids})
    with torch.no_grad():
        assert torch.equal(model(**inputs).embeddings, before)


def test_batching_equivalence(backbone, inputs):
    """Every output of an item is the same alone and in a batch."""
    model, processor = tiny_model(backbone), tiny_processor(backbone)
    with torch.no_grad():
        batch = model(**inputs)
        for row, product in enumerate(mixed_products()):
            features = processor([product])
            own = {name: value[[row]] for name, value in batch.items() if name != "router_logits"}
            length = features["input_ids"].shape[1]
            own["last_hidden_state"] = own["last_hidden_state"][:, :length]
            logits = [layer.view(*inputs["input_ids"].shape, 4)[row, :length] for layer in batch.router_logits]
            assert_same(model(**features), Moon2Output(**own, router_logits=tuple(logits)), atol=1e-5)


def test_outputs_as_a_tuple(backbone, inputs):
    model = tiny_model(backbone)
    with torch.no_grad():
        output = model(**inputs)
        as_tuple = model(**inputs, return_dict=False)
        model.config.return_dict = False
        by_config = model(**inputs)
    assert output.embeddings is output[0] is output["embeddings"] is output.pooler_output
    assert isinstance(as_tuple, tuple) and isinstance(by_config, tuple)
    for found in (as_tuple, by_config):
        torch.testing.assert_close(found, output.to_tuple(), atol=0, rtol=0)


@pytest.mark.parametrize("how", ["argument", "config"])
def test_hidden_states_and_attentions(backbone, inputs, how):
    model = tiny_model(backbone)
    model.set_attn_implementation("eager")
    options = {}
    if how == "argument":
        options = dict(output_hidden_states=True, output_attentions=True)
    else:
        model.config.output_hidden_states = model.config.output_attentions = True
    with torch.no_grad():
        output = model(**inputs, **options)
    rows, length = inputs["input_ids"].shape
    assert [tuple(state.shape) for state in output.hidden_states] == [(rows, length, 64)] * 4
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert [tuple(attention.shape) for attention in output.attentions] == [(rows, 4, length, length)] * 3
    mask = inputs["attention_mask"].bool()
    for attention in output.attentions:
        sums = attention.sum(-1).transpose(1, 2)[mask]
        torch.testing.assert_close(sums, torch.ones_like(sums))
        assert not attention.triu(1).any(), "no position sees a later one"


def test_hidden_states_and_attentions_are_left_out_unless_asked_for(backbone, inputs):
    with torch.no_grad():
        output = tiny_model(backbone)(**inputs)
    assert output.hidden_states is None and output.attentions is None


def test_hidden_states_and_attentions_retain_gradients(backbone, inputs):
    model = tiny_model(backbone)
    model.set_attn_implementation("eager")
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    kept = [output.hidden_states[0], output.attentions[0], output.last_hidden_state, output.router_logits[0]]
    for tensor in kept:
        tensor.retain_grad()
    loss_of(output).backward()
    assert all(tensor.grad.any() for tensor in kept)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_eager_attention_matches_sdpa(backbone, padding_side, dtype, tolerance):
    """In bf16 a normalised vector's components may be a few units in the last place (2^-8) apart."""
    model = tiny_model(backbone).to(dtype)
    inputs = tiny_processor(backbone)(mixed_products(), padding_side=padding_side)
    outputs = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            outputs.append(without_padding(model(**inputs), inputs["attention_mask"]))
    if dtype == torch.float32:
        assert_same(*outputs, atol=tolerance)
    else:
        torch.testing.assert_close(outputs[0].embeddings, outputs[1].embeddings, atol=tolerance, rtol=0)


@LAYOUTS
def test_eager_experts_match_grouped_ones(backbone, inputs, options):
    """Outputs and gradients."""
    results = []
    for implementation in ("eager", "grouped_mm"):
        model = tiny_model(backbone, **options)
        model.set_experts_implementation(implementation)
        output = model(**inputs)
        loss_of(output).backward()
        results.append((output, {name: weight.grad for name, weight in model.named_parameters()}))
    (eager, gradients), (grouped, grouped_gradients) = results
    assert_same(eager, grouped, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            grouped_gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


# Training


@LAYOUTS
def test_every_parameter_is_trained(backbone, inputs, options):
    """W* is read by the losses only; here it stays without a gradient."""
    model = tiny_model(backbone, **options).train()
    loss_of(model(**inputs)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == ["dual_alignment.weight"]
    del gradients["dual_alignment.weight"]
    assert not [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    experts = [name for name in gradients if ".experts." in name]
    assert len(experts) == 6 and all(gradients[name].flatten(1).any(1).all() for name in experts), "an idle expert"
    assert not [name for name, gradient in gradients.items() if not gradient.any()]


def test_activation_checkpointing_can_be_switched(backbone):
    model = tiny_model(backbone)
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and model.vlm.get_decoder().layers[0].gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_inputs_of_a_frozen_model_can_require_gradients(backbone, inputs):
    model = tiny_model(backbone).requires_grad_(False)
    assert not model(**inputs).embeddings.requires_grad
    model.enable_input_require_grads()
    assert model(**inputs).embeddings.requires_grad
    model.disable_input_require_grads()
    assert not model(**inputs).embeddings.requires_grad


# Word embeddings


def test_get_and_set_input_embeddings(backbone):
    model = tiny_model(backbone)
    assert isinstance(model.get_input_embeddings(), nn.Embedding) and model.get_output_embeddings() is None
    new = nn.Embedding(512, 64)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new is model.vlm.get_decoder().get_input_embeddings()


@pytest.mark.parametrize("size", [640, 450])
def test_resize_token_embeddings(backbone, inputs, tmp_path, size):
    model = tiny_model(backbone)
    with torch.no_grad():
        expected = model(**inputs)
        rows = model.get_input_embeddings().weight[:450].clone()
        assert model.resize_token_embeddings(size) is model.get_input_embeddings()
        assert model.get_input_embeddings().weight.shape == (size, 64)
        assert torch.equal(model.get_input_embeddings().weight[:450], rows)
        assert model.config.vlm_config.text_config.vocab_size == model.vlm.config.text_config.vocab_size == size
        assert_same(model(**inputs), expected)

        last = dict(input_ids=torch.full((1, 3), size - 1), attention_mask=torch.ones(1, 3, dtype=torch.long))
        last["position_types"] = 2 * last["attention_mask"]
        assert torch.isfinite(model(**last).embeddings).all()
        model.save_pretrained(tmp_path)
        loaded = Moon2Model.from_pretrained(tmp_path)
        assert loaded.config.get_text_config().vocab_size == size
        assert_same(loaded(**last), model(**last))


def test_resize_rounds_up_to_a_multiple(backbone):
    model = tiny_model(backbone)
    model.resize_token_embeddings(513, pad_to_multiple_of=64)
    assert model.get_input_embeddings().num_embeddings == model.config.get_text_config().vocab_size == 576
