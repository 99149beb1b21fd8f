"""Encoded pictures: what a catalogue holds and what the build writes."""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image

from pictures_moon2 import load_picture

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
    """RGB, upright, transparency on white: as the model will see it.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    return load_picture(picture.as_record())


def encode(image: Image.Image, path: str) -> Picture:
    """A JPEG of `image`; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Picture(buffer.getvalue(), path)
