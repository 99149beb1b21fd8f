"""What a --model or --dataset argument names: a folder, or something on the Hub."""

import re
from pathlib import Path

from evaluation.errors import EvaluationError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def local_folder(kind: str, name: str, revision: str | None) -> Path | None:
    """The folder `name`, or `None` if it has the form of a Hub id.

    Args:
        kind: "model" or "dataset", for the messages.

    Raises:
        EvaluationError: it is neither, or a revision was asked of a folder.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise EvaluationError(f"{name} is a folder and has no revisions: leave out --{kind}_revision.")
        return Path(name)
    if not HUB_ID.fullmatch(name):
        raise EvaluationError(f"There is no {kind} folder {name}.")
    return None
