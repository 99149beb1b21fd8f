"""Which files of a checkpoint and of its results go to the Hub."""

import json
from pathlib import Path

from chat_moon2 import SENTENCE_TRANSFORMERS_FILES
from evaluation.card_training import RECIPE, RUN
from evaluation.checkpoint import fingerprint, read_config
from evaluation.errors import EvaluationError
from evaluation.model_card import FIGURES, RESULTS
from evaluation.shards import INDEX, WEIGHTS, reshard
from evaluation.trust import SHIPPED_CODE, check_code

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
