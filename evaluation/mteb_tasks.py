"""An MBE2.0-format benchmark as mteb tasks, and the evaluation's encoders as mteb's. Needs mteb.

The figures are those of `evaluation.measure.evaluate`, as far as mteb goes the same way: it rounds most figures to five
digits, cuts a ranking after a thousand candidates (its `mrr_at_1000` gives nothing for a later one), and compares in
float32.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, DatasetDict, Image
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskZeroShotClassification
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType
from torch.utils.data import DataLoader

from common_moon2.cli import UserError
from evaluation.arguments import OWN_TASKS
from evaluation.measure.classification import CATEGORY_TEMPLATE, category_labels
from evaluation.measure.retrieval import DIRECTIONS
from evaluation.models.checkpoint import find_checkpoint
from evaluation.models.encoders import FIND_PRODUCT, Encoder, load_encoder, peer_of
from evaluation.tables.benchmark import QUERY_VIEWS, Benchmark, load_benchmark
from evaluation.tables.products import Columns, Products, ProductView
from evaluation.vectors.catalogue import VectorCache

# view: mteb's letters for it, and the columns that hold it
CATEGORIES = {"t": "t", "i": "i", "mm": "it"}
COLUMNS = {"t": ["text"], "i": ["image"], "mm": ["text", "image"]}


def mbe2_tasks(dataset: str, revision: str | None = None, languages: Sequence[str] = ("eng-Latn",)) -> list[AbsTask]:
    """Return the directions that have queries, and classification if there are categories, for `mteb.evaluate`.

    Args:
        dataset: folder or Hub id of a data set with the configurations corpus, queries and qrels.
        revision: branch, tag or commit on the Hub. Without one, the tasks' revision is the data's fingerprint, so that
            mteb's cache does not take one state of a folder for another.
        languages: as mteb writes them.

    Raises:
        UserError: as `load_benchmark`, or there is nothing to score.
    """
    benchmark = load_benchmark(dataset, revision)
    facts = {"dataset": {"path": dataset, "revision": revision or benchmark.fingerprint}, "eval_langs": list(languages)}
    tasks: list[AbsTask] = []
    for direction, (modality, view) in DIRECTIONS.items():
        if _judged(benchmark, modality, view):
            tasks.append(_retrieval_task(direction, facts)(benchmark, direction))
    if any(benchmark.categories[row] for row in benchmark.corpus.rows("mm")):
        tasks.append(_classification_task(facts)(benchmark))
    if not tasks:
        raise UserError(f"{dataset} has neither a query with a relevant product nor a category to score.")
    return tasks


def mteb_encoder(
    model: str, revision: str | None = None, cache: VectorCache | None = None, workers: int = 0
) -> "MtebEncoder":
    """Load any model that the evaluation knows for `mteb.evaluate`. The code inside a checkpoint is run.

    Args:
        model: as `load_encoder` takes it.
        revision: branch, tag or commit on the Hub.
        cache: keeps vectors, so that a task that was interrupted goes on where it was.
        workers: processes that read large images while the model is at work.

    Raises:
        UserError: as `load_encoder`.
    """
    encoder, (folder, commit) = load_encoder(model, revision), find_checkpoint(model, revision)
    # What we add to a model's files is part of what is scored, and changes with this project, not with the model.
    added = "" if encoder.kind == "moon2" else peer_of(model).additions
    facts = {
        "name": f"local/{folder.name}" if commit is None else model,
        "revision": commit or encoder.fingerprint,
        "modalities": [name for name, view in (("text", "t"), ("image", "i")) if view in encoder.views],
        "similarity_fn_name": ScoringFunction.COSINE,
        "n_parameters": encoder.parameters,
        "embed_dim": encoder.dimension,
        "experiment_kwargs": {"added": hashlib.sha256(added.encode()).hexdigest()[:8]} if added else None,
    }
    return MtebEncoder(encoder, ModelMeta.create_empty(facts), cache, workers)


class MtebEncoder(AbsEncoder):
    """An encoder of the evaluation as mteb calls one: it reads images as `run` does, and gives the same vectors."""

    def __init__(self, encoder: Encoder, meta: ModelMeta, cache: VectorCache | None = None, workers: int = 0):
        self.encoder, self.mteb_model_meta, self.cache, self.workers = encoder, meta, cache, workers

    def encode(
        self,
        inputs: DataLoader,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int = 64,
        **_: Any,
    ) -> torch.Tensor:
        """Return (N, D) vectors of what the loader's data set shows: texts, images or both.

        A model that takes instructions is told the task's own.

        Raises:
            UserError: a product cannot be prepared, or its vector is not finite.
        """
        shown = [name for name in COLUMNS["mm"] if name in inputs.dataset.column_names]
        view = next(view for view, columns in COLUMNS.items() if columns == shown)
        # Labels are asked of products, and come without a role.
        is_query = prompt_type == PromptType.query or (prompt_type is None and view == "t")
        role, what = ("query", "queries") if is_query else ("document", "corpus")
        told = task_metadata.prompt.get("query") if isinstance(task_metadata.prompt, dict) else task_metadata.prompt
        self.encoder.instruction = told or FIND_PRODUCT
        subset = "" if hf_subset == "default" else f" {hf_subset}"
        columns = Columns(None, *(name if name in shown else None for name in COLUMNS["mm"]))
        products = Products(f"{task_metadata.name}{subset} {what}", inputs.dataset.select_columns(shown), columns)
        asked = ProductView(products, view, range(len(products)))
        if self.cache is None:
            return self.encoder.encode(asked, batch_size, self.workers, role, products.name)
        return self.cache.embed(self.encoder, asked, view, role, batch_size, self.workers, products.name)


class SeesAll:
    """A task for encoders that read all it shows; mteb itself only warns, and drops the images."""

    def evaluate(self, model, *args, **kwargs):
        """Score the model.

        Raises:
            UserError: it is said to read fewer modalities than the task has.
        """
        facts = model.mteb_model_meta
        missing = sorted(set(self.metadata.modalities) - set(facts.modalities or ()))
        if missing:
            raise UserError(
                f"mteb takes {facts.name} for an encoder of {', '.join(facts.modalities or ['nothing'])}, and would "
                f"drop the {' and '.join(missing)} of {self.metadata.name}: load it with "
                "evaluation.mteb_tasks.mteb_encoder."
            )
        return super().evaluate(model, *args, **kwargs)


class Mbe2Retrieval(SeesAll, AbsTaskRetrieval):
    """One direction: the queries of its modality against the products that have its corpus view."""

    def __init__(self, benchmark: Benchmark, direction: str):
        self.benchmark = benchmark
        self.modality, self.view = DIRECTIONS[direction]
        super().__init__()

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Take the data from the benchmark, which is read and checked once for all tasks."""
        corpus, queries = self.benchmark.corpus, self.benchmark.queries
        judged = _judged(self.benchmark, self.modality, self.view)
        data = RetrievalSplitData(
            corpus=_table(corpus, self.view, corpus.rows(self.view)),
            queries=_table(queries, QUERY_VIEWS[self.modality], list(judged)),
            relevant_docs={
                queries.ids[row]: {corpus.ids[candidate]: grade for candidate, grade in grades.items()}
                for row, grades in judged.items()
            },
            top_ranked=None,
        )
        self.dataset = {"default": {"test": data}}
        self.data_loaded = True


