"""Entity extraction: what a row says about its product, and where (MOON2.0, section 5; the tool is our choice)."""

from dataclasses import dataclass
from functools import lru_cache

import regex

from common_moon2.text import is_unspaced
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.gazetteer import Gazetteer, split_values
from mbe2_dataset.coaugmentation.titles.words import (
    BUILT_IN,
    VAGUE,
    attribute_type,
    contains,
    measures,
    overlap,
    phrase,
    tokens,
)

# What stands further on in a description is hardly ever about the product.
MAX_DESCRIPTION = 4000
# A product has one of each, so the first that a description names is the product's and the next may be anything's.
SINGLE = frozenset(
    ("brand", "type", "colour", "pattern", "size", "audience", "fit", "neck", "sleeve", "length", "season")
)

_MARKUP = regex.compile(r"<[^<>]{0,500}>|&(?:#\d+|#x\p{AHex}+|\w{2,8});|https?://\S+")
# Care, warranty, delivery, and advice on what to wear it with: these name colours, materials and goods of others.
_NOT_THE_PRODUCT = regex.compile(
    r"(?i:\b(?:wash(?:ing)? care|care instructions|machine wash|hand wash|warranty|guarantee|returns?|refunds?|"
    r"shipping|delivery|disclaimer|note:)\b[^.!\n]{0,80}"
    r"|\b(?:pair|team|style|wear|match|combine|club|goes|compatible|works|similar)\b[^.!\n]{0,40}?\bwith\b[^.!\n]{0,100})"
    r"|(?:保修|质保|退换|发货|物流|快递|客服|洗涤|清洗|搭配|兼容|适配)[^。！；\n]{0,40}"
)
# A description names materials of laces, buckles and boxes, too; the product's own one comes with words such as these.
_MADE_OF = regex.compile(
    r"(?i:(?:\d\s?%|\bmade\b|\bcrafted|\bspun|\bpure|\bmaterials?\b|\bfabric\b|\bcomposition\b)[^.!\n]{0,25}"
    r"|(?:材质|面料|材料|成分|采用|选用)[^。！\n]{0,8})$"
)
_WORD_BY = regex.compile(r"(?:\bby|\bfrom)\s+$")


@dataclass(frozen=True, slots=True)
class Entity:
    """One fact. `source`: title, description, attribute, brand or category.

    `field` is the attribute's name as the catalogue spells it, where there is one; `span` (start, end) is where it
    stands in a title or description.
    """

    type: str
    value: str
    source: str
    field: str = ""
    span: tuple[int, int] | None = None


def extract_entities(row: Row, gazetteer: Gazetteer) -> tuple[Entity, ...]:
    """Return the facts in a row, each once, in the words of the title's language where the catalogue has them.

    Title, brand, category and attributes are all believed. A description is believed only on what none of these say. Of
    things that a product has one of, its first counts; of materials, only what the product is made of.
    """
    found = _in_title(row, gazetteer)
    found += _in_fields(row)
    found = _once(found)
    stated = {entity.type for entity in found}
    described: set[str] = set()
    text = about_the_product(row.description or "")
    for entity in _once(_in_text(text, "description", gazetteer)):
        if entity.type == "material" and not _MADE_OF.search(text, max(entity.span[0] - 40, 0), entity.span[0]):
            continue
        if entity.type not in stated and not (entity.type in SINGLE and entity.type in described):
            found.append(entity)
            described.add(entity.type)
    return tuple(found)


@lru_cache(maxsize=100)
def about_the_product(description: str) -> str:
    """Replace markup, and what is not about the product, with spaces; so places in the description stay the same."""
    text = description[:MAX_DESCRIPTION]
    for pattern in (_MARKUP, _NOT_THE_PRODUCT):
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return text


def _in_title(row: Row, gazetteer: Gazetteer) -> list[Entity]:
    title = row.title
    # "Pepe Jeans" is no pair of jeans.
    for start, end in _places(phrase(row.brand or ""), title):
        title = title[:start] + " " * (end - start) + title[end:]
    found = _in_text(title, "title", gazetteer)
    if not row.brand:
        brands = [("title", match) for match in gazetteer.find_brands(row.title)]
        text = about_the_product(row.description or "")
        brands += [
            ("description", match)
            for match in gazetteer.find_brands(text)
            if _WORD_BY.search(text, max(match.start - 8, 0), match.start)
            or (match.start == 0 and is_unspaced(match.value))
        ]
        found += [Entity("brand", match.value, source, span=(match.start, match.end)) for source, match in brands[:1]]
    return found


def _in_text(text: str, source: str, gazetteer: Gazetteer) -> list[Entity]:
    measured = measures(text)
    entities = [Entity(measure.kind, measure.value, source, span=(measure.start, measure.end)) for measure in measured]
    for match in gazetteer.find(text):
        if not overlap(measured, match.start, match.end):
            entities.append(Entity(match.type, match.value, source, span=(match.start, match.end)))
    return sorted((entity for entity in entities if entity.type != "share"), key=lambda entity: entity.span)


def _in_fields(row: Row) -> list[Entity]:
    found = [Entity("brand", row.translations.get(row.brand, row.brand), "brand")] if row.brand else []
    found += [Entity("type", row.translations.get(leaf, leaf), "category") for leaf in row.category[-1:]]
    for name, value in row.attributes:
        kind = attribute_type(name)
        if kind is None:
            continue
        text = row.translations.get(value, value)
        if kind == "audience":
            parts = [part for part in map(_audience, split_values(text)) if part]
        elif kind in ("size", "model") or measures(text):
            parts = [text] if phrase(text) not in VAGUE else []
        else:
            parts = split_values(text)
        found += [Entity(kind, part, "attribute", field=name) for part in parts]
    return found


def _audience(value: str) -> str | None:
    """Return the last word for an audience in a value such as "Adults-Men"; None where there is none."""
    words = phrase(value)
    known = [words] if words in BUILT_IN else [(word,) for word in reversed(words) if (word,) in BUILT_IN]
    if not known:
        return None
    return value if known[0] == words else BUILT_IN[known[0]][1]


def _once(entities: list[Entity]) -> list[Entity]:
    first: dict[tuple[str, tuple[str, ...]], Entity] = {}
    for entity in entities:
        first.setdefault((entity.type, phrase(entity.value)), entity)
    return list(first.values())


def stated_entities(row: Row, proposed: tuple[tuple[str, str], ...], known: tuple[Entity, ...]) -> tuple[Entity, ...]:
    """Return those (type, value) of a model's that the row says in so many words, and that are not `known` yet."""
    taken = {(entity.type, phrase(entity.value)) for entity in known}
    found = []
    for kind, value in proposed:
        if (kind, phrase(value)) not in taken:
            taken.add((kind, phrase(value)))
            found += filter(None, [_where(row, kind, value)])
    return tuple(found)


def _where(row: Row, kind: str, value: str) -> Entity | None:
    words = phrase(value)
    for source, text in (("title", row.title), ("description", about_the_product(row.description or ""))):
        for span in _places(words, text):
            return Entity(kind, value, source, span=span)
    for name, stated in row.attributes:
        if words and contains(phrase(row.translations.get(stated, stated)), words):
            return Entity(kind, value, "attribute", field=name)
    return None


def _places(words: tuple[str, ...], text: str) -> list[tuple[int, int]]:
    said = tokens(text)
    parts = (said[place : place + len(words)] for place in range(len(said) - len(words) + 1) if words)
    return [(part[0].start, part[-1].end) for part in parts if tuple(token.word for token in part) == words]
