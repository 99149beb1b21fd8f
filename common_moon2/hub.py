"""Push models, data sets and Spaces to the Hub."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id

from common_moon2.cli import UserError, without_secrets
from common_moon2.files import sha256_of

KINDS = {"model": "model", "dataset": "data set", "space": "Space"}


@dataclass(frozen=True)
class Pushed:
    """A repository after a push.

    Attributes:
        url, commit: its address, and the commit that holds what was pushed.
        uploaded, removed: how many files; both are 0 if nothing was new.
    """

    url: str
    commit: str
    uploaded: int
    removed: int

    def sentence(self) -> str:
        """Return what happened, for people."""
        what = f"{self.uploaded} files uploaded" + (f", {self.removed} removed" if self.removed else "")
        what = what if self.uploaded or self.removed else "nothing new, all was there"
        return f"{self.url}: {what}; commit {self.commit}."


def _none(path: str) -> bool:
    return False


class Repository:
    """A repository of the Hub to push to.

    The Hub's client does not upload content again that the Hub has, and makes no commit if no file differs. So whoever
    calls again after an interruption goes on where it happened.

    Args:
        repo_id: "user/name".
        kind: "model", "dataset" or "space".
        token: by default the one that the machine is signed in with (`hf auth login` or HF_TOKEN).

    Raises:
        UserError: it cannot be a name on the Hub.
    """

    def __init__(self, repo_id: str, kind: str = "model", token: str | None = None):
        check_repo_id(repo_id, KINDS[kind])
        self.repo_id, self.kind, self.token = repo_id, kind, token
        self.api = HfApi(token=token, library_name="moon2")
        self._named = {"repo_id": repo_id, "repo_type": kind}

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn what the client raises into a `UserError` with a sentence."""
        try:
            yield
        except UserError:
            raise
        # The client lets many kinds of errors through: those of its HTTP library, of the system, and RuntimeError.
        except Exception as error:
            raise UserError(refusal(self.repo_id, error, self.token)) from error

    def push(
        self,
        files: Mapping[str, Path],
        message: str,
        is_own: Callable[[str], bool] = _none,
        private: bool | None = None,
        tag: str | None = None,
    ) -> Pushed:
        """Make the branch main hold these files, in one commit, and tag it.

        Args:
            files: path in the repository -> file.
            is_own: tells which files of the repository are removed if `files` lacks them.
            private: of a new repository; by default as the account's settings say.

        Raises:
            UserError: the tag has other files, or the Hub refuses.
        """
        with self.refusals():
            url = self.create(private)
            is_new = tag is not None and tag not in self.tags()
            if tag is not None and not is_new:
                self.check_tag(tag, files, is_own)
            commit, uploaded, removed = self.commit(files, message, is_own)
            if is_new:
                self.api.create_tag(**self._named, tag=tag, revision=commit)
        return Pushed(url, commit, uploaded, removed)

    def create(self, private: bool | None = None) -> str:
        """Return the repository's address; make it if there is none."""
        sdk = "gradio" if self.kind == "space" else None
        return str(self.api.create_repo(**self._named, space_sdk=sdk, private=private, exist_ok=True))

    def tags(self) -> set[str]:
        """Return the names of its tags."""
        return {ref.name for ref in self.api.list_repo_refs(**self._named).tags}

    def check_tag(self, tag: str, files: Mapping[str, Path | bytes], is_own: Callable[[str], bool]) -> None:
        """Check that a tag has these files, and no other that `is_own` tells.

        Raises:
            UserError: it has others; the message says how to go on.
        """
        there = self.digests(tag)
        same = all(there.get(path) in digests(content) for path, content in files.items())
        if not same or any(path not in files for path in there if is_own(path)):
            kind = "" if self.kind == "model" else f", repo_type={self.kind!r}"
            raise UserError(
                f"{self.repo_id} has a tag {tag!r} with other files already: choose another tag, or remove that one "
                f"with HfApi().delete_tag({self.repo_id!r}, tag={tag!r}{kind}) and push again."
            )

    def commit(
        self,
        files: Mapping[str, Path | bytes],
        message: str,
        is_own: Callable[[str], bool] = _none,
        branch: str = "main",
    ) -> tuple[str, int, int]:
        """Commit files to a branch, if any is new there, and remove those that `is_own` tells and `files` lacks.

        Returns:
            The branch's newest commit, and how many files were uploaded and removed.
        """
        before = self.digests(branch)
        stale = [path for path in before if is_own(path) and path not in files]
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        operations += [CommitOperationDelete(path) for path in stale]
        named = {**self._named, "commit_message": message, "revision": branch}
        commit = self.api.create_commit(operations=operations, **named).oid
        after = self.digests(commit)
        return commit, sum(before.get(path) != after[path] for path in files), len(stale)

    def digests(self, revision: str) -> dict[str, str]:
        """Return path -> digest of its content, as the Hub tells it."""
        entries = self.api.list_repo_tree(**self._named, recursive=True, revision=revision)
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}


def check_repo_id(repo_id: str, what: str) -> None:
    """Check that `repo_id` can be the name of `what` ("model", "data set") on the Hub.

    Raises:
        UserError: it cannot.
    """
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise UserError(f"{repo_id!r} cannot be the name of a {what} on the Hub: {first_line(error)}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"Name the {what} as user/name, not {repo_id!r}.")


def digests(content: Path | bytes) -> tuple[str, str]:
    """Return the two digests under which the Hub may know a file's content: sha256 (LFS) and git's."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
    size = content.stat().st_size
    with open(content, "rb") as file:
        git = hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % size)).hexdigest()
    return sha256_of(content), git


def refusal(repo_id: str, error: Exception, token: str | None = None) -> str:
    """Return a sentence for what the Hub's client raised while it wrote to `repo_id`.

    Args:
        token: the one that was used, which the sentence does not quote; by default the machine's.
    """
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status == 401:
        return f"The Hub does not know who wants to write to {repo_id}: sign in with 'hf auth login' or set HF_TOKEN."
    if status == 403:
        return f"The token may not write to {repo_id}: use one with write access to that account."
    reason = without_secrets(first_line(error.__cause__ or error), token)
    return f"{repo_id} was not published completely: {reason} What has arrived is kept: push again to go on."


def first_line(error: BaseException) -> str:
    """Return what an error says, in one sentence."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
    return text if text.endswith((".", "!")) else f"{text}."
