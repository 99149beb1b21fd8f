"""The page of one run, as HTML without other files: tables, plots, and galleries of what queries were answered."""

import argparse
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common_moon2.cli import whole
from evaluation.errors import EvaluationError
from evaluation.measure.evaluate import Options, embed_benchmark
from evaluation.measure.experts import VIEWS, read_routing
from evaluation.measure.retrieval import ALL_DIRECTIONS, Embedded
from evaluation.models.bm25 import NAME
from evaluation.models.encoders import Encoder, Moon2Encoder, load_encoder
from evaluation.show.examples import answer_queries, choose_queries
from evaluation.show.plots import arrow, draw_compression, draw_directions, draw_map, draw_preference, draw_usage, png
from evaluation.show.report import (
    HEADER,
    SCORES,
    attribute_interval_rows,
    attribute_rows,
    compression_rows,
    headline,
    interval_rows,
    label_interval_rows,
    label_rows,
    left_out,
    run_lines,
    yardsticks,
)
from evaluation.tables.benchmark import Benchmark, load_benchmark
from evaluation.tables.gallery import with_gallery
from evaluation.vectors.cache import VectorCache

TEMPLATES = Path(__file__).parent / "templates"
QUESTIONS = {
    "t2mm": "a text asks for products",
    "i2mm": "a picture asks for products",
    "mm2mm": "picture and text ask for products",
    "t2i": "a text asks for pictures",
    "i2t": "a picture asks for titles",
    "t2t": "a text asks for titles",
}
HINTS = {
    "mm": "",
    "i": " Of a product the model saw only the picture.",
    "t": " Of a product the model saw only the title.",
}
FEWEST = 3  # products of a map


class Sample(NamedTuple):
    """How much of a run to show: queries of each direction, products in the plots, and the seed of both samples."""

    queries: int = 10
    products: int = 400
    seed: int = 0


def make_page(
    folder: Path,
    run: dict,
    sample: Sample,
    cache: VectorCache,
    model: str | None = None,
    dataset: str | None = None,
) -> tuple[str, dict[str, bytes]]:
    """The page of a run, and its plots.

    Args:
        folder, run: the results folder and its results.json.
        model, dataset: where they are now, if not where they were.

    Returns:
        HTML, and {name: PNG}.

    Raises:
        EvaluationError: the model or the data are not those of the run, or a file cannot be read.
    """
    facts = run["run"]
    figures = {"directions": draw_directions(run["retrieval"]), "compression": None}
    if "compression" in run:
        figures["compression"] = draw_compression(run["compression"])
    galleries, missing, products = [], [], 0
    if facts["model"]["kind"] == NAME:
        missing.append(f"{NAME} makes no vectors, so there are no galleries and no map of the embedding.")
    else:
        benchmark, encoder = _benchmark_of(facts, dataset), _encoder_of(facts, model)
        queries, corpus = embed_benchmark(encoder, benchmark, cache, Options(batch_size=facts["batch_size"]))
        galleries = _galleries(folder, facts, benchmark, queries, corpus, sample)
        both = benchmark.corpus.rows("mm")
        chosen = sorted(np.random.default_rng(sample.seed).permutation(both)[: sample.products].tolist())
        products = len(chosen)
        if products >= FEWEST:
            figures["map"] = _map_of(encoder, benchmark, corpus, chosen)
        else:
            missing.append("Too few products have both text and picture for a map of the embedding.")
        if not isinstance(encoder, Moon2Encoder):
            missing.append("Only Moon2 models have experts and a W* to show.")
        elif products:
            routing = read_routing(encoder.checkpoint, benchmark.corpus, chosen)
            figures |= {"usage": draw_usage(routing), "preference": draw_preference(routing)}
    drawn = {name: png(figure) for name, figure in figures.items() if figure is not None}
    return _render(run, drawn, galleries, missing, products, sample), drawn


def _benchmark_of(facts: dict, moved: str | None) -> Benchmark:
    data = facts["dataset"]
    place, revision = (data["name"], data["revision"]) if moved is None else (moved, None)
    benchmark = with_gallery(load_benchmark(place, revision), data["gallery"], place, revision)
    if benchmark.fingerprint != data["fingerprint"]:
        raise EvaluationError(f"The data in {place} have changed since the run: evaluate again, or give --dataset.")
    return benchmark


def _encoder_of(facts: dict, moved: str | None) -> Encoder:
    known = facts["model"]
    place, revision = (known["name"], known["revision"]) if moved is None else (moved, None)
    encoder = load_encoder(place, revision)
    if encoder.fingerprint != known["fingerprint"]:
        raise EvaluationError(f"The model in {place} has changed since the run: evaluate again, or give --model.")
    return encoder


