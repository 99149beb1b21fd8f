"""What a model answers to single queries: the best candidates, where the right one stands, and pictures of both."""

import base64
from collections.abc import Mapping
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.measure.retrieval import ALL_DIRECTIONS, Embedded, candidate_keys, similarity
from evaluation.tables.benchmark import QUERY_VIEWS, Benchmark, Products
from pictures_moon2 import load_picture

SHOWN = 10
EDGE, QUALITY = 132, 72


class Shown(NamedTuple):
    """One product or query to show: what the model saw of a query, all that there is of a product.

    `rank` counts from 1; `right` says whether qrels have it. Both are `None` for a query.
    """

    id: str
    text: str | None
    picture: str | None
    rank: int | None = None
    right: bool | None = None
    score: float | None = None


class Answer(NamedTuple):
    """A query and its answer. `first` is the best-placed right product: shown apart where it is not among the best."""

    query: Shown
    best: list[Shown]
    first: Shown
    hit: bool


def choose_queries(recall: Mapping[str, float], count: int, seed: int) -> list[str]:
    """Ids of queries to look at: half of them misses (none of their products among the first ten), half hits.

    Where there are too few of one kind, the other fills up.

    Args:
        recall: {query id: Recall@10}.
    """
    random = np.random.default_rng(seed)
    kinds = [[name for name in sorted(recall) if (recall[name] > 0) == hit] for hit in (False, True)]
    misses, hits = ([kind[place] for place in random.permutation(len(kind))] for kind in kinds)
    enough = min(len(misses), max(count // 2, count - len(hits)))
    return misses[:enough] + hits[: count - enough]


def answer_queries(
    benchmark: Benchmark,
    direction: str,
    names: list[str],
    queries: dict[str, Embedded],
    corpus: dict[str, Embedded],
    by_group: bool = False,
) -> list[Answer]:
    """The answers to the queries with these ids, each of which has a relevant candidate in this direction.

    Ranks are those of `evaluate_retrieval`: exact, ties broken by id, and by group where asked for.
    """
    modality, view = ALL_DIRECTIONS[direction]
    asked, candidates = queries[modality], corpus[view]
    keys = candidate_keys(benchmark, by_group)
    order = {key: place for place, key in enumerate(sorted(set(keys)))}
    ties = np.array([order[keys[row]] for row in candidates.rows])
    rows = {name: row for row, name in enumerate(benchmark.queries.ids)}
    place = {row: position for position, row in enumerate(asked.rows)}
    answers = []
    for name in names:
        row = rows[name]
        scores = similarity(asked.vectors[place[row]][None], candidates.vectors)[0].numpy()
        relevant = {keys[candidate] for candidate in benchmark.relevant[row]}
        best: list[Shown] = []
        first, seen = None, set()
        for position in np.lexsort((ties, -scores)):
            candidate = candidates.rows[position]
            key = keys[candidate]
            if key in seen:  # a further listing of its group
                continue
            seen.add(key)
            right = key in relevant
            if len(best) < SHOWN or (right and first is None):
                shown = _product(benchmark, candidate, len(seen), right, float(scores[position]))
                best += [shown] if len(best) < SHOWN else []
                first = shown if right and first is None else first
            if first is not None and len(best) == SHOWN:
                break
        answers.append(Answer(_query(benchmark, row), best, first, first.rank <= SHOWN))
    return answers


def _query(benchmark: Benchmark, row: int) -> Shown:
    view = QUERY_VIEWS[benchmark.modalities[row]]
    product = benchmark.queries.product(row, view)
    return Shown(benchmark.queries.ids[row], product["text"], _thumbnail(benchmark.queries, row, product["image"]))


def _product(benchmark: Benchmark, candidate: int, rank: int, right: bool, score: float) -> Shown:
    row = candidate
    for products in benchmark.candidates:
        if row < len(products):
            break
        row -= len(products)
    product = products.product(row, "mm")
    return Shown(products.ids[row], product["text"], _thumbnail(products, row, product["image"]), rank, right, score)


def _thumbnail(products: Products, row: int, picture: dict | None) -> str | None:
    """A small JPEG as a data URI; `None` where there is no picture."""
    if picture is None or products.pictures[row] is None:
        return None
    try:
        image = load_picture(picture)
    except ValueError as error:
        raise EvaluationError(
            f"The picture of {products.name} {products.ids[row]!r} cannot be read: {error}"
        ) from error
    image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
