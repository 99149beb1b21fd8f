"""The configuration: round trip, defaults, and fields that contradict each other."""

import pytest

from configuration_moon2 import Moon2Config
from conftest import FAMILIES, vlm_config


@pytest.mark.parametrize("name", FAMILIES)
def test_save_and_load_keep_every_field(tmp_path, name):
    config = Moon2Config(vlm_config=vlm_config(name), num_experts=3, moe_layers=[0, 2], objectives=["t2mm", "i2t"])
    config.save_pretrained(tmp_path)
    loaded = Moon2Config.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert type(loaded.vlm_config) is type(vlm_config(name))
    assert (loaded.hidden_size, loaded.num_experts, loaded.moe_layers) == (64, 3, [0, 2])
    assert loaded.objectives == ["t2mm", "i2t"]


def test_a_dict_and_nothing_are_backbones_too():
    assert Moon2Config(vlm_config=vlm_config("llava").to_dict()).vlm_config.model_type == "llava"
    default = Moon2Config()
    assert default.vlm_config.model_type == "qwen3_vl"
    assert default.objectives == ["t2mm", "i2mm", "mm2mm", "i2t", "t2i"]


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"num_experts_per_tok": 5}, "num_experts_per_tok is 5"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
        ({"moe_layers": [3]}, "layers 0 to 2"),
        ({"moe_layers": []}, "some of the backbone's layers"),
        ({"moe_layers": [0, 0]}, "each once"),
        ({"router": "sample"}, "router is 'sample'; it must be one of token, composition"),
        ({"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size is 0"),
        ({"objectives": ["t2mm", "t2mm"]}, "each once"),
        ({"objectives": ["t2x"]}, "t2x"),
        ({"objectives": []}, "objectives is"),
    ],
)
def test_contradictions_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        Moon2Config(vlm_config=vlm_config("qwen3_vl"), **fields)
