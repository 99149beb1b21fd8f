"""Faults of a run: it is stopped, killed, starved of disk or fed NaN, and its result is that of an untroubled one."""

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import torch
import yaml

import train_moon2
from conftest import same_bytes
from training_moon2 import run as run_module
from training_moon2.callbacks import RefusedSteps
from training_moon2.checkpoints import (
    MANIFEST,
    STAGING,
    CheckpointError,
    checkpoints,
    damage,
    newest_complete,
    writing,
)
from training_moon2.trainer import Moon2Trainer

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny.yaml"
TRIPLETS, STEPS = 38, 7  # in batches of 8 an epoch has 5 steps
RESUME = ("--resume_from_checkpoint", "true")


class Run(NamedTuple):
    """A run that nothing troubled: its folder with a checkpoint of every step, and what it saw."""

    folder: Path
    batches: list[list[str]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums must not depend on the count of threads, and a forked process must not wait for those of its parent."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def triplets(tmp_path_factory, mbe2) -> Path:
    """A data set with half of the triplets, since many runs are trained here."""
    folder = shutil.copytree(mbe2, tmp_path_factory.mktemp("data") / "mbe2")
    (shard,) = (folder / "triplets").glob("train-*.parquet")
    pq.write_table(pq.read_table(shard).slice(0, TRIPLETS), shard)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, triplets) -> str:
    """recipes/tiny.yaml, as small as it can be; with dropout, so that the state of the random numbers matters."""
    fields = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    text, vision = fields["architecture"]["text_config"], fields["architecture"]["vision_config"]
    text |= dict(num_hidden_layers=1, hidden_size=32, intermediate_size=48, head_dim=16, attention_dropout=0.2)
    text |= dict(num_attention_heads=2, num_key_value_heads=2)
    text["rope_parameters"]["mrope_section"] = [4, 2, 2]
    vision |= dict(depth=1, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=32)
    fields |= dict(dataset=str(triplets), vocab_size=300, max_pixels=1024, moe_intermediate_size=16, use_cpu=True)
    fields |= dict(per_device_train_batch_size=8, max_steps=STEPS, lr_scheduler_type="constant", warmup_steps=0)
    fields |= dict(save_strategy="steps", save_steps=3, logging_steps=1, disable_tqdm=True)
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return str(path)


def watch(monkeypatch, hook: Callable[[Moon2Trainer, dict], None]):
    """Calls `hook` with the trainer and the inputs before each batch."""
    step = Moon2Trainer.training_step

    def watched(self, model, inputs, num_items_in_batch=None):
        hook(self, inputs)
        return step(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(Moon2Trainer, "training_step", watched)


def untroubled(recipe: str, folder: Path, *words: str) -> Run:
    """Trains without any fault."""
    batches = []
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, lambda trainer, inputs: batches.append(inputs["query_ids"]))
        assert train_moon2.main([recipe, "--output_dir", str(folder), *words]) == 0
    return Run(folder, batches)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Run:
    return untroubled(recipe, tmp_path_factory.mktemp("finished") / "run", "--save_steps", "1")


def stopped_after(finished: Run, step: int, folder: Path) -> Path:
    """What a run would have left that was killed after a step, in the step that followed."""
    shutil.copytree(finished.folder / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    log = (finished.folder / "filter.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "filter.jsonl").write_text("".join(log[: step + 1]) + '{"step": 99, "ph', encoding="utf-8")
    logged = [entry for entry in lines(finished.folder / "log.jsonl") if "loss" in entry]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in logged), encoding="utf-8")
    return folder


def assert_same(folder: Path, other: Path):
    """The same weights, optimizer, schedule, random numbers and log, to the last bit."""
    assert same_bytes(folder / "model.safetensors", other / "model.safetensors")
    last, other_last = checkpoints(folder)[0], checkpoints(other)[0]
    assert last.name == other_last.name
    (weights,) = last.glob("*model.safetensors")
    assert same_bytes(weights, other_last / weights.name)
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.testing.assert_close(load(last / name), load(other_last / name), rtol=0, atol=0)
    assert torch.equal(load(last / "rng_state.pth")["cpu"], load(other_last / "rng_state.pth")["cpu"])
    assert same_bytes(folder / "filter.jsonl", other / "filter.jsonl")


