"""Views of a product without a model (operations are our choice).

By geometry: "viewpoint" is another framing, distance, tilt and perspective, "detail" the part with the most to see,
such as a logo or a print. With the framing kept: another "background", or the same image under other "lighting".
A view is never mirrored, because lettering and logos would become others.
"""

import math
from colorsys import hsv_to_rgb

import cv2
import numpy as np
from PIL import Image

from mbe2_dataset.coaugmentation.pictures.classical import core_of, lab_of, nearest_core_colours, shrunk, slope_of

# The frame around the subject may show what lies beyond the image only if the image's rim is this even (RGB).
EVEN_RIM = 10.0
# How far a corner of the frame moves inwards, as a share of the frame.
MOST_INWARDS = 0.055
# Side of a detail, as a share of the subject's longer side; never fewer pixels than the second figure, or nothing could
# be read.
SHARES, LEAST_SIDE = (0.34, 0.50), 40
# A detail is not enlarged more than this.
MOST_ENLARGED = 4.0
# A part whose grey levels (of 255) have a lower standard deviation than this is of one colour: black leather, say.
LEAST_CONTRAST = 4.0


class NothingToSee(ValueError):
    """No part of the subject shows anything."""


def draw_viewpoint(image: Image.Image, mask: Image.Image | None, rng: np.random.Generator) -> dict[str, object]:
    """Draw a framing that keeps the subject whole, or without a mask nearly all of the image.

    Returns:
        `window` (left, upper, right, lower, as shares of the image's width and height, it may reach beyond it),
        `rotation` of the window in degrees and `corners`: how far each of its corners (upper left, lower left, lower
        right, upper right; x and y) moves inwards, as shares of the window.
    """
    corners = rng.uniform(0.0, MOST_INWARDS, 8)
    if mask is None or not _even_rim(image, mask):
        scale = rng.uniform(0.80, 0.94)
        left, upper = rng.uniform(0.0, 1 - scale, 2)
        window, rotation = (left, upper, left + scale, upper + scale), 0.0
        if mask is not None:
            window = _around(window, _box(mask))
    else:
        window, is_cut = _placed(mask, rng)
        rotation = 0.0 if is_cut else rng.uniform(-7, 7)
    return {
        "window": [round(float(v), 4) for v in window],
        "rotation": round(float(rotation), 2),
        "corners": [round(float(v), 4) for v in corners],
    }


