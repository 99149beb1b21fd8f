"""Which files go to the Hub with a model, and which code they may name: that of this project, no other."""

import json
import re
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file

from common_moon2.cli import UserError
from evaluation.models.checkpoint import fingerprint, read_config
from modeling_moon2 import SENTENCE_TRANSFORMERS_FILES
from publishing_moon2.arguments import USUAL

CARD, RECIPE, STATE, RUN, RESULTS = "README.md", "recipe.yaml", "trainer_state.json", "run.json", "results.json"
# What save_pretrained copies beside the weights. They import one another, their libraries, and nothing else.
SHIPPED_CODE = (
    "backbones_moon2.py",
    "configuration_moon2.py",
    "modeling_moon2.py",
    "pictures_moon2.py",
    "processing_moon2.py",
)
# Where transformers looks for the names of classes to load.
WITH_AUTO_MAP = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
LIBRARY = "sentence_transformers."
# What a model consists of; of the repository's files only these are ever removed, if the folder no longer has them.
MODEL_FILES = (
    *SHIPPED_CODE,
    *SENTENCE_TRANSFORMERS_FILES,
    "config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    RECIPE, RUN, "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
)  # fmt: skip
RESULT_FILES = (RESULTS, "results.md", "scores.parquet")
INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|" + re.escape(INDEX))
# A pickle of the training arguments, with a token among them if one was given.
NEVER = "training_args.bin"


def is_own(path: str) -> bool:
    """Tell whether a file of a repository is one that pushes write."""
    written = {f"figures/{figure}.png" for figure in USUAL} | {f"results/{name}" for name in RESULT_FILES}
    return path in MODEL_FILES or path in written or WEIGHTS.fullmatch(path) is not None


def check_folder(folder: Path) -> None:
    """Check that a folder holds a whole Moon2 checkpoint that runs no foreign code.

    Raises:
        UserError: it does not; the message says what is missing.
    """
    if not folder.is_dir():
        raise UserError(f"There is no model folder {folder}.")
    kind = read_config(folder, str(folder)).get("model_type")
    if kind != "moon2":
        raise UserError(f"{folder} holds a {kind!r} model; only 'moon2' ones can be pushed.")
    names = {"model.safetensors"}
    if (folder / INDEX).is_file() and not (folder / "model.safetensors").is_file():
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    for name in sorted(names):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: only weights in safetensors can be pushed. Save it again.")
    check_code(folder)
    if not (folder / "processor_config.json").is_file():
        raise UserError(f"{folder} has no processor_config.json: save the processor beside the model.")


def check_code(folder: Path) -> None:
    """Check that loading a checkpoint would run the shipped code and libraries only.

    Raises:
        UserError: it names other code; the message says in which file.
    """
    again = "save the model again with its own save_pretrained"
    for name in WITH_AUTO_MAP:
        if not (folder / name).is_file():
            continue
        for asked in classes_asked_for(json.loads((folder / name).read_text(encoding="utf-8"))):
            module = f"{asked.rpartition('.')[0]}.py"
            if module not in SHIPPED_CODE:
                raise UserError(
                    f"{folder / name} would have {asked} loaded, which is no code of this project: {again}, or remove "
                    "that entry of auto_map."
                )
            if not (folder / module).is_file():
                raise UserError(f"{folder} has no {module}, which its {name} names: {again}.")
    if (folder / "modules.json").is_file():
        for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
            if not module["type"].startswith(LIBRARY):
                raise UserError(
                    f"{folder / 'modules.json'} would have {module['type']} loaded, which is not of "
                    f"sentence-transformers: {again}."
                )


def classes_asked_for(settings: object) -> list[str]:
    """Return the classes in every `auto_map` of a settings file, at any depth, as "module.Class"."""
    if isinstance(settings, list):
        return [name for part in settings for name in classes_asked_for(part)]
    if not isinstance(settings, dict):
        return []
    found = []
    for value in settings.get("auto_map", {}).values():
        found += [name for name in (value if isinstance(value, list) else [value]) if name is not None]
    return found + [name for key, part in settings.items() if key != "auto_map" for name in classes_asked_for(part)]


def model_files(folder: Path, max_shard_size: str | None = None, temporary: Path = Path()) -> dict[str, Path]:
    """Return path in the repository -> file, of everything that belongs to the model.

    Args:
        max_shard_size: as "5GB" or "500MB"; the weights are divided anew if a file is larger.
        temporary: an empty folder for them.

    Raises:
        UserError: the size cannot be read.
    """
    files = {name: folder / name for name in MODEL_FILES if (folder / name).is_file()}
    single = (folder / "model.safetensors").is_file()  # then transformers does not look for shards
    weights = [
        path
        for path in sorted(folder.iterdir())
        if WEIGHTS.fullmatch(path.name) and (not single or path.name == "model.safetensors")
    ]
    if max_shard_size is not None:
        tensors = {}
        for path in weights:
            tensors |= load_file(path) if path.suffix == ".safetensors" else {}
        try:
            save_torch_state_dict(tensors, temporary, max_shard_size=max_shard_size)
        except ValueError as error:
            raise UserError(f"--max_shard_size {max_shard_size!r} is no size: write it as 5GB or 500MB.") from error
        weights = sorted(temporary.iterdir())
    return files | {path.name: path for path in weights}


def included(folder: Path, patterns: list[str]) -> dict[str, Path]:
    """Return path in the repository -> file, for patterns of further files of a folder.

    Raises:
        UserError: a pattern fits no file.
    """
    files = {}
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise UserError(f"--include {pattern} does not lie in {folder}: give a path below it.")
        matches = [path for path in sorted(folder.glob(pattern)) if path.is_file() and path.name != NEVER]
        if not matches:
            raise UserError(f"--include {pattern} fits no file of {folder}.")
        files |= {path.relative_to(folder).as_posix(): path for path in matches}
    return files


def read_results(results: Path, folder: Path) -> dict:
    """Return the content of results.json.

    Raises:
        UserError: there is none, or it was measured with another model, or with words beside it.
    """
    file = results / RESULTS
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        measured = content["run"]["model"]["fingerprint"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{results} holds no results of `python -m evaluation` for one model: {error}") from error
    if measured != fingerprint(folder):
        raise UserError(
            f"{file} was measured with other files than those of {folder} (fingerprint {measured[:16]}, not "
            f"{fingerprint(folder)[:16]}): evaluate the folder again, or push without --results."
        )
    if "hybrid" in content:
        raise UserError(f"{file} is of the model and words together: push the results of the model alone.")
    return content


def result_files(results: Path) -> dict[str, Path]:
    """Return path in the repository -> file, of what an evaluation wrote."""
    return {f"results/{name}": results / name for name in RESULT_FILES if (results / name).is_file()}


def png_file(path: Path) -> Path:
    """Return the path of a PNG file.

    Raises:
        UserError: it is none.
    """
    if not path.is_file() or path.read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
        raise UserError(f"{path} is no PNG file.")
    return path
