"""Views of the kind "viewpoint": another framing, distance, tilt and perspective (operations are our choice).

A view is never mirrored, because lettering and logos would become others.
"""

import math

import numpy as np
from PIL import Image

# The frame around the subject may show what lies beyond the picture only if the picture's rim is this even (RGB).
EVEN_RIM = 10.0
# How far a corner of the frame moves inwards, as a share of the frame.
MOST_INWARDS = 0.055


def draw(image: Image.Image, mask: Image.Image | None, rng: np.random.Generator) -> dict[str, object]:
    """Parameters of a framing that keeps the subject whole, or without a mask nearly all of the picture.

    Returns:
        `window` (left, upper, right, lower, as shares of the picture's width and height, it may reach beyond it),
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


def apply(image: Image.Image, mask: Image.Image | None, parameters: dict) -> Image.Image:
    """The window that `parameters` describe, in the picture's own size; beyond the picture its edge goes on."""
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
    """The eight numbers with which PIL maps a point of the result to the source: `points` go to `images`."""
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
    """`window` widened, within the picture, so that it holds `box` and the corners' way inwards."""
    margin = MOST_INWARDS
    return (
        max(0.0, min(window[0], box[0] - margin)),
        max(0.0, min(window[1], box[1] - margin)),
        min(1.0, max(window[2], box[2] + margin)),
        min(1.0, max(window[3], box[3] + margin)),
    )


def _placed(mask: Image.Image, rng: np.random.Generator) -> tuple[tuple[float, ...], bool]:
    """A window, of the picture's shape, in which the subject has another size and place; and whether it is cut.

    Where the subject is cut by an edge of the picture the window ends there too: what lies beyond is not known.
    """
    box = _box(mask)
    edge = 0.012
    cut = (box[0] < edge, box[1] < edge, box[2] > 1 - edge, box[3] > 1 - edge)
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(width, height) / rng.uniform(0.70, 0.86)
    window = []
    for low, extent, low_cut, high_cut in (
        (box[0], width, cut[0], cut[2]),
        (box[1], height, cut[1], cut[3]),
    ):
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
        # Cut on opposite sides: only a part of the picture can be shown, its whole width or height at most.
        shrink = (side - 1) / 2
        left, right = (0.0, 1.0) if wide else (left + shrink, right - shrink)
        upper, lower = (0.0, 1.0) if tall else (upper + shrink, lower - shrink)
        if not wide and (cut[0] or cut[2]):
            left, right = (0.0, 1.0)
        if not tall and (cut[1] or cut[3]):
            upper, lower = (0.0, 1.0)
    return (left, upper, right, lower), any(cut)