def load(path: Path) -> dict:
    return torch.load(path, weights_only=path.name != "rng_state.pth")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sentence(text: str) -> str:
    """The one error of a run."""
    (found,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in text
    return found


# Resuming


@pytest.mark.parametrize("step", [2, 5, 6, STEPS])
def test_a_resumed_run_ends_like_one_that_was_never_stopped(recipe, finished, tmp_path, capsys, step):
    """Stopped within the first epoch, at its end, within the second, and before the finished model was saved."""
    folder = stopped_after(finished, step, tmp_path / "run")
    resumed = untroubled(recipe, folder, *RESUME)
    assert f"Resuming from {folder / f'checkpoint-{step}'}." in capsys.readouterr().out
    assert resumed.batches == finished.batches[step:]
    assert_same(folder, finished.folder)
    assert [entry["step"] for entry in lines(folder / "filter.jsonl")] == list(range(1, STEPS + 1))
    means = [
        [entry["train_loss"] for entry in lines(run / "log.jsonl") if "train_loss" in entry]
        for run in (folder, finished.folder)
    ]
    assert means[0] and means[0] == means[1], "the mean loss is that of all steps"


def test_the_comparison_notices_other_random_numbers(recipe, finished, tmp_path, monkeypatch):
    folder = stopped_after(finished, 2, tmp_path / "run")
    shutil.copy(finished.folder / "checkpoint-3" / "rng_state.pth", folder / "checkpoint-2")
    monkeypatch.setattr("training_moon2.checkpoints.damage", lambda folder: None)
    untroubled(recipe, folder, *RESUME)
    with pytest.raises(AssertionError):
        assert_same(folder, finished.folder)


@pytest.mark.parametrize(
    "step, words",
    [
        (6, ("--dataloader_num_workers", "1")),
        (2, ("--gradient_accumulation_steps", "2")),
        (2, ("--streaming", "true")),
        (6, ("--streaming", "true", "--dataloader_num_workers", "1")),
        (2, ("--grad_cache_chunk", "4", "--lora_rank", "2")),
    ],
    ids=["workers", "accumulation", "streaming", "streaming with workers", "GradCache and LoRA"],
)
def test_resuming_goes_together_with(recipe, finished, tmp_path, step, words):
    """Stopped within the first epoch or within the second."""
    whole = finished
    if words[0] != "--dataloader_num_workers":  # how many workers read makes no difference
        whole = untroubled(recipe, tmp_path / "whole", "--save_steps", str(step), *words)
    folder = stopped_after(whole, step, tmp_path / "run")
    resumed = untroubled(recipe, folder, *words, *RESUME)
    assert resumed.batches == whole.batches[-len(resumed.batches) :]
    assert_same(folder, whole.folder)


def test_a_damaged_checkpoint_is_skipped_aloud(recipe, finished, tmp_path, capsys):
    folder = stopped_after(finished, 4, tmp_path / "run")
    for step in (5, 6):
        shutil.copytree(finished.folder / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    os.truncate(folder / "checkpoint-6" / "optimizer.pt", 1000)
    (folder / "checkpoint-5" / MANIFEST).unlink()
    (folder / STAGING / "checkpoint-7").mkdir(parents=True)
    # Of two checkpoints only, those that are damaged must not be kept in the place of good ones.
    untroubled(recipe, folder, *RESUME, "--save_total_limit", "2", "--save_steps", "1")
    said = capsys.readouterr().out.splitlines()
    start = said.index(f"Skipped {folder / 'checkpoint-5'}: it has no {MANIFEST}.")
    assert said[start - 1].startswith(f"Skipped {folder / 'checkpoint-6'}: optimizer.pt has 1000 bytes instead of ")
    removed = [f"Removed {folder / name}: it is damaged." for name in ("checkpoint-6", "checkpoint-5")]
    assert said[start + 1 : start + 4] == [*removed, f"Resuming from {folder / 'checkpoint-4'}."]
    assert_same(folder, finished.folder)
    assert not (folder / STAGING).exists()
    assert [(path.name, damage(path)) for path in checkpoints(folder)] == [
        ("checkpoint-7", None),
        ("checkpoint-6", None),
    ]


def test_a_new_checkpoint_is_not_given_up_for_damaged_ones(recipe, finished, tmp_path):
    """Of a limited number of checkpoints those that cannot be resumed from do not count."""
    folder = stopped_after(finished, 3, tmp_path / "run")
    for step in (6, 7):
        shutil.copytree(finished.folder / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        (folder / f"checkpoint-{step}" / MANIFEST).unlink()
    words = ("--output_dir", str(folder), *RESUME, "--save_total_limit", "2", "--save_steps", "1")

    def setup(patch):
        kill_self(patch, 5, signal.SIGKILL)

    assert in_child([recipe, *words], tmp_path / "log", setup) == -signal.SIGKILL
    assert newest_complete(folder)[0] == folder / "checkpoint-5"


def test_another_recipe_is_refused_unless_allowed(recipe, finished, tmp_path, capsys):
    folder = stopped_after(finished, 6, tmp_path / "run")
    words = [recipe, "--output_dir", str(folder), *RESUME, "--learning_rate", "0.003", "--temperature", "0.07"]
    assert train_moon2.main(words) == 2
    said = sentence(capsys.readouterr().err)
    assert said.startswith(
        f"error: {folder / 'checkpoint-6'} belongs to another run: learning_rate was 0.002 and is 0.003"
    )
    assert "temperature was 0.05 and is 0.07" in said and "--allow_changed_run true" in said
    assert not (folder / "model.safetensors").exists()
    assert train_moon2.main([*words, "--allow_changed_run", "true"]) == 0
    assert "although learning_rate was 0.002 and is 0.003" in capsys.readouterr().out
    assert json.loads((folder / "checkpoint-7" / MANIFEST).read_text())["run"]["learning_rate"] == 0.003


def test_what_does_not_change_the_result_may_change(recipe, finished, tmp_path):
    folder = stopped_after(finished, 6, tmp_path / "run")
    untroubled(recipe, folder, *RESUME, "--logging_steps", "2", "--max_refused_steps", "9", "--save_steps", "5")
    assert same_bytes(folder / "model.safetensors", finished.folder / "model.safetensors")


def test_another_data_set_is_refused_unless_allowed(recipe, finished, tmp_path, triplets, capsys):
    """One word of one title, in the same folder."""
    data, folder = tmp_path / "mbe2", stopped_after(finished, 6, tmp_path / "run")
    shutil.copytree(triplets, data)
    words = [recipe, "--output_dir", str(folder), *RESUME]
    changed = tmp_path / "changed.yaml"
    fields = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    changed.write_text(yaml.safe_dump(fields | {"dataset": str(data)}), encoding="utf-8")
    words[0] = str(changed)
    (shard,) = (data / "triplets").glob("train-*.parquet")
    table = pq.read_table(shard)
    titles = table.column("positive_title").to_pylist()
    titles[30] = titles[30][::-1]
    place = table.column_names.index("positive_title")
    pq.write_table(table.set_column(place, table.schema.field(place), [titles]), shard)
    assert train_moon2.main(words) == 2
    said = sentence(capsys.readouterr().err)
    assert "belongs to another run: " in said and "triplets was " in said and "--allow_changed_run true" in said
    assert train_moon2.main([*words, "--allow_changed_run", "true"]) == 0


def test_checkpoints_of_an_earlier_run_are_not_overwritten(recipe, finished, tmp_path, capsys):
    folder = stopped_after(finished, 2, tmp_path / "run")
    assert train_moon2.main([recipe, "--output_dir", str(folder)]) == 2
    said = sentence(capsys.readouterr().err)
    assert said.startswith(f"error: {folder} holds checkpoints of an earlier run") and RESUME[0] in said
    assert damage(folder / "checkpoint-2") is None and (folder / "filter.jsonl").exists()


def test_there_is_nothing_to_resume(recipe, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train_moon2.main([recipe, "--output_dir", str(folder), *RESUME]) == 2
    assert sentence(capsys.readouterr().err) == f"error: There is no complete checkpoint in {folder} to resume from."
    stopped_after(finished, 2, folder)
    (folder / "checkpoint-2" / "optimizer.pt").unlink()
    assert train_moon2.main([recipe, "--output_dir", str(folder), *RESUME]) == 2
    captured = capsys.readouterr()
    assert "no complete checkpoint" in sentence(captured.err)
    assert f"Skipped {folder / 'checkpoint-2'}: optimizer.pt is missing." in captured.out
    asked = folder / "checkpoint-2"
    assert train_moon2.main([recipe, "--output_dir", str(folder), RESUME[0], str(asked)]) == 2
    assert sentence(capsys.readouterr().err) == f"error: {asked} cannot be resumed from: optimizer.pt is missing."


# Signals and other ends, in processes of their own


def in_child(words: list[str], log: Path, setup: Callable[[pytest.MonkeyPatch], None] | None = None) -> int:
    """The exit code of train_moon2.main in a forked process; negative: the signal that ended it.

    Args:
        log: gets what the process prints.
        setup: called there first.
    """
    return wait(start_child(words, log, setup))


def start_child(words: list[str], log: Path, setup: Callable[[pytest.MonkeyPatch], None] | None = None) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 99  # of a bug, with its traceback in the log
    try:
        torch.set_num_threads(1)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
        if setup is not None:
            setup(pytest.MonkeyPatch())
        code = train_moon2.main(words)
    except KeyboardInterrupt:  # as the interpreter does
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def wait(child: int, timeout: float = 60) -> int:
    """Like `Popen.wait`."""
    end = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"the run did not end within {timeout:.0f} s")
        time.sleep(0.005)


def kill_self(patch, step: int, *signals: int, group: bool = False):
    """Sends signals to a run, or to it and its workers as Ctrl-C does, in the middle of the step after `step` steps."""

    def hook(trainer, inputs):
        if trainer.state.global_step == step:
            for number in signals:
                (os.killpg if group else os.kill)(os.getpid(), number)
                time.sleep(0.05)

    watch(patch, hook)


@pytest.mark.parametrize(
    "number, step, words",
    [
        (signal.SIGINT, 1, ()),
        (signal.SIGTERM, 1, ("--save_strategy", "no")),
        (signal.SIGINT, 1, ("--dataloader_num_workers", "1")),
        (signal.SIGTERM, 4, ()),
        (signal.SIGINT, STEPS - 1, ()),
    ],
    ids=["middle", "without checkpoints", "workers", "end of epoch", "last step"],
)
def test_a_signal_saves_and_leaves(recipe, finished, tmp_path, number, step, words):
    folder, log = tmp_path / "run", tmp_path / "log"

    def setup(patch):
        kill_self(patch, step, number, group=True)

    assert in_child([recipe, "--output_dir", str(folder), *words], log, setup) == 128 + number, log.read_text()
    assert (
        f"Stopped by {number.name} after step {step + 1}; a checkpoint is in {folder}/. To go on: the same command "
        "with --resume_from_checkpoint true"
    ) in log.read_text()
    assert newest_complete(folder) == (folder / f"checkpoint-{step + 1}", [])
    assert not (folder / "model.safetensors").exists() and not any((folder / STAGING).glob("*"))
    assert train_moon2.main([recipe, "--output_dir", str(folder), *RESUME]) == 0
    assert_same(folder, finished.folder)


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)])
def test_a_second_signal_leaves_at_once(recipe, tmp_path, signals):
    folder = tmp_path / "run"

    def setup(patch):
        kill_self(patch, 2, *signals)

    words = [recipe, "--output_dir", str(folder), "--save_steps", "1"]
    assert in_child(words, tmp_path / "log", setup) in (-signals[0], 128 + signals[0])
    assert newest_complete(folder) == (folder / "checkpoint-2", [])


