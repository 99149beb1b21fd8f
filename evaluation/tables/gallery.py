"""Which products a query's answer is to be found among: the corpus alone, or among others that are not relevant.

Crops of one photo are found too easily among few products, so figures on a small corpus say little (our choice, where
the paper has 636,241 products)."""

import dataclasses
import hashlib
import json

from datasets import Dataset, concatenate_datasets

from common_moon2.source import load_tables
from evaluation.errors import EvaluationError
from evaluation.tables.benchmark import Benchmark, Products, products_content

EASY, HARD = "easy", "hard"
NEEDED = ("id", "title", "image", "group_id")


def with_gallery(benchmark: Benchmark, gallery: str, dataset: str, revision: str | None = None) -> Benchmark:
    """The benchmark with distractors: candidates that no query asks for.

    A distractor with the id or the group of a corpus product is left out: it might be a right answer.

    Args:
        gallery: "easy" (the corpus alone), "hard" (all products of the data set's triplets too), or the folder or Hub
            id of another data set, whose corpus is added.
        dataset, revision: where the benchmark comes from.

    Raises:
        EvaluationError: the products cannot be read, or lack a column.
    """
    if gallery == EASY:
        return benchmark
    table = _of_triplets(dataset, revision) if gallery == HARD else _of_corpus(gallery)
    known = set(benchmark.corpus.ids)
    known_groups = set(benchmark.corpus.groups or ())
    groups = table["group_id"] if "group_id" in table.column_names else [None] * len(table)
    kept = [
        row
        for row, (identifier, group) in enumerate(zip(table["id"], groups, strict=True))
        if identifier not in known and group not in known_groups
    ]
    if not kept:
        raise EvaluationError(f"The gallery {gallery} has no product that is not in the corpus.")
    distractors = Products("distractors", table.select(kept))
    content = [benchmark.fingerprint, products_content(distractors)]
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return dataclasses.replace(benchmark, distractors=distractors, gallery=gallery, fingerprint=fingerprint)


def train_products(dataset: str, revision: str | None = None) -> tuple[Products, list[list[str]]]:
    """The distinct positives of the train triplets, and their category paths.

    Raises:
        EvaluationError: there are no train triplets, or they do not tell the positives' categories.
    """
    splits = load_tables(dataset, "triplets", revision)
    if "train" not in splits or "positive_category" not in splits["train"].column_names:
        raise EvaluationError(f"The triplets of {dataset} have no split 'train' with a column 'positive_category'.")
    positives = _of_role(splits["train"], "positive", dataset, "positive_category")
    return Products("train products", positives), [list(path or []) for path in positives["positive_category"]]


def _of_triplets(dataset: str, revision: str | None) -> Dataset:
    splits = load_tables(dataset, "triplets", revision)
    parts = [_of_role(split, role, dataset) for split in splits.values() for role in ("positive", "negative")]
    return _distinct(concatenate_datasets(parts))


def _of_role(triplets: Dataset, role: str, dataset: str, *more: str) -> Dataset:
    """The distinct positives or negatives under the corpus's column names."""
    names = {f"{role}_{name}": "text" if name == "title" else name for name in NEEDED}
    for column in names:
        if column not in triplets.column_names:
            raise EvaluationError(f"The triplets of {dataset} have no column {column!r}.")
    return _distinct(triplets.select_columns([*names, *more]).rename_columns(names))


def _of_corpus(dataset: str) -> Dataset:
    tables = load_tables(dataset, "corpus")
    table = concatenate_datasets(list(tables.values()))
    columns = [name for name in ("id", "text", "image", "group_id") if name in table.column_names]
    if not {"id", "text", "image"} <= set(columns):
        raise EvaluationError(f"The corpus of {dataset} needs id, text, image; it has {', '.join(table.column_names)}.")
    return _distinct(table.select_columns(columns))


def _distinct(table: Dataset) -> Dataset:
    """The first row of each id."""
    first: dict[str, int] = {}
    for row, identifier in enumerate(table["id"]):
        first.setdefault(identifier, row)
    return table.select(list(first.values()))
