"""Views that keep the framing: another "background", or the same image under other "lighting" (operations are our
choice).
"""

from colorsys import hsv_to_rgb

import cv2
import numpy as np
from PIL import Image

from mbe2_dataset.coaugmentation.pictures.classical import core_of, lab_of, nearest_core_colours

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
    profile = cv2.GaussianBlur(foot[None], (0, 0), 0.02 * width, borderType=cv2.BORDER_REFLECT)
    y = np.arange(height, dtype=np.float32)[:, None]
    return np.exp(-0.5 * ((y - bottom) / (0.018 * height + 0.5)) ** 2) * profile


def drop_shadow(mask: Image.Image) -> np.ndarray:
    """Return darkness 0 to 1 (H, W): the subject's outline on a wall close behind it, a little to the lower right."""
    alpha = np.asarray(mask)
    longest = max(alpha.shape)
    step = max(1, round(0.02 * longest))
    shifted = cv2.copyMakeBorder(alpha, step, 0, step, 0, cv2.BORDER_REPLICATE)[: alpha.shape[0], : alpha.shape[1]]
    # What is this soft is blurred as well in a smaller image, and much faster.
    smaller = max(1, round(longest / 192))
    size = [max(1, round(side / smaller)) for side in mask.size]
    small = cv2.resize(shifted.astype(np.float32) / 255, size, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), 0.025 * longest / smaller, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(soft, mask.size, interpolation=cv2.INTER_LINEAR)


STYLES = ("white", "studio", "gradient", "texture")
# A background this bright (mean of RGB) is white already, and white again would be no other background.
WHITE = 245.0
# A colour that is this far from the subject's (CIELAB) is taken; after so many drawn ones, the farthest of them.
FAR_COLOUR, CANDIDATES = 30.0, 6


def draw_background(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> dict[str, object]:
    """Draw the parameters of a background that differs from the image's own one and from the subject."""
    pixels, alpha = np.asarray(image), np.asarray(mask)
    free = (alpha < 10).view(np.uint8)
    is_white = free.any() and np.mean(cv2.mean(pixels, free)[:3]) > WHITE
    style = str(rng.choice(STYLES[1:] if is_white else STYLES))
    colour = [255, 255, 255] if style == "white" else _contrasting(_some(pixels, alpha > 200), rng)
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
    pixels, alpha = np.asarray(image), np.asarray(mask)
    # Pixels on the outline carry some of the old background, which would show as a halo: the product's own colour
    # near by replaces theirs.
    core = core_of(alpha > 127) & (alpha > 247)
    outline = np.flatnonzero((alpha > 0) & (alpha <= 247))
    if core.any():
        pixels = pixels.copy()
        pixels.reshape(-1, 3)[outline] = nearest_core_colours(pixels, core, outline)
    shadow = drop_shadow(mask) if parameters["shadow"] == "drop" else contact_shadow(mask)
    behind = _painted(image.size, parameters, 1 - parameters["shadow_strength"] * shadow)
    share = alpha.astype(np.float32) / 255
    return Image.fromarray(cv2.blendLinear(pixels, behind, share, 1 - share))


def _some(pixels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return (N, 3) of the chosen pixels, evenly spread and enough to tell their median."""
    places = np.flatnonzero(chosen)
    return pixels.reshape(-1, 3)[places[:: 1 + len(places) // 1000]]


def _contrasting(subject: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Draw a pale colour, far from the median of the subject's pixels (N, 3)."""
    hsv = (rng.random(CANDIDATES), rng.uniform(0.02, 0.18, CANDIDATES), rng.uniform(0.70, 0.95, CANDIDATES))
    own = np.median(subject, axis=0) if len(subject) else np.zeros(3)
    colours = np.array([*(np.multiply(hsv_to_rgb(*one), 255) for one in zip(*hsv, strict=True)), own])
    colours = colours.round().astype(np.uint8)
    lab = lab_of(colours[None])[0]
    distances = np.linalg.norm(lab[:-1] - lab[-1], axis=-1)
    chosen = np.argmax(distances > FAR_COLOUR) if (distances > FAR_COLOUR).any() else distances.argmax()
    return colours[chosen].tolist()


def _painted(size: tuple[int, int], parameters: dict, light: np.ndarray) -> np.ndarray:
    """Paint the background, uint8 (H, W, 3), under `light` (H, W), 0 to 1."""
    colour = np.array(parameters["colour"], dtype=np.float32)
    steps, pattern = np.zeros(3, dtype=np.float32), np.float32(0)
    if parameters["style"] == "gradient":
        steps = np.array(parameters["second_colour"], dtype=np.float32) - colour
        pattern = _ramp(size, parameters["angle"])
        pattern = (pattern - pattern.min()) / np.ptp(pattern)
    elif parameters["style"] == "texture":
        rng = np.random.default_rng(parameters["texture_seed"])
        steps = np.ones(3, dtype=np.float32)
        pattern = sum(amplitude * _noise(size, scale, rng) for scale, amplitude in ((0.15, 5.0), (0.008, 1.5)))
    planes = [(start + step * pattern) * light for start, step in zip(colour, steps, strict=True)]
    return np.clip(cv2.merge(planes) + 0.5, 0, 255).astype(np.uint8)


def _ramp(size: tuple[int, int], angle: float) -> np.ndarray:
    """Return what rises along a direction (degrees), (H, W): from the image's middle, x and y reach from -1 to 1."""
    x, y = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    return x * np.float32(np.cos(np.radians(angle))) + (y * np.float32(np.sin(np.radians(angle))))[:, None]


def _noise(size: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Draw smooth noise (H, W), standard deviation 1, whose spots are about `scale` of the longest side wide."""
    spot = max(1.0, 2 * scale * max(size))
    width, height = (max(2, round(side / spot) + 1) for side in size)
    noise = cv2.resize(rng.standard_normal((height, width), dtype=np.float32), size, interpolation=cv2.INTER_CUBIC)
    return noise / max(float(noise.std()), 1e-6)


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
    light = 1 + np.float32(parameters["side_light"] / np.sqrt(2)) * _ramp(image.size, parameters["angle"])
    shadow = np.float32(1)
    if mask is not None:
        free = 1 - np.asarray(mask, dtype=np.float32) / 255
        shadow = 1 - np.float32(parameters["shadow_strength"]) * drop_shadow(mask) * free
    contrast, warmth = np.float32(parameters["contrast"]), parameters["warmth"]
    factor, offset = shadow * contrast * light, (128 - 128 * contrast) * light
    gains = np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32) * np.float32(parameters["brightness"])
    planes = [(plane * factor + offset) * gain for plane, gain in zip(cv2.split(np.asarray(image)), gains, strict=True)]
    return Image.fromarray(np.clip(cv2.merge(planes) + 0.5, 0, 255).astype(np.uint8))
