"""What a training step costs: triplets per second and memory, two processes against one, and the safeguards."""

import ctypes
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from loss_moon2 import Moon2Loss
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from research.benchmarks import arguments
from research.benchmarks.measure import columns, print_table, ratios, run_apart, run_paired, spread
from research.benchmarks.model import TITLE_TOKENS, VIEWS, SeparateViews, build, triplets
from training_moon2.checkpoints import newest_complete
from training_moon2.collator import TripletCollator
from training_moon2.passes import Items, Passes
from training_moon2.trainer import Moon2Trainer
from training_moon2.triplets import ROLES

MEASURE = "research.benchmarks.training:measure"
PIXELS = 96 * 96
# Larger batches take so long that one round has to do, and so much memory without GradCache that "plain" is left out.
LARGE = 256


class NineForwards(Moon2Trainer):
    """The method's losses on views that were computed each in a forward of its own."""

    def _embed(self, model, inputs):
        count = sum(len(batches) for role in ROLES for batches in inputs["passes"][role].values())
        run = Passes(model, count, self.grad_cache)
        items = []
        for role in ROLES:
            found = {}
            for view in VIEWS:
                outputs = [run(features) for features in inputs["passes"][role][view]]
                found[view] = Items(*map(torch.cat, zip(*outputs, strict=True)))
            t, i, mm = (found[view] for view in VIEWS)
            items += [mm._replace(image_embeddings=i.embeddings, image_expert_usage=i.expert_usage), t]
        return Items(*map(torch.cat, zip(*items, strict=True))), inputs["rows"], inputs["keys"]


class Way(NamedTuple):
    """How to train: rows -> features; features -> loss, with the gradients added up in the model."""

    model: torch.nn.Module
    prepare: Callable[[list[dict]], object]
    backward: Callable[[object], float]


def by_trainer(name: str, model: Moon2Model, processor: Moon2Processor, chunk: int, folder: str, **options) -> Way:
    """Return ours, or one of the two that differ in how the views are computed; `options` of TrainingArguments."""
    told = dict(use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True)
    trainer_class, collator = (NineForwards, SeparateViews) if name == "naive" else (Moon2Trainer, TripletCollator)
    trainer = trainer_class(
        model,
        TrainingArguments(folder, **told | options),
        loss=Moon2Loss(),
        grad_cache=name != "plain",
        data_collator=collator(processor, 64 if name == "plain" else chunk),
    )
    wrapped = trainer.accelerator.prepare_model(model).train()

    def backward(features: dict) -> float:
        loss = trainer.compute_loss(wrapped, trainer._prepare_inputs(features))
        trainer.accelerator.backward(loss)
        trainer.callback_handler.on_pre_optimizer_step(trainer.args, trainer.state, trainer.control)
        return loss.item()

    return Way(wrapped, trainer.data_collator, backward)


def by_sentence_transformers(model: Moon2Model, processor: Moon2Processor, chunk: int, folder: str) -> Way:
    """Return the same weights, loaded from a folder as anyone would load them."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    encoder = SentenceTransformer(folder, trust_remote_code=True, device="cpu").train()
    objective = CachedMultipleNegativesRankingLoss(encoder, mini_batch_size=chunk)

    def prepare(rows: list[dict]) -> list[dict]:
        return [encoder.preprocess([row[role] for row in rows]) for role in ROLES]

    def backward(features: list[dict]) -> float:
        loss = objective(features, None)
        loss.backward()
        return loss.item()

    return Way(encoder, prepare, backward)


WAYS = ("ours", "plain", "naive", "sentence-transformers")


def prepare_way(name: str, chunk: int, seed: int, folder: str) -> Way:
    """Return one of `WAYS`; each has the same weights.

    Args:
        folder: an empty folder, which may be removed afterwards.
    """
    model, processor = build("tiny", seed)
    processor.max_text_length = TITLE_TOKENS
    if name == "sentence-transformers":
        return by_sentence_transformers(model, processor, chunk, folder)
    return by_trainer(name, model, processor, chunk, folder)


def measure(name: str, count: int, chunk: int, seed: int) -> dict:
    """Return seconds and megabytes of one step in this process, which may be one of several that share the batch."""
    logging.disable_progress_bar()  # of models that are saved and loaded
    rows = triplets(count, PIXELS, seed)
    with tempfile.TemporaryDirectory() as folder:
        way = prepare_way(name, chunk, seed, folder)
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own = rows[rank::processes]
    optimizer = torch.optim.AdamW(way.model.parameters(), lr=0.0, fused=True)

    def step(features) -> float:
        loss = way.backward(features)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    step(way.prepare(own[: min(chunk, 4)]))
    if processes > 1:
        torch.distributed.barrier()
    empty = settled_megabytes()
    start = time.perf_counter()
    features = way.prepare(own)
    preparation = time.perf_counter() - start
    before = settled_megabytes()
    start = time.perf_counter()
    loss = step(features)
    seconds = time.perf_counter() - start
    return {
        "loss": loss,
        "preparation": preparation,
        "step": seconds,
        "seconds": preparation + seconds,
        "inputs_megabytes": before - empty,
        "megabytes": resident("VmHWM") - before,
    }


def settled_megabytes() -> float:
    """Return the resident memory once what was freed is given back; the peak is counted from here on."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> float:
    """Return this process's resident memory in megabytes: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def check_losses(losses: list[float]) -> None:
    """Check that ways with one objective gave one loss for one batch.

    Raises:
        RuntimeError: they did not.
    """
    if max(losses) - min(losses) > 1e-4:
        raise RuntimeError(f"Ways that have one objective gave different losses: {losses}.")


def training(options: arguments.Training) -> dict:
    """Print the tables that are asked for."""
    title = f"Training, {options.chunk} items at a time, seed {options.seed}"
    header = ["", "triplets/s", "times the seconds of ours", "without preparation", "preparation"]
    header += ["inputs, MB", "step, MB", f"times that of {options.triplets[0]}"]
    tables = {
        "throughput": (header, throughput),
        "processes": (["", "triplets/s", "times one process"], processes),
        "safeguards": (["", "ms", "% of a step"], safeguards),
    }
    facts = {}
    for part in options.parts:
        header, rows = tables[part]
        facts[part] = print_table(header, rows(options), title)
        print()
    return facts


def throughput(options: arguments.Training) -> Iterator[list[str]]:
    """Yield the rows of the table, those of a batch size as soon as it is measured."""
    smallest = {}
    for count in options.triplets:
        ways = [name for name in WAYS if name != "plain" or count <= LARGE]
        repeats = options.repeats if count <= LARGE else 1
        found = run_paired(MEASURE, ways, repeats, count, options.chunk, options.seed)
        check_losses([loss for name in ways if name != "sentence-transformers" for loss in found[name]["loss"]])
        ours = found["ours"]
        for name, figures in found.items():
            seconds, megabytes = statistics.median(figures["seconds"]), max(figures["megabytes"])
            yield [
                f"{count} triplets, {name}",
                f"{count / seconds:,.1f}",
                spread(ratios(figures["seconds"], ours["seconds"])),
                spread(ratios(figures["step"], ours["step"])),
                f"{statistics.median(figures['preparation']) / seconds:.0%}",
                f"{max(figures['inputs_megabytes']):,.0f}",
                f"{megabytes:,.0f}",
                f"{megabytes / smallest.setdefault(name, megabytes):.2f}",
            ]


def processes(options: arguments.Training) -> Iterator[list[str]]:
    """Yield a row for each number of processes, on the largest batch that is not `LARGE`."""
    count = max((count for count in options.triplets if count <= LARGE), default=min(options.triplets))
    told = (MEASURE, "ours", count, options.chunk, options.seed)
    rounds = [[run_apart(*told, processes=number) for number in (1, 2)] for _ in range(options.repeats)]
    one, two = (columns(list(runs)) for runs in zip(*rounds, strict=True))
    check_losses(one["loss"] + two["loss"])
    for name, values in (("1 process", one["seconds"]), ("2 processes", two["seconds"])):
        speed = f"{count / statistics.median(values):,.1f}"
        yield [f"{count} triplets, {name}", speed, spread(ratios(one["seconds"], values))]


def timed(call: Callable, seconds: list[float]) -> Callable:
    """Return the same function; how long each call takes is added to the list."""

    @wraps(call)
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        result = call(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result

    return wrapper


class StepTimer(TrainerCallback):
    """Seconds of every step: forward, backward, guard and optimizer, without the preparation of the batch."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self._start)


