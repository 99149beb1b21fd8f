"""Find what a --model or --dataset names: a folder, or something on the Hub."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from common_moon2.cli import UserError

if TYPE_CHECKING:
    import datasets

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
KINDS = {"model": "model", "dataset": "data set"}


def local_folder(kind: str, name: str | Path, revision: str | None = None) -> Path | None:
    """Return the folder `name`, or `None` if there is none and it has the form of a Hub id, "user/name".

    Args:
        kind: "model" or "dataset".

    Raises:
        UserError: it is neither, or a folder with a revision.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise UserError(f"{name} is a folder and has no revisions: leave out --{kind}_revision.")
        return Path(name)
    if not HUB_ID.fullmatch(str(name)):
        raise UserError(f"There is no {KINDS[kind]} folder {name}; give a folder, or user/name for one on the Hub.")
    return None


def find_folder(kind: str, name: str | Path, revision: str | None = None, **options) -> Path:
    """Return the folder `name`, or that of the cache with the files of a Hub id, which is named after the commit.

    Args:
        kind: "model" or "dataset".
        options: of `huggingface_hub.snapshot_download`.

    Raises:
        UserError: it is neither a folder nor available on the Hub.
    """
    folder = local_folder(kind, name, revision)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), repo_type=kind, revision=revision, **options))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"The {KINDS[kind]} {name} is neither a folder nor available on the Hub: {reason}") from error


def load_tables(path: str, config: str, revision: str | None = None) -> datasets.DatasetDict:
    """Return all splits of one configuration of a data set.

    Raises:
        UserError: there is no such data set or configuration, or it cannot be read.
    """
    import datasets  # it takes seconds
    from datasets.exceptions import DatasetsError

    folder = local_folder("dataset", path, revision)
    cache = None if folder is None else cache_of(folder)
    try:
        return datasets.load_dataset(path, config, revision=revision, cache_dir=cache)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if "corresponds to no data" in reason:  # how datasets refuses a split without rows
            reason = "it is empty, so there is nothing to score."
        raise UserError(f"The configuration {config!r} of {path} cannot be loaded: {reason}") from error


def cache_of(source: Path) -> str:
    """Return where datasets may keep its copy of this very state of a file or of a folder's files.

    datasets does not notice that a local file has changed: it would serve the old rows of its cache, or expect the old
    columns. Copies of earlier states are removed.
    """
    from datasets.config import HF_DATASETS_CACHE

    files = sorted(file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]
    stats = [(str(file.relative_to(source)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    place, state = (hashlib.sha256(repr(what).encode()).hexdigest()[:16] for what in (source.resolve(), stats))
    home = Path(HF_DATASETS_CACHE) / "evaluation" / place
    for other in home.iterdir() if home.is_dir() else ():
        if other.name != state:
            shutil.rmtree(other, ignore_errors=True)
    return str(home / state)
