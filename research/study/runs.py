"""Do what is missing, most important first: every run in a process of its own, which may be killed at any time."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from common_moon2.files import write_json, write_text
from processing_moon2 import Moon2Processor, ProductBatch
from research.study.arguments import ListArguments, OneArguments, Place, RunArguments, StudyError
from research.study.data import dataset, has_augmented_images, prepare, transfer_dataset, unpack
from research.study.models import make_smollm2, starting_model
from research.study.results import add_result, environment, read_keys, score
from research.study.variants import LOSSES, SMOLLM2, Variant, choose, read_variants
from training_moon2.callbacks import TrainingError
from training_moon2.checkpoints import CheckpointError, checkpoints
from training_moon2.collator import TripletCollator
from training_moon2.recipe import Recipe, read_recipe
from training_moon2.run import build_trainer, prepare_output, save
from training_moon2.trainer import LOG

MODEL, TRAINED = "model", "trained.json"
# A process that stops at the deadline saves a checkpoint first; so many seconds it may take.
GRACE = 120
BUSY = 75  # exit code of a run that another process is at
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM, 128 + signal.SIGINT)
Run = tuple[Variant, int]


def list_runs(options: ListArguments) -> dict:
    """Print the variants and how many of their runs are done."""
    done_of = done(Place(results=options.results))
    found = {}
    for variant in read_variants().values():
        seeds = [seed for seed in range(variant.seeds) if done_of(variant, seed)]
        print(f"{variant.tier}  {variant.name:24} {len(seeds)}/{variant.seeds}  {variant.changes}")
        found[variant.name] = {"tier": variant.tier, "seeds": variant.seeds, "done": seeds, "changes": variant.changes}
    return {"variants": found}


def run(options: RunArguments) -> dict:
    """Do the runs that are missing, each in a process of its own.

    Raises:
        StudyError: there is no such variant, seed or catalogue, or a data set cannot be built.
    """
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    known = read_variants()
    variants = [one for one in choose(known, options.only) if options.tiers is None or one.tier in options.tiers]
    if not any(seed < variant.seeds for variant in variants for seed in options.seeds):
        raise StudyError("No variant has such a tier and seed; what there is: python -m research.study list")
    runs = missing(variants, known, options.seeds, options)
    if not runs:
        print("nothing is missing")
        return {"runs": 0, "failed": []}
    mixes = {variant.query_mix for variant, _ in runs} | {(1, 1, 1)}
    if options.packed is not None:
        there = unpack(options.packed, options.work)
        with_transfer = transfer_dataset(options.work).name in there
        lacking = sorted(dataset(options.work, mix).name for mix in mixes if not dataset(options.work, mix).is_dir())
        if lacking:
            raise StudyError(f"{options.packed} lacks the data sets {', '.join(lacking)}: choose variants with --only.")
        if not options.no_augmented_images and not has_augmented_images(dataset(options.work, (1, 1, 1))):
            raise StudyError(f"{options.packed} has no augmented images: add --no_augmented_images.")
    else:
        transfer = options.transfer or options.catalogue.parent / "luma"
        with_transfer = options.transfer is not None or transfer.is_dir()
        prepare(options.work, mixes, options.catalogue, transfer if with_transfer else None)
    words = ["--work", str(options.work), "--results", str(options.results)]
    words += ["--times", str(options.times), "--device", options.device]
    words += ["--no_augmented_images"] if options.no_augmented_images else []
    words += [] if options.max_steps is None else ["--max_steps", str(options.max_steps)]
    words += [] if with_transfer else ["--no_transfer"]

    def do(variant: Variant, seed: int, end: float | None) -> int:
        log = folder_of(options, variant, seed) / "output.txt"
        return launch(["one", variant.name, str(seed), *words], log, end)

    failed = run_all(runs, do, end, options.processes)
    if failed:
        print(f"failed: {', '.join(failed)}; what they printed: output.txt in their folders of {options.work / 'runs'}")
    return {"runs": len(runs), "failed": failed}


def one(options: OneArguments) -> dict:
    """Do a single run in this process.

    Raises:
        StudyError: there is no such variant, or it cannot be trained.
        SystemExit: it was stopped, or another process is at it; the code tells which.
    """
    (variant,) = choose(read_variants(), [options.name])
    try:
        code = run_one(variant, options)
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        raise StudyError(f"{variant.name}, seed {options.seed}: {error}") from error
    if code:
        sys.exit(code)
    return {"variant": variant.name, "seed": options.seed}


def folder_of(place: Place, variant: Variant, seed: int) -> Path:
    """Return the folder of a run's model."""
    return place.work / "runs" / f"{variant.name}-{seed}-{variant.key(place)}"


