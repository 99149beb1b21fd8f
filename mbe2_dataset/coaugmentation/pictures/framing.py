"""Views by geometry: "viewpoint" is another framing, distance, tilt and perspective, "detail" the part with the most to
see, such as a logo or a print (operations are our choice).

A view is never mirrored, because lettering and logos would become others.
"""

import math

import cv2
import numpy as np
from PIL import Image

from mbe2_dataset.coaugmentation.pictures.classical import lab_of, shrunk, slope_of

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
