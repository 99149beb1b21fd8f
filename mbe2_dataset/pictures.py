"""Encoded pictures: what a catalogue holds and what the build writes."""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Picture:
    """Encoded bytes and the file name they go by."""

    bytes: bytes
    path: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.bytes).hexdigest()

    def as_record(self) -> dict[str, object]:
        """The form in which `datasets.Image` stores a picture."""
        return {"bytes": self.bytes, "path": self.path}


def decode(picture: Picture) -> Image.Image:
    """RGB, upright (EXIF applied), transparency on white.

    Raises:
        ValueError: not a whole JPEG, PNG or WEBP picture, or more than `MAX_PIXELS` pixels.
    """
    try:
        image = Image.open(io.BytesIO(picture.bytes), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are read")
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def encode(image: Image.Image, path: str) -> Picture:
    """A JPEG of `image`; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Picture(buffer.getvalue(), path)
