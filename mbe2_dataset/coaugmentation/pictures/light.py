"""Views that keep the framing: another "background", or the same image under other "lighting" (operations are our
choice).
"""

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2lab

from mbe2_dataset.coaugmentation.pictures.classical import core_of, nearest_core_colours

# The lowest part of a subject that is taken to stand on the ground, as a share of its height.
FOOT = 0.08


def cut_below(mask: Image.Image) -> bool:
    """Tell whether the subject goes on beyond the lower edge, so that no ground is seen on which it stands."""
    return bool((np.asarray(mask)[-2:] > 127).any())


def contact_shadow(mask: Image.Image) -> np.ndarray:
    """Return darkness 0 to 1 (H, W): a flat shadow on the ground where the subject's lowest part touches it."""
    inside = np.asarray(mask) > 127
    height, width = inside.shape
    rows = np.flatnonzero(inside.any(axis=1))
    bottom = rows[-1]
    foot = inside[max(rows[0], bottom - max(2, round(FOOT * len(rows)))) : bottom + 1].any(axis=0).astype(np.float32)
    profile = ndimage.gaussian_filter1d(foot, 0.02 * width)
    y = np.arange(height, dtype=np.float32)[:, None]
    return np.exp(-0.5 * ((y - bottom) / (0.018 * height + 0.5)) ** 2) * profile[None, :]


def drop_shadow(mask: Image.Image) -> np.ndarray:
    """Return darkness 0 to 1 (H, W): the subject's outline on a wall close behind it, a little to the lower right."""
    alpha = np.asarray(mask, dtype=np.float32) / 255
    step = max(1, round(0.02 * max(alpha.shape)))
    shifted = ndimage.shift(alpha, (step, step), order=0, mode="nearest")
    return ndimage.gaussian_filter(shifted, 0.025 * max(alpha.shape), mode="nearest")


STYLES = ("white", "studio", "gradient", "texture")
# A background this bright (mean of RGB) is white already, and white again would be no other background.
WHITE = 245.0
# A colour that is this far from the subject's (CIELAB) is taken; after so many drawn ones, the farthest of them.
FAR_COLOUR, CANDIDATES = 30.0, 6


def draw_background(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> dict[str, object]:
    """Draw the parameters of a background that differs from the image's own one and from the subject."""
    pixels, alpha = np.asarray(image, dtype=np.float32), np.asarray(mask)
    is_white = (alpha < 10).any() and pixels[alpha < 10].mean() > WHITE
    style = str(rng.choice(STYLES[1:] if is_white else STYLES))
    colour = [255, 255, 255] if style == "white" else _contrasting(pixels[alpha > 200], rng)
    return {
        "style": style,
        "colour": colour,
        "second_colour": [int(round(v * rng.uniform(0.72, 0.88))) for v in colour],
        "angle": round(float(rng.uniform(60, 120)), 1),
        "texture_seed": int(rng.integers(2**31)),
        "shadow": "drop" if cut_below(mask) else "contact",
        "shadow_strength": round(float(rng.uniform(0.2, 0.4)), 3),
    }


def apply_background(image: Image.Image, mask: Image.Image, parameters: dict) -> Image.Image:
    """Put the subject in front of the background that `parameters` describe, with a soft shadow."""
    pixels = np.asarray(image, dtype=np.float32)
    alpha = np.asarray(mask, dtype=np.float32) / 255
    inside = alpha > 0.5
    # Pixels on the outline carry some of the old background, which would show as a halo: the product's own colour
    # near by replaces theirs.
    core = core_of(inside) & (alpha > 0.97)
    if core.any():
        pixels = np.where(alpha[..., None] < 0.97, nearest_core_colours(pixels, core), pixels)
    shadow = drop_shadow(mask) if parameters["shadow"] == "drop" else contact_shadow(mask)
    behind = _painted(image.size, parameters) * (1 - parameters["shadow_strength"] * shadow[..., None])
    mixed = pixels * alpha[..., None] + behind * (1 - alpha[..., None])
    return Image.fromarray(np.clip(mixed + 0.5, 0, 255).astype(np.uint8))


def _contrasting(subject: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Draw a pale colour, far from the median of the subject's pixels (N, 3)."""
    hsv = np.stack(
        [rng.random(CANDIDATES), rng.uniform(0.02, 0.18, CANDIDATES), rng.uniform(0.70, 0.95, CANDIDATES)], axis=-1
    )
    colours = hsv2rgb(hsv)
    own = np.median(subject, axis=0) / 255 if len(subject) else np.zeros(3)
    distances = np.linalg.norm(rgb2lab(colours) - rgb2lab(own), axis=-1)
    chosen = np.argmax(distances > FAR_COLOUR) if (distances > FAR_COLOUR).any() else distances.argmax()
    return [int(v) for v in (colours[chosen] * 255).round()]


def _painted(size: tuple[int, int], parameters: dict) -> np.ndarray:
    """Paint the background, float (H, W, 3)."""
    width, height = size
    flat = np.broadcast_to(np.array(parameters["colour"], dtype=np.float32), (height, width, 3))
    if parameters["style"] == "gradient":
        angle = np.radians(parameters["angle"])
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        ramp = (ramp - ramp.min()) / np.ptp(ramp)
        second = np.array(parameters["second_colour"], dtype=np.float32)
        return flat * (1 - ramp[..., None]) + second * ramp[..., None]
    if parameters["style"] == "texture":
        rng = np.random.default_rng(parameters["texture_seed"])
        noise = np.zeros((height, width), dtype=np.float64)
        for blur, amplitude in ((0.15, 5.0), (0.008, 1.5)):
            layer = ndimage.gaussian_filter(rng.standard_normal((height, width)), blur * max(size), mode="wrap")
            noise += amplitude * layer / layer.std()
        return (flat + noise[..., None]).astype(np.float32)
    return flat


def draw_lighting(image: Image.Image, mask: Image.Image | None, rng: np.random.Generator) -> dict[str, object]:
    """Draw the parameters of a light that leaves every colour what it is called.

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


def apply_lighting(image: Image.Image, mask: Image.Image | None, parameters: dict) -> Image.Image:
    """Show the image under the light that `parameters` describe; a shadow falls on what is not the subject."""
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
