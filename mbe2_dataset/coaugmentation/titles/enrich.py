"""One listing in, one enriched title out, with all that is to be known about how it came about."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

from common_moon2.cli import UserError
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.entities import Entity, extract_entities, stated_entities
from mbe2_dataset.coaugmentation.titles.gazetteer import Gazetteer
from mbe2_dataset.coaugmentation.titles.guard import Rejection, check_support


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used: requests, tokens, and money in the currency of the prices."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost + other.cost,
        )

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposed title, not yet checked.

    `picture_claims` are the words that come from the picture, None if the writer saw none; `entities` are (type, value)
    that a model read out of the listing itself.
    """

    title: str
    usage: Usage = Usage()
    picture_claims: tuple[str, ...] | None = None
    entities: tuple[tuple[str, str], ...] = ()


class Refusal(Exception):
    """No title could be had for one product; the message says why.

    `usage` is what the attempts have cost. With `retry` the fault was the server's, so that a later run may ask again.
    """

    def __init__(self, reason: str, usage: Usage | None = None, retry: bool = False):
        super().__init__(reason)
        self.usage = usage or Usage()
        self.retry = retry


class WriterError(UserError):
    """The writer cannot go on with any product (no server, wrong key, no such model); the message says what to do."""


class TitleWriter(Protocol):
    """Writes titles.

    Attributes:
        model: what writes; "template" for the offline one.
        revision: of the model; "" where it has none.
        prompt_version: name and hash of the prompt; "" where there is none.
        concurrency: how many calls of `write` at a time make sense.
    """

    model: str
    revision: str
    prompt_version: str
    concurrency: int

    def write(self, row: Row, entities: tuple[Entity, ...]) -> Draft:
        """A title for `row`.

        Raises:
            Refusal: not for this product.
            WriterError: not for any.
        """


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
