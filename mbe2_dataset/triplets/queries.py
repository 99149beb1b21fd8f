"""Text, image and mixed queries: those of a search log, or made from rows as a shopper might ask for them."""

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex
from PIL import Image, ImageEnhance

from common_moon2.text import UNSPACED, is_unspaced
from mbe2_dataset.catalogue.pictures import Picture, decode, encode
from mbe2_dataset.catalogue.search_log import LoggedQuery
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.parallel import rng_for, seed_for
from mbe2_dataset.schema import provenance


def changed_view(picture: Picture, seed: int, path: str) -> tuple[Picture, dict[str, object]]:
    """Change the framing (crop, scale, mild perspective) and the light of an image, which keeps its size.

    It is never mirrored, because lettering and logos would become others, and no part of it is filled in.

    Returns:
        The changed image, as JPEG, and the parameters with which `apply_view` makes it again.
    """
    rng = np.random.default_rng(seed)
    parameters = {
        "corners": rng.uniform(0.0, 0.14, 8).round(4).tolist(),
        "brightness": round(rng.uniform(0.75, 1.25), 4),
        "contrast": round(rng.uniform(0.8, 1.2), 4),
        "saturation": round(rng.uniform(0.85, 1.15), 4),
    }
    return encode(apply_view(decode(picture), parameters), path), parameters


def apply_view(image: Image.Image, parameters: dict) -> Image.Image:
    """Make the change that `parameters` describe.

    `corners` says how far each corner moves inwards, as a share of width and height (x and y of the upper left, lower
    left, lower right and upper right one). The others are factors as in PIL.ImageEnhance.
    """
    width, height = image.size
    signs = (1, 1, 1, -1, -1, -1, -1, 1)
    starts = (0, 0, 0, height, width, height, width, 0)
    quad = [
        start + sign * inset * (width if place % 2 == 0 else height)
        for place, (start, sign, inset) in enumerate(zip(starts, signs, parameters["corners"], strict=True))
    ]
    image = image.transform((width, height), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)
    for enhancer, name in (
        (ImageEnhance.Brightness, "brightness"),
        (ImageEnhance.Contrast, "contrast"),
        (ImageEnhance.Color, "saturation"),
    ):
        image = enhancer(image).enhance(parameters[name])
    return image


MODALITIES = ("text", "image", "mixed")
# Units in a query: fewest and most. Beside an image people type less.
TEXT_UNITS = {"text": (2, 5), "mixed": (1, 3)}


@dataclass(frozen=True, slots=True)
class Query:
    """Text or image is None where the modality has none; `provenance` has one record for each that it has."""

    text: str | None
    image: Picture | None
    modality: str
    provenance: list[dict[str, object]]


def modality_of(logged: LoggedQuery) -> str:
    """Return one of MODALITIES."""
    if logged.image is None:
        return "text"
    return "image" if logged.text is None else "mixed"


def logged_query(logged: LoggedQuery) -> Query:
    """Return a shopper's own query, as the log has it."""
    fields = [("query_text", logged.text), ("query_image", logged.image)]
    records = [provenance(field, logged.id, "search_log", {}) for field, value in fields if value is not None]
    return Query(logged.text, logged.image, modality_of(logged), records)


def make_query(source: Row, other: Row | None, taken: Container[str], modality: str, key: str, seed: int) -> Query:
    """Make a query from the row `source`.

    Args:
        other: another row of the group, whose image may serve where `source` has only one.
        taken: sha256 of images that must not be used (those of the products to be found).
        key: what the query is for; it seeds the choice of words and view.
    """
    text, image, records = None, None, []
    if modality != "image":
        text, record = query_text(source, modality, seed_for(seed, "query text", key))
        records.append(record)
    if modality != "text":
        image, record = query_picture(source, other, taken, seed_for(seed, "query image", key), f"{key}-query.jpg")
        records.append(record)
    return Query(text, image, modality, records)


def query_text(source: Row, modality: str, seed: int) -> tuple[str, dict[str, object]]:
    """Draw some units of the title in another order. At least one is left out if there are more than two."""
    units = title_units(source.title, source.values())
    fewest, most = TEXT_UNITS[modality]
    most = min(most, len(units) - 1 if len(units) > 2 else len(units))
    rng = np.random.default_rng(seed)
    count = rng.integers(min(fewest, most), most + 1)
    chosen = [units[place] for place in rng.permutation(len(units))[:count]]
    record = provenance("query_text", source.id, "title_units", {"units": chosen}, seed=seed)
    return join_units(chosen), record


def query_picture(
    source: Row, other: Row | None, taken: Container[str], seed: int, path: str
) -> tuple[Picture, dict[str, object]]:
    """Return another photo of the row; else a photo of the other row; else a changed view of the first photo."""
    for picture in source.images[1:]:
        if picture.sha256 not in taken:
            return picture, provenance("query_image", source.id, "second_photo", {"path": picture.path}, seed=seed)
    if other is not None and other.images[0].sha256 not in taken:
        picture = other.images[0]
        return picture, provenance("query_image", other.id, "photo_of_group", {"path": picture.path}, seed=seed)
    picture, parameters = changed_view(source.images[0], seed, path)
    return picture, provenance("query_image", source.id, "changed_view", parameters, seed=seed)


def draw_modality(mix: tuple[float, float, float], seed: int, key: str) -> str:
    """Draw one of MODALITIES, with probabilities in proportion to `mix`."""
    return MODALITIES[rng_for(seed, "modality", key).choice(3, p=np.array(mix) / sum(mix))]


# Titles are cut into pieces without the assumption that spaces separate words.
_WORD_CHARACTER = regex.compile(r"[\p{L}\p{M}\p{N}]")
# A run of unspaced script, or a word of another one; punctuation inside a word ("T-shirt", "1.5") belongs to it.
_PIECE = regex.compile(rf"[{UNSPACED}]+|[\p{{L}}\p{{M}}\p{{N}}](?:[^\s{UNSPACED}]*[\p{{L}}\p{{M}}\p{{N}}%])?")
_POSSESSIVE = regex.compile(r"['’]s(?![\p{L}\p{N}])", regex.IGNORECASE)
_FUNCTION_WORDS = frozenset(("a", "an", "and", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))


def title_units(title: str, values: Iterable[str]) -> list[str]:
    """Cut a title into the pieces that a shopper would type: known `values`, and the words between them, in order.

    A run of unspaced script between known values stays whole, because only a dictionary could cut it. What says nothing
    by itself is left out: such a run of one character (a particle, mostly) and English function words.
    """
    taken: list[tuple[int, int]] = []
    for value in sorted(set(values), key=lambda value: (-len(value), value)):
        for start, end in occurrences(title, value):
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
    """Join pieces with spaces, except between two in unspaced scripts."""
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


def occurrences(title: str, value: str) -> Iterator[tuple[int, int]]:
    """Find where `title` has `value` in it, in any case, and as whole words where the script has such."""
    for match in _finder(value).finditer(title):
        start, end = match.span()
        if not _same_word(title[max(start - 1, 0) : start + 1]) and not _same_word(title[end - 1 : end + 1]):
            yield start, end


def _same_word(pair: str) -> bool:
    """Tell whether two neighbouring characters belong to one word of a script with spaces."""
    return len(pair) == 2 and all(_WORD_CHARACTER.match(c) and not is_unspaced(c) for c in pair)
