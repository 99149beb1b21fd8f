"""What enriching a catalogue will take, from a sample of it, before anything is sent."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..catalogue import Row
from .endpoint import PICTURE_TOKENS, EndpointWriter
from .entities import extract_entities
from .gazetteer import Gazetteer

# English has about four characters to a token, an unspaced script about one; a title and its JSON are short.
CHARACTERS_PER_TOKEN = 4
OUTPUT_TOKENS = 60


@dataclass(frozen=True, slots=True)
class Estimate:
    """Without retries. `cost` is in the currency of the prices."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: float


def estimate(sample: Sequence[Row], total: int, gazetteer: Gazetteer, writer: EndpointWriter) -> Estimate:
    """What `total` listings like those of `sample` (at least one) will take.

    A picture is counted with the most that it can take.
    """
    read = 0.0
    for row in sample:
        text = writer.prompt.system + writer.prompt.user(row, extract_entities(row, gazetteer))
        ascii_characters = sum(character.isascii() for character in text)
        read += ascii_characters / CHARACTERS_PER_TOKEN + (len(text) - ascii_characters)
    each = read / len(sample) + PICTURE_TOKENS * writer.prompt.picture
    tokens = round(each * total), OUTPUT_TOKENS * total
    cost = (tokens[0] * writer.input_price + tokens[1] * writer.output_price) / 1e6
    return Estimate(total, *tokens, cost)
