"""The page of one run, as HTML without other files: tables, plots, and the answers to a sample of the queries."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from common_moon2.cli import UserError
from common_moon2.files import staged, write_text
from evaluation.arguments import BM25, HYBRID, Options, Report
from evaluation.measure.evaluate import embed_benchmark
from evaluation.measure.hybrid import Words
from evaluation.measure.metrics import ALL_DIRECTIONS
from evaluation.measure.retrieval import Embedded, candidate_keys, similarity
from evaluation.models.embed import VIEWS, read_routing
from evaluation.models.encoders import Encoder, Moon2Encoder, load_encoder
from evaluation.show.plots import arrow, draw_compression, draw_directions, draw_map, draw_preference, draw_usage, png
from evaluation.show.report import HEADER, SCORES, headline, left_out, run_lines, sections, yardsticks
from evaluation.tables.benchmark import QUERY_VIEWS, Benchmark, load_benchmark, with_gallery
from evaluation.tables.products import Products
from evaluation.vectors.catalogue import DEFAULT_CACHE, VectorCache
from evaluation.vectors.hybrid import read_fusion, weighted
from pictures_moon2 import load_picture

PAGE, PLOTS = "report.html", "plots"
TEMPLATES = Path(__file__).parent / "templates"
QUESTIONS = {
    "t2mm": "a text asks for products",
    "i2mm": "an image asks for products",
    "mm2mm": "image and text ask for products",
    "t2i": "a text asks for images",
    "i2t": "an image asks for titles",
    "t2t": "a text asks for titles",
}
HINTS = {
    "mm": "",
    "i": " Of a product the model saw only the image.",
    "t": " Of a product the model saw only the title.",
}
FEWEST = 3  # products of a map
BEST = 10  # products that are shown for a query
EDGE, QUALITY = 132, 72  # of an image on the page: pixels of its longer side, and of the JPEG


def write_page(arguments: Report) -> dict:
    """Write the page of a run, and its plots as files, into its results folder.

    Raises:
        UserError: the model or the data are not those of the run, or a file cannot be read.
    """
    html, plots = make_page(arguments, read_run(arguments.results))
    page, folder = arguments.results / PAGE, arguments.results / PLOTS
    for name, content in plots.items():
        with staged(folder / f"{name}.png") as temporary:
            temporary.write_bytes(content)
    write_text(page, html)
    print(f"The page is {page}; its plots are in {folder}")
    return {"page": page, "plots": [folder / f"{name}.png" for name in plots]}


def make_page(arguments: Report, run: dict) -> tuple[str, dict[str, bytes]]:
    """Return the page of a run as HTML, and its plots as {name: PNG}.

    Args:
        run: its results.json.

    Raises:
        UserError: the model or the data are not those of the run, or a file cannot be read.
    """
    facts = run["run"]
    figures = {"directions": draw_directions(run["retrieval"]), "compression": None}
    if "compression" in run:
        figures["compression"] = draw_compression(run["compression"])
    galleries, missing, products = [], [], 0
    if facts["model"]["kind"] == BM25:
        missing.append(f"{BM25} makes no vectors, so there are no galleries and no map of the embedding.")
    else:
        benchmark, encoder = _benchmark_of(facts, arguments.dataset), _encoder_of(facts, arguments.model)
        cache = VectorCache(arguments.cache or DEFAULT_CACHE)
        queries, corpus = embed_benchmark(encoder, benchmark, cache, Options(batch_size=facts["batch_size"]))
        galleries = _galleries(arguments, run, benchmark, queries, corpus)
        both = benchmark.corpus.rows("mm")
        chosen = sorted(np.random.default_rng(arguments.seed).permutation(both)[: arguments.products].tolist())
        products = len(chosen)
        if products >= FEWEST:
            figures["map"] = _map_of(encoder, benchmark, corpus, chosen)
        else:
            missing.append("Too few products have both text and image for a map of the embedding.")
        if not isinstance(encoder, Moon2Encoder):
            missing.append("Only Moon2 models have experts and a W* to show.")
        elif products:
            routing = read_routing(encoder.checkpoint, benchmark.corpus, chosen)
            figures |= {"usage": draw_usage(routing), "preference": draw_preference(routing)}
    drawn = {name: png(figure) for name, figure in figures.items() if figure is not None}
    return _render(run, drawn, galleries, missing, products, arguments.seed), drawn


def _benchmark_of(facts: dict, moved: str | None) -> Benchmark:
    data = facts["dataset"]
    place, revision = (data["name"], data["revision"]) if moved is None else (moved, None)
    benchmark = with_gallery(load_benchmark(place, revision), data["gallery"], place, revision)
    if benchmark.fingerprint != data["fingerprint"]:
        raise UserError(f"The data in {place} have changed since the run: evaluate again, or give --dataset.")
    return benchmark


def _encoder_of(facts: dict, moved: str | None) -> Encoder:
    known = facts["model"]
    place, revision = (known["name"], known["revision"]) if moved is None else (moved, None)
    encoder = load_encoder(place.removesuffix(HYBRID), revision)
    if encoder.fingerprint != known["fingerprint"]:
        raise UserError(f"The model in {place} has changed since the run: evaluate again, or give --model.")
    return encoder


def _galleries(
    arguments: Report, run: dict, benchmark: Benchmark, queries: dict[str, Embedded], corpus: dict[str, Embedded]
) -> list[dict]:
    """Return for each direction that has figures what the template shows of it."""
    galleries, by_group = [], run["run"]["dataset"]["by_group"]
    words = Words(benchmark) if "hybrid" in run else None
    fusion = read_fusion(arguments.results) if words else None
    recalls = _recalls(arguments.results)
    for direction in ALL_DIRECTIONS if arguments.queries else ():
        if direction not in recalls:
            continue
        names = choose_queries(recalls[direction], arguments.queries, arguments.seed)
        if words and direction in run["hybrid"]["directions"]:
            told = words.add(direction, queries, corpus, fusion.weights.get(direction)), weighted
        else:
            modality, view = ALL_DIRECTIONS[direction]
            told = (queries[modality], corpus[view]), similarity
        answers = answer_queries(benchmark, names, *told, by_group)
        galleries.append(
            {
                "direction": direction,
                "name": arrow(direction),
                "question": QUESTIONS[direction],
                "hint": HINTS[ALL_DIRECTIONS[direction][1]],
                "queries": len(recalls[direction]),
                "misses": sum(not answer.hit for answer in answers),
                "answers": answers,
            }
        )
    return galleries


def _recalls(folder: Path) -> dict[str, dict[str, float]]:
    """Return {direction: {query id: Recall@10}} of the run."""
    try:
        table = pq.read_table(folder / SCORES, columns=["task", "id", "recall@10"])
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{folder / SCORES} cannot be read: {error}.") from error
    found: dict[str, dict[str, float]] = {}
    for row in table.to_pylist():
        if row["task"] in ALL_DIRECTIONS:
            found.setdefault(row["task"], {})[row["id"]] = row["recall@10"]
    return found


def _map_of(encoder: Encoder, benchmark: Benchmark, corpus: dict[str, Embedded], rows: list[int]):
    vectors = {}
    for view in VIEWS:
        if view in encoder.views:
            place = {row: position for position, row in enumerate(corpus[view].rows)}
            vectors[view] = corpus[view].vectors[[place[row] for row in rows]].numpy()
    return draw_map(vectors, top_categories([benchmark.categories[row] for row in rows]))


def top_categories(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the name of each path at the first level where the paths differ; "none" where it has no such level."""
    depth = max(map(len, paths))
    names = [{path[level] for path in paths if len(path) > level} for level in range(depth)]
    level = next((level for level in range(depth) if len(names[level]) > 1), 0)
    return [path[level] if len(path) > level else "none" for path in paths]


