"""The parts of a model card that come from results.json: figures for people, and for the Hub's model-index."""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml
from huggingface_hub import EvalResult

from common_moon2.machine import device_name
from evaluation.measure.metrics import METRICS
from evaluation.measure.retrieval import DIRECTIONS

# The Hub's identifiers of metrics.
METRIC_TYPES = {name: name.replace("@", "_at_") for name in METRICS}
METRIC_NAMES = {
    name: name.replace("recall", "Recall").replace("mrr", "MRR").replace("ndcg", "nDCG") for name in METRICS
}
LABEL_TASKS = {"classification": "Category", "attributes": "Attributes"}
LABEL_METRICS = {"accuracy": "accuracy", "precision": "macro precision", "recall": "macro recall", "f1": "macro F1"}


def eval_results(results: dict) -> Iterable[EvalResult]:
    """Every measured figure of retrieval and labels, as the Hub's model-index has them; shares in 0..1."""
    data = results["run"]["dataset"]
    name = shown(data["name"])
    common = {
        "dataset_name": name,
        "dataset_type": name,
        "dataset_config": "queries",
        "dataset_split": "test",
        "dataset_revision": data["revision"],
    }
    for direction, row in results["retrieval"].items():
        if row is not None and row["metrics"] is not None:
            for metric, value in row["metrics"].items():
                yield EvalResult(
                    task_type="image-text-retrieval",
                    task_name="Retrieval, zero-shot",
                    metric_type=METRIC_TYPES[metric],
                    metric_name=f"{METRIC_NAMES[metric]}, {arrow(direction)}",
                    metric_value=round(value, 6),
                    **common,
                )
    for task, title in LABEL_TASKS.items():
        metrics = _label_metrics(results, task)
        for metric in LABEL_METRICS if metrics else ():
            if metric in metrics:
                yield EvalResult(
                    task_type="zero-shot-classification",
                    task_name=f"{title}, zero-shot",
                    metric_type=metric,
                    metric_name=f"{title}, {LABEL_METRICS[metric]}",
                    metric_value=round(metrics[metric], 6),
                    **common | {"dataset_config": "corpus"},
                )


def results_section(results: dict) -> str:
    run = results["run"]
    data = run["dataset"]
    measured = [name for name in METRICS if any(name in (_metrics(row) or {}) for row in results["retrieval"].values())]
    rows = [
        [arrow(direction), *(_with_interval(row, metric) for metric in measured)]
        for direction, row in results["retrieval"].items()
        if _metrics(row)
    ]
    chance = [
        [arrow(direction), *(f"{100 * row['chance'][metric]:.2f}" for metric in measured)]
        for direction, row in results["retrieval"].items()
        if _metrics(row)
    ]
    names = [METRIC_NAMES[metric] for metric in measured]
    parts = [
        "Zero-shot, in per cent, with 95 % bootstrap intervals: t is text, i a picture, mm both; the query stands "
        "before the arrow.",
        table(["", *names], rows),
        "What a random ranking would get:\n\n" + table(["", *names], chance),
    ]
    labels = [
        [title, *(_label_figure(metrics, name) for name in (*LABEL_METRICS, "chance"))]
        for task, title in LABEL_TASKS.items()
        if (metrics := _label_metrics(results, task))
    ]
    if labels:
        parts.append("Nearest label text:\n\n" + table(["", *LABEL_METRICS.values(), "chance"], labels))
    fingerprint = f", fingerprint `{data['fingerprint'][:16]}`" if data.get("fingerprint") else ""
    gallery = f"; gallery: {data['gallery']}, {data['candidates']:,} products" if "gallery" in data else ""
    facts = [
        f"data: {shown(data['name'])}{'@' + data['revision'] if data['revision'] else ''}, {data['corpus']:,} "
        f"products, {data['queries']:,} queries{gallery}{fingerprint}",
        f"hardware: {device_name(run['hardware'])}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        f"command: `{_command(run['command'])}`",
    ]
    if "seed" in run:
        facts.insert(1, f"seed of the bootstrap: {run['seed']}")
    parts.append("\n".join(f"- {fact}" for fact in facts))
    return "\n\n".join(parts)


def compression_section(rows: list[dict]) -> str:
    directions = [name for name in DIRECTIONS if any(_metrics(row["retrieval"].get(name)) for row in rows)]
    cells = [
        [
            str(row["dimension"]),
            row["precision"],
            str(row["bytes"]),
            *(_with_interval(row["retrieval"].get(direction), "recall@10") for direction in directions),
        ]
        for row in rows
    ]
    header = ["dimensions", "precision", "bytes", *map(arrow, directions)]
    return "Recall@10, per cent, with 95 % intervals.\n\n" + table(header, cells)


def speed_section(run: dict) -> str:
    speed, hardware = run["embedding"], run["hardware"]
    threads = hardware["threads"]
    device = hardware["gpu"] or f"{hardware['cpu']}, {threads} {'thread' if threads == 1 else 'threads'}"
    text = (
        f"{speed['items_per_second']:,} items per second while the benchmark was embedded ({speed['items']:,} items "
        f"in {speed['seconds']:,} s, reading pictures included), in batches of {run['batch_size']} on {device}."
    )
    if peak := speed.get("peak_memory"):
        text += f" The process took {peak['process'] / 1e6:,.0f} MB at its peak, with libraries, pictures and vectors"
        text += "." if peak["gpu"] is None else f", and {peak['gpu'] / 1e6:,.0f} MB on the GPU."
    return text


