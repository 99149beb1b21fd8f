"""Subject extraction without a model: what differs from a smooth background (our choice for MOON2.0, section 5)."""

from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from mbe2_dataset.coaugmentation.pictures.subject import Subject, checked_subject, no_subject

# A build has a process for each core, so OpenCV's own threads would only wait for each other.
cv2.setNumThreads(0)
# Two colours that are closer (RGB, 0 to 255) cannot tell how much of each is in a mixture.
LEAST_DIFFERENCE = 40.0
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


# sRGB values (0 to 255) as light. OpenCV's own way from sRGB to CIELAB interpolates, with errors of up to 0.4.
_VALUES = np.arange(256) / 255
_LIGHT = np.where(_VALUES <= 0.04045, _VALUES / 12.92, ((_VALUES + 0.055) / 1.055) ** 2.4).astype(np.float32)


def lab_of(pixels: np.ndarray) -> np.ndarray:
    """Return RGB `pixels` (H, W, 3), uint8, in CIELAB, float32."""
    return cv2.cvtColor(cv2.LUT(pixels, _LIGHT), cv2.COLOR_LRGB2Lab)


def slope_of(values: np.ndarray) -> np.ndarray:
    """Return how much (H, W) the three channels of `values` change over two pixels."""
    squared = sum(
        np.square(cv2.Sobel(values, cv2.CV_32F, *axis, scale=0.25, borderType=cv2.BORDER_REFLECT))
        for axis in ((1, 0), (0, 1))
    )
    return np.sqrt(cv2.transform(squared, np.ones((1, 3), dtype=np.float32)))


def grown(inside: np.ndarray, steps: int) -> np.ndarray:
    """Return `inside` (H, W), bool, with all pixels from which so many steps to a neighbour lead into it."""
    return cv2.dilate(inside.view(np.uint8), _CROSS, iterations=steps).view(bool)


def shrunk(inside: np.ndarray, steps: int) -> np.ndarray:
    """Return `inside` (H, W), bool, without the pixels from which so many steps lead out; the image's edge is no way
    out.
    """
    return cv2.erode(inside.view(np.uint8), _CROSS, iterations=steps).view(bool)


def rim_width(size: tuple[int, int]) -> int:
    """Return how many pixels on each side of an outline may show a mixture of product and background."""
    return max(1, round(max(size) / 130))


