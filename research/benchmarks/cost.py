"""What a searchable catalogue costs: to embed, to keep up to date, in smaller vectors, in stores, under filters."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from evaluation.arguments import Embed
from evaluation.measure.evaluate import compress
from evaluation.measure.metrics import intervals
from evaluation.measure.retrieval import relevant_ranks
from evaluation.models.encoders import Encoder, load_encoder
from evaluation.stores.engines import ENGINES
from evaluation.stores.load import synchronise
from evaluation.stores.records import Asked, Source
from evaluation.tables.details import Filter
from evaluation.vectors.catalogue import embed_catalogue
from evaluation.vectors.nearest import ExactSearch
from evaluation.vectors.store import MANIFEST, Vectors, join_shards, open_vectors, shards_of, write_shard
from mbe2_dataset.synthetic.catalogue import synthetic_product
from mbe2_dataset.synthetic.render import Look, Scene, Viewpoint, render_photo
from research.benchmarks import arguments
from research.benchmarks.catalogue import write_pictures
from research.benchmarks.measure import print_table
from research.benchmarks.model import model_folder, title
from research.benchmarks.search import made_up_vectors

SHARD = 4096
NOT_RUN = "not run"
K = 10
GROUPS = {"1 %": 0.01, "5 %": 0.05, "20 %": 0.2, "all": 1.0}  # of the products, each with an attribute and a price
SCALE, PIXELS = 0.82, 96  # of a product and of its photo, as in the built-in catalogue


def seconds_used() -> float:
    """Return the seconds of processor time that this process and its finished children have used; of a GPU the clock.

    A machine with other work to do takes longer by the clock, but hardly more processor time.
    """
    return time.perf_counter() if torch.cuda.is_available() else sum(os.times()[:4])


def embedding_cost(options: arguments.EmbeddingCost) -> dict:
    """Print what a million products cost by the size of their images."""
    header = ["image", "products/s", "CPU hours", "GB of vectors", "GB of images", "GPU hours"]
    with model_folder(options.model, options.seed) as model, tempfile.TemporaryDirectory() as scratch:
        encoder = load_encoder(model)
        rows = (_embedding_row(options, encoder, side, Path(scratch)) for side in options.sides)
        where = "GPU" if torch.cuda.is_available() else "CPU"
        told = f"{options.model or 'untrained, of the size of the demo'}, {encoder.dimension} dimensions, float32"
        measured = f"{options.products:,} products on the {where}, seed {options.seed}"
        return print_table(header, rows, f"A million products; {told}; measured with {measured}")


def _embedding_row(options: arguments.EmbeddingCost, encoder: Encoder, side: int, scratch: Path) -> list[str]:
    random, folder = np.random.default_rng(options.seed), scratch / str(side)
    folder.mkdir()
    paths, size = [None], 0.0
    if side:
        write_pictures(folder, side, options.seed)
        paths = sorted(folder.glob("*.jpg"))
        size = float(np.mean([path.stat().st_size for path in paths]))
    products = [
        {"text": title(random, 10)} | ({"image": str(paths[row % len(paths)])} if side else {})
        for row in range(options.products)
    ]
    encoder.encode(products[:64])
    begun = seconds_used()
    encoder.encode(products, workers=options.workers)
    rate = len(products) / (seconds_used() - begun)
    hours = f"{1e6 / rate / 3600:.2f}"
    shown = [hours, NOT_RUN] if not torch.cuda.is_available() else [NOT_RUN, hours]
    figures = [f"{4 * encoder.dimension * 1e6 / 1e9:.2f}", f"{size * 1e6 / 1e9:.1f}"]
    return [f"{side} x {side}" if side else "none", f"{rate:.0f}", shown[0], *figures, shown[1]]


def update_cost(options: arguments.UpdateCost) -> dict:
    """Print what it costs to keep a catalogue up to date: nothing, one per cent, another model."""
    header = ["", "embedded", "GPU s" if torch.cuda.is_available() else "CPU s", "of the whole", "products/s"]
    told = f"{options.model or 'untrained, of the size of the demo'}; {options.products:,} titles, seed {options.seed}"
    return print_table(header, _updates(options), told)


def _updates(options: arguments.UpdateCost) -> Iterator[list[str]]:
    count, random, whole = options.products, np.random.default_rng(options.seed), None
    titles = [f"{title(random, 8)} {row}" for row in range(count)]
    with model_folder(options.model, options.seed) as model, tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "shop.parquet"
        told = Embed(model=model, dataset=str(table), output=Path(scratch) / "v", image_column="", view="t")

        def write(ids: Sequence[int], texts: Sequence[str]) -> None:
            pq.write_table(pa.table({"id": [f"p{number}" for number in ids], "text": list(texts)}), table)

        def run(what: str, **changes) -> list[str]:
            nonlocal whole
            begun = seconds_used()
            with redirect_stdout(sys.stderr):
                facts = embed_catalogue(replace(told, **changes))
            seconds = seconds_used() - begun
            whole = whole or seconds
            embedded = facts.get("to_embed", facts["vectors"])
            rate = f"{embedded / seconds:.0f}" if embedded else "-"
            return [what, f"{embedded:,}", f"{seconds:.1f}", f"{seconds / whole:.1%}", rate]

        write(range(count), titles)
        yield run("all")
        yield run("nothing has changed", update=True)
        changed = max(1, count // 200)
        ids = [*range(changed, count), *range(count, count + changed)]
        texts = [f"changed {row}" for row in range(changed)] + titles[2 * changed :]
        texts += [f"new {row}" for row in range(changed)]
        # In a shop's order, so that what has changed lies in all shards.
        order = np.random.default_rng(0).permutation(count)
        write([ids[place] for place in order], [texts[place] for place in order])
        yield run("1 %: half of it changed, half new; as many removed", update=True)
        with model_folder(None, options.seed + 1) as other:
            yield run("another model", update=True, model=other)


def compression(options: arguments.Compression) -> dict:
    """Print how many of the exact neighbours smaller vectors find, before and after rescoring."""
    with _vectors(options) as (corpus, queries, name):
        best = ExactSearch(corpus).search(queries, K).rows
        factors = options.factors
        header = ["dimensions", "precision", "bytes", *(f"recall@10, rescored {factor}" for factor in factors)]
        dims = [size for size in options.dims if size <= corpus.dimension]
        pairs = [(size, kind) for size in dims for kind in options.precisions]
        rows = (_compressed_row(corpus, queries, best, size, kind, factors) for size, kind in pairs)
        sizes = f"{len(corpus):,} vectors of {corpus.dimension} dimensions ({name}), {len(queries):,} queries"
        return print_table(header, rows, f"{sizes}, seed {options.seed}")


@contextmanager
def _vectors(options: arguments.Compression) -> Iterator[tuple[Vectors, Vectors, str]]:
    """Yield the corpus and queries that were named, or made-up ones with the structure of embeddings."""
    if options.corpus is None:
        with made_up_vectors(options, options.size) as (_, corpus, queries):
            yield corpus, queries, "made up"
    elif options.asked is not None:
        yield open_vectors(options.corpus), open_vectors(options.asked), str(options.corpus)
    else:
        corpus = open_vectors(options.corpus)
        rows = np.sort(np.random.default_rng(options.seed).permutation(len(corpus))[: options.queries])
        yield corpus, Vectors(corpus.take(rows), corpus.ids[rows]), f"{options.corpus}, which asks itself"


def _compressed_row(
    corpus: Vectors, queries: Vectors, best: np.ndarray, size: int, kind: str, factors: Sequence[int]
) -> list[str]:
    full, asked = (torch.from_numpy(part.read(0, len(part))) for part in (corpus, queries))
    small = Vectors(compress(full, size, kind).numpy(), corpus.ids)
    short = Vectors(compress(asked, size, kind, is_query=True).numpy(), queries.ids)
    found = ExactSearch(small).search(short, min(K * max(factors), len(corpus))).rows
    cells = []
    for factor in factors:
        candidates = found[:, : K * factor]
        scores = np.einsum("qd,qcd->qc", asked.numpy(), full.numpy()[candidates]) if factor > 1 else None
        kept = candidates if scores is None else np.take_along_axis(candidates, np.argsort(-scores, 1)[:, :K], 1)
        shares = [np.isin(one, other).mean() for one, other in zip(best, kept, strict=True)]
        cells.append(f"{np.mean(shares):.3f}")
    bits = {"float32": 32, "int8": 8, "binary": 1}[kind]
    return [str(size), kind, str(-(-size * bits // 8)), *cells]


def stores(options: arguments.Stores) -> dict:
    """Print recall and time of stores with filters, by the share of the products that fit."""
    header = ["products", "store", "fits", "recall@10", "ms/query", "s to load"]
    told = f"{options.dimension} dimensions, made-up vectors, {options.queries} queries one by one, seed {options.seed}"
    return print_table(header, (row for size in options.sizes for row in _stored(options, size)), told)


def _stored(options: arguments.Stores, size: int) -> Iterator[list[str]]:
    with made_up_vectors(options, size) as (place, corpus, queries):
        random = np.random.default_rng(options.seed)
        fits = {name: random.random(size) < share for name, share in GROUPS.items()}
        folder = place / "v"
        beside = pa.table(
            {"text": pa.array([None] * size, pa.string())}
            | {f"fits_{number}": pa.array(mask.astype(float)) for number, mask in enumerate(fits.values())}
        )
        for shard, rows in shards_of(folder, size, SHARD).items():
            block = corpus.read(rows.start, rows.stop)
            write_shard(shard, corpus.ids[rows.start : rows.stop], block, beside[rows.start : rows.stop])
        join_shards(folder, list(shards_of(folder, size, SHARD)))
        (folder / MANIFEST).write_text("{}")
        asked = queries.read(0, len(queries))
        best = {}
        for name, mask in fits.items():
            rows = np.flatnonzero(mask)
            search = ExactSearch(Vectors(corpus.take(rows), corpus.ids[rows]), threads=1)
            begun = time.perf_counter()
            hits = [search.search(queries, K, row, row + 1).rows[0] for row in range(len(queries))]
            best[name] = [search.corpus.ids[one] for one in hits]
            seconds = time.perf_counter() - begun
            yield [f"{size:,}", "exact", name, "1.000", f"{1000 * seconds / len(queries):.1f}", "-"]
        for kind in options.stores:
            engine, _, index = kind.partition("+")
            location = options.postgres if engine == "pgvector" else str(place / kind)
            with ENGINES[engine](location, f"moon2_{size}_{len(kind)}", Source(folder)) as store:
                begun = time.perf_counter()
                synchronise(store, Source(folder), bool(index))
                loading = f"{time.perf_counter() - begun:.1f}"
                for number, name in enumerate(fits):
                    filters = [Filter(f"fits_{number}", "=", 1.0)] if name != "all" else []
                    store.search(Asked(asked[0]), filters, K)
                    begun = time.perf_counter()
                    found = [store.search(Asked(vector), filters, K) for vector in asked]
                    milliseconds = 1000 * (time.perf_counter() - begun) / len(asked)
                    pairs = zip(best[name], found, strict=True)
                    shares = [np.isin(one, [identifier for identifier, _ in hits]).mean() for one, hits in pairs]
                    yield [f"{size:,}", kind, name, f"{np.mean(shares):.3f}", f"{milliseconds:.1f}", loading]


def small_objects(options: arguments.SmallObjects) -> dict:
    """Print how often a product is found by a photo of which it covers a given share, alone or among clutter.

    Of equal scores the first product's is better, so that a model that sees nothing finds by chance.
    """
    scenes = ("plain", "clutter")
    encoder = load_encoder(options.model, options.model_revision)
    looks = [synthetic_product(index, options.seed).look for index in range(options.products)]
    usual = [_photo(look, SCALE, (options.seed, index, 0), "plain") for index, look in enumerate(looks)]
    corpus = encoder.encode([{"image": picture} for picture, _ in usual])

    def row(share: float) -> list[str]:
        cells, covered = [], []
        for number, scene in enumerate(scenes, 1):
            asked = []
            for index, (look, (_, full)) in enumerate(zip(looks, usual, strict=True)):
                picture, own = _photo(look, SCALE * (share / full) ** 0.5, (options.seed, index, number), scene)
                asked.append({"image": picture})
                covered.append(own)
            every = torch.arange(len(looks))
            ranks = relevant_ranks(encoder.encode(asked, role="query"), corpus, every[:, None].tolist(), every)
            hits = {"found": (np.concatenate(ranks) <= K).astype(float)}
            low, high = intervals(hits, options.seed)["found"]
            cells.append(f"{100 * hits['found'].mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        return [f"{share:.0%} ({np.mean(covered):.1%})", *cells]

    header = ["share of the photo (measured)", *(f"recall@10, {scene}" for scene in scenes)]
    told = f"{options.model}; {options.products} products of the built-in catalogue, {PIXELS} x {PIXELS} pixels"
    return print_table(header, map(row, options.shares), f"{told}, chance {K / options.products:.1%}, per cent")


def _photo(look: Look, scale: float, seeds: tuple[int, ...], scene: str) -> tuple[Image.Image, float]:
    """Return a photo of a product, and the share of it that the product covers."""
    random = np.random.default_rng(seeds)
    room = max(0.0, (1 - scale) / 2 - 0.02)
    viewpoint = Viewpoint(
        scale=scale,
        shift=tuple(random.uniform(-room, room, 2)),
        rotation=random.uniform(-14, 14),
        mirror=bool(random.random() < 0.5),
        perspective=tuple(random.uniform(-0.12, 0.12, 2)),
    )
    seen = Scene(background=scene, light=(1.0, 1.0), seed=int(random.integers(2**31)))
    picture, mask = render_photo(look, viewpoint, seen, PIXELS)
    return picture, float(mask.mean())
