"""`python -m evaluation report RESULTS`: one page of a run, with its tables, plots and what it answered.

RESULTS/report.html     needs no other file and no network
RESULTS/plots/*.png     the plots in it
"""

import argparse
import json
from pathlib import Path

from commands_moon2 import whole
from evaluation.errors import EvaluationError

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
    from evaluation.cache import DEFAULT_FOLDER, VectorCache
    from evaluation.page import Sample, make_page
    from evaluation.report import write_text

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
