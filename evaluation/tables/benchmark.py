"""The retrieval benchmark of an MBE2.0-format data set: corpus, queries, qrels, and the gallery of candidates.

Crops of one photo are found too easily among few products, so figures on a small corpus say little. A gallery adds
products that are not relevant (our choice, where the paper has 636,241 products).
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, LargeList, List, Value, concatenate_datasets, get_dataset_config_names

from common_moon2.cli import UserError
from common_moon2.source import load_tables
from evaluation.tables.products import Products

TEXT = Value("string")
COLUMNS = {
    "corpus": {
        "id": TEXT,
        "text": TEXT,
        "image": Image(),
        "category": List(TEXT),
        "attributes": List({"name": TEXT, "value": TEXT}),
    },
    "queries": {"id": TEXT, "text": TEXT, "image": Image(), "modality": TEXT},
    "qrels": {"query-id": TEXT, "corpus-id": TEXT, "score": Value("int64")},
}
OPTIONAL = {"group_id": TEXT}
# How else a value may be stored. Judgements of other sets may be floats, of which only whole ones are scores.
STORED_AS = {
    "string": re.compile("(large_)?string|string_view"),
    "binary": re.compile("(large_)?binary"),
    "int64": re.compile(r"(u?int|float)\d+"),
}
COMMIT = re.compile("[0-9a-f]{40}")
# The view in which a query of each modality is embedded.
QUERY_VIEWS = {"text": "t", "image": "i", "mixed": "mm"}
EASY, HARD = "easy", "hard"  # galleries
NEEDED = ("id", "title", "image", "group_id")  # of the products of triplets


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that was checked.

    Attributes:
        relevant: for each query row, {corpus row: grade} for what qrels give a score above zero.
        categories: for each corpus row, its category path (general to specific), maybe empty.
        attributes: for each corpus row, its {attribute name: values in their order}.
        fingerprint: SHA-256 over ids, texts, images, labels, groups and judgements, and over the distractors.
        distractors: further candidates, none of which is relevant; see `with_gallery`.
        gallery: what the candidates are.
        revision: the Hub commit, `None` for a folder.
    """

    corpus: Products
    queries: Products
    modalities: list[str]
    relevant: list[dict[int, int]]
    categories: list[list[str]]
    attributes: list[dict[str, list[str]]]
    fingerprint: str
    distractors: Products | None = None
    gallery: str = "easy"
    revision: str | None = None

    @property
    def candidates(self) -> list[Products]:
        """Return the tables that the candidates come from; candidate rows are counted through them."""
        return [self.corpus] if self.distractors is None else [self.corpus, self.distractors]


def load_benchmark(path: str, revision: str | None = None) -> Benchmark:
    """Load the configurations `corpus`, `queries` and `qrels` (split `test`).

    Args:
        path: folder or Hub id of a data set.
        revision: branch, tag or commit on the Hub.

    Raises:
        UserError: a configuration or column is missing or of another type, a table is empty, an id is null or
            occurs twice, a query lacks what its modality promises, part of a category or attribute is null, qrels name
            an unknown id, or a score is no whole number. The message names the column, row or id.
    """
    tables = {config: _load(path, config, revision) for config in COLUMNS}
    corpus, queries = _products("corpus", tables["corpus"]), _products("queries", tables["queries"])
    modalities = list(tables["queries"]["modality"])
    _check_modalities(queries, modalities)
    _check_labels(tables["corpus"])
    categories = [list(category or []) for category in tables["corpus"]["category"]]
    attributes = [_grouped(row or []) for row in tables["corpus"]["attributes"]]
    judgements = list(zip(*(tables["qrels"][column] for column in COLUMNS["qrels"]), strict=True))
    content = [products_content(corpus), products_content(queries), modalities, categories, attributes, judgements]
    return Benchmark(
        corpus=corpus,
        queries=queries,
        modalities=modalities,
        relevant=_relevant(queries.ids, corpus.ids, judgements),
        categories=categories,
        attributes=attributes,
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        revision=_commit(tables["corpus"]) or revision,
    )


def load_corpus(path: str, revision: str | None = None) -> Products:
    """Load the corpus alone; see `load_benchmark`."""
    return _products("corpus", _load(path, "corpus", revision))


def _products(name: str, table: Dataset) -> Products:
    return Products(name, table.cast_column("image", Image(decode=False)))


def products_content(products: Products) -> list:
    """Return all that tells products apart, for fingerprints."""
    return [products.ids, products.texts, products.images, products.groups]


