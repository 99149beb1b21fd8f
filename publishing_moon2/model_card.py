"""The model card: README.md of a pushed model, from what its run and its evaluation wrote down.

Nothing is said that these files do not say: a part whose file is missing is left out. The words stand in
model_card.md. A missing figure is an error; `ModelCard.from_template` of huggingface_hub would leave a gap.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, UndefinedError
from safetensors import safe_open

from common_moon2.cli import UserError
from common_moon2.machine import device_name
from configuration_moon2 import Moon2Config
from evaluation.measure.metrics import METRICS
from evaluation.measure.retrieval import DIRECTIONS
from modeling_moon2 import Moon2Model
from publishing_moon2.arguments import PushArguments
from publishing_moon2.files import RECIPE, RUN, SHIPPED_CODE, STATE

# figure -> heading, and what it shows
FIGURES = {
    "expert_usage": (
        "Experts",
        "Mean share of the routing that each expert gets, by what an item has; lines: the middle half of items.",
    ),
    "heatmap": ("Attention", "What the words of a title attend to in the photo. Attention is not an explanation."),
}
TAGS = ("moon2", "sentence-transformers", "multimodal", "e-commerce", "retrieval", "mixture-of-experts")
SIGNED = re.compile(r"\n<!-- Written by `python -m evaluation push`; digest of the text above: ([0-9a-f]{16}) -->\n$")
# metric -> its name in the card
NAMES = {name: name.replace("recall", "Recall").replace("mrr", "MRR").replace("ndcg", "nDCG") for name in METRICS}
LABEL_METRICS = {"accuracy": "accuracy", "precision": "macro precision", "recall": "macro recall", "f1": "macro F1"}
# The fields of a recipe that a reader asks for first; the whole recipe stands below them.
FIRST_ASKED = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "temperature",
    "objective_weighting", "matryoshka_dims", "lora_rank", "seed",
)  # fmt: skip
KINDS = {"t": "text", "i": "images alone", "mm": "text and images"}


def model_card(
    arguments: PushArguments,
    results: dict | None = None,
    revision: str | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
) -> str:
    """Return the text of README.md, signed: see `is_untouched`.

    Args:
        arguments: recipe.yaml, run.json and trainer_state.json beside the model are read where they are there.
        results: the content of results.json.
        revision: the commit that the examples name.
        base_model, dataset: Hub ids of what it was made from, where the Hub has them.

    Raises:
        UserError: the recipe or the state of the run cannot be read, or the results lack a figure.
    """
    folder = arguments.model
    config = Moon2Config.from_pretrained(folder)
    with torch.device("meta"):  # counted, not loaded
        model = Moon2Model(config)
    recipe = _read(folder / RECIPE, yaml.safe_load)
    run, state = (_read(folder / name, json.loads) for name in (RUN, STATE))
    try:
        text = _template().render(
            metadata=metadata(arguments, results, base_model, dataset).to_yaml(),
            name=arguments.repo.split("/")[-1],
            arguments=arguments,
            revision=revision,
            code=sum((folder / name).is_file() for name in SHIPPED_CODE),
            config=config,
            model=model,
            types=_weight_types(folder),
            recipe=recipe,
            first_asked=FIRST_ASKED,
            dataset=dataset,
            trained=run,
            state=state,
            log=state.get("log_history", []),
            results=results,
            figures=[(*FIGURES[figure], f"figures/{figure}.png") for figure in arguments.figures()],
            **_expert_usage(state),
            **({} if results is None else _tables(results)),
        )
    except (KeyError, UndefinedError) as error:
        raise UserError(
            f"{arguments.results} has no {error}: another version wrote it. Evaluate the model again."
        ) from error
    return sign(text)


def lacking(arguments: PushArguments, results: dict | None) -> list[str]:
    """Return what a card could have and has not, each with what to do: for who is about to publish it."""
    figures = arguments.figures()
    found = {
        "any figure (score the model with `python -m evaluation`, then give --results)": results is not None,
        "fewer dimensions and bits (score it with --dims and --precisions)": "compression" in (results or {}),
        "a heat-map (--heatmap, a PNG of `python -m evaluation heatmap`)": "heatmap" in figures,
        "an image of how experts are used (--expert_usage, or `python -m evaluation report RESULTS` before)": (
            "expert_usage" in figures
        ),
        "the licence of the weights (--license)": arguments.license is not None,
    }
    return [what for what, there in found.items() if not there]


def sign(text: str) -> str:
    """Return the text with its digest at the end, in a comment."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text}\n<!-- Written by `python -m evaluation push`; digest of the text above: {digest} -->\n"


def is_untouched(card: str) -> bool:
    """Tell whether a card is as `model_card` wrote it, so that nobody's work is lost with it."""
    found = SIGNED.search(card)
    return found is not None and sign(card[: found.start()]) == card


def metadata(
    arguments: PushArguments, results: dict | None, base_model: str | None, dataset: str | None
) -> ModelCardData:
    """Return what the Hub reads: the block of YAML on top of the card."""
    figures = None if results is None else list(_eval_results(results))
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        license=arguments.license,
        license_name=arguments.license_name,
        license_link=arguments.license_link,
        base_model=base_model,
        datasets=None if dataset is None else [dataset],
        tags=list(TAGS),
        model_name=arguments.repo.split("/")[-1] if figures else None,
        eval_results=figures or None,
    )


