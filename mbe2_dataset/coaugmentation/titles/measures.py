"""Numbers with a meaning: sizes, capacities, weights, dimensions, counts and shares of a material, in two languages."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import regex

# Every spelling of a unit; the first one stands for all of them.
UNITS = {
    "capacity": (
        ("ml", "millilitre", "milliliter", "millilitres", "milliliters", "毫升"),
        ("l", "litre", "liter", "litres", "liters", "ltr", "公升", "升"),
        ("fl oz", "fluid ounce", "fluid ounces"),
        ("gallon", "gallons", "加仑"),
    ),
    "weight": (
        ("mg", "毫克"),
        ("kg", "kgs", "kilogram", "kilograms", "千克", "公斤"),
        ("g", "gm", "gms", "gram", "grams", "克"),
        ("lb", "lbs", "pound", "pounds", "磅"),
        ("oz", "ounce", "ounces", "盎司"),
        ("斤",),
    ),
    "length": (
        ("cm", "cms", "centimetre", "centimeter", "centimetres", "centimeters", "厘米", "公分"),
        ("mm", "millimetre", "millimeter", "millimetres", "millimeters", "毫米"),
        ("inch", "inches", "in", '"', "″", "英寸", "寸"),
        ("ft", "feet", "foot", "英尺"),
        ("m", "metre", "meter", "metres", "meters", "米"),
    ),
    "power": (("w", "watt", "watts", "瓦"), ("v", "volt", "volts", "伏")),
    "electric charge": (("mah", "毫安", "毫安时"),),
    "storage": (("gb",), ("tb",), ("mb",)),
    "share": (("%", "percent", "per cent"),),
}
NUMBER_WORDS = {
    **{"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10},
    **{"dozen": 12, "twelve": 12, "twenty": 20, "hundred": 100},
}
CHINESE_NUMBERS = {character: number for number, character in enumerate("一二三四五六七八九十", 1)} | {"两": 2}

_CANONICAL = {spelling: (kind, unit[0]) for kind, units in UNITS.items() for unit in units for spelling in unit}
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
