"""A Moon2 as a stock Qwen3-VL-MoE: in stock transformers, and as vLLM reads its config.json."""

import ast
import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from jinja2.exceptions import TemplateError
from transformers import AutoConfig, AutoModel, AutoTokenizer, Qwen3VLMoeModel

from configuration_moon2 import Moon2Config
from conftest import FAMILIES, mixed_products, tiny_model, tiny_processor, vlm_config
from serving_moon2 import io_processor
from serving_moon2.__main__ import main
from serving_moon2.stock import ServedConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def moon2(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("checkpoint") / "moon2")
    tiny_model(moe_layers=[0, 2], num_experts=5, num_experts_per_tok=3).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stock(moon2, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stock") / "qwen3-vl-moe"
    assert main(["convert", "--model", moon2, "--output", str(folder)]) == 0
    return folder


def test_stock_transformers_computes_the_same(stock, moon2):
    """Hidden states to the bit, their mean the vector, and no remote code."""
    ours = AutoModel.from_pretrained(moon2, trust_remote_code=True).eval()
    model = AutoModel.from_pretrained(stock, trust_remote_code=False).eval()
    assert type(model) is Qwen3VLMoeModel
    for product in mixed_products():
        inputs = tiny_processor()([product | {"instruction": None}])
        pictures = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
        ids = inputs["input_ids"]
        with torch.no_grad():
            expected = ours(**inputs)
            hidden = model(
                input_ids=ids,
                attention_mask=inputs["attention_mask"],
                mm_token_type_ids=(ids == ours.config.vlm_config.image_token_id).int(),
                **pictures,
            ).last_hidden_state
        torch.testing.assert_close(hidden, expected.last_hidden_state, atol=1e-6, rtol=0)
        vector = torch.nn.functional.normalize(hidden.mean(1), dim=-1)
        torch.testing.assert_close(vector, expected.embeddings, atol=1e-6, rtol=0)


def test_nothing_of_this_project_is_in_the_folder(stock):
    texts = [file for file in stock.rglob("*") if file.is_file() and file.suffix != ".safetensors"]
    assert not any(file.suffix == ".py" or "moon2" in file.read_text("utf-8").lower() for file in texts)
    assert json.loads((stock / "1_Pooling" / "config.json").read_text())["pooling_mode"] == "mean"


def test_the_template_is_ours_and_refuses_what_would_be_pooled(stock):
    tokenizer = AutoTokenizer.from_pretrained(stock)
    parts = [{"type": "text", "text": "red mug"}, {"type": "image"}, {"type": "text", "text": "350 ml"}]
    for content in (parts, "red mug"):
        messages = [{"role": "user", "content": content}]
        assert tokenizer.apply_chat_template(messages, tokenize=False) == tiny_processor().apply_chat_template(messages)
    system = {"role": "system", "content": "find the product"}
    for content, complaint in (
        ("mug <|image_pad|>", "special token"),
        ([{"type": "text", "text": "<|pad|>"}], "special"),
    ):
        with pytest.raises(TemplateError, match=complaint):
            tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    with pytest.raises(TemplateError, match="instruction"):
        tokenizer.apply_chat_template([system, {"role": "user", "content": "mug"}], tokenize=False)


def test_it_says_which_instructions_are_lost(moon2, tmp_path, capsys):
    folder = shutil.copytree(moon2, tmp_path / "moon2")
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    settings["prompts"]["query"] = "Find the product: "
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert main(["convert", "--model", str(folder), "--output", str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lost_instructions"] == {"query": "Find the product: "}


REFUSED = [
    ({"router": "composition"}, "it routes by composition"),
    ({"shared_expert_intermediate_size": 32}, "it has a shared expert"),
    ({"moe_intermediate_size": 64}, "stored transposed"),
    ({"moe_intermediate_size": 32}, "stored transposed"),
    *[({"vlm_config": vlm_config(family)}, f"a {family}, not a") for family in FAMILIES if family != "qwen3_vl"],
]


@pytest.mark.parametrize(("options", "complaint"), REFUSED)
def test_what_the_form_cannot_hold_is_refused(options, complaint, tmp_path, capsys):
    Moon2Config(**({"vlm_config": vlm_config("qwen3_vl")} | options)).save_pretrained(tmp_path / "moon2")
    assert main(["convert", "--model", str(tmp_path / "moon2"), "--output", str(tmp_path / "new")]) == 2
    assert complaint in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_wrong_arguments_are_refused(moon2, stock, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    wrong = [
        (["convert", "--model", moon2], "--output"),
        (["convert", "--model", moon2, "--output", str(stock)], "choose another folder"),
        (["convert", "--model", moon2, "--output", str(tmp_path / "file")], "choose another folder"),
        (["convert", "--model", str(stock), "--output", str(tmp_path / "new")], "no Moon2 but a qwen3_vl_moe"),
        (
            ["convert", "--model", str(tmp_path / "nothing"), "--output", str(tmp_path / "new")],
            "There is no model folder",
        ),
    ]
    for words, complaint in wrong:
        assert main(words) == 2
        said = capsys.readouterr().err
        assert complaint in said and said.count("\n") == 1, said


def test_the_served_configuration_is_the_stock_one(moon2, stock):
    config = ServedConfig.from_dict(json.loads((Path(moon2) / "config.json").read_text()))
    theirs = AutoConfig.from_pretrained(stock)
    assert config.architectures == ["Moon2Model"] and config.io_processor_plugin == "moon2"
    assert config.text_config.to_dict() == theirs.text_config.to_dict()
    assert config.vision_config.to_dict() == theirs.vision_config.to_dict()
    assert config.text_config.mlp_only_layers == [1] and config.image_token_id == theirs.image_token_id
    with pytest.raises(ValueError, match="shared expert"):
        ServedConfig.from_dict(Moon2Config(shared_expert_intermediate_size=8).to_dict())


def test_the_entry_points_are_there():
    """The classes that they name are in files which need vLLM, so these are only parsed."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert points == {
        "vllm.general_plugins": {"moon2": "serving_moon2:register"},
        "vllm.io_processor_plugins": {"moon2": "serving_moon2:io_processor"},
    }
    named = [io_processor(), "serving_moon2.vllm_renderer.Moon2Renderer", "serving_moon2.vllm_model.Moon2ForEmbedding"]
    for module, _, name in (path.rpartition(".") for path in named):
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