def arrow(direction: str) -> str:
    return direction.replace("2", "→")


def shown(source: str) -> str:
    """A data set or model as others may read it: of a folder anywhere on a machine only the last name."""
    return Path(source).name if Path(source).is_absolute() else source


def table(header: list[str], rows: list[list[str]]) -> str:
    cells = [header, ["---"] + ["---:" if len(header) > 2 else "---"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def _metrics(row: dict | None) -> dict | None:
    return None if row is None else row["metrics"]


def _label_metrics(results: dict, task: str) -> dict | None:
    found = results.get(task)
    if not found:
        return None
    # Of attributes over all predictions: there is no precision and recall over different names.
    return found["micro"] if task == "attributes" else found["metrics"] | {"intervals": found["intervals"]}


def _with_interval(row: dict | None, metric: str) -> str:
    if not _metrics(row):
        return ""
    low, high = row["intervals"][metric]
    return f"{100 * row['metrics'][metric]:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _label_figure(metrics: dict, name: str) -> str:
    if name not in metrics:
        return ""
    interval = metrics.get("intervals", {}).get(name)
    between = "" if interval is None else f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"
    return f"{100 * metrics[name]:.2f}{between}"


def _command(command: str) -> str:
    """Without the interpreter's place and folders' places on the machine."""
    words = re.sub(r"^\S*python\S*", "python", command).split(" ")
    return " ".join(shown(word) for word in words)


RECIPE, STATE, RUN = "recipe.yaml", "trainer_state.json", "run.json"
# The fields of a recipe that a reader asks for first; the whole recipe stands below them.
FIRST_ASKED = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "temperature",
    "objective_weighting", "matryoshka_dims", "lora_rank", "seed",
)  # fmt: skip
KINDS = {"t": "text", "i": "pictures alone", "mm": "text and pictures"}


def training_section(recipe: dict, run: dict, state: dict, dataset: str | None) -> str:
    """Data, cost and recipe of a run.

    Args:
        recipe, run, state: the content of the three files; empty: it is not there.
        dataset: where the data are on the Hub, if they are.
    """
    rows = []
    if recipe.get("dataset"):
        data = shown(recipe["dataset"])
        if dataset is not None:
            data = f"[{dataset}](https://huggingface.co/datasets/{dataset})"
        if run.get("triplets"):
            data += f", {run['triplets']:,} triplets"
        if run.get("fingerprint"):
            data += f", fingerprint `{run['fingerprint'][:16]}`"
        rows.append(["data", data])
    if recipe:
        start = recipe.get("model")
        rows.append(["start", f"`{shown(start)}`" if start else "from nothing"])
    if state.get("global_step"):
        rows.append(["steps", f"{state['global_step']:,}"])
    if state.get("epoch"):
        rows.append(["epochs", f"{state['epoch']:.2f}"])
    last = (state.get("log_history") or [{}])[-1]
    if last.get("train_runtime"):
        rows.append(["took", f"{last['train_runtime']:,.0f} s"])
    if run.get("hardware"):
        processes = run["processes"]
        rows.append(["on", device_name(run["hardware"]) + (f", {processes} processes" if processes > 1 else "")])
    if run.get("versions"):
        rows.append(["with", ", ".join(f"{name} {number}" for name, number in run["versions"].items())])
    rows += [[f"`{name}`", str(recipe[name])] for name in FIRST_ASKED if recipe.get(name) is not None]
    return table(["", ""], rows) + (_whole(recipe) if recipe else "")


def expert_usage(state: dict) -> str:
    """Which share of the routing each expert got, from the last logged step that has it."""
    logged = [entry for entry in state.get("log_history", []) if any(f"expert_0_{kind}" in entry for kind in KINDS)]
    if not logged:
        return ""
    last, count = logged[-1], 0
    while any(f"expert_{count}_{kind}" in last for kind in KINDS):
        count += 1
    rows = [
        [title, *(f"{100 * last[f'expert_{expert}_{kind}']:.1f}" for expert in range(count))]
        for kind, title in KINDS.items()
        if f"expert_0_{kind}" in last
    ]
    header = ["items of", *(f"expert {expert + 1}" for expert in range(count))]
    return f"Mean share of the gates' weight at training step {last['step']}, per cent:\n\n" + table(header, rows)


def _whole(recipe: dict) -> str:
    """Every field that was set, without tokens and without folders of the machine."""
    public = {
        name: shown(value) if isinstance(value, str) else value
        for name, value in recipe.items()
        if value is not None and not name.endswith("_token")
    }
    text = yaml.safe_dump(public, sort_keys=False, allow_unicode=True)
    return (
        f"\n\nTrain it again with `python train_moon2.py {RECIPE}`:\n\n<details><summary>{RECIPE}</summary>\n\n"
        f"```yaml\n{text}```\n\n</details>"
    )
