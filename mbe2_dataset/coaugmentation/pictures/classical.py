"""Subject extraction without a model: what differs from a smooth background (our choice for MOON2.0, section 5)."""

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import lab2rgb, rgb2lab
from skimage.filters import sobel
from skimage.morphology import isotropic_closing
from skimage.segmentation import watershed

from mbe2_dataset.coaugmentation.pictures.subject import Subject, checked_subject, no_subject

# Two colours that are closer (RGB, 0 to 255) cannot tell how much of each is in a mixture.
LEAST_DIFFERENCE = 40.0


def rim_width(size: tuple[int, int]) -> int:
    """Return how many pixels on each side of an outline may show a mixture of product and background."""
    return max(1, round(max(size) / 130))


def nearest_core_colours(pixels: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Return `pixels` (H, W, 3), outside of `core` (H, W) with the colour of the nearest pixel in it."""
    rows, columns = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    return pixels[rows, columns]


def core_of(inside: np.ndarray) -> np.ndarray:
    """Return `inside` (H, W) without its rim; all of it where it is too thin to have anything else."""
    # One pixel more than the rim, because an outline is rather drawn too wide than too narrow.
    core = ndimage.binary_erosion(inside, iterations=rim_width(inside.shape) + 1, border_value=1)
    # A strap of two pixels has no core, yet its own colour is better than that of the bag it hangs on.
    thin = inside & ~ndimage.binary_dilation(core, iterations=2 * rim_width(inside.shape) + 1)
    return core | thin


def soft_alpha(pixels: np.ndarray, inside: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return the shares of product (H, W), 0 to 1, that mix `background` and the product's colours into `pixels`.

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


# Images are looked at in at most this size (longest side, pixels); the mask is scaled back.
WORKING_SIZE = 224
# Lightness-chroma distances (CIELAB, about 1 where an eye sees a difference).
NEAR, FAR = 3.0, 11.0
# A soft shadow keeps the background's hue and darkens it by at most this much lightness.
SHADOW_CHROMA, SHADOW_DEPTH = 5.0, 30.0
# A step per pixel (CIELAB) above the first is an edge of the background, above the second one an edge of a shadow.
EDGE, SHADOW_EDGE = 1.4, 1.2
# At least this share of the frame must be background, or the image has no background to model.
LEAST_BORDER = 0.35
LEAST_SCORE = 0.3
# An edge (step per pixel) this faint still counts on a clean background.
FAINT_EDGE = 0.6
# With more faint edges outside of it, as a share of its area, what was found is only a part of the subject.
MOST_FAINT = 0.15
# Gaps of an outline up to twice this share of the longest side are closed.
CLOSING = 0.02
# An opening that takes a smaller share of the image is taken for a light spot of the goods.
LEAST_OPENING = 0.004
# Most of an opening differs from the background by at most this much more than the background's own noise.
MOST_UNEVEN = 0.35
# Things cut by an edge of the image, beside the largest thing: how many, and with what share of what was found.
MOST_STRANGERS, STRANGER_SHARE = 2, 0.08


class ClassicalExtractor:
    """Models the background as a smooth surface fitted to the frame of the image, and keeps what differs from it.

    For catalogue photos: one colour or a smooth gradient behind the goods, also white goods on white and soft shadows.
    A person who wears the goods belongs to the subject. Deterministic; needs no weights.
    """

    model = "classical"
    revision = "1"
    prompt_version = ""

    def __call__(self, image: Image.Image) -> Subject:
        small = image.convert("RGB")
        small.thumbnail((WORKING_SIZE, WORKING_SIZE), Image.Resampling.BOX)
        if min(small.size) < 16:
            return no_subject("the picture is smaller than 16 pixels")
        lab = rgb2lab(np.asarray(small)).astype(np.float32)
        background, border_share = _background(lab)
        if border_share < LEAST_BORDER:
            return no_subject(f"only {border_share:.0%} of the frame has one smooth background")
        inside, contrast = _segment(lab - background)
        if not inside.any():
            return no_subject("nothing, or only a part of the subject, differs from the background")
        if _is_clutter(inside):
            return no_subject("several things are cut by the edges of the picture: its background is not plain")
        score = contrast * min(1.0, border_share / 0.6)
        if score < LEAST_SCORE:
            return no_subject(f"the subject's outline has hardly any contrast (score {score:.2f})")
        return checked_subject(_mask(image, inside, background), score)


def _mask(image: Image.Image, inside: np.ndarray, background: np.ndarray) -> Image.Image:
    """Return the mask in the size of `image`, with a soft outline; `inside` (h, w) and `background` may be smaller."""
    shade = Image.fromarray((np.clip(lab2rgb(background), 0, 1) * 255).round().astype(np.uint8))
    shade = np.asarray(shade.resize(image.size, Image.Resampling.BICUBIC), dtype=np.float32)
    rough = Image.fromarray(inside.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BICUBIC)
    alpha = soft_alpha(np.asarray(image.convert("RGB"), dtype=np.float32), np.asarray(rough) > 127, shade)
    return Image.fromarray((alpha * 255).round().astype(np.uint8))


def _is_clutter(inside: np.ndarray) -> bool:
    """Tell whether other things than the largest reach out of the image, or the largest does so in many places."""
    labels, _ = ndimage.label(inside)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    cut = np.unique(np.concatenate(edges))
    strangers = [number for number in cut if number and number != areas.argmax()]
    runs = [int(np.diff(np.concatenate([[0], edge > 0]).astype(int)).clip(0).sum()) for edge in edges]
    return (
        len(strangers) > MOST_STRANGERS
        or sum(areas[strangers]) > STRANGER_SHARE * areas.sum()
        or (sum(run > 0 for run in runs) >= 3 and sum(runs) >= 5)
    )


def _background(lab: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit a quadratic surface for each channel of `lab` (H, W, 3) to the frame; return it and the share that agrees.

    The fit starts from the most common colour of the frame and drops what is far off, because goods may be cut by an
    edge of the image.
    """
    height, width = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    rim = max(2, round(0.025 * max(height, width)))
    frame = np.ones((height, width), dtype=bool)
    frame[rim:-rim, rim:-rim] = False
    colours, design = lab[frame], terms[frame]
    near = _mode(colours)
    count = 3
    for tolerance in (14.0, 9.0, 7.0, 6.0):
        solution = _least_squares(design[near, :count], colours[near])
        near = np.linalg.norm(colours - design[:, :count] @ solution, axis=1) < tolerance
        if near.mean() < 0.1:
            return np.zeros_like(lab), float(near.mean())
        # Curvature is trusted only where most of the frame shows it.
        count = 6 if near.mean() > 0.6 else 3
    solution = _least_squares(design[near, :count], colours[near])
    return terms[..., :count] @ solution, float(near.mean())


def _least_squares(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    # Normal equations: the terms are of order one, and thousands of points for six of them are slow by SVD.
    ridge = 1e-4 * np.eye(terms.shape[1])
    return np.linalg.solve(terms.T.astype(np.float64) @ terms + ridge, terms.T @ values).astype(np.float32)


def _mode(colours: np.ndarray) -> np.ndarray:
    """Tell which of (N, 3) colours are within a wide distance of the most common one."""
    cells = (colours // 8).astype(np.int32) + 16  # CIELAB is within -128 and 128
    cells = (cells[:, 0] * 32 + cells[:, 1]) * 32 + cells[:, 2]
    centre = colours[cells == np.bincount(cells).argmax()].mean(axis=0)
    return np.linalg.norm(colours - centre, axis=1) < 20


def _segment(difference: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the subject as bool (H, W), and the share of its outline that shows contrast, 0 to 1."""
    smooth = np.stack([ndimage.gaussian_filter(channel, 0.7) for channel in np.moveaxis(difference, -1, 0)])
    distance = np.linalg.norm(smooth, axis=0)
    chroma = np.linalg.norm(smooth[1:], axis=0)
    slope = np.linalg.norm([sobel(channel) * np.sqrt(2) for channel in smooth], axis=0)

    # On a clean white background even the pale grey of a white shirt differs; on a noisy one it does not.
    like = _from_frame(distance < NEAR)
    noise = float(np.median(distance[like])) if like.any() else 0.0
    near = float(np.clip(4 * noise + 0.8, 1.0, NEAR))
    outer = _from_frame((distance < near) & (slope < EDGE))
    sure = distance > min(FAR, 5 * near)
    shadow = np.zeros_like(sure)
    if not sure[-1].any():
        # What is cut by the lower edge stands on no ground on which a shadow could fall.
        shadow = (chroma < SHADOW_CHROMA) & (smooth[0] < 0) & (smooth[0] > -SHADOW_DEPTH) & (slope < SHADOW_EDGE)
        rows = np.flatnonzero(sure.any(axis=1))
        if len(rows):
            shadow[: rows.mean().astype(int)] = False
        outer = _from_frame(outer | ndimage.binary_opening(shadow, iterations=2))
    sure &= ~outer
    markers = np.zeros(distance.shape, dtype=np.int32)
    markers[outer] = 1
    markers[sure] = 2
    if not sure.any() or not outer.any():
        return np.zeros_like(outer), 0.0
    inside = watershed(slope, markers) == 2
    if not inside.any():
        return inside, 0.0
    inside = _tidied(inside, distance, near, noise)
    # JPEG rings by 8 pixels around what has contrast; edges beyond that belong to goods as pale as the background.
    faint = (slope > max(FAINT_EDGE, 3 * noise)) & ~shadow & ~ndimage.binary_dilation(inside, iterations=8)
    if faint.sum() > MOST_FAINT * inside.sum():
        return np.zeros_like(inside), 0.0
    rim = inside ^ ndimage.binary_erosion(inside, iterations=1, border_value=1)
    contrast = float((ndimage.maximum_filter(distance, 3)[rim] > 2 * near).mean()) if rim.any() else 0.0
    return inside, contrast


def _from_frame(free: np.ndarray) -> np.ndarray:
    """Return the part of `free` (H, W) that is connected with the image's edge."""
    labels, _ = ndimage.label(free)
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, touching[touching > 0])


def _tidied(inside: np.ndarray, distance: np.ndarray, near: float, noise: float) -> np.ndarray:
    """Remove specks, and add what the outline encloses, unless that shows the background.

    Args:
        inside: (H, W), the subject so far.
        distance: (H, W), from the background's colour.
        near: the distance up to which a pixel may be background.
        noise: the median distance where there is background only.
    """
    size = inside.size
    labels, count = ndimage.label(inside)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    inside = (areas >= max(0.0015 * size, 0.03 * areas.max()))[labels]
    filled = ndimage.binary_fill_holes(inside)
    # White goods on white: the outline has gaps, through which the background seemed to reach the goods' own surface.
    closed = ndimage.binary_fill_holes(_closed(filled, round(CLOSING * max(inside.shape))))
    closed &= ~_even_parts(closed & ~filled, distance, noise, 0)
    # An opening, such as that of a handle, is enclosed by the goods, so nothing marked it as background so far.
    alike = (distance < max(near, NEAR / 2)) & ndimage.binary_erosion(closed, iterations=2)
    return closed & ~ndimage.binary_dilation(_even_parts(alike, distance, noise, LEAST_OPENING * size))


def _even_parts(region: np.ndarray, distance: np.ndarray, noise: float, least: float) -> np.ndarray:
    """Return the connected parts of `region` (H, W), of more than `least` pixels, that are even like the background."""
    labels, count = ndimage.label(region)
    pixels = np.bincount(labels.ravel(), minlength=count + 1)
    even = np.bincount(labels.ravel(), weights=(distance < noise + MOST_UNEVEN).ravel(), minlength=count + 1)
    # The white of a print is hardly ever as even as the background is; the rim of a part is blurred with the goods.
    shows = (pixels > least) & (even > 0.25 * pixels)
    shows[0] = False
    return shows[labels]


def _closed(inside: np.ndarray, radius: int) -> np.ndarray:
    """Fill the bays and gaps of `inside` (H, W) that are narrower than twice `radius`."""
    height, width = inside.shape
    closed = isotropic_closing(np.pad(inside, radius, mode="edge"), radius)
    return closed[radius : radius + height, radius : radius + width]
