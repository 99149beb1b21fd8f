"""Reads and checks the retrieval benchmark of an MBE2.0-format data set: corpus, queries and qrels."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image, LargeList, List, Value

from common_moon2.source import load_tables
from evaluation.errors import EvaluationError

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


class Products:
    """The rows of a table as products. Pictures stay encoded until they are asked for.

    Attributes:
        ids, texts: of each row; a text is `None` where there is none.
        pictures: for each row the SHA-256 of its picture, `None` where there is none.
        groups: for each row its group, which is its id where the row has none; `None` if there is no such column.
    """

    def __init__(self, name: str, dataset: Dataset):
        self.name = name
        self.dataset = dataset.cast_column("image", Image(decode=False))
        self.ids = list(dataset["id"])
        _check_ids(name, self.ids)
        # A blank text says as little as a missing one.
        self.texts = [text if text and text.strip() else None for text in dataset["text"]]
        batches = self.dataset.select_columns("image").with_format("arrow").iter(256)
        self.pictures = [_digest(picture) for batch in batches for picture in batch.column("image").to_pylist()]
        self.groups = None
        if "group_id" in dataset.column_names:
            self.groups = [group or own for group, own in zip(dataset["group_id"], self.ids, strict=True)]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, view: str) -> list[int]:
        """The rows that have all that a view ("t", "i" or "mm") shows."""
        has_text, has_picture = (
            np.array([value is not None for value in column], bool) for column in (self.texts, self.pictures)
        )
        return np.flatnonzero({"t": has_text, "i": has_picture, "mm": has_text & has_picture}[view]).tolist()

    def product(self, row: int, view: str) -> dict:
        """The product dict of a row in a view; its picture is the `{"bytes", "path"}` that the processor reads."""
        text = None if view == "i" else self.texts[row]
        return {"text": text, "image": None if view == "t" else self.dataset[row]["image"]}


class ProductView(Sequence):
    """Chosen rows in one view, as a sequence of products that encoders take.

    Attributes:
        text_lengths: the length of each item's text, known without reading pictures.
        contents: what each item shows, the picture by its digest: items of equal contents have equal vectors.
    """

    def __init__(self, products: Products, view: str, rows: list[int]):
        self.products, self.view, self.rows = products, view, rows
        self.contents = [
            (None if view == "i" else products.texts[row], None if view == "t" else products.pictures[row])
            for row in rows
        ]
        self.text_lengths = [len(text or "") for text, _ in self.contents]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.products.product(self.rows[index], self.view)

    def take(self, indices: Sequence[int]) -> "ProductView":
        return ProductView(self.products, self.view, [self.rows[index] for index in indices])

    def describe(self, index: int) -> str:
        """What an error calls the item."""
        row = self.rows[index]
        return f"{self.products.name} row {row} (id {self.products.ids[row]!r})"


@dataclass(frozen=True)
class Benchmark:
    """A checked benchmark.

    Attributes:
        relevant: for each query row, {corpus row: grade} for what qrels give a score above zero.
        categories: for each corpus row, its category path (general to specific), maybe empty.
        attributes: for each corpus row, its {attribute name: values in their order}.
        fingerprint: SHA-256 over ids, texts, pictures, labels, groups and judgements, and over the distractors.
        distractors: further candidates, none of which is relevant; see `evaluation.tables.gallery`.
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
        """The tables that the candidates come from; candidate rows are counted through them."""
        return [self.corpus] if self.distractors is None else [self.corpus, self.distractors]


def load_benchmark(path: str, revision: str | None = None) -> Benchmark:
    """Loads the configurations `corpus`, `queries` and `qrels` (split `test`).

    Args:
        path: folder or Hub id of a data set.
        revision: branch, tag or commit on the Hub.

    Raises:
        EvaluationError: a configuration or column is missing or of another type, a table is empty, an id is null or
            occurs twice, a query lacks what its modality promises, part of a category or attribute is null, qrels name
            an unknown id, or a score is no whole number. The message names the column, row or id.
    """
    tables = {config: _load(path, config, revision) for config in COLUMNS}
    corpus, queries = Products("corpus", tables["corpus"]), Products("queries", tables["queries"])
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
    """The corpus alone; see `load_benchmark`."""
    return Products("corpus", _load(path, "corpus", revision))


