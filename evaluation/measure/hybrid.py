"""Score vectors and words together: `--model moon2+bm25`."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from evaluation.arguments import BM25, Options
from evaluation.measure.evaluate import Evaluation, embed_benchmark
from evaluation.measure.metrics import ALL_DIRECTIONS, METRICS, paired_test
from evaluation.measure.retrieval import Embedded, QueryValues, evaluate_retrieval
from evaluation.models.bm25 import Bm25
from evaluation.models.encoders import Encoder
from evaluation.tables.benchmark import Benchmark, validation_benchmark
from evaluation.tables.products import Products
from evaluation.vectors.catalogue import VectorCache
from evaluation.vectors.hybrid import WORDED, Fusion, Weight, as_products, as_queries, by_rank, fit_weight, weighted

Direction = tuple[Embedded, Embedded]  # queries and products with their words


class Words:
    """BM25 over the titles of a benchmark's candidates.

    Raises:
        UserError: no title has a word.
    """

    def __init__(self, benchmark: Benchmark):
        self.benchmark = benchmark
        self.bm25 = Bm25([text for products in benchmark.candidates for text in products.texts])

    def add(self, direction: str, queries: dict, corpus: dict, weight: Weight | None) -> Direction:
        """Add the queries' texts and the products' titles to the vectors of a direction."""
        asked, products = (part[name] for part, name in zip((queries, corpus), ALL_DIRECTIONS[direction], strict=True))
        texts = [self.benchmark.queries.texts[row] for row in asked.rows]
        found = as_products(products.vectors, self.bm25.documents[products.rows])
        return Embedded(asked.rows, as_queries(self.bm25, asked.vectors, texts, [weight] * len(texts))), Embedded(
            products.rows, found
        )


def fit_fusion(
    encoder: Encoder, dataset: str, revision: str | None, corpus: Products, cache: VectorCache, options: Options
) -> Fusion | None:
    """Fit the weights on the validation triplets of a data set; their vectors come from the cache, or go there.

    Args:
        corpus: what is searched, among which their products have to be found.

    Returns:
        `None` if the data set has no such triplets, or too few for any weight.

    Raises:
        UserError: the triplets cannot be read, or a product cannot be embedded.
    """
    benchmark = validation_benchmark(dataset, revision, corpus)
    if benchmark is None:
        return None
    queries, corpus = embed_benchmark(encoder, benchmark, cache, options, ("text", "mixed"), ("t", "mm"))
    fusion = fit_on(benchmark, queries, corpus, "the validation triplets", encoder.fingerprint)
    return fusion if fusion.weights else None


def fit_on(
    benchmark: Benchmark,
    queries: dict[str, Embedded],
    corpus: dict[str, Embedded],
    source: str,
    model: str,
    rows: set[int] | None = None,
) -> Fusion:
    """Fit the weights of each direction that has words on a benchmark's queries, or on some rows of them.

    Args:
        model: the fingerprint of the model whose vectors these are.
    """
    weights = {}
    for direction in directions_of(queries, corpus):
        words = Words(benchmark)
        asked, products = words.add(direction, queries, corpus, None)
        place = {row: number for number, row in enumerate(products.rows)}
        chosen = [number for number, row in enumerate(asked.rows) if rows is None or row in rows]
        texts = [benchmark.queries.texts[asked.rows[number]] for number in chosen]
        right = [[place[c] for c in benchmark.relevant[asked.rows[number]] if c in place] for number in chosen]
        weight = fit_weight(words.bm25, asked.vectors[chosen], products.vectors, texts, right)
        if weight is not None:
            weights[direction] = weight
    return Fusion(weights, source, model)


def directions_of(queries: dict[str, Embedded], corpus: dict[str, Embedded]) -> list[str]:
    """Return the directions with words for which there are queries and products."""
    pairs = {direction: ALL_DIRECTIONS[direction] for direction in WORDED}
    return [
        direction
        for direction, (modality, view) in pairs.items()
        if modality in queries and queries[modality].rows and view in corpus and corpus[view].rows
    ]


def evaluate_hybrid(
    evaluation: Evaluation,
    encoder: Encoder,
    benchmark: Benchmark,
    cache: VectorCache,
    options: Options,
    fusion: Fusion | None,
) -> Evaluation:
    """Score vectors and words together, and test the difference from either alone.

    Args:
        evaluation: of the vectors alone, whose retrieval this replaces.
        fusion: the weights; without them those of each half of the queries are fitted on the other half.

    Returns:
        The evaluation with `hybrid` beside: `fusion`, and for each direction in which words count `ways` (the results
        of vectors, bm25 and rrf) and `tests`: of "vectors" and "bm25" the paired test of the difference to them, by
        metric.

    Raises:
        UserError: no title has a word.
    """
    queries, corpus = embed_benchmark(encoder, benchmark, cache, options)
    words, parts = Words(benchmark), None
    if fusion is None:
        told = benchmark, queries, corpus, "the other half of the queries", encoder.fingerprint
        order = np.random.default_rng(0).permutation(len(benchmark.queries))
        parts = [set(order[start::2].tolist()) for start in (0, 1)]
        fitted = [fit_on(*told, half) for half in parts]
        fusion = fit_on(*told)
    retrieval, per_query = dict(evaluation.results["retrieval"]), dict(evaluation.queries)
    directions = {}
    for direction in directions_of(queries, corpus):
        if direction not in per_query:
            continue
        asked, products = words.add(direction, queries, corpus, fusion.weights.get(direction))
        if parts is not None:
            swapped = [words.add(direction, queries, corpus, one.weights.get(direction))[0] for one in fitted[::-1]]
            mine = np.array([row in parts[0] for row in asked.rows])
            weights = np.where(mine, *(part.vectors.weights for part in swapped))
            asked = Embedded(asked.rows, asked.vectors._replace(weights=weights))
        scored = partial(_scored, benchmark, options, direction, products)
        alone = Embedded(asked.rows, asked.vectors._replace(weights=np.ones(len(asked.rows))))
        (both, of_both), (only, of_words) = scored(asked, weighted), scored(alone, weighted)
        ways = {"vectors": retrieval[direction], BM25: only, "rrf": scored(asked, by_rank, len(products.rows))[0]}
        single = {"vectors": per_query[direction], BM25: of_words}
        tests = {name: _tested(values, of_both, options.seed) for name, values in single.items()}
        directions[direction] = {"ways": ways, "tests": tests}
        retrieval[direction], per_query[direction] = both, of_both
    hybrid = {"fusion": asdict(fusion), "directions": directions}
    note = "; ".join(filter(None, [evaluation.note, f"words and vectors: {fusion.sentence()}"]))
    return replace(
        evaluation,
        results=evaluation.results | {"retrieval": retrieval, "hybrid": hybrid},
        queries=per_query,
        note=note,
    )


def _scored(
    benchmark: Benchmark,
    options: Options,
    direction: str,
    products: Embedded,
    asked: Embedded,
    scores_of: Callable,
    chunk: int | None = None,
) -> tuple[dict, QueryValues]:
    modality, view = ALL_DIRECTIONS[direction]
    parts = {modality: asked}, {view: products}
    found, values = evaluate_retrieval(benchmark, *parts, options.by_group, options.seed, scores_of, chunk)
    return found[direction], values[direction]


def _tested(alone: QueryValues, both: QueryValues, seed: int) -> dict[str, dict]:
    tables = [np.stack([part.values[metric] for metric in METRICS], axis=1) for part in (alone, both)]
    return dict(zip(METRICS, paired_test(*tables, seed=seed), strict=True))
