"""Encoded pictures: what a catalogue holds and what the build writes."""

import hashlib
import io
import os
from functools import lru_cache
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image

from pictures_moon2 import load_picture

JPEG_QUALITY = 90
# A file of stored pictures; it is an Arrow stream, which `datasets.Dataset.from_file` reads as well.
PICTURES_SCHEMA = pa.schema({"bytes": pa.large_binary()})


class Picture:
    """Encoded bytes and the file name they go by. Two are equal if both are."""

    __slots__ = ("_bytes", "path")

    def __init__(self, bytes: bytes, path: str) -> None:
        self._bytes = bytes
        self.path = path

    @property
    def bytes(self) -> bytes:
        return self._bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.bytes).hexdigest()

    def as_record(self) -> dict[str, object]:
        """The form in which `datasets.Image` stores a picture."""
        return {"bytes": self.bytes, "path": self.path}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and (self.path, self.sha256) == (other.path, other.sha256)

    def __hash__(self) -> int:
        return hash((self.path, self.sha256))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"


class StoredPicture(Picture):
    """A picture of a stored catalogue: where it lies, not its bytes, which are read when they are asked for.

    Attributes:
        file: the Arrow file, mapped once in each process.
        number: which of the file's pictures it is.
        sha256: of the bytes, in hexadecimal digits.
        perceptual_hash: of the decoded picture, 64 bits (`perceptual_hash`).
        size: width and height in pixels, upright.
    """

    __slots__ = ("_sha256", "file", "number", "perceptual_hash", "size")

    def __init__(
        self, file: Path, number: int, path: str, sha256: str, perceptual_hash: int, size: tuple[int, int]
    ) -> None:
        self.file = file
        self.number = number
        self.path = path
        self._sha256 = sha256
        self.perceptual_hash = perceptual_hash
        self.size = size

    @property
    def bytes(self) -> bytes:
        return _mapped(self.file, os.stat(self.file).st_mtime_ns)[self.number].as_py()

    @property
    def sha256(self) -> str:
        return self._sha256

    def __reduce__(self) -> tuple:
        return type(self), (self.file, self.number, self.path, self._sha256, self.perceptual_hash, self.size)


@lru_cache(maxsize=4096)
def _mapped(file: Path, modified: int) -> pa.ChunkedArray:
    """The pictures of the file as it was at that time; nothing of them is in memory until it is read."""
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all().column("bytes")


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


def perceptual_hash(image: Image.Image) -> int:
    """The 64-bit pHash of `imagehash`: pictures that look alike differ in few bits (our choice: MOON2.0 has none)."""
    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes(), "big")