def products_content(products: Products) -> list:
    """All that tells products apart, for fingerprints."""
    return [products.ids, products.texts, products.pictures, products.groups]


def _load(path: str, config: str, revision: str | None) -> Dataset:
    tables = load_tables(path, config, revision)
    if "test" not in tables:
        raise EvaluationError(f"Configuration {config!r} of {path} has no split 'test'; it has: {', '.join(tables)}.")
    dataset = tables["test"]
    for column in COLUMNS[config]:
        if column not in dataset.column_names:
            found = ", ".join(dataset.column_names)
            raise EvaluationError(f"Configuration {config!r} of {path} has no column {column!r}; it has: {found}.")
    for column, wanted in (COLUMNS[config] | OPTIONAL).items():
        found = dataset.features.get(column)
        if found is not None and not _fits(found, wanted):
            raise EvaluationError(
                f"Configuration {config!r} of {path} has {found} in the column {column!r}, which must be {wanted}."
            )
    return dataset


def _fits(found: Any, wanted: Any) -> bool:
    """Whether values of a feature can be read as those of another one; nulls can."""
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
    """The commit of a data set on the Hub, after which datasets names the folder of its copy; `None` for a folder."""
    folders = [Path(file["filename"]).parent.name for file in dataset.cache_files]
    return next((name for name in folders if COMMIT.fullmatch(name)), None)


def _digest(picture: dict | None) -> str | None:
    if picture is None or (picture["bytes"] is None and picture["path"] is None):
        return None
    content = f"path {picture['path']}".encode() if picture["bytes"] is None else picture["bytes"]
    return hashlib.sha256(content).hexdigest()


def _check_ids(name: str, ids: list) -> None:
    seen = {}
    for row, identifier in enumerate(ids):
        if identifier is None:
            raise EvaluationError(f"Row {row} of {name} has no id.")
        if identifier in seen:
            raise EvaluationError(f"Rows {seen[identifier]} and {row} of {name} have the same id {identifier!r}.")
        seen[identifier] = row


def _check_modalities(queries: Products, modalities: list[str]) -> None:
    for row, modality in enumerate(modalities):
        query = f"Query {queries.ids[row]!r} (row {row})"
        if modality not in QUERY_VIEWS:
            raise EvaluationError(f"{query} has the modality {modality!r}; known are {', '.join(QUERY_VIEWS)}.")
        if modality != "image" and queries.texts[row] is None:
            raise EvaluationError(f"{query} has the modality {modality!r} but no text.")
        if modality != "text" and queries.pictures[row] is None:
            raise EvaluationError(f"{query} has the modality {modality!r} but no image.")


def _check_labels(corpus: Dataset) -> None:
    for row, (identifier, category, attributes) in enumerate(
        zip(corpus["id"], corpus["category"], corpus["attributes"], strict=True)
    ):
        product = f"Product {identifier!r} (row {row} of corpus)"
        if None in (category or ()):
            raise EvaluationError(f"{product} has the category {category}: a level of it is null.")
        for attribute in attributes or ():
            if attribute is None or attribute["name"] is None or attribute["value"] is None:
                raise EvaluationError(f"{product} has the attribute {attribute}: its name or value is null.")


def _grouped(attributes: list[dict]) -> dict[str, list[str]]:
    """[{name, value}] -> {name: values}, as a name may occur more than once."""
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
            raise EvaluationError(f"Row {row} of qrels refers to the query {query!r}, which is not among the queries.")
        if product not in corpus_rows:
            raise EvaluationError(f"Row {row} of qrels refers to the product {product!r}, which is not in the corpus.")
        if score is None or score % 1:
            raise EvaluationError(
                f"Row {row} of qrels has the score {score}; a score is a whole number, 0 for no match."
            )
        if score > 0:
            grades = relevant[query_rows[query]]
            grades[corpus_rows[product]] = max(int(score), grades.get(corpus_rows[product], 0))
    return relevant
