"""Views of a product without a model (operations are our choice).

By geometry: "viewpoint" is another framing, distance, tilt and perspective, "detail" the part with the most to see,
such as a logo or a print. With the framing kept: another "background", or the same image under other "lighting".
A view is never mirrored, because lettering and logos would become others.
"""

import math

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2lab, rgb2ycbcr

from mbe2_dataset.coaugmentation.pictures.classical import core_of, nearest_core_colours

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
    pad = math.ceil(max(0, *(max(-x, x - width, -y, y - height) for x, y in quad))) + 2
    padded = Image.fromarray(np.pad(np.asarray(image), ((pad, pad), (pad, pad), (0, 0)), mode="edge"))
    ends = ((0, 0), (0, height), (width, height), (width, 0))
    coefficients = _homography(ends, [(x + pad, y + pad) for x, y in quad])
    return padded.transform(image.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)


def _homography(points: tuple, images: list) -> list[float]:
    """Return the eight numbers with which PIL maps a point of the result to the source: `points` go to `images`."""
    rows, values = [], []
    for (x, y), (u, v) in zip(points, images, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows, dtype=np.float64), np.array(values, dtype=np.float64)).tolist()


def _even_rim(image: Image.Image, mask: Image.Image) -> bool:
    pixels, free = np.asarray(image, dtype=np.float32), np.asarray(mask) < 10
    rim = np.ones(free.shape, dtype=bool)
    rim[2:-2, 2:-2] = False
    rim &= free
    return bool(rim.any()) and float(pixels[rim].std(axis=0).max()) < EVEN_RIM


def _box(mask: Image.Image) -> tuple[float, float, float, float]:
    left, upper, right, lower = mask.point(lambda value: 255 * (value > 127)).getbbox()
    return left / mask.width, upper / mask.height, right / mask.width, lower / mask.height


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
    lab = rgb2lab(pixels)
    slope = np.sqrt(sum(ndimage.gaussian_gradient_magnitude(lab[..., channel], 1.0) ** 2 for channel in range(3)))
    core = ndimage.binary_erosion(inside, iterations=max(1, round(max(height, width) / 60)))
    energy = np.minimum(slope, 20.0) * core
    share = ndimage.uniform_filter(inside.astype(np.float64), side)
    _, blue, red = np.moveaxis(rgb2ycbcr(pixels), -1, 0)
    skin = ((red > 135) & (red < 175) & (blue > 80) & (blue < 125) & inside).astype(np.float64)
    skin = ndimage.uniform_filter(skin, side) / np.maximum(share, 1e-6)
    rows, columns = np.nonzero(inside)
    y, x = np.mgrid[0:height, 0:width]
    away = ((y - rows.mean()) / np.ptp(rows).clip(1)) ** 2 + ((x - columns.mean()) / np.ptp(columns).clip(1)) ** 2
    return ndimage.uniform_filter(energy, side) * share**2 * np.exp(-4 * away) * (1 - 0.8 * skin)


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