def _load(path: str, config: str, revision: str | None) -> Dataset:
    tables = load_tables(path, config, revision)
    if "test" not in tables:
        raise UserError(f"Configuration {config!r} of {path} has no split 'test'; it has: {', '.join(tables)}.")
    dataset = tables["test"]
    for column in COLUMNS[config]:
        if column not in dataset.column_names:
            found = ", ".join(dataset.column_names)
            raise UserError(f"Configuration {config!r} of {path} has no column {column!r}; it has: {found}.")
    for column, wanted in (COLUMNS[config] | OPTIONAL).items():
        found = dataset.features.get(column)
        if found is not None and not _fits(found, wanted):
            raise UserError(
                f"Configuration {config!r} of {path} has {found} in the column {column!r}, which must be {wanted}."
            )
    return dataset


def _fits(found: Any, wanted: Any) -> bool:
    """Return whether values of a feature can be read as those of another one; nulls can."""
    if found == Value("null"):
        return True
    if isinstance(wanted, List):
        return isinstance(found, (List, LargeList)) and _fits(found.feature, wanted.feature)
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(name in found and _fits(found[name], wanted[name]) for name in wanted)
    if isinstance(wanted, Image):
        return isinstance(found, Image) or _fits(found, {"bytes": Value("binary"), "path": TEXT})
    return isinstance(found, Value) and STORED_AS[wanted.dtype].fullmatch(found.dtype) is not None


def _commit(dataset: Dataset) -> str | None:
    """Return the commit of a data set on the Hub, after which datasets names its copy; `None` for a folder."""
    folders = [Path(file["filename"]).parent.name for file in dataset.cache_files]
    return next((name for name in folders if COMMIT.fullmatch(name)), None)


def _check_modalities(queries: Products, modalities: list[str]) -> None:
    for row, modality in enumerate(modalities):
        query = f"Query {queries.ids[row]!r} (row {row})"
        if modality not in QUERY_VIEWS:
            raise UserError(f"{query} has the modality {modality!r}; known are {', '.join(QUERY_VIEWS)}.")
        if modality != "image" and queries.texts[row] is None:
            raise UserError(f"{query} has the modality {modality!r} but no text.")
        if modality != "text" and queries.images[row] is None:
            raise UserError(f"{query} has the modality {modality!r} but no image.")


def _check_labels(corpus: Dataset) -> None:
    for row, (identifier, category, attributes) in enumerate(
        zip(corpus["id"], corpus["category"], corpus["attributes"], strict=True)
    ):
        product = f"Product {identifier!r} (row {row} of corpus)"
        if None in (category or ()):
            raise UserError(f"{product} has the category {category}: a level of it is null.")
        for attribute in attributes or ():
            if attribute is None or attribute["name"] is None or attribute["value"] is None:
                raise UserError(f"{product} has the attribute {attribute}: its name or value is null.")


def _grouped(attributes: list[dict]) -> dict[str, list[str]]:
    """Turn [{name, value}] into {name: values}, as a name may occur more than once."""
    values: dict[str, list[str]] = {}
    for attribute in attributes:
        known = values.setdefault(attribute["name"], [])
        if attribute["value"] not in known:
            known.append(attribute["value"])
    return values


def _relevant(query_ids: list, corpus_ids: list, judgements: list[tuple]) -> list[dict[int, int]]:
    query_rows = {identifier: row for row, identifier in enumerate(query_ids)}
    corpus_rows = {identifier: row for row, identifier in enumerate(corpus_ids)}
    relevant: list[dict[int, int]] = [{} for _ in query_ids]
    for row, (query, product, score) in enumerate(judgements):
        if query not in query_rows:
            raise UserError(f"Row {row} of qrels refers to the query {query!r}, which is not among the queries.")
        if product not in corpus_rows:
            raise UserError(f"Row {row} of qrels refers to the product {product!r}, which is not in the corpus.")
        if score is None or score % 1:
            raise UserError(f"Row {row} of qrels has the score {score}; a score is a whole number, 0 for no match.")
        if score > 0:
            grades = relevant[query_rows[query]]
            grades[corpus_rows[product]] = max(int(score), grades.get(corpus_rows[product], 0))
    return relevant


