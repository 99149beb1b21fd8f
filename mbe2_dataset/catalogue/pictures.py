"""Encoded images: what a catalogue holds and what a build writes."""

import contextlib
import hashlib
import io
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image

from common_moon2.fetch import fetch
from pictures_moon2 import address, check_shape, load_picture

with contextlib.suppress(ImportError):  # with this package, phones' HEIC is read as well
    from pillow_heif import register_heif_opener

    register_heif_opener()

JPEG_QUALITY = 90
# A file of stored images; it is an Arrow stream, which `datasets.Dataset.from_file` reads as well.
PICTURES_SCHEMA = pa.schema({"bytes": pa.large_binary()})


class Picture:
    """Encoded bytes and their file name. Two are equal if both are."""

    __slots__ = ("_bytes", "path")

    def __init__(self, bytes: bytes, path: str) -> None:
        self._bytes = bytes
        self.path = path

    @property
    def bytes(self) -> bytes:
        """Return the encoded image."""
        return self._bytes

    @property
    def sha256(self) -> str:
        """Hash the bytes."""
        return hashlib.sha256(self.bytes).hexdigest()

    def as_record(self) -> dict[str, object]:
        """Return the form in which `datasets.Image` stores an image."""
        return {"bytes": self.bytes, "path": self.path}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and (self.path, self.sha256) == (other.path, other.sha256)

    def __hash__(self) -> int:
        return hash((self.path, self.sha256))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"


class StoredPicture(Picture):
    """An image of a stored catalogue: the Arrow file and its number there, not its bytes, which are read when needed.

    `perceptual_hash` has 64 bits; `size` is width and height in pixels, upright.
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


@lru_cache(maxsize=64)
def _mapped(file: Path, modified: int) -> pa.ChunkedArray:
    """Map the images of the file as it was at that time; nothing of them is in memory until it is read."""
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all().column("bytes")


def decode(picture: Picture) -> Image.Image:
    """Decode an image as the model will see it: RGB, upright, transparency on white.

    Raises:
        ValueError: it cannot be read, or the processor takes none of its shape; the message says why.
    """
    image = load_picture(picture.as_record())
    check_shape(image.size)
    return image


def is_heic(content: bytes) -> bool:
    """Tell whether a file is HEIC, which Pillow reads with a package only, from its first bytes."""
    return content[4:8] == b"ftyp" and content[8:11] in (b"hei", b"hev", b"mif", b"msf")


def encode(image: Image.Image, path: str) -> Picture:
    """Encode `image` as JPEG; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Picture(buffer.getvalue(), path)


def perceptual_hash(image: Image.Image) -> int:
    """Return the 64-bit pHash of `imagehash`: images that look alike differ in few bits (our choice)."""
    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes(), "big")


# How often a busy server or a failed connection is tried again, after so many seconds, doubled each time.
RETRIES = 2
PAUSE_SECONDS = 1.0
BUSY = re.compile(r" answers (408|429|5\d\d) ")


def picture_place(picture: dict) -> str | None:
    """Return where an image in one of the forms of `store.Item` is: its path, or its address without keys."""
    return address(picture["url"]) if picture.get("url") else picture.get("path")


def picture_name(picture: dict, default: str) -> str:
    """Return the file name of an image: the path in its source, or the last part of its address."""
    if "url" in picture:
        return urlsplit(picture["url"]).path.rpartition("/")[2] or default
    return picture.get("path") or default


def read_content(picture: dict, folder: Path | None, fetched: dict[str, bytes | ValueError] | None) -> bytes:
    """Return the bytes of an image in one of the forms of `store.Item`, a file in `folder` or what `fetch_all` found.

    Nothing outside of the folder is read; `fetched` is None if nothing may be fetched.

    Raises:
        ValueError: they are not available; the message says why.
    """
    if picture.get("bytes") is not None:
        return picture["bytes"]
    if "url" in picture:
        if fetched is None:
            raise ValueError("addresses are not fetched unless that is allowed (--allow_urls)")
        found = fetched[picture["url"]]
        if isinstance(found, ValueError):
            raise found
        return found
    if folder is None:
        raise ValueError("it is the name of a file, but this source has no folder of images (--pictures)")
    root = folder.resolve()
    name = str(picture["path"])
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.exists():
            # Shops write '/m/g/mug.jpg' for a file below their folder of images, and Windows 'img\\mug.jpg'.
            below = (root / name.replace("\\", "/").lstrip("/")).resolve()
            path = below if below.exists() else path
        if not path.is_relative_to(root):
            raise ValueError(
                "it lies outside of the source's folder, and there is no such file below it; give the folder in which "
                "this path begins (--pictures)"
            )
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from error


def fetch_all(urls: Iterable[str], connections: int) -> dict[str, bytes | ValueError]:
    """Fetch public addresses, at most `connections` at the same time; return bytes, or why there are none."""
    urls = list(dict.fromkeys(urls))
    if not urls:
        return {}
    with ThreadPoolExecutor(connections) as pool:
        return dict(zip(urls, pool.map(_fetched, urls), strict=True))


def _fetched(url: str) -> bytes | ValueError:
    for pause in (*(PAUSE_SECONDS * 2**attempt for attempt in range(RETRIES)), None):
        try:
            return fetch(url)
        except ValueError as error:
            passing = isinstance(error.__cause__, (OSError, HTTPException)) or BUSY.search(str(error))
            if pause is None or not passing:
                return error
        time.sleep(pause)