def _render(
    run: dict, drawn: dict[str, bytes], galleries: list[dict], missing: list[str], products: int, seed: int
) -> str:
    facts = run["run"]
    data, name = facts["dataset"], Path(facts["model"]["name"]).name
    # What comes from data (titles, ids, names of attributes) is escaped; a name that the template lacks is an error.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(
        title=f"{name} on {Path(data['name']).name}",
        subtitle=f"{data['corpus']:,} products, {data['queries']:,} queries, gallery {data['gallery']} "
        f"({data['candidates']:,} candidates); {facts['date']}",
        headline=(HEADER, [headline(name, run), *yardsticks(run)]),
        note=facts["model"]["note"],
        sections=sections(run),
        left_out=left_out(run).splitlines(),
        plots={name: f"data:image/png;base64,{base64.b64encode(content).decode()}" for name, content in drawn.items()},
        has_plots=bool(drawn.keys() - {"directions"}),
        products=products,
        missing=missing,
        galleries=galleries,
        seed=seed,
        run=run_lines(facts),
    )


def read_run(folder: Path) -> dict:
    """Return what is in a folder's results.json.

    Raises:
        UserError: there is none, or it is damaged or of an earlier version.
    """
    path = folder / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} has no results.json: give the --output of an evaluation.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict) or "bootstrap" not in content.get("run", {}):
        raise UserError(f"{path} was not written by this version of the evaluation: run it again.")
    return content