def _galleries(
    folder: Path,
    facts: dict,
    benchmark: Benchmark,
    queries: dict[str, Embedded],
    corpus: dict[str, Embedded],
    sample: Sample,
) -> list[dict]:
    """For each direction that has figures, what the template shows of it."""
    galleries = []
    recalls = _recalls(folder)
    for direction in ALL_DIRECTIONS if sample.queries else ():
        if direction not in recalls:
            continue
        names = choose_queries(recalls[direction], sample.queries, sample.seed)
        answers = answer_queries(benchmark, direction, names, queries, corpus, facts["dataset"]["by_group"])
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
    """{direction: {query id: Recall@10}}, of the run."""
    try:
        table = pq.read_table(folder / SCORES, columns=["task", "id", "recall@10"])
    except (OSError, pa.ArrowInvalid) as error:
        raise EvaluationError(f"{folder / SCORES} cannot be read: {error}.") from error
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
    """For each path its name at the first level where the paths differ; "none" where it has no such level."""
    depth = max(map(len, paths))
    names = [{path[level] for path in paths if len(path) > level} for level in range(depth)]
    level = next((level for level in range(depth) if len(names[level]) > 1), 0)
    return [path[level] if len(path) > level else "none" for path in paths]


def _render(
    run: dict, drawn: dict[str, bytes], galleries: list[dict], missing: list[str], products: int, sample: Sample
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
        intervals=interval_rows(run["retrieval"]),
        labels=label_rows(run),
        label_intervals=label_interval_rows(run),
        attributes=attribute_rows(run["attributes"]) if run["attributes"] is not None else None,
        attribute_intervals=attribute_interval_rows(run["attributes"]) if run["attributes"] is not None else None,
        compression=compression_rows(run["compression"]) if "compression" in run else None,
        left_out=left_out(run).splitlines(),
        plots={name: f"data:image/png;base64,{base64.b64encode(content).decode()}" for name, content in drawn.items()},
        has_plots=bool(drawn.keys() - {"directions"}),
        products=products,
        missing=missing,
        galleries=galleries,
        seed=sample.seed,
        run=run_lines(facts),
    )


PAGE, PLOTS = "report.html", "plots"


def add_report(commands: argparse._SubParsersAction) -> None:
    """Adds the command to the parser of `python -m evaluation`."""
    report = commands.add_parser(
        "report",
        examples=[
            "python -m evaluation report results",
            "python -m evaluation report results --queries 30 --model moon2-moved",
        ],
        description="Writes report.html into the results folder of a run: its figures, plots, and for a sample of the "
        "queries what was found, with pictures. It contains all that it shows. The vectors come from the run's cache.",
    )
    report.add_argument("results", type=Path, metavar="RESULTS", help="results folder of `python -m evaluation run`")
    report.add_argument("--model", help="where the run's model is now (default: where it was)")
    report.add_argument("--dataset", help="where the run's data set is now (default: where it was)")
    report.add_argument("--queries", type=whole(0), default=10, help="to show of each direction")
    report.add_argument("--products", type=whole(3), default=400, help="in the plots of experts and of the embedding")
    report.add_argument("--seed", type=whole(0), default=0, help="of both samples")
    report.add_argument(
        "--cache", type=Path, help="folder of vectors (default: moon2/embeddings in Hugging Face's cache)"
    )
    report.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> dict:
    from evaluation.show.report import write_text
    from evaluation.vectors.cache import DEFAULT_FOLDER, VectorCache

    run = read_run(options.results)
    sample = Sample(options.queries, options.products, options.seed)
    cache = VectorCache(options.cache or DEFAULT_FOLDER)
    html, plots = make_page(options.results, run, sample, cache, options.model, options.dataset)
    folder = options.results / PLOTS
    folder.mkdir(exist_ok=True)
    for name, content in plots.items():
        (folder / f"{name}.png").write_bytes(content)
    write_text(options.results / PAGE, html)
    print(f"The page is {options.results / PAGE}; its plots are in {folder}")
    return {"page": options.results / PAGE, "plots": [folder / f"{name}.png" for name in plots]}


def read_run(folder: Path) -> dict:
    """What is in a folder's results.json.

    Raises:
        EvaluationError: there is none, or it is damaged or of an earlier version.
    """
    path = folder / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvaluationError(f"{folder} has no results.json: give the --output of an evaluation.") from None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict) or "bootstrap" not in content.get("run", {}):
        raise EvaluationError(f"{path} was not written by this version of the evaluation: run it again.")
    return content
