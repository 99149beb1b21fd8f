"""The prompt for enriched titles, and the reading of a model's answer."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.entities import Entity, about_the_product
from mbe2_dataset.coaugmentation.titles.guard import MAX_CHARACTERS

NAME = "title-v1"
# Longer descriptions are cut: what matters stands in the beginning, and every token is paid for.
MAX_DESCRIPTION = 1500


class AnswerError(ValueError):
    """The answer of a model is not what was asked for; the message says in what way."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered; `entities` are (type, value)."""

    title: str
    from_picture: tuple[str, ...]
    entities: tuple[tuple[str, str], ...]


class TitlePrompt:
    """What the model is told, and what it may answer.

    Args:
        picture: the model is shown an image.
        extract: the model is asked for the entities, too.

    `version` is the name of the file and a hash of the file and both options.
    """

    def __init__(self, picture: bool, extract: bool = False):
        text = files("mbe2_dataset.coaugmentation").joinpath(f"prompts/{NAME}.txt").read_text(encoding="utf-8")
        system, user = text.removeprefix("[system]\n").split("[user]\n")
        self.picture, self.extract = picture, extract
        self.version = f"{NAME}@{hashlib.sha256(f'{text}{picture}{extract}'.encode()).hexdigest()[:12]}"
        shape = {"title": "the new title"}
        if picture:
            shape["from_picture"] = ["each word of the title that only the picture shows"]
        if extract:
            shape["entities"] = [{"type": "colour", "value": "a fact, in the listing's own words"}]
        self.system = Template(system.strip()).substitute(
            picture=", and a picture of the product" if picture else "",
            or_picture=" or the picture" if picture else "",
            max_characters=MAX_CHARACTERS,
            shape=json.dumps(shape, ensure_ascii=False),
        )
        self._user = Template(user.strip())

    @property
    def schema(self) -> dict[str, object]:
        """Return the JSON schema of the answer."""
        text = {"type": "string"}
        properties: dict[str, object] = {"title": text | {"minLength": 1, "maxLength": MAX_CHARACTERS}}
        if self.picture:
            properties["from_picture"] = {"type": "array", "items": text}
        if self.extract:
            pair = {"type": "object", "properties": {"type": text, "value": text}}
            pair |= {"required": ["type", "value"], "additionalProperties": False}
            properties["entities"] = {"type": "array", "items": pair}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def user(self, row: Row, entities: tuple[Entity, ...]) -> str:
        """Return the row as JSON. No text in it can look like its end, because "<" is written as an escape."""
        listing = {
            "title": row.title,
            "description": " ".join(about_the_product(row.description or "").split())[:MAX_DESCRIPTION],
            "facts": [{"type": entity.type, "value": entity.value} for entity in entities],
        }
        text = json.dumps(listing, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
        return self._user.substitute(listing=text)

    def read(self, text: str) -> Answer:
        """Read the first JSON object in `text`, which may have other text around it.

        Raises:
            AnswerError: there is none, or it has other keys or values than `schema`.
        """
        found = next(_objects(text), None)
        if found is None:
            raise AnswerError("it holds no JSON object")
        expected = list(self.schema["properties"])
        if set(found) != set(expected):
            raise AnswerError(f"its keys are {', '.join(map(repr, found)) or 'none'} and not {', '.join(expected)}")
        title, claims, pairs = found["title"], found.get("from_picture", []), found.get("entities", [])
        if not isinstance(title, str) or not title.strip():
            raise AnswerError("'title' is empty or no text")
        if len(title) > MAX_CHARACTERS:
            raise AnswerError(f"'title' has {len(title)} characters, more than {MAX_CHARACTERS}")
        if not isinstance(claims, list) or not all(isinstance(claim, str) for claim in claims):
            raise AnswerError("'from_picture' is no list of texts")
        if not isinstance(pairs, list) or not all(map(_is_entity, pairs)):
            raise AnswerError("'entities' is no list of objects with a 'type' and a 'value'")
        return Answer(title.strip(), tuple(claims), tuple((pair["type"], pair["value"]) for pair in pairs))


def _is_entity(pair: object) -> bool:
    return (
        isinstance(pair, dict)
        and set(pair) == {"type", "value"}
        and all(isinstance(text, str) and text.strip() for text in pair.values())
    )


def _objects(text: str) -> Iterator[dict]:
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            found, place = decoder.raw_decode(text, place)
            yield found
        except (json.JSONDecodeError, RecursionError):
            place += 1
        place = text.find("{", place)


def again(reason: str) -> str:
    """Return what is said after an answer that cannot be used."""
    return f"Your answer cannot be used: {reason}. Answer again, with the JSON object alone."