def with_gallery(benchmark: Benchmark, gallery: str, dataset: str, revision: str | None = None) -> Benchmark:
    """Return the benchmark with distractors: candidates that no query asks for.

    A distractor with the id or the group of a corpus product is left out: it might be a right answer.

    Args:
        gallery: "easy" (the corpus alone), "hard" (all products of the data set's triplets too), or the folder or Hub
            id of another data set, whose corpus is added.
        dataset, revision: where the benchmark comes from.

    Raises:
        UserError: the products cannot be read, or lack a column.
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
        raise UserError(f"The gallery {gallery} has no product that is not in the corpus.")
    distractors = _products("distractors", table.select(kept))
    content = [benchmark.fingerprint, products_content(distractors)]
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return replace(benchmark, distractors=distractors, gallery=gallery, fingerprint=fingerprint)


def train_products(dataset: str, revision: str | None = None) -> tuple[Products, list[list[str]]]:
    """Return the distinct positives of the train triplets, and their category paths.

    Raises:
        UserError: there are no train triplets, or they do not tell the positives' categories.
    """
    splits = load_tables(dataset, "triplets", revision)
    if "train" not in splits or "positive_category" not in splits["train"].column_names:
        raise UserError(f"The triplets of {dataset} have no split 'train' with a column 'positive_category'.")
    positives = _of_role(splits["train"], "positive", dataset, "positive_category")
    return _products("train products", positives), [list(path or []) for path in positives["positive_category"]]


def validation_benchmark(dataset: str, revision: str | None, corpus: Products) -> Benchmark | None:
    """Return the queries of the validation triplets, to be asked of their positives and negatives and of a corpus.

    Without the corpus there would be few candidates, among which all is easy. What is of a query's group is relevant.
    `None` if the data set has no validation triplets.

    Raises:
        UserError: a column is missing.
    """
    has_triplets = "triplets" in get_dataset_config_names(dataset, revision=revision)
    splits = load_tables(dataset, "triplets", revision) if has_triplets else {}
    if not len(splits.get("validation", ())):
        return None
    triplets = splits["validation"]
    parts = [_of_role(triplets, role, dataset) for role in ("positive", "negative")]
    products = _products("validation products", _distinct(concatenate_datasets(parts)))
    columns = {f"query_{name}": name for name in ("id", "text", "image", "modality", "group_id")}
    for column in columns:
        if column not in triplets.column_names:
            raise UserError(f"The triplets of {dataset} have no column {column!r}.")
    asked = triplets.select_columns([*columns, "positive_id"]).rename_columns(columns)
    right: dict[str, set[str]] = {}
    for identifier, positive in zip(asked["id"], asked["positive_id"], strict=True):
        right.setdefault(identifier, set()).add(positive)
    table = _distinct(asked)
    queries, modalities = _products("validation queries", table), list(table["modality"])
    _check_modalities(queries, modalities)
    groups = products.groups or products.ids
    relevant = [
        {row: 1 for row, own in enumerate(products.ids) if own in right[identifier] or (group and groups[row] == group)}
        for identifier, group in zip(queries.ids, table["group_id"], strict=True)
    ]
    unlabelled = [[] for _ in products.ids], [{} for _ in products.ids]
    return Benchmark(products, queries, modalities, relevant, *unlabelled, fingerprint="", distractors=corpus)


def _of_triplets(dataset: str, revision: str | None) -> Dataset:
    splits = load_tables(dataset, "triplets", revision)
    parts = [_of_role(split, role, dataset) for split in splits.values() for role in ("positive", "negative")]
    return _distinct(concatenate_datasets(parts))


def _of_role(triplets: Dataset, role: str, dataset: str, *more: str) -> Dataset:
    """Return the distinct positives or negatives under the corpus's column names."""
    names = {f"{role}_{name}": "text" if name == "title" else name for name in NEEDED}
    for column in names:
        if column not in triplets.column_names:
            raise UserError(f"The triplets of {dataset} have no column {column!r}.")
    return _distinct(triplets.select_columns([*names, *more]).rename_columns(names))


def _of_corpus(dataset: str) -> Dataset:
    tables = load_tables(dataset, "corpus")
    table = concatenate_datasets(list(tables.values()))
    columns = [name for name in ("id", "text", "image", "group_id") if name in table.column_names]
    if not {"id", "text", "image"} <= set(columns):
        raise UserError(f"The corpus of {dataset} needs id, text, image; it has {', '.join(table.column_names)}.")
    return _distinct(table.select_columns(columns))


def _distinct(table: Dataset) -> Dataset:
    """Return the first row of each id."""
    first: dict[str, int] = {}
    for row, identifier in enumerate(table["id"]):
        first.setdefault(identifier, row)
    return table.select(list(first.values()))
