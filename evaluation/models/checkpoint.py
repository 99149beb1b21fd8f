"""Checkpoints: where they are, in a folder or on the Hub, their fingerprints, and how Moon2 ones are loaded."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from common_moon2.cli import UserError
from common_moon2.files import sha256_of
from common_moon2.source import find_folder

# What decides the embeddings: weights, settings, tokenizer and the code shipped with them.
FINGERPRINTED = (".safetensors", ".bin", ".json", ".jinja", ".py", ".txt", ".model")


class Checkpoint(NamedTuple):
    """A loaded model and where it came from; `revision` is the Hub commit, `None` for a folder."""

    model: PreTrainedModel
    processor: ProcessorMixin
    folder: Path
    revision: str | None


def load_checkpoint(name: str, revision: str | None = None, attn_implementation: str | None = None) -> Checkpoint:
    """Load model and processor, in eval mode, on the GPU where there is one.

    The code inside the checkpoint is run (`trust_remote_code`).

    Args:
        name: a folder, or a Hub id "owner/name".
        revision: branch, tag or commit on the Hub.
        attn_implementation: as in transformers; `None` keeps the default.

    Raises:
        UserError: there is no such checkpoint, it is not a Moon2 model, or its files are damaged.
    """
    folder, commit = find_checkpoint(name, revision)
    config = read_config(folder, name)
    if config.get("model_type") != "moon2":
        raise UserError(f"{name} holds a {config.get('model_type')!r} model; the evaluation needs a 'moon2' one.")
    try:
        model = AutoModel.from_pretrained(folder, trust_remote_code=True, attn_implementation=attn_implementation)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"The model in {name} cannot be loaded: {error}") from error
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Checkpoint(model, processor, folder, commit)


def find_checkpoint(name: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the folder that holds a model, and the commit if it came from the Hub.

    Raises:
        UserError: it is neither a folder nor available on the Hub.
    """
    folder = find_folder("model", name, revision)
    # A folder below "snapshots" is the Hub's cache, where it is named after the commit.
    return folder, folder.name if folder.parent.name == "snapshots" else None


def read_config(folder: Path, name: str) -> dict:
    """Read the model's config.json.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{name} is not a model: it has no config.json.") from None
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is not valid JSON: {error}.") from error


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of the files that decide the embeddings.

    A sentence-transformers model keeps some of them in folders of its modules.
    """
    places = {folder}
    if (folder / "modules.json").exists():
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        places |= {folder / module["path"] for module in modules if (folder / module["path"]).is_dir()}
    total = hashlib.sha256()
    for path in sorted(path for place in places for path in place.iterdir()):
        if path.suffix in FINGERPRINTED:
            total.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return total.hexdigest()
