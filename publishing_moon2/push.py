"""Put a model on the Hub with its code, results and model card, or a metric module: `python -m evaluation push`."""

import re
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

import evaluation
from common_moon2.cli import UserError
from common_moon2.hub import Pushed, Repository, check_repo_id, refusal
from common_moon2.source import HUB_ID
from publishing_moon2.arguments import METRICS, MetricArguments, PushArguments
from publishing_moon2.files import (
    CARD,
    RECIPE,
    check_folder,
    included,
    is_own,
    model_files,
    png_file,
    read_results,
    result_files,
)
from publishing_moon2.model_card import is_untouched, lacking, model_card

METRIC_FOLDER = Path(evaluation.__file__).parent / "evaluate_metrics"
METRIC_PAGE = "app.py"  # of every metric's Space
PINNED = re.compile(r'revision="([0-9a-f]{40})"')


@dataclass(frozen=True)
class PushedModel(Pushed):
    """A model after a push.

    Attributes:
        kept_card: the repository's model card was edited by hand, so it stayed.
    """

    kept_card: bool

    def sentence(self) -> str:
        """Return what happened, for people."""
        card = f" Its {CARD} was edited by hand and stays; to have it written anew, delete it there and push again."
        return super().sentence() + (card if self.kept_card else "")


def push(arguments: PushArguments) -> dict:
    """Push a model, or show what a push would do."""
    if arguments.dry_run:
        return show(arguments)
    pushed = push_model(arguments)
    print(pushed.sentence())
    return {"repo": arguments.repo, "branch": arguments.branch, "tag": arguments.tag, **asdict(pushed)}


def push_model(arguments: PushArguments, token: str | None = None) -> PushedModel:
    """Upload a checkpoint; afterwards the branch has its files, and none of an earlier model besides.

    What the Hub has already is not uploaded again, so after an interruption just call it again. Files of the repository
    that no push writes stay. The card pins the commit of the files that it describes, so it comes in a second commit;
    a README.md of the folder that is written by hand is taken as it is.

    Args:
        token: by default the one that the machine is signed in with (`hf auth login` or HF_TOKEN).

    Raises:
        UserError: the folder is no checkpoint or would run other code, the results are of another model, the tag is
            taken, or the Hub refuses.
    """
    repository = Repository(arguments.repo, token=token)
    check_folder(arguments.model)
    results = None if arguments.results is None else read_results(arguments.results, arguments.model)
    model_card(arguments, results)  # whatever it cannot be written from is said before anything is uploaded
    with tempfile.TemporaryDirectory(prefix="moon2-push-") as temporary:
        files = _files(arguments, Path(temporary))
        own_card = arguments.model / CARD
        if own_card.is_file() and not is_untouched(own_card.read_text(encoding="utf-8")):
            files[CARD] = own_card
        with repository.refusals():
            return _push(repository, arguments, files, results)


def _files(arguments: PushArguments, temporary: Path) -> dict[str, Path]:
    """Return path in the repository -> file, without the card."""
    files = model_files(arguments.model, arguments.max_shard_size, temporary)
    files |= included(arguments.model, arguments.include)
    files |= {} if arguments.results is None else result_files(arguments.results)
    return files | {f"figures/{figure}.png": png_file(path) for figure, path in arguments.figures().items()}


def _push(
    repository: Repository, arguments: PushArguments, files: dict[str, Path], results: dict | None
) -> PushedModel:
    branch, tag, message = arguments.branch, arguments.tag, arguments.message
    recipe = arguments.model / RECIPE
    fields = (yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}) if recipe.is_file() else {}
    base_model, dataset = (_on_hub(repository, fields.get(kind), kind) for kind in ("model", "dataset"))
    card_of = partial(model_card, arguments, results, base_model=base_model, dataset=dataset)
    url = repository.create(arguments.private)
    is_new = tag is not None and tag not in repository.tags()
    if tag is not None and not is_new:
        there = _card_at(repository, tag)
        generated = CARD not in files and there is not None and is_untouched(there)
        card = {CARD: card_of(revision=_pinned(there)).encode()} if generated else {}
        repository.check_tag(tag, files | card, is_own)
    if branch != "main":
        repository.api.create_branch(repository.repo_id, branch=branch, exist_ok=True)
    there = _card_at(repository, branch)
    commit, uploaded, removed = repository.commit(files, message, is_own, branch)
    kept = CARD not in files and there is not None and not is_untouched(there)
    if CARD not in files and not kept:
        revision = _pinned(there)
        if revision is None or not _same(repository, revision, commit, files):
            revision = commit
        card = {CARD: card_of(revision=revision).encode()}
        commit, more, _ = repository.commit(card, f"{message}: the model card", branch=branch)
        uploaded += more
    if is_new:
        repository.api.create_tag(repository.repo_id, tag=tag, revision=commit)
    return PushedModel(url, commit, uploaded, removed, kept)


