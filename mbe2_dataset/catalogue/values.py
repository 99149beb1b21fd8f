"""Turn the cells of other people's tables into values of a catalogue.

What has no clear meaning is a ValueError, never a guess. What is changed on the way is counted in `changes`, under
"column: what"; counters of several processes can be added.
"""

import ast
import html
import json
import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import yaml

# Between the levels of a category. The first are hardly ever part of a name; a name may well contain one of the others.
CLEAR_LEVELS = ("->", ">", "»", "›", "→")
LEVELS = (*CLEAR_LEVELS, " | ", "|", " / ", "/", "\\")
# Between several categories in one cell, the clearest first.
PATHS = ("\n", "||", ";", "|", ",")
# The root that platforms put above all categories.
ROOTS = {"default category", "root catalog", "categories"}
# Between attributes, and between the name and the value of one ('#;#' and '#:#' are M5Product's, ',,' is MBE's).
PAIRS = ("#;#", ",,", "\n", ";", "；", "|", ",", "，")
NAME_ENDS = ("#:#", ":", "：", "=")
VALUES = "!!!"
NAMES_OF_NAME = ("name", "key", "k", "attribute", "attribute_name")
NAMES_OF_VALUE = ("value", "values", "v", "attribute_value", "options")
ADDRESS = re.compile(r"(?:https?:)?//", re.IGNORECASE)
PICTURE_FILE = re.compile(r"\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|hei[cf])$", re.IGNORECASE)


def read_yaml(name: str) -> dict:
    """Read a YAML file beside this module."""
    return yaml.load((Path(__file__).parent / name).read_text(encoding="utf-8"), yaml.CSafeLoader)


NAMES = read_yaml("names.yaml")
# What programs write for nothing.
NOTHING = set(NAMES["nothing"])


@dataclass(frozen=True, slots=True)
class Reading:
    """How the cells of one column are read (`decide`). None: it is not known, so each cell decides for itself.

    Attributes:
        category_levels: between the levels of a category; "" if the column has categories of one level only.
        category_paths: between several categories in one cell; "" if a cell has one.
        attribute_pairs: between attributes.
        attribute_ends: between the name and the value of an attribute.
        attribute_values: between several values of one attribute, besides '!!!'.
        decimal: the decimal mark of prices.
    """

    category_levels: str | None = None
    category_paths: str | None = None
    attribute_pairs: str | None = None
    attribute_ends: str | None = None
    attribute_values: str | None = None
    decimal: Literal[".", ","] | None = None


UNDECIDED = Reading()


def decide(kind: Literal["category", "attributes", "price"], cells: Iterable[object]) -> Reading:
    """Decide from a sample of the cells of a column how all of them are read.

    A separator that only a few cells have is part of a name: 'Home & Garden/Kitchen' keeps its slash where other cells
    have '>'.
    """
    found = [unpacked(cell) for cell in cells]
    if kind == "category":
        return _decide_category(found)
    texts = list(filter(None, (as_words(cell, one_line=False) for cell in found if isinstance(cell, str))))
    return _decide_attributes(texts) if kind == "attributes" else Reading(decimal=_decide_decimal(texts))


def as_text(value: object) -> str | None:
    """Return text without blanks around it; None for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (list, tuple, dict, bytes)):
        raise ValueError(f"is a {type(value).__name__}, not a text")
    return str(value).strip() or None


# --- words: titles, descriptions, brands, names ---

ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
BLOCKS, HIDDEN, _OTHERS = (set(tags.split()) for tags in NAMES["html"].values())
TAGS = BLOCKS | HIDDEN | _OTHERS
# '<' begins a tag only before a name that HTML has: '5 < 6' and 'size <M>' are text.
TAG = re.compile(rf"</?(?:{'|'.join(sorted(TAGS, key=len, reverse=True))})(?=[\s/>])[^<]*>|<!--", re.IGNORECASE)
# A tag at which a text was cut off.
CUT_TAG = re.compile(rf"<(?:{'|'.join(sorted(TAGS, key=len, reverse=True))})\s+[\w-]+=[^<>]*$", re.IGNORECASE)
# Blanks that take no place; the joiners that scripts and emoji need are none of them.
UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")
# Control characters, and halves of characters as broken JSON has them.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class _Text(HTMLParser):
    """Collects the text of HTML: blocks begin a line, scripts and styles are left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in HIDDEN:
            self._hidden = True
        elif tag in TAGS:
            self.pieces.append("\n" if tag in BLOCKS else " " if tag in ("td", "th") else "")
        else:
            self.pieces.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in HIDDEN:
            self._hidden = False
        elif tag in TAGS:
            self.pieces.append("\n" if tag in BLOCKS else "")
        else:
            self.pieces.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)


