"""Write files and folders that are complete or absent, also after a power cut."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Return when a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Return when everything in a folder is on the disk."""
    paths = sorted(folder.rglob("*"))
    for path in [path for path in paths if path.is_file()] + [path for path in paths if path.is_dir()]:
        sync(path)
    sync(folder)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; the file gets its own name when it is complete. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object, indent: int | None = 2, **options) -> None:
    """Write a JSON file that ends in a new line; `options` are those of `json.dumps`."""
    write_text(path, json.dumps(content, indent=indent, **{"ensure_ascii": False} | options) + "\n")


def replace_folder(staging: Path, target: Path) -> None:
    """Rename a folder that is complete to `target`, replacing what is there, so that no reader sees half of it."""
    sync_tree(staging)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
