"""Turn the cells of other people's tables into values of a catalogue.

What has no clear meaning is a ValueError, never a guess.
"""

import ast
import json
import math
import re
from collections.abc import Iterable

# Between the levels of a category, the clearest first: a name may contain a slash, hardly ever a '>'.
LEVELS = (">", "»", "›", "|", "/")
# Between attributes, and between the name and the value of one ('#;#' and '#:#' are M5Product's, ',,' is MBE's).
PAIRS = ("#;#", ",,", "\n", ";", "；", "|", ",", "，")
NAME_ENDS = ("#:#", ":", "：", "=")
VALUES = "!!!"
NAMES_OF_NAME = ("name", "key", "k", "attribute")
NAMES_OF_VALUE = ("value", "values", "v")
ADDRESS = re.compile(r"https?://", re.IGNORECASE)
PICTURE_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
# A number with its separators; what is around it are currencies.
AMOUNT = re.compile(r"-?\d(?:[\d.,'’\s]*\d)?")


def as_text(value: object) -> str | None:
    """Return text without blanks around it; None for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (list, tuple, dict, bytes)):
        raise ValueError(f"is a {type(value).__name__}, not a text")
    return str(value).strip() or None


def as_category(value: object) -> list[str]:
    """Return the path from general to specific in a list, or in a text like 'A > B', 'A | B' or 'A/B'."""
    value = _unpacked(value)
    if isinstance(value, str):
        level = next((mark for mark in LEVELS if mark in value), None)
        value = value.split(level) if level else [value]
    if not isinstance(value, (list, tuple)):
        value = [value]
    return [text for text in map(as_text, value) if text]


def as_attributes(value: object, name: str | None = None) -> list[dict[str, str]]:
    """Return pairs of name and value; attributes without a value are left out.

    Args:
        value: a dict, a list of pairs or of dicts like {"name", "value"}, JSON of one of these, or a text like
            'colour: red; size: M', whose values may be several, joined by '!!!'.
        name: the name of a value that has none; without it such a value is a ValueError.
    """
    value = _unpacked(value)
    if value is None or value == "":
        return []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = [pair for entry in value for pair in _pair(entry, name)]
    elif name is not None:
        pairs = [(name, value)]
    else:
        pairs = _written_pairs(str(value))
    found = []
    for label, content in pairs:
        contents = content if isinstance(content, (list, tuple)) else str(content).split(VALUES) if content else []
        label = as_text(label)
        if label is None:
            raise ValueError(f"has a value without a name: {content!r}")
        found += [{"name": label, "value": text} for text in map(as_text, contents) if text]
    return found


def _pair(entry: object, name: str | None) -> Iterable[tuple[object, object]]:
    if isinstance(entry, dict):
        label = next((entry[key] for key in NAMES_OF_NAME if key in entry), None)
        content = next((entry[key] for key in NAMES_OF_VALUE if key in entry), None)
        return [(label, content)] if label is not None else list(entry.items())
    if isinstance(entry, (list, tuple)) and len(entry) == 2:
        return [tuple(entry)]
    if name is not None:
        return [(name, entry)]
    return _written_pairs(str(entry))


def _written_pairs(text: str) -> list[tuple[str, str]]:
    mark = next((mark for mark in PAIRS if mark in text), None)
    pairs: list[tuple[str, str]] = []
    for piece in filter(str.strip, text.split(mark) if mark else [text]):
        ends = [(piece.index(end), end) for end in NAME_ENDS if end in piece]
        if ends:
            label, content = piece.split(min(ends)[1], 1)
            pairs.append((label, content))
        elif pairs:  # 'colour:red, blue, size:M': a separator within a value
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]}{mark}{piece}")
        else:
            raise ValueError(f"{piece.strip()[:60]!r} is not of the form 'name: value'")
    return pairs


def as_price(value: object) -> float | None:
    """Return a number, whatever currency is beside it; '1.299,00 €' and '$1,299.00' are both 1299."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
        if math.isnan(number):
            return None
    else:
        text = as_text(value)
        if text is None:
            return None
        amounts = AMOUNT.findall(text)
        if len(amounts) != 1:
            raise ValueError(f"{text[:40]!r} is not one number")
        number = float(_decimal(re.sub(r"['’\s]", "", amounts[0])))
    if not 0 <= number < math.inf:
        raise ValueError(f"{number:g} is no price")
    return number


def _decimal(text: str) -> str:
    """Write the number with a point: the last separator is one, if it occurs once and not before three digits."""
    last = max(text.rfind("."), text.rfind(","))
    if last < 0:
        return text
    mark = text[last]
    other = "," if mark == "." else "."
    thousands = text.count(mark) > 1 or (mark == "," and other not in text and len(text) - last == 4)
    return text.replace(",", "").replace(".", "") if thousands else text.replace(other, "").replace(mark, ".")


def as_pictures(value: object) -> list[dict[str, object]]:
    """Return pictures in the forms of `Item`, of bytes, {"bytes", "path"}, file names or addresses, or a list of them.

    A text may hold several, as JSON, or separated by '|', ';' or line ends, or by commas between whole file names.
    """
    value = _unpacked(value)
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
    places = [piece.strip() for piece in re.split(r"[|;\n]", str(value)) if piece.strip()]
    return [_place(place) for piece in places for place in _comma_separated(piece)]


def _comma_separated(text: str) -> list[str]:
    pieces = [piece.strip() for piece in text.split(",")]
    whole = ADDRESS.match if ADDRESS.match(text) else PICTURE_FILE.search
    return pieces if all(map(whole, pieces)) else [text]


def _place(text: str) -> dict[str, object]:
    return {"url": text} if ADDRESS.match(text) else {"path": text}


def _unpacked(value: object) -> object:
    """Parse a text that holds JSON, or the same as Python writes it; return anything else as it is."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text
