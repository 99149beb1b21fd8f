"""Co-augmentation of training products with what works offline (MOON2.0, section 5; operations are our choice).

The paper lets a language model write the rich title and an editing model change the pictures. Here a template adds the
product's own facts, and pictures get another framing and light.
"""

import json

import numpy as np
import regex
from PIL import Image, ImageEnhance

from .catalogue import Row
from .pictures import Picture, decode, encode
from .seeding import seed_for
from .text_units import is_unspaced, mentions

# An attribute value that is longer is a sentence, and one without a letter (a year) says nothing without its name.
MAX_VALUE_WORDS = 4
_LETTER = regex.compile(r"\p{L}")


def provenance(
    field: str, source_id: str, operation: str, parameters: dict[str, object], seed: int, reason: str = ""
) -> dict[str, object]:
    """One record of schema.PROVENANCE for a field made without a model and without a consistency score."""
    return {
        "field": field,
        "source_id": source_id,
        "operation": operation,
        "parameters": json.dumps(parameters, ensure_ascii=False, sort_keys=True),
        "model": "",
        "revision": "",
        "prompt_version": "",
        "seed": seed,
        "consistency_score": None,
        "kept": True,
        "reason": reason,
    }


def enriched_title(row: Row) -> tuple[str, list[str]]:
    """The title and, after it, the product's brand, attribute values and category leaf that it does not mention.

    Returns:
        The enriched title, and the values that were added.
    """
    title = row.title
    separator = "，" if is_unspaced(title) else ", "
    added = []
    for value in row.values():
        if _LETTER.search(value) and len(value.split()) <= MAX_VALUE_WORDS and not mentions(title, value):
            title += separator + value
            added.append(value)
    return title, added


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


def augmented_images(row: Row, count: int, seed: int) -> list[tuple[Picture, dict[str, object]]]:
    """`count` changed views (n_c in the paper) of the first picture, each with its provenance but for the field."""
    results = []
    for number in range(count):
        view_seed = seed_for(seed, "augmented image", row.id, number)
        picture, parameters = changed_view(row.images[0], view_seed, f"{row.id}-augmented-{number}.jpg")
        results.append((picture, provenance("", row.id, "changed_view", parameters, view_seed)))
    return results
