"""Training: a few real steps lower the loss, the views are found, figures are logged, wrong recipes are explained."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import load_dataset

from conftest import tiny_processor
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from train_moon2 import build_trainer, main
from training.recipe import read_recipe
from training.trainer import Moon2Trainer

RECIPE = Path(__file__).parent.parent / "recipes" / "tiny.yaml"


@pytest.fixture
def tiny_recipe(tmp_path, mbe2) -> str:
    """recipes/tiny.yaml, smaller still."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe["architecture"]["text_config"] |= {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96}
    recipe["architecture"]["vision_config"] |= {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 96,
        "out_hidden_size": 64,
    }
    recipe |= {"dataset": mbe2, "output_dir": str(tmp_path / "moon2"), "vocab_size": 600, "max_pixels": 1024}
    recipe |= {"per_device_train_batch_size": 16, "max_steps": 30, "logging_steps": 5, "warmup_steps": 2}
    recipe |= {"moe_intermediate_size": 48, "use_cpu": True}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return str(path)


def test_a_short_run_lowers_the_loss_and_saves_a_model_that_loads(tiny_recipe, tmp_path, capsys):
    assert main([tiny_recipe, "--eval_strategy", "steps", "--eval_steps", "30"]) == 0
    folder = tmp_path / "moon2"
    log = [json.loads(line) for line in (folder / "filter.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["step"] for entry in log] == [5, 10, 15, 20, 25, 30]
    assert all(len(entry["lowest_phi"]) == 8 and 0 <= entry["kept_share"] <= 1 for entry in log)
    assert log[-1]["phi"] > log[0]["phi"], "queries should have moved towards their positives"

    model, processor = Moon2Model.from_pretrained(folder), Moon2Processor.from_pretrained(folder)
    with torch.no_grad():
        vectors = model(**processor([{"text": "red mug"}, {"text": "红色马克杯"}])).embeddings
    assert vectors.shape == (2, 64) and torch.isfinite(vectors).all()
    assert not (folder / "training_args.bin").exists()
    again = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    assert again["max_steps"] == 30 and again["temperature"] == 0.05
    captured = capsys.readouterr()
    assert "M active for a token" in captured.out
    shown = captured.out + captured.err
    assert "step 30: validation loss " in shown and "step 30: loss " in shown


def test_the_log_holds_every_figure_of_the_method(tiny_recipe, tmp_path):
    trainer = make_trainer(tiny_recipe, max_steps=10, logging_steps=5, eval_strategy="steps", eval_steps=10)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    objectives = trainer.model.config.objectives
    expected = {f"loss_{name}" for name in objectives} | {f"omega_{name}" for name in objectives}
    expected |= {"omega_sum", "loss_sparsity", "phi", "kept_share", "positive_similarity", "negative_similarity"}
    expected |= {f"expert_{z}_{name}" for z in range(4) for name in ("pictures", "texts")} | {"tokens_per_second"}
    assert expected <= set(logs[0]) and len(logs) == 2
    assert logs[0]["omega_sum"] == pytest.approx(1.0, abs=0.05)
    assert sum(logs[0][f"expert_{z}_texts"] for z in range(4)) == pytest.approx(1.0, abs=1e-4)
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))


