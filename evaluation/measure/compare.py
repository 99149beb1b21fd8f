"""Test whether two runs on the same data differ by more than chance: `python -m evaluation compare A B`."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from common_moon2.cli import UserError
from common_moon2.files import write_json
from common_moon2.text import table
from evaluation.arguments import Compare
from evaluation.measure.metrics import ARROWS, paired_test

SCORES = "scores.parquet"  # of a run: what each query and product scored


def compare(arguments: Compare) -> dict:
    """Print the differences between two runs, and write them as JSON if a file is named.

    Raises:
        UserError: the runs cannot be compared, or the file cannot be written.
    """
    first, second, output = arguments.first, arguments.second, arguments.output
    found = compare_runs(first, second, arguments.seed)
    print(comparison_table(first, second, found))
    content = {"A": str(first), "B": str(second), "seed": arguments.seed} | found
    if output is not None:
        try:
            write_json(output, content)
        except OSError as error:
            raise UserError(f"--output {output} cannot be written: {error.strerror}.") from error
    return content


def compare_runs(first: Path, second: Path, seed: int = 0) -> dict:
    """Return the differences B - A.

    Returns:
        rows: for each task ("t2mm", ..., "class", "attribute") and metric that both runs have: `task`, `metric`,
            `items`, `a`, `b` (shares in 0..1) and `difference`, `interval`, `p_value` of
            `evaluation.measure.metrics.paired_test`.
        only_a, only_b: the tasks that one of the runs lacks.

    Raises:
        UserError: a folder has no results, or they are not on the same data, candidates and queries.
    """
    (facts_a, scores_a), (facts_b, scores_b) = _read(first), _read(second)
    for name, words in (("fingerprint", "data"), ("gallery", "galleries"), ("by_group", "ways to count groups")):
        a, b = facts_a[name], facts_b[name]
        if a != b:
            raise UserError(
                f"{first} and {second} are on different {words} ({a} and {b}): evaluate both models in the same way."
            )
    rows = []
    for task in scores_a:
        if task not in scores_b:
            continue
        a, b = scores_a[task], scores_b[task]
        if a["id"] != b["id"] or not np.array_equal(a["weight"], b["weight"]):
            raise UserError(
                f"{first} and {second} have different queries or products for {task}, because one of the models cannot "
                "embed some: there is nothing to pair."
            )
        metrics = [name for name in a if name not in ("id", "weight")]
        tables = [np.stack([part[name] for name in metrics], axis=1) for part in (a, b)]
        tests = paired_test(*tables, seed=seed, weights=a["weight"])
        for column, (metric, test) in enumerate(zip(metrics, tests, strict=True)):
            both = {
                side: float(np.average(table[:, column], weights=a["weight"]))
                for side, table in zip("ab", tables, strict=True)
            }
            rows.append({"task": task, "metric": metric, "items": len(a["id"]), **both, **test})
    if not rows:
        raise UserError(f"{first} and {second} have no figure in common.")
    only_a = [task for task in scores_a if task not in scores_b]
    return {"rows": rows, "only_a": only_a, "only_b": [task for task in scores_b if task not in scores_a]}


def comparison_table(first: Path, second: Path, found: dict) -> str:
    """Return what `compare_runs` found, as Markdown."""
    cells = [
        [
            ARROWS.get(row["task"], row["task"]),
            row["metric"],
            str(row["items"]),
            f"{100 * row['a']:.2f}",
            f"{100 * row['b']:.2f}",
            f"{100 * row['difference']:+.2f}",
            f"[{100 * row['interval'][0]:+.2f}, {100 * row['interval'][1]:+.2f}]",
            f"{row['p_value']:.4f}",
        ]
        for row in found["rows"]
    ]
    alone = {side: [ARROWS.get(task, task) for task in found[f"only_{side.lower()}"]] for side in "AB"}
    return "\n\n".join(
        [
            f"A: {first}, B: {second}. Per cent; 95 % paired bootstrap interval of B - A; p of a two-sided permutation "
            "test, not corrected for the number of rows. Only queries are drawn: how far seeds of training differ is "
            "another question.",
            table(["", "metric", "items", "A", "B", "B - A", "interval", "p"], cells),
            *(f"Only {side} has figures for {', '.join(tasks)}." for side, tasks in alone.items() if tasks),
        ]
    )


def _read(folder: Path) -> tuple[dict, dict[str, dict]]:
    """Return the facts about the data, and {task: {column: values}} in the order of the ids."""
    try:
        facts = json.loads((folder / "results.json").read_text(encoding="utf-8"))["run"]["dataset"]
        scores = pq.read_table(folder / SCORES).sort_by([("task", "ascending"), ("id", "ascending")])
        facts = {name: facts[name] for name in ("fingerprint", "gallery", "by_group")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} holds no results of `python -m evaluation` with results.json and {SCORES}: {error}"
        ) from error
    tasks: dict[str, dict] = {}
    names = np.array(scores["task"].to_pylist())
    for task in dict.fromkeys(names.tolist()):
        rows = scores.filter(names == task)
        tasks[task] = {"id": rows["id"].to_pylist()} | {
            name: rows[name].to_numpy()
            for name in rows.column_names
            if name not in ("task", "id") and rows[name].null_count == 0
        }
    return facts, tasks
