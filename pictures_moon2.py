"""Images in any form -> upright RGB images. What cannot be read is refused in a sentence, never replaced."""

import math
import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Images may come in these formats only: product photos need no others, and Pillow's rarer readers are a risk. HEIC is
# read as well where a program has registered a reader for it (pillow-heif).
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF")
# The limit of Qwen's image processors, for all: others would squash a line to a square, or blow it up without bounds.
MAX_ASPECT_RATIO = 200
# What Pillow's readers raise on damaged files: hardly one of them raises OSError only.
PILLOW_ERRORS = (OSError, ValueError, TypeError, SyntaxError, EOFError, LookupError, ArithmeticError,
                 struct.error, zlib.error, Image.DecompressionBombError)  # fmt: skip


def load_picture(
    source: Any,
    *,
    fetch: Callable[[str], bytes] | None = None,
    max_pixels: int | None = None,
    least: int | tuple[int, int] | None = None,
) -> Image.Image:
    """Read an image in any accepted form: RGB, upright, transparency on white, first frame; `source` is not changed.

    Args:
        source: a `PIL.Image`, a path, the bytes of a file, a file object, an array of uint8 (H, W[, 1 | 3 | 4]) or
            uint16 (H, W[, 1]), or the `{"bytes", "path"}` of an undecoded datasets column.
        fetch: gives the bytes at an http or https address; without it addresses are refused.
        max_pixels: larger images are scaled down, at their own shape, to at most this many pixels.
        least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is far cheaper, while it keeps at least this
            many pixels, or this width and height. By default `max_pixels`.

    Raises:
        ValueError: it cannot be read, or is of a kind that is not accepted; the message says why.
    """
    try:
        if isinstance(source, np.ndarray):
            return _finish(_from_array(source), max_pixels)
        if isinstance(source, Image.Image):
            return _finish(_first_frame(source), max_pixels)
        formats = (*PICTURE_FORMATS, *(name for name in ("HEIF",) if name in Image.OPEN))
        with Image.open(_file(source, fetch), formats=formats) as picture:
            limit = Image.MAX_IMAGE_PIXELS  # above it Pillow warns, above twice of it Pillow refuses
            if limit is not None and picture.width * picture.height > limit:
                raise ValueError(f"{picture.width} x {picture.height} pixels, at most {limit:,} are read")
            _draft(picture, max_pixels if least is None else least)
            return _finish(picture, max_pixels)
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(PICTURE_FORMATS[:-1])} or {PICTURE_FORMATS[-1]} image") from None
    except PILLOW_ERRORS as error:
        raise ValueError(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def check_shape(size: tuple[int, int]) -> None:
    """Raise a ValueError for an image of this width and height that no processor takes, whatever it shows."""
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ValueError(f"one side is more than {MAX_ASPECT_RATIO} times the other")


def _file(source: Any, fetch: Callable[[str], bytes] | None) -> Any:
    """Return what `Image.open` takes: a path or a file object."""
    if isinstance(source, dict):
        data = source.get("bytes")
        source = source.get("path") if data is None else BytesIO(data)
    elif isinstance(source, (bytes, bytearray)):
        return BytesIO(source)
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        if fetch is None:
            raise ValueError("addresses are not fetched; download the image and pass its path, or pass `fetch`")
        return BytesIO(fetch(source))
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
        raise ValueError(
            f"an image cannot be a {type(source).__name__}; give a PIL image, a path, bytes, a file object, a numpy "
            "array, or a dict with 'bytes' or 'path'"
        )
    return source


def address(url: str) -> str:
    """Return a URL as a message, a log or a record may have it: no password, no query, either of which may be a key."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl() or url


def _from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape[:2] if array.shape[2:] == (1,) else array.shape
    colours = array.dtype == np.uint8 and len(shape) == 3 and shape[2] in (3, 4)
    if not colours and not (array.dtype in (np.uint8, np.uint16) and len(shape) == 2):
        raise ValueError(
            f"an array of {array.dtype} {array.shape} has no agreed meaning; give uint8 (height, width), "
            "(height, width, 1), (height, width, 3) or (height, width, 4), or uint16 grey"
        )
    return Image.fromarray(array.reshape(shape))


def _first_frame(picture: Image.Image) -> Image.Image:
    """Return the first frame of an animation that stands at another one; the animation stays where it is."""
    frame = picture.tell() if getattr(picture, "is_animated", False) else 0
    if frame == 0:
        return picture
    picture.seek(0)
    first = picture.copy()
    picture.seek(frame)
    return first


def _draft(picture: Image.Image, least: int | tuple[int, int] | None):
    """Tell the JPEG reader to decode at a fraction of the size, if that is large enough."""
    if isinstance(least, int):
        scale = math.sqrt(least / (picture.width * picture.height))
        least = (math.ceil(picture.width * scale), math.ceil(picture.height * scale))
    picture.draft(None, least)


def _finish(picture: Image.Image, max_pixels: int | None) -> Image.Image:
    """Decode the first frame: upright, RGB, transparency on white, of at most `max_pixels`."""
    if 0 in picture.size:
        raise ValueError("it has no pixels")
    picture.load()
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        picture = _eight_bits(picture)
    elif picture.mode in ("I", "F"):  # Pillow would clip them to 0..255
        raise ValueError(f"its pixels are 32-bit numbers (mode {picture.mode}) of unknown scale; give 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    if max_pixels is None or picture.width * picture.height <= max_pixels:
        return picture
    scale = math.sqrt(max_pixels / (picture.width * picture.height))
    # A line of one pixel cannot become narrower, hence the second bound of its length.
    width = max(1, min(int(picture.width * scale), max_pixels))
    height = max(1, min(int(picture.height * scale), max_pixels))
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit greys, scaled: Pillow would clip them to white."""
    deep = np.asarray(picture)
    grey = (deep >> 8).astype(np.uint8)
    grey[deep == picture.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)
