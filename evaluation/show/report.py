"""The results of a run: its facts, results.json, and Markdown in the layout of MOON2.0, section 6."""

import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common_moon2.files import staged, write_json, write_text
from common_moon2.machine import device_name, hardware, peak_memory, versions
from common_moon2.text import table
from evaluation.arguments import BM25, Run
from evaluation.measure.classification import ATTRIBUTE_TEMPLATE, CATEGORY_TEMPLATE, MIN_SUPPORT
from evaluation.measure.compare import SCORES
from evaluation.measure.evaluate import Evaluation
from evaluation.measure.metrics import ALL_DIRECTIONS, ARROWS, CONFIDENCE, DIRECTIONS, METRIC_NAMES, METRICS, RESAMPLES
from evaluation.models.bm25 import K1, B
from evaluation.models.encoders import Encoder
from evaluation.tables.benchmark import Benchmark
from evaluation.vectors.catalogue import VectorCache

HEADER = ["", *(ARROWS[direction] for direction in DIRECTIONS), "class", "attribute"]
YARDSTICKS = ("chance", "majority")
LABEL_NOTE = "Nearest label text to the multimodal view, which contains the title. Per cent."
RESAMPLED_NOTE = "With 95 % intervals, from resampled products."
LABEL_METRICS = {"accuracy": "accuracy", "precision": "macro P", "recall": "macro R", "f1": "macro F1"}
LABEL_COLUMNS = (*LABEL_METRICS, *YARDSTICKS)
LABEL_HEADER = ["", "products", "labels", *LABEL_METRICS.values(), *YARDSTICKS]


class Section(NamedTuple):
    """A table with its title and what to know of it."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Return the section as Markdown."""
        return f"## {self.title}\n\n{self.note}\n\n{table(self.header, self.rows)}"


def run_facts(encoder: Encoder | None, benchmark: Benchmark, arguments: Run, note: str, cache: VectorCache) -> dict:
    """Return what one needs to know to get the same figures again.

    Args:
        encoder: `None` for BM25.
        note: how the vectors were made, where a reader would not expect it; that texts were cut is added.
        cache: which of the vectors it had to embed tells the speed.
    """
    return {
        "model": _model_facts(encoder, benchmark, note),
        "dataset": {
            "name": arguments.dataset,
            "revision": benchmark.revision,
            "fingerprint": benchmark.fingerprint,
            "corpus": len(benchmark.corpus),
            "queries": len(benchmark.queries),
            "judgements": sum(map(len, benchmark.relevant)),
            "gallery": benchmark.gallery,
            "candidates": sum(map(len, benchmark.candidates)),
            "by_group": arguments.by_group,
        },
        "labels": {"category": CATEGORY_TEMPLATE, "attribute": ATTRIBUTE_TEMPLATE, "min_support": MIN_SUPPORT},
        "seed": arguments.seed,
        "bootstrap": {"resamples": RESAMPLES, "confidence": CONFIDENCE, "interval": "percentile"},
        "batch_size": arguments.batch_size,
        "embedding": {
            "items": cache.embedded,
            "seconds": round(cache.seconds, 3),
            "items_per_second": round(cache.embedded / cache.seconds, 2) if cache.seconds else None,
            "peak_memory": peak_memory(),
        },
        "versions": versions(),
        "hardware": hardware(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
    }


def _model_facts(encoder: Encoder | None, benchmark: Benchmark, note: str) -> dict:
    if encoder is None:
        return {"name": BM25, "kind": BM25, "revision": None, "k1": K1, "b": B, "note": note}
    titles = [text for products in benchmark.candidates for text in products.texts if text is not None]
    asked = zip(benchmark.queries.texts, benchmark.modalities, strict=True)
    queries = [text for text, modality in asked if text is not None and modality != "image"]
    cut = encoder.cut(titles) + encoder.cut(queries, "query")
    said = (
        f"{cut:,} of {len(titles) + len(queries):,} titles and queries are longer than the {encoder.longest} tokens "
        "that it reads, and were cut"
    )
    return {
        "name": encoder.name,
        "kind": encoder.kind,
        "revision": encoder.revision,
        "fingerprint": encoder.fingerprint,
        "parameters": encoder.parameters,
        "dtype": encoder.dtype,
        "dimension": encoder.dimension,
        "views": sorted(encoder.views),
        "query_prompt": encoder.prompt("query"),
        "document_prompt": encoder.prompt("document"),
        "texts_cut": cut,
        "note": "; ".join(filter(None, [note, said if cut else ""])),
    }


def write_report(folder: Path, facts: dict, evaluation: Evaluation) -> None:
    """Write `results.md`, `scores.parquet` and, last, `results.json` into a folder, made if need be.

    results.json has every figure and the facts; scores.parquet what each query and product scored, for `python -m
    evaluation compare`.
    """
    results = evaluation.results
    parts = [
        f"# Evaluation of {facts['model']['name']} on {facts['dataset']['name']}",
        summary(facts["model"]["name"], results, facts["model"]["note"]),
        *(section.markdown() for name, section in sections(results).items() if name != "labels"),
    ]
    parts.append("## Run\n\n" + "\n".join(f"- {line}" for line in run_lines(facts)))
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
    with staged(folder / SCORES) as temporary:
        pq.write_table(_scores(evaluation), temporary)
    write_json(folder / "results.json", {"run": facts, **results}, allow_nan=False)


def _scores(evaluation: Evaluation) -> pa.Table:
    """Return one row for each query of a direction, and for each product of "class" and "attribute".

    A figure is the mean of its column over a task's rows, by `weight`.
    """
    scored = [(task, found.ids, [1.0] * len(found.ids), found.values) for task, found in evaluation.queries.items()]
    scored += [
        (task, found.ids, found.weights.tolist(), {"accuracy": found.accuracy})
        for task, found in evaluation.products.items()
    ]
    columns: dict[str, list] = {name: [] for name in ("task", "id", "weight", *METRICS, "accuracy")}
    for task, ids, weights, values in scored:
        columns["task"] += [task] * len(ids)
        columns["id"] += ids
        columns["weight"] += weights
        for name in (*METRICS, "accuracy"):
            columns[name] += values[name].tolist() if name in values else [None] * len(ids)
    kinds = {name: pa.string() if name in ("task", "id") else pa.float64() for name in columns}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})


