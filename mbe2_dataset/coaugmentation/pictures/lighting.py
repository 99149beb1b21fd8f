"""Views of the kind "lighting": the same picture under other light (operations are our choice)."""

import numpy as np
from PIL import Image

from mbe2_dataset.coaugmentation.pictures.background import drop_shadow


def draw(image: Image.Image, mask: Image.Image | None, rng: np.random.Generator) -> dict[str, object]:
    """Parameters of a light that leaves every colour what it is called.

    Returns:
        `brightness` and `contrast` (factors), `warmth` (red gains and blue loses this share), `side_light` (the share
        by which the lit side is brighter and the other one darker), its `angle` in degrees, and `shadow_strength`.
    """
    return {
        "brightness": round(float(rng.uniform(0.80, 1.12)), 3),
        "contrast": round(float(rng.uniform(0.85, 1.15)), 3),
        "warmth": round(float(rng.uniform(-0.08, 0.10)), 3),
        "side_light": round(float(rng.uniform(0.08, 0.22)), 3),
        "angle": round(float(rng.uniform(0, 360)), 1),
        "shadow_strength": 0.0 if mask is None else round(float(rng.uniform(0.08, 0.25)), 3),
    }


def apply(image: Image.Image, mask: Image.Image | None, parameters: dict) -> Image.Image:
    """The picture under the light that `parameters` describe; a shadow falls on what is not the subject."""
    pixels = np.asarray(image, dtype=np.float32)
    height, width = pixels.shape[:2]
    if mask is not None:
        free = 1 - np.asarray(mask, dtype=np.float32) / 255
        pixels = pixels * (1 - parameters["shadow_strength"] * drop_shadow(mask) * free)[..., None]
    pixels = (pixels - 128) * parameters["contrast"] + 128
    angle = np.radians(parameters["angle"])
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    light = 1 + parameters["side_light"] * (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)
    warmth = parameters["warmth"]
    gains = np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32) * parameters["brightness"]
    return Image.fromarray(np.clip(pixels * light[..., None] * gains + 0.5, 0, 255).astype(np.uint8))
