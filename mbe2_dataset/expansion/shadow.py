"""Soft shadows of a subject, from its mask alone (our choice)."""

import numpy as np
from PIL import Image
from scipy import ndimage

# The lowest part of a subject that is taken to stand on the ground, as a share of its height.
FOOT = 0.08


def cut_below(mask: Image.Image) -> bool:
    """Whether the subject goes on beyond the picture's lower edge, so that it stands on no ground that is seen."""
    return bool((np.asarray(mask)[-2:] > 127).any())


def contact_shadow(mask: Image.Image) -> np.ndarray:
    """Darkness 0 to 1 (H, W): a flat shadow on the ground where the subject's lowest part touches it."""
    inside = np.asarray(mask) > 127
    height, width = inside.shape
    rows = np.flatnonzero(inside.any(axis=1))
    bottom = rows[-1]
    foot = inside[max(rows[0], bottom - max(2, round(FOOT * len(rows)))) : bottom + 1].any(axis=0).astype(np.float32)
    profile = ndimage.gaussian_filter1d(foot, 0.02 * width)
    y = np.arange(height, dtype=np.float32)[:, None]
    return np.exp(-0.5 * ((y - bottom) / (0.018 * height + 0.5)) ** 2) * profile[None, :]


def drop_shadow(mask: Image.Image) -> np.ndarray:
    """Darkness 0 to 1 (H, W): the subject's outline on a wall close behind it, a little to the lower right."""
    alpha = np.asarray(mask, dtype=np.float32) / 255
    step = max(1, round(0.02 * max(alpha.shape)))
    shifted = ndimage.shift(alpha, (step, step), order=0, mode="nearest")
    return ndimage.gaussian_filter(shifted, 0.025 * max(alpha.shape), mode="nearest")
