"""Words of a text in a form in which case, plural, possessive and spelling variants are the same word."""

from functools import lru_cache
from typing import NamedTuple

import regex

from ..text_units import UNSPACED

# A plain word (first, because it is the most frequent), one character of an unspaced script, a number, "T-shirt" and
# its like as one word, or any other word.
_TOKEN = regex.compile(
    rf"[A-Za-z]{{2,}}(?![\p{{L}}\p{{M}}])(?:['’]s?)?|[{UNSPACED}]|\p{{N}}+(?:[.,]\p{{N}}+)*|\p{{L}}-\p{{L}}{{3,}}"
    rf"|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}])+(?:['’]s?)?"
)
_VARIANTS = {
    **{"woman": "women", "womens": "women", "lady": "women", "female": "women"},
    **{"man": "men", "mens": "men", "gent": "men", "male": "men", "child": "kid", "children": "kid"},
    **{"gray": "grey", "color": "colour", "aluminum": "aluminium", "jewelry": "jewellery", "tee": "tshirt"},
    # The plural of the first is another thing, and the others are no plurals.
    **{word: word for word in ("glasses", "canvas", "lens", "christmas", "gas", "plus", "always")},
}


class Token(NamedTuple):
    """A folded word, and where it stands in the text."""

    word: str
    start: int
    end: int


@lru_cache(maxsize=10_000)
def tokens(text: str) -> tuple[Token, ...]:
    """The words of `text`; each character of an unspaced script is a word."""
    return tuple(Token(fold(match[0]), match.start(), match.end()) for match in _TOKEN.finditer(text))


@lru_cache(maxsize=200_000)
def phrase(text: str) -> tuple[str, ...]:
    """The folded words of `text`."""
    return tuple(fold(word) for word in _TOKEN.findall(text))


@lru_cache(maxsize=200_000)
def fold(word: str) -> str:
    """Lower case, singular, without possessive or hyphen, in British spelling; numbers without thousands separators."""
    if word[0].isdecimal():
        return regex.sub(r",(?=\d{3}\b)", "", word)
    word = regex.sub(r"['’]s?$", "", word.casefold()).replace("-", "")
    if word not in _VARIANTS and len(word) > 3 and word.isascii():
        if word.endswith("ies") and len(word) > 4:
            word = word[:-3] + "y"
        elif word.endswith(("sses", "xes", "zes", "ches", "shes")):
            word = word[:-2]
        elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-1]
    return _VARIANTS.get(word, word)


@lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """A folded word without its verbal ending, so that "printed" and "print", "striped" and "stripe" are the same."""
    if not word.isascii() or len(word) < 5:
        return word
    return regex.sub(r"(?:(?<=.{3})ing|(?<=.{3})ed|(?<=.{3})e|(?<=.{4})ly)$", "", word)


def contains(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Whether `part` stands in `words` as neighbours."""
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))
