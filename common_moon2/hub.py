"""What it takes to push a data set or a model to the Hub, and go on where a push stopped."""

import hashlib
import os
import re
from pathlib import Path

from huggingface_hub import HfApi, RepoFile, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id

BLOCK = 1 << 20
# Shorter values of the environment are no secrets, and may be words of a sentence.
SHORTEST_SECRET = 6
# The tokens of the Hub, and the keys of OpenAI and those who took over their form.
TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[\w-]{16,})")
PASSWORD = re.compile(r"(\w://)[^\s/@]+@")


def check_repo_id(repo_id: str, what: str) -> None:
    """Raises a ValueError with a sentence if `repo_id` cannot be the name of `what` ("model", "data set")."""
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"{repo_id!r} cannot be the name of a {what} on the Hub: {first_line(error)}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"Name the {what} as user/name, not {repo_id!r}.")


def digests(content: Path | bytes) -> tuple[str, str]:
    """The two digests under which the Hub may know a file's content: sha256 (LFS) and git's."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    if isinstance(content, bytes):
        sha256.update(content)
        git.update(content)
    else:
        with open(content, "rb") as file:
            while block := file.read(BLOCK):
                sha256.update(block)
                git.update(block)
    return sha256.hexdigest(), git.hexdigest()


def remote_digests(api: HfApi, repo_id: str, revision: str, repo_type: str) -> dict[str, str]:
    """Path -> digest of its content, as the Hub tells it."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in entries if isinstance(entry, RepoFile)
    }


def refusal(repo_id: str, error: Exception, token: str | None = None) -> str:
    """A sentence for what the Hub's client raised while it wrote to `repo_id`; without the token, should it quote it.

    Args:
        token: that was used; `None`: the one that the machine is signed in with.
    """
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status == 401:
        return f"The Hub does not know who wants to write to {repo_id}: sign in with 'hf auth login' or set HF_TOKEN."
    if status == 403:
        return f"The token may not write to {repo_id}: use one with write access to that account."
    reason = without_secrets(first_line(error.__cause__ or error), token)
    return f"{repo_id} was not published completely: {reason} What has arrived is kept: push again to go on."


def without_secrets(text: str, *secrets: str | None) -> str:
    """What an error says, for people and logs: libraries quote keys, tokens and addresses with passwords.

    Args:
        secrets: that were used, besides the Hub's token and the keys and tokens of the environment.
    """
    told = [value for name, value in os.environ.items() if name.endswith(("_TOKEN", "_KEY"))]
    for secret in (*secrets, get_token(), *told):
        if secret and len(secret) >= SHORTEST_SECRET:
            # An HTTP library quotes a header as a bytes literal, in which characters that it may not have are escaped.
            for form in (secret, secret.encode("unicode_escape").decode("ascii")):
                text = text.replace(form, "<token>")
    return PASSWORD.sub(r"\1", TOKEN.sub("<token>", text))


def first_line(error: BaseException) -> str:
    """What an error says, in one sentence."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
    return text if text.endswith((".", "!")) else f"{text}."
