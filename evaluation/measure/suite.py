"""Public product tasks through mteb's own loaders, and the tasks of an MBE2.0-format data set."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mteb
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import LocalEntryNotFoundError
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.results import TaskResult
from tqdm.auto import tqdm

from common_moon2.cli import UserError
from common_moon2.files import write_text
from common_moon2.source import find_folder
from common_moon2.text import table
from evaluation.arguments import OWN_NAMES, PUBLIC_TASKS, Suite
from evaluation.models.checkpoint import find_checkpoint
from evaluation.mteb_tasks import MtebEncoder, mbe2_tasks, mteb_encoder
from evaluation.vectors.catalogue import DEFAULT_CACHE, VectorCache

# mteb's letters of a category -> what is shown.
SHOWN = {"t": "text", "i": "image", "it": "image + text"}
# What is said of a model without a view; of several the first.
MISSING = {"i": "it reads no images", "t": "it reads no texts", "mm": "it does not embed image and text together"}
SIZES = ("queries", "corpus")
MODEL_FACTS = ("name", "kind", "revision", "fingerprint", "dimension", "parameters", "longest", "note")
# What is raised where the Hub cannot be reached, or the data are not there or not as expected.
UNLOADED = (OSError, ValueError, DatasetsError)


@dataclass
class Data:
    """The data of the public tasks, as far as they can be had.

    Attributes:
        missing: task -> why its data are not there.
        unreachable: the Hub did not answer, and is not asked again.
    """

    missing: dict[str, str] = field(default_factory=dict)
    unreachable: bool = False

    def load(self, task: AbsTask) -> bool:
        """Load the data of a task; return False, and note the reason, if that is not possible."""
        about = task.metadata
        if about.name not in self.missing:
            try:
                if about.name in PUBLIC_TASKS and not Path(about.dataset["path"]).is_dir():
                    folder = self._fetch(about.dataset["path"], about.revision)
                    task.metadata = about.model_copy(update={"dataset": about.dataset | {"path": str(folder)}})
                task.load_data()
            except UNLOADED as error:
                self.missing[about.name] = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return about.name not in self.missing

    def _fetch(self, path: str, revision: str) -> Path:
        """Return the folder of a data set; fetched whole, it is there without a network, unlike what mteb fetches."""
        if not self.unreachable:
            try:
                return find_folder("dataset", path, revision)
            except UserError as error:
                self.unreachable = isinstance(error.__cause__, LocalEntryNotFoundError)
                raise
        try:
            return find_folder("dataset", path, revision, local_files_only=True)
        except UserError as error:
            raise UserError(f"The data set {path} was not fetched before, and the Hub does not answer.") from error


def run_suite(arguments: Suite) -> dict:
    """Score every model on every task, write the table, and print it.

    mteb keeps the result of each task, and of each language of one, in the output folder. Vectors are cached as those
    of `run` are.

    Returns:
        `models`, `tasks` with the score of each model or why it has none, and `failed`: the tasks without data.

    Raises:
        UserError: a model or data set is missing, or no task could be run because none of the data could be fetched.
    """
    for name in arguments.model:
        find_checkpoint(name, arguments.model_revision)
    tasks = _tasks(arguments)
    results = mteb.ResultCache(arguments.output)
    vectors = VectorCache(arguments.cache or DEFAULT_CACHE)
    data = Data()
    rows = [_facts(task) for task in tasks]
    models = []
    with tqdm(total=len(tasks) * len(arguments.model), unit="task") as progress:
        for name in arguments.model:
            model = mteb_encoder(name, arguments.model_revision, vectors, arguments.workers)
            models.append({fact: getattr(model.encoder, fact) for fact in MODEL_FACTS})
            for task, row in zip(tasks, rows, strict=True):
                progress.set_description(f"{task.metadata.name}, {name}")
                row["models"][name] = _outcome(model, task, row, results, data, arguments.batch_size)
                progress.update()
    scored = [found for row in rows for found in row["models"].values() if "score" in found]
    if data.missing and not scored:
        reasons = "; ".join(f"{task}: {why}" for task, why in data.missing.items())
        raise UserError(f"No task could be run, because data could not be fetched. {reasons}.")
    text = _report(rows, models, data.missing)
    write_text(arguments.output / "suite.md", text + "\n")
    print(text)
    print(f"\nThe table: {arguments.output / 'suite.md'}; all figures of mteb: {arguments.output / 'results'}")
    return {"models": models, "tasks": rows, "failed": sorted(data.missing), "output": arguments.output}


def _tasks(arguments: Suite) -> list[AbsTask]:
    """Return the tasks that are asked for, those of mteb first."""
    public = [name for name in PUBLIC_TASKS if name in arguments.tasks or not arguments.tasks]
    wanted = set(arguments.tasks or OWN_NAMES)
    own = mbe2_tasks(arguments.dataset, arguments.dataset_revision) if arguments.dataset else []
    chosen = [task for task in own if task.metadata.name in wanted]
    missing = sorted(wanted & set(OWN_NAMES) - {task.metadata.name for task in chosen})
    if missing and arguments.tasks:
        raise UserError(f"{arguments.dataset} has nothing to score for {', '.join(missing)}.")
    with warnings.catch_warnings(action="ignore"):  # that a task is in beta, which the guide says
        tasks = [*(mteb.get_task(name) for name in public), *chosen]
    for task in tasks:
        task.evaluate = _counting(task, task.evaluate)
    return tasks


def _facts(task: AbsTask) -> dict[str, Any]:
    about = task.metadata
    asked, sought = about.category.split("2")
    return {
        "task": about.name,
        "dataset": about.dataset["path"],
        "revision": about.revision,
        "query_shows": SHOWN[asked],
        "corpus_shows": SHOWN[sought],
        "metric": about.main_score.replace("_at_", "@"),
        "queries": None,
        "corpus": None,
        "models": {},
    }


def _views(task: AbsTask) -> list[str]:
    """Return the views that a model needs for a task, with those that a fused one is made of."""
    sides = task.metadata.category.split("2")
    return [view for view, letter in (("i", "i"), ("t", "t"), ("mm", "it")) if any(letter in side for side in sides)]


def _outcome(
    model: MtebEncoder, task: AbsTask, row: dict, results: mteb.ResultCache, data: Data, batch_size: int
) -> dict[str, Any]:
    """Return the score of a model, from mteb's results if it is there, or why it has none."""
    lacks = [MISSING[view] for view in _views(task) if view not in model.encoder.views]
    if lacks:
        return {"left_out": lacks[0]}
    known = _kept(model, task, results)
    if (known is None or known.get_missing_evaluations(task)) and not data.load(task):
        return {"left_out": data.missing[task.metadata.name]}
    try:
        found = mteb.evaluate(
            model,
            task,
            co2_tracker=False,
            cache=results,
            overwrite_strategy="always" if known is None else "only-missing",
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
            show_progress_bar=False,
        ).task_results[0]
    finally:
        if task.data_loaded:
            task.unload_data()
    parts = [part for split in found.scores.values() for part in split]
    row.update({size: sum(part[size] for part in parts) for size in SIZES if all(size in part for part in parts)})
    return {"score": found.get_score(), "parts": {part["hf_subset"]: part["main_score"] for part in parts}}


