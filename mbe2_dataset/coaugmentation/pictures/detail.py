"""Views of the kind "detail": the part with the most to see, such as a logo or a print (operations are our choice)."""

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab, rgb2ycbcr

# Side of the part that is shown, as a share of the subject's longer side; never fewer pixels than the second figure,
# or nothing could be read.
SHARES, LEAST_SIDE = (0.34, 0.50), 40
# A part is not enlarged more than this.
MOST_ENLARGED = 4.0
# A part whose grey levels (of 255) have a lower standard deviation than this is of one colour: black leather, say.
LEAST_CONTRAST = 4.0


class NothingToSee(ValueError):
    """No part of the subject shows anything."""


def draw(image: Image.Image, mask: Image.Image | None, rng: np.random.Generator) -> dict[str, object]:
    """Parameters: `box`, the square to show (left, upper, right, lower in pixels), and `side`, its size in the view.

    Raises:
        NothingToSee: even the part with the most to see is of one colour.
    """
    width, height = image.size
    inside = np.ones((height, width), dtype=bool) if mask is None else np.asarray(mask) > 127
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    side = int(np.clip(round(rng.uniform(*SHARES) * longer), min(LEAST_SIDE, width, height), min(width, height)))
    worth = _worth(np.asarray(image), inside, side)
    # A window is where its centre is; those that would leave the picture are out.
    half = side // 2
    worth = worth[half : half + height - side + 1, half : half + width - side + 1]
    upper, left = np.unravel_index(worth.argmax(), worth.shape)
    box = [int(left), int(upper), int(left) + side, int(upper) + side]
    if np.asarray(image.convert("L").crop(box)).std() < LEAST_CONTRAST:
        raise NothingToSee("the part with the most to see is of one colour")
    return {
        "box": box,
        "side": int(min(max(width, height), round(side * MOST_ENLARGED))),
    }


def apply(image: Image.Image, mask: Image.Image | None, parameters: dict) -> Image.Image:
    """The square part that `parameters` name, enlarged."""
    side = parameters["side"]
    return image.resize((side, side), Image.Resampling.LANCZOS, box=parameters["box"])


def _worth(pixels: np.ndarray, inside: np.ndarray, side: int) -> np.ndarray:
    """How much there is to see (H, W) in the square window around each pixel.

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