def _card_at(repository: Repository, revision: str) -> str | None:
    with suppress(RemoteEntryNotFoundError):
        file = repository.api.hf_hub_download(repository.repo_id, CARD, revision=revision)
        return Path(file).read_text(encoding="utf-8")
    return None


def _pinned(card: str | None) -> str | None:
    """Return the commit that a card names."""
    found = PINNED.search(card or "")
    return found and found[1]


def _same(repository: Repository, revision: str, other: str, files: dict[str, Path]) -> bool:
    """Tell whether two revisions have the same model, so that a card of one goes with the other."""
    with suppress(RevisionNotFoundError):  # the repository's history was rewritten
        there = [repository.digests(name).items() for name in (revision, other)]
        one, two = ({path: digest for path, digest in found if is_own(path) or path in files} for found in there)
        return one == two
    return False


def _on_hub(repository: Repository, name: str | None, kind: str) -> str | None:
    """Return a name of the recipe, if the Hub knows it: it may as well be a folder of the machine that trained."""
    if not name or not HUB_ID.fullmatch(name) or Path(name).exists():
        return None
    return name if repository.api.repo_exists(name, repo_type=kind) else None


def show(arguments: PushArguments) -> dict:
    """Print files and card, without asking the Hub.

    Raises:
        UserError: the folder is no checkpoint, or the results are of another model.
    """
    check_repo_id(arguments.repo, "model")
    check_folder(arguments.model)
    results = None if arguments.results is None else read_results(arguments.results, arguments.model)
    files = _files(replace(arguments, max_shard_size=None), Path())
    sizes = {path: source.stat().st_size for path, source in sorted(files.items())}
    for path, size in sizes.items():
        print(f"{size:>14,}  {path}")
    print(f"\n{CARD} (the pushed one also names commits, and what the Hub knows of the model's origin):\n")
    card = model_card(arguments, results)
    print(card)
    missing = lacking(arguments, results)
    if missing:
        print("The card has not:", *missing, sep="\n- ")
    return {"repo": arguments.repo, "dry_run": True, "files": sizes, "card": card, "lacking": missing}


def metric_folder(name: str) -> Path:
    """Return the folder of a metric module of Hugging Face evaluate: `evaluate.load` of it needs no network.

    Raises:
        UserError: there is no such metric.
    """
    if name not in METRICS:
        raise UserError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
    return METRIC_FOLDER / name


def metric_files(name: str) -> dict[str, Path]:
    """Return path in the Space -> file, of a metric and the page around it."""
    return {path.name: path for path in metric_folder(name).iterdir() if path.is_file()} | {
        METRIC_PAGE: METRIC_FOLDER / METRIC_PAGE
    }


def push_metric(arguments: MetricArguments) -> dict:
    """Put a metric on the Hub as the Space `owner/name`, or bring it up to date there.

    The Space must have the metric's name, because evaluate looks for `<name>.py` in it.

    Raises:
        UserError: there is no such metric, or the Hub refuses.
    """
    name, owner = arguments.metric, arguments.owner
    files = metric_files(name)
    if owner is None:
        try:
            owner = HfApi().whoami()["name"]
        except Exception as error:  # as `Repository.refusals`
            raise UserError(refusal(name, error)) from error
    pushed = Repository(f"{owner}/{name}", "space").push(files, f"Metric {name}", private=arguments.private)
    print(f"The metric is at {pushed.url}")
    return {"metric": name, "url": pushed.url}
