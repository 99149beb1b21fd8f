"""The retrieval benchmark: corpus, queries and qrels from the test rows. Test data are never augmented."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from .catalogue import Row
from .queries import MODALITIES, make_query
from .seeding import rng_for


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Records in the forms of schema.CORPUS, QUERIES and QRELS, and how many query pictures came about in which way."""

    corpus: list[dict]
    queries: list[dict]
    qrels: list[dict]
    picture_origins: Counter


def build_benchmark(rows: list[Row], seed: int) -> Benchmark:
    """A text, an image and a mixed query for each group of the test rows; the group's listings in the corpus are right.

    Where no listing of a group has a second photo, one listing is kept out of the corpus and its photo is the query.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group_id].append(row)
    shown = Counter(row.images[0].sha256 for row in rows)
    benchmark = Benchmark([], [], [], Counter())
    for group_id, listings in groups.items():
        rng = rng_for(seed, "benchmark", group_id)
        listings = [listings[place] for place in rng.permutation(len(listings))]
        source, held_out = _source(listings, shown)
        for modality in MODALITIES:
            key = f"{group_id}-{modality}"
            query = make_query(source, held_out, shown if held_out is None else (), modality, key, seed)
            for made in query.provenance:
                if made["field"] == "query_image":
                    benchmark.picture_origins[made["operation"]] += 1
            benchmark.queries.append(
                {"id": key, "text": query.text, "image": query.image and query.image.as_record(), "modality": modality}
            )
            for row in listings:
                if row is not held_out:
                    benchmark.qrels.append({"query-id": key, "corpus-id": row.id, "score": 1})
        for row in listings:
            if row is not held_out:
                benchmark.corpus.append(_document(row))
    return benchmark


def _source(listings: list[Row], shown: Counter) -> tuple[Row, Row | None]:
    """The listing to make queries from, and the one that is kept out of the corpus for its photo, if any."""
    for row in listings:
        if any(picture.sha256 not in shown for picture in row.images[1:]):
            return row, None
    if len(listings) > 1:
        for row in listings:
            if shown[row.images[0].sha256] == 1:
                return row, row
    return listings[0], None


def _document(row: Row) -> dict[str, object]:
    return {
        "id": row.id,
        "text": row.title,
        "image": row.images[0].as_record(),
        "category": list(row.category),
        "attributes": [{"name": name, "value": value} for name, value in row.attributes],
        "brand": row.brand,
        "group_id": row.group_id,
    }
