"""The arguments of `python -m evaluation push` and `push_metric`; nothing heavy is imported for their --help."""

from dataclasses import dataclass
from pathlib import Path

from common_moon2.cli import UserError
from common_moon2.fields import option, positional

METRICS = ("recall_at_k", "mean_reciprocal_rank")
# Where `python -m evaluation report` and the demo put the figures, in the folder of results.
USUAL = {"expert_usage": "plots/usage.png", "heatmap": "heatmap.png"}


@dataclass
class PushArguments:
    """Put a model on the Hub.

    Uploads a checkpoint with its code, results and a model card. What is there already is not uploaded again: after an
    interruption, run the same command again. Sign in before with `hf auth login`, or set HF_TOKEN. Optimizer states,
    checkpoints and logs stay where they are, unless --include names them.
    """

    model: Path = option(help="folder of a Moon2 checkpoint")
    repo: str = option(help="user/name on the Hub, made if it is not there")
    results: Path | None = option(
        None,
        help="folder that `python -m evaluation` wrote for this checkpoint; without it the card claims no figures, and "
        "those of an earlier push are removed",
    )
    heatmap: Path | None = option(
        None,
        help="PNG of `python -m evaluation heatmap`, for the card (default: heatmap.png in --results, if it is there)",
    )
    expert_usage: Path | None = option(
        None,
        help="PNG of how the experts are used, for the card (default: that of `python -m evaluation report` in "
        "--results, if it is there)",
    )
    license: str | None = option(
        None, help="licence of the weights: an identifier of the Hub (apache-2.0 ...) or other"
    )
    license_name: str | None = option(None, help="with --license other: what the licence is called")
    license_link: str | None = option(None, help="with --license other: where it stands")
    private: bool | None = option(None, help="make a new repository private", action="store_true")
    branch: str = option("main", help="made if it is not there")
    tag: str | None = option(None, help="a name for this release, to load it by; never moved")
    message: str = option("Upload a Moon2 model", help="message of the commit")
    max_shard_size: str | None = option(None, help="divide larger files of weights, as 5GB (default: as they are)")
    include: list[str] = option(
        list,
        help="further files of the folder, as log.jsonl or 'checkpoint-100/*'; may be given several times",
        action="append",
        metavar="PATTERN",
    )
    dry_run: bool = option(False, help="upload nothing: list the files and print the card", action="store_true")

    def __post_init__(self):
        if (self.license == "other") != (self.license_name is not None):
            raise UserError(
                "--license_name is for a licence that the Hub has no identifier of, together with --license other."
            )
        if self.license_link is not None and self.license != "other":
            raise UserError("--license_link only means something with --license other.")

    def figures(self) -> dict[str, Path]:
        """Return the PNG files that are named or lie in the folder of results, by what they show."""
        found = {}
        for figure, usual in USUAL.items():
            file = getattr(self, figure)
            if file is None and self.results is not None and (self.results / usual).is_file():
                file = self.results / usual
            if file is not None:
                found[figure] = file
        return found


@dataclass
class MetricArguments:
    """Put a metric module for evaluate on the Hub.

    Uploads recall_at_k or mean_reciprocal_rank as a Space, for evaluate.load. Log in first: `hf auth login`.
    """

    metric: str = positional("which metric", choices=METRICS)
    owner: str | None = option(None, help="user or organisation (default: who is logged in)")
    private: bool | None = option(None, help="make a new Space private", action="store_true")
