"""What is written down: run facts, results.json, and Markdown in the layout of MOON2.0, section 6."""

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.benchmark import Benchmark
from evaluation.bootstrap import CONFIDENCE, RESAMPLES
from evaluation.cache import VectorCache
from evaluation.classification import ATTRIBUTE_TEMPLATE, CATEGORY_TEMPLATE, MIN_SUPPORT
from evaluation.encoders import Encoder
from evaluation.evaluate import Evaluation
from evaluation.lexical import K1, NAME, B
from evaluation.machine import device_name, hardware, peak_memory, versions
from evaluation.metrics import METRICS
from evaluation.paper import PAPER
from evaluation.retrieval import ALL_DIRECTIONS, DIRECTIONS

ARROWS = {name: name.replace("2", "->") for name in ALL_DIRECTIONS}
METRIC_NAMES = dict(zip(METRICS, ("R@1", "R@5", "R@10", "MRR", "nDCG@10"), strict=True))
HEADER = ["", *(ARROWS[direction] for direction in DIRECTIONS), "class", "attribute"]
LABEL_COLUMNS = ("accuracy", "precision", "recall", "f1", "chance", "majority")
LABEL_HEADER = ["", "products", "labels", "accuracy", "macro P", "macro R", "macro F1", "chance", "majority"]
SCORES = "scores.parquet"


def run_facts(encoder: Encoder | None, benchmark: Benchmark, options: dict, note: str, cache: VectorCache) -> dict:
    """What one needs to know to get the same figures again.

    Args:
        encoder: `None` for BM25.
        options: of the command line.
        cache: which of the vectors it had to embed tells the speed.
    """
    return {
        "model": _model_facts(encoder, options) | {"note": note},
        "dataset": {
            "name": options["dataset"],
            "revision": options["dataset_revision"],
            "fingerprint": benchmark.fingerprint,
            "corpus": len(benchmark.corpus),
            "queries": len(benchmark.queries),
            "judgements": sum(map(len, benchmark.relevant)),
            "gallery": benchmark.gallery,
            "candidates": sum(map(len, benchmark.candidates)),
            "by_group": options["by_group"],
        },
        "labels": {"category": CATEGORY_TEMPLATE, "attribute": ATTRIBUTE_TEMPLATE, "min_support": MIN_SUPPORT},
        "seed": options["seed"],
        "bootstrap": {"resamples": RESAMPLES, "confidence": CONFIDENCE, "interval": "percentile"},
        "batch_size": options["batch_size"],
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


def _model_facts(encoder: Encoder | None, options: dict) -> dict:
    if encoder is None:
        return {"name": NAME, "kind": NAME, "revision": None, "k1": K1, "b": B}
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
    }


def write_report(folder: Path, facts: dict, evaluation: Evaluation) -> None:
    """Writes `results.json` (every figure and the run facts), `results.md` and `scores.parquet` (what each query and
    product scored, for `python -m evaluation compare`) into a folder, made if need be. results.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    results = evaluation.results
    parts = [
        f"# Evaluation of {facts['model']['name']} on {facts['dataset']['name']}",
        summary(facts["model"]["name"], results, evaluation.note),
        "## Intervals\n\n95 %, from resampled queries. Per cent.\n\n" + table(*interval_rows(results["retrieval"])),
    ]
    if "compression" in results:
        parts.append(
            "## Fewer dimensions and bits\n\nRecall@10, per cent.\n\n"
            + table(*compression_rows(results["compression"]))
        )
    if results["attributes"] is not None:
        header, rows = attribute_rows(results["attributes"])
        shown = table(header, rows) if rows else "No attribute has enough support."
        parts.append("## Attributes, one by one\n\n" + shown)
    parts.append("## Run\n\n" + "\n".join(f"- {line}" for line in run_lines(facts)))
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
    staged = folder / f"{SCORES}.part"
    pq.write_table(_scores(evaluation), staged)
    staged.replace(folder / SCORES)
    content = json.dumps({"run": facts, **results}, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / "results.json", content + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes a file under another name, then renames it: it is whole or not there."""
    staged = file.with_name(f"{file.name}.part")
    staged.write_text(text, encoding="utf-8")
    staged.replace(file)


