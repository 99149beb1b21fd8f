"""Puts a model on the Hub with its code, results and model card: `python -m evaluation push`."""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RevisionNotFoundError

from common_moon2.hub import check_repo_id, digests, refusal, remote_digests
from common_moon2.shipped_code import SHIPPED_CODE, check_code
from common_moon2.source import HUB_ID
from evaluation.errors import EvaluationError
from evaluation.models.checkpoint import fingerprint, read_config
from modeling_moon2 import SENTENCE_TRANSFORMERS_FILES
from publishing_moon2.card_parts import RECIPE, RUN
from publishing_moon2.model_card import FIGURES, RESULTS, Publication, is_untouched, lacking, model_card
from publishing_moon2.weights import INDEX, WEIGHTS, reshard

CARD = "README.md"
# Where `python -m evaluation report` and the demo put the figures, in the folder of results.
USUAL = {"expert_usage": "plots/usage.png", "heatmap": "heatmap.png"}
PINNED = re.compile(r'revision="([0-9a-f]{40})"')


class Pushed(NamedTuple):
    """Where a model is, and what the push did.

    Attributes:
        url, commit: of the repository, and of its state after the push.
        uploaded, removed: how many files; none of either: all was there.
        kept_card: the repository's model card was edited by hand, so it stayed.
    """

    url: str
    commit: str
    uploaded: int
    removed: int
    kept_card: bool

    def sentence(self) -> str:
        """What happened, for people."""
        what = f"{self.uploaded} files uploaded" + (f", {self.removed} removed" if self.removed else "")
        if not self.uploaded and not self.removed:
            what = "nothing new, all was there"
        card = (
            f" Its {CARD} was edited by hand and stays; to have it written anew, delete it there and push again."
            if self.kept_card
            else ""
        )
        return f"{self.url}: {what}; commit {self.commit}.{card}"


class Terms(NamedTuple):
    """Under what licence; see `publishing_moon2.model_card.Publication`."""

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None


def push_model(
    folder: Path,
    repo_id: str,
    *,
    results: Path | None = None,
    figures: dict[str, Path] | None = None,
    terms: Terms | None = None,
    include: list[str] | None = None,
    private: bool | None = None,
    branch: str = "main",
    tag: str | None = None,
    message: str | None = None,
    max_shard_size: str | None = None,
    token: str | None = None,
) -> Pushed:
    """Uploads a checkpoint; afterwards the branch has its files, and none of an earlier model besides.

    What the Hub has already is not uploaded again, so after an interruption just call it again. Files of the repository
    that no push writes stay. The card pins the commit of the files that it describes, so it comes in a second commit;
    a README.md of the folder that is written by hand is taken as it is.

    Args:
        repo_id: "user/name"; made if there is none.
        results: folder that `python -m evaluation` wrote for this very checkpoint.
        figures: of `FIGURES` -> PNG file.
        include: patterns of further files of the folder, as "log.jsonl" or "checkpoint-100/*".
        private: of a new repository; `None`: as the account's settings say. An existing one stays as it is.
        branch: made if there is none.
        tag: a name for this state of the model, to load it by (`revision=tag`).
        message: of the commits.
        max_shard_size: weights in larger files ("5GB") are divided into shards; `None`: as they lie in the folder.
        token: `None`: the one that the machine is signed in with (`hf auth login` or HF_TOKEN).

    Raises:
        EvaluationError: the folder is no checkpoint or would run other code, the results are of another model, the tag
            is taken, or the Hub refuses.
    """
    _check_name(repo_id)
    terms = terms or Terms()
    check_folder(folder)
    found = None if results is None else read_results(results, folder)
    try:  # whatever the card cannot be written from is said before anything is uploaded
        model_card(folder, Publication(repo_id, **terms._asdict()), found)
    except KeyError as error:
        raise EvaluationError(
            f"{results} has no {error}: another version wrote it. Evaluate the model again."
        ) from error
    with tempfile.TemporaryDirectory(prefix="moon2-push-") as temporary:
        files = model_files(folder, max_shard_size, Path(temporary)) | included(folder, include or [])
        files |= {} if results is None else result_files(results)
        files |= {f"figures/{figure}.png": png_file(path) for figure, path in (figures or {}).items()}
        own_card = folder / CARD
        if own_card.is_file() and not is_untouched(own_card.read_text(encoding="utf-8")):
            files[CARD] = own_card
        api = HfApi(token=token, library_name="moon2")
        try:
            return _Push(api, folder, repo_id, branch, files, found, terms).run(private, tag, message)
        except EvaluationError:
            raise
        # The client lets many kinds of errors through: those of its HTTP library, of the system, and RuntimeError.
        except Exception as error:
            raise EvaluationError(refusal(repo_id, error, token)) from error


