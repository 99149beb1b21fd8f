"""Fill folders of vectors, shard by shard: of a whole catalogue (`python -m evaluation embed`), and the cache's.

A catalogue that was interrupted ends with the same bytes as one that was not (with the same --batch_size; another may
change a vector's last bits). Processes share nothing, and each loads the model, which takes seconds: for few products
one process is faster. With several GPUs each has its own.
"""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from common_moon2.cli import UserError
from common_moon2.files import write_json, write_text
from evaluation.arguments import Embed
from evaluation.models import encoders
from evaluation.models.encoders import Encoder
from evaluation.tables.products import Columns, Products, ProductView, open_products
from evaluation.vectors.store import (
    MANIFEST,
    RUN,
    as_stored,
    claim,
    identity,
    join_shards,
    read_shard,
    shards_of,
    write_shard,
)

SKIPPED = "skipped.jsonl"
# What a run may go on with otherwise than it began.
CHANGEABLE = ("batch_size", "on_error")
# Part of every key of the cache: raise it when the same encoder would give other vectors for the same products.
FORMAT = 2
CACHE_SHARD = 1024
DEFAULT_CACHE = Path(HF_HOME) / "moon2" / "embeddings"


@dataclass
class VectorCache:
    """Vectors that are embedded once: a folder of `evaluation.vectors.store` for every encoder, view and contents.

    Attributes:
        embedded, seconds: how many products this object has embedded (and not found), and how long that took.
    """

    folder: Path = DEFAULT_CACHE
    shard: int = CACHE_SHARD
    embedded: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def embed(
        self,
        encoder: Encoder,
        products: ProductView,
        view: str,
        role: str = "document",
        batch_size: int = 64,
        workers: int = 0,
        description: str = "embed",
    ) -> torch.Tensor:
        """Return (N, D) vectors of the products, in their order; (0, 0) if there are none. See `Encoder.encode`.

        Raises:
            UserError: a product cannot be embedded, or the folder cannot be written or read.
        """
        if not len(products):
            return torch.empty(0, 0)
        about = _about(encoder, view, role)
        content = json.dumps([about, self.shard, products.contents], sort_keys=True)
        place = self.folder / hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        # Longest first over all shards: if a batch does not fit into memory, that shows at once.
        order = sorted(range(len(products)), key=lambda index: -products.text_lengths[index])
        vectors = torch.empty(len(products), encoder.dimension)
        try:
            write_json(place / RUN, about)
            with tqdm(total=len(products), desc=description, unit="product") as progress:
                for number, (path, places) in enumerate(shards_of(place, len(order), self.shard).items(), 1):
                    indices = order[places.start : places.stop]
                    if path.exists():
                        vectors[indices] = _read(path, (len(indices), encoder.dimension))
                    else:
                        begun = time.perf_counter()
                        found = encoder.encode(products.take(indices), batch_size, workers, role, f"part {number}")
                        self.seconds += time.perf_counter() - begun
                        self.embedded += len(indices)
                        write_shard(path, list(map(str, indices)), found.numpy())
                        vectors[indices] = found
                    progress.update(len(indices))
        except OSError as error:
            raise UserError(f"The cache {self.folder} cannot be written: {error.strerror}.") from error
        return vectors


def _about(encoder: Encoder, view: str, role: str) -> dict[str, Any]:
    """Return all but the products that decides vectors. A role matters only where its prompt differs."""
    return {
        "format": FORMAT,
        "encoder": encoder.fingerprint,
        "kind": encoder.kind,
        "dtype": encoder.dtype,
        "prompt": encoder.prompt(role),
        "view": view,
        "gpu": torch.cuda.is_available(),
        "versions": [torch.__version__, transformers.__version__, sentence_transformers.__version__],
    }


def _read(path: Path, shape: tuple[int, int]) -> torch.Tensor:
    try:
        _, vectors = read_shard(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"The cached vectors {path} cannot be read: delete the folder {path.parent}.") from error
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise UserError(f"The cached vectors {path} are not {shape} float32: delete the folder {path.parent}.")
    return torch.from_numpy(vectors.copy())


