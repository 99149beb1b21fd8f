"""What is written down: run facts, results.json, and Markdown in the layout of MOON2.0, section 6."""

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import datasets
import sklearn
import torch
import transformers

from evaluation.benchmark import Benchmark
from evaluation.checkpoint import Checkpoint, fingerprint
from evaluation.classification import ATTRIBUTE_TEMPLATE, CATEGORY_TEMPLATE, MIN_SUPPORT

ARROWS = {"t2mm": "t->mm", "i2mm": "i->mm", "mm2mm": "mm->mm", "t2i": "t->i", "i2t": "i->t"}
LABEL_COLUMNS = ("accuracy", "precision", "recall", "f1", "chance", "majority")
LABEL_HEADER = ["", "products", "labels", "accuracy", "macro P", "macro R", "macro F1", "chance", "majority"]


def run_facts(checkpoint: Checkpoint, benchmark: Benchmark, options: dict) -> dict:
    """What one needs to know to get the same figures again. Nothing in an evaluation is random, so there is no seed."""
    weights = next(checkpoint.model.parameters())
    return {
        "model": {
            "name": options["model"],
            "revision": checkpoint.revision,
            "fingerprint": fingerprint(checkpoint.folder),
            "parameters": checkpoint.model.num_parameters(),
            "dtype": str(weights.dtype).removeprefix("torch."),
        },
        "dataset": {
            "name": options["dataset"],
            "revision": options["dataset_revision"],
            "fingerprint": benchmark.fingerprint,
            "corpus": len(benchmark.corpus),
            "queries": len(benchmark.queries),
            "judgements": sum(map(len, benchmark.relevant)),
        },
        "labels": {"category": CATEGORY_TEMPLATE, "attribute": ATTRIBUTE_TEMPLATE, "min_support": MIN_SUPPORT},
        "batch_size": options["batch_size"],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "datasets": datasets.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "hardware": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(weights.device) if weights.is_cuda else None,
            "platform": platform.platform(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
    }


def write_report(folder: Path, facts: dict, results: dict) -> None:
    """Writes `results.json` (every figure and the run facts) and `results.md` into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"run": facts, **results}, indent=2, ensure_ascii=False)
    (folder / "results.json").write_text(content + "\n", encoding="utf-8")
    parts = [
        f"# Evaluation of {facts['model']['name']} on {facts['dataset']['name']}",
        summary(facts["model"]["name"], results),
        "## Attributes, one by one\n\n" + _attribute_table(results["attributes"]),
        "## Run\n\n" + _run_list(facts),
    ]
    (folder / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def summary(name: str, results: dict) -> str:
    """The headline table, the retrieval table and the label table, as Markdown; all figures in per cent."""
    attributes = results["attributes"]
    micro, macro = attributes["micro"], attributes["macro"]
    category = results["classification"]["metrics"]
    directions = results["retrieval"]
    header = ["", *(ARROWS[direction] for direction in directions), "class", "attribute"]
    model_row = [name, *(_percent(row["metrics"], "recall@10") for row in directions.values())]
    chance_row = ["chance", *(_percent(row["chance"], "recall@10") for row in directions.values())]
    headline = _table(
        header,
        [
            [*model_row, _percent(category, "accuracy"), _percent(micro, "accuracy")],
            [*chance_row, _percent(category, "chance"), _percent(micro, "chance")],
        ],
    )
    labels = _table(
        LABEL_HEADER,
        [
            ["category", *_counts(results["classification"]), *_cells(category)],
            ["attributes, mean over predictions", *_attribute_counts(attributes), *_cells(micro)],
            ["attributes, mean over attributes", *_attribute_counts(attributes), *_cells(macro)],
        ],
    )
    return "\n\n".join(
        [
            "Recall@10 for the five directions, then accuracy (attributes: mean over predictions). Per cent.",
            headline,
            "## Retrieval\n\nModel / chance, per cent. Chance is the expected value of a random ranking.",
            _retrieval_table(directions),
            _left_out(results),
            "## Labels\n\nNearest label text to the multimodal view, which contains the title. Per cent.",
            labels,
        ]
    )


def _retrieval_table(directions: dict) -> str:
    metrics = ["recall@1", "recall@5", "recall@10", "mrr"]
    rows = [
        [
            ARROWS[direction],
            str(row["queries"]),
            str(row["candidates"]),
            *(f"{_percent(row['metrics'], metric)} / {_percent(row['chance'], metric)}" for metric in metrics),
        ]
        for direction, row in directions.items()
    ]
    return _table(["", "queries", "candidates", "R@1", "R@5", "R@10", "MRR"], rows)


def _left_out(results: dict) -> str:
    """One sentence for each thing that took no part, so that nothing goes missing unseen."""
    notes = [
        f"- {ARROWS[direction]}: {row['queries_left_out']} queries without a relevant candidate, "
        f"{row['candidates_left_out']} products without this view, {row['judgements_left_out']} judgements of these."
        for direction, row in results["retrieval"].items()
        if row["queries_left_out"] or row["candidates_left_out"] or row["judgements_left_out"]
    ]
    classification, attributes = results["classification"], results["attributes"]
    if classification["products_left_out"]:
        notes.append(f"- class: {classification['products_left_out']} products without category, text or image.")
    if attributes["products_left_out"]:
        notes.append(f"- attribute: {attributes['products_left_out']} products without text or image.")
    if attributes["attributes_left_out"]:
        names = attributes["attributes_left_out"]
        notes.append(f"- attribute: {names} names without two values that {MIN_SUPPORT} products have.")
    return "Left out:\n" + "\n".join(notes) if notes else "Nothing was left out."


def _attribute_table(attributes: dict) -> str:
    rows = [
        [name, str(row["products"]), str(row["values"]), *_cells(row)] for name, row in attributes["attributes"].items()
    ]
    return _table(LABEL_HEADER, rows) if rows else "No attribute has enough support."


def _run_list(facts: dict) -> str:
    model, data, hardware = facts["model"], facts["dataset"], facts["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    device = hardware["gpu"] or f"{hardware['cpu']}, {hardware['cores']} cores"
    lines = [
        f"model: {_origin(model)}, {model['parameters']:,} parameters, {model['dtype']}, "
        f"fingerprint {model['fingerprint'][:16]}",
        f"data: {_origin(data)}, {data['corpus']:,} products, {data['queries']:,} queries, "
        f"{data['judgements']:,} judgements, fingerprint {data['fingerprint'][:16]}",
        f"versions: {versions}",
        f"hardware: {device}, {hardware['platform']}",
        f"date: {facts['date']}",
        f"command: `{facts['command']}`",
    ]
    return "\n".join(f"- {line}" for line in lines)


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


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that also reads well in a terminal: first column to the left, figures to the right."""
    cells = [header, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row)) + " |"
        for row in cells
    ]
    rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


def _cpu_name() -> str:
    # platform.processor() is empty or a bare architecture on Linux.
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor()