def summary(name: str, results: dict, note: str = "") -> str:
    """Return the headline table, the retrieval table and the label table, as Markdown; all figures in per cent."""
    parts = [
        "Recall@10 for the five directions, then accuracy (attributes: mean over predictions). Per cent.",
        table(HEADER, [headline(name, results), *yardsticks(results)]),
    ]
    if note:
        parts.append(f"Note: {note}.")
    parts += [
        "## Retrieval\n\nModel / chance, per cent. Chance is the expected value of a random ranking.",
        _retrieval_table(results["retrieval"]),
        left_out(results),
    ]
    labels = sections(results).get("labels")
    return "\n\n".join([*parts, *([labels.markdown()] if labels else [])])


def sections(results: dict) -> dict[str, Section]:
    """Return the tables of all figures of a model; those that would have no row are left out."""
    found = {
        "intervals": Section(
            "Intervals",
            "95 %, from resampled queries. Per cent.",
            ["", *METRIC_NAMES.values()],
            [
                [ARROWS[direction], *(_with_interval(row, metric) for metric in METRICS)]
                for direction, row in results["retrieval"].items()
            ],
        )
    }
    attributes = results["attributes"]["attributes"] if results["attributes"] else {}
    for name, title, note, tasks in (
        ("labels", "Labels", LABEL_NOTE, _label_tasks(results)),
        (
            "attributes",
            "Attributes, one by one",
            "Per cent.",
            {name: _counted(row) for name, row in attributes.items()},
        ),
    ):
        figures = [[task, *counts, *_percents(metrics, LABEL_COLUMNS)] for task, (counts, metrics) in tasks.items()]
        found[name] = Section(title, note, LABEL_HEADER, figures)
        intervals = [[task, *_interval_cells(metrics)] for task, (_, metrics) in tasks.items()]
        header, title = ["", *LABEL_METRICS.values()], f"Intervals of the {name}"
        found[title.lower()] = Section(title, RESAMPLED_NOTE, header, intervals)
    cells = [
        [str(row["dimension"]), row["precision"], str(row["bytes"])]
        + [_with_interval(row["retrieval"].get(direction), "recall@10") for direction in DIRECTIONS]
        for row in results.get("compression", ())
    ]
    header = ["dims", "precision", "bytes", *(ARROWS[direction] for direction in DIRECTIONS)]
    found["compression"] = Section("Fewer dimensions and bits", "Recall@10, per cent.", header, cells)
    if "hybrid" in results:
        found["hybrid"] = _hybrid_section(results)
    return {name: section for name, section in found.items() if section.rows}