def _check_name(repo_id: str) -> None:
    try:
        check_repo_id(repo_id, "model")
    except ValueError as error:
        raise EvaluationError(str(error)) from error


class _Push:
    """One push: what there is to upload, and how it compares with what the repository holds."""

    def __init__(self, api: HfApi, folder: Path, repo_id: str, branch: str, files: dict, results, terms: Terms):
        self.api, self.folder, self.repo_id, self.branch = api, folder, repo_id, branch
        self.files, self.results, self.terms = files, results, terms
        self.digests = {path: digests(source) for path, source in files.items()}
        recipe = folder / RECIPE
        fields = (yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}) if recipe.is_file() else {}
        self.base_model = self._on_hub(fields.get("model"), "model")
        self.dataset = self._on_hub(fields.get("dataset"), "dataset")

    def run(self, private: bool | None, tag: str | None, message: str | None) -> Pushed:
        api, repo_id = self.api, self.repo_id
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        refs = api.list_repo_refs(repo_id)
        tags = {ref.name for ref in refs.tags}
        if tag in tags and not self._is_at(tag):
            raise EvaluationError(
                f"{repo_id} has a tag {tag!r} with other files already: choose another tag, or remove that one with "
                f"HfApi().delete_tag({repo_id!r}, tag={tag!r}) and push again."
            )
        if self.branch not in {ref.name for ref in refs.branches}:
            api.create_branch(repo_id, branch=self.branch)
        remote = remote_digests(api, repo_id, self.branch, "model")
        changed = [path for path, known in self.digests.items() if remote.get(path) not in known]
        stale = [path for path in remote if is_own(path) and path not in self.files]
        there = self._card_at(self.branch, remote)
        message = message or "Upload a Moon2 model"
        operations = [CommitOperationAdd(path, self.files[path]) for path in changed]
        operations += [CommitOperationDelete(path) for path in stale]
        head = api.repo_info(repo_id, revision=self.branch).sha
        commit = self._commit(operations, message) if operations else head
        uploaded, kept = len(changed), False
        if CARD not in self.files:
            kept = there is not None and not is_untouched(there)
            card = None if kept else self._card(self._pin(there, commit))
            if card not in (None, there):
                operation = CommitOperationAdd(CARD, card.encode())
                commit, uploaded = self._commit([operation], f"{message}: the model card"), uploaded + 1
        if tag is not None and tag not in tags:
            api.create_tag(repo_id, tag=tag, revision=commit)
        return Pushed(str(url), commit, uploaded, len(stale), kept)

    def _commit(self, operations: list, message: str) -> str:
        return self.api.create_commit(self.repo_id, operations, commit_message=message, revision=self.branch).oid

    def _card(self, revision: str) -> str:
        figures = {figure: f"figures/{figure}.png" for figure in FIGURES if f"figures/{figure}.png" in self.files}
        publication = Publication(
            self.repo_id,
            revision,
            **self.terms._asdict(),
            base_model=self.base_model,
            dataset=self.dataset,
            figures=figures,
        )
        return model_card(self.folder, publication, self.results)

    def _card_at(self, revision: str, remote: dict[str, str]) -> str | None:
        if CARD not in remote:
            return None
        return Path(self.api.hf_hub_download(self.repo_id, CARD, revision=revision)).read_text(encoding="utf-8")

    def _pin(self, card: str | None, head: str) -> str:
        """The commit that a card names, while it has these files; else the newest."""
        found = None if card is None else PINNED.search(card)
        if found:
            try:
                if self._same_files(remote_digests(self.api, self.repo_id, found[1], "model")):
                    return found[1]
            except RevisionNotFoundError:  # the repository's history was rewritten
                return head
        return head

    def _same_files(self, remote: dict[str, str]) -> bool:
        same = all(remote.get(path) in known for path, known in self.digests.items())
        return same and all(path in self.files for path in remote if is_own(path))

    def _is_at(self, tag: str) -> bool:
        """Whether a tag has just these files of the model, and the card that would be written for them."""
        remote = remote_digests(self.api, self.repo_id, tag, "model")
        if not self._same_files(remote):
            return False
        card = self._card_at(tag, remote)
        if CARD in self.files or card is None or not is_untouched(card):
            return True
        pinned = PINNED.search(card)
        return pinned is not None and card == self._card(pinned[1])

    def _on_hub(self, name: str | None, repo_type: str) -> str | None:
        """A name of the recipe, if the Hub knows it: it may as well be a folder of the machine that trained."""
        if not name or not HUB_ID.fullmatch(name) or Path(name).exists():
            return None
        return name if self.api.repo_exists(name, repo_type=repo_type) else None


