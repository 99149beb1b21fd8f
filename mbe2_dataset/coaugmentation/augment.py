"""Co-augmentation of training products (MOON2.0, section 5): what is made of each, and what of it is published."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.consistency import ConsistencyScorer
from mbe2_dataset.coaugmentation.pictures import ImageEditor, SubjectExtractor, expand
from mbe2_dataset.coaugmentation.titles import Enrichment, Gazetteer, TitleWriter, enrich, extract_entities
from mbe2_dataset.journal import Result, open_journal
from mbe2_dataset.schema import identity_of, provenance

TITLE, VIEWS, SCORES = "enriched title", "views", "consistency"


class EnrichTitles:
    """T+ = MLLM(T, I, E): one enriched title for each product.

    Args:
        place: "threads" for a service. What it wrote stays then, and so does the verdict on it, however the gazetteer
            changes afterwards, since it was paid for.
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


class ExpandPictures:
    """I_m, then I_1 .. I_n: the subject of the first picture, and changed views of it."""

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
        return {"makers": makers, "count": self.count, "seed": self.seed}

    def inputs(self, row: Row) -> list:
        return [row.id, row.title if self.editor else None, row.images[0].sha256]

    def __call__(self, rows: Sequence[Row]) -> list[Result]:
        results = []
        makers = {maker.model: identity_of(maker) for maker in (self.extractor, self.editor) if maker is not None}
        for row in rows:
            expansion = expand(row, self.extractor, self.editor, self.count, self.seed)
            facts = [
                {
                    "operation": view.operation,
                    "parameters": json.loads(view.parameters),
                    "model": makers[view.model]["model"],
                    "revision": makers[view.model]["revision"],
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


class Scores(NamedTuple):
    """Cosine similarities of a product's pictures and titles; None where one was not made."""

    original: float
    title: float | None
    views: list[float | None]


class ScoreConsistency:
    """How well the enriched title fits the photo, each changed view the title, and the photo its title."""

    name = SCORES
    place = "here"
    batch = 16
    threads = 1

    def __init__(self, scorer: ConsistencyScorer, made: "Made"):
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


class Augmented(NamedTuple):
    """The co-augmented fields of a product as they are published. `title` is None if there is none to publish."""

    title: str | None
    images: list[Picture]
    provenance: list[dict]


@dataclass(frozen=True)
class Made:
    """Reads from the journal what was made of each product, and applies the consistency threshold.

    Args:
        journal: its file.
        keys: name of the operation -> id of the product -> key of its result.
        cuts: name of the field ("title" or "views") -> the least score that is kept; without scores, none.
        scorer: name of the model that scored.
    """

    journal: Path
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cuts: Mapping[str, float] = field(default_factory=dict)
    scorer: str = ""

    def only(self, rows: Sequence[Row]) -> "Made":
        """The same for these products only: small enough to be sent to another process."""
        keys = {name: {row.id: of[row.id] for row in rows if row.id in of} for name, of in self.keys.items()}
        return Made(self.journal, keys, self.cuts, self.scorer)

    def _result(self, name: str, row: Row) -> Result | None:
        key = self.keys.get(name, {}).get(row.id)
        return None if key is None else open_journal(self.journal).result(key)

    def _facts(self, name: str, row: Row) -> dict | None:
        key = self.keys.get(name, {}).get(row.id)
        return None if key is None else open_journal(self.journal).facts(key)

    def title(self, row: Row) -> Enrichment | None:
        facts = self._facts(TITLE, row)
        return None if facts is None else Enrichment.from_dict(facts)

    def view_facts(self, row: Row) -> list[dict]:
        return (self._facts(VIEWS, row) or {"views": []})["views"]

    def views(self, row: Row) -> dict[int, Picture]:
        """The pictures that were made, by their place among the views."""
        result = self._result(VIEWS, row)
        if result is None:
            return {}
        made = [(place, view) for place, view in enumerate(result.facts["views"]) if view["sha256"]]
        return {
            place: Picture(content, view["path"]) for (place, view), content in zip(made, result.blobs, strict=True)
        }

    def scores(self, row: Row) -> Scores | None:
        facts = self._facts(SCORES, row)
        return None if facts is None else Scores(**facts)

    def __call__(self, row: Row) -> Augmented:
        """What is published of a product, and how it came about."""
        scores = self.scores(row)
        title, records = None, []
        enrichment = self.title(row)
        if enrichment is not None:
            score = scores.title if scores else None
            kept, reason = self._verdict("title", enrichment.kept, enrichment.reason, score)
            title = enrichment.title if kept else None
            facts = {"added": list(enrichment.added)}
            if not kept and enrichment.draft:
                facts["draft"] = enrichment.draft
            records.append(
                provenance(
                    "enriched_title", row.id, "enrich_title", facts, model=enrichment.model,
                    revision=enrichment.revision, prompt_version=enrichment.prompt_version, consistency_score=score,
                    kept=kept, reason=reason,
                )
            )  # fmt: skip
        images = []
        pictures = self.views(row)
        for place, view in enumerate(self.view_facts(row)):
            score = scores.views[place] if scores else None
            kept, reason = self._verdict("views", view["kept"], view["reason"], score)
            name = f"augmented_images[{len(images)}]" if kept else "augmented_images"
            records.append(
                provenance(
                    name, row.id, view["operation"], view["parameters"], seed=view["seed"], model=view["model"],
                    revision=view["revision"], prompt_version=view["prompt_version"], consistency_score=score,
                    kept=kept, reason=reason,
                )
            )  # fmt: skip
            if kept:
                images.append(pictures[place])
        return Augmented(title, images, records)

    def _verdict(self, name: str, kept: bool, reason: str, score: float | None) -> tuple[bool, str]:
        if kept and score is not None and name in self.cuts and not score >= self.cuts[name]:
            return False, f"consistency {score:.4f} is below {self.cuts[name]:.4f} ({self.scorer})"
        return kept, reason
