"""Cuts a title into the pieces a shopper would type, without assuming that words are separated by spaces."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import regex

from common_moon2.text import UNSPACED, is_unspaced

_WORD_CHARACTER = regex.compile(r"[\p{L}\p{M}\p{N}]")
# A run of unspaced script, or a word of another one; punctuation inside a word ("T-shirt", "1.5") belongs to it.
_PIECE = regex.compile(rf"[{UNSPACED}]+|[\p{{L}}\p{{M}}\p{{N}}](?:[^\s{UNSPACED}]*[\p{{L}}\p{{M}}\p{{N}}%])?")
_POSSESSIVE = regex.compile(r"['’]s(?![\p{L}\p{N}])", regex.IGNORECASE)
_FUNCTION_WORDS = frozenset(("a", "an", "and", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))


def mentions(title: str, value: str) -> bool:
    """Whether `title` has `value` in it, in any case, and as whole words where the script has such."""
    return next(_occurrences(title, value), None) is not None


def title_units(title: str, values: Iterable[str]) -> list[str]:
    """The title in pieces, in order: known `values` as they stand in it, and the words between them.

    A run of unspaced script between known values stays whole, because only a dictionary could cut it. What says nothing
    by itself is left out: such a run of one character (a particle, mostly) and English function words.
    """
    taken: list[tuple[int, int]] = []
    for value in sorted(set(values), key=lambda value: (-len(value), value)):
        for start, end in _occurrences(title, value):
            possessive = _POSSESSIVE.match(title, end)
            end = possessive.end() if possessive else end
            if all(end <= other_start or other_end <= start for other_start, other_end in taken):
                taken.append((start, end))
    units: list[str] = []
    position = 0
    for start, end in [*sorted(taken), (len(title), len(title))]:
        units += [piece for piece in _PIECE.findall(title[position:start]) if _says_something(piece)]
        units += [title[start:end]] if start < end else []
        position = end
    return units or [title.strip()]


def join_units(units: list[str]) -> str:
    """With spaces, except between two pieces in unspaced scripts."""
    text = ""
    for unit in units:
        gap = text and not (is_unspaced(text[-1]) and is_unspaced(unit[0]))
        text += f" {unit}" if gap else unit
    return text


def _says_something(piece: str) -> bool:
    if is_unspaced(piece):
        return len(regex.findall(r"\X", piece)) > 1
    return piece.lower() not in _FUNCTION_WORDS


@lru_cache(maxsize=100_000)
def _finder(value: str) -> re.Pattern:
    return re.compile(re.escape(value), re.IGNORECASE)


def _occurrences(title: str, value: str) -> Iterator[tuple[int, int]]:
    for match in _finder(value).finditer(title):
        start, end = match.span()
        if not _same_word(title[max(start - 1, 0) : start + 1]) and not _same_word(title[end - 1 : end + 1]):
            yield start, end


def _same_word(pair: str) -> bool:
    """Whether two neighbouring characters belong to one word of a script with spaces."""
    return len(pair) == 2 and all(_WORD_CHARACTER.match(c) and not is_unspaced(c) for c in pair)