def done(place: Place) -> Callable[[Variant, int], bool]:
    """Return a function that tells whether there is a result of a variant as it is now."""
    keys = read_keys(place.results)
    return lambda variant, seed: keys.get((variant.name, seed)) == variant.key(place)


def missing(variants: list[Variant], known: dict[str, Variant], seeds: list[int], place: Place) -> list[Run]:
    """Return the runs without a result, the most important first; what a run starts from comes before it."""
    order: list[Run] = []
    is_done = done(place)
    places = ((variant.tier, seed, index) for index, variant in enumerate(variants) for seed in seeds)
    for _, seed, index in sorted(places):
        variant = variants[index]
        if seed >= variant.seeds or is_done(variant, seed):
            continue
        if variant.start not in (None, SMOLLM2):
            first = known[variant.start]
            # Its result may be there while its model, outside of the repository, is not.
            if (first, seed) not in order and not (folder_of(place, first, seed) / TRAINED).is_file():
                order.append((first, seed))
        if (variant, seed) not in order:
            order.append((variant, seed))
    return order


def run_all(
    runs: list[Run], launch: Callable[[Variant, int, float | None], int], end: float | None, processes: int = 1
) -> list[str]:
    """Do the runs in order, so many side by side, each once, and none after the time `end` (of `time.monotonic`).

    Args:
        launch: does one run until `end` at most; returns its exit code.

    Returns:
        the names of the runs that failed.
    """
    begun: dict[tuple[str, int], Future] = {}
    stopped = threading.Event()

    def do(number: int, variant: Variant, seed: int) -> int | None:
        if (variant.start, seed) in begun:  # it has come before, and so it is running or done
            begun[variant.start, seed].result()
        if stopped.is_set() or (end is not None and time.monotonic() >= end):
            return None
        print(f"[{number}/{len(runs)}] {variant.name}, seed {seed}: {variant.changes}", flush=True)
        start = time.monotonic()
        code = launch(variant, seed, end)
        told = {0: "done", BUSY: "another process is at it"}.get(code, f"failed with exit code {code}")
        if code in STOPPED:
            stopped.set()
            told = "stopped; the same command goes on"
        print(f"  {variant.name}, seed {seed}: {told} after {(time.monotonic() - start) / 60:.1f} min", flush=True)
        return code

    with ThreadPoolExecutor(processes) as pool:
        for number, (variant, seed) in enumerate(runs, 1):
            begun[variant.name, seed] = pool.submit(do, number, variant, seed)
    codes = {run: future.result() for run, future in begun.items()}
    left = sum(code is None for code in codes.values())
    if left and not stopped.is_set():
        print(f"time is up; {left} runs are left: the same command goes on", flush=True)
    return [f"{name}-{seed}" for (name, seed), code in codes.items() if code and code != BUSY and code not in STOPPED]