def safeguards(options: arguments.Training) -> Iterator[list[str]]:
    """Yield the rows of the table for the smallest batch; the first step is a warm-up.

    Raises:
        RuntimeError: a step was refused, or the checkpoint is not found complete.
    """
    count, steps = min(options.triplets), options.repeats + 1
    model, processor = build("tiny", options.seed)
    processor.max_text_length = TITLE_TOKENS
    told = dict(use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True, save_strategy="no")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Moon2Trainer(
            model,
            TrainingArguments(
                folder, per_device_train_batch_size=count, max_steps=steps, logging_steps=1, label_names=[], **told
            ),
            loss=Moon2Loss(),
            grad_cache=True,
            data_collator=TripletCollator(processor, options.chunk),
            train_dataset=triplets(count, PIXELS, options.seed),
            processing_class=processor,
        )
        trainer.remove_callback(PrinterCallback)
        timer, gradients, recording, logs = StepTimer(), [], [], []
        trainer.add_callback(timer)
        guard = trainer._refused
        guard.on_pre_optimizer_step = timed(guard.on_pre_optimizer_step, gradients)
        trainer._record = timed(trainer._record, recording)
        trainer.log = timed(trainer.log, logs)
        trainer.train()
        if guard.total:
            raise RuntimeError(f"{guard.total} steps were refused.")
        losses, loss = [], torch.zeros(())
        is_finite = timed(lambda: bool(torch.isfinite(loss)), losses)
        plain, sealed, resumed = [], [], []
        save_plain = timed(Trainer._save_checkpoint, plain)
        save_sealed = timed(trainer._save_checkpoint, sealed)
        find = timed(newest_complete, resumed)
        checkpoint = Path(folder) / f"checkpoint-{steps}"
        for _ in range(steps):
            is_finite()
            save_plain(trainer, trainer.model, None)
            shutil.rmtree(checkpoint)
            save_sealed(trainer.model, None)
            if find(Path(folder)) != (checkpoint, []):
                raise RuntimeError(f"{checkpoint} is not found complete.")
            shutil.rmtree(checkpoint)
    costs = {
        "guard": _sum(gradients, losses),
        "record and log": _sum(recording, logs[:steps]),  # the last log is the summary of the run
        "sealed checkpoint, more than a plain one": [one - other for one, other in zip(sealed, plain, strict=True)],
        "check on resuming": resumed,
    }
    yield [f"a step of {count} triplets", _milliseconds(timer.seconds), "100"]
    yield ["plain checkpoint", _milliseconds(plain), _share(plain, timer.seconds)]
    for name, seconds in costs.items():
        yield [name, _milliseconds(seconds), _share(seconds, timer.seconds)]


def _sum(*parts: list[float]) -> list[float]:
    return [sum(values) for values in zip(*parts, strict=True)]


def _milliseconds(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds[1:]):,.2f}"


def _share(seconds: list[float], steps: list[float]) -> str:
    return spread(tuple(100 * value for value in ratios(seconds[1:], steps[1:])))