def test_same_seed_same_weights(tiny_recipe):
    runs = []
    for _ in range(2):
        trainer = make_trainer(tiny_recipe, max_steps=3)
        trainer.train()
        runs.append(trainer.model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def make_trainer(recipe: str, **changes) -> Moon2Trainer:
    words = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    return build_trainer(read_recipe([recipe, *words]))


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere.yaml"], "There is no recipe nowhere.yaml"),
        (["{recipe}", "--dataset", "nowhere"], "no data set folder nowhere"),
        (["{recipe}", "--temperature", "0"], "temperature is 0"),
        (["{recipe}", "--enriched_title_probability", "2"], "enriched_title_probability is 2"),
        (["{recipe}", "--num_experts", "1"], "num_experts_per_tok is 2"),
        (["{recipe}", "--model", "also"], "not both"),
        (["{recipe}", "--architecture", "{{model_type: llava}}"], "model_type is 'llava'"),
        (["{recipe}", "--architecture", "{{model_type: qwen3_vl}}"], "text_config lacks hidden_size"),
    ],
)
def test_a_wrong_recipe_is_explained_in_a_sentence(tiny_recipe, capsys, words, message):
    assert main([word.format(recipe=tiny_recipe) for word in words]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_unknown_fields_and_missing_columns_are_named(tiny_recipe, tmp_path, capsys):
    text = Path(tiny_recipe).read_text(encoding="utf-8")
    (tmp_path / "typo.yaml").write_text(text + "\nlerning_rate: 1\n", encoding="utf-8")
    assert main([str(tmp_path / "typo.yaml")]) == 2
    assert "lerning_rate" in capsys.readouterr().err

    broken = tmp_path / "broken"
    (broken / "triplets").mkdir(parents=True)
    rows = load_dataset(yaml.safe_load(text)["dataset"], "triplets", split="train")
    rows.remove_columns("negative_title").to_parquet(broken / "triplets" / "train.parquet")
    (broken / "README.md").write_text(
        "---\nconfigs:\n- config_name: triplets\n  data_files:\n  - {split: train, path: triplets/*.parquet}\n---\n"
    )
    assert main([tiny_recipe, "--dataset", str(broken)]) == 2
    assert "lack the columns negative_title" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "1"])
def test_training_names_the_picture_that_it_cannot_read(tiny_recipe, tmp_path, mbe2, capsys, workers):
    folder = tmp_path / "spoilt"
    shutil.copytree(mbe2, folder)
    (shard,) = (folder / "triplets").glob("train-*.parquet")
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[3]["negative_image"]["bytes"] = rows[3]["negative_image"]["bytes"][:100]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    words = ["--augmented_image_probability", "0", "--dataloader_num_workers", workers]
    assert main([tiny_recipe, "--dataset", str(folder), *words]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    query_id, path = rows[3]["query_id"], rows[3]["negative_image"]["path"]
    assert sentence.startswith(f"error: Triplet {query_id}, its negative: the picture {path} cannot be read")


def test_a_damaged_data_set_is_refused(tiny_recipe, tmp_path, mbe2, capsys):
    folder = tmp_path / "damaged"
    shutil.copytree(mbe2, folder)
    (shard,) = (folder / "triplets").glob("train-*.parquet")
    shard.write_bytes(shard.read_bytes()[:5000])
    assert main([tiny_recipe, "--dataset", str(folder)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: The train triplets of {folder} cannot be read: ")


def test_upcycling_recipe_trains_from_a_dense_checkpoint(tiny_recipe, tmp_path, capsys):
    """`model:` may name any supported vision-language folder, or a Moon2 to go on from."""
    from transformers import AutoModel

    from conftest import vlm_config

    dense = tmp_path / "dense"
    AutoModel.from_config(vlm_config("qwen3_vl")).save_pretrained(dense)
    processor = tiny_processor("qwen3_vl")
    processor.tokenizer.save_pretrained(dense)
    processor.image_processor.save_pretrained(dense)
    recipe = yaml.safe_load(Path(tiny_recipe).read_text(encoding="utf-8"))
    for name in ("architecture", "vocab_size", "max_pixels", "moe_intermediate_size"):
        del recipe[name]
    recipe |= {"model": str(dense), "max_steps": 2, "output_dir": str(tmp_path / "first")}
    (tmp_path / "upcycle.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main([str(tmp_path / "upcycle.yaml")]) == 0
    second = str(tmp_path / "second")
    assert main([str(tmp_path / "upcycle.yaml"), "--model", recipe["output_dir"], "--output_dir", second]) == 0
    Moon2Model.from_pretrained(second)
    assert main([str(tmp_path / "upcycle.yaml"), "--model", second, "--num_experts", "3"]) == 2
    assert f"num_experts is 3 in the recipe but 4 in {second}" in capsys.readouterr().err
    assert main([str(tmp_path / "upcycle.yaml"), "--vocab_size", "300"]) == 2
    assert "vocab_size only means something with architecture" in capsys.readouterr().err
