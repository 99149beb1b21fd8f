"""What the safeguards of training cost, timed inside the steps of a run; a part of `research.benchmarks.training`.

guard: `RefusedSteps` (the norm of all gradients) and the check that the loss is finite. record and log: every step's
figures, and a log after each step, the dearest setting. sealed checkpoint: what staging, hashing and fsync add to the
plain save of transformers. check on resuming: `newest_complete`, which reads the newest checkpoint and compares hashes.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from loss_moon2 import Moon2Loss
from research.benchmarks.measure import ratios, spread
from research.benchmarks.three_views import TITLE_TOKENS, build, triplets
from training_moon2.checkpoints import newest_complete
from training_moon2.collator import TripletCollator
from training_moon2.trainer import Moon2Trainer


def timed(call: Callable, seconds: list[float]) -> Callable:
    """The same function; how long each call takes is added to the list."""

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


def run(count: int, chunk: int, repeats: int, seed: int) -> Iterator[list[str]]:
    """The rows of the table for batches of `count` triplets; the first step is a warm-up.

    Raises:
        RuntimeError: a step was refused, or the checkpoint is not found complete.
    """
    model, processor = build("tiny", seed)
    processor.max_text_length = TITLE_TOKENS
    options = dict(use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True, save_strategy="no")
    steps = repeats + 1
    with tempfile.TemporaryDirectory() as folder:
        trainer = Moon2Trainer(
            model,
            TrainingArguments(
                folder, per_device_train_batch_size=count, max_steps=steps, logging_steps=1, label_names=[], **options
            ),
            loss=Moon2Loss(),
            grad_cache=True,
            data_collator=TripletCollator(processor, chunk),
            train_dataset=triplets(count, 96 * 96, seed),
            processing_class=processor,
        )
        trainer.remove_callback(PrinterCallback)
        timer, gradients, recording, logging = StepTimer(), [], [], []
        trainer.add_callback(timer)
        guard = trainer._refused
        guard.on_pre_optimizer_step = timed(guard.on_pre_optimizer_step, gradients)
        trainer._record = timed(trainer._record, recording)
        trainer.log = timed(trainer.log, logging)
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
        "record and log": _sum(recording, logging[:steps]),  # the last log is the summary of the run
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
