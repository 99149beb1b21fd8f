"""Weights in files of a bounded size, as transformers reads them."""

import json
import re
from pathlib import Path

from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import safe_open
from safetensors.torch import save_file

from evaluation.errors import EvaluationError

INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|" + re.escape(INDEX))


def reshard(weights: dict[str, Path], max_shard_size: str, target: Path) -> dict[str, Path]:
    """Divides weights into files of at most a size; they stay as they are where no file is larger than it must be.

    Memory: the tensors of one shard.

    Args:
        weights: name -> file, the index included if there is one.
        max_shard_size: as "5GB" or "500MB"; a tensor that is larger gets a file of its own.

    Raises:
        EvaluationError: the size cannot be read.
    """
    owners, sizes = {}, {}
    for path in weights.values():
        if path.suffix == ".safetensors":
            for name, entry in _header(path).items():
                start, end = entry["data_offsets"]
                owners[name], sizes[name] = path, end - start
    try:
        split = split_state_dict_into_shards_factory(
            sizes,
            get_storage_size=lambda size: size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise EvaluationError(f"--max_shard_size {max_shard_size!r} is no size: write it as 5GB or 500MB.") from error
    shards = split.filename_to_tensors
    largest = max(sum(sizes[name] for name in names) for names in shards.values())
    if largest >= max(sum(size for name, size in sizes.items() if owners[name] == path) for path in weights.values()):
        return weights
    for filename, names in shards.items():
        tensors = {}
        for name in names:
            with safe_open(owners[name], "pt") as file:
                tensors[name] = file.get_tensor(name)
        save_file(tensors, target / filename, metadata={"format": "pt"})
    index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return {path.name: path for path in sorted(target.iterdir())}


def _header(path: Path) -> dict[str, dict]:
    """Tensor -> its entry in the header of a safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