def _eval_results(results: dict) -> Iterator[EvalResult]:
    """Yield every figure of retrieval and labels for the Hub's model-index; shares in 0..1."""
    data = results["run"]["dataset"]
    named = {"dataset_name": shown(data["name"]), "dataset_type": shown(data["name"])}
    named |= {"dataset_split": "test", "dataset_revision": data["revision"]}
    for direction, row in _measured(results).items():
        for metric, value in row["metrics"].items():
            yield EvalResult(
                task_type="image-text-retrieval",
                task_name="Retrieval, zero-shot",
                metric_type=metric.replace("@", "_at_"),
                metric_name=f"{NAMES[metric]}, {arrow(direction)}",
                metric_value=round(value, 6),
                dataset_config="queries",
                **named,
            )
    for title, row in _labels(results).items():
        for metric in (name for name in LABEL_METRICS if name in row["metrics"]):
            yield EvalResult(
                task_type="zero-shot-classification",
                task_name=f"{title}, zero-shot",
                metric_type=metric,
                metric_name=f"{title}, {LABEL_METRICS[metric]}",
                metric_value=round(row["metrics"][metric], 6),
                dataset_config="corpus",
                **named,
            )


def _tables(results: dict) -> dict[str, str]:
    """Return the tables of figures, which have a row for each direction, task, or way to store vectors."""
    rows, labels, compressed = _measured(results), _labels(results), results.get("compression") or []
    metrics = [name for name in METRICS if any(name in row["metrics"] for row in rows.values())]
    header, label_metrics = ["", *(NAMES[metric] for metric in metrics)], [*LABEL_METRICS, "chance"]
    by_row = [{name: row for name, row in found["retrieval"].items() if row and row["metrics"]} for found in compressed]
    directions = [name for name in DIRECTIONS if any(name in found for found in by_row)]
    return {
        "retrieval": _table(
            header, [[arrow(name), *(_figure(row, metric) for metric in metrics)] for name, row in rows.items()]
        ),
        "chance": _table(
            header,
            [[arrow(name), *(_percent(row["chance"][metric]) for metric in metrics)] for name, row in rows.items()],
        ),
        "labels": labels
        and _table(
            ["", *LABEL_METRICS.values(), "chance"],
            [[title, *(_figure(row, metric) for metric in label_metrics)] for title, row in labels.items()],
        ),
        "compression": _table(
            ["dimensions", "precision", "bytes", *map(arrow, directions)],
            [
                [str(row["dimension"]), row["precision"], str(row["bytes"])]
                + [_figure(found.get(name), "recall@10") for name in directions]
                for row, found in zip(compressed, by_row, strict=True)
            ],
        ),
    }


def _measured(results: dict) -> dict[str, dict]:
    return {name: row for name, row in results["retrieval"].items() if row is not None and row["metrics"] is not None}


def _labels(results: dict) -> dict[str, dict]:
    """Return `metrics` and `intervals` of the label tasks that have figures, by title."""
    found = {}
    if classification := results.get("classification"):
        found["Category"] = classification
    if attributes := results.get("attributes"):
        # Over all predictions: there is no precision and recall over different names.
        found["Attributes"] = {"metrics": attributes["micro"], "intervals": attributes["micro"]["intervals"]}
    return found


def _figure(row: dict | None, metric: str) -> str:
    """Return a share in per cent with its interval, if it has one."""
    if row is None or metric not in row["metrics"]:
        return ""
    interval = row["intervals"].get(metric)
    between = "" if interval is None else f" [{', '.join(map(_percent, interval))}]"
    return f"{_percent(row['metrics'][metric])}{between}"


def _expert_usage(state: dict) -> dict:
    """Return the last logged step that has it, and the table of the share of the routing that each expert got."""
    for entry in reversed(state.get("log_history", [])):
        shares = {kind: [entry[key] for key in entry if re.fullmatch(rf"expert_\d+_{kind}", key)] for kind in KINDS}
        rows = [[KINDS[kind], *(f"{100 * share:.1f}" for share in row)] for kind, row in shares.items() if row]
        if rows:
            header = ["items of", *(f"expert {number}" for number in range(1, len(rows[0])))]
            return {"usage_step": entry["step"], "usage": _table(header, rows)}
    return {"usage": None}


def _weight_types(folder: Path) -> list[str]:
    types = set()
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            types |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is no dict
    return sorted(types)


def _public(recipe: dict) -> str:
    """Return every field that was set as YAML, without tokens and without folders of the machine."""
    fields = {
        name: shown(value) if isinstance(value, str) else value
        for name, value in recipe.items()
        if value is not None and not name.endswith("_token")
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "arrow": arrow,
        "cell": _cell,
        "command": _command,
        "device": device_name,
        "number": "{:,}".format,
        "public": _public,
        "shown": shown,
        "versions": lambda versions: ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    return environment.get_template("model_card.md")


def _table(header: list[str], rows: list[list[str]]) -> str:
    rules = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [header, rules, *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def arrow(direction: str) -> str:
    """Return "t→mm" for "t2mm"."""
    return direction.replace("2", "→")


def shown(source: str) -> str:
    """Return a data set or model as others may read it: of a folder anywhere on a machine only the last name."""
    return Path(source).name if Path(source).is_absolute() else source


def _command(command: str) -> str:
    """Return a command without the interpreter's place and folders' places on the machine."""
    words = re.sub(r"^\S*python\S*", "python", command).split(" ")
    return " ".join(shown(word) for word in words)


def _read(file: Path, parse) -> dict:
    if not file.is_file():
        return {}
    try:
        return parse(file.read_text(encoding="utf-8")) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read, so the model card cannot quote it: {error}") from error
