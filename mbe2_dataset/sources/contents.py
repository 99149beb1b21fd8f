"""The encoded bytes of a source's picture: in the table, in a file below the source's folder, or at an address."""

import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from fetch_moon2 import address, fetch

# A server that is busy, or a connection that failed, is asked again so many times, after so many seconds, doubled.
RETRIES = 2
PAUSE_SECONDS = 1.0
BUSY = re.compile(r" answers (408|429|5\d\d) ")


def picture_place(picture: dict) -> str | None:
    """Where a picture in one of the forms of `records.Item` is, for a record: its path, or its address without keys."""
    return address(picture["url"]) if picture.get("url") else picture.get("path")


def picture_name(picture: dict, default: str) -> str:
    """The file name that a picture goes by: the path in its source, or the last part of its address."""
    if "url" in picture:
        return urlsplit(picture["url"]).path.rpartition("/")[2] or default
    return picture.get("path") or default


def read_content(picture: dict, folder: Path | None, fetched: dict[str, bytes | ValueError] | None) -> bytes:
    """The bytes of a picture in one of the forms of `records.Item`.

    Args:
        folder: in which files lie; nothing outside of it is read.
        fetched: what `fetch_all` found at the addresses; None if none may be fetched.

    Raises:
        ValueError: they cannot be had; the message says why.
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
        raise ValueError("it is the name of a file, but this source has no folder of pictures (--pictures)")
    root = folder.resolve()
    try:
        path = (root / picture["path"]).resolve()
        if not path.is_relative_to(root):
            raise ValueError("it lies outside of the source's folder; give the folder of the pictures (--pictures)")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from error


def fetch_all(urls: Iterable[str], connections: int) -> dict[str, bytes | ValueError]:
    """What is at public addresses, or why it cannot be had; at most `connections` are fetched at the same time."""
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
