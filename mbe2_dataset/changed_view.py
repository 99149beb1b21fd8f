"""Another framing and light of the same photo: what a shopper's own picture of a listing with one photo would be."""

import numpy as np
from PIL import Image, ImageEnhance

from .pictures import Picture, decode, encode


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
