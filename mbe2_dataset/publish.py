"""Puts a built data set on the Hub, so that it can be loaded by its name and pinned to a tag."""

from pathlib import Path

from common_moon2.hub import Pushed, Repository
from mbe2_dataset.arguments import check_push
from mbe2_dataset.checks.check import check_dataset
from mbe2_dataset.errors import PublishError
from mbe2_dataset.schema import CONFIGS

SHOWN = 5


def push_dataset(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    tag: str | None = None,
    message: str | None = None,
    token: str | None = None,
    force: bool = False,
    num_proc: int = 1,
) -> Pushed:
    """Upload a built data set; afterwards the branch main has its files, and none of an earlier build besides.

    What the Hub has already is not uploaded again, so after an interruption just call it again. Files of the repository
    outside triplets/, corpus/, queries/ and qrels/ stay, unless the folder has newer ones; hidden files of the folder
    are not uploaded.

    Args:
        repo_id: "user/name"; made if there is none.
        private: of a new repository; `None`: as the account's settings say. An existing one stays as it is.
        tag: a name for this state of the data set, to load it by (`revision=tag`).
        message: of the commit.
        token: `None`: the one that the machine is signed in with (`hf auth login` or HF_TOKEN).
        force: publish it although the check finds errors.
        num_proc: processes for the check.

    Raises:
        UserError: there is no such folder, the check finds errors, the tag is taken, or the Hub refuses.
    """
    files = _checked_files(folder, repo_id, force, num_proc)
    message = message or "Upload an MBE2.0-format data set"
    return Repository(repo_id, "dataset", token).push(files, message, _is_own, private, tag)


def plan_push(folder: str | Path, repo_id: str, force: bool = False, num_proc: int = 1) -> dict[str, int]:
    """Return path -> size in bytes of what `push_dataset` would upload if the Hub had nothing, without asking it.

    Raises:
        UserError: there is no such folder, the check finds errors, or the name cannot be.
    """
    return {name: path.stat().st_size for name, path in _checked_files(folder, repo_id, force, num_proc).items()}


def _checked_files(folder: str | Path, repo_id: str, force: bool, num_proc: int) -> dict[str, Path]:
    """Return all but hidden files of a folder whose data set has no errors."""
    check_push(folder, repo_id)
    errors = [] if force else check_dataset(folder, num_proc=num_proc).of_level("error")
    if errors:
        sentences = " ".join(finding.sentence() for finding in errors[:SHOWN])
        more = f" And {len(errors) - SHOWN} more." if len(errors) > SHOWN else ""
        raise PublishError(
            f"{folder} is not published, because the check finds errors: {sentences}{more} Mend them and build again, "
            "or publish it nevertheless with force."
        )
    found = {path.relative_to(folder): path for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)
    }


def _is_own(path: str) -> bool:
    return path.endswith(".parquet") and path.split("/")[0] in CONFIGS