def without_html(text: str) -> str:
    """Return `text` with HTML's entities and tags as text, however often they were escaped; other text as it is."""
    text = CUT_TAG.sub("", text).strip()
    for _ in range(4):  # '&amp;amp;lt;b&amp;amp;gt;' is the worst that was seen
        if TAG.search(text):
            parser = _Text()
            parser.feed(text)
            parser.close()
            changed = "".join(parser.pieces)
        else:
            changed = ENTITY.sub(lambda match: html.unescape(match[0]), text)
        if changed == text:
            break
        lines = (" ".join(line.split()) for line in changed.split("\n"))
        text = "\n".join(filter(None, lines))
    return text


def as_words(
    value: object, changes: Counter | None = None, column: str = "text", one_line: bool = True, none: bool = True
) -> str | None:
    """Return what people are meant to read: no HTML, no control characters; None where it says nothing.

    With `one_line` line ends and tabs become blanks; otherwise they stay, as in a description. Without `none`, 'None'
    is a value, like that of a pattern.
    """
    given = as_text(value)
    if given is None:
        return None
    text = without_html(given) if "&" in given or "<" in given else given
    if changes is not None and text != given:
        changes[f"{column}: HTML made text"] += 1
    if not text.isprintable():
        seen = CONTROL.sub(" ", UNSEEN.sub("", text))
        if changes is not None and seen != text:
            changes[f"{column}: unseen characters taken out"] += 1
        text = " ".join(seen.split()) if one_line else seen.strip()
    if says_nothing(text) and (none or text.casefold() != "none"):
        if changes is not None:
            changes[f"{column}: says nothing"] += 1
        return None
    return text


def says_nothing(text: str) -> bool:
    """Tell whether a text is what programs write for nothing, or has no letter, digit or pictogram: '-', '???'."""
    text = text.strip()
    if text.casefold() in NOTHING:
        return True
    return not any(
        unicodedata.category(character)[0] in "LN" or unicodedata.category(character) == "So" for character in text
    )


# --- categories ---


def as_category(value: object, reading: Reading = UNDECIDED, changes: Counter | None = None) -> list[str]:
    """Return the path from general to specific, the deepest where the cell has several, the first of these.

    It is a list of levels or of paths, or a text like 'A > B', 'A | B', 'A/B' or 'A > B > C, A'. Further paths, for
    which a catalogue has no place, are counted.
    """
    paths = category_paths(value, reading, changes)
    if changes is not None and len(paths) > 1:
        changes["category: further paths left out"] += len(paths) - 1
    return paths[0] if paths else []


def category_paths(value: object, reading: Reading = UNDECIDED, changes: Counter | None = None) -> list[list[str]]:
    """Return all paths of a cell, each once, the deepest first; those that only lead to a deeper one are left out."""
    value = unpacked(value)
    if isinstance(value, str):
        text = as_words(value, changes, "category", one_line=False) or ""
        found = [_levels(piece, reading) for piece in _pieces(text, reading.category_paths)]
    elif isinstance(value, (list, tuple)) and any(isinstance(entry, (list, tuple)) for entry in value):
        found = [_names(entry if isinstance(entry, (list, tuple)) else [entry], changes) for entry in value]
    elif isinstance(value, (list, tuple)):
        names = _names(value, changes)
        written = reading.category_levels in CLEAR_LEVELS or (reading.category_levels is None and len(names) == 1)
        written = written and any(mark in name for name in names for mark in CLEAR_LEVELS)
        found = [_levels(name, reading) for name in names] if written else [names]
    else:
        found = [_names([value], changes)]
    paths: list[list[str]] = []
    for path in sorted(found, key=len, reverse=True):
        path = path[1:] if path and path[0].casefold() in ROOTS else path
        if path and not any(longer[: len(path)] == path for longer in paths):
            paths.append(path)
    return paths


