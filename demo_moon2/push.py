"""Puts the page on the Hub as a Space, with the code that it needs: `python -m demo_moon2 push`."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, SpaceCard

from common_moon2.hub import check_repo_id, digests, refusal, remote_digests
from common_moon2.source import HUB_ID
from demo_moon2.app import CONFIG, NAMES
from demo_moon2.serve import Settings
from evaluation.errors import EvaluationError

HERE = Path(__file__).parent
# What the page imports, beside the libraries in requirements.txt; in a Space it lies beside app.py.
PACKAGES = ("common_moon2", "demo_moon2", "evaluation")
MODULES = "*_moon2.py"
LEFT_OUT = ("train_moon2.py",)  # it needs the package training_moon2, and no page trains
TOP = ("app.py", "README.md", "requirements.txt")  # of this folder, at the top of a Space


class PushedSpace(NamedTuple):
    """Where a Space is, its commit, and how many files were uploaded and removed (0: all was there)."""

    url: str
    commit: str
    uploaded: int
    removed: int

    def sentence(self) -> str:
        """What happened, for people."""
        what = f"{self.uploaded} files uploaded" + (f", {self.removed} removed" if self.removed else "")
        what = what if self.uploaded or self.removed else "nothing new, all was there"
        return f"{self.url}: {what}; commit {self.commit}."


def push_space(repo_id: str, settings: Settings, private: bool | None = None, token: str | None = None) -> PushedSpace:
    """Uploads the page as a Space; afterwards the Space has these files and no Python file besides.

    What the Hub has already is not uploaded again, so after an interruption just call it again.

    Args:
        repo_id: "user/name"; made if there is none.
        settings: model and data set, which must be on the Hub.
        private: of a new Space; `None`: as the account's settings say. An existing one stays as it is.
        token: `None`: the one that the machine is signed in with (`hf auth login` or HF_TOKEN).

    Raises:
        EvaluationError: a name is none of the Hub, or the Hub refuses.
    """
    try:
        check_repo_id(repo_id, "Space")
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    api = HfApi(token=token, library_name="moon2")
    try:
        _check_on_hub(api, settings)
        with tempfile.TemporaryDirectory(prefix="moon2-space-") as temporary:
            folder = Path(temporary)
            write_space(folder, settings)
            return _upload(api, repo_id, folder, private)
    except EvaluationError:
        raise
    # The client lets many kinds of errors through: those of its HTTP library, of the system, and RuntimeError.
    except Exception as error:
        raise EvaluationError(refusal(repo_id, error, token)) from error


def write_space(folder: Path, settings: Settings) -> None:
    """Writes all files of a Space into an empty folder."""
    source = HERE.parent
    for package in PACKAGES:
        shutil.copytree(source / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in source.glob(MODULES):
        if module.name not in LEFT_OUT:
            shutil.copy(module, folder)
    for name in TOP:
        shutil.copy(HERE / name, folder)
    card = SpaceCard.load(folder / "README.md")
    card.data.models, card.data.datasets = [settings.model], [settings.dataset]
    card.save(folder / "README.md")
    stored = {name: getattr(settings, name) for name in NAMES if getattr(settings, name) is not None}
    (folder / CONFIG.name).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def _check_on_hub(api: HfApi, settings: Settings) -> None:
    for kind, name, revision in (
        ("model", settings.model, settings.model_revision),
        ("dataset", settings.dataset, settings.dataset_revision),
    ):
        what = {"model": "model", "dataset": "data set"}[kind]
        if not HUB_ID.fullmatch(name):
            raise EvaluationError(f"A Space needs a {what} of the Hub, as user/name, not {name!r}: push it first.")
        if not api.repo_exists(name, repo_type=kind):
            raise EvaluationError(f"The Hub has no {what} {name} that this token may read: push it first.")
        if revision is not None and not api.revision_exists(name, revision, repo_type=kind):
            raise EvaluationError(f"The {what} {name} has no revision {revision!r}.")


def _upload(api: HfApi, repo_id: str, folder: Path, private: bool | None) -> PushedSpace:
    url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    files = {path.relative_to(folder).as_posix(): digests(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    remote = remote_digests(api, repo_id, "main", "space")
    changed = [path for path, known in files.items() if remote.get(path) not in known]
    stale = [path for path in remote if path.endswith(".py") and path not in files]
    if changed or stale:
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            delete_patterns=["*.py"],
            commit_message="Upload the demo page",
        ).oid
    else:
        commit = api.repo_info(repo_id, repo_type="space").sha
    return PushedSpace(str(url), commit, len(changed), len(stale))
