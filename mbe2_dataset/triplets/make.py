"""Training triplets and the retrieval benchmark, first planned, then as records (MOON2.0, sections 1 and 6).

A triplet is query, positive and hard negative; how they are found is our choice. Test data are never augmented.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mbe2_dataset.catalogue.search_log import LoggedQuery
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.journal import Augmented
from mbe2_dataset.parallel import rng_for
from mbe2_dataset.schema import provenance
from mbe2_dataset.triplets.negatives import CategoryNegatives, Negative
from mbe2_dataset.triplets.queries import MODALITIES, draw_modality, logged_query, make_query, modality_of

# How often the query of a row is made from another row of its group, if there is one.
OTHER_LISTING_SHARE = 0.5


class Negatives(Protocol):
    """Finds negatives: `negatives.CategoryNegatives` or `MinedNegatives`."""

    def __call__(self, row: Row, excluded: set[str], rng: np.random.Generator) -> Negative: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows make a triplet, before any image is made.

    Attributes:
        key: names the triplet: the id of the row that it was planned for, or of the logged query and its positive.
        source: the row from which the query is made; other: another row of its group, or None.
        logged: the shopper's own query, instead of one that is made.
    """

    key: str
    source: Row
    other: Row | None
    positive: Row
    negative: Negative
    modality: str
    false_positive: bool = False
    logged: LoggedQuery | None = None

    def products(self) -> tuple[Row, Row]:
        """Return what is to be found, and what is not."""
        return self.positive, self.negative.row


def plan_triplets(
    rows: Sequence[Row],
    query_mix: tuple[float, float, float],
    false_positive_rate: float,
    seed: int,
    negatives: Negatives | None = None,
) -> list[Plan]:
    """Plan one triplet for each row of a split, in the order of the rows, with queries made from rows.

    Args:
        negatives: by default the nearest category's.

    Raises:
        CatalogueError: the split has one group only, so that nothing could be a negative.
    """
    by_category = CategoryNegatives(rows)
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        members[row.group_id].append(row)
    plans = []
    for row in rows:
        rng = rng_for(seed, "triplet", row.id)
        others = [member for member in members[row.group_id] if member.id != row.id]
        other = others[rng.integers(len(others))] if others else None
        source = other if other is not None and rng.random() < OTHER_LISTING_SHARE else row
        stranger = None
        if rng.random() < false_positive_rate:
            stranger = by_category.draw(row.category, {row.group_id}, rng)
        positive = stranger or row
        negative = (negatives or by_category)(row, {row.group_id, positive.group_id}, rng)
        modality = draw_modality(query_mix, seed, row.id)
        plans.append(Plan(row.id, source, other, positive, negative, modality, stranger is not None))
    return plans


def plan_logged_triplets(
    rows: Sequence[Row], queries: Iterable[LoggedQuery], seed: int, negatives: Negatives | None = None
) -> Iterator[Plan]:
    """Plan a triplet for each query of a search log and each of its positives among the rows of a split.

    The negative is one of those that the log has for the query (shown, with low relevance), else one that is found.
    Rows of the positives' groups are no negatives, whatever the log says of them.
    """
    by_id = {row.id: row for row in rows}
    find = negatives or CategoryNegatives(rows)
    for query in queries:
        positives = [by_id[name] for name, _ in query.positives if name in by_id]
        right = {row.group_id for row in positives}
        shown = [by_id[name] for name in query.negatives if name in by_id and by_id[name].group_id not in right]
        for positive in positives:
            rng = rng_for(seed, "logged triplet", query.id, positive.id)
            if shown:
                negative = Negative(shown[rng.integers(len(shown))], "shown_not_bought", {})
            else:
                negative = find(positive, right, rng)
            key = f"{query.id}-{positive.id}"
            yield Plan(key, positive, None, positive, negative, modality_of(query), logged=query)