def _hybrid_section(results: dict) -> Section:
    rows = []
    for direction, found in results["hybrid"]["directions"].items():
        tests = {name: found["tests"][name]["recall@10"] for name in ("vectors", BM25)}
        rows.append(
            [ARROWS[direction], _with_interval(results["retrieval"][direction], "recall@10")]
            + [_with_interval(found["ways"][name], "recall@10") for name in ("vectors", BM25, "rrf")]
            + [f"{100 * test['difference']:+.2f}, p {test['p_value']:.4f}" for test in tests.values()]
        )
    note = (
        "Recall@10, per cent. Together is the weighted sum of the two; RRF is their reciprocal-rank fusion, without "
        "weights. The differences are those of together, query by query; p is of a two-sided permutation test."
    )
    header = ["", "together", "vectors alone", "words alone", "RRF", "to vectors", "to words"]
    return Section("Vectors and words together", note, header, rows)


def _counted(row: dict) -> tuple[list[str], dict]:
    return [str(row["products"]), str(row["values"])], row


def _label_tasks(results: dict) -> dict[str, tuple[list[str], dict | None]]:
    """Return what has label figures, by title: numbers of products and labels, and the metrics with `intervals`."""
    classification, probe, attributes = (results.get(task) for task in ("classification", "probe", "attributes"))
    tasks = {}
    for title, found in (("category", classification), ("category, linear probe", probe)):
        if found is not None:
            metrics = found["metrics"] and found["metrics"] | {"intervals": found["intervals"]}
            tasks[title] = [str(found["products"]), str(found["labels"])], metrics
    if attributes is not None:
        rows = attributes["attributes"].values()
        counts = [str(sum(row[what] for row in rows)) for what in ("products", "values")]
        tasks["attributes, mean over predictions"] = counts, attributes["micro"]
        tasks["attributes, mean over attributes"] = counts, attributes["macro"]
    return tasks


def headline(name: str, results: dict, row: str = "figures") -> list[str]:
    """Return one row of the paper's table: Recall@10 for the five directions, then accuracy of class and attribute.

    Args:
        row: "figures", or one of `YARDSTICKS`, which then replaces them.
    """
    which, label = (row, row) if row in YARDSTICKS else ("metrics", "accuracy")
    directions = (results["retrieval"].get(direction) for direction in DIRECTIONS)
    classification, attributes = results["classification"], results["attributes"]
    return [
        name,
        *(_percent(found and found.get(which), "recall@10") for found in directions),
        _percent(classification and classification["metrics"], label),
        _percent(attributes and attributes["micro"], label),
    ]


def yardsticks(results: dict) -> list[list[str]]:
    """Return the rows to compare a headline with: random rankings and labels, and always the most frequent label."""
    return [headline(name, results, name) for name in YARDSTICKS]


def side_by_side(runs: list[tuple[dict, Evaluation]], with_paper: bool = False) -> str:
    """Return several models on one benchmark: a headline table, a table for each metric, and what to know of each.

    Args:
        runs: facts and evaluation of each model.
        with_paper: add the figures that the paper reports for its own data, marked as its own.
    """
    named = [(facts["model"]["name"], evaluation) for facts, evaluation in runs]
    rows = [headline(name, evaluation.results) for name, evaluation in named]
    fullest = max((found.results for _, found in named), key=_figures)
    rows += yardsticks(fullest)
    if with_paper:
        rows += [[f"paper, its own data: {name}", *(f"{value:.2f}" for value in row)] for name, row in PAPER.items()]
    parts = [
        "Recall@10 for the five directions, then accuracy (attributes: mean over predictions). Per cent; a dash where "
        "a model cannot.",
        table(HEADER, rows),
    ]
    for metric in METRICS:
        cells = [
            [name, *(_with_interval(found.results["retrieval"].get(direction), metric) for direction in ALL_DIRECTIONS)]
            for name, found in named
        ]
        parts.append(f"## {METRIC_NAMES[metric]}, with 95 % intervals\n\n" + table(["", *ARROWS.values()], cells))
    labels = [(name, _label_tasks(found.results)) for name, found in named]
    for title, (_, expected) in _label_tasks(fullest).items():
        cells = [[name, *_interval_cells(tasks[title][1] if title in tasks else None)] for name, tasks in labels]
        cells += [[name, _percent(expected, name), *["-"] * (len(LABEL_METRICS) - 1)] for name in YARDSTICKS]
        parts.append(f"## Labels: {title}, with 95 % intervals\n\n" + table(["", *LABEL_METRICS.values()], cells))
    models = [
        [
            facts["model"]["name"],
            facts["model"]["kind"],
            *(f"{facts['model'][what]:,}" if what in facts["model"] else "-" for what in ("parameters", "dimension")),
            str(facts["embedding"]["items_per_second"] or "-"),
        ]
        for facts, _ in runs
    ]
    header = ["", "kind", "parameters", "dimension", "items/s embedded"]
    parts.append("## Models\n\n" + table(header, models))
    notes = [f"- {facts['model']['name']}: {facts['model']['note']}." for facts, _ in runs if facts["model"]["note"]]
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def _figures(results: dict) -> int:
    """Count the directions and label tasks that have figures."""
    return sum(row is not None and row["metrics"] is not None for row in results["retrieval"].values()) + sum(
        results[task] is not None for task in ("classification", "attributes")
    )


