"""The guard: an enriched title gains only what row or image supports, and loses nothing that names the product.

MOON2.0, section 5, wants semantics to stay; the rules are our choice.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import regex

from common_moon2.text import is_unspaced
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.entities import Entity, Gazetteer, about_the_product
from mbe2_dataset.coaugmentation.titles.words import (
    AUDIENCES,
    BUILT_IN,
    CONNECTORS,
    NUMBER_WORDS,
    VISUAL,
    Measure,
    Token,
    claims,
    contains,
    joined_pairs,
    measures,
    number_key,
    overlap,
    phrase,
    stem,
    tokens,
)

MAX_CHARACTERS = 250
MAX_CHARACTERS_UNSPACED = 120
MAX_OF_ONE_WORD = 2

_CONNECTORS_UNSPACED = frozenset("的款和与及用带型式装色为质适合、")
_MARKUP = regex.compile(r"[<>{}\[\]\\|@`]|https?:|www\.|[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}]")
_SYMBOL = regex.compile(r"[\p{So}\p{Sc}™®©]")
_DIGIT = regex.compile(r"\p{N}")
_LETTER = regex.compile(r"\p{L}")
_JOINTS = regex.compile(r"[-/.]")
_CODE = regex.compile(r"(?<![\p{L}\p{N}])(?:[\p{Latin}\p{N}]+(?:[-/.][\p{Latin}\p{N}]+)*)")


class Rejection(NamedTuple):
    """`reason`: empty, length, markup, claim, brand, identifier, measure, number, name, unsupported, contradiction,
    repetition, lost or nothing added. `text` is the piece it is about."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kept` if nothing is `rejected`; `added` has what the new title says beyond the old one, in its own words."""

    kept: bool
    added: tuple[str, ...]
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What can be compared between texts."""

    phrases: tuple[tuple[str, ...], ...]
    words: frozenset[str]
    stems: frozenset[str]
    measures: frozenset[tuple]
    numbers: frozenset[str]
    codes: frozenset[str]
    pairs: frozenset[str]

    def has(self, words: tuple[str, ...]) -> bool:
        return any(contains(text, words) for text in self.phrases)


def check_support(
    row: Row,
    entities: Iterable[Entity],
    new_title: str,
    gazetteer: Gazetteer,
    picture_claims: Iterable[str] | None = None,
) -> Verdict:
    """Check whether `new_title` may stand beside the title of `row`.

    Args:
        picture_claims: the words that the writer says it saw in the image; None if it saw none. Only ordinary words
            are taken from an image: no names, numbers or identifiers, because an image can hold injected text.
    """
    entities = tuple(entities)
    new = " ".join(new_title.split()) if not _MARKUP.search(new_title) else new_title
    if not new.strip():
        return Verdict(False, (), (Rejection("empty", new),))
    source = _facts(_source_texts(row, entities), entities)
    old = _facts([row.title], ())
    rejected = [
        *_form(row, new, source),
        *(Rejection("claim", claim) for claim in claims(new) if claim not in row.title.casefold()),
        *_names_and_numbers(new, source, gazetteer),
        *_words(new, source, gazetteer, picture_claims),
        *_contradictions(row, new, entities, gazetteer, picture_claims),
        *_lost(row, old, new, gazetteer),
    ]
    added = _added(row.title, new)
    if not rejected and not added:
        rejected = [Rejection("nothing added", new)]
    return Verdict(not rejected, added, tuple(dict.fromkeys(rejected)))


def _source_texts(row: Row, entities: tuple[Entity, ...]) -> list[str]:
    labels = [row.brand or "", *row.category, *(part for pair in row.attributes for part in pair)]
    labels += [row.translations[label] for label in labels if label in row.translations]
    return [row.title, about_the_product(row.description or ""), *labels, *(entity.value for entity in entities)]


def _facts(texts: list[str], entities: tuple[Entity, ...]) -> _Facts:
    found = [tokens(text) for text in texts]
    words = frozenset(token.word for text in found for token in text)
    measured = [measure for text in texts for measure in measures(text)]
    numbers = {word for word in words if word[0].isdecimal()}
    numbers |= {number_key(word) for word in words if word in NUMBER_WORDS} | {measure.key[0] for measure in measured}
    return _Facts(
        phrases=tuple(tuple(token.word for token in text) for text in found),
        words=words,
        stems=frozenset(map(stem, words)),
        measures=frozenset((measure.kind, measure.key) for measure in measured)
        | {("size", (entity.value.casefold(), "size")) for entity in entities if entity.type == "size"},
        numbers=frozenset(numbers) | {number_key(number) for number in numbers},
        codes=frozenset(code for text in texts for code, _ in _codes(text)),
        pairs=frozenset(pair for text in found for pair in joined_pairs(text)),
    )


def _codes(text: str) -> list[tuple[str, str]]:
    """Find model numbers and the like: runs of letters and digits that are no measure; plain, and as they stand."""
    if not _DIGIT.search(text):
        return []
    measured = measures(text)
    return [
        (_JOINTS.sub("", match[0]).casefold(), match[0])
        for match in _CODE.finditer(text)
        if _DIGIT.search(match[0]) and _LETTER.search(match[0]) and not overlap(measured, match.start(), match.end())
    ]


def _form(row: Row, new: str, source: _Facts) -> list[Rejection]:
    limit = MAX_CHARACTERS_UNSPACED if is_unspaced(new) else MAX_CHARACTERS
    found = [Rejection("length", f"{len(new)} characters")] if len(new) > max(limit, len(row.title)) else []
    found += [Rejection("markup", mark) for mark in _MARKUP.findall(new) if mark not in row.title]
    found += [Rejection("markup", mark) for mark in _SYMBOL.findall(new) if mark not in row.title]
    before = Counter(phrase(row.title))
    for word, count in Counter(phrase(new)).items():
        often = count > MAX_OF_ONE_WORD and not is_unspaced(word) and word not in CONNECTORS
        if often and count > before[word]:
            found.append(Rejection("repetition", word))
    return found


def _names_and_numbers(new: str, source: _Facts, gazetteer: Gazetteer) -> list[Rejection]:
    found = [
        Rejection("brand", new[match.start : match.end])
        for match in gazetteer.find_brands(new, any_case=True)
        if not source.has(match.words) and not CONNECTORS.issuperset(match.words)
    ]
    found += [Rejection("identifier", text) for code, text in _codes(new) if code not in source.codes]
    measured = measures(new)
    found += [Rejection("measure", m.value) for m in measured if (m.kind, m.key) not in source.measures]
    for token in _outside(tokens(new), measured):
        is_number = token.word[0].isdecimal() or token.word in NUMBER_WORDS
        if is_number and not source.numbers.intersection((token.word, number_key(token.word))):
            found.append(Rejection("number", new[token.start : token.end]))
    return found


def _outside(found: tuple[Token, ...], measured: tuple[Measure, ...]) -> list[Token]:
    return [token for token in found if not overlap(measured, token.start, token.end)]


def _words(new: str, source: _Facts, gazetteer: Gazetteer, picture_claims: Iterable[str] | None) -> list[Rejection]:
    seen = [phrase(claim) for claim in picture_claims or ()]
    words = _outside(tokens(new), measures(new))
    found = []
    for token in words:
        word = token.word
        if is_unspaced(word) or word[0].isdecimal() or word in NUMBER_WORDS or word in CONNECTORS:
            continue
        if word in source.words or stem(word) in source.stems:
            continue
        text = new[token.start : token.end]
        if not _is_ordinary(word, gazetteer):
            found.append(Rejection("name" if text[0].isupper() else "unsupported", text))
        elif not any(word in claim for claim in seen):
            found.append(Rejection("unsupported", text))
    for run in _uncovered(words, source.pairs):
        pairs = [first + second for first, second in zip(run, run[1:], strict=False)]
        ordinary = pairs and all(pair in gazetteer.vocabulary or pair in _BUILT_IN_PAIRS for pair in pairs)
        if not (ordinary and any(contains(claim, tuple(run)) for claim in seen)):
            found.append(Rejection("unsupported", "".join(run)))
    return found


_BUILT_IN_WORDS = frozenset(word for words in BUILT_IN for word in words)
_BUILT_IN_PAIRS = frozenset(a + b for words in BUILT_IN for a, b in zip(words, words[1:], strict=False))


def _is_ordinary(word: str, gazetteer: Gazetteer) -> bool:
    return word in VISUAL or word in _BUILT_IN_WORDS or word in gazetteer.vocabulary


def _uncovered(words: list[Token], pairs: frozenset[str]) -> list[str]:
    """Find runs of unspaced characters of which no pair of neighbours is in the source."""
    runs, run = [], ""
    for place, token in enumerate(words):
        covered = token.word in _CONNECTORS_UNSPACED or not is_unspaced(token.word)
        for first, second in ((place - 1, place), (place, place + 1)):
            if not covered and first >= 0 and second < len(words) and words[first].end == words[second].start:
                covered = words[first].word + words[second].word in pairs
        if not covered:
            run += token.word
        if run and (covered or place == len(words) - 1):
            runs.append(run)
            run = ""
    return runs


def _contradictions(
    row: Row, new: str, entities: tuple[Entity, ...], gazetteer: Gazetteer, picture_claims: Iterable[str] | None
) -> list[Rejection]:
    """Find a gained colour or audience that is not the product's, though a description may mention it."""
    old, found = phrase(row.title), []
    known = {kind: [phrase(e.value) for e in entities if e.type == kind] for kind in ("colour", "audience")}
    groups = {AUDIENCES.get("".join(words)) for words in known["audience"]}
    seen = [phrase(claim) for claim in picture_claims or ()]
    for match in gazetteer.find(new):
        if contains(old, match.words) or not known.get(match.type):
            continue
        if match.type == "audience":
            wrong = AUDIENCES.get("".join(match.words)) not in groups
        else:
            shown = any(contains(claim, match.words) for claim in seen)
            wrong = not shown and not any(contains(words, match.words) for words in known["colour"])
        if wrong:
            found.append(Rejection("contradiction", new[match.start : match.end]))
    return found


