"""Put the page on the Hub as a Space, with the code that it needs: `python -m demo_moon2 push`."""

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import HfApi, SpaceCard

from common_moon2.cli import UserError
from common_moon2.hub import KINDS, Pushed, Repository
from common_moon2.source import HUB_ID
from demo_moon2.app import CONFIG
from demo_moon2.arguments import SHOWN, SpaceArguments

HERE = Path(__file__).parent
# What the page imports, beside the libraries in requirements.txt; in a Space it lies beside app.py.
PACKAGES = ("common_moon2", "demo_moon2", "evaluation")
MODULES = "*_moon2.py"
LEFT_OUT = ("train_moon2.py",)  # it needs the package training_moon2, and no page trains
TOP = ("app.py", "README.md", "requirements.txt")  # of this folder, at the top of a Space


def push(arguments: SpaceArguments) -> dict:
    """Push the Space."""
    pushed = push_space(arguments)
    print(pushed.sentence())
    return {"repo": arguments.repo, **asdict(pushed)}


def push_space(arguments: SpaceArguments, token: str | None = None) -> Pushed:
    """Upload the page as a Space; afterwards the Space has these files and no Python file besides.

    What the Hub has already is not uploaded again, so after an interruption just call it again.

    Args:
        arguments: model and data set must be on the Hub.
        token: by default the one that the machine is signed in with (`hf auth login` or HF_TOKEN).

    Raises:
        UserError: a name is none of the Hub, or the Hub refuses.
    """
    repository = Repository(arguments.repo, "space", token)
    with repository.refusals(), tempfile.TemporaryDirectory(prefix="moon2-space-") as temporary:
        _check_on_hub(repository.api, arguments)
        folder = Path(temporary)
        write_space(folder, arguments)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return repository.push(
            files, "Upload the demo page", lambda path: path.endswith(".py"), private=arguments.private
        )


def write_space(folder: Path, arguments: SpaceArguments) -> None:
    """Write all files of a Space into an empty folder."""
    source = HERE.parent
    for package in PACKAGES:
        shutil.copytree(source / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in source.glob(MODULES):
        if module.name not in LEFT_OUT:
            shutil.copy(module, folder)
    for name in TOP:
        shutil.copy(HERE / name, folder)
    card = SpaceCard.load(folder / "README.md")
    card.data.models, card.data.datasets = [arguments.model], [arguments.dataset]
    card.save(folder / "README.md")
    stored = {name: getattr(arguments, name) for name in SHOWN if getattr(arguments, name) is not None}
    (folder / CONFIG.name).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def _check_on_hub(api: HfApi, arguments: SpaceArguments) -> None:
    for kind in ("model", "dataset"):
        name, revision, what = getattr(arguments, kind), getattr(arguments, f"{kind}_revision"), KINDS[kind]
        if not HUB_ID.fullmatch(name):
            raise UserError(f"A Space needs a {what} of the Hub, as user/name, not {name!r}: push it first.")
        if not api.repo_exists(name, repo_type=kind):
            raise UserError(f"The Hub has no {what} {name} that this token may read: push it first.")
        if revision is not None and not api.revision_exists(name, revision, repo_type=kind):
            raise UserError(f"The {what} {name} has no revision {revision!r}.")
