"""Two processes (gloo, CPU) against one: the same loss, gradient and weights; and no process waits for ever."""

import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fresh
import pytest
import torch
from safetensors.torch import load_file
from two_processes import SHARES, gradients, make_trainer, train_with_a_broken_step, triplets_of

from conftest import change, cut_picture
from test_train_moon2 import tiny_recipe  # noqa: F401
from training_moon2.checkpoints import damage
from training_moon2.triplets import load_triplets

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "two_processes.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(SCRIPT.parent)))}


def torchrun(*words: str) -> subprocess.CompletedProcess:
    """Run two processes as a user starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(SCRIPT)]
    return subprocess.run([*command, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


def side_by_side(*words: str) -> list[subprocess.CompletedProcess]:
    """Run two processes with what torchrun tells its own, each to its own end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [ENVIRONMENT | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    run = partial(fresh.run, [str(SCRIPT), *words], timeout=240)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, environments))


def ended(done: list[subprocess.CompletedProcess]) -> str:
    """What the processes printed, which both ended well."""
    assert [one.returncode for one in done] == [0, 0], "\n".join(one.stderr[-3000:] for one in done)
    return "".join(one.stdout + one.stderr for one in done)


@pytest.fixture(scope="module")
def two(mbe2, tmp_path_factory) -> Path:
    """The folder in which two processes wrote their gradients and weights."""
    folder = tmp_path_factory.mktemp("two")
    ended(side_by_side("compare", mbe2, str(folder)))
    return folder


@pytest.mark.parametrize("case", SHARES)
def test_loss_and_gradient_of_two_processes_are_those_of_one_big_batch(two, mbe2, tmp_path, case):
    trainer = make_trainer(mbe2, tmp_path, 8)
    expected = gradients(trainer, triplets_of(case, trainer.train_dataset))
    found = torch.load(two / f"{case}.pt")
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_sharded_weights_get_the_gradient_of_one_big_batch(two, mbe2, tmp_path):
    """FSDP2 gathers the weights of a layer in every pass, so that processes that differ in passes would wait for ever;
    here the first has no image at all."""
    trainer = make_trainer(mbe2, tmp_path, 8)
    expected = gradients(trainer, triplets_of("texts", trainer.train_dataset))
    found = torch.load(two / "sharded.pt")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("how", ["plain", "grad_cache"])
def test_gradient_accumulation_and_gather_give_the_weights_of_one_process(two, mbe2, tmp_path, how):
    trainer = make_trainer(mbe2, tmp_path, 6, gradient_accumulation_steps=2, max_steps=3)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    found = torch.load(two / f"trained-{how}.pt")
    moved = 0.0
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        moved = max(moved, (value - start[name]).abs().max().item())
    assert moved > 1e-2, "the run should have moved the weights"
    logs = [
        [entry for entry in log if "loss" in entry]
        for log in (torch.load(two / f"log-{how}.pt"), trainer.state.log_history)
    ]
    for one, other in zip(*logs, strict=True):
        for name in one.keys() - {"tokens_per_second", "triplets_per_second"}:
            assert one[name] == pytest.approx(other[name], abs=1e-4), name


def test_weight_decay_leaves_parameters_without_a_task_alone(two):
    before, after = torch.load(two / "decay.pt")
    assert before.any() and torch.equal(before, after)


def test_a_step_that_is_refused_is_refused_by_both_processes(two, mbe2, tmp_path):
    """In the last batch of a step, where the gradients of the processes would meet: its backward pass never comes."""
    trainer = train_with_a_broken_step(mbe2, tmp_path, 6)
    found = torch.load(two / "broken.pt")
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    ((one,), (other,)) = (
        [json.loads(line) for line in (folder / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
        for folder in (two / "broken", tmp_path)
    )
    assert one["step"] == other["step"] == 2 and one["reason"] == other["reason"]
    assert sorted(one["query_ids"]) == sorted(other["query_ids"]) and len(one["query_ids"]) == 12


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_two_processes_train_evaluate_save_and_resume(tiny_recipe, tmp_path):  # noqa: F811
    """The last batches of an epoch are uneven: 75 triplets, 2 x 16 in a step. Killed after the third of six steps."""
    words = [tiny_recipe, "--max_steps", "6", "--save_strategy", "steps", "--save_steps", "3"]
    words += ["--eval_strategy", "steps", "--eval_steps", "6", "--dataloader_num_workers", "1"]
    words += ["--dump_filtered", "true"]
    said = ended(side_by_side("main", *words))
    folder = tmp_path / "moon2"
    expected = weights(folder)
    assert "2 processes" in said and "step 6: validation loss" in said
    assert "of 75 triplets seen have phi below 0.6" in said and (folder / "filtered.jsonl").is_file()
    (entry,) = [
        line for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "eval_loss" in line
    ]
    assert 0 < entry["eval_recall_mean"] <= 1
    assert (folder / "checkpoint-3" / "rng_state_1.pth").is_file() and damage(folder / "checkpoint-3") is None
    for name in ("checkpoint-6", "model.safetensors"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = ended(side_by_side("main", *words, "--resume_from_checkpoint", "true"))
    assert f"Resuming from {folder / 'checkpoint-3'}" in said
    again = weights(folder)
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    assert [json.loads(line)["step"] for line in (folder / "filter.jsonl").read_text().splitlines()] == [5]


def test_a_process_that_raises_ends_the_other(tiny_recipe, tmp_path, mbe2):  # noqa: F811
    """One damaged image: one of the processes meets it, and the run ends with its sentence."""
    folder = change(mbe2, tmp_path / "spoilt", cut_picture)
    query_id = load_triplets(mbe2, "train", refresh=False)["query_id"][3]
    words = ["--dataset", str(folder), "--augmented_image_probability", "0", "--per_device_train_batch_size", "4"]
    done = torchrun("main", tiny_recipe, *words)
    assert done.returncode != 0
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: Triplet")]
    assert len(sentences) == 1 and query_id in sentences[0]


def test_a_changed_run_is_refused_by_all_processes(tiny_recipe, tmp_path):  # noqa: F811
    (tmp_path / "moon2" / "checkpoint-1").mkdir(parents=True)
    done = side_by_side("main", tiny_recipe)
    assert all(one.returncode == 2 for one in done)
    assert any("holds checkpoints of an earlier run" in one.stderr for one in done)
