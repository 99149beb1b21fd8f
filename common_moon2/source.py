"""What a --model or --dataset argument names: a folder, or something on the Hub."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from common_moon2.cli import UserError

if TYPE_CHECKING:
    import datasets

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def local_folder(kind: str, name: str, revision: str | None) -> Path | None:
    """Return the folder `name`, or `None` if it has the form of a Hub id.

    Args:
        kind: "model" or "dataset", for the messages.

    Raises:
        UserError: it is neither, or a revision was asked of a folder.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise UserError(f"{name} is a folder and has no revisions: leave out --{kind}_revision.")
        return Path(name)
    if not HUB_ID.fullmatch(name):
        raise UserError(f"There is no {kind} folder {name}.")
    return None


def load_tables(path: str, config: str, revision: str | None = None) -> "datasets.DatasetDict":
    """Load all splits of one configuration of a data set.

    Raises:
        UserError: there is no such data set or configuration, or it cannot be read.
    """
    folder = local_folder("dataset", path, revision)  # an error that needs no library does not wait for one

    import datasets
    from datasets.exceptions import DatasetsError

    cache = None if folder is None else cache_of(folder)
    try:
        return datasets.load_dataset(path, config, revision=revision, cache_dir=cache)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if "corresponds to no data" in reason:  # how datasets refuses a split without rows
            reason = "it is empty, so there is nothing to score."
        raise UserError(f"The configuration {config!r} of {path} cannot be loaded: {reason}") from error


def cache_of(source: Path) -> str:
    """Return where datasets may keep its copy of a file or folder: a place for this very state of it.

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
