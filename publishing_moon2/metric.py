"""recall_at_k and mean_reciprocal_rank as metric modules of Hugging Face evaluate, which go to the Hub as Spaces.

`evaluate.load(str(metric_folder("recall_at_k")))` needs no network; `evaluate.load("user/recall_at_k")` reads a Space.
"""

import argparse
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

import evaluation
from evaluation.errors import EvaluationError

FOLDER = Path(evaluation.__file__).parent / "evaluate_metrics"
METRICS = ("recall_at_k", "mean_reciprocal_rank")


def metric_folder(name: str) -> Path:
    """The folder of a metric, for `evaluate.load`.

    Raises:
        EvaluationError: there is no such metric.
    """
    if name not in METRICS:
        raise EvaluationError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
    return FOLDER / name


def push_metric(name: str, owner: str | None = None, private: bool = False) -> str:
    """Puts a metric on the Hub as the Space `owner/name`, or brings it up to date there.

    The Space must have the metric's name, because evaluate looks for `<name>.py` in it.

    Args:
        owner: user or organisation; the token's user by default.
        private: of a new Space.

    Returns:
        The Space's address.

    Raises:
        EvaluationError: there is no such metric, or the Hub refuses.
    """
    folder, hub = metric_folder(name), HfApi()
    try:
        repo_id = f"{owner or hub.whoami()['name']}/{name}"
        url = hub.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type="space",
            ignore_patterns=["__pycache__/*"],
            commit_message=f"Metric {name}",
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EvaluationError(f"The metric {name} cannot be put on the Hub: {reason}") from error
    return str(url)


def add_push_metric(commands: argparse._SubParsersAction) -> None:
    """`python -m evaluation push_metric`."""
    parser = commands.add_parser(
        "push_metric",
        examples=[
            "python -m evaluation push_metric recall_at_k",
            "python -m evaluation push_metric mean_reciprocal_rank --owner my-team --private",
        ],
        description="Puts recall_at_k or mean_reciprocal_rank on the Hub as a Space, for evaluate.load. Log in first: "
        "`hf auth login`.",
    )
    parser.add_argument("metric", choices=METRICS, help="which metric")
    parser.add_argument("--owner", help="user or organisation (default: who is logged in)")
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.set_defaults(command=_push)


def _push(options: argparse.Namespace) -> dict:
    url = push_metric(options.metric, options.owner, options.private)
    print(f"The metric is at {url}")
    return {"metric": options.metric, "url": url}
