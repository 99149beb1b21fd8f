"""One evaluation: embed every view once, then retrieval, classification and attribute prediction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from evaluation.measure.classification import ProductHits, evaluate_attributes, evaluate_classification, linear_probe
from evaluation.measure.retrieval import Embedded, QueryValues, evaluate_retrieval
from evaluation.models.bm25 import evaluate_lexical
from evaluation.models.encoders import Encoder
from evaluation.tables.benchmark import QUERY_VIEWS, Benchmark, Products, ProductView
from evaluation.vectors.cache import VectorCache
from evaluation.vectors.compression import evaluate_compression

TITLE_NOTE = "it reads titles only: a product's mm view is its title"


@dataclass(frozen=True)
class Options:
    """What an evaluation does.

    Attributes:
        batch_size, workers: see `Encoder.encode`.
        by_group: listings of one group count as one product in retrieval.
        seed: of the bootstrap.
        dims, precisions: the vectors to compare by `evaluate_compression`; none by default.
        train: products and their category paths for a linear probe; `None` for none.
    """

    batch_size: int = 64
    workers: int = 0
    by_group: bool = False
    seed: int = 0
    dims: list[int] = field(default_factory=list)
    precisions: list[str] = field(default_factory=list)
    train: tuple[Products, list[list[str]]] | None = None


@dataclass(frozen=True)
class Evaluation:
    """All figures, as shares in 0..1, and what each query and product scored, for paired tests.

    Attributes:
        results: `retrieval`, `classification`, `attributes`, and if asked for `compression` and `probe`, as the
            functions of these names give them; `None` for what the model cannot do.
        queries: of each direction that has figures.
        products: of "class" and "attribute", where they have figures.
        note: how the vectors were made, where that is not as one expects.
    """

    results: dict
    queries: dict[str, QueryValues]
    products: dict[str, ProductHits]
    note: str = ""


def evaluate(encoder: Encoder, benchmark: Benchmark, cache: VectorCache, options: Options) -> Evaluation:
    """Scores an encoder zero-shot on a benchmark (MOON2.0, section 6).

    What an encoder cannot embed is not scored. One that reads texts only sees of a product its title.

    Raises:
        EvaluationError: a product cannot be prepared (an unreadable picture, say), or its vector is not finite.
    """
    titles_only = encoder.views == {"t"}
    embed = _embedding(encoder, cache, options)
    queries, corpus = embed_benchmark(encoder, benchmark, cache, options)

    retrieval, per_query = evaluate_retrieval(benchmark, queries, corpus, options.by_group, options.seed)
    results = {"retrieval": retrieval, "classification": None, "attributes": None}
    products = {}
    if "t" in encoder.views and "mm" in corpus:
        # The distractors stand behind the corpus, and have no labels. By id, so that the bootstrap draws the same
        # products wherever they stand.
        own = [place for place, row in enumerate(corpus["mm"].rows) if row < len(benchmark.corpus)]
        own.sort(key=lambda place: benchmark.corpus.ids[corpus["mm"].rows[place]])
        labelled = Embedded([corpus["mm"].rows[place] for place in own], corpus["mm"].vectors[own])

        def embed_texts(texts: list[str]) -> torch.Tensor:
            return embed(LabelTexts(texts), "t", "query", "labels")

        for name, task, score in (
            ("classification", "class", evaluate_classification),
            ("attributes", "attribute", evaluate_attributes),
        ):
            results[name], hits = score(benchmark, labelled, embed_texts, options.seed)
            if hits is not None:
                products[task] = hits
        if options.train is not None:
            train, paths = options.train
            rows = train.rows("mm")
            shown = "t" if titles_only else "mm"
            vectors = embed(ProductView(train, shown, rows), shown, "document", "train products")
            test_paths = [benchmark.categories[row] for row in labelled.rows]
            known = [paths[row] for row in rows]
            results["probe"] = linear_probe(vectors, known, labelled.vectors, test_paths, options.seed)
    if options.dims or options.precisions:
        dims, precisions = options.dims or [encoder.dimension], options.precisions or ["float32"]
        results["compression"] = evaluate_compression(
            benchmark, queries, corpus, dims, precisions, options.by_group, options.seed
        )
    return Evaluation(results, per_query, products, TITLE_NOTE if titles_only else encoder.note)


def embed_benchmark(
    encoder: Encoder, benchmark: Benchmark, cache: VectorCache, options: Options
) -> tuple[dict[str, Embedded], dict[str, Embedded]]:
    """The vectors of all queries by modality, and of all candidates by view, of what the encoder can embed.

    Raises:
        EvaluationError: as `evaluate`.
    """
    titles_only = encoder.views == {"t"}
    embed = _embedding(encoder, cache, options)

    def embed_candidates(view: str) -> Embedded:
        shown = "t" if titles_only else view
        rows, vectors, start = [], [], 0
        for products in benchmark.candidates:
            chosen = products.rows(view)
            rows += [start + row for row in chosen]
            vectors.append(embed(ProductView(products, shown, chosen), shown, "document", f"{products.name} ({view})"))
            start += len(products)
        return Embedded(rows, torch.cat([part for part in vectors if len(part)] or vectors[:1]))

    queries, corpus = {}, {}
    for modality, view in QUERY_VIEWS.items():
        if view in encoder.views:
            rows = [row for row, found in enumerate(benchmark.modalities) if found == modality]
            items = ProductView(benchmark.queries, view, rows)
            queries[modality] = Embedded(rows, embed(items, view, "query", f"queries ({modality})"))
    for view in ("t", "i", "mm"):
        if view in encoder.views or (titles_only and view == "mm"):
            corpus[view] = embed_candidates(view)
    return queries, corpus


def _embedding(encoder: Encoder, cache: VectorCache, options: Options) -> Callable[..., torch.Tensor]:
    """(items, view, role, what the progress bar says) -> (N, D)."""

    def embed(items, view: str, role: str, what: str) -> torch.Tensor:
        description = f"embed {what}"
        return cache.embed(encoder, items, view, role, options.batch_size, options.workers, description)

    return embed


def evaluate_words(benchmark: Benchmark, options: Options) -> Evaluation:
    """What matching words alone gives, in the directions where that means something."""
    retrieval, per_query = evaluate_lexical(benchmark, options.by_group, options.seed)
    return Evaluation({"retrieval": retrieval, "classification": None, "attributes": None}, per_query, {}, TITLE_NOTE)


class LabelTexts(Sequence):
    """Label texts as a sequence of products that encoders take."""

    def __init__(self, texts: list[str]):
        self.contents = texts
        self.text_lengths = [len(text) for text in texts]

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, index: int) -> dict:
        return {"text": self.contents[index], "image": None}

    def take(self, indices: Sequence[int]) -> "LabelTexts":
        return LabelTexts([self.contents[index] for index in indices])

    def describe(self, index: int) -> str:
        return f"label {self.contents[index]!r}"
