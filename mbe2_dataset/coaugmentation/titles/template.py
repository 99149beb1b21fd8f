"""The offline writer: puts into a title what it lacks, where a shopper would expect it (our choice)."""

import regex

from common_moon2.text import is_unspaced
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.enrich import Draft
from mbe2_dataset.coaugmentation.titles.entities import Entity
from mbe2_dataset.coaugmentation.titles.words import VAGUE, claims, contains, measures, phrase, stem, tokens

# The most that is added to one title; titles with more read as lists.
MAX_ADDED = 6
# Before the product type, in this order: "Formal Slim Fit Blue Striped Cotton Shirt".
_BEFORE = ("occasion", "fit", "colour", "pattern", "display", "neck", "sleeve", "material")
# What is left out first when there is too much to say.
_WEAK = ("display", "closure", "heel", "toe", "occasion", "fit", "weight", "length")
# After it, behind "with": "with Round Neck and Short Sleeves". Without such a noun ("Sleeveless") they go before.
_WITH = ("neck", "sleeve", "heel", "toe", "closure")
_WITH_NOUN = regex.compile(r"(?:neck|necks|neckline|collar|sleeves?|heels?|toes?|closure|zip|buckle|laces?|lace-ups?)$")
_LAST = ("capacity", "dimension", "weight", "count", "size")
# Not worth a word in a title: nearly every product has it.
_PLAIN = frozenset(phrase(word) for word in ("casual", "everyday", "daily", "日常", "休闲", "synthetic"))
# "Lycra®" is "Lycra" in a title.
_LEGAL = regex.compile("[®™©]")


class TemplateWriter:
    """Adds entities to the title as it stands; the same row always gives the same title.

    It adds one value of each type, and nothing of a type on which the title says something already, because the two
    might disagree.
    """

    model = "template"
    revision = ""
    prompt_version = "template-v1"
    concurrency = 1

    def write(self, row: Row, entities: tuple[Entity, ...]) -> Draft:
        """Return a title for `row`; see `TitleWriter`."""
        chosen = _lacking(row.title, entities)
        compose = _unspaced if is_unspaced(row.title) else _spaced
        return Draft(compose(row.title, chosen, _head(row.title, entities)))


def _head(title: str, entities: tuple[Entity, ...]) -> tuple[int, int] | None:
    """Find where the title names the product type; the last such place is the head of a noun phrase in both languages.

    "Shoes" will do where the catalogue's type is "Casual Shoes".
    """
    types = [entity for entity in entities if entity.type == "type"]
    spans = [entity.span for entity in types if entity.source == "title"]
    nouns = {phrase(entity.value)[-1] for entity in types if not is_unspaced(entity.value)}
    spans = spans or [(token.start, token.end) for token in tokens(title) if token.word in nouns]
    return max(spans) if spans else None


def _lacking(title: str, entities: tuple[Entity, ...]) -> dict[str, str]:
    """Return by type, in the order of importance, what the title does not say in any form."""
    said = phrase(title)
    stated = {entity.type for entity in entities if entity.source == "title"}
    found: dict[str, str] = {}
    for entity in entities:
        if entity.type in stated or entity.type in found or not _can_be_added(entity.value, title):
            continue
        words = phrase(entity.value)
        # "Cotton" after "Cotton Blend", or "Round Neck" after "Round": half of it is there, so the whole would repeat.
        if contains(said, words) or _overlaps(entity.type, words, said):
            stated.add(entity.type)
        else:
            found[entity.type] = _LEGAL.sub("", entity.value)
    order = ["audience", "type", *_BEFORE, *_WITH, *_LAST]
    wanted = [kind for kind in dict.fromkeys(order) if kind in found]
    for kind in _WEAK:
        if len(wanted) > MAX_ADDED and kind in wanted:
            wanted.remove(kind)
    return {kind: found[kind] for kind in wanted[:MAX_ADDED]}


def _overlaps(kind: str, words: tuple[str, ...], said: tuple[str, ...]) -> bool:
    if is_unspaced("".join(words)):
        return False
    return stem(words[-1 if kind == "type" else 0]) in map(stem, said) and kind != "size"


def _can_be_added(value: str, title: str) -> bool:
    words = phrase(value)
    if not words or words in VAGUE or words in _PLAIN or claims(value):
        return False
    same_script = is_unspaced(value) == is_unspaced(title) or bool(measures(value))
    return same_script and len(words) <= 4 + 6 * is_unspaced(value)


def _spaced(title: str, chosen: dict[str, str], head: tuple[int, int] | None) -> str:
    said = {kind: _in_style(value, title) for kind, value in chosen.items()}
    behind = [said[kind] for kind in _WITH if kind in said and _WITH_NOUN.search(said[kind].casefold())]
    before = [said[kind] for kind in _BEFORE if kind in said and said[kind] not in behind]
    before = [regex.sub(r"(?i)\bsleeves$", "Sleeve", text) for text in before]
    if "type" in said:
        text = " ".join([title, *before, said["type"]])
    elif head and (head[0] == 0 or title[head[0] - 1] == " "):
        noun = title[head[0] : head[1]]
        if head[0] == 0 and before and not _is_titled(title):
            noun, before[0] = noun[0].lower() + noun[1:], before[0][0].upper() + before[0][1:]
        text = title[: head[0]] + " ".join([*before, noun]) + title[head[1] :]
    else:
        text = ", ".join([title, " ".join(before)]) if before else title
    if behind:
        listed = " and ".join(filter(None, [", ".join(behind[:-1]), behind[-1]]))
        text += (", " if " with " in text else " with ") + listed
    if audience := said.get("audience"):
        text += f", {audience}" if audience.casefold() == "unisex" else f" for {_plural(audience)}"
    for kind in _LAST:
        if kind in said:
            is_bare = kind == "size" and "size" not in said[kind].casefold()
            text += f", {_in_style('size', title)} {said[kind]}" if is_bare else f", {said[kind]}"
    return text


def _unspaced(title: str, chosen: dict[str, str], head: tuple[int, int] | None) -> str:
    before = "".join(chosen[kind] for kind in ("audience", *_BEFORE) if kind in chosen)
    last = [chosen[kind] for kind in _LAST if kind in chosen]
    if "type" in chosen:
        text = title + before + chosen["type"]
    elif head:
        text = title[: head[0]] + before + title[head[0] :]
    else:
        text = title + before
    return " ".join([text, *last])


def _is_titled(title: str) -> bool:
    words = regex.findall(r"\p{L}{3,}", title)
    return sum(word[0].isupper() for word in words) * 2 > len(words)


def _in_style(value: str, title: str) -> str:
    """Write `value` with capitals if the title has them, else without; abbreviations and units stay as they are."""
    if measures(value) and tokens(value)[0].word[0].isdecimal():
        return value
    change = str.capitalize if _is_titled(title) else str.lower
    return regex.sub(
        r"(?<!['’])\b\p{L}{3,}",
        lambda match: match[0] if match[0].isupper() and len(match[0]) < 4 else change(match[0]),
        value,
    )


def _plural(audience: str) -> str:
    plurals = {"kid": "kids", "boy": "boys", "girl": "girls", "adult": "adults", "teen": "teens"}
    plural = plurals.get(audience.casefold(), audience)
    return plural.capitalize() if audience[0].isupper() else plural
