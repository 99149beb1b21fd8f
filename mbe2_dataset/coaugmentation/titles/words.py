"""Words, amounts and claims in English and Chinese: what every catalogue says in the same way (our choice)."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import regex
import yaml

from common_moon2.text import UNSPACED

# A plain word (first, because it is the most frequent), one character of an unspaced script, a number, "T-shirt" and
# its like as one word, or any other word.
_TOKEN = regex.compile(
    rf"[A-Za-z]{{2,}}(?![\p{{L}}\p{{M}}])(?:['’]s?)?|[{UNSPACED}]|\p{{N}}+(?:[.,]\p{{N}}+)*|\p{{L}}-\p{{L}}{{3,}}"
    rf"|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}])+(?:['’]s?)?"
)
_TABLES = yaml.load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)


def _inverted(name: str) -> dict[str, str]:
    """Return a table of `words.yaml` the other way round: each of the values, and what it stands under."""
    return {word: meaning for meaning, words in _TABLES[name].items() for word in words.split(", ")}


_VARIANTS = _inverted("variants")


class Token(NamedTuple):
    """A folded word, and where it stands in the text."""

    word: str
    start: int
    end: int


@lru_cache(maxsize=10_000)
def tokens(text: str) -> tuple[Token, ...]:
    """Return the words of `text`; each character of an unspaced script is a word."""
    return tuple(Token(fold(match[0]), match.start(), match.end()) for match in _TOKEN.finditer(text))


@lru_cache(maxsize=200_000)
def phrase(text: str) -> tuple[str, ...]:
    """Return the folded words of `text`."""
    return tuple(fold(word) for word in _TOKEN.findall(text))


@lru_cache(maxsize=200_000)
def fold(word: str) -> str:
    """Fold a word: lower case, singular, no possessive or hyphen, British spelling; a number without commas."""
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
    """Remove the verbal ending of a folded word, so that "printed" and "print", "striped" and "stripe" are the same."""
    if not word.isascii() or len(word) < 5:
        return word
    return regex.sub(r"(?:(?<=.{3})ing|(?<=.{3})ed|(?<=.{3})e|(?<=.{4})ly)$", "", word)


def joined_pairs(found: tuple[Token, ...]) -> Iterator[str]:
    """Join neighbouring words between which nothing stands, as in a script without spaces."""
    return (one.word + other.word for one, other in pairwise(found) if one.end == other.start)


def contains(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Tell whether `part` stands in `words` as neighbours."""
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))


# What stands in a column that has to have a value, or is said of nearly everything.
VAGUE = frozenset(phrase(word) for word in _TABLES["vague"].split(", "))
# Fields that keep house rather than describe the product.
HOUSEKEEPING = regex.compile(
    r"wash|care|warrant|shelf life|usable period|hex|year|processing|\bsku\b|\bids?\b|barcode|\bean\b|\bgtin\b|"
    r"business unit|segment|\bbrick\b|洗涤|保养|保修|质保|年份|条码|编号|产地"
)

# The names under which catalogues list a type of entity; its usual values; whom a word for an audience means.
ATTRIBUTE_TYPES = _inverted("names")
BUILT_IN = {phrase(word): (kind, word) for word, kind in _inverted("words").items()}
AUDIENCES = _inverted("audiences")
# Words of grammar; and what an image may show.
CONNECTORS, VISUAL = (frozenset(phrase(_TABLES[name])) for name in ("connectors", "visual"))


@lru_cache(maxsize=10_000)
def attribute_type(name: str) -> str | None:
    """Return the entity type of an attribute's name: of ATTRIBUTE_TYPES, or the name itself; None for housekeeping."""
    spaced = regex.sub(r"(?<=\p{Ll})(?=\p{Lu})|[_\-./]+", " ", name).casefold()
    plain = regex.sub(r"\s+", " ", regex.sub(r"[\d\s]+$", "", spaced)).strip().replace("color", "colour")
    if HOUSEKEEPING.search(plain) or not plain:
        return None
    return ATTRIBUTE_TYPES.get(plain) or ATTRIBUTE_TYPES.get(plain.removesuffix("s")) or plain


_CLAIM = regex.compile(
    r"(?i:(?<!\p{L})(?:best(?:[ -]?sell(?:ing|ers?))?|#\s?1|no\.?\s?1|number one|"
    r"top[ -](?:rated|quality|notch|selling)|"
    r"(?:100\s?%\s?)?(?:original|genuine|authentic)(?!\p{L}|[ ]leather)|"
    r"(?:free|fast)[ ](?:shipping|delivery|returns?|gift)|"
    r"hot[ ](?:sale|selling)|(?:for|on)[ ]sale|"
    r"sale|discount(?:ed)?|\d+\s?%\s?off|cheap(?:est)?|(?:lowest|best)[ ]price|"
    r"limited[ ]time|guaranteed?|new[ ]arrivals?|premium|luxur(?:y|ious)|perfect|amazing|ultimate|must[ -]have|finest|"
    r"unbeatable|unmatched|world[ -]class|exclusive|buy[ ]now|hurry|order[ ]now|greatest|incredible|superior)(?!\p{L}))"
    r"|正品|包邮|最[佳好低优热强新高]|第一|顶级|极品|爆款|热卖|热销|畅销|秒杀|特价|促销|打折|清仓|限时|抢购|买一送|赠品|全网|"
    r"官方|旗舰店|绝对|国家级|独家|新品上市|假一|厂家直销|免运费|优惠|折扣|必备|神器|奢华|完美"
)