def _names(values: Iterable[object], changes: Counter | None) -> list[str]:
    return [name for value in values if (name := as_words(value, changes, "category"))]


def _pieces(text: str, mark: str | None) -> list[str]:
    """Split at a mark; a backslash before it makes it part of a name, as WooCommerce writes it."""
    if not mark:
        return [text]
    pieces = re.split(rf"(?<!\\){re.escape(mark)}", text)
    return [piece.replace("\\" + mark, mark).strip() for piece in pieces if piece.strip()]


def _levels(text: str, reading: Reading) -> list[str]:
    mark = reading.category_levels
    if mark is None:
        mark = next((mark for mark in LEVELS if mark in text), "")
    names = text.split(mark) if mark else [text]
    return [name for name in (" ".join(name.split()) for name in names) if name and not says_nothing(name)]


def _decide_category(cells: Sequence[object]) -> Reading:
    lists = [cell for cell in cells if isinstance(cell, (list, tuple))]
    names = [entry for cell in lists for entry in cell if isinstance(entry, str)]
    cleaned = (as_words(cell, one_line=False) for cell in cells if isinstance(cell, str))
    texts = sorted({text for text in cleaned if text})  # each once: a large category is no better witness
    least = max(1, len(texts) // 50)
    level = next((mark for mark in CLEAR_LEVELS if sum(mark in text for text in texts) >= least), None)
    if level is None:
        level = next((mark for mark in CLEAR_LEVELS if 2 * sum(mark in name for name in names) > len(lists)), None)
    if level is not None:
        return Reading(category_levels=level, category_paths=_decide_paths(texts, level))
    for mark in ("/", "|", ""):
        for paths in (mark_ for mark_ in PATHS if mark_ != mark):
            if _share_of_roots(texts, paths, mark) >= 0.8 and (mark == "" or _is_tree(texts, mark)):
                spaced = f" {mark} "
                level = spaced if mark and _is_tree(texts, spaced) else mark
                return Reading(category_levels=level, category_paths=paths)
    level = next((mark for mark in (*LEVELS[len(CLEAR_LEVELS) :], ";") if _is_tree(texts, mark)), None)
    if level is None and not texts:
        return UNDECIDED
    listed = [text for text in texts if "," in text]
    if level is None and 2 * len(listed) > len(texts) and not any(re.search(r",\s", text) for text in listed):
        # A comma in a name has a blank after it: 'Home,Kitchen,Mugs' are several, and levels if all begin alike.
        is_path = len(texts) > 1 and len({_head(text, ",") for text in texts}) == 1
        return Reading(category_levels="," if is_path else "", category_paths="" if is_path else ",")
    return Reading(category_levels=level or "", category_paths="")


def _decide_paths(texts: Sequence[str], level: str) -> str:
    """Return what separates several categories whose levels are separated by `level`, "" for nothing."""
    for mark in PATHS:
        pieces = [piece for text in texts for piece in _pieces(text, mark)[1:]]
        # A comma may be part of a name: what follows it must begin where other categories begin.
        if pieces and (mark != "," or _share_of_roots(texts, mark, level) >= 0.8):
            return mark
    return ""


def _share_of_roots(texts: Sequence[str], paths: str, level: str) -> float:
    """Return the share of the later pieces of cells that begin with a name with which some cell begins."""
    heads = [[_head(piece, level) for piece in _pieces(text, paths)] for text in texts]
    roots = {names[0] for names in heads if names}
    later = [name for names in heads for name in names[1:]]
    return sum(name in roots for name in later) / len(later) if later else 0.0


def _head(text: str, level: str) -> str:
    return (text.split(level, 1)[0] if level else text).strip()


def _is_tree(texts: Sequence[str], mark: str) -> bool:
    """Tell whether a mark separates levels: half of the categories have it, or those that have it share their roots."""
    having = [text for text in texts if mark in text]
    roots = {_head(text, mark) for text in having}
    return bool(having) and (2 * len(having) >= len(texts) or len(having) >= 2 * len(roots))


# --- attributes ---


def as_attributes(
    value: object, name: str | None = None, reading: Reading = UNDECIDED, changes: Counter | None = None
) -> list[dict[str, str]]:
    """Return pairs of name and value; attributes without a value, or whose value is a structure, are left out.

    Args:
        value: a dict, a list of pairs or of dicts like {"name", "value"}, JSON of one of these, or a text like
            'colour: red; size: M', whose values may be several, joined by '!!!'.
        name: the name of a value that has none; without it such a value is a ValueError.
    """
    value = unpacked(value)
    if value is None or value == "":
        return []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = [pair for entry in value for pair in _pair(entry, name, reading)]
    elif name is not None:
        pairs = [(name, value)]
    else:
        text = as_words(value, changes, "attributes", one_line=False)
        pairs = _written_pairs(text, reading) if text else []
    found = []
    for label, content in pairs:
        label = as_words(label, none=False) or as_text(label)
        if label is None:
            raise ValueError(f"has a value without a name: {content!r}")
        for part in map(measured, _values(content, reading)):
            if isinstance(part, (dict, list, tuple)):
                if changes is not None:
                    changes["attributes: a structure left out"] += 1
            elif text := as_words(part, changes, "attributes", none=False):
                found.append({"name": label, "value": text})
    return found


def _values(content: object, reading: Reading) -> Sequence[object]:
    if isinstance(content, (list, tuple)):
        return content
    if isinstance(content, dict):
        return [content]
    parts = str(content).split(VALUES) if content else []
    mark = reading.attribute_values
    return [piece for part in parts for piece in part.split(mark)] if mark else parts


def _pair(entry: object, name: str | None, reading: Reading) -> Iterable[tuple[object, object]]:
    if isinstance(entry, dict):
        label = next((entry[key] for key in NAMES_OF_NAME if key in entry), None)
        content = next((entry[key] for key in NAMES_OF_VALUE if key in entry), None)
        if label is None and set(entry) <= {"value", "values"}:
            return [] if name is None else [(name, content)]
        return [(label, measured({**entry, "value": content}))] if label is not None else list(entry.items())
    if isinstance(entry, (list, tuple)) and len(entry) == 2:
        return [tuple(entry)]
    if name is not None:
        return [(name, entry)]
    return _written_pairs(str(entry), reading)


def measured(value: object) -> object:
    """Return {"value": 3, "unit": "kg"} as '3 kg', without a unit the value alone, and anything else as it is."""
    if not isinstance(value, dict) or "value" not in value:
        return value
    unit = next((value[key] for key in ("unit", "unitText") if isinstance(value.get(key), str)), "")
    is_plain = isinstance(value["value"], (str, int, float))
    return f"{as_text(value['value'])} {unit}" if unit and is_plain else value["value"]


def _written_pairs(text: str, reading: Reading) -> list[tuple[str, str]]:
    if reading.attribute_pairs is None:
        reading = _decide_attributes([text])
    mark = reading.attribute_pairs
    pairs: list[tuple[str, str]] = []
    for piece in filter(str.strip, text.split(mark) if mark else [text]):
        end = _name_end(piece, reading.attribute_ends)
        if end:
            label, content = piece.split(end, 1)
            pairs.append((label, content))
        elif pairs:  # 'colour:red, blue, size:M': a separator within a value
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]}{mark}{piece}")
        else:
            raise ValueError(f"{piece.strip()[:60]!r} is not of the form 'name: value'")
    return pairs