def _kept(model: MtebEncoder, task: AbsTask, results: mteb.ResultCache) -> TaskResult | None:
    """Return what mteb has kept of a task. mteb itself would also take the result on another state of the data."""
    try:
        known = results.load_task_result(task.metadata.name, model.mteb_model_meta)
    except ValueError:  # the process was killed while it was written
        return None
    return known if known is not None and known.dataset_revision == task.metadata.revision else None


def _counting(task: AbsTask, evaluate: Callable[..., Mapping[str, dict]]) -> Callable[..., dict[str, dict]]:
    """Return a task's method with its sizes among the scores, as mteb does not keep them with a result."""

    def counted(model, split: str = "test", *args, **options) -> dict[str, dict]:
        found = evaluate(model, split, *args, **options)
        return {
            subset: scores | dict(zip(SIZES, _sizes(task, subset, split), strict=True))
            for subset, scores in found.items()
        }

    return counted


def _sizes(task: AbsTask, subset: str, split: str) -> tuple[int, int]:
    """Return the number of queries and of candidates; of a classification those of products and labels."""
    if not isinstance(task, AbsTaskRetrieval):
        return len(task.dataset[split]), len(task.get_candidate_labels())
    data = task.dataset[subset][split]
    return len(data["queries"]), len(data["corpus"])


def _report(rows: list[dict], models: list[dict], missing: dict[str, str]) -> str:
    """Return the table, and what to know of it."""
    cells = [
        [
            row["task"],
            f"{row['query_shows']} → {row['corpus_shows']}",
            *(f"{row[size]:,}" if row[size] is not None else "-" for size in SIZES),
            row["metric"],
            *(f"{100 * found['score']:.1f}" if "score" in found else "-" for found in row["models"].values()),
        ]
        for row in rows
    ]
    header = ["", "asks", "queries", "corpus", "measure", *(model["name"] for model in models)]
    notes = []
    for model in models:
        if model["longest"] is not None:
            notes.append(f"{model['name']} reads {model['longest']:,} tokens of a text.")
        if model["note"]:
            notes.append(f"{model['name']}: {model['note']}.")
        for why in MISSING.values():
            left = [row["task"] for row in rows if row["models"][model["name"]].get("left_out") == why]
            notes += [f"{model['name']} has no figure for {', '.join(left)}: {why}."] if left else []
    notes += [f"{task} was not run: {why}." for task, why in missing.items()]
    parts = ["Per cent; a dash where a model has no figure.", table(header, cells)]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)] if notes else parts)