def _retrieval_table(directions: dict) -> str:
    rows = []
    for direction, row in directions.items():
        counts = ["-", "-"] if row is None else [str(row["queries"]), str(row["candidates"])]
        figures, chance = (_percents(row and row[which], METRICS) for which in ("metrics", "chance"))
        rows.append([ARROWS[direction], *counts, *map(" / ".join, zip(figures, chance, strict=True))])
    return table(["", "queries", "candidates", *METRIC_NAMES.values()], rows)


def _with_interval(row: dict | None, metric: str) -> str:
    if row is None or row["metrics"] is None or metric not in row["metrics"]:
        return "-"
    low, high = row["intervals"][metric]
    return f"{_percent(row['metrics'], metric)} [{100 * low:.2f}, {100 * high:.2f}]"


def _interval_cells(metrics: dict | None) -> list[str]:
    """Return the label figures with the `intervals` beside them."""
    row = metrics and {"metrics": metrics, "intervals": metrics["intervals"]}
    return [_with_interval(row, metric) for metric in LABEL_METRICS]


def left_out(results: dict) -> str:
    """Return one sentence for each thing that took no part, so that nothing goes missing unseen."""
    notes = [
        f"- {ARROWS[direction]}: {row['queries_left_out']} queries without a relevant candidate, "
        f"{row['candidates_left_out']} products without this view, {row['judgements_left_out']} judgements of these."
        for direction, row in results["retrieval"].items()
        if row is not None and (row["queries_left_out"] or row["candidates_left_out"] or row["judgements_left_out"])
    ]
    classification, attributes = results["classification"], results["attributes"]
    if classification is not None and classification["products_left_out"]:
        notes.append(f"- class: {classification['products_left_out']} products without category, text or image.")
    if attributes is not None and attributes["products_left_out"]:
        notes.append(f"- attribute: {attributes['products_left_out']} products without text or image.")
    if attributes is not None and attributes["attributes_left_out"]:
        names = attributes["attributes_left_out"]
        notes.append(f"- attribute: {names} names without two values that {MIN_SUPPORT} products have.")
    return "Left out:\n" + "\n".join(notes) if notes else "Nothing was left out."


def run_lines(facts: dict) -> list[str]:
    """Return what one needs to know of a run, in lines."""
    model, data, machine = facts["model"], facts["dataset"], facts["hardware"]
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    origin = _origin(model)
    if model["kind"] != BM25:
        origin += f", {model['parameters']:,} parameters, {model['dtype']}, fingerprint {model['fingerprint'][:16]}"
    return [
        f"model: {origin}",
        f"data: {_origin(data)}, {data['corpus']:,} products, {data['queries']:,} queries, "
        f"{data['judgements']:,} judgements, fingerprint {data['fingerprint'][:16]}",
        f"gallery: {data['gallery']}, {data['candidates']:,} products"
        + (", products of one group count as one" if data["by_group"] else ""),
        f"seed of the bootstrap: {facts['seed']}",
        f"versions: {packages}",
        f"hardware: {device_name(machine)}, {machine['platform']}",
        f"date: {facts['date']}",
        f"command: `{facts['command']}`",
    ]


def _origin(source: dict) -> str:
    return source["name"] if source["revision"] is None else f"{source['name']}@{source['revision']}"


def _percents(metrics: dict | None, names: Iterable[str]) -> list[str]:
    return [_percent(metrics, name) for name in names]


def _percent(metrics: dict | None, name: str) -> str:
    return "-" if metrics is None or name not in metrics else f"{100 * metrics[name]:.2f}"


# Recall@10 for t2mm, i2mm, mm2mm, t2i, i2t, then accuracy of class and attribute, in per cent.
PAPER = {
    "MOON2.0": (63.09, 91.08, 94.21, 73.12, 64.91, 68.08, 84.29),
    "w/o modality-driven MoE": (51.29, 74.59, 78.45, 62.16, 56.21, 62.55, 75.62),
    "w/o dual-level alignment": (37.99, 65.72, 67.45, 31.45, 23.35, 57.12, 67.24),
    "w/o co-augmentation": (59.69, 78.17, 80.62, 64.79, 58.68, 66.21, 77.77),
    "w/o dynamic filtering": (60.63, 83.40, 80.00, 70.40, 63.21, 67.99, 84.04),
}
