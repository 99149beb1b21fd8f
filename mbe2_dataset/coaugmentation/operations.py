"""Work that is done once for each product (MOON2.0, section 5), and its results in the journal."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Literal

import pyarrow as pa
from tqdm import tqdm

from mbe2_dataset.catalogue.pictures import decode
from mbe2_dataset.catalogue.store import BLOCK, Row
from mbe2_dataset.coaugmentation.consistency import ConsistencyScorer, Embedder, apply_threshold, histogram
from mbe2_dataset.coaugmentation.makers import Makers
from mbe2_dataset.coaugmentation.pictures.editors import ImageEditor
from mbe2_dataset.coaugmentation.pictures.expand import DRAWING, expand
from mbe2_dataset.coaugmentation.pictures.subject import SubjectExtractor
from mbe2_dataset.coaugmentation.titles.enrich import TitleWriter, enrich
from mbe2_dataset.coaugmentation.titles.entities import Gazetteer, extract_entities, learn_gazetteer
from mbe2_dataset.journal import SCORES, TITLE, VIEWS, Journal, Keys, KeysById, Made, Result, key_for
from mbe2_dataset.parallel import Engine, Stopwatch, in_threads
from mbe2_dataset.schema import identity_of


class Operation(ABC):
    """What is made of a product: an enriched title, changed views, a score, a vector.

    Attributes:
        name: of the operation, for the journal and the progress bar.
        place: where it runs: in "processes" or on Ray (work for a processor), in "threads" (calls to a server that is
            waited for), or "here" (a model that uses all cores itself).
        batch: how many products it takes at a time.
        threads: with place "threads": how many calls at a time.
    """

    name: str
    place: Literal["processes", "threads", "here"] = "here"
    batch: int = 1
    threads: int = 1

    @abstractmethod
    def identity(self) -> dict:
        """Return all that results depend on besides the product: parameters, seed, model, revision, prompt version."""

    @abstractmethod
    def inputs(self, row: Row) -> list:
        """Return what of the product results depend on, in a form that JSON can hold."""

    @abstractmethod
    def __call__(self, rows: Sequence[Row]) -> list[Result]:
        """Make one result for each row. What goes wrong with one product is a fact of its result and no exception."""


def carry_out(operation: Operation, rows: Sequence[Row], journal: Journal, engine: Engine) -> Keys:
    """See to it that the journal has a result for each row; what it has already is not made again.

    Rows are read as they are needed. Several with one key are worked on once.

    Returns:
        The key of each row's result.
    """
    identity, keys = operation.identity(), Keys()
    waiting: set[str] = set()  # keys that were given out, and have no final result yet

    def pending(bar: tqdm) -> Iterator[tuple[str, Row]]:
        remaining = iter(rows)
        while block := list(islice(remaining, BLOCK)):
            asked = {"operation": operation.name, "identity": identity}
            found = [key_for(**asked, inputs=operation.inputs(row)) for row in block]
            keys.extend(found)
            known = journal.known(found) | waiting
            fresh = {key: row for key, row in zip(found, block, strict=True) if key not in known}
            waiting.update(fresh)
            bar.update(len(block) - len(fresh))
            yield from fresh.items()

    with tqdm(total=len(rows), desc=operation.name, unit="product") as bar:
        products = pending(bar)
        batches = iter(lambda: list(islice(products, operation.batch)), [])
        for results in _run(operation, batches, -(-len(rows) // operation.batch), engine):
            journal.add(operation.name, results)
            waiting.difference_update(key for key, result in results if result.final)
            bar.update(len(results))
    return keys


def _run(operation: Operation, batches: Iterator, count: int, engine: Engine) -> Iterator[list[tuple[str, Result]]]:
    function = partial(_results, operation)
    if operation.place == "threads":
        return in_threads(function, batches, operation.threads)
    if operation.place == "here":
        return map(function, batches)
    return engine.map(function, batches, count)


def _results(operation: Operation, batch: list[tuple[str, Row]]) -> list[tuple[str, Result]]:
    keys, rows = zip(*batch, strict=True)
    return list(zip(keys, operation(rows), strict=True))


class EnrichTitles(Operation):
    """T+ = MLLM(T, I, E): one enriched title for each product.

    Args:
        place: "threads" for a service. Its titles and the verdicts on them then stay, however the gazetteer changes
            afterwards, because they were paid for.
    """

    name = TITLE

    def __init__(self, writer: TitleWriter, gazetteer: Gazetteer, place: str = "processes"):
        self.writer, self.gazetteer, self.place = writer, gazetteer, place
        self.threads = writer.concurrency
        self.batch = 32 if place == "processes" else 1

    def identity(self) -> dict:
        identity = identity_of(self.writer)
        return identity if self.place == "threads" else identity | {"gazetteer": self.gazetteer.digest}

    def inputs(self, row: Row) -> list:
        entities = [(entity.type, entity.value) for entity in extract_entities(row, self.gazetteer)]
        return [row.title, row.description, row.brand, row.category, row.attributes, row.images[0].sha256, entities]

    def __call__(self, rows: Sequence[Row]) -> list[Result]:
        made = [enrich(row, self.gazetteer, self.writer) for row in rows]
        writer = identity_of(self.writer)
        return [Result(enrichment.to_dict() | writer, final=not enrichment.retry) for enrichment in made]


class ExpandPictures(Operation):
    """I_m, then I_1 .. I_n: the subject of the first image, and changed views of it."""

    name = VIEWS

    def __init__(
        self,
        extractor: SubjectExtractor | None,
        editor: ImageEditor | None,
        count: int,
        seed: int,
        place: str,
        threads: int = 1,
    ):
        self.extractor, self.editor, self.count, self.seed = extractor, editor, count, seed
        self.place, self.threads = place, threads
        self.batch = 8 if place == "processes" else 1

    def identity(self) -> dict:
        makers = [identity_of(self.extractor), identity_of(self.editor)]
        identity = {"makers": makers, "count": self.count, "seed": self.seed}
        return identity if self.editor else identity | {"drawing": DRAWING}

    def inputs(self, row: Row) -> list:
        return [row.id, row.title if self.editor else None, row.images[0].sha256]

    def __call__(self, rows: Sequence[Row]) -> list[Result]:
        results = []
        maker = identity_of(self.editor or self.extractor)
        for row in rows:
            expansion = expand(row, self.extractor, self.editor, self.count, self.seed)
            facts = [
                {
                    "operation": view.operation,
                    "parameters": dict(sorted(view.parameters.items())),
                    "model": maker["model"],
                    "revision": maker["revision"],
                    "prompt_version": view.prompt_version,
                    "seed": view.seed,
                    "kept": view.kept,
                    "reason": view.reason,
                    "path": view.picture.path if view.picture else None,
                    "sha256": view.picture.sha256 if view.picture else None,
                }
                for view in expansion.views
            ]
            subject = {"coverage": expansion.coverage, "score": expansion.score, "reason": expansion.reason}
            blobs = tuple(view.picture.bytes for view in expansion.views if view.picture)
            results.append(Result({"views": facts, "subject": subject}, blobs))
        return results


class ScoreConsistency(Operation):
    """Scores the enriched title against the photo, and every changed view and the photo against the title."""

    name = SCORES
    batch = 16

    def __init__(self, scorer: ConsistencyScorer, made: Made):
        self.scorer, self.made = scorer, made

    def identity(self) -> dict:
        return identity_of(self.scorer)

    def inputs(self, row: Row) -> list:
        title, views = self.made.title(row), self.made.view_facts(row)
        return [row.title, row.images[0].sha256, title and title.title, [view["sha256"] for view in views]]

    def __call__(self, rows: Sequence[Row]) -> list[Result]:
        pairs, places = [], []
        for number, row in enumerate(rows):
            photo = decode(row.images[0])
            pairs.append((row.title, photo))
            places.append((number, "original", 0))
            title = self.made.title(row)
            if title is not None and title.kept:
                pairs.append((title.title, photo))
                places.append((number, "title", 0))
            for place, picture in self.made.views(row).items():
                pairs.append((row.title, decode(picture)))
                places.append((number, "views", place))
        facts = [{"original": None, "title": None, "views": [None] * len(self.made.view_facts(row))} for row in rows]
        for (number, name, place), score in zip(places, self.scorer.score(pairs), strict=True):
            if name == "views":
                facts[number]["views"][place] = score
            else:
                facts[number][name] = score
        return [Result(one) for one in facts]


class EmbedProducts(Operation):
    """One vector for each product, from title and first image."""

    name = "embed products"
    batch = 32

    def __init__(self, embedder: Embedder):
        self.embedder = embedder

    def identity(self) -> dict:
        return identity_of(self.embedder)

    def inputs(self, row: Row) -> list:
        return [row.title, row.images[0].sha256]

    def __call__(self, rows: Sequence[Row]) -> list[Result]:
        return [Result({}, (vector.tobytes(),)) for vector in self.embedder.embed(rows)]


def coaugment(
    products: Sequence[Row],
    ids: pa.StringArray,
    train: Sequence[Row],
    makers: Makers,
    seed: int,
    journal: Journal,
    engine: Engine,
    watch: Stopwatch,
) -> tuple[Made, dict]:
    """Carry out the co-augmentation of `products`, whose ids are `ids`; the gazetteer is learnt from `train`.

    Returns:
        What reads the results, and facts about them for the report.
    """
    keys: dict[str, KeysById] = {}
    facts: dict = {"unfinished": 0}

    def carried_out(operation: Operation) -> Keys:
        found = carry_out(operation, products, journal, engine)
        keys[operation.name] = KeysById((name.as_py() for name in ids), found)
        return found

    def unfinished(found: Keys) -> int:
        """Count products whose result is not final; those that are alike share a key."""
        blocks = (found[start : start + BLOCK] for start in range(0, len(found), BLOCK))
        return sum(len(block) - sum(map(journal.known(block).__contains__, block)) for block in blocks)

    if makers.writer is not None:
        with watch("titles"):
            operation = EnrichTitles(makers.writer, learn_gazetteer(train), makers.writer_place)
            facts["unfinished"] += unfinished(carried_out(operation))
    if makers.views:
        how = (makers.picture_place, makers.picture_threads)
        operation = ExpandPictures(makers.extractor, makers.editor, makers.views, seed, *how)
        with watch("pictures"):
            facts["unfinished"] += unfinished(carried_out(operation))
    made = Made(journal.path, keys)
    if makers.scorer is not None:
        with watch("scores"):
            operation = ScoreConsistency(makers.scorer, made)
            carried_out(operation)
        scores = [made.scores(row) for row in products]
        found = {
            "title": [score.title for score in scores if score.title is not None],
            "views": [view for score in scores for view in score.views if view is not None],
        }
        cuts, shown = {}, {"original": histogram([score.original for score in scores], [True] * len(scores))}
        for name, values in found.items():
            kept = [True] * len(values)
            if makers.threshold is not None and values:
                kept, cuts[name] = apply_threshold(values, makers.threshold)
            shown[name] = histogram(values, kept)
        scorer = identity_of(makers.scorer)
        made = Made(journal.path, keys, cuts, scorer["model"])
        threshold = makers.threshold and str(makers.threshold)
        facts["consistency"] = {**scorer, "threshold": threshold, "cuts": cuts, "histograms": shown}
    return made, facts