def test_handlers_are_given_back(recipe, tmp_path):
    """After a run that ended well, and after one that did not."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for words, code in (((), 0), (("--max_refused_steps", "1"), 2)):
        with pytest.MonkeyPatch.context() as patch:
            if words:
                poison(patch, lambda trainer, inputs: inputs["query_ids"])
            folder = tmp_path / f"run {code}"
            assert train_moon2.main([recipe, "--output_dir", str(folder), "--max_steps", "1", *words]) == code
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# Numbers that are not finite


def poison(patch, chosen: Callable[[Moon2Trainer, dict], list[str]], value: float = float("nan")):
    """Makes the vectors of the chosen triplets' positives NaN, as a model does that was driven too far."""
    embed = Moon2Trainer._embed

    def poisoned(self, model, inputs):
        items, rows, keys = embed(self, model, inputs)
        broken = torch.zeros(len(items.embeddings), 1, dtype=torch.bool)
        for query_id in chosen(self, inputs):
            row = inputs["query_ids"].index(query_id)
            places = [kinds[row] for kinds in rows["positive"].values()]
            broken[torch.stack([place for place in places if place >= 0])] = True
        return items._replace(embeddings=torch.where(broken, value, items.embeddings)), rows, keys

    patch.setattr(Moon2Trainer, "_embed", poisoned)


