"""Text, image and mixed queries: those of a search log, or made from listings as a shopper might ask for them."""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from mbe2_dataset.catalogue.pictures import Picture, decode, encode
from mbe2_dataset.catalogue.search_log import LoggedQuery
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.parallel import rng_for, seed_for
from mbe2_dataset.schema import provenance
from mbe2_dataset.text_units import join_units, title_units


def changed_view(picture: Picture, seed: int, path: str) -> tuple[Picture, dict[str, object]]:
    """The same picture in another framing (crop, scale, mild perspective) and light, in its own size.

    It is never mirrored, because lettering and logos would become others, and no part of it is filled in.

    Returns:
        The changed picture, as JPEG, and the parameters with which `apply_view` makes it again.
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
    """The change that `parameters` describe.

    `corners` says how far each corner moves inwards, as a share of width and height (x and y of the upper left, lower
    left, lower right and upper right one); the others are factors as in PIL.ImageEnhance.
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
# Units in a query: fewest and most. Beside a picture people type less.
TEXT_UNITS = {"text": (2, 5), "mixed": (1, 3)}


@dataclass(frozen=True, slots=True)
class Query:
    """Text or picture is None where the modality has none; `provenance` has one record for each that it has."""

    text: str | None
    image: Picture | None
    modality: str
    provenance: list[dict[str, object]]


def modality_of(logged: LoggedQuery) -> str:
    """One of MODALITIES."""
    if logged.image is None:
        return "text"
    return "image" if logged.text is None else "mixed"


def logged_query(logged: LoggedQuery) -> Query:
    """A shopper's own query, as the log has it."""
    fields = [("query_text", logged.text), ("query_image", logged.image)]
    records = [provenance(field, logged.id, "search_log", {}) for field, value in fields if value is not None]
    return Query(logged.text, logged.image, modality_of(logged), records)


def make_query(source: Row, other: Row | None, taken: Container[str], modality: str, key: str, seed: int) -> Query:
    """A query made from the listing `source`.

    Args:
        other: another listing of the group, whose picture may serve where `source` has only one.
        taken: sha256 of pictures that must not be used (those of the products to be found).
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
    """Some units of the title in another order. At least one is left out if there are more than two."""
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
    """Another photo of the listing; else a photo of the other listing; else a changed view of the first photo."""
    for picture in source.images[1:]:
        if picture.sha256 not in taken:
            return picture, provenance("query_image", source.id, "second_photo", {"path": picture.path}, seed=seed)
    if other is not None and other.images[0].sha256 not in taken:
        picture = other.images[0]
        return picture, provenance("query_image", other.id, "photo_of_group", {"path": picture.path}, seed=seed)
    picture, parameters = changed_view(source.images[0], seed, path)
    return picture, provenance("query_image", source.id, "changed_view", parameters, seed=seed)


def draw_modality(mix: tuple[float, float, float], seed: int, key: str) -> str:
    """One of MODALITIES, with probabilities in proportion to `mix`."""
    return MODALITIES[rng_for(seed, "modality", key).choice(3, p=np.array(mix) / sum(mix))]
