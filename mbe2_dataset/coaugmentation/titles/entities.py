"""What a row says about its product, and where (MOON2.0, section 5; the tool is our choice).

It is found with a gazetteer: the words for brands, types, colours, materials and so on that a catalogue itself uses.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import regex

from common_moon2.text import is_unspaced
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.words import (
    ATTRIBUTE_TYPES,
    BUILT_IN,
    VAGUE,
    Token,
    attribute_type,
    contains,
    joined_pairs,
    measures,
    overlap,
    phrase,
    tokens,
)

# A longer attribute value is a sentence; one that ends in a preposition is a sentence cut off.
MAX_VALUE_WORDS = 4
_CUT_OFF = regex.compile(r"\b(?:and|by|for|from|in|of|on|the|to|with)$", regex.IGNORECASE)
_SEVERAL = regex.compile(r"\s*[,;/|、，；]\s*")
_LETTER = regex.compile(r"\p{L}")
_GAPS = frozenset(("", " ", "-"))
_KNOWN_TYPES = frozenset(ATTRIBUTE_TYPES.values())
# The key, in a trie node, of what a phrase that ends there stands for.
_END = ""


class Match(NamedTuple):
    """A phrase of the gazetteer in a text: `value` is its usual spelling, `words` is it folded."""

    type: str
    value: str
    words: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Gazetteer:
    """What `learn_gazetteer` found.

    Args:
        phrases: folded words -> (entity type, usual spelling); brands are apart, because only titles can be trusted
            to mean a brand by a word that is one.
        brands: folded words -> usual spelling.
        vocabulary: folded words that descriptions write without a capital: these are no names. Unspaced scripts have
            pairs of characters instead.
    """

    phrases: dict[tuple[str, ...], tuple[str, str]]
    brands: dict[tuple[str, ...], str]
    vocabulary: frozenset[str]

    @cached_property
    def digest(self) -> str:
        """Return 16 hexadecimal digits; two gazetteers that are not equal have different ones."""
        content = [sorted(self.phrases.items()), sorted(self.brands.items()), sorted(self.vocabulary)]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()

    def find(self, text: str) -> Iterator[Match]:
        """Find phrases in `text`, from left to right, the longest at each place; no two overlap."""
        for words, start, end in _find(self._trie, text, tokens(text)):
            yield Match(*self.phrases[words], words, start, end)

    def find_brands(self, text: str, any_case: bool = False) -> Iterator[Match]:
        """Find known brands in `text`, written with a capital or in a script that has none, or in `any_case`."""
        for words, start, end in _find(self._brand_trie, text, tokens(text)):
            if any_case or not text[start].islower():
                yield Match("brand", self.brands[words], words, start, end)

    @cached_property
    def _trie(self) -> dict:
        return _trie(self.phrases)

    @cached_property
    def _brand_trie(self) -> dict:
        return _trie(self.brands)

    def __getstate__(self) -> dict:
        return {"phrases": self.phrases, "brands": self.brands, "vocabulary": self.vocabulary}


def _trie(phrases: Iterable[tuple[str, ...]]) -> dict:
    root: dict = {}
    for words in phrases:
        node = root
        for word in words:
            node = node.setdefault(word, {})
        node[_END] = words
    return root


def _find(trie: dict, text: str, found: tuple[Token, ...]) -> Iterator[tuple[tuple[str, ...], int, int]]:
    place = 0
    while place < len(found):
        node, longest, after = trie.get(found[place].word), None, place + 1
        position = place + 1
        while node is not None:
            if _END in node:
                longest, after = node[_END], position
            if position == len(found) or text[found[position - 1].end : found[position].start] not in _GAPS:
                break
            node = node.get(found[position].word)
            position += 1
        if longest is not None:
            yield longest, found[place].start, found[after - 1].end
        place = after


@lru_cache(maxsize=100_000)
def split_values(value: str) -> tuple[str, ...]:
    """Split the values of an attribute that lists several; one that says nothing about the product gives none."""
    values = (part.strip() for part in _SEVERAL.split(value))
    return tuple(
        part for part in values if _LETTER.search(part) and not _CUT_OFF.search(part) and phrase(part) not in VAGUE
    )


def learn_gazetteer(rows: Iterable[Row], min_count: int = 2) -> Gazetteer:
    """Learn from brands, category leaves, attributes and descriptions, which are read once.

    Args:
        min_count: an attribute value or word that fewer rows have is left out; brands and categories are kept.

    A phrase that occurs with several types gets the one it has most often, and the built-in lists come first.
    """
    kinds: dict[tuple[str, ...], Counter] = defaultdict(Counter)
    spellings: dict[tuple[str, ...], Counter] = defaultdict(Counter)
    brands: dict[tuple[str, ...], Counter] = defaultdict(Counter)
    sure: set[tuple[str, ...]] = set()
    vocabulary: Counter = Counter()
    for row in rows:
        facts = [(attribute_type(name), part) for name, value in row.attributes for part in split_values(value)]
        facts += [("type", leaf) for leaf in row.category[-1:]] + [("brand", row.brand or "")]
        for kind, label in facts:
            for text in dict.fromkeys((label, row.translations.get(label, label))):
                words = phrase(text)
                if not _can_be_found(words, kind):
                    continue
                if kind == "brand":
                    brands[words][text] += 1
                else:
                    kinds[words][kind] += 1
                    spellings[words][text] += 1
                    sure |= {words} if label in row.category else set()
        vocabulary.update(_plain_words(row.description or ""))
    phrases = dict(BUILT_IN)
    for words, counts in kinds.items():
        if words in sure or counts.total() >= min_count:
            kind = BUILT_IN[words][0] if words in BUILT_IN else _most_frequent(counts)
            phrases[words] = (kind, _most_frequent(spellings[words]))
    names = {words: _most_frequent(counts) for words, counts in brands.items()}
    known = {word for word, count in vocabulary.items() if count >= min_count and (word,) not in names}
    return Gazetteer(phrases, names, frozenset(known))


@lru_cache(maxsize=200_000)
def _can_be_found(words: tuple[str, ...], kind: str | None) -> bool:
    """Tell whether a text with these words means the thing: one character, or a word of an unknown kind, may not."""
    if kind is None or not words or words in VAGUE:
        return False
    if is_unspaced("".join(words)):
        return len(words) > 1
    if all(word[0].isdecimal() for word in words):
        return False
    return len(words) <= MAX_VALUE_WORDS and (len(words) > 1 or (kind in _KNOWN_TYPES and len(words[0]) > 1))


def _most_frequent(counts: Counter) -> str:
    return min(counts, key=lambda text: (-counts[text], text))


def _plain_words(description: str) -> set[str]:
    found = tokens(description)
    plain = {token.word for token in found if description[token.start].islower()}
    if is_unspaced(description):
        plain |= {pair for pair in joined_pairs(found) if is_unspaced(pair)}
    return plain


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