def _name_end(piece: str, preferred: str | None = None) -> str | None:
    """Return what ends the name in 'name: value', None if nothing does."""
    if preferred and piece.find(preferred) > 0:
        return preferred
    ends = [(place, end) for end in NAME_ENDS if (place := piece.find(end)) > 0]
    return min(ends)[1] if ends else None


def _decide_attributes(texts: Sequence[str]) -> Reading:
    """Choose the separator that gives the most pairs and the fewest pieces that are none."""

    def score(mark: str) -> float:
        points = 0.0
        for text in texts:
            ends = [_name_end(piece) for piece in (text.split(mark) if mark else [text]) if piece.strip()]
            # A first piece without a name cannot be read at all.
            points += sum(1 if end else -0.5 for end in ends) - (2 if ends and not ends[0] else 0)
        return points

    if not texts:
        return UNDECIDED
    pairs = max(("", *PAIRS), key=score)
    pairs = next(mark for mark in (*PAIRS, "") if score(mark) == score(pairs))
    pieces = [piece for text in texts for piece in (text.split(pairs) if pairs else [text])]
    ends = Counter(end for piece in pieces if (end := _name_end(piece)))
    # Of several marks in a name and value, the column's own one counts, not the first: 'ratio 16:9=yes'.
    end = ends.most_common(1)[0][0] if ends else None
    several = pairs not in ("|", "") and any("|" in piece for piece in pieces)
    return Reading(attribute_pairs=pairs, attribute_ends=end, attribute_values="|" if several else None)