def launch(words: list[str], log: Path, end: float | None) -> int:
    """Run a command of the study with its output in a file, and ask it to stop at the time `end`; its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "research.study", *words]
    with log.open("ab") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
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


def run_one(variant: Variant, options: OneArguments) -> int:
    """Train, score and write one run; what of it is there already is not done again.

    It is scored on the data set with even query shares, and on the transfer set.

    Returns:
        the exit code: 0, `BUSY`, or 128 + the number of a signal.
    """
    folder = folder_of(options, variant, options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock", timeout=0).acquire()  # goes with the process, however that ends
    except Timeout:
        return BUSY
    with lock:
        fields = variant.fields(options)
        code = train(variant, options, fields, folder)
        if code:
            return code
        transfer = None if options.no_transfer else transfer_dataset(options.work)
        even = dataset(options.work, (1, 1, 1))
        figures = score(variant, folder / MODEL, even, transfer, folder / "vectors", options.device)
        decided = ("changes", "query_mix", "recipe", "objectives", "loss", "encoder", "start")
        content = {
            "variant": variant.name,
            "key": variant.key(options),
            "seed": options.seed,
            "steps": fields["max_steps"],
            "batch": fields["per_device_train_batch_size"],
            **{name: getattr(variant, name) for name in decided},
            "training": json.loads((folder / TRAINED).read_text(encoding="utf-8")),
            **figures,
            **environment(),
        }
        add_result(options.results, content)
        for rest in (folder / "vectors", *(folder / MODEL).glob("checkpoint-*")):
            shutil.rmtree(rest)
    return 0


def train(variant: Variant, options: OneArguments, fields: dict, folder: Path) -> int:
    """Train one model of a variant, or go on with it; leave it in `folder`/model, and trained.json.

    Args:
        fields: of the recipe.

    Returns:
        0, or 128 + the number of a signal that stopped it: the same call then goes on.

    Raises:
        StudyError, TripletError, TrainingError, CheckpointError, ValueError, OSError: it cannot be trained.
    """
    if (folder / TRAINED).is_file():
        return 0
    output, start = folder / MODEL, None
    if variant.start == SMOLLM2:
        start = folder / SMOLLM2
        if not (start / "preprocessor_config.json").is_file():  # written last
            make_smollm2(start, options.seed)
    elif variant.start is not None:
        start = folder_of(options, read_variants()[variant.start], options.seed) / MODEL
    triplets = dataset(options.work, variant.query_mix)
    own = {"dataset": str(triplets), "output_dir": str(output), "seed": options.seed, "disable_tqdm": True}
    own |= {"use_cpu": options.device == "cpu"}
    own |= {} if start is None else {"model": str(start)}
    own |= {"resume_from_checkpoint": "true"} if checkpoints(output) else {}
    file = folder / "recipe.yaml"
    write_text(file, yaml.safe_dump(fields | own, sort_keys=False))
    recipe = read_recipe([str(file)])
    loss = LOSSES[variant.loss](**asdict(recipe.loss))
    trainer = build_trainer(recipe, partial(starting_model, variant), loss, variant=variant.name)
    if options.device == "cuda":
        trainer.data_collator = RememberingCollator(trainer.processing_class, fields["per_device_train_batch_size"] * 3)
    trainer.train(resume_from_checkpoint=prepare_output(trainer, recipe))
    if trainer.interruption.signal is not None:
        return 128 + trainer.interruption.signal
    save(trainer, recipe)
    facts = {
        "parameters": trainer.model.num_parameters(),
        "active_parameters": trainer.model.num_active_parameters(),
        "triplets": len(trainer.train_dataset),
        "triplets_fingerprint": trainer.run["triplets"],
        **logged(output / LOG, recipe),
    }
    write_json(folder / TRAINED, facts, indent=None)
    return 0


class RememberingCollator(TripletCollator):
    """Keeps what the processor made of each product, so that an image is decoded once, however often it comes."""

    def __init__(self, processor: Moon2Processor, chunk: int):
        super().__init__(processor, chunk)
        self._made: dict[tuple, ProductBatch] = {}

    def prepare(self, product: dict) -> ProductBatch:
        """Return the model inputs of one product."""
        images = product.get("image") or []
        images = images if isinstance(images, list) else [images]
        key = (product["text"], *(hash(image["bytes"]) for image in images))
        if key not in self._made:
            self._made[key] = super().prepare(product)
        return self._made[key]


def logged(log: Path, recipe: Recipe) -> dict:
    """Return how many seconds the steps took over all sessions, and losses, omega, filter and experts at the end."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    entries = [entry for entry in map(json.loads, lines) if "triplets_per_second" in entry]
    triplets = recipe.training.logging_steps * recipe.training.per_device_train_batch_size
    kept = ("loss", "omega_", "expert_", "phi", "kept_share", "filter_")
    last = entries[-1] if entries else {}
    return {
        "seconds": round(sum(triplets / entry["triplets_per_second"] for entry in entries), 1),
        "last_log": {
            name: round(value, 5)
            for name, value in last.items()
            if name.startswith(kept) and isinstance(value, int | float)
        },
    }
