"""One row in, one enriched title out, with all that the record says of how it came about."""

from dataclasses import asdict, dataclass
from typing import Protocol

from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.endpoint import Refusal, Usage
from mbe2_dataset.coaugmentation.titles.entities import Entity, Gazetteer, extract_entities, stated_entities
from mbe2_dataset.coaugmentation.titles.guard import Rejection, check_support


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposed title, not yet checked.

    `picture_claims` are the words that come from the image, None if the writer saw none; `entities` are (type, value)
    that a model read out of the row itself.
    """

    title: str
    usage: Usage = Usage()
    picture_claims: tuple[str, ...] | None = None
    entities: tuple[tuple[str, str], ...] = ()


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
        """Return a title for `row`.

        Raises:
            Refusal: there is none for this product.
            ModelError: no product can get one.
        """


@dataclass(frozen=True, slots=True)
class Enrichment:
    """The result for one row.

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
        """Return a dict that JSON can hold; `from_dict` makes the same Enrichment of it, also after JSON."""
        return asdict(self) | {"rejected": [rejection._asdict() for rejection in self.rejected]}

    @classmethod
    def from_dict(cls, values: dict) -> "Enrichment":
        """Return the Enrichment that `to_dict` was called on."""
        read = {
            "added": tuple(values["added"]),
            "rejected": tuple(Rejection(**rejection) for rejection in values["rejected"]),
            "entities": tuple(
                Entity(**entity | {"span": entity["span"] and tuple(entity["span"])}) for entity in values["entities"]
            ),
            "usage": Usage(**values["usage"]),
        }
        return cls(**values | read)


def enrich(row: Row, gazetteer: Gazetteer, writer: TitleWriter) -> Enrichment:
    """Extract entities, let `writer` write, and check what it wrote; the original title stays where that fails.

    Raises:
        ModelError: the writer cannot go on with any product.
    """
    entities = extract_entities(row, gazetteer)
    retry, added, rejected = False, (), ()
    try:
        draft = writer.write(row, entities)
    except Refusal as refusal:
        draft, reason, retry = Draft("", refusal.usage), str(refusal), refusal.retry
    else:
        entities += stated_entities(row, draft.entities, entities)
        verdict = check_support(row, entities, draft.title, gazetteer, draft.picture_claims)
        added, rejected = verdict.added, verdict.rejected
        reason = ", ".join(dict.fromkeys(rejection.reason for rejection in rejected))
    return Enrichment(
        title=row.title if reason else " ".join(draft.title.split()),
        kept=not reason,
        reason=reason,
        draft=draft.title,
        added=added,
        rejected=rejected,
        entities=entities,
        usage=draft.usage,
        model=writer.model,
        revision=writer.revision,
        prompt_version=writer.prompt_version,
        retry=retry,
    )
