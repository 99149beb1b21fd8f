"""Reads and checks the retrieval benchmark of an MBE2.0-format data set: corpus, queries and qrels."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Image, load_dataset
from datasets.exceptions import DatasetsError

from evaluation.errors import EvaluationError
from evaluation.source import local_folder

COLUMNS = {
    "corpus": ("id", "text", "image", "category", "attributes"),
    "queries": ("id", "text", "image", "modality"),
    "qrels": ("query-id", "corpus-id", "score"),
}
# The view in which a query of each modality is embedded.
QUERY_VIEWS = {"text": "t", "image": "i", "mixed": "mm"}


class Products:
    """The rows of one configuration as products. Pictures stay encoded until they are asked for."""

    def __init__(self, name: str, dataset: Dataset):
        self.name = name
        self.dataset = dataset.cast_column("image", Image(decode=False))
        self.ids = list(dataset["id"])
        _check_ids(name, self.ids)
        # A blank text says as little as a missing one.
        self.texts = [text if text and text.strip() else None for text in dataset["text"]]
        pictures = self.dataset.data.column("image")
        parts = [pc.struct_field(pictures, part) for part in ("bytes", "path")]
        self.has_picture = pc.or_(*map(pc.is_valid, parts)).to_numpy()
        self.picture_sizes = pc.fill_null(pc.binary_length(parts[0]), 0).to_pylist()

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, view: str) -> list[int]:
        """The rows that have all that a view ("t", "i" or "mm") shows."""
        has_text = np.array([text is not None for text in self.texts])
        shown = {"t": has_text, "i": self.has_picture, "mm": has_text & self.has_picture}[view]
        return np.flatnonzero(shown).tolist()

    def product(self, row: int, view: str) -> dict:
        """The product dict of a row in a view; its picture is the `{"bytes", "path"}` that the processor reads."""
        text = None if view == "i" else self.texts[row]
        return {"text": text, "image": None if view == "t" else self.dataset[row]["image"]}


class ProductView(Sequence):
    """Chosen rows in one view, as the sequence of products that `evaluation.embed.embed` takes."""

    def __init__(self, products: Products, view: str, rows: list[int]):
        self.products, self.view, self.rows = products, view, rows
        self.text_lengths = [0 if view == "i" else len(products.texts[row]) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.products.product(self.rows[index], self.view)

    def describe(self, index: int) -> str:
        """What an error calls the item."""
        row = self.rows[index]
        return f"{self.products.name} row {row} (id {self.products.ids[row]!r})"


@dataclass(frozen=True)
class Benchmark:
    """A checked benchmark.

    Attributes:
        relevant: for each query row, the corpus rows that qrels give a score above zero.
        categories: for each corpus row, its category path (general to specific), maybe empty.
        attributes: for each corpus row, its {attribute name: values in their order}.
        fingerprint: SHA-256 over ids, texts, picture sizes, labels and judgements.
    """

    corpus: Products
    queries: Products
    modalities: list[str]
    relevant: list[set[int]]
    categories: list[list[str]]
    attributes: list[dict[str, list[str]]]
    fingerprint: str


def load_benchmark(path: str, revision: str | None = None) -> Benchmark:
    """Loads the configurations `corpus`, `queries` and `qrels` (split `test`).

    Args:
        path: folder or Hub id of a data set.
        revision: branch, tag or commit on the Hub.

    Raises:
        EvaluationError: a configuration or column is missing, a table is empty, an id is null or occurs twice, a query
            lacks what its modality promises, or qrels name an unknown id. The message names the row or id.
    """
    # datasets does not notice that a local Parquet file has changed and would serve the old rows from its cache.
    mode = None if local_folder("dataset", path, revision) is None else "force_redownload"
    tables = {config: _load(path, config, revision, mode) for config in COLUMNS}
    corpus, queries = Products("corpus", tables["corpus"]), Products("queries", tables["queries"])
    modalities = list(tables["queries"]["modality"])
    _check_modalities(queries, modalities)
    categories = [list(category or []) for category in tables["corpus"]["category"]]
    attributes = [_grouped(row or []) for row in tables["corpus"]["attributes"]]
    judgements = list(zip(*(tables["qrels"][column] for column in COLUMNS["qrels"]), strict=True))
    content = [[table.ids, table.texts, table.picture_sizes] for table in (corpus, queries)]
    content += [modalities, categories, attributes, judgements]
    return Benchmark(
        corpus=corpus,
        queries=queries,
        modalities=modalities,
        relevant=_relevant(queries.ids, corpus.ids, judgements),
        categories=categories,
        attributes=attributes,
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
    )


def _load(path: str, config: str, revision: str | None, mode: str | None) -> Dataset:
    try:
        dataset = load_dataset(path, config, split="test", revision=revision, download_mode=mode)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if "corresponds to no data" in reason:  # how datasets refuses a split without rows
            reason = "it is empty, so there is nothing to score."
        what = f"Split 'test' of configuration {config!r} of {path}"
        raise EvaluationError(f"{what} cannot be loaded: {reason}") from error
    for column in COLUMNS[config]:
        if column not in dataset.column_names:
            found = ", ".join(dataset.column_names)
            raise EvaluationError(f"Configuration {config!r} of {path} has no column {column!r}; it has: {found}.")
    return dataset


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
        if modality != "text" and not queries.has_picture[row]:
            raise EvaluationError(f"{query} has the modality {modality!r} but no image.")


def _grouped(attributes: list[dict]) -> dict[str, list[str]]:
    """[{name, value}] -> {name: values}, as a name may occur more than once."""
    values: dict[str, list[str]] = {}
    for attribute in attributes:
        known = values.setdefault(attribute["name"], [])
        if attribute["value"] not in known:
            known.append(attribute["value"])
    return values


def _relevant(query_ids: list, corpus_ids: list, judgements: list[tuple]) -> list[set[int]]:
    query_rows = {identifier: row for row, identifier in enumerate(query_ids)}
    corpus_rows = {identifier: row for row, identifier in enumerate(corpus_ids)}
    relevant: list[set[int]] = [set() for _ in query_ids]
    for row, (query, product, score) in enumerate(judgements):
        if query not in query_rows:
            raise EvaluationError(f"Row {row} of qrels refers to the query {query!r}, which is not among the queries.")
        if product not in corpus_rows:
            raise EvaluationError(f"Row {row} of qrels refers to the product {product!r}, which is not in the corpus.")
        if score > 0:
            relevant[query_rows[query]].add(corpus_rows[product])
    return relevant