def _run(options: argparse.Namespace) -> dict:
    figures = _figures(options)
    terms = Terms(options.license, options.license_name, options.license_link)
    if options.dry_run:
        return _show(options, figures, terms)
    pushed = push_model(
        options.model,
        options.repo,
        results=options.results,
        figures=figures,
        terms=terms,
        include=options.include,
        private=True if options.private else None,
        branch=options.branch,
        tag=options.tag,
        message=options.message,
        max_shard_size=options.max_shard_size,
    )
    print(pushed.sentence())
    return {"repo": options.repo, "branch": options.branch, "tag": options.tag, **pushed._asdict()}


def _figures(options: argparse.Namespace) -> dict[str, Path]:
    """The PNG files that are named, or that lie in the folder of results."""
    found = {}
    for figure, usual in USUAL.items():
        named = getattr(options, figure)
        if named is None and options.results is not None and (options.results / usual).is_file():
            named = options.results / usual
        if named is not None:
            found[figure] = named
    return found


def _show(options: argparse.Namespace, figures: dict[str, Path], terms: Terms) -> dict:
    """Files and card, without asking the Hub."""
    _check_name(options.repo)
    check_folder(options.model)
    results = None if options.results is None else read_results(options.results, options.model)
    files = model_files(options.model, None, Path()) | included(options.model, options.include)
    files |= {} if options.results is None else result_files(options.results)
    files |= {f"figures/{figure}.png": png_file(path) for figure, path in figures.items()}
    for path, source in sorted(files.items()):
        print(f"{source.stat().st_size:>14,}  {path}")
    shown = {figure: f"figures/{figure}.png" for figure in figures}
    publication = Publication(options.repo, **terms._asdict(), figures=shown)
    print(f"\n{CARD} (the pushed one also names commits, and what the Hub knows of the model's origin):\n")
    card = model_card(options.model, publication, results)
    print(card)
    missing = lacking(publication, results)
    if missing:
        print("The card has not:", *missing, sep="\n- ")
    sizes = {path: source.stat().st_size for path, source in sorted(files.items())}
    return {"repo": options.repo, "dry_run": True, "files": sizes, "card": card, "lacking": missing}


def add_push(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "push",
        examples=[
            "python -m evaluation push --model moon2 --repo user/moon2 --dry_run",
            "python -m evaluation push --model moon2 --repo user/moon2 --results results --tag v1",
            "python -m evaluation push --model moon2 --repo user/moon2 --private --license other --license_name mine",
        ],
        description="Uploads a checkpoint with its code, results and a model card to the Hub. What is there already is "
        "not uploaded again: after an interruption, run the same command again. Sign in before with `hf auth login`, "
        "or set HF_TOKEN. Optimizer states, checkpoints and logs stay where they are, unless --include names them.",
    )
    parser.add_argument("--model", required=True, type=Path, help="folder of a Moon2 checkpoint")
    parser.add_argument("--repo", required=True, help="user/name on the Hub, made if it is not there")
    parser.add_argument(
        "--results", type=Path, help="folder that `python -m evaluation` wrote for this checkpoint; without it the "
        "card claims no figures, and those of an earlier push are removed"
    )  # fmt: skip
    parser.add_argument(
        "--heatmap", type=Path, help="PNG of `python -m evaluation heatmap`, for the card (default: heatmap.png in "
        "--results, if it is there)"
    )  # fmt: skip
    parser.add_argument(
        "--expert_usage", type=Path, help="PNG of how the experts are used, for the card (default: that of `python -m "
        "evaluation report` in --results, if it is there)"
    )  # fmt: skip
    parser.add_argument("--license", help="of the weights: an identifier of the Hub (apache-2.0 ...) or other")
    parser.add_argument("--license_name", help="with --license other: what the licence is called")
    parser.add_argument("--license_link", help="with --license other: where it stands")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--branch", default="main", help="made if it is not there")
    parser.add_argument("--tag", help="a name for this release, to load it by; never moved")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--max_shard_size", help="divide larger files of weights, as 5GB (default: as they are)")
    parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN",
        help="further files of the folder, as log.jsonl or 'checkpoint-100/*'; may be given several times",
    )  # fmt: skip
    parser.add_argument("--dry_run", action="store_true", help="upload nothing: list the files and print the card")
    parser.set_defaults(command=_run)


