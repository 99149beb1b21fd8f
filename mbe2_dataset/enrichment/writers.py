"""The interface of all that writes enriched titles: T+ = MLLM(T, I, E) of MOON2.0, section 5."""

from dataclasses import asdict, dataclass
from typing import Protocol

from ..catalogue import Row
from .entities import Entity


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


class WriterError(Exception):
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
