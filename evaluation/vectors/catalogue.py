"""Fill folders of vectors, shard by shard: of a whole catalogue (`python -m evaluation embed`), and the cache's.

A catalogue that was interrupted ends with the same bytes as one that was not (with the same --batch_size; another may
change a vector's last bits). Processes share nothing, and each loads the model, which takes seconds: for few products
one process is faster. With several GPUs each has its own.

An update is a run into a folder below the old one, which takes over the vectors of products whose contents have not
changed. So it can be interrupted, and a reader sees the old state until the new one is complete.
"""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from common_moon2.cli import UserError
from common_moon2.files import write_json, write_text
from common_moon2.parallel import in_processes
from evaluation.arguments import Embed
from evaluation.models import encoders
from evaluation.models.encoders import Encoder
from evaluation.tables.details import read_details
from evaluation.tables.products import Columns, Products, ProductView, open_products
from evaluation.vectors.store import (
    MANIFEST,
    RUN,
    SHARDS,
    SKIPPED,
    UPDATES,
    alone,
    as_stored,
    claim,
    finish_update,
    identity,
    join_shards,
    open_vectors,
    read_beside,
    read_shard,
    shards_of,
    take_over,
    write_shard,
)

# What a run may go on with otherwise than it began.
CHANGEABLE = ("batch_size", "on_error")
# What a vector depends on besides its product; if one of these has changed, none can be taken over.
DECISIVE = ("model_fingerprint", "view", "role", "dtype", "dimension")
SAMPLE = 64  # products that are embedded to say how long the others will take
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
        "versions": [torch.__version__, transformers.__version__, version("sentence-transformers")],
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

    Memory: a shard's vectors and a batch's images for each process, beside the model, and the texts and kept columns
    of the table. The cores are divided among the processes, GPUs are given out in turn.

    Returns:
        The manifest (the run's settings, and how many vectors there are and how many products were skipped), and the
        output; of an update also the `Plan`.

    Raises:
        UserError: a product cannot be embedded (its id is named) and `on_error` is "raise", or none can, or the
            model cannot embed the view, or the folder holds vectors of something else.
    """
    columns = Columns(arguments.id_column, arguments.text_column or None, arguments.image_column or None)
    products = open_products(arguments.dataset, arguments.config, arguments.split, arguments.dataset_revision, columns)
    details = read_details(products, arguments.keep)
    output = arguments.output
    encoder = encoders.load_encoder(arguments.model, arguments.model_revision)
    _check_view(products, arguments, encoder)
    settings = _settings(products, arguments, encoder, details)
    with nullcontext() if arguments.dry_run else alone(output):
        (finish_update if arguments.dry_run else take_over)(output)
        if arguments.dry_run or (arguments.update and (output / RUN).exists()):
            facts = _update(products, arguments, encoder, details, settings)
        else:
            facts = _fill(_Embedder(products, arguments, encoder), details, settings, output)
    if "vectors" in facts:
        left_out = f"; {facts['skipped']} skipped, see {output / SKIPPED}" if facts["skipped"] else ""
        print(f"{facts['vectors']:,} vectors of {facts['dimension']} numbers are in {output}{left_out}")
    return {"output": output, **facts}


def _check_view(products: Products, arguments: Embed, encoder: Encoder) -> None:
    can = ", ".join(sorted(encoder.views))
    if arguments.view != "own":
        if arguments.view not in encoder.views:
            raise UserError(f"{arguments.model} cannot embed the view {arguments.view}; it can: {can}.")
        return
    for view, part in (("t", "text"), ("i", "image")):
        if view not in encoder.views and products.have(part):
            raise UserError(f"{products.name} has {part}s, which {arguments.model} cannot embed: give --view {can}.")


def _settings(products: Products, arguments: Embed, encoder: Encoder, details: pa.Table) -> dict:
    """Return all that decides the vectors, but for their last bits, and what is kept beside them."""
    kept = {}
    if arguments.keep:
        content = json.dumps(details.to_pydict(), ensure_ascii=False).encode("utf-8", "surrogatepass")
        kept = {"keep": list(arguments.keep), "keep_fingerprint": hashlib.sha256(content).hexdigest()}
    return {name: getattr(arguments, name) for name in ("model", "view", "role", "dtype", "shard_size")} | {
        "revision": encoder.revision,
        "model_fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
        "items": len(products),
        "data": products.name,
        "data_fingerprint": products.fingerprint(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "gpu": torch.cuda.is_available(),
        **kept,
    }


class _Known:
    """Vectors that were embedded before, by the digests of their products."""

    def __init__(self):
        self._places: dict[str, tuple[np.ndarray, int]] = {}
        self.of_id: dict[str, str] = {}  # the digests of the finished folder

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def __getitem__(self, digest: str) -> np.ndarray:
        vectors, row = self._places[digest]
        return vectors[row]

    def add(self, digests: list[str], vectors: np.ndarray) -> None:
        """Add (N, D) vectors, which stay in their file if they are mapped."""
        self._places |= {digest: (vectors, row) for row, digest in enumerate(digests)}


def _known(output: Path, settings: dict) -> _Known:
    """Return the vectors of a finished folder, of a run that was interrupted, and of interrupted updates."""
    known = _Known()
    for folder in [*sorted(output.glob(UPDATES)), output]:
        shards = sorted(folder.glob(f"{SHARDS}/*.parquet"))
        run = json.loads((folder / RUN).read_text(encoding="utf-8")) if (folder / RUN).exists() else {}
        if not shards or not _is_digested(shards[0]):
            continue
        fits = all(run.get(name) == settings[name] for name in DECISIVE)
        if (folder / MANIFEST).exists():
            beside = read_beside(folder, ["id", "digest"])
            known.of_id = dict(zip(beside["id"].to_pylist(), beside["digest"].to_pylist(), strict=True))
            if fits:
                known.add(list(known.of_id.values()), open_vectors(folder).array)
        elif fits:
            for shard in shards:
                digests = pq.read_table(shard, columns=["digest"])["digest"].to_pylist()
                known.add(digests, read_shard(shard)[1])
    return known


def _is_digested(shard: Path) -> bool:
    return "digest" in pq.read_schema(shard).names


class Plan(NamedTuple):
    """What an update has to do: numbers of products by what became of them, and of those to embed; seconds estimated.

    `seconds` is `None` where so few products are to be embedded that it was not measured.
    """

    unchanged: int
    new: int
    changed: int
    removed: int
    to_embed: int
    seconds: float | None

    def sentence(self) -> str:
        """Return the plan for people."""
        rate = ""
        if self.seconds is not None:
            rate = f", about {_duration(self.seconds)} at {self.to_embed / self.seconds:.1f} products/s on this machine"
        return (
            f"{self.unchanged:,} products unchanged, {self.new:,} new, {self.changed:,} changed, {self.removed:,} "
            f"removed: {self.to_embed:,} to embed{rate}"
        )


def _update(products: Products, arguments: Embed, encoder: Encoder, details: pa.Table, settings: dict) -> dict:
    """Bring a folder up to date; say first what that takes."""
    output = arguments.output
    before = identity(output) if (output / MANIFEST).exists() else {}
    known = _known(output, settings)
    embedder = _Embedder(products, arguments, encoder)
    digests = embedder.digests(range(len(products)))
    for name in DECISIVE if before else ():
        if before.get(name) != settings[name]:
            print(f"{name} is another one than that of {output}: no vector can be taken over")
    if before and not known.of_id:
        print(f"{output} was written by a version that kept no digests: no vector can be taken over")
    now = dict(zip(products.ids, digests, strict=True))
    same = sum(known.of_id.get(identifier) == digest for identifier, digest in now.items())
    new = sum(identifier not in known.of_id for identifier in now)
    waiting = [row for row, digest in enumerate(digests) if digest not in known]
    seconds = _estimate(embedder, waiting) if len(waiting) >= 2 * SAMPLE or (arguments.dry_run and waiting) else None
    removed = len(known.of_id.keys() - now.keys())
    plan = Plan(same, new, len(now) - same - new, removed, len(waiting), seconds)
    print(plan.sentence(), flush=True)
    if arguments.dry_run:
        return plan._asdict()
    # Stores and searches compare the manifest: what is the same in all that counts stays as it is. The fingerprint of
    # the data knows files by size and time only.
    counted = settings.keys() | {"keep"} - {"versions"}
    if before and same == len(now) and all(before.get(name) == settings.get(name) for name in counted):
        return before | plan._asdict()
    name = hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()[:12]
    manifest = _fill(embedder, details, settings, output / UPDATES.replace("*", name), known, digests)
    take_over(output)
    return manifest | plan._asdict()


def _estimate(embedder: "_Embedder", rows: list[int]) -> float:
    """Return the seconds that rows will take, from a sample over all of them; its vectors are not kept."""
    sample = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
    arguments = embedder.arguments
    chosen = [row for row in sample if ProductView(embedder.products, arguments.view, [row]).lacks(0) is None]
    begun = time.perf_counter()
    embedder.encode(ProductView(embedder.products, arguments.view, chosen), skip=True)
    return (time.perf_counter() - begun) * len(rows) / max(1, len(chosen)) / arguments.num_proc


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 1 else f"{seconds:.0f} s"


class Shard(NamedTuple):
    """A shard to write: its products' rows, digests, what is kept beside the vectors, and vectors known already."""

    path: Path
    rows: range
    digests: list[str]
    details: pa.Table
    known: dict[int, np.ndarray]


def _fill(
    embedder: "_Embedder",
    details: pa.Table,
    settings: dict,
    folder: Path,
    known: _Known | None = None,
    digests: list[str] | None = None,
) -> dict:
    """Fill a folder, or go on with it; return its manifest.

    Args:
        known: vectors to take over, for which the digests of all products are needed.
    """
    products, arguments = embedder.products, embedder.arguments
    claim(folder, settings)
    shards = shards_of(folder, len(products), arguments.shard_size)
    if arguments.on_error == "raise":
        _refuse_skips(folder, [path for path in shards if path.exists()])
    if (folder / MANIFEST).exists():
        return identity(folder)

    def missing() -> Iterator[Shard]:
        for path, rows in shards.items():
            if not path.exists():
                places = slice(rows.start, rows.stop)
                own = digests[places] if digests else embedder.digests(rows)
                found = {
                    row: known[one] for row, one in zip(rows, own, strict=True) if known is not None and one in known
                }
                yield Shard(path, rows, own, details[places], found)

    with tqdm(total=len(products), desc="embed", unit="product", smoothing=0.1) as progress:
        progress.update(sum(len(rows) for path, rows in shards.items() if path.exists()))
        for path in _in_parallel(embedder, missing(), arguments.num_proc):
            progress.update(len(shards[path]))
    skipped = "".join(path.read_text(encoding="utf-8") for path in map(_skips_of, shards))
    write_text(folder / SKIPPED, skipped)
    count = join_shards(folder, list(shards))
    if not count:
        raise UserError(f"None of the {len(products)} products could be embedded; {folder / SKIPPED} says why.")
    changeable = {name: getattr(arguments, name) for name in CHANGEABLE}
    manifest = settings | changeable | {"vectors": count, "skipped": skipped.count("\n")}
    write_json(folder / MANIFEST, manifest, sort_keys=True)
    return manifest


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


def _in_parallel(embedder: "_Embedder", shards: Iterator[Shard], num_proc: int) -> Iterator[Path]:
    """Embed shards in processes; an error does not wait for all."""
    if num_proc == 1:
        yield from map(embedder, shards)
        return
    # Read when a child imports tqdm: many bars on one terminal would overwrite each other.
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield from in_processes(embedder, shards, num_proc, ordered=False)
    except BrokenProcessPool as error:
        raise UserError(
            "A process ended without a message, most likely for lack of memory: run the same command again with a "
            "smaller --num_proc or --batch_size; finished shards are kept."
        ) from error
    finally:
        del os.environ["TQDM_DISABLE"]


class _Embedder:
    """Embeds shards of a table; another process than the first loads a model of its own with its first shard."""

    def __init__(self, products: Products, arguments: Embed, encoder: Encoder):
        self.products, self.arguments, self._encoder = products, arguments, encoder
        self._threads = max(1, torch.get_num_threads() // arguments.num_proc)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_encoder": None}

    def __call__(self, shard: Shard) -> Path:
        """Write a shard, and what it leaves out; return its path."""
        rows, known, view = shard.rows, shard.known, self.arguments.view
        shown, lacking = ProductView(self.products, view, rows), []
        for index, row in enumerate(rows):
            reason = None if row in known else shown.lacks(index)
            if reason is not None:
                if self.arguments.on_error == "raise":
                    raise UserError(f"{shown.describe(index)} cannot be embedded: {reason}.")
                lacking.append((row, reason))
        without = {row for row, _ in lacking} | known.keys()
        complete = ProductView(self.products, view, [row for row in rows if row not in without])
        embedded, vectors, failing = self.encode(complete, self.arguments.on_error == "skip")
        found = known | dict(zip(embedded, as_stored(vectors, self.arguments.dtype), strict=True))
        kept = sorted(found)
        # Before the shard, which says by being there that both are.
        notes = sorted(lacking + failing)
        records = [{"row": row, "id": self.products.ids[row], "reason": reason} for row, reason in notes]
        write_text(_skips_of(shard.path), "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))
        array = np.stack([found[row] for row in kept]) if kept else as_stored(vectors, self.arguments.dtype)
        write_shard(shard.path, [self.products.ids[row] for row in kept], array, self._beside(shard, kept))
        return shard.path

    def _beside(self, shard: Shard, kept: list[int]) -> pa.Table:
        """Return the columns beside the vectors: digest, shows ("t", "i" or "mm"), text, and the kept ones."""
        places = [row - shard.rows.start for row in kept]
        products = [self.products.product(row, self.arguments.view) for row in kept]
        has = [(product["text"] is not None, product["image"] is not None) for product in products]
        own = {
            "digest": [shard.digests[place] for place in places],
            "shows": [{(True, False): "t", (False, True): "i"}.get(parts, "mm") for parts in has],
            "text": self.products.texts_of(kept),
        }
        details = shard.details.take(pa.array(places, pa.int64()))
        columns = {name: pa.array(values, pa.string()) for name, values in own.items()}
        return pa.table(columns | dict(zip(details.column_names, details.columns, strict=True)))

    def digests(self, rows: range) -> list[str]:
        """Return the digest of what each row shows: products of equal digests have equal vectors."""
        return [self.products.digest(row, self.arguments.view) for row in rows]

    def encode(self, shown: ProductView, skip: bool) -> tuple[list[int], np.ndarray, list[tuple[int, str]]]:
        """Return the rows that can be embedded, their vectors (float32), and, if they may be skipped, the others.

        Raises:
            UserError: a product cannot be embedded, and may not be skipped.
        """
        if self._encoder is None:
            self._encoder = self._load()
        nothing = np.empty((0, self._encoder.dimension), np.float32)
        if not len(shown):
            return [], nothing, []
        arguments = self.arguments
        try:
            found = self._encoder.encode(shown, arguments.batch_size, arguments.workers, arguments.role, "shard")
            return list(shown.rows), found.numpy(), []
        except UserError as error:
            if not skip:
                raise
            if len(shown) == 1:
                return [], nothing, [(shown.rows[0], str(error).removeprefix(f"{shown.describe(0)} "))]
        # Halves of halves: what is at fault is found in few steps, and the rest is embedded in large batches.
        half = len(shown) // 2
        parts = (self.encode(shown.take(part), skip) for part in (range(half), range(half, len(shown))))
        rows, vectors, skipped = zip(*parts, strict=True)
        return sum(rows, []), np.concatenate(vectors), sum(skipped, [])

    def _load(self) -> Encoder:
        """Make a process ready: its share of the cores, its GPU, its copy of the model."""
        torch.set_num_threads(self._threads)
        if torch.cuda.is_available():
            number = multiprocessing.current_process()._identity[-1]  # 1, 2, ... in the order of their starts
            torch.cuda.set_device((number - 1) % torch.cuda.device_count())
        return encoders.load_encoder(self.arguments.model, self.arguments.model_revision)


def _skips_of(shard: Path) -> Path:
    return shard.with_suffix(".skipped.jsonl")