# --- prices ---

NAMES_OF_AMOUNT = ("amount", "value", "price", "gross", "current", "current_price")
# Digits with their marks; a blank is one only before three digits.
AMOUNT = re.compile(r"\d+(?:[.,'’]\d+|[ \u00a0\u2009\u202f]\d{3}(?!\d))*")
NEGATIVE = re.compile(r"[-−][$€£¥]?$")
# Between the ends of a range, with a currency on either side.
RANGE = re.compile(r"\s*[^\d\s]{0,4}\s*(?:-|–|—|~|〜|\.{2,3}|…|\bto\b|\bbis\b|\bà\b)\s*[^\d\s]{0,4}\s*", re.IGNORECASE)
AT_MOST = re.compile(r"(?:\b(?:up to|at most|max|maximum|bis|jusqu'à|below|under)\b|<|≤)[^\d]*$", re.IGNORECASE)


def as_price(value: object, reading: Reading = UNDECIDED, changes: Counter | None = None) -> float | None:
    """Return a number, whatever currency is beside it; '1.299,00 €' and '$1,299.00' are both 1299.

    Of a range like '12-15' it is the lower end, and 'from 9.99' is 9.99: the price from which the product is sold.
    """
    value = unpacked(value)
    if isinstance(value, dict):
        value = next((value[key] for key in NAMES_OF_AMOUNT if value.get(key) not in (None, "")), value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) < sys.float_info.max else math.inf
        if isinstance(value, float) and math.isnan(value):
            return None
    else:
        text = as_words(value, changes, "price")
        if text is None:
            return None
        number = _amount(text, reading.decimal)
    if not 0 <= number < math.inf:
        raise ValueError(f"{number:g} is no price")
    return number


def _amount(text: str, decimal: str | None) -> float:
    text = re.sub(r"(?<!\d)(?:[-–—](?=,))?([.,])(?=\d\d(?!\d))", r"0\1", unicodedata.normalize("NFKC", text))  # '-,99'
    found = list(AMOUNT.finditer(text))
    is_range = len(found) == 2 and RANGE.fullmatch(text[found[0].end() : found[1].start()])
    if len(found) != 1 and not is_range:
        raise ValueError(f"{text[:40]!r} is not one number")
    before = text[: found[0].start()]
    if NEGATIVE.search(before):
        raise ValueError(f"{text[:40]!r} is no price")
    if AT_MOST.search(before):
        raise ValueError(f"{text[:40]!r} says only what it costs at most")
    written = found[0][0] != text  # with a currency: for people, not by a program
    numbers = [_number(match[0], decimal, written) for match in found]
    if numbers != sorted(numbers):
        raise ValueError(f"{text[:40]!r} is not one number")
    return numbers[0]