def apply_viewpoint(image: Image.Image, mask: Image.Image | None, parameters: dict) -> Image.Image:
    """Show the window that `parameters` describe in the image's own size; beyond the image its edge goes on."""
    width, height = image.size
    left, upper, right, lower = parameters["window"]
    corners = parameters["corners"]
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    starts = ((left, upper), (left, lower), (right, lower), (right, upper))
    centre_x, centre_y = (left + right) / 2 * width, (upper + lower) / 2 * height
    cos, sin = (f(math.radians(parameters["rotation"])) for f in (math.cos, math.sin))
    quad = []
    for number, ((sign_x, sign_y), (x, y)) in enumerate(zip(signs, starts, strict=True)):
        x = (x + sign_x * corners[2 * number] * (right - left)) * width - centre_x
        y = (y + sign_y * corners[2 * number + 1] * (lower - upper)) * height - centre_y
        quad.append((centre_x + cos * x - sin * y, centre_y + sin * x + cos * y))
    # A corner of the image is half a pixel away from the centre of its corner pixel, which is where OpenCV counts from.
    ends = ((0, 0), (0, height), (width, height), (width, 0))
    there, here = (np.array(points, dtype=np.float32) - 0.5 for points in (ends, quad))
    shown = cv2.warpPerspective(
        np.asarray(image),
        cv2.getPerspectiveTransform(there, here),
        image.size,
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return Image.fromarray(shown)


def _even_rim(image: Image.Image, mask: Image.Image) -> bool:
    pixels, free = np.asarray(image), np.asarray(mask) < 10
    rows = ((0, 2), (-2, None))
    sides = [(slice(*ends), slice(None)) for ends in rows] + [(slice(None), slice(*ends)) for ends in rows]
    rim = np.concatenate([pixels[side][free[side]] for side in sides])
    return bool(len(rim)) and float(rim.std(axis=0).max()) < EVEN_RIM


def _box(mask: Image.Image) -> tuple[float, float, float, float]:
    inside = (np.asarray(mask) > 127).view(np.uint8)
    left, upper, width, height = cv2.boundingRect(inside)
    return left / mask.width, upper / mask.height, (left + width) / mask.width, (upper + height) / mask.height


def _around(window: tuple[float, ...], box: tuple[float, ...]) -> tuple[float, ...]:
    """`window` widened, within the image, so that it holds `box` and the corners' way inwards."""
    upper_left = (max(0.0, min(a, b - MOST_INWARDS)) for a, b in zip(window[:2], box[:2], strict=True))
    lower_right = (min(1.0, max(a, b + MOST_INWARDS)) for a, b in zip(window[2:], box[2:], strict=True))
    return (*upper_left, *lower_right)


def _placed(mask: Image.Image, rng: np.random.Generator) -> tuple[tuple[float, ...], bool]:
    """Draw a window, of the image's shape, in which the subject has another size and place; tell whether it is cut.

    Where an edge of the image cuts the subject, the window ends there too: what lies beyond is not known.
    """
    box = _box(mask)
    edge = 0.012
    cut = (box[0] < edge, box[1] < edge, box[2] > 1 - edge, box[3] > 1 - edge)
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(width, height) / rng.uniform(0.70, 0.86)
    window = []
    for low, extent, low_cut, high_cut in ((box[0], width, cut[0], cut[2]), (box[1], height, cut[1], cut[3])):
        spare = side - extent
        start = low - spare * rng.uniform(0.4, 0.6)
        if low_cut and high_cut:
            start = 0.5 - side / 2
        elif low_cut:
            start = 0.0
        elif high_cut:
            start = 1.0 - side
        window.append((start, start + side, low_cut and high_cut))
    (left, right, wide), (upper, lower, tall) = window
    if (wide or tall) and side > 1:
        # Cut on opposite sides: only a part of the image can be shown, its whole width or height at most.
        shrink = (side - 1) / 2
        left, right = (0.0, 1.0) if wide else (left + shrink, right - shrink)
        upper, lower = (0.0, 1.0) if tall else (upper + shrink, lower - shrink)
        if not wide and (cut[0] or cut[2]):
            left, right = (0.0, 1.0)
        if not tall and (cut[1] or cut[3]):
            upper, lower = (0.0, 1.0)
    return (left, upper, right, lower), any(cut)


def draw_detail(image: Image.Image, mask: Image.Image | None, rng: np.random.Generator) -> dict[str, object]:
    """Draw `box`, the square to show (left, upper, right, lower in pixels), and `side`, its size in the view.

    Raises:
        NothingToSee: even the part with the most to see is of one colour.
    """
    width, height = image.size
    inside = np.ones((height, width), dtype=bool) if mask is None else np.asarray(mask) > 127
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    side = int(np.clip(round(rng.uniform(*SHARES) * longer), min(LEAST_SIDE, width, height), min(width, height)))
    worth = _worth(np.asarray(image), inside, side)
    # A window is where its centre is; those that would leave the image are out.
    half = side // 2
    worth = worth[half : half + height - side + 1, half : half + width - side + 1]
    upper, left = np.unravel_index(worth.argmax(), worth.shape)
    box = [int(left), int(upper), int(left) + side, int(upper) + side]
    if np.asarray(image.convert("L").crop(box)).std() < LEAST_CONTRAST:
        raise NothingToSee("the part with the most to see is of one colour")
    return {"box": box, "side": int(min(max(width, height), round(side * MOST_ENLARGED)))}


def apply_detail(image: Image.Image, mask: Image.Image | None, parameters: dict) -> Image.Image:
    """Enlarge the square part that `parameters` name."""
    side = parameters["side"]
    return image.resize((side, side), Image.Resampling.LANCZOS, box=parameters["box"])


def _worth(pixels: np.ndarray, inside: np.ndarray, side: int) -> np.ndarray:
    """Measure how much there is to see (H, W) in the square window around each pixel.

    The outline does not count, what is near the middle counts more, and skin counts little, or a model's face would
    be the detail of most garments.
    """
    height, width = inside.shape
    slope = slope_of(cv2.GaussianBlur(lab_of(pixels), (0, 0), 0.8))
    core = shrunk(inside, max(1, round(max(height, width) / 60)))
    skin = cv2.inRange(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb), (0, 136, 74), (255, 181, 124)) > 0
    energy, share, skin = (
        cv2.blur(values.astype(np.float32), (side, side), borderType=cv2.BORDER_REFLECT)
        for values in (np.minimum(slope, 40.0) * core, inside, skin & inside)
    )
    away = []
    for axis, length in ((1, height), (0, width)):
        found = np.flatnonzero(inside.any(axis=axis))
        # The middle of the subject's pixels along this direction.
        middle = np.average(np.arange(length), weights=inside.sum(axis=axis))
        away.append(np.exp(-4 * ((np.arange(length) - middle) / max(1, np.ptp(found))) ** 2))
    skin = skin / np.maximum(share, 1e-6)
    return energy * share**2 * np.multiply.outer(*away) * (1 - 0.8 * skin)


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