class Mbe2Classification(SeesAll, AbsTaskZeroShotClassification):
    """The category of each product with text and image: the nearest text among all category labels of the corpus."""

    input_column_name = ("text", "image")

    def __init__(self, benchmark: Benchmark):
        self.benchmark = benchmark
        self.names = category_labels(benchmark.categories)
        self.labels = sorted(self.names.values())
        super().__init__()

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Take the data from the benchmark, which is read and checked once for all tasks."""
        corpus, categories = self.benchmark.corpus, self.benchmark.categories
        rows = [row for row in corpus.rows("mm") if categories[row]]
        index = {label: position for position, label in enumerate(self.labels)}
        truths = [index[self.names[tuple(categories[row])]] for row in rows]
        self.dataset = DatasetDict({"test": _table(corpus, "mm", rows).add_column("label", truths)})
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        """Return the texts of the labels."""
        return [CATEGORY_TEMPLATE.format(label=label) for label in self.labels]


def _task(base: type[AbsTask], name: str, description: str, facts: dict) -> type[AbsTask]:
    """Return a class of its own: mteb looks for metadata in classes, and takes them off an object that it unloads."""
    name = OWN_TASKS.format(name)
    return type(name, (base,), {"metadata": TaskMetadata(name=name, description=description, **facts)})


def _retrieval_task(direction: str, facts: dict) -> type[AbsTask]:
    modality, view = DIRECTIONS[direction]
    query_view = QUERY_VIEWS[modality]
    facts = facts | {
        "type": "Any2AnyRetrieval",
        "category": f"{CATEGORIES[query_view]}2{CATEGORIES[view]}",
        "modalities": sorted({*COLUMNS[query_view], *COLUMNS[view]}, reverse=True),
        "main_score": "recall_at_10",
    }
    return _task(Mbe2Retrieval, direction, f"Products (view {view}) for {modality} queries.", facts)


def _classification_task(facts: dict) -> type[AbsTask]:
    facts = facts | {
        "type": "ZeroShotClassification",
        "category": "it2t",
        "modalities": ["text", "image"],
        "main_score": "accuracy",
    }
    return _task(Mbe2Classification, "classification", "Category of a product by the nearest label text.", facts)


def _judged(benchmark: Benchmark, modality: str, view: str) -> dict[int, dict[int, int]]:
    """Return {query row: {corpus row: grade}} of the queries that have a relevant product among the candidates."""
    present = set(benchmark.corpus.rows(view))
    found = {
        row: {candidate: grade for candidate, grade in grades.items() if candidate in present}
        for row, grades in enumerate(benchmark.relevant)
        if benchmark.modalities[row] == modality
    }
    return {row: grades for row, grades in found.items() if grades}


def _table(products: Products, view: str, rows: list[int]) -> Dataset:
    """Only the columns that the view shows: mteb would embed the others too, and refuses empty cells."""
    table = products.dataset.select_columns(["id", *COLUMNS[view]]).select(rows)
    return table.cast_column("image", Image()) if view != "t" else table