def snapshots(patch) -> list[dict[str, torch.Tensor]]:
    """Weights and optimizer before each batch."""
    taken = []

    def hook(trainer, inputs):
        states = trainer.optimizer.state_dict()["state"]
        taken.append({name: value.detach().clone() for name, value in trainer.model.named_parameters()})
        taken[-1] |= {f"{place}.{name}": v.clone() for place, state in states.items() for name, v in state.items()}

    watch(patch, hook)
    return taken


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def endless_gradient(patch, step: int):
    """A loss that is finite and whose gradient is not, in one step."""
    compute_loss = Moon2Trainer.compute_loss

    def computed(self, model, inputs, **kwargs):
        loss = compute_loss(self, model, inputs, **kwargs)
        if self.state.global_step == step:
            weight = model.dual_alignment.weight
            loss = loss + (weight - weight.detach()).abs().sum().sqrt()
        return loss

    patch.setattr(Moon2Trainer, "compute_loss", computed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "gradient"])
def test_a_step_that_is_not_finite_is_refused_with_its_rows(recipe, finished, tmp_path, monkeypatch, value):
    folder, step = tmp_path / "run", 3
    if value == "gradient":
        endless_gradient(monkeypatch, step)
        reason = "the gradient's norm is nan"
    else:
        chosen = finished.batches[step][4:6]
        poison(monkeypatch, lambda trainer, inputs: [name for name in chosen if name in inputs["query_ids"]], value)
        reason = f"the loss is nan; no finite vector for the triplets {', '.join(chosen)}"
    taken = snapshots(monkeypatch)
    words = ("--max_steps", "5", "--save_strategy", "no")
    assert train_moon2.main([recipe, "--output_dir", str(folder), *words]) == 0
    (entry,) = lines(folder / "refused.jsonl")
    assert entry["reason"] == reason and entry["query_ids"] == finished.batches[step]
    assert [same(one, other) for one, other in zip(taken, taken[1:], strict=False)] == [False, False, False, True]
    log = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert [entry.get("refused_steps") for entry in log if "loss" in entry][-1] == 1