def nearest_core_colours(pixels: np.ndarray, core: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return for each of the places `wanted` (N,) the colour of the nearest pixel in `core` (H, W, bool): (N, 3)."""
    outside = (~core).view(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    # OpenCV numbers the pixels of the core row by row, from 1.
    return pixels.reshape(-1, 3)[np.flatnonzero(core)[labels.ravel()[wanted] - 1]]


def core_of(inside: np.ndarray) -> np.ndarray:
    """Return `inside` (H, W) without its rim; all of it where it is too thin to have anything else."""
    rim = rim_width(inside.shape)
    # One pixel more than the rim, because an outline is rather drawn too wide than too narrow.
    core = shrunk(inside, rim + 1)
    # A strap of two pixels has no core, yet its own colour is better than that of the bag it hangs on.
    return core | (inside & ~grown(core, 2 * rim + 1))


def soft_alpha(pixels: np.ndarray, inside: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return the shares of product (H, W), 0 to 1, that mix `background` and the product's colours into `pixels`.

    Args:
        pixels: (H, W, 3) RGB, 0 to 255.
        inside: (H, W), which pixels are mostly product.
        background: (H, W, 3) CIELAB, what would be seen without the product.
    """
    rim = rim_width(inside.shape)
    core = core_of(inside)
    alpha = inside.astype(np.float32)
    # Of whole images, only the pixels along the outline are worked on.
    band = np.flatnonzero(grown(inside, rim) & ~core)
    if not len(band):
        return alpha
    behind = 255 * cv2.cvtColor(background.reshape(-1, 1, 3)[band], cv2.COLOR_Lab2RGB)[:, 0]
    reach = nearest_core_colours(pixels, core, band) - behind
    squared = np.einsum("ij,ij->i", reach, reach)
    share = np.einsum("ij,ij->i", pixels.reshape(-1, 3)[band] - behind, reach) / np.maximum(squared, 1.0)
    feathered = cv2.GaussianBlur(alpha, (0, 0), 0.5 * rim, borderType=cv2.BORDER_REFLECT).ravel()[band]
    share = np.where(squared < LEAST_DIFFERENCE**2, feathered, np.clip(share, 0.0, 1.0))
    alpha.ravel()[band] = np.where(share < 0.04, 0.0, share)
    return alpha


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
# The surface is fitted to about this many pixels of the frame.
MOST_SAMPLES = 1500
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
    revision = "2"
    prompt_version = ""

    def __call__(self, image: Image.Image) -> Subject:
        """See `SubjectExtractor`."""
        pixels = small = np.asarray(image.convert("RGB"))
        scale = WORKING_SIZE / max(image.size)
        if scale < 1:
            size = [max(1, round(side * scale)) for side in image.size]
            small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        if min(small.shape[:2]) < 16:
            return no_subject("the image is smaller than 16 pixels")
        lab = lab_of(small)
        background, border_share = _background(lab)
        if border_share < LEAST_BORDER:
            return no_subject(f"only {border_share:.0%} of the frame has one smooth background")
        inside, contrast = _segment(lab - background)
        if not inside.any():
            return no_subject("nothing, or only a part of the subject, differs from the background")
        if _is_clutter(inside):
            return no_subject("several things are cut by the edges of the image: its background is not plain")
        score = contrast * min(1.0, border_share / 0.6)
        if score < LEAST_SCORE:
            return no_subject(f"the subject's outline has hardly any contrast (score {score:.2f})")
        return checked_subject(_mask(pixels, inside, background), score)


def _mask(pixels: np.ndarray, inside: np.ndarray, background: np.ndarray) -> Image.Image:
    """Return the mask in the size of `pixels`, with a soft outline; `inside` (h, w) and `background` may be smaller."""
    if pixels.shape != background.shape:
        size = pixels.shape[1::-1]
        background = cv2.resize(background, size, interpolation=cv2.INTER_LINEAR)
        inside = cv2.resize(inside.view(np.uint8) * 255, size, interpolation=cv2.INTER_CUBIC) > 127
    return Image.fromarray((soft_alpha(pixels, inside, background) * 255).round().astype(np.uint8))


def _labelled(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected parts of `inside` (H, W) from 1: each pixel's number, and how many each number has."""
    count, labels = cv2.connectedComponents(inside.view(np.uint8), connectivity=4)
    areas = np.bincount(labels.ravel(), minlength=count)
    areas[0] = 0
    return labels, areas


def _is_clutter(inside: np.ndarray) -> bool:
    """Tell whether other things than the largest reach out of the image, or the largest does so in many places."""
    labels, areas = _labelled(inside)
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    cut = np.unique(np.concatenate(edges))
    strangers = [number for number in cut if number and number != areas.argmax()]
    runs = [int(np.diff(edge > 0, prepend=False)[edge > 0].sum()) for edge in edges]
    return (
        len(strangers) > MOST_STRANGERS
        or sum(areas[strangers]) > STRANGER_SHARE * areas.sum()
        or (sum(run > 0 for run in runs) >= 3 and sum(runs) >= 5)
    )


@lru_cache(maxsize=16)
def _surface(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the terms of a quadratic surface (H, W, 6), and the places (H * W) of pixels all along the frame."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    rim = max(2, round(0.025 * max(height, width)))
    frame = np.ones((height, width), dtype=bool)
    frame[rim:-rim, rim:-rim] = False
    places = np.flatnonzero(frame)
    places = places[:: 1 + len(places) // MOST_SAMPLES]
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1), places


def _background(lab: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit a quadratic surface for each channel of `lab` (H, W, 3) to the frame; return it and the share that agrees.

    The fit starts from the most common colour of the frame and drops what is far off, because goods may be cut by an
    edge of the image.
    """
    terms, places = _surface(*lab.shape[:2])
    colours, design = lab.reshape(-1, 3)[places], terms.reshape(-1, 6)[places]
    near = _within(colours - _most_common(colours), 20.0)
    count = 3
    for tolerance in (14.0, 9.0, 7.0, 6.0):
        solution = _least_squares(design[:, :count], colours, near)
        near = _within(colours - design[:, :count] @ solution, tolerance)
        share = np.count_nonzero(near) / len(near)
        if share < 0.1:
            return np.zeros_like(lab), share
        # Curvature is trusted only where most of the frame shows it.
        count = 6 if share > 0.6 else 3
    solution = np.zeros((6, 3), dtype=np.float32)
    solution[:count] = _least_squares(design[:, :count], colours, near)
    return cv2.transform(terms, solution.T), share


def _least_squares(terms: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    # Normal equations: the terms are of order one, and thousands of points for six of them are slow by SVD.
    weighted = terms.T * chosen
    ridge = 1e-4 * np.eye(terms.shape[1], dtype=np.float32)
    return cv2.solve(weighted @ terms + ridge, weighted @ values, flags=cv2.DECOMP_CHOLESKY)[1]


def _within(differences: np.ndarray, distance: float) -> np.ndarray:
    """Tell which of (N, 3) differences of colours are shorter than `distance`."""
    return np.einsum("ij,ij->i", differences, differences) < distance**2


def _most_common(colours: np.ndarray) -> np.ndarray:
    """Return the mean of those of (N, 3) colours that are in the fullest of the cells into which CIELAB is cut."""
    cells = (colours // 8).astype(np.int32) + 16  # CIELAB is within -128 and 128
    cells = (cells[:, 0] * 32 + cells[:, 1]) * 32 + cells[:, 2]
    return colours[cells == np.bincount(cells).argmax()].mean(axis=0)


def _segment(difference: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the subject as bool (H, W), and the share of its outline that shows contrast, 0 to 1."""
    smooth = cv2.GaussianBlur(difference, (0, 0), 0.7, borderType=cv2.BORDER_REFLECT)
    lightness, a, b = cv2.split(smooth)
    chroma = cv2.magnitude(a, b)
    distance = cv2.magnitude(lightness, chroma)
    slope = slope_of(smooth)

    # On a clean white background even the pale grey of a white shirt differs; on a noisy one it does not.
    like = _from_frame(distance < NEAR)
    noise = float(np.median(distance[like])) if like.any() else 0.0
    near = float(np.clip(4 * noise + 0.8, 1.0, NEAR))
    outer = _from_frame((distance < near) & (slope < EDGE))
    sure = distance > min(FAR, 5 * near)
    shadow = np.zeros_like(sure)
    if not sure[-1].any():
        # What is cut by the lower edge stands on no ground on which a shadow could fall.
        shadow = (chroma < SHADOW_CHROMA) & (lightness < 0) & (lightness > -SHADOW_DEPTH) & (slope < SHADOW_EDGE)
        rows = np.flatnonzero(sure.any(axis=1))
        if len(rows):
            shadow[: rows.mean().astype(int)] = False
        outer = _from_frame(outer | grown(shrunk(shadow, 2), 2))
    sure &= ~outer
    if not sure.any() or not outer.any():
        return np.zeros_like(outer), 0.0
    inside = _flooded(smooth, sure, outer)
    if not inside.any():
        return inside, 0.0
    inside = _tidied(inside, distance, near, noise)
    # JPEG rings by 8 pixels around what has contrast; edges beyond that belong to goods as pale as the background.
    faint = (slope > max(FAINT_EDGE, 3 * noise)) & ~shadow & ~grown(inside, 8)
    if faint.sum() > MOST_FAINT * inside.sum():
        return np.zeros_like(inside), 0.0
    rim = inside & ~shrunk(inside, 1)
    contrast = float((cv2.dilate(distance, np.ones((3, 3)))[rim] > 2 * near).mean()) if rim.any() else 0.0
    return inside, contrast


def _flooded(smooth: np.ndarray, sure: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Return `sure` (H, W) grown to where `smooth` (H, W, 3, CIELAB) changes most between it and `outer`."""
    # OpenCV's watershed compares 8-bit channels of neighbours, and leaves out the image's edge.
    steps = np.clip(4 * smooth + 128, 0, 255).astype(np.uint8)
    markers = cv2.copyMakeBorder(outer + 2 * sure.astype(np.int32), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return cv2.watershed(cv2.copyMakeBorder(steps, 1, 1, 1, 1, cv2.BORDER_REPLICATE), markers)[1:-1, 1:-1] == 2


def _from_frame(free: np.ndarray) -> np.ndarray:
    """Return the part of `free` (H, W) that is connected with the image's edge."""
    framed = cv2.copyMakeBorder(free.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    cv2.floodFill(framed, None, (0, 0), 2)
    return framed[1:-1, 1:-1] == 2


def _tidied(inside: np.ndarray, distance: np.ndarray, near: float, noise: float) -> np.ndarray:
    """Remove specks, and add what the outline encloses, unless that shows the background.

    Args:
        inside: (H, W), the subject so far.
        distance: (H, W), from the background's colour.
        near: the distance up to which a pixel may be background.
        noise: the median distance where there is background only.
    """
    size = inside.size
    labels, areas = _labelled(inside)
    # All that is not connected with the image's edge is inside.
    filled = ~_from_frame((areas < max(0.0015 * size, 0.03 * areas.max()))[labels])
    # White goods on white: the outline has gaps, through which the background seemed to reach the goods' own surface.
    closed = ~_from_frame(~_closed(filled, round(CLOSING * max(inside.shape))))
    closed &= ~_even_parts(closed & ~filled, distance, noise, 0)
    # An opening, such as that of a handle, is enclosed by the goods, so nothing marked it as background so far.
    alike = (distance < max(near, NEAR / 2)) & shrunk(closed, 2)
    return closed & ~grown(_even_parts(alike, distance, noise, LEAST_OPENING * size), 1)


def _even_parts(region: np.ndarray, distance: np.ndarray, noise: float, least: float) -> np.ndarray:
    """Return the connected parts of `region` (H, W), of more than `least` pixels, that are even like the background."""
    if not region.any():
        return region
    labels, areas = _labelled(region)
    even = np.bincount(labels[distance < noise + MOST_UNEVEN], minlength=len(areas))
    # The white of a print is hardly ever as even as the background is; the rim of a part is blurred with the goods.
    shows = (areas > least) & (even > 0.25 * areas)
    shows[0] = False
    return shows[labels]


def _closed(inside: np.ndarray, radius: int) -> np.ndarray:
    """Fill the bays and gaps of `inside` (H, W) that are narrower than twice `radius`."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.morphologyEx(inside.view(np.uint8), cv2.MORPH_CLOSE, disk).view(bool)