def _number(text: str, decimal: str | None, written: bool) -> float:
    """Return the number; 'decimal' and 'written' decide what a mark before the last three digits is."""
    text = re.sub(r"[^\d.,]", "", text)
    mark = _decimal_mark(text)
    if mark is None:
        mark = next(iter(set(text) & {".", ","}))
        if decimal is not None and decimal == mark:
            if written:
                raise ValueError(f"{text!r} may have three decimals or a thousand")
        elif decimal is not None or mark == "," or written:
            mark = ""
    whole, _, rest = text.rpartition(mark) if mark else (text, "", "")
    if mark in whole and mark or not re.fullmatch(r"\d+|\d{1,3}([.,])(?:\d{2,3}\1)*\d{3}", whole):
        raise ValueError(f"{text!r} is not one number")
    return float(re.sub(r"[.,]", "", whole) + "." + (rest or "0"))


def _decimal_mark(text: str) -> str | None:
    """Return the decimal mark of a number by itself, "" if it has none, None if it is not clear: '1.299'."""
    marks = re.findall(r"[.,]", text)
    if not marks:
        return ""
    if len(set(marks)) == 2:
        return marks[-1]
    if len(marks) > 1:
        return ""
    whole, rest = re.split(r"[.,]", text)
    return None if len(rest) == 3 and len(whole) <= 3 and not whole.startswith("0") else marks[0]


def _decide_decimal(texts: Sequence[str]) -> Literal[".", ","] | None:
    """Return the decimal mark that the clear prices of a column have."""
    numbers = [re.sub(r"[^\d.,]", "", match[0]) for text in texts for match in AMOUNT.finditer(text)]
    clear = Counter(mark for number in numbers if (mark := _decimal_mark(number)))
    if clear:
        return clear.most_common(1)[0][0]
    # '899' beside '1.299': prices of a program with three decimals would be '899.000'.
    unclear = {mark for number in numbers if _decimal_mark(number) is None for mark in number if mark in ".,"}
    if len(unclear) == 1 and any(number.isdigit() for number in numbers):
        return "," if unclear == {"."} else "."
    return None


# --- images ---


def as_pictures(value: object) -> list[dict[str, object]]:
    """Return images in the forms of `Item`, of bytes, {"bytes", "path"}, file names or addresses, or a list of them.

    A text may hold several, as JSON, or separated by '|', ';' or line ends, or by commas between whole file names. What
    is within an address stays there: one ends only where another one, or a blank, begins.
    """
    value = unpacked(value)
    if value is None or value == "":
        return []
    if isinstance(value, bytes):
        return [{"bytes": value, "path": None}]
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return [{"bytes": value["bytes"], "path": value.get("path")}]
        place = next((value[key] for key in ("path", "url", "src") if value.get(key)), None)
        if place is None:
            raise ValueError(f"has neither bytes nor a path: {value!r:.80}")
        return [_place(str(place))]
    if isinstance(value, (list, tuple)):
        return [picture for entry in value for picture in as_pictures(entry)]
    text = str(value)
    pieces = re.split(r"[|\n]|[;,\s]+(?=(?:https?:)?//)", text, flags=re.IGNORECASE) if ADDRESS.search(text) else [text]
    return [_place(place) for piece in pieces for place in _places(piece.strip(" \t\r,;"))]


def _places(text: str) -> list[str]:
    if not text or says_nothing(text):
        return []
    if ADDRESS.match(text):
        return [text]
    found = []
    for piece in filter(str.strip, re.split(r"[|\n]", text)):
        for mark in (";", ","):
            pieces = [part.strip() for part in piece.split(mark) if part.strip()]
            if len(pieces) > 1 and all(map(PICTURE_FILE.search, pieces)):
                found += pieces
                break
        else:
            whole = PICTURE_FILE.search(piece.strip()) and not PICTURE_FILE.search(piece.split(";")[0].strip())
            found += [piece.strip()] if whole else [part.strip() for part in piece.split(";") if part.strip()]
    return found


def _place(text: str) -> dict[str, object]:
    if ADDRESS.match(text):
        return {"url": f"https:{text}" if text.startswith("//") else text}
    return {"path": text}


def _ruby(text: str) -> object:
    """Parse what Ruby writes: '=>' where JSON has ':'."""
    return json.loads(text.replace("=>nil", "=>null").replace('"=>', '":'))


def unpacked(value: object) -> object:
    """Parse a text that holds JSON, or the same as Python writes it; return anything else as it is."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return text
    for read in (json.loads, ast.literal_eval, _ruby):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text
