"""One evaluation: embed every view once, then retrieval, classification and attribute prediction.

Smaller vectors are scored as well (docs/vectors.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import normalize

from evaluation.arguments import PRECISIONS, Options
from evaluation.measure.classification import ProductHits, evaluate_attributes, evaluate_classification, linear_probe
from evaluation.measure.retrieval import Embedded, QueryValues, evaluate_retrieval
from evaluation.models.bm25 import evaluate_lexical
from evaluation.models.encoders import Encoder
from evaluation.tables.benchmark import QUERY_VIEWS, Benchmark
from evaluation.tables.products import Columns, Products, ProductView
from evaluation.vectors.catalogue import VectorCache

TITLE_NOTE = "it reads titles only: a product's mm view is its title"


@dataclass(frozen=True)
class Evaluation:
    """All figures, as shares in 0..1, and what each query and product scored, for paired tests.

    Attributes:
        results: `retrieval`, `classification`, `attributes`, and if asked for `compression` and `probe`, as the
            functions of these names give them; `None` for what the model cannot do.
        queries: of each direction that has figures.
        products: of "class" and "attribute", where they have figures.
        note: how the vectors were made, where a reader would not expect it.
    """

    results: dict
    queries: dict[str, QueryValues]
    products: dict[str, ProductHits]
    note: str = ""


def evaluate(
    encoder: Encoder,
    benchmark: Benchmark,
    cache: VectorCache,
    options: Options,
    train: tuple[Products, list[list[str]]] | None = None,
) -> Evaluation:
    """Score an encoder zero-shot on a benchmark (MOON2.0, section 6).

    What an encoder cannot embed is not scored. One that reads texts only sees of a product its title.

    Args:
        train: products and their category paths, for a linear probe.

    Raises:
        UserError: a product cannot be prepared (an unreadable image, say), or its vector is not finite.
    """
    titles_only = encoder.views == {"t"}
    embed = _embedding(encoder, cache, options)
    queries, corpus = embed_benchmark(encoder, benchmark, cache, options)

    retrieval, per_query = evaluate_retrieval(benchmark, queries, corpus, options.by_group, options.seed)
    results = {"retrieval": retrieval, "classification": None, "attributes": None}
    products = {}
    if "t" in encoder.views and "mm" in corpus:
        # The distractors stand behind the corpus, and have no labels. By id, so that the bootstrap draws the same
        # products wherever they stand.
        own = [place for place, row in enumerate(corpus["mm"].rows) if row < len(benchmark.corpus)]
        own.sort(key=lambda place: benchmark.corpus.ids[corpus["mm"].rows[place]])
        labelled = Embedded([corpus["mm"].rows[place] for place in own], corpus["mm"].vectors[own])

        def embed_texts(texts: list[str]) -> torch.Tensor:
            return embed(label_products(texts), "t", "query", "labels")

        for name, task, score in (
            ("classification", "class", evaluate_classification),
            ("attributes", "attribute", evaluate_attributes),
        ):
            results[name], hits = score(benchmark, labelled, embed_texts, options.seed)
            if hits is not None:
                products[task] = hits
        if train is not None:
            shop, paths = train
            rows = shop.rows("mm")
            shown = "t" if titles_only else "mm"
            vectors = embed(ProductView(shop, shown, rows), shown, "document", "train products")
            test_paths = [benchmark.categories[row] for row in labelled.rows]
            known = [paths[row] for row in rows]
            results["probe"] = linear_probe(vectors, known, labelled.vectors, test_paths, options.seed)
    if options.dims or options.precisions:
        dims, precisions = options.dims or [encoder.dimension], options.precisions or ["float32"]
        results["compression"] = evaluate_compression(
            benchmark, queries, corpus, dims, precisions, options.by_group, options.seed
        )
    return Evaluation(results, per_query, products, TITLE_NOTE if titles_only else encoder.note)


def embed_benchmark(
    encoder: Encoder,
    benchmark: Benchmark,
    cache: VectorCache,
    options: Options,
    modalities: Sequence[str] = tuple(QUERY_VIEWS),
    views: Sequence[str] = ("t", "i", "mm"),
) -> tuple[dict[str, Embedded], dict[str, Embedded]]:
    """Embed queries by modality, and candidates by view, as far as the encoder can.

    Raises:
        UserError: as `evaluate`.
    """
    titles_only = encoder.views == {"t"}
    embed = _embedding(encoder, cache, options)

    def embed_candidates(view: str) -> Embedded:
        shown = "t" if titles_only else view
        rows, vectors, start = [], [], 0
        for products in benchmark.candidates:
            chosen = products.rows(view)
            rows += [start + row for row in chosen]
            vectors.append(embed(ProductView(products, shown, chosen), shown, "document", f"{products.name} ({view})"))
            start += len(products)
        return Embedded(rows, torch.cat([part for part in vectors if len(part)] or vectors[:1]))

    queries, corpus = {}, {}
    for modality in modalities:
        view = QUERY_VIEWS[modality]
        if view in encoder.views:
            rows = [row for row, found in enumerate(benchmark.modalities) if found == modality]
            asked = ProductView(benchmark.queries, view, rows)
            queries[modality] = Embedded(rows, embed(asked, view, "query", f"queries ({modality})"))
    for view in views:
        if view in encoder.views or (titles_only and view == "mm"):
            corpus[view] = embed_candidates(view)
    return queries, corpus


def _embedding(encoder: Encoder, cache: VectorCache, options: Options) -> Callable[..., torch.Tensor]:
    """Return a function of (products, view, role, what the progress bar says) that gives (N, D) vectors."""

    def embed(products, view: str, role: str, what: str) -> torch.Tensor:
        return cache.embed(encoder, products, view, role, options.batch_size, options.workers, f"embed {what}")

    return embed


def evaluate_words(benchmark: Benchmark, options: Options) -> Evaluation:
    """Score what matching words alone gives, in the directions where that means something."""
    retrieval, per_query = evaluate_lexical(benchmark, options.by_group, options.seed)
    return Evaluation({"retrieval": retrieval, "classification": None, "attributes": None}, per_query, {}, TITLE_NOTE)


def evaluate_compression(
    benchmark: Benchmark,
    queries: dict[str, Embedded],
    corpus: dict[str, Embedded],
    dims: list[int],
    precisions: list[str],
    by_group: bool = False,
    seed: int = 0,
) -> list[dict]:
    """Score retrieval for every pair of a dimension and a precision, compressed by sentence-transformers' functions.

    Dimensions are the first ones, made a unit vector again. int8: each dimension of the products' vectors is divided
    into 255 steps between its least and greatest value, the queries stay float32. binary: signs on both sides, compared
    by Hamming distance, without rescoring.

    Returns:
        Rows of `dimension`, `precision`, `bytes` (of a vector) and `retrieval`.
    """
    rows = []
    for dimension in dims:
        for precision in precisions:
            asked = {name: _embedded(part, dimension, precision, True) for name, part in queries.items()}
            found = {name: _embedded(part, dimension, precision, False) for name, part in corpus.items()}
            size = -(-dimension * PRECISIONS[precision] // 8)
            retrieval, _ = evaluate_retrieval(benchmark, asked, found, by_group, seed)
            rows.append({"dimension": dimension, "precision": precision, "bytes": size, "retrieval": retrieval})
    return rows


def compress(vectors: torch.Tensor, dimension: int, precision: str, is_query: bool = False) -> torch.Tensor:
    """Return what is left of (N, D) vectors: (N, dimension) float32, L2-normalised, to be compared by cosine."""
    from sentence_transformers import quantize_embeddings  # it takes seconds to import

    short = normalize(vectors[:, :dimension], dim=-1)
    if precision == "binary":
        bits = np.unpackbits(quantize_embeddings(short.numpy(), "ubinary"), axis=1, count=dimension)
        return normalize(torch.from_numpy(bits.astype(np.float32)) * 2 - 1, dim=-1)
    if precision == "int8" and not is_query:
        low, high = short.amin(0).numpy(), short.amax(0).numpy()
        small = quantize_embeddings(short.numpy(), "int8", ranges=np.stack([low, high]))
        restored = (small.astype(np.float32) + 128.5) * (high - low) / 255 + low
        return normalize(torch.from_numpy(restored.astype(np.float32)), dim=-1)
    return short


def _embedded(part: Embedded, dimension: int, precision: str, is_query: bool) -> Embedded:
    return Embedded(part.rows, compress(part.vectors, dimension, precision, is_query)) if part.rows else part


def label_products(texts: list[str]) -> ProductView:
    """Return label texts as products that encoders take."""
    table = Dataset.from_dict({"id": list(range(len(texts))), "text": texts})
    return ProductView(Products("labels", table, Columns(image=None)), "t", range(len(texts)))
