"""What is still to be done, in which order, and doing it: every run in a process of its own."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from research.study.scoring import environment, score, write
from research.study.training import MODEL, TRAINED, train
from research.study.variants import SMOLLM2, Variant

# A process that stops at the deadline saves a checkpoint first; so many seconds it may take.
GRACE = 120


@dataclass(frozen=True)
class Place:
    """Where things are: the data sets and models (`work`), the JSON files that are kept (`results`), and for trying
    the study out other steps than the recipe's."""

    work: Path
    results: Path
    max_steps: int | None = None

    def result(self, variant: Variant, seed: int) -> Path:
        return self.results / f"{variant.name}-{seed}.json"

    def folder(self, variant: Variant, seed: int) -> Path:
        return self.work / "runs" / f"{variant.name}-{seed}-{variant.key(self.max_steps)}"

    def is_done(self, variant: Variant, seed: int) -> bool:
        """Whether there is a result of the variant as it is now."""
        try:
            content = json.loads(self.result(variant, seed).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return content.get("key") == variant.key(self.max_steps)


def missing(
    variants: list[Variant], known: dict[str, Variant], seeds: list[int], place: Place
) -> list[tuple[Variant, int]]:
    """The runs without a result, the most important first; what a run starts from comes before it."""
    order: list[tuple[Variant, int]] = []
    ordered = sorted(
        (
            (variant.tier, seed, index)
            for index, variant in enumerate(variants)
            for seed in seeds
            if seed < variant.seeds
        )
    )
    for _, seed, index in ordered:
        variant = variants[index]
        if place.is_done(variant, seed):
            continue
        if variant.start not in (None, SMOLLM2):
            first = known[variant.start]
            # Its result may be there while its model, outside of the repository, is not.
            if (first, seed) not in order and not (place.folder(first, seed) / TRAINED).is_file():
                order.append((first, seed))
        if (variant, seed) not in order:
            order.append((variant, seed))
    return order


def run_all(runs: list[tuple[Variant, int]], launch: Callable[[Variant, int, float | None], int], end: float | None):
    """Does the runs one after the other, each once, and none after the time `end` (of `time.monotonic`).

    Args:
        launch: does one run until `end` at most; returns its exit code.

    Returns:
        the names of the runs that failed.
    """
    failed = []
    for number, (variant, seed) in enumerate(runs, 1):
        if end is not None and time.monotonic() >= end:
            print(f"time is up; {len(runs) - number + 1} runs are left: the same command goes on", flush=True)
            break
        print(f"[{number}/{len(runs)}] {variant.name}, seed {seed}: {variant.changes}", flush=True)
        start = time.monotonic()
        code = launch(variant, seed, end)
        minutes = (time.monotonic() - start) / 60
        if code in (128 + signal.SIGTERM, -signal.SIGTERM, 128 + signal.SIGINT):
            print(f"  stopped after {minutes:.1f} min; the same command goes on", flush=True)
            break
        if code == BUSY:
            print("  another process is at it", flush=True)
        elif code:
            failed.append(f"{variant.name}-{seed}")
            print(f"  failed with exit code {code} after {minutes:.1f} min", flush=True)
        else:
            print(f"  done in {minutes:.1f} min", flush=True)
    return failed


BUSY = 75  # a run that another process is at


def launch(command: list[str], log: Path, end: float | None) -> int:
    """Runs a child process with its output in a file, and asks it to stop at the time `end`; its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen([sys.executable, "-m", "study", *command], stdout=output, stderr=subprocess.STDOUT)
        try:
            return child.wait(None if end is None else max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)
            try:
                return child.wait(GRACE)
            except subprocess.TimeoutExpired:  # its last checkpoint is complete
                child.kill()
                child.wait()
                return -signal.SIGTERM
        except KeyboardInterrupt:  # the child, in the foreground with us, got it too and saves
            return child.wait()


def run_one(variant: Variant, seed: int, place: Place, dataset: Path, base: Path, transfer: Path | None, start) -> int:
    """Trains, scores and writes one run; whatever of it is there already is not done again.

    Args:
        dataset: what is trained on; base: what is scored on, the data set with even query shares.
        start: folder of the run that this one starts from, if there is one.

    Returns:
        the exit code: 0, `BUSY`, or 128 + the number of a signal.
    """
    folder = place.folder(variant, seed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock", timeout=0).acquire()  # goes with the process, however that ends
    except Timeout:
        return BUSY
    with lock:
        fields = variant.fields(place.max_steps)
        code = train(variant, fields, seed, dataset, folder, start)
        if code:
            return code
        figures = score(variant, folder / MODEL, base, transfer, folder / "vectors")
        trained = json.loads((folder / TRAINED).read_text(encoding="utf-8"))
        content = {
            "variant": variant.name,
            "key": variant.key(place.max_steps),
            "seed": seed,
            "steps": fields["max_steps"],
            "batch": fields["per_device_train_batch_size"],
            "changes": variant.changes,
            "query_mix": list(variant.query_mix),
            "recipe": variant.recipe,
            "objectives": list(variant.objectives),
            "loss": variant.loss,
            "encoder": variant.encoder,
            "start": variant.start,
            "training": trained,
            **figures,
            **environment(),
        }
        place.results.mkdir(parents=True, exist_ok=True)
        write(place.result(variant, seed), content)
        for rest in (folder / "vectors", *(folder / MODEL).glob("checkpoint-*")):
            shutil.rmtree(rest)
    return 0
