"""Training: a few real steps lower the loss, the views are found, figures are logged, wrong recipes are explained."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import fresh
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType
from datasets import Image, load_dataset
from peft import PeftModel
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainingArguments

from conftest import OLD_DATASETS, change, cut_picture, picture, tiny_model, tiny_processor
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from train_moon2 import main
from training_moon2.arguments import trainer_fields
from training_moon2.dry_run import grouped_mm_flops
from training_moon2.recipe import LATER, read_recipe
from training_moon2.run import build_trainer, sentence
from training_moon2.trainer import Moon2Trainer

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "tiny.yaml"


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
    made = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert made["triplets"] > 0 and made["processes"] == 1 and made["hardware"]["cores"] and "torch" in made["versions"]
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
    expected |= {f"expert_{z}_{name}" for z in range(4) for name in ("t", "i", "mm")}
    expected |= {"similarity_margin", "grad_norm", "tokens_per_second", "triplets_per_second"}
    assert expected <= set(logs[0]) and len(logs) == 2
    assert logs[0]["omega_sum"] == pytest.approx(1.0, abs=0.05)
    assert sum(logs[0][f"expert_{z}_mm"] for z in range(4)) == pytest.approx(1.0, abs=1e-4)
    metrics = trainer.evaluate()
    assert torch.isfinite(torch.tensor(metrics["eval_loss"]))
    recalls = [metrics[f"eval_recall_{direction}"] for direction in ("t2mm", "i2mm", "mm2mm", "t2i", "i2t")]
    assert metrics["eval_recall_mean"] == pytest.approx(sum(recalls) / 5) and all(0 <= value <= 1 for value in recalls)
    written = [json.loads(line) for line in (tmp_path / "moon2" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in written if "loss" in entry] == [5, 10]
    assert sum(written[0]["phi_histogram"]) == 75, "an epoch is five steps"
    assert written[0]["loss"] == logs[0]["loss"]
    assert [entry["eval_recall_t2i"] for entry in written if "eval_loss" in entry][-1] == metrics["eval_recall_t2i"]


def test_same_seed_same_weights(tiny_recipe):
    runs = []
    for _ in range(2):
        trainer = make_trainer(tiny_recipe, max_steps=3, per_device_train_batch_size=4)
        trainer.train()
        runs.append(trainer.model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_the_recipe_says_how_fast_w_star_learns(tiny_recipe):
    moved = {}
    for rate in (0.0, 0.1):
        trainer = make_trainer(
            tiny_recipe,
            max_steps=3,
            per_device_train_batch_size=4,
            dual_alignment_learning_rate=rate,
            objective_weighting="detached",
        )
        start = trainer.model.dual_alignment.weight.detach().clone()
        trainer.train()
        moved[rate] = (trainer.model.dual_alignment.weight - start).abs().max().item()
    assert moved[0.0] == 0 and moved[0.1] > 0.05


def test_the_fields_of_the_trainer_are_those_of_its_class():
    assert trainer_fields() == [field.name for field in fields(TrainingArguments) if field.init]


def test_the_trainer_s_fields_are_read_as_the_trainer_reads_them(tiny_recipe):
    words = ["--bf16", "false", "--no_dataloader_pin_memory", "--lr_scheduler_kwargs", '{"num_cycles": 1}']
    read = read_recipe([tiny_recipe, *words, "--report-to", "none", "--max_grad_norm=2", "--weight_decay", "1e-3"])
    training = read.training
    assert training.max_steps == 30 and training.use_cpu, "from the file"
    assert (training.bf16, training.dataloader_pin_memory, training.lr_scheduler_kwargs) == (
        False,
        False,
        {"num_cycles": 1},
    )
    assert (training.report_to, training.max_grad_norm, training.weight_decay) == ([], 2.0, 1e-3)
    assert {"bf16", "dataloader_pin_memory", "report_to", "max_grad_norm", "max_steps"} <= read.given
    with pytest.raises(ValueError, match="--max_steps: invalid int value: 'many'"):
        read_recipe([tiny_recipe, "--max_steps", "many"])


def test_routers_may_learn_faster_and_keep_small_logits(tiny_recipe):
    moved, logits = {}, {}
    common = {"warmup_steps": 0, "per_device_train_batch_size": 8}
    for factor in (1.0, 8.0):
        trainer = make_trainer(tiny_recipe, max_steps=3, router_learning_rate_factor=factor, **common)
        weights = {name: value for name, value in trainer.model.named_parameters() if "mlp.gate." in name}
        start = {name: value.detach().clone() for name, value in weights.items()}
        trainer.train()
        moved[factor] = max((value - start[name]).abs().max().item() for name, value in weights.items())
        assert trainer.state.log_history[-1]["train_loss"] > 0 and len(weights) == 2
    assert moved[8.0] == pytest.approx(8 * moved[1.0], rel=0.5)
    for weight in (0.0, 10.0):
        trainer = make_trainer(
            tiny_recipe, max_steps=10, router_learning_rate_factor=20, z_loss_weight=weight, **common
        )
        trainer.train()
        with torch.no_grad():
            features = trainer.processing_class([{"text": "red mug"}, {"text": "blue shirt"}])
            logits[weight] = (
                torch.stack(trainer.model.eval()(**features).router_logits).logsumexp(-1).abs().mean().item()
            )
    assert logits[10.0] < 0.9 * logits[0.0]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_routers_that_learn_faster_have_the_weight_decay_of_all_weights(tiny_recipe, decay):
    found = []
    for factor in (1.0, 8.0):
        trainer = make_trainer(tiny_recipe, router_learning_rate_factor=factor, weight_decay=decay)
        groups = trainer.create_optimizer().param_groups
        decay_of = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
        found.append({name: decay_of[id(weight)] for name, weight in trainer.model.named_parameters()})
        rates = {group["lr"] for group in groups if group["params"]}
        assert rates == {trainer.args.learning_rate, factor * trainer.args.learning_rate}
    assert found[0] == found[1]


def test_the_log_tells_how_far_experts_are_apart(tiny_recipe):
    trainer = make_trainer(tiny_recipe, max_steps=1, logging_steps=1, per_device_train_batch_size=4)
    trainer.train()
    assert 1.3 < trainer.state.log_history[0]["expert_distance"] < 1.5, "drawn independently of one another"


def test_a_run_of_before_the_newer_fields_can_be_resumed(tiny_recipe):
    recorded = read_recipe([tiny_recipe]).decisive()
    assert not LATER.keys() & recorded.keys(), "what an earlier version did is not named"
    changed = read_recipe([tiny_recipe, "--router_learning_rate_factor", "5", "--z_loss_weight", "0.001"]).decisive()
    assert changed == recorded | {"router_learning_rate_factor": 5.0, "z_loss_weight": 0.001}


def make_trainer(recipe: str, **changes) -> Moon2Trainer:
    words = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    return build_trainer(read_recipe([recipe, *words]))


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere.yaml"], "There is no recipe nowhere.yaml"),
        (["{recipe}", "--dataset", "nowhere"], "no data set folder nowhere"),
        (["{recipe}", "--temperature", "0"], "temperature is 0"),
        (["{recipe}", "--dual_alignment_learning_rate", "-1"], "dual_alignment_learning_rate is -1.0; it must be 0 or"),
        (["{recipe}", "--dual_alignment_learning_rate", "0.05"], "which objective_weighting: queries does not read"),
        (
            ["{recipe}", "--coaugmentation", "add", "--enriched_title_probability", "0"]
            + ["--augmented_image_probability", "0"],
            "nothing is ever added: give at least one",
        ),
        (["{recipe}", "--enriched_title_probability", "2"], "enriched_title_probability is 2"),
        (["{recipe}", "--data_seed", "3"], "the order of triplets follows seed: leave it out"),
        (["{recipe}", "--train_sampling_strategy", "sequential"], "train_sampling_strategy: sequential does nothing"),
        (
            ["{recipe}", "--dataloader_persistent_workers", "true", "--dataloader_num_workers", "1"],
            "workers that never hear of a new epoch",
        ),
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
    folder = change(mbe2, tmp_path / "spoilt", cut_picture)
    row = load_dataset(mbe2, "triplets", split="train").cast_column("negative_image", Image(decode=False))[3]
    words = ["--augmented_image_probability", "0", "--dataloader_num_workers", workers]
    assert main([tiny_recipe, "--dataset", str(folder), *words]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    query_id, path = row["query_id"], row["negative_image"]["path"]
    assert sentence.startswith(f"error: Triplet {query_id}, its negative: the image {path} cannot be read")


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
    for name in ("architecture", "vocab_size", "fold_words", "max_pixels", "moe_intermediate_size"):
        del recipe[name]
    recipe |= {"model": str(dense), "max_steps": 2, "output_dir": str(tmp_path / "first")}
    (tmp_path / "upcycle.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main([str(tmp_path / "upcycle.yaml")]) == 0
    second = str(tmp_path / "second")
    assert main([str(tmp_path / "upcycle.yaml"), "--model", recipe["output_dir"], "--output_dir", second]) == 0
    Moon2Model.from_pretrained(second)
    assert main([str(tmp_path / "upcycle.yaml"), "--model", second, "--num_experts", "3"]) == 2
    assert f"num_experts is 3 in the recipe but 4 in {second}" in capsys.readouterr().err
    for option in (["--vocab_size", "300"], ["--fold_words", "true"]):
        assert main([str(tmp_path / "upcycle.yaml"), *option]) == 2
        assert f"{option[0][2:]} only means something with architecture" in capsys.readouterr().err


def test_lora_by_name_leaves_a_merged_model_and_the_adapter(tiny_recipe, tmp_path, capsys):
    """Attention, experts and vision tower; the merged model and the base with the adapter give the same vectors."""
    assert main([tiny_recipe, "--max_steps", "2"]) == 0
    base, tuned = tmp_path / "moon2", tmp_path / "tuned"
    recipe = yaml.safe_load(Path(tiny_recipe).read_text(encoding="utf-8"))
    for name in ("architecture", "vocab_size", "fold_words", "max_pixels", "moe_intermediate_size"):
        del recipe[name]
    recipe |= {"model": str(base), "output_dir": str(tuned), "max_steps": 2, "learning_rate": 0.05}
    recipe |= {"lora_rank": 4, "lora_targets": ["attention", "experts", "vision"], "save_strategy": "steps"}
    recipe |= {"save_steps": 1, "warmup_steps": 0}
    path = tmp_path / "lora.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main([str(path)]) == 0
    assert "its LoRA adapter" in capsys.readouterr().out
    products, processor = (
        [{"text": "red mug"}, {"text": "蓝色", "image": picture(40, 30)}],
        Moon2Processor.from_pretrained(tuned),
    )
    vectors = {}
    with torch.no_grad():
        for name, model in (
            ("base", Moon2Model.from_pretrained(base)),
            ("merged", Moon2Model.from_pretrained(tuned)),
            ("adapter", PeftModel.from_pretrained(Moon2Model.from_pretrained(base), tuned / "adapter").eval()),
        ):
            vectors[name] = model(**processor(products)).embeddings
    torch.testing.assert_close(vectors["merged"], vectors["adapter"], atol=1e-5, rtol=0)
    assert (vectors["merged"] - vectors["base"]).abs().max() > 1e-3
    trained = {name for name in load_file(tuned / "adapter" / "adapter_model.safetensors")}
    assert all(
        any(part in name for name in trained) for part in ("self_attn", ".experts.", "visual", "mlp.gate", "dual")
    )
    assert {path.name for path in tuned.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}

    expected = load_file(tuned / "model.safetensors")
    shutil.rmtree(tuned / "checkpoint-2")
    assert main([str(path), "--resume_from_checkpoint", "true"]) == 0
    again = load_file(tuned / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    assert main([str(path), "--model", str(tuned / "adapter"), "--output_dir", str(tmp_path / "x")]) == 2
    assert "is a LoRA adapter, not a model" in capsys.readouterr().err


def test_a_dry_run_measures_tells_and_writes_nothing(tiny_recipe, tmp_path, capsys):
    assert main([tiny_recipe, "--dry_run", "true", "--grad_cache_chunk", "8"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "M active for a token",
        "75 triplets; 16 triplets a step, 30 steps = 6.4 epochs",
        "Tokens of a triplet",
        "MiB of gradients and AdamW states",
        "TFLOP",
        "30 steps would take about",
        "The first batch: ",
    ):
        assert words in shown, words
    assert shown.count("\n  query ") == 3 and "an image" in shown
    assert not list((tmp_path / "moon2").iterdir())


def test_operations_of_experts_are_counted():
    tokens, weights = torch.ones(6, 16, requires_grad=True), torch.ones(2, 16, 32, requires_grad=True)
    offsets = torch.tensor([2, 6], dtype=torch.int32)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: grouped_mm_flops}) as counter:
        product = torch.nn.functional.grouped_mm(tokens, weights, offs=offsets)
        product.backward(torch.ones_like(product))
    assert counter.get_total_flops() == 3 * 2 * 6 * 16 * 32


@pytest.mark.skipif(OLD_DATASETS, reason="streaming needs datasets 5.0")
def test_a_stream_trains_as_a_folder_does(tiny_recipe, tmp_path, capsys):
    words = ["--streaming", "true", "--max_steps", "6", "--dataloader_num_workers", "1", "--save_strategy", "steps"]
    assert main([tiny_recipe, *words, "--save_steps", "4"]) == 0
    assert "a stream of triplets" in capsys.readouterr().out
    expected = load_file(tmp_path / "moon2" / "model.safetensors")
    shutil.rmtree(tmp_path / "moon2" / "checkpoint-6")
    assert main([tiny_recipe, *words, "--save_steps", "4", "--resume_from_checkpoint", "true"]) == 0
    again = load_file(tmp_path / "moon2" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    assert main([tiny_recipe, "--streaming", "true", "--max_steps", "-1"]) == 2
    assert "streaming needs max_steps" in capsys.readouterr().err


def test_the_best_checkpoint_is_kept_and_loaded(tiny_recipe, tmp_path):
    """By Recall@10 on the validation sample, whatever the last one is like."""
    words = (
        "--eval_strategy steps --eval_steps 4 --save_strategy steps --save_steps 4 --max_steps 16 --learning_rate 0.02"
    )
    words += " --load_best_model_at_end true --metric_for_best_model recall_mean --greater_is_better true"
    assert main([tiny_recipe, *words.split(), "--save_total_limit", "1"]) == 0
    folder = tmp_path / "moon2"
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    recalls = {entry["step"]: entry["eval_recall_mean"] for entry in log if "eval_recall_mean" in entry}
    best = max(recalls, key=recalls.get)
    kept = {path.name for path in folder.glob("checkpoint-*")}
    assert len(recalls) == 4
    assert kept == {f"checkpoint-{best}"}  # with a limit of one the Trainer gives the last one up for the best
    saved, checkpoint = (load_file(path / "model.safetensors") for path in (folder, folder / f"checkpoint-{best}"))
    assert all(torch.equal(saved[name], value) for name, value in checkpoint.items())
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_model_checkpoint"] == str(folder / f"checkpoint-{best}")


def test_planted_false_positives_are_told_from_the_rest(tiny_recipe, tmp_path, capsys):
    words = ["--false_positive_share", "0.3", "--dump_filtered", "true", "--max_steps", "10", "--filter_warmup", "0"]
    assert main([tiny_recipe, *words]) == 0
    lines = (tmp_path / "moon2" / "filtered.jsonl").read_text(encoding="utf-8").splitlines()
    filtered = [json.loads(line) for line in lines]
    assert [entry["phi"] for entry in filtered] == sorted(entry["phi"] for entry in filtered)
    assert all(entry["phi"] < 0.6 for entry in filtered)
    said = capsys.readouterr().out
    hits = sum(entry["false_positive"] for entry in filtered)
    assert f"filtered.jsonl: {len(filtered)} of 75 triplets seen have phi below 0.6" in said
    assert f"precision {hits / len(filtered):.1%}" in said and 0 < hits < len(filtered)
    log = [json.loads(line) for line in (tmp_path / "moon2" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(0 <= entry["filter_precision"] <= 1 for entry in log if "loss" in entry)


@pytest.mark.parametrize(
    "name", sorted(path.name for path in RECIPE.parent.glob("*.yaml") if "accelerate" not in path.name)
)
def test_every_recipe_can_be_read(name, tmp_path):
    recipe = read_recipe([str(RECIPE.parent / name), "--output_dir", str(tmp_path), "--bf16", "false"])
    assert recipe.training.learning_rate > 0
    text = (RECIPE.parent / name).read_text(encoding="utf-8")
    assert text.startswith("# ") and text.count("#") >= 6
    written = yaml.safe_load(text)
    fields = recipe.fields()
    for field in (written.keys() - {"output_dir", "bf16", "report_to"}) & fields.keys():
        assert str(fields[field]).lower() == str(written[field]).lower(), field


def test_the_deepspeed_configuration_is_read_by_accelerate():
    config = load_config_from_file(str(RECIPE.parent / "accelerate-deepspeed.yaml"))
    assert config.distributed_type == DistributedType.DEEPSPEED and config.num_processes == 8
    assert config.deepspeed_config["zero_stage"] == 2
    assert config.deepspeed_config.keys() <= DeepSpeedPlugin.__dataclass_fields__.keys()


def test_the_accelerate_configuration_is_read_by_accelerate():
    config = load_config_from_file(str(RECIPE.parent / "accelerate-fsdp.yaml"))
    assert config.distributed_type == DistributedType.FSDP and config.num_processes == 8
    classes = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    model = tiny_model("qwen3_vl")
    found = {type(module).__name__ for module in model.modules()}
    assert set(classes) <= found


def test_going_on_from_a_checkpoint_asks_nobody_for_trust(tmp_path):
    """In a terminal, a question whether to run its code would wait for an answer; the code is ours already."""
    for part in (tiny_model(), tiny_processor()):
        part.save_pretrained(tmp_path)
    load = (
        "import sys\nfrom training_moon2.arguments import ModelArguments\n"
        "from training_moon2.model import build_model\n"
        "build_model(ModelArguments(model=sys.argv[1]), None)"
    )
    child = fresh.run(["-c", load, str(tmp_path)], cwd=ROOT)
    assert child.returncode == 0, child.stderr
    assert "custom code" not in child.stdout + child.stderr


def test_several_gpus_want_several_processes(tiny_recipe, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match="2 GPUs and one process: start one for each with torchrun --nproc_per_node 2"):
        read_recipe([tiny_recipe])


def test_an_error_is_told_whole_and_one_of_a_worker_without_its_traceback():
    assert sentence(OSError("There is no such file.\n\nCheck the name:\n  a.txt")) == (
        "There is no such file. Check the name: a.txt"
    )
    worker = (
        "Caught TripletError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "a.py", line 3, in f\n    raise TripletError(text)\n'
        "training_moon2.triplets.TripletError: Triplet q1: the image cannot be read.\nLook at it.\n"
    )
    assert sentence(RuntimeError(worker)) == "Triplet q1: the image cannot be read. Look at it."