def embed_catalogue(arguments: Embed) -> dict:
    """Write the vectors of all products of a table; `evaluation.vectors.store` describes the files.

    Memory: a shard's vectors and a batch's pictures for each process, beside the model. The cores are divided among the
    processes, GPUs are given out in turn.

    Returns:
        The manifest (the run's settings, and how many vectors there are and how many products were skipped), and the
        output.

    Raises:
        UserError: a product cannot be embedded (its id is named) and `on_error` is "raise", or none can, or the
            model cannot embed the view, or the folder holds vectors of something else.
    """
    columns = Columns(arguments.id_column, arguments.text_column or None, arguments.image_column or None)
    products = open_products(arguments.dataset, arguments.config, arguments.split, arguments.dataset_revision, columns)
    manifest, output = _fill(products, arguments), arguments.output
    left_out = f"; {manifest['skipped']} skipped, see {output / SKIPPED}" if manifest["skipped"] else ""
    print(f"{manifest['vectors']:,} vectors of {manifest['dimension']} numbers are in {output}{left_out}")
    return {"output": output, **manifest}


def _fill(products: Products, arguments: Embed) -> dict:
    output = arguments.output
    encoder = encoders.load_encoder(arguments.model, arguments.model_revision)
    _check_view(products, arguments, encoder)
    settings = _settings(products, arguments, encoder)
    claim(output, settings)
    shards = shards_of(output, len(products), arguments.shard_size)
    if arguments.on_error == "raise":
        _refuse_skips(output, [path for path in shards if path.exists()])
    if (output / MANIFEST).exists():
        return identity(output)
    missing = {path: places for path, places in shards.items() if not path.exists()}
    run = _in_processes if arguments.num_proc > 1 else _in_turn
    with tqdm(total=len(products), desc="embed", unit="product", smoothing=0.1) as progress:
        progress.update(len(products) - sum(map(len, missing.values())))
        for path in run(products, arguments, encoder, missing):
            progress.update(len(shards[path]))
    skipped = "".join(path.read_text(encoding="utf-8") for path in map(_skips_of, shards))
    write_text(output / SKIPPED, skipped)
    count = join_shards(output, list(shards))
    if not count:
        raise UserError(f"None of the {len(products)} products could be embedded; {output / SKIPPED} says why.")
    changeable = {name: getattr(arguments, name) for name in CHANGEABLE}
    manifest = settings | changeable | {"vectors": count, "skipped": skipped.count("\n")}
    write_json(output / MANIFEST, manifest, sort_keys=True)
    return manifest


def _check_view(products: Products, arguments: Embed, encoder: Encoder) -> None:
    can = ", ".join(sorted(encoder.views))
    if arguments.view != "own":
        if arguments.view not in encoder.views:
            raise UserError(f"{arguments.model} cannot embed the view {arguments.view}; it can: {can}.")
        return
    for view, part in (("t", "text"), ("i", "image")):
        if view not in encoder.views and products.have(part):
            raise UserError(f"{products.name} has {part}s, which {arguments.model} cannot embed: give --view {can}.")