# What a model consists of; of the repository's files only these are ever removed, if the folder no longer has them.
MODEL_FILES = (
    *SHIPPED_CODE,
    *SENTENCE_TRANSFORMERS_FILES,
    "config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    RECIPE, RUN, "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
)  # fmt: skip
RESULT_FILES = (RESULTS, "results.md", "scores.parquet")
# A pickle of the training arguments, with a token among them if one was given.
NEVER = "training_args.bin"


def is_own(path: str) -> bool:
    """Whether a file of a repository is one that pushes write."""
    figures = {f"figures/{figure}.png" for figure in FIGURES}
    results = {f"results/{name}" for name in RESULT_FILES}
    return path in MODEL_FILES or path in figures | results or WEIGHTS.fullmatch(path) is not None


def check_folder(folder: Path) -> None:
    """Makes sure that a folder holds a whole Moon2 checkpoint that runs no foreign code.

    Raises:
        EvaluationError: it does not; the message says what is missing.
    """
    if not folder.is_dir():
        raise EvaluationError(f"There is no model folder {folder}.")
    kind = read_config(folder, str(folder)).get("model_type")
    if kind != "moon2":
        raise EvaluationError(f"{folder} holds a {kind!r} model; only 'moon2' ones can be pushed.")
    index = folder / INDEX
    names = {"model.safetensors"}
    if index.is_file() and not (folder / "model.safetensors").is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    for name in sorted(names):
        if not (folder / name).is_file():
            raise EvaluationError(f"{folder} has no {name}: only weights in safetensors can be pushed. Save it again.")
    check_code(folder)
    if not (folder / "processor_config.json").is_file():
        raise EvaluationError(f"{folder} has no processor_config.json: save the processor beside the model.")


def model_files(folder: Path, max_shard_size: str | None, temporary: Path) -> dict[str, Path]:
    """Path in the repository -> file, of everything that belongs to the model.

    Args:
        temporary: where new shards are written, if there must be.
    """
    files = {name: folder / name for name in MODEL_FILES if (folder / name).is_file()}
    single = (folder / "model.safetensors").is_file()  # then transformers does not look for shards
    weights = {
        path.name: path
        for path in sorted(folder.iterdir())
        if WEIGHTS.fullmatch(path.name) and (not single or path.name == "model.safetensors")
    }
    return files | (weights if max_shard_size is None else reshard(weights, max_shard_size, temporary))


def included(folder: Path, patterns: list[str]) -> dict[str, Path]:
    """Path in the repository -> file, for patterns of further files of a folder.

    Raises:
        EvaluationError: a pattern fits no file.
    """
    files = {}
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise EvaluationError(f"--include {pattern} does not lie in {folder}: give a path below it.")
        matches = [path for path in sorted(folder.glob(pattern)) if path.is_file() and path.name != NEVER]
        if not matches:
            raise EvaluationError(f"--include {pattern} fits no file of {folder}.")
        files |= {path.relative_to(folder).as_posix(): path for path in matches}
    return files


def read_results(results: Path, folder: Path) -> dict:
    """The content of results.json.

    Raises:
        EvaluationError: there is none, or it was measured with another model.
    """
    file = results / RESULTS
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        measured = content["run"]["model"]["fingerprint"]
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f"{results} holds no results of `python -m evaluation` for one model: {error}") from error
    if measured != fingerprint(folder):
        raise EvaluationError(
            f"{file} was measured with other files than those of {folder} (fingerprint {measured[:16]}, not "
            f"{fingerprint(folder)[:16]}): evaluate the folder again, or push without --results."
        )
    return content


def result_files(results: Path) -> dict[str, Path]:
    return {f"results/{name}": results / name for name in RESULT_FILES if (results / name).is_file()}


def png_file(path: Path) -> Path:
    if not path.is_file() or path.read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
        raise EvaluationError(f"{path} is no PNG file.")
    return path