class Card(NamedTuple):
    """A query or a product as the page shows it: what the model saw of a query, all that there is of a product.

    `rank` counts from 1; `right` tells whether qrels have it. Both are `None` for a query.
    """

    id: str
    text: str | None
    picture: str | None
    rank: int | None = None
    right: bool | None = None
    score: float | None = None


class Answer(NamedTuple):
    """A query and its answer. `first` is the best-placed right product: shown apart where it is not among the best."""

    query: Card
    best: list[Card]
    first: Card
    hit: bool


def choose_queries(recall: Mapping[str, float], count: int, seed: int) -> list[str]:
    """Choose ids of queries: half of them misses (none of their products among the first ten), half hits.

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
    names: list[str],
    direction: tuple[Embedded, Embedded],
    scores_of: Callable = similarity,
    by_group: bool = False,
) -> list[Answer]:
    """Return the answers to the queries with these ids, each of which has a relevant candidate in this direction.

    Ranks are those of `evaluate_retrieval`: exact, ties broken by id, and by group where asked for.

    Args:
        direction: the vectors of queries and of candidates.
        scores_of: see `evaluate_retrieval`.
    """
    asked, candidates = direction
    keys = candidate_keys(benchmark, by_group)
    order = {key: place for place, key in enumerate(sorted(set(keys)))}
    ties = np.array([order[keys[row]] for row in candidates.rows])
    rows = {name: row for row, name in enumerate(benchmark.queries.ids)}
    place = {row: position for position, row in enumerate(asked.rows)}
    answers = []
    for name in names:
        row = rows[name]
        scores = scores_of(asked.vectors[[place[row]]], candidates.vectors)[0].numpy()
        relevant = {keys[candidate] for candidate in benchmark.relevant[row]}
        best: list[Card] = []
        first, seen = None, set()
        for position in np.lexsort((ties, -scores)):
            candidate = candidates.rows[position]
            key = keys[candidate]
            if key in seen:  # another product of its group
                continue
            seen.add(key)
            right = key in relevant
            if len(best) < BEST or (right and first is None):
                shown = _product(benchmark, candidate, len(seen), right, float(scores[position]))
                best += [shown] if len(best) < BEST else []
                first = shown if right and first is None else first
            if first is not None and len(best) == BEST:
                break
        answers.append(Answer(_query(benchmark, row), best, first, first.rank <= BEST))
    return answers


def _query(benchmark: Benchmark, row: int) -> Card:
    view = QUERY_VIEWS[benchmark.modalities[row]]
    product = benchmark.queries.product(row, view)
    return Card(benchmark.queries.ids[row], product["text"], _thumbnail(benchmark.queries, row, product["image"]))


def _product(benchmark: Benchmark, candidate: int, rank: int, right: bool, score: float) -> Card:
    row = candidate
    for products in benchmark.candidates:
        if row < len(products):
            break
        row -= len(products)
    product = products.product(row, "mm")
    return Card(products.ids[row], product["text"], _thumbnail(products, row, product["image"]), rank, right, score)


def _thumbnail(products: Products, row: int, picture: dict | None) -> str | None:
    """Return a small JPEG as a data URI; `None` where there is no image."""
    if picture is None:
        return None
    try:
        image = load_picture(picture)
    except ValueError as error:
        raise UserError(f"The image of {products.name} {products.ids[row]!r} cannot be read: {error}") from error
    image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
