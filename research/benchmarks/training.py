"""What a training step costs: triplets per second and memory, two processes against one, and the safeguards.

    python -m research.benchmarks.training [--triplets 64 256 1024] [--chunk 64] [--repeats 3]
        [--parts throughput processes safeguards]

An untrained model of the demo's size in float32. Every query, positive and negative has a title (24 tokens) and a
picture (96 x 96, already decoded). A step is preparation of the batch (tokens and pixels), forward, backward and AdamW,
with a learning rate of 0, so that all rounds have one loss. In each round every way takes one step, after a warm-up of
a few triplets, in a process of its own.

throughput: "ours" is `Moon2Trainer` with GradCache, the full method on three views; "plain" the same without GradCache,
passes of 64; "naive" the same losses and the same recomputation on nine forwards, each view of each role prepared and
embedded by itself; "sentence-transformers" its CachedMultipleNegativesRankingLoss on the multimodal view alone. All but
"plain" take `--chunk` items at a time. "Inputs" is the memory of the prepared batch, which grows with it; "step" is
what the peak of forward, backward and AdamW adds to that, by the kernel's count (Linux only). Batches above 256 are
measured once, without "plain".

processes: one process with all threads against two (torchrun, gloo) that share them and the same batch.

safeguards: see `research.benchmarks.safeguards`.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed
from transformers import TrainingArguments
from transformers.utils import logging

from common_moon2.cli import whole
from loss_moon2 import Moon2Loss
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from research.benchmarks import safeguards
from research.benchmarks.measure import machine, print_table, ratios, spread
from research.benchmarks.three_views import TITLE_TOKENS, VIEWS, build, triplets
from training_moon2.collator import TripletCollator
from training_moon2.passes import Items, Passes
from training_moon2.trainer import Moon2Trainer
from training_moon2.triplets import ROLES

PARTS = ("throughput", "processes", "safeguards")
PIXELS = 96 * 96
# Larger batches take so long that one round has to do, and so much memory without GradCache that "plain" is left out.
LARGE = 256


class SeparateViews(TripletCollator):
    """Triplets as a naive loop has them: each view of each role by itself, `chunk` items at a time, in given order."""

    def __call__(self, triplets: list[dict]) -> dict:
        batch = super().__call__(triplets)
        parts = {"t": ("text",), "i": ("image",), "mm": ("text", "image")}
        for index, role in enumerate(ROLES):
            products = [triplet[role] for triplet in triplets]
            batch["passes"][role] = {
                view: [
                    dict(self.processor([{name: product[name] for name in names} for product in chunk]))
                    for chunk in (products[start : start + self.chunk] for start in range(0, len(products), self.chunk))
                ]
                for view, names in parts.items()
            }
            for offset, kind in enumerate(("pictures", "texts")):
                batch["rows"][role][kind] = torch.arange(len(products)) + (2 * index + offset) * len(products)
        return batch

    def _items(self, triplets: list[dict], kind: str) -> Iterator:
        return iter(())  # nothing shares a pass with another view


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


def by_trainer(name: str, model: Moon2Model, processor: Moon2Processor, chunk: int, folder: str) -> Way:
    """Ours and the two that differ in how the views are computed."""
    trainer_class, collator = (NineForwards, SeparateViews) if name == "naive" else (Moon2Trainer, TripletCollator)
    trainer = trainer_class(
        model,
        TrainingArguments(folder, use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True),
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
    """The same weights, loaded from a folder as anyone would load them."""
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
    """One of `WAYS`; each has the same weights.

    Args:
        folder: an empty folder, which may be removed afterwards.
    """
    model, processor = build("tiny", seed)
    processor.max_text_length = TITLE_TOKENS
    if name == "sentence-transformers":
        return by_sentence_transformers(model, processor, chunk, folder)
    return by_trainer(name, model, processor, chunk, folder)


def measure(name: str, count: int, chunk: int, seed: int) -> dict:
    """Seconds and megabytes of one step in this process, which may be one of several that share the batch."""
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
        distributed.barrier()
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
    """The resident memory once everything that was freed is given back; the peak is counted from here on."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> float:
    """This process's resident memory in megabytes: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def launch(name: str, count: int, options: argparse.Namespace, processes: int = 1) -> dict:
    """`measure` in a process of its own, or in several that share threads and batch."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "research.benchmarks.training", f"--way={name}", f"--triplets={count}"]
    command += [f"--chunk={options.chunk}", f"--seed={options.seed}"]
    threads = max(1, torch.get_num_threads() // processes)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def check_losses(runs: list[dict]):
    """Makes sure that ways with one objective gave one loss for one batch.

    Raises:
        RuntimeError: they did not.
    """
    losses = [run["loss"] for run in runs]
    if max(losses) - min(losses) > 1e-4:
        raise RuntimeError(f"Ways that have one objective gave different losses: {losses}.")


def throughput(options: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of the table, those of a batch size as soon as it is measured."""
    smallest = {}
    for count in options.triplets:
        ways = [name for name in WAYS if name != "plain" or count <= LARGE]
        found = {name: [] for name in ways}
        for _ in range(options.repeats if count <= LARGE else 1):
            for name in ways:
                found[name].append(launch(name, count, options))
        check_losses([run for name in ways if name != "sentence-transformers" for run in found[name]])
        for name in ways:
            figures = {key: [run[key] for run in found[name]] for key in found[name][0]}
            ours = {key: [run[key] for run in found["ours"]] for key in figures}
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


def processes(options: argparse.Namespace) -> Iterator[list[str]]:
    """One row for each number of processes, on the largest batch that is not `LARGE`."""
    count = max((count for count in options.triplets if count <= LARGE), default=min(options.triplets))
    found = {number: [] for number in (1, 2)}
    for _ in range(options.repeats):
        for number, runs in found.items():
            runs.append(launch("ours", count, options, number))
    check_losses([run for runs in found.values() for run in runs])
    seconds = {number: [run["seconds"] for run in runs] for number, runs in found.items()}
    for number, values in seconds.items():
        name = f"{count} triplets, {number} process{'es' if number > 1 else ''}"
        yield [name, f"{count / statistics.median(values):,.1f}", spread(ratios(seconds[1], values))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triplets", nargs="+", type=whole(1), default=[64, 256, 1024], help="in a batch")
    parser.add_argument("--chunk", type=whole(1), default=64, help="items computed at a time")
    parser.add_argument("--repeats", type=whole(1), default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    logging.disable_progress_bar()  # of models that are saved and loaded
    if options.way:
        figures = measure(options.way, options.triplets[0], options.chunk, options.seed)
        if int(os.environ.get("RANK", 0)) == 0:
            print(json.dumps(figures), flush=True)
        if distributed.is_initialized():
            distributed.destroy_process_group()
        return 0
    print(f"Training, {options.chunk} items at a time. {machine()}, seed {options.seed}", flush=True)
    if "throughput" in options.parts:
        header = ["", "triplets/s", "times the seconds of ours", "without preparation", "preparation"]
        header += ["inputs, MB", "step, MB", f"times that of {options.triplets[0]}"]
        print()
        print_table(header, throughput(options))
    if "processes" in options.parts:
        print()
        print_table(["", "triplets/s", "times one process"], processes(options))
    if "safeguards" in options.parts:
        print()
        rows = safeguards.run(min(options.triplets), options.chunk, options.repeats, options.seed)
        print_table(["", "ms", "% of a step"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