def _scores(evaluation: Evaluation) -> pa.Table:
    """One row for each query of a direction, and for each product of "class" and "attribute". A figure is the mean of
    its column over a task's rows, by `weight`."""
    columns: dict[str, list] = {name: [] for name in ("task", "id", "weight", *METRICS, "accuracy")}
    for task, found in evaluation.queries.items():
        size = len(found.ids)
        rows = {"task": [task] * size, "id": found.ids, "weight": [1.0] * size}
        rows |= {metric: found.values[metric].tolist() for metric in METRICS} | {"accuracy": [None] * size}
        for name, values in rows.items():
            columns[name] += values
    for task, hits in evaluation.products.items():
        size = len(hits.ids)
        rows = {"task": [task] * size, "id": hits.ids, "weight": hits.weights.tolist()}
        rows |= {metric: [None] * size for metric in METRICS} | {"accuracy": hits.accuracy.tolist()}
        for name, values in rows.items():
            columns[name] += values
    kinds = {name: pa.string() if name in ("task", "id") else pa.float64() for name in columns}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})


def summary(name: str, results: dict, note: str = "") -> str:
    """The headline table, the retrieval table and the label table, as Markdown; all figures in per cent."""
    parts = [
        "Recall@10 for the five directions, then accuracy (attributes: mean over predictions). Per cent.",
        table(HEADER, [headline(name, results), headline("chance", results, chance=True)]),
    ]
    if note:
        parts.append(f"Note: {note}.")
    parts += [
        "## Retrieval\n\nModel / chance, per cent. Chance is the expected value of a random ranking.",
        _retrieval_table(results["retrieval"]),
        left_out(results),
    ]
    header, rows = label_rows(results)
    if rows:
        parts += [
            "## Labels\n\nNearest label text to the multimodal view, which contains the title. Per cent.",
            table(header, rows),
        ]
    return "\n\n".join(parts)