def triplet_record(plan: Plan, augmented: Callable[[Row], Augmented], seed: int) -> dict[str, object]:
    """Return the published row (schema.TRIPLETS) of a plan; `augmented` gives the co-augmented fields of a product."""
    if plan.logged is None:
        query = make_query(plan.source, plan.other, {plan.positive.images[0].sha256}, plan.modality, plan.key, seed)
    else:
        query = logged_query(plan.logged)
    record: dict[str, object] = {
        "query_id": f"{plan.key}-query",
        "query_text": query.text,
        "query_image": query.image and query.image.as_record(),
        "query_modality": query.modality,
        "query_group_id": plan.source.group_id,
        "positive_category": list(plan.positive.category),
        "negative_kind": plan.negative.kind,
    }
    records = list(query.provenance)
    records.append(provenance("negative", plan.negative.row.id, plan.negative.kind, plan.negative.facts, seed=seed))
    for role, row in zip(("positive", "negative"), plan.products(), strict=True):
        made = augmented(row)
        records += [{**one, "field": f"{role}_{one['field']}"} for one in made.provenance]
        record |= {
            f"{role}_id": row.id,
            f"{role}_title": row.title,
            f"{role}_enriched_title": made.title,
            f"{role}_image": row.images[0].as_record(),
            f"{role}_augmented_images": [picture.as_record() for picture in made.images],
            f"{role}_group_id": row.group_id,
        }
    record["provenance"] = records
    record["noise"] = [
        *(["false_positive"] if plan.false_positive else []),
        *(f"query_source:{noise}" for noise in plan.source.noise if plan.logged is None),
        *(f"positive:{noise}" for noise in plan.positive.noise),
        *(f"negative:{noise}" for noise in plan.negative.row.noise),
    ]
    return record


@dataclass(frozen=True, slots=True)
class Question:
    """A query of the benchmark before any picture is made: one from the log, or one to be made from a row.

    Attributes:
        right: (corpus id, grade of relevance) of all rows that answer it.
        held_out: the row that is kept out of the corpus because its photo is the query, or None.
        taken: sha256 of those of their pictures that the corpus shows, which the query must not.
    """

    id: str
    modality: str
    right: tuple[tuple[str, int], ...]
    source: Row | None = None
    held_out: Row | None = None
    taken: frozenset[str] = frozenset()
    logged: LoggedQuery | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The rows of the corpus, and the queries."""

    corpus: list[Row]
    questions: list[Question]

    def qrels(self) -> Iterator[dict]:
        """Yield records of schema.QRELS."""
        for question in self.questions:
            for name, grade in question.right:
                yield {"query-id": question.id, "corpus-id": name, "score": grade}


def plan_benchmark(rows: Sequence[Row], seed: int, logged: Sequence[LoggedQuery] = (), made: bool = True) -> Benchmark:
    """Return the corpus of the test rows and its queries.

    Args:
        logged: queries of a log; those without a right row are skipped.
        made: make a text, an image and a mixed query for each group; all its rows are right. Where no row of a group
            has a second photo, one row is kept out of the corpus and its photo is the query.
    """
    ids = {row.id for row in rows}
    questions = []
    for query in logged:
        right = tuple((name, grade) for name, grade in query.positives if name in ids)
        if right:
            questions.append(Question(query.id, logged_query(query).modality, right, logged=query))
    if not made:
        return Benchmark(list(rows), questions)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group_id].append(row)
    shown = Counter(row.images[0].sha256 for row in rows)
    wanted = {name for question in questions for name, _ in question.right}
    corpus = []
    for group_id, listings in groups.items():
        rng = rng_for(seed, "benchmark", group_id)
        listings = [listings[place] for place in rng.permutation(len(listings))]
        source, held_out = _source(listings, shown, wanted)
        kept = [row for row in listings if row is not held_out]
        corpus += kept
        right = tuple((row.id, 1) for row in kept)
        taken = frozenset() if held_out else frozenset(p.sha256 for p in source.images if p.sha256 in shown)
        questions += [Question(f"{group_id}-{name}", name, right, source, held_out, taken) for name in MODALITIES]
    return Benchmark(corpus, questions)


def _source(listings: list[Row], shown: Counter, wanted: set[str]) -> tuple[Row, Row | None]:
    """Return the row to make queries from, and the one that is kept out of the corpus for its photo, if any."""
    for row in listings:
        if any(picture.sha256 not in shown for picture in row.images[1:]):
            return row, None
    if len(listings) > 1:
        for row in listings:
            if shown[row.images[0].sha256] == 1 and row.id not in wanted:
                return row, row
    return listings[0], None


def question_record(question: Question, seed: int) -> tuple[dict[str, object], str | None]:
    """Return a record of schema.QUERIES, and how its picture was made (None: it has none)."""
    if question.logged is not None:
        query = logged_query(question.logged)
    else:
        query = make_query(question.source, question.held_out, question.taken, question.modality, question.id, seed)
    image = query.image and query.image.as_record()
    origins = [made["operation"] for made in query.provenance if made["field"] == "query_image"]
    record = {"id": question.id, "text": query.text, "image": image, "modality": query.modality}
    return record, next(iter(origins), None)


def document(row: Row) -> dict[str, object]:
    """Return a record of schema.CORPUS."""
    return {
        "id": row.id,
        "text": row.title,
        "image": row.images[0].as_record(),
        "category": list(row.category),
        "attributes": [{"name": name, "value": value} for name, value in row.attributes],
        "brand": row.brand,
        "group_id": row.group_id,
    }
