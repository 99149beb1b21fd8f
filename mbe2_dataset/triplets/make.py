"""Training triplets and the retrieval benchmark, first planned, then as records (MOON2.0, sections 1 and 6).

A triplet is query, positive and hard negative; how they are found is our choice. Test data are never augmented.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from mbe2_dataset.catalogue.pictures import Picture
from mbe2_dataset.catalogue.search_log import LoggedQuery
from mbe2_dataset.catalogue.store import BLOCK, Ids, Row, SplitRows, take
from mbe2_dataset.journal import Augmented
from mbe2_dataset.parallel import rng_for
from mbe2_dataset.schema import provenance
from mbe2_dataset.triplets.negatives import KINDS, CategoryNegatives, Drawn
from mbe2_dataset.triplets.queries import MODALITIES, draw_modality, logged_query, make_query, modality_of

Item = TypeVar("Item")
# How often the query of a row is made from another row of its group, if there is one.
OTHER_LISTING_SHARE = 0.5


class Negatives(Protocol):
    """Finds negatives: `negatives.CategoryNegatives` or `MinedNegatives`."""

    def __call__(self, row: int, excluded: set[int], rng: np.random.Generator) -> Drawn: ...


class Negative(NamedTuple):
    """A negative and how it was found; `facts` go into its provenance."""

    row: Row
    kind: str
    facts: dict


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


# A planned triplet: numbers of rows (-1: none), the place of a logged query (-1: none), and what `Drawn` says. `row` is
# the one that the triplet was planned for.
_ROWS = ("row", "source", "other", "positive", "negative")
ENTRY = np.dtype(
    [(name, "i4") for name in (*_ROWS, "query", "rank")]
    + [("depth", "i2"), ("kind", "i1"), ("modality", "i1"), ("false_positive", "?"), ("similarity", "f4")]
)


class Plans(Sequence[Plan]):
    """The planned triplets of a split, each made when it is asked for.

    Args:
        entries: (N,) of ENTRY, whose numbers are of rows of `split`, and whose queries are places in `logged`.
    """

    def __init__(self, split: SplitRows, entries: np.ndarray, logged: Sequence[LoggedQuery] = ()):
        self.split, self.entries, self.logged = split, entries, logged

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, place):
        """Return a plan, or some with no more than the rows that they need, to be sent to another process."""
        if not isinstance(place, slice):
            return next(iter(self[place : place + 1]))
        entries = self.entries[place].copy()
        numbers, queries = self.rows(entries), np.unique(entries["query"][entries["query"] >= 0])
        for name, known in (*((name, numbers) for name in _ROWS), ("query", queries)):
            entries[name] = np.where(entries[name] < 0, -1, np.searchsorted(known, entries[name]))
        return Plans(self.split.take(numbers), entries, [self.logged[query] for query in queries.tolist()])

    def __iter__(self) -> Iterator[Plan]:
        for start in range(0, len(self), BLOCK):
            entries = self.entries[start : start + BLOCK]
            numbers = self.rows(entries)
            rows = dict(zip(numbers.tolist(), take(self.split.rows, numbers), strict=True))
            yield from (self._plan(dict(zip(ENTRY.names, entry, strict=True)), rows) for entry in entries.tolist())

    @staticmethod
    def rows(entries: np.ndarray, names: Sequence[str] = _ROWS) -> np.ndarray:
        """Return the numbers of the rows of some entries, each once, in order."""
        numbers = np.unique(np.concatenate([entries[name] for name in names]))
        return numbers[numbers >= 0]

    def products(self) -> np.ndarray:
        """Return the numbers of what is to be found and what is not, each once, in order."""
        return self.rows(self.entries, ("positive", "negative"))

    def _plan(self, entry: dict, rows: dict[int, Row]) -> Plan:
        own, source, other, positive, negative = (rows.get(entry[name]) for name in _ROWS)
        logged = self.logged[entry["query"]] if entry["query"] >= 0 else None
        kind, depth, facts = KINDS[entry["kind"]], entry["depth"], {}
        if kind == "mined":
            facts = {"rank": entry["rank"], "similarity": round(entry["similarity"], 4)}
        elif depth:
            facts = {"category": list(own.category[:depth])}
        key = own.id if logged is None else f"{logged.id}-{own.id}"
        found = Negative(negative, kind, facts)
        return Plan(key, source, other, positive, found, MODALITIES[entry["modality"]], entry["false_positive"], logged)


def plan_triplets(
    split: SplitRows,
    query_mix: tuple[float, float, float],
    false_positive_rate: float,
    seed: int,
    negatives: Negatives | None = None,
) -> Plans:
    """Plan one triplet for each row of a split, in the order of the rows, with queries made from rows.

    Args:
        negatives: by default the nearest category's.

    Raises:
        CatalogueError: the split has one group only, so that nothing could be a negative.
    """
    by_category = CategoryNegatives(split)
    entries = np.empty(len(split), ENTRY)
    for row in range(len(split)):
        name, group = split.ids[row].as_py(), int(split.groups[row])
        rng = rng_for(seed, "triplet", name)
        members, other = by_category.members(group), -1
        if len(members) > 1:
            place = int(rng.integers(len(members) - 1))
            other = int(members[place + (place >= np.searchsorted(members, row))])
        source = other if other >= 0 and rng.random() < OTHER_LISTING_SHARE else row
        stranger = None
        if rng.random() < false_positive_rate:
            stranger = by_category.draw(split.categories[split.paths[row]], {group}, rng)
        positive = row if stranger is None else stranger
        negative = (negatives or by_category)(row, {group, int(split.groups[positive])}, rng)
        modality = draw_modality(query_mix, seed, name)
        entries[row] = _entry((row, source, other, positive), negative, -1, modality, stranger is not None)
    return Plans(split, entries)


def _entry(rows: tuple[int, int, int, int], found: Drawn, query: int, modality: str, stranger: bool = False) -> tuple:
    kind, modality = KINDS.index(found.kind), MODALITIES.index(modality)
    return (*rows, found.row, query, found.rank, found.depth, kind, modality, stranger, found.similarity)


def plan_logged_triplets(
    split: SplitRows, queries: Sequence[LoggedQuery], seed: int, negatives: Negatives | None = None
) -> Plans:
    """Plan a triplet for each query of a search log and each of its positives among the rows of a split.

    The negative is one of those that the log has for the query (shown, with low relevance), else one that is found.
    Rows of the positives' groups are no negatives, whatever the log says of them.
    """
    number, groups = Ids(split.ids), split.groups
    find = negatives or CategoryNegatives(split)
    entries = []
    for place, query in enumerate(queries):
        positives = [row for name, _ in query.positives if (row := number(name)) is not None]
        right = {int(groups[row]) for row in positives}
        shown = [number(name) for name in query.negatives]
        shown = [row for row in shown if row is not None and int(groups[row]) not in right]
        for positive in positives:
            rng = rng_for(seed, "logged triplet", query.id, split.ids[positive].as_py())
            if shown:
                negative = Drawn(shown[rng.integers(len(shown))], "shown_not_bought")
            else:
                negative = find(positive, right, rng)
            entries.append(_entry((positive, positive, -1, positive), negative, place, modality_of(query)))
    return Plans(split, np.array(entries, ENTRY), queries)


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
    for role, row in zip(("positive", "negative"), (plan.positive, plan.negative.row), strict=True):
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
    """A query of the benchmark before any image is made: one from the log, or one to be made from a row.

    Attributes:
        right: (corpus id, grade of relevance) of all rows that answer it.
        held_out: the row that is kept out of the corpus because its photo is the query, or None.
        taken: sha256 of those of their images that the corpus shows, which the query must not.
    """

    id: str
    modality: str
    right: tuple[tuple[str, int], ...]
    source: Row | None = None
    held_out: Row | None = None
    taken: frozenset[str] = frozenset()
    logged: LoggedQuery | None = None


# What a group of the benchmark has: its rows in the corpus, and the numbers of `Question.source` and `held_out` (-1).
GROUP = np.dtype([(name, "i4") for name in ("start", "end", "source", "held_out")])


@dataclass(frozen=True)
class Benchmark:
    """The rows of the corpus, and the queries: those of a log, then three for each group, made when they are asked for.

    Attributes:
        split: the test rows.
        corpus: (C,) the numbers of those in the corpus, by group.
        groups: (G,) of GROUP; `names`: what they are called.
        logged: questions of the log.
        shown: first 64 bits of the sha256 of the corpus's images, sorted.
    """

    split: SplitRows
    corpus: np.ndarray
    groups: np.ndarray
    names: pa.StringArray
    logged: list[Question]
    shown: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """Count the right answers of all questions before each, and last of all."""
        of_groups = np.repeat(self.groups["end"] - self.groups["start"], len(MODALITIES))
        return np.cumsum([0, *(len(question.right) for question in self.logged), *of_groups])

    @property
    def questions(self) -> "Lazy[Question]":
        """Return the queries."""
        return Lazy(len(self.starts) - 1, lambda places: map(self._question, places))

    @property
    def qrels(self) -> "Lazy[dict]":
        """Return records of schema.QRELS."""
        return Lazy(int(self.starts[-1]), self._qrels)

    def _answers(self, place: int) -> tuple[str, str, tuple[tuple[str, int], ...]]:
        """Return id, modality and right answers of a question."""
        if place < len(self.logged):
            question = self.logged[place]
            return question.id, question.modality, question.right
        group, kind = divmod(place - len(self.logged), len(MODALITIES))
        ids = self.split.ids.take(pa.array(self.corpus[self.groups["start"][group] : self.groups["end"][group]]))
        right = tuple((identity, 1) for identity in ids.to_pylist())
        return f"{self.names[group].as_py()}-{MODALITIES[kind]}", MODALITIES[kind], right

    def _question(self, place: int) -> Question:
        if place < len(self.logged):
            return self.logged[place]
        group = self.groups[(place - len(self.logged)) // len(MODALITIES)]
        source, held_out, taken = self.split.rows[group["source"]], None, frozenset()
        if group["held_out"] >= 0:
            held_out = self.split.rows[group["held_out"]]
        else:
            taken = frozenset(picture.sha256 for picture in source.images if _times(self.shown, picture))
        return Question(*self._answers(place), source, held_out, taken)

    def _qrels(self, places: range) -> Iterator[dict]:
        question, place = int(np.searchsorted(self.starts, places.start, side="right")) - 1, places.start
        while place < places.stop:
            name, _, right = self._answers(question)
            begun = place - int(self.starts[question])
            for answer, grade in right[begun : begun + places.stop - place]:
                yield {"query-id": name, "corpus-id": answer, "score": grade}
                place += 1
            question += 1


class Lazy(Sequence[Item]):
    """A sequence of `count` things that are made by their places when they are asked for; a part of it is a list."""

    def __init__(self, count: int, make: Callable[[range], Iterable[Item]]):
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place):
        if not isinstance(place, slice):
            place = range(self._count)[place]
            return self[place : place + 1][0]
        return list(self._make(range(self._count)[place]))


def plan_benchmark(split: SplitRows, seed: int, logged: Sequence[LoggedQuery] = (), made: bool = True) -> Benchmark:
    """Return the corpus of the test rows and its queries.

    Args:
        logged: queries of a log; those without a right row are skipped.
        made: make a text, an image and a mixed query for each group; all its rows are right. Where no row of a group
            has a second photo, one row is kept out of the corpus and its photo is the query.
    """
    number, questions = Ids(split.ids), []
    for query in logged:
        right = tuple((name, grade) for name, grade in query.positives if number(name) is not None)
        if right:
            questions.append(Question(query.id, logged_query(query).modality, right, logged=query))
    if not made:
        everything = np.arange(len(split), dtype=np.int32)
        return Benchmark(split, everything, np.empty(0, GROUP), pa.array([], pa.string()), questions, np.empty(0, "u8"))
    shown = np.sort(np.fromiter((_short(row.images[0]) for row in split.rows), "u8", len(split)))
    wanted = {name for question in questions for name, _ in question.right}
    by_group = np.argsort(split.groups, kind="stable").astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.bincount(split.groups))])
    corpus, groups, names = array("i"), np.empty(len(starts) - 1, GROUP), []
    for group in range(len(groups)):
        numbers = by_group[starts[group] : starts[group + 1]]
        rows = dict(zip(numbers.tolist(), take(split.rows, numbers), strict=True))
        names.append(next(iter(rows.values())).group_id)
        rng = rng_for(seed, "benchmark", names[-1])
        places = [int(numbers[place]) for place in rng.permutation(len(numbers))]
        source, held_out = _source([(place, rows[place]) for place in places], shown, wanted)
        start = len(corpus)
        corpus.extend(place for place in places if place != held_out)
        groups[group] = (start, len(corpus), source, -1 if held_out is None else held_out)
    return Benchmark(split, np.asarray(corpus), groups, pa.array(names, pa.string()), questions, shown)


def _short(picture: Picture) -> int:
    return int(picture.sha256[:16], 16)


def _times(shown: np.ndarray, picture: Picture) -> int:
    """Return how often the corpus shows an image."""
    sha = np.uint64(_short(picture))
    return int(np.searchsorted(shown, sha, "right") - np.searchsorted(shown, sha))


def _source(listings: list[tuple[int, Row]], shown: np.ndarray, wanted: set[str]) -> tuple[int, int | None]:
    """Return the row to make queries from, and the one that is kept out of the corpus for its photo, if any."""
    for number, row in listings:
        if any(not _times(shown, picture) for picture in row.images[1:]):
            return number, None
    if len(listings) > 1:
        for number, row in listings:
            if _times(shown, row.images[0]) == 1 and row.id not in wanted:
                return number, number
    return listings[0][0], None


def question_record(question: Question, seed: int) -> tuple[dict[str, object], str | None]:
    """Return a record of schema.QUERIES, and how its image was made (None: it has none)."""
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