def _lost(row: Row, old: _Facts, new: str, gazetteer: Gazetteer) -> list[Rejection]:
    """Find what names the product in the old title and is not in the new one."""
    now = _facts([new], ())
    (before,), (after,) = old.phrases, now.phrases
    brands = [phrase(brand) for brand in (row.brand, row.translations.get(row.brand)) if brand]
    names = [words for words in brands if contains(before, words)]
    names += [match.words for match in gazetteer.find(row.title) if match.type == "type"]
    lost = [" ".join(words) for words in names if not contains(after, words)]
    lost += [code for code in old.codes if code not in now.codes]
    lost += [" ".join(key) for kind, key in old.measures if (kind, key) not in now.measures]
    lost += [number for number in old.numbers if number not in now.numbers]
    for token in tokens(row.title):
        name = row.title[token.start].isupper() and not is_unspaced(token.word)
        if name and token.word not in now.words and not _is_ordinary(token.word, gazetteer):
            lost.append(row.title[token.start : token.end])
    return [Rejection("lost", text) for text in sorted(set(lost))]


def _added(title: str, new: str) -> tuple[str, ...]:
    """Find the stretches of `new` whose words are not in `title`, connectors left out."""
    left = Counter(phrase(title))
    stretches: list[list[Token]] = []
    last = None
    for token in tokens(new):
        gained = left[token.word] == 0 and token.word not in CONNECTORS and token.word not in "、"
        left[token.word] -= left[token.word] > 0
        if gained and last is not None and new[last.end : token.start] in ("", " ", "-"):
            stretches[-1].append(token)
        elif gained:
            stretches.append([token])
        last = token if gained else None
    return tuple(new[stretch[0].start : stretch[-1].end] for stretch in stretches)
