"""One listing in, one enriched title out, with all that is to be known about how it came about."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ..catalogue import Row
from .entities import Entity, extract_entities, stated_entities
from .gazetteer import Gazetteer
from .guard import Rejection, check_support
from .writers import Refusal, TitleWriter, Usage


@dataclass(frozen=True, slots=True)
class Enrichment:
    """The result for one listing.

    Args:
        title: the enriched title where it was `kept`, else the original one.
        kept: whether `title` is new.
        reason: why it was not kept; "" if it was.
        draft: what the writer wrote; "" if nothing.
        added: what the draft says beyond the original title.
        rejected: what the guard found wrong with it.
        entities: E of the paper.
        retry: the server failed, so that asking again later may help.
    """

    title: str
    kept: bool
    reason: str
    draft: str
    added: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    entities: tuple[Entity, ...]
    usage: Usage
    model: str
    revision: str
    prompt_version: str
    retry: bool = False

    def to_dict(self) -> dict[str, object]:
        """A dict that JSON can hold; `from_dict` makes the same Enrichment of it, also after JSON."""
        return asdict(self) | {"rejected": [rejection._asdict() for rejection in self.rejected]}

    @classmethod
    def from_dict(cls, values: dict) -> "Enrichment":
        entities = (
            Entity(**entity | {"span": tuple(entity["span"]) if entity["span"] else None})
            for entity in values["entities"]
        )
        return cls(
            **values
            | {
                "added": tuple(values["added"]),
                "rejected": tuple(Rejection(**rejection) for rejection in values["rejected"]),
                "entities": tuple(entities),
                "usage": Usage(**values["usage"]),
            }
        )


def enrich(row: Row, gazetteer: Gazetteer, writer: TitleWriter) -> Enrichment:
    """Extract entities, let `writer` write, check what it wrote; the original title stays where that fails.

    Raises:
        WriterError: the writer cannot go on with any product.
    """
    entities = extract_entities(row, gazetteer)
    try:
        draft = writer.write(row, entities)
    except Refusal as refusal:
        return _enrichment(row, writer, entities, refusal.usage, reason=str(refusal), retry=refusal.retry)
    entities += stated_entities(row, draft.entities, entities)
    verdict = check_support(row, entities, draft.title, gazetteer, draft.picture_claims)
    reason = "" if verdict.kept else ", ".join(dict.fromkeys(rejection.reason for rejection in verdict.rejected))
    facts = {"draft": draft.title, "added": verdict.added, "rejected": verdict.rejected}
    return _enrichment(row, writer, entities, draft.usage, reason, **facts)


def _enrichment(
    row: Row, writer: TitleWriter, entities: tuple[Entity, ...], usage: Usage, reason: str, **facts
) -> Enrichment:
    given = {"draft": "", "added": (), "rejected": ()} | facts
    return Enrichment(
        title=row.title if reason else " ".join(given["draft"].split()),
        kept=not reason,
        reason=reason,
        entities=entities,
        usage=usage,
        model=writer.model,
        revision=writer.revision,
        prompt_version=writer.prompt_version,
        **given,
    )


@dataclass(frozen=True, slots=True)
class EnrichmentCounts:
    """For the report: titles kept, titles refused by reason (a title may have several), and what they took."""

    kept: int
    refused: dict[str, int]
    usage: Usage


def count(enrichments: Iterable[Enrichment]) -> EnrichmentCounts:
    kept, refused, usage = 0, Counter(), Usage()
    for enrichment in enrichments:
        kept += enrichment.kept
        reasons = {rejection.reason for rejection in enrichment.rejected} or {enrichment.reason.split(":")[0]}
        refused.update(() if enrichment.kept else sorted(reasons))
        usage += enrichment.usage
    return EnrichmentCounts(kept, dict(refused.most_common()), usage)
