"""Puts a built data set on the Hub, so that it can be loaded by its name and pinned to a tag."""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi

from common_moon2.hub import check_repo_id, digests, refusal, remote_digests
from mbe2_dataset.checks.check import check_dataset
from mbe2_dataset.errors import PublishError
from mbe2_dataset.schema import CONFIGS

SHOWN = 5


class Published(NamedTuple):
    """Where a data set is: its address, the commit, and how many files were uploaded and removed (0: all was there)."""

    url: str
    commit: str
    uploaded: int
    removed: int


def push_dataset(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    tag: str | None = None,
    message: str | None = None,
    token: str | None = None,
    force: bool = False,
    num_proc: int = 1,
) -> Published:
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
        PublishError: the check finds errors, the tag is taken, or the Hub refuses.
        CheckError: there is no such folder.
    """
    folder = Path(folder)
    plan_push(folder, repo_id, force, num_proc)
    api = HfApi(token=token, library_name="moon2")
    local = _local_files(folder)
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id, repo_type="dataset").tags}
        if tag in tags and not _is_at(api, repo_id, tag, local):
            raise PublishError(
                f"{repo_id} has a tag {tag!r} with other files already: choose another tag, or remove that one with "
                f"HfApi().delete_tag({repo_id!r}, tag={tag!r}, repo_type='dataset') and push again."
            )
        remote = remote_digests(api, repo_id, "main", "dataset")
        changed = [path for path, known in local.items() if remote.get(path) not in known]
        stale = [path for path in remote if _is_own(path) and path not in local]
        if changed or stale:
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=folder,
                allow_patterns=list(local),
                delete_patterns=[f"{config}/*.parquet" for config in CONFIGS],
                commit_message=message or "Upload an MBE2.0-format data set",
            ).oid
        else:
            commit = api.repo_info(repo_id, repo_type="dataset").sha
        if tag is not None and tag not in tags:
            api.create_tag(repo_id, tag=tag, repo_type="dataset", revision=commit)
    except PublishError:
        raise
    # The client lets many kinds of errors through: those of its HTTP library, of the system, and RuntimeError.
    except Exception as error:
        raise PublishError(refusal(repo_id, error, token)) from error
    return Published(str(url), commit, len(changed), len(stale))


def plan_push(folder: str | Path, repo_id: str, force: bool = False, num_proc: int = 1) -> dict[str, int]:
    """What `push_dataset` would see to being on the Hub, without asking it: path -> size in bytes.

    Raises:
        PublishError: the check finds errors, or the name cannot be.
        CheckError: there is no such folder.
    """
    folder = Path(folder)
    try:
        check_repo_id(repo_id, "data set")
    except ValueError as error:
        raise PublishError(str(error)) from error
    if not folder.is_dir():
        raise PublishError(f"There is no data set folder {folder}; build one with 'python -m mbe2_dataset build'.")
    if not force:
        _refuse_errors(folder, num_proc)
    return {name: path.stat().st_size for name, path in _files(folder).items()}


def _refuse_errors(folder: Path, num_proc: int):
    errors = check_dataset(folder, num_proc=num_proc).of_level("error")
    if errors:
        sentences = " ".join(finding.sentence() for finding in errors[:SHOWN])
        more = f" And {len(errors) - SHOWN} more." if len(errors) > SHOWN else ""
        raise PublishError(
            f"{folder} is not published, because the check finds errors: {sentences}{more} Mend them and build again, "
            "or publish it nevertheless with force."
        )


def _local_files(folder: Path) -> dict[str, tuple[str, str]]:
    """Path -> the two digests under which the Hub may know the content: sha256 (LFS) and git's."""
    return {name: digests(path) for name, path in _files(folder).items()}


def _files(folder: Path) -> dict[str, Path]:
    """What is uploaded of a folder: all but hidden files."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)
    }


def _is_at(api: HfApi, repo_id: str, tag: str, local: dict[str, tuple[str, str]]) -> bool:
    """Whether a tag has just these files of the data set."""
    remote = remote_digests(api, repo_id, tag, "dataset")
    same = all(remote.get(path) in known for path, known in local.items())
    return same and all(path in local for path in remote if _is_own(path))


def _is_own(path: str) -> bool:
    return path.endswith(".parquet") and path.split("/")[0] in CONFIGS
