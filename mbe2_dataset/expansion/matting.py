"""Soft outlines: how much of a pixel on the outline is product, and what colour that share has (our choice)."""

import numpy as np
from scipy import ndimage

# Two colours that are closer (RGB, 0 to 255) cannot tell how much of each is in a mixture.
LEAST_DIFFERENCE = 40.0


def rim_width(size: tuple[int, int]) -> int:
    """Pixels on each side of an outline that may show a mixture of product and background."""
    return max(1, round(max(size) / 130))


def nearest_core_colours(pixels: np.ndarray, core: np.ndarray) -> np.ndarray:
    """`pixels` (H, W, 3), outside of `core` (H, W) with the colour of the nearest pixel in it."""
    rows, columns = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    return pixels[rows, columns]


def core_of(inside: np.ndarray) -> np.ndarray:
    """`inside` (H, W) without its rim; all of it where it is too thin to have anything else."""
    # One pixel more than the rim, because an outline is rather drawn too wide than too narrow.
    core = ndimage.binary_erosion(inside, iterations=rim_width(inside.shape) + 1, border_value=1)
    # A strap of two pixels has no core, yet its own colour is better than that of the bag it hangs on.
    thin = inside & ~ndimage.binary_dilation(core, iterations=2 * rim_width(inside.shape) + 1)
    return core | thin


def soft_alpha(pixels: np.ndarray, inside: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Shares of product (H, W), 0 to 1, that mix `background` and the product's colours near by into `pixels`.

    Args:
        pixels: (H, W, 3) RGB, 0 to 255.
        inside: (H, W), which pixels are mostly product.
        background: (H, W, 3), what would be seen without the product.
    """
    rim = rim_width(inside.shape)
    core = core_of(inside)
    band = ndimage.binary_dilation(inside, iterations=rim) & ~core
    reach = nearest_core_colours(pixels, core) - background
    squared = (reach * reach).sum(axis=-1)
    share = ((pixels - background) * reach).sum(axis=-1) / np.maximum(squared, 1.0)
    feathered = ndimage.gaussian_filter(inside.astype(np.float32), 0.5 * rim)
    share = np.where(squared < LEAST_DIFFERENCE**2, feathered, np.clip(share, 0.0, 1.0))
    alpha = np.where(band, share, inside.astype(np.float32))
    return np.where(alpha < 0.04, 0.0, alpha)