def claims(text: str) -> list[str]:
    """Return the claims in `text`, in lower case."""
    return [match[0].casefold() for match in _CLAIM.finditer(text)]


# --- amounts: sizes, capacities, weights, dimensions, counts and shares of a material

NUMBER_WORDS: dict[str, int] = _TABLES["numbers"]
CHINESE_NUMBERS = {character: number for number, character in enumerate("一二三四五六七八九十", 1)} | {"两": 2}

# Every spelling of a unit -> what it measures, and the first spelling, which stands for all of them.
_CANONICAL = {
    spelling: (kind, unit.split(", ")[0])
    for kind, units in _TABLES["units"].items()
    for unit in units
    for spelling in unit.split(", ")
}
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_COUNTED = "件套|件装|只装|个装|双装|条装|包装|片装|支装|瓶装|盒装|件|只|双|条|片|支|瓶|盒|枚"
_DECIMAL = regex.compile(r"[0-9]+(?:\.[0-9]+)?")
_PIECES = "pcs?|pieces?|packs?|pairs?|count|ct"
_SIDE = 'cm|mm|m|inch|in|"|厘米|毫米|米'
_COUNT_WORDS = "|".join(NUMBER_WORDS)
# The three branches begin with a digit, a Latin letter and a Chinese character, so that most places fail at once.
_PATTERN = regex.compile(
    rf"""
    (?<![\d.])(?=\d)(?:
        (?P<dimension>{_NUMBER}\s?(?:{_SIDE})?(?:\s?[x×*]\s?{_NUMBER}\s?(?:{_SIDE})?){{1,2}}(?![\p{{L}}\d]))
        |(?P<counted>\d+)(?:[ -]?(?i:{_PIECES})(?![\p{{L}}\d])|(?:{_COUNTED}))
        |(?P<number>{_NUMBER})[ -]?(?P<unit>(?i:\L<units>))(?![\p{{Latin}}\d])(?!(?<=in)[ ]\d)
        |(?P<size>\d{{2,3}}码|[2-6]XL(?![\p{{L}}\d])))
    |(?<![\p{{Latin}}\d])(?=[A-Za-z])(?:
        (?i:pack|set|box|bundle)[ ]of[ ](?P<counted>\d+|(?i:{_COUNT_WORDS}))(?!\p{{L}})
        |(?P<counted>(?i:{_COUNT_WORDS}))[ -](?i:{_PIECES})(?!\p{{L}})
        |(?i:size)[ :]{{1,2}}(?P<stated>(?i:small|medium|large|x-?large)|[2-6]?X{{0,3}}[SML]|\d{{1,3}}(?:\.5)?)
            (?![\p{{L}}\d%.]|[ -]?(?i:\L<units>)(?!\p{{L}}))
        |(?P<size>XX?S|X{{1,3}}L|(?:UK|US|EU)[ ]?\d{{1,2}}(?:\.5)?|(?i:free|one|plus)[ -](?i:size))(?![\p{{L}}\d]))
    |(?=\p{{Script=Han}})(?:(?P<size>(?:特大|加大|大|中|小)号|均码)
        |(?P<counted>[{"".join(CHINESE_NUMBERS)}])(?:{_COUNTED}))
    """,
    regex.VERBOSE,
    units=sorted(_CANONICAL, key=len, reverse=True),
)


class Measure(NamedTuple):
    """`kind` is an entity type; `key` is the same for every spelling of the same amount."""

    kind: str
    key: tuple[str, ...]
    value: str
    start: int
    end: int


@lru_cache(maxsize=10_000)
def measures(text: str) -> tuple[Measure, ...]:
    """Return all measures in `text`, in order."""
    return tuple(_measures(text))


def overlap(found: tuple[Measure, ...], start: int, end: int) -> bool:
    """Tell whether any measure takes part of the text between two places."""
    return any(measure.start < end and start < measure.end for measure in found)


def _measures(text: str) -> Iterator[Measure]:
    for match in _PATTERN.finditer(text.replace("”", '"')):
        value = match[0].strip()
        start, end = match.start(), match.start() + len(value)
        if match["unit"]:
            kind, unit = _CANONICAL[match["unit"].casefold()]
            yield Measure(kind, (number_key(match["number"]), unit), value, start, end)
        elif match["counted"]:
            yield Measure("count", (number_key(match["counted"]), "pieces"), value, start, end)
        elif match["dimension"]:
            yield Measure("dimension", tuple(regex.findall(r"[\d.]+|\p{L}+", value)), value, start, end)
        else:
            yield Measure("size", ((match["stated"] or value).casefold(), "size"), match["stated"] or value, start, end)


def number_key(number: str) -> str:
    """Return the digits of a number, a number word or a Chinese numeral: "1,000" is 1000, "three" and 三 are 3."""
    known = NUMBER_WORDS.get(number.casefold()) or CHINESE_NUMBERS.get(number)
    plain = number.replace(",", "")
    return str(known) if known else f"{float(plain):.12g}" if _DECIMAL.fullmatch(plain) else number
