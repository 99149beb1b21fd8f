"""The retrieval benchmark: corpus, queries and qrels from the test rows. Test data are never augmented."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mbe2_dataset.catalogue.search_log import LoggedQuery
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.parallel import rng_for
from mbe2_dataset.triplets.queries import MODALITIES, logged_query, make_query


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
