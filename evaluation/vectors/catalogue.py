"""Vectors of a whole catalogue, shard by shard: `python -m evaluation embed`.

A shard is embedded by one process and is whole or not there, so that a run that was killed goes on where it was, and
ends with the same bytes as one that was not (with the same --batch_size; another may change a vector's last bits).
Processes share nothing, and each loads the model, which takes seconds:
for few items one process is faster. With several GPUs each has its own.

torch and the models are imported where they are used: `python -m evaluation --help` should not wait for them.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from common_moon2.cli import whole
from evaluation.errors import EvaluationError
from evaluation.tables.products import VIEWS, Columns, Items, Shown, open_items
from evaluation.vectors.store import (
    DTYPES,
    MANIFEST,
    SHARDS,
    as_stored,
    identity,
    join_shards,
    staged,
    write_json,
    write_shard,
)

if TYPE_CHECKING:
    from evaluation.models.encoders import Encoder

RUN, SKIPPED = "run.json", "skipped.jsonl"
# What a run may go on with otherwise than it began.
CHANGEABLE = ("batch_size", "on_error")
SHARD_SIZE = 4096


@dataclass(frozen=True)
class Work:
    """What every process must know to embed a shard."""

    model: str
    revision: str | None
    view: str
    role: str
    dtype: str
    on_error: str
    shard_size: int
    batch_size: int
    workers: int
    output: str


def embed_catalogue(items: Items, work: Work, num_proc: int = 1) -> dict:
    """Writes the vectors of all items, see `evaluation.vectors.store` for the files.

    Memory: a shard's vectors and a batch's pictures for each process, beside the model.

    Args:
        num_proc: processes, each with the model; the cores are divided among them, GPUs are given out in turn.

    Returns:
        The manifest: the run's settings, and how many vectors there are and how many items were skipped.

    Raises:
        EvaluationError: an item cannot be embedded (its id is named) and `on_error` is "raise", or none can, or the
            model cannot embed the view, or the folder holds vectors of something else.
    """
    from evaluation.models.encoders import load_encoder

    output = Path(work.output)
    encoder = load_encoder(work.model, work.revision)
    _check_view(items, work, encoder)
    settings = _settings(items, work, encoder)
    _claim(output, settings)
    shards = [output / SHARDS / f"{number:05d}.parquet" for number in range(-(-len(items) // work.shard_size))]
    if work.on_error == "raise":
        _refuse_skips(output, [path for path in shards if path.exists()])
    if (output / MANIFEST).exists():
        return identity(output)
    missing = [number for number, path in enumerate(shards) if not path.exists()]
    sizes = [min(work.shard_size, len(items) - number * work.shard_size) for number in range(len(shards))]
    run = _in_processes if num_proc > 1 else _in_turn
    with tqdm(total=len(items), desc="embed", unit="item", smoothing=0.1) as progress:
        progress.update(len(items) - sum(sizes[number] for number in missing))
        for number in run(items, work, encoder, missing, num_proc):
            progress.update(sizes[number])
    skipped = "".join(path.read_text(encoding="utf-8") for path in map(_skips_of, shards))
    with staged(output / SKIPPED) as temporary:
        temporary.write_text(skipped, encoding="utf-8")
    count = join_shards(output, shards)
    if not count:
        raise EvaluationError(f"None of the {len(items)} items could be embedded; {output / SKIPPED} says why.")
    changeable = {name: getattr(work, name) for name in CHANGEABLE}
    manifest = settings | changeable | {"vectors": count, "skipped": skipped.count("\n")}
    write_json(output / MANIFEST, manifest)
    return manifest


def _check_view(items: Items, work: Work, encoder: "Encoder") -> None:
    can = ", ".join(sorted(encoder.views))
    if work.view != "own":
        if work.view not in encoder.views:
            raise EvaluationError(f"{work.model} cannot embed the view {work.view}; it can: {can}.")
        return
    for view, part in (("t", "text"), ("i", "image")):
        if view not in encoder.views and items.have(part):
            raise EvaluationError(f"{items.name} has {part}s, which {work.model} cannot embed: give --view {can}.")


def _settings(items: Items, work: Work, encoder: "Encoder") -> dict:
    """All that decides the vectors, but for their last bits."""
    import torch
    import transformers

    others = ("output", "workers", "revision", *CHANGEABLE)
    options = {name: value for name, value in asdict(work).items() if name not in others}
    return options | {
        "revision": encoder.revision,
        "model_fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
        "items": len(items),
        "data": items.name,
        "data_fingerprint": items.fingerprint(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "gpu": torch.cuda.is_available(),
    }


def _claim(output: Path, settings: dict) -> None:
    """Takes an empty folder, or one that holds the same run."""
    if output.exists() and not output.is_dir():
        raise EvaluationError(f"--output {output} is a file; give a folder.")
    path = output / RUN
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(name for name in settings if before.get(name) != settings[name])
        if differing:
            raise EvaluationError(
                f"{output} holds vectors of another run ({', '.join(differing)} differ): give another --output, or "
                "delete it."
            )
    elif output.exists() and any(output.iterdir()):
        raise EvaluationError(f"--output {output} holds other files: give a new folder.")
    else:
        write_json(path, settings)


def _refuse_skips(output: Path, shards: list[Path]) -> None:
    """What a run with "skip" has left out is an error to one with "raise"."""
    for path in map(_skips_of, shards):
        notes = path.read_text(encoding="utf-8")
        if notes:
            note = json.loads(notes.partition("\n")[0])
            raise EvaluationError(
                f"{output} was begun with --on_error skip and lacks row {note['row']} (id {note['id']!r}): "
                f"{note['reason'].rstrip('.')}. Give --on_error skip again, or another --output."
            )


def _in_turn(items: Items, work: Work, encoder: "Encoder", numbers: list[int], num_proc: int) -> Iterator[int]:
    for number in numbers:
        _embed_shard(items, work, encoder, number)
        yield number


def _in_processes(items: Items, work: Work, encoder: "Encoder", numbers: list[int], num_proc: int) -> Iterator[int]:
    """Runs shards in processes, a few ahead, so that an error does not wait for all."""
    import torch

    context = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork
    count = context.Value("i", 0)
    threads = max(1, torch.get_num_threads() // num_proc)
    # Read when a child imports tqdm: many bars on one terminal would overwrite each other.
    os.environ["TQDM_DISABLE"] = "1"
    try:
        with ProcessPoolExecutor(num_proc, context, _start, (items, work, threads, count)) as pool:
            waiting, remaining = set(), list(reversed(numbers))
            while waiting or remaining:
                while remaining and len(waiting) < 2 * num_proc:
                    waiting.add(pool.submit(_embed_own, remaining.pop()))
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        yield future.result()
                    except EvaluationError:
                        pool.shutdown(cancel_futures=True)
                        raise
    except BrokenProcessPool as error:
        raise EvaluationError(
            "A process ended without a word, most likely for want of memory: run the same command again with a smaller "
            "--num_proc or --batch_size; finished shards are kept."
        ) from error
    finally:
        del os.environ["TQDM_DISABLE"]


def _start(items: Items, work: Work, threads: int, count) -> None:
    """Makes a process ready: its share of the cores, its GPU, its copy of the model."""
    import torch

    from evaluation.models.encoders import load_encoder

    global _own
    with count.get_lock():
        rank, count.value = count.value, count.value + 1
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    _own = items, work, load_encoder(work.model, work.revision)


def _embed_own(number: int) -> int:
    _embed_shard(*_own, number)
    return number


def _embed_shard(items: Items, work: Work, encoder: "Encoder", number: int) -> None:
    start = number * work.shard_size
    rows = list(range(start, min(start + work.shard_size, len(items))))
    shown, lacking = Shown(items, work.view, rows), []
    for index in range(len(rows)):
        reason = shown.lacks(index)
        if reason is not None:
            if work.on_error == "raise":
                raise EvaluationError(f"{shown.describe(index)} cannot be embedded: {reason}.")
            lacking.append((rows[index], reason))
    without = {row for row, _ in lacking}
    kept, vectors, failing = _encode(
        Shown(items, work.view, [row for row in rows if row not in without]), work, encoder
    )
    path = Path(work.output) / SHARDS / f"{number:05d}.parquet"
    # Before the shard, which says by being there that both are.
    with staged(_skips_of(path)) as temporary:
        records = [{"row": row, "id": items.ids[row], "reason": reason} for row, reason in sorted(lacking + failing)]
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        temporary.write_text("".join(lines), encoding="utf-8")
    write_shard(path, [items.ids[row] for row in kept], as_stored(vectors, work.dtype))


def _encode(shown: Shown, work: Work, encoder: "Encoder") -> tuple[list[int], np.ndarray, list[tuple[int, str]]]:
    """The rows that can be embedded, their vectors, and the others with the reason."""
    if not len(shown):
        return [], np.empty((0, encoder.dimension), np.float32), []
    try:
        found = encoder.encode(shown, work.batch_size, work.workers, work.role, "shard")
        return list(shown.rows), found.numpy(), []
    except EvaluationError as error:
        if work.on_error == "raise":
            raise
        if len(shown) == 1:
            reason = str(error).removeprefix(f"{shown.describe(0)} ")
            return [], np.empty((0, encoder.dimension), np.float32), [(shown.rows[0], reason)]
    # Halves of halves: what is at fault is found in few steps, and the rest is embedded in large batches.
    half = len(shown) // 2
    rows, vectors, skipped = zip(
        *(_encode(shown.take(part), work, encoder) for part in (slice(half), slice(half, None))), strict=True
    )
    return sum(rows, []), np.concatenate(vectors), sum(skipped, [])


def _skips_of(shard: Path) -> Path:
    return shard.with_suffix(".skipped.jsonl")


def add_embed(commands) -> None:
    """`python -m evaluation embed`."""
    parser = commands.add_parser(
        "embed",
        examples=[
            "python -m evaluation embed --model moon2 --dataset mbe2 --output vectors",
            "python -m evaluation embed --model moon2 --dataset shop.csv --text_column title --output vectors",
            "python -m evaluation embed --model moon2 --dataset mbe2 --config queries --role query --output asked",
            "python -m evaluation embed --model moon2 --dataset shop.csv --on_error skip --num_proc 4 --output vectors",
        ],
        description="Embeds every item of a table and writes the vectors as Parquet shards and as .npy. A run that was "
        "interrupted goes on where it was when it is started again.",
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a model; its code is run")
    parser.add_argument("--model_revision", help="branch, tag or commit of a --model on the Hub")
    parser.add_argument(
        "--dataset", required=True, help="a Parquet, CSV or JSON Lines file, or folder or Hub id of a data set"
    )
    parser.add_argument("--dataset_revision", help="branch, tag or commit of a --dataset on the Hub")
    parser.add_argument("--config", help="which configuration of the data set (default: corpus)")
    parser.add_argument("--split", help="which split (default: the only one)")
    parser.add_argument("--id_column", default="id", help="with the ids of the items")
    parser.add_argument("--text_column", default="text", help='with their texts; "" for none')
    parser.add_argument("--image_column", default="image", help='with their pictures; "" for none')
    parser.add_argument("--output", required=True, type=Path, help="folder for the vectors")
    parser.add_argument("--view", choices=VIEWS, default="own", help="what to show: what an item has (own), its text "
                        "(t), its picture (i), or both (mm)")  # fmt: skip
    parser.add_argument("--role", choices=("query", "document"), default="document", help="which prompt "
                        "of the model, if it has any")  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored vectors")
    parser.add_argument("--on_error", choices=("raise", "skip"), default="raise", help="at an item that cannot be "
                        "embedded: end with its id, or note it in skipped.jsonl")  # fmt: skip
    parser.add_argument("--num_proc", type=whole(1), default=1, help="processes, each with the model")
    parser.add_argument("--workers", type=whole(0), default=0, help="of each process, to read pictures")
    parser.add_argument("--batch_size", type=whole(1), default=64, help="items at a time; a run that goes on may "
                        "have another, which may change the last bits of its vectors")  # fmt: skip
    parser.add_argument("--shard_size", type=whole(1), default=SHARD_SIZE, help="items of a shard")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> dict:
    columns = Columns(options.id_column, options.text_column or None, options.image_column or None)
    items = open_items(options.dataset, options.config, options.split, options.dataset_revision, columns)
    work = Work(
        model=options.model,
        revision=options.model_revision,
        view=options.view,
        role=options.role,
        dtype=options.dtype,
        on_error=options.on_error,
        shard_size=options.shard_size,
        batch_size=options.batch_size,
        workers=options.workers,
        output=str(options.output),
    )
    manifest = embed_catalogue(items, work, options.num_proc)
    left_out = f"; {manifest['skipped']} skipped, see {options.output / SKIPPED}" if manifest["skipped"] else ""
    print(f"{manifest['vectors']:,} vectors of {manifest['dimension']} numbers are in {options.output}{left_out}")
    return {"output": options.output, **manifest}
