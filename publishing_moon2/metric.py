"""recall_at_k and mean_reciprocal_rank as metric modules of Hugging Face evaluate, which go to the Hub as Spaces.

`evaluate.load(str(metric_folder("recall_at_k")))` needs no network; `evaluate.load("user/recall_at_k")` reads a Space.
"""

from pathlib import Path

from huggingface_hub import HfApi

import evaluation
from common_moon2.cli import UserError
from common_moon2.hub import Repository, refusal
from publishing_moon2.arguments import METRICS, MetricArguments

FOLDER = Path(evaluation.__file__).parent / "evaluate_metrics"
PAGE = "app.py"  # of every metric's Space


def metric_folder(name: str) -> Path:
    """Return the folder of a metric, for `evaluate.load`.

    Raises:
        UserError: there is no such metric.
    """
    if name not in METRICS:
        raise UserError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
    return FOLDER / name


def metric_files(name: str) -> dict[str, Path]:
    """Return path in the Space -> file, of a metric and the page around it."""
    return {path.name: path for path in metric_folder(name).iterdir() if path.is_file()} | {PAGE: FOLDER / PAGE}


def push_metric(arguments: MetricArguments) -> dict:
    """Put a metric on the Hub as the Space `owner/name`, or bring it up to date there.

    The Space must have the metric's name, because evaluate looks for `<name>.py` in it.

    Raises:
        UserError: there is no such metric, or the Hub refuses.
    """
    name, owner = arguments.metric, arguments.owner
    files = metric_files(name)
    if owner is None:
        try:
            owner = HfApi().whoami()["name"]
        except Exception as error:  # as `Repository.refusals`
            raise UserError(refusal(name, error)) from error
    pushed = Repository(f"{owner}/{name}", "space").push(files, f"Metric {name}", private=arguments.private)
    print(f"The metric is at {pushed.url}")
    return {"metric": name, "url": pushed.url}