def test_fp16_lets_its_gradient_scaler_refuse_a_step_without_a_loss():
    """Whole runs in fp16 need a GPU; the scaler itself also works on a CPU, and wants gradients to refuse."""
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    optimizer, scaler = torch.optim.AdamW(model.parameters()), torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    refused = RefusedSteps(3)
    refused.refuse("the loss is nan")
    refused.spoil(model)
    scaler.unscale_(optimizer)
    told = SimpleNamespace(fp16=True, world_size=1, output_dir=".")
    refused.on_pre_optimizer_step(told, SimpleNamespace(global_step=0, is_world_process_zero=False), None, model)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight, before) and refused.total == 1


def test_a_full_disk_is_called_that(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with (
        pytest.raises(CheckpointError, match=r"cannot be written to .*: the disk is full \(0 MiB left\)"),
        writing(tmp_path / "run" / ".unfinished" / "checkpoint-1", remove=False),
    ):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")


@pytest.mark.parametrize("batch", [0, 1])
def test_with_gradient_accumulation_the_whole_step_is_refused(recipe, tmp_path, monkeypatch, batch):
    folder, seen = tmp_path / "run", []
    taken = snapshots(monkeypatch)
    watch(monkeypatch, lambda trainer, inputs: seen.append(inputs["query_ids"]))
    poison(monkeypatch, lambda trainer, inputs: inputs["query_ids"][:1] if len(seen) == 3 + batch else [])
    words = ("--gradient_accumulation_steps", "2", "--max_steps", "4", "--save_strategy", "no")
    assert train_moon2.main([recipe, "--output_dir", str(folder), *words]) == 0
    (entry,) = lines(folder / "refused.jsonl")
    assert entry["query_ids"] == seen[2] + seen[3]
    assert not same(taken[0], taken[2]) and same(taken[2], taken[4]) and not same(taken[4], taken[5])


def test_a_refused_step_is_written_once_though_the_run_is_resumed(recipe, tmp_path, monkeypatch):
    step = 2
    poison(monkeypatch, lambda trainer, inputs: inputs["query_ids"][:1] if trainer.state.global_step == step else [])
    whole = untroubled(recipe, tmp_path / "whole", "--save_steps", str(step))
    folder = stopped_after(whole, step, tmp_path / "run")
    shutil.copy(whole.folder / "refused.jsonl", folder)  # it was killed later than the step was refused
    untroubled(recipe, folder, *RESUME)
    assert lines(folder / "refused.jsonl") == lines(whole.folder / "refused.jsonl")
    assert [entry["step"] for entry in lines(folder / "refused.jsonl")] == [step + 1], "counted as in filter.jsonl"
    assert_same(folder, whole.folder)


def test_many_refused_steps_in_a_row_end_the_run_with_an_explanation(recipe, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    poison(monkeypatch, lambda trainer, inputs: inputs["query_ids"][:1] if trainer.state.global_step >= 2 else [])
    assert train_moon2.main([recipe, "--output_dir", str(folder), "--max_refused_steps", "3", "--save_steps", "1"]) == 2
    said = sentence(capsys.readouterr().err)
    assert said.startswith("error: 3 steps in a row were refused, the last at step ")
    assert "no finite vector for the triplets" in said and str(folder / "refused.jsonl") in said
    assert "The weights are those of the last good step" in said
    assert len(lines(folder / "refused.jsonl")) == 3 and not (folder / "model.safetensors").exists()
    assert newest_complete(folder) == (folder / "checkpoint-4", []) and damage(folder / "checkpoint-2") is None
    start, end = ((folder / f"checkpoint-{step}" / "model.safetensors").read_bytes() for step in (2, 4))
    assert start == end


def test_a_good_step_between_them_starts_the_count_anew(recipe, tmp_path, monkeypatch):
    bad = (1, 2, 4, 5)
    poison(monkeypatch, lambda trainer, inputs: inputs["query_ids"][:1] if trainer.state.global_step in bad else [])
    untroubled(recipe, tmp_path / "run", "--max_refused_steps", "3")
    assert len(lines(tmp_path / "run" / "refused.jsonl")) == 4


def test_weights_that_are_not_finite_are_named(recipe, tmp_path, monkeypatch, capsys):
    build_model = run_module.build_model

    def spoilt(*args):
        model, processor = build_model(*args)
        model.dual_alignment.weight.data[0, 0] = float("inf")
        return model, processor

    monkeypatch.setattr(run_module, "build_model", spoilt)
    assert train_moon2.main([recipe, "--output_dir", str(tmp_path / "run"), "--max_refused_steps", "2"]) == 2
    said = sentence(capsys.readouterr().err)
    assert "The weights themselves are not finite (dual_alignment.weight" in said and said.endswith(
        "start from others."
    )


def test_no_refused_step_at_all_cannot_be_asked_for(recipe, tmp_path, capsys):
    assert train_moon2.main([recipe, "--output_dir", str(tmp_path / "run"), "--max_refused_steps", "0"]) == 2
    assert "max_refused_steps is 0; it must be at least 1." in sentence(capsys.readouterr().err)


# A disk that is full or read-only


def fill_disk(size: int):
    """From now on a file of this process that would grow larger than `size` bytes cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("size", [4_000, 100_000, 400_000], ids=["code", "weights", "optimizer"])
def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(recipe, tmp_path, size):
    folder, log = tmp_path / "run", tmp_path / "log"

    def setup(patch):
        watch(patch, lambda trainer, inputs: trainer.state.global_step == 2 and fill_disk(size))

    words = [recipe, "--output_dir", str(folder), "--save_steps", "1", "--logging_steps", "100"]
    assert in_child(words, log, setup) == 2, log.read_text()
    said = sentence(log.read_text())
    assert said.startswith(f"error: checkpoint-3 cannot be written to {folder}: ")
    assert said.endswith("Earlier checkpoints are as they were.")
    assert [(path.name, damage(path)) for path in checkpoints(folder)] == [
        ("checkpoint-2", None),
        ("checkpoint-1", None),
    ]
    assert not (folder / STAGING).exists()


def test_a_disk_that_is_full_at_the_very_end_leaves_the_last_checkpoint(recipe, finished, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"

    def setup(patch):
        save = run_module.save
        patch.setattr(run_module, "save", lambda *args: (fill_disk(100_000), save(*args)))

    assert in_child([recipe, "--output_dir", str(folder)], log, setup) == 2, log.read_text()
    assert sentence(log.read_text()).startswith(f"error: model cannot be written to {folder}: ")
    assert newest_complete(folder) == (folder / f"checkpoint-{STEPS}", [])
    assert not (folder / STAGING).exists() and not (folder / "model.safetensors").exists()
    untroubled(recipe, folder, *RESUME)
    assert_same(folder, finished.folder)


def test_a_folder_below_a_file_is_refused_before_training(recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for below in ("file", "file/run"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Moon2Trainer, "train", lambda *args, **kwargs: pytest.fail("it trains"))
            assert train_moon2.main([recipe, "--output_dir", str(tmp_path / below)]) == 2
        said = sentence(capsys.readouterr().err)
        assert said.startswith(f"error: Nothing can be written to output_dir {tmp_path / below}: "), said


def bind_root():
    """Permissions do not bind root; from now on they bind this process, which gives up its capabilities."""
    version_and_process, no_capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_and_process, no_capabilities) == 0


@pytest.mark.parametrize("below", ["", "run"])
def test_a_read_only_folder_is_refused_before_training(recipe, tmp_path, below):
    folder, log = tmp_path / "read only", tmp_path / "log"
    folder.mkdir()
    folder.chmod(0o555)

    def setup(patch):
        if os.geteuid() == 0:
            bind_root()
        patch.setattr(Moon2Trainer, "train", lambda *args, **kwargs: pytest.fail("it trains"))

    assert in_child([recipe, "--output_dir", str(folder / below)], log, setup) == 2, log.read_text()
    said = sentence(log.read_text())
    assert said == f"error: Nothing can be written to output_dir {folder / below}: Permission denied."
    assert list(folder.iterdir()) == []


# kill -9


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_like_one_that_was_not(recipe, finished, tmp_path):
    """Twenty runs, each killed once or twice at a moment of its own; the moments are printed (pytest -s)."""
    log, words = tmp_path / "log", ["--save_total_limit", "2", "--save_steps", "1"]
    start = time.monotonic()
    assert in_child([recipe, "--output_dir", str(tmp_path / "timed"), *words], log) == 0
    length, killed = time.monotonic() - start, 0
    for seed in range(20):
        draw, folder, story = random.Random(seed), tmp_path / f"run {seed}", []
        kills = 1 + seed % 2
        while True:
            delay = draw.uniform(0.2, 1.1) * length if kills else 60.0
            complete = newest_complete(folder)[0]
            resume = RESUME if complete else ()
            child = start_child([recipe, "--output_dir", str(folder), *words, *resume], log)
            try:
                code = wait(child, timeout=delay)
            except TimeoutError:
                code = -signal.SIGKILL
            kills -= 1
            found = checkpoints(folder) if folder.exists() else []
            story.append(f"{delay:.2f} s: {found[0].name if found else 'no checkpoint'}" if code else "done")
            if code == 0:
                break
            assert code == -signal.SIGKILL, log.read_text()[-3000:]
            killed += 1
            assert not found or damage(found[0]) is None, "what bears the name of a checkpoint is complete"
            assert complete is None or newest_complete(folder)[0] is not None, "a checkpoint was lost"
        print(f"seed {seed}: {', '.join(story)}")
        assert_same(folder, finished.folder)
    assert killed >= 15, "most runs should have been killed before they ended"
