"""A gazetteer: the words for brands, types, colours, materials and so on that a catalogue itself uses."""

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
    joined_pairs,
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