def _settings(products: Products, arguments: Embed, encoder: Encoder) -> dict:
    """Return all that decides the vectors, but for their last bits."""
    return {name: getattr(arguments, name) for name in ("model", "view", "role", "dtype", "shard_size")} | {
        "revision": encoder.revision,
        "model_fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
        "items": len(products),
        "data": products.name,
        "data_fingerprint": products.fingerprint(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "gpu": torch.cuda.is_available(),
    }


def _refuse_skips(output: Path, shards: list[Path]) -> None:
    """Refuse to go on with "raise" where a run with "skip" has left something out."""
    for path in map(_skips_of, shards):
        notes = path.read_text(encoding="utf-8")
        if notes:
            note = json.loads(notes.partition("\n")[0])
            raise UserError(
                f"{output} was begun with --on_error skip and lacks row {note['row']} (id {note['id']!r}): "
                f"{note['reason'].rstrip('.')}. Give --on_error skip again, or another --output."
            )


def _in_turn(products: Products, arguments: Embed, encoder: Encoder, missing: dict[Path, range]) -> Iterator[Path]:
    for path, rows in missing.items():
        _embed_shard(products, arguments, encoder, path, rows)
        yield path


def _in_processes(products: Products, arguments: Embed, encoder: Encoder, missing: dict[Path, range]) -> Iterator[Path]:
    """Embed shards in processes; an error does not wait for all."""
    context = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork
    count = context.Value("i", 0)
    threads = max(1, torch.get_num_threads() // arguments.num_proc)
    # Read when a child imports tqdm: many bars on one terminal would overwrite each other.
    os.environ["TQDM_DISABLE"] = "1"
    try:
        with ProcessPoolExecutor(arguments.num_proc, context, _start, (products, arguments, threads, count)) as pool:
            futures = [pool.submit(_embed_own, path, rows) for path, rows in missing.items()]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except UserError:
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise UserError(
            "A process ended without a message, most likely for lack of memory: run the same command again with a "
            "smaller --num_proc or --batch_size; finished shards are kept."
        ) from error
    finally:
        del os.environ["TQDM_DISABLE"]


def _start(products: Products, arguments: Embed, threads: int, count) -> None:
    """Make a process ready: its share of the cores, its GPU, its copy of the model."""
    global _own
    with count.get_lock():
        rank, count.value = count.value, count.value + 1
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    _own = products, arguments, encoders.load_encoder(arguments.model, arguments.model_revision)


def _embed_own(path: Path, rows: range) -> Path:
    _embed_shard(*_own, path, rows)
    return path


def _embed_shard(products: Products, arguments: Embed, encoder: Encoder, path: Path, rows: range) -> None:
    shown, lacking = ProductView(products, arguments.view, rows), []
    for index, row in enumerate(rows):
        reason = shown.lacks(index)
        if reason is not None:
            if arguments.on_error == "raise":
                raise UserError(f"{shown.describe(index)} cannot be embedded: {reason}.")
            lacking.append((row, reason))
    without = {row for row, _ in lacking}
    complete = ProductView(products, arguments.view, [row for row in rows if row not in without])
    kept, vectors, failing = _encode(complete, arguments, encoder)
    # Before the shard, which says by being there that both are.
    records = [{"row": row, "id": products.ids[row], "reason": reason} for row, reason in sorted(lacking + failing)]
    write_text(_skips_of(path), "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    write_shard(path, [products.ids[row] for row in kept], as_stored(vectors, arguments.dtype))


def _encode(
    shown: ProductView, arguments: Embed, encoder: Encoder
) -> tuple[list[int], np.ndarray, list[tuple[int, str]]]:
    """Return the rows that can be embedded, their vectors, and the others with the reason."""
    nothing = np.empty((0, encoder.dimension), np.float32)
    if not len(shown):
        return [], nothing, []
    try:
        found = encoder.encode(shown, arguments.batch_size, arguments.workers, arguments.role, "shard")
        return list(shown.rows), found.numpy(), []
    except UserError as error:
        if arguments.on_error == "raise":
            raise
        if len(shown) == 1:
            return [], nothing, [(shown.rows[0], str(error).removeprefix(f"{shown.describe(0)} "))]
    # Halves of halves: what is at fault is found in few steps, and the rest is embedded in large batches.
    half = len(shown) // 2
    parts = (_encode(shown.take(part), arguments, encoder) for part in (range(half), range(half, len(shown))))
    rows, vectors, skipped = zip(*parts, strict=True)
    return sum(rows, []), np.concatenate(vectors), sum(skipped, [])


def _skips_of(shard: Path) -> Path:
    return shard.with_suffix(".skipped.jsonl")