def label_rows(results: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of classification and attribute prediction; no rows if the model has neither."""
    classification, attributes = results["classification"], results["attributes"]
    rows = []
    if classification is not None:
        rows.append(["category", *_counts(classification), *_cells(classification["metrics"])])
    if "probe" in results:
        rows.append(["category, linear probe", *_counts(results["probe"]), *_cells(results["probe"]["metrics"])])
    if attributes is not None:
        counts = _attribute_counts(attributes)
        rows.append(["attributes, mean over predictions", *counts, *_cells(attributes["micro"])])
        rows.append(["attributes, mean over attributes", *counts, *_cells(attributes["macro"])])
    return LABEL_HEADER, rows


def headline(name: str, results: dict, chance: bool = False) -> list[str]:
    """One row of the paper's table: Recall@10 for the five directions, then accuracy of class and attribute."""
    which = "chance" if chance else "metrics"
    directions = (results["retrieval"].get(direction) for direction in DIRECTIONS)
    classification, attributes = results["classification"], results["attributes"]
    label = "chance" if chance else "accuracy"
    return [
        name,
        *(_percent(row and row[which], "recall@10") for row in directions),
        _percent(classification and classification["metrics"], label),
        _percent(attributes and attributes["micro"], label),
    ]


def side_by_side(runs: list[tuple[dict, Evaluation]], with_paper: bool = False) -> str:
    """Several models on one benchmark: a headline table, one table for each further metric, and what to know of each.

    Args:
        runs: facts and evaluation of each model.
        with_paper: add the figures that the paper reports for its own data, said to be its own.
    """
    named = [(facts["model"]["name"], evaluation) for facts, evaluation in runs]
    rows = [headline(name, evaluation.results) for name, evaluation in named]
    rows.append(headline("chance", max((found.results for _, found in named), key=_figures), chance=True))
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
    notes = [f"- {name}: {found.note}." for name, found in named if found.note]
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def _figures(results: dict) -> int:
    """How many directions and label tasks have figures."""
    return sum(row is not None and row["metrics"] is not None for row in results["retrieval"].values()) + sum(
        results[task] is not None for task in ("classification", "attributes")
    )


def _retrieval_table(directions: dict) -> str:
    rows = [
        [
            ARROWS[direction],
            *(("-", "-") if row is None else (str(row["queries"]), str(row["candidates"]))),
            *(
                f"{_percent(row and row['metrics'], metric)} / {_percent(row and row['chance'], metric)}"
                for metric in METRICS
            ),
        ]
        for direction, row in directions.items()
    ]
    return table(["", "queries", "candidates", *METRIC_NAMES.values()], rows)


def interval_rows(directions: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of every metric with its interval."""
    rows = [
        [ARROWS[direction], *(_with_interval(row, metric) for metric in METRICS)]
        for direction, row in directions.items()
    ]
    return ["", *METRIC_NAMES.values()], rows


def compression_rows(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of Recall@10 by dimension and precision."""
    cells = [
        [
            str(row["dimension"]),
            row["precision"],
            str(row["bytes"]),
            *(_with_interval(row["retrieval"].get(direction), "recall@10") for direction in DIRECTIONS),
        ]
        for row in rows
    ]
    return ["dims", "precision", "bytes", *(ARROWS[direction] for direction in DIRECTIONS)], cells


def _with_interval(row: dict | None, metric: str) -> str:
    if row is None or row["metrics"] is None:
        return "-"
    low, high = row["intervals"][metric]
    return f"{_percent(row['metrics'], metric)} [{100 * low:.2f}, {100 * high:.2f}]"


def left_out(results: dict) -> str:
    """One sentence for each thing that took no part, so that nothing goes missing unseen."""
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


def attribute_rows(attributes: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of each attribute; no rows if none has enough support."""
    rows = [
        [name, str(row["products"]), str(row["values"]), *_cells(row)] for name, row in attributes["attributes"].items()
    ]
    return LABEL_HEADER, rows


def run_lines(facts: dict) -> list[str]:
    """What one needs to know of a run, in lines."""
    model, data, machine = facts["model"], facts["dataset"], facts["hardware"]
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    origin = _origin(model)
    if model["kind"] != NAME:
        origin += f", {model['parameters']:,} parameters, {model['dtype']}, fingerprint {model['fingerprint'][:16]}"
    return [
        f"model: {origin}",
        f"data: {_origin(data)}, {data['corpus']:,} products, {data['queries']:,} queries, "
        f"{data['judgements']:,} judgements, fingerprint {data['fingerprint'][:16]}",
        f"gallery: {data['gallery']}, {data['candidates']:,} products"
        + (", listings of one group count as one" if data["by_group"] else ""),
        f"seed of the bootstrap: {facts['seed']}",
        f"versions: {packages}",
        f"hardware: {device_name(machine)}, {machine['platform']}",
        f"date: {facts['date']}",
        f"command: `{facts['command']}`",
    ]


def _origin(source: dict) -> str:
    return source["name"] if source["revision"] is None else f"{source['name']}@{source['revision']}"


def _counts(classification: dict) -> list[str]:
    return [str(classification["products"]), str(classification["labels"])]


def _attribute_counts(attributes: dict) -> list[str]:
    table = attributes["attributes"].values()
    return [str(sum(row[what] for row in table)) for what in ("products", "values")]


def _cells(metrics: dict | None) -> list[str]:
    return [_percent(metrics, column) for column in LABEL_COLUMNS]


def _percent(metrics: dict | None, name: str) -> str:
    return "-" if metrics is None or name not in metrics else f"{100 * metrics[name]:.2f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that also reads well in a terminal: first column to the left, figures to the right."""
    cells = [header, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row)) + " |"
        for row in cells
    ]
    rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])
