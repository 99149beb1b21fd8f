"""Text, image and mixed queries: those of a search log, or made from listings as a shopper might ask for them."""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from .catalogue import Row
from .changed_view import changed_view
from .pictures import Picture
from .provenance import provenance
from .seeding import rng_for, seed_for
from .sources.search_log import LoggedQuery
from .text_units import join_units, title_units

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
