"""What GradCache costs and saves: memory and time of a training step with it and without.

    python -m benchmarks.grad_cache [--triplets 32 128 512] [--chunk 16] [--repeats 3]

An untrained model of the demo's size; every query, positive and negative has a title and a picture. Each setting is a
process of its own. The memory is what the peak of the step adds to the process as it is before, after a step of two
triplets has loaded whatever is loaded once.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainingArguments

from benchmarks.measure import machine, print_table, ratios, spread
from benchmarks.three_views import build, triplets
from evaluation.__main__ import positive_int
from loss_moon2 import Moon2Loss
from training.trainer import Moon2Trainer
from training.triplets import TripletCollator

WAYS = ("plain", "grad_cache")


def measure(way: str, count: int, chunk: int, repeats: int, seed: int) -> dict:
    """Seconds of each step and the megabytes of the largest, in this process; and the loss, to compare."""
    model, processor = build("tiny", seed)
    cached = way == "grad_cache"
    with tempfile.TemporaryDirectory() as folder:
        options = dict(use_cpu=not torch.cuda.is_available(), report_to="none", remove_unused_columns=False)
        trainer = Moon2Trainer(
            model,
            TrainingArguments(folder, label_names=[], disable_tqdm=True, **options),
            loss=Moon2Loss(),
            grad_cache=cached,
            data_collator=TripletCollator(processor, chunk if cached else 64),
        )
    model.train()

    def step(features: dict) -> float:
        loss = trainer.compute_loss(model, features)
        loss.backward()
        model.zero_grad()
        return loss.item()

    few, many = (trainer._prepare_inputs(trainer.data_collator(triplets(size, 96 * 96, seed))) for size in (2, count))
    step(few)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        loss = step(many)
        seconds.append(time.perf_counter() - start)
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "megabytes": megabytes, "loss": loss}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triplets", nargs="+", type=positive_int, default=[32, 128, 512], help="in a batch")
    parser.add_argument("--chunk", type=positive_int, default=16, help="items computed at a time")
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.way:
        print(json.dumps(measure(options.way, options.triplets[0], options.chunk, options.repeats, options.seed)))
        return 0

    def rows():
        for count in options.triplets:
            found = {}
            for way in WAYS:
                words = [f"--{name}={getattr(options, name)}" for name in ("chunk", "repeats", "seed")]
                command = [sys.executable, "-m", "benchmarks.grad_cache", f"--triplets={count}", f"--way={way}", *words]
                root = Path(__file__).parent.parent
                run = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True, text=True)
                found[way] = json.loads(run.stdout.splitlines()[-1])
            plain, cached = (found[way] for way in WAYS)
            if abs(plain["loss"] - cached["loss"]) > 1e-4:
                raise RuntimeError(f"The losses differ: {plain['loss']} and {cached['loss']}.")
            yield [
                f"{count} triplets",
                f"{plain['megabytes']:,.0f}",
                f"{cached['megabytes']:,.0f}",
                f"{cached['megabytes'] / plain['megabytes']:.2f}",
                spread(ratios(cached["seconds"], plain["seconds"])),
            ]

    print(f"GradCache, {options.chunk} items at a time. {machine()}, seed {options.seed}\n")
    print_table(["", "plain, MB", "GradCache, MB", "of the memory", "times the seconds"], rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
