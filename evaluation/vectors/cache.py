"""Vectors kept on disk, so that nothing is embedded twice, and an interrupted run goes on where it was."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentence_transformers
import torch
import transformers
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from evaluation.errors import EvaluationError
from evaluation.models.encoders import Encoder

# Part of every key: raise it when the same encoder would give other vectors for the same products.
FORMAT = 1
SHARD = 1024
DEFAULT_FOLDER = Path(HF_HOME) / "moon2" / "embeddings"


class Items(Protocol):
    """A sequence of products that knows its contents; see `evaluation.tables.benchmark.ProductView`."""

    contents: list
    text_lengths: list[int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...

    def take(self, indices: Sequence[int]) -> "Items": ...

    def describe(self, index: int) -> str: ...


@dataclass
class VectorCache:
    """Vectors by encoder, contents and view: `<folder>/<key>/00000.npy`, ...; `about.json` says what they are.

    A shard is written under another name, then renamed, so it is whole or not there.

    Attributes:
        embedded, seconds: how many items this object has embedded (and not found), and how long that took.
    """

    folder: Path
    shard: int = SHARD
    embedded: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def embed(
        self,
        encoder: Encoder,
        items: Items,
        view: str,
        role: str = "document",
        batch_size: int = 64,
        workers: int = 0,
        description: str = "embed",
    ) -> torch.Tensor:
        """(N, D) vectors of the items, in their order; (0, 0) if there are none. See `Encoder.encode`.

        Raises:
            EvaluationError: an item cannot be embedded, or the folder cannot be written or read.
        """
        if not len(items):
            return torch.empty(0, 0)
        about = _about(encoder, view, role)
        content = json.dumps([about, self.shard, items.contents], sort_keys=True)
        key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        place = self.folder / key
        try:
            place.mkdir(parents=True, exist_ok=True)
            _write(place / "about.json", json.dumps(about | {"name": encoder.name, "items": len(items)}).encode())
        except OSError as error:
            raise EvaluationError(f"The cache {self.folder} cannot be written: {error.strerror}.") from error

        # Longest first over all shards: if a batch does not fit into memory, that shows at once.
        order = sorted(range(len(items)), key=lambda index: -items.text_lengths[index])
        vectors = torch.empty(len(items), encoder.dimension)
        with tqdm(total=len(items), desc=description, unit="item") as progress:
            for number, start in enumerate(range(0, len(order), self.shard)):
                indices = order[start : start + self.shard]
                file = place / f"{number:05d}.npy"
                if file.exists():
                    vectors[indices] = _read(file, (len(indices), encoder.dimension))
                else:
                    begun = time.perf_counter()
                    found = encoder.encode(items.take(indices), batch_size, workers, role, f"part {number + 1}")
                    self.seconds += time.perf_counter() - begun
                    self.embedded += len(indices)
                    _save(file, found.numpy())
                    vectors[indices] = found
                progress.update(len(indices))
        return vectors


def _about(encoder: Encoder, view: str, role: str) -> dict[str, Any]:
    """All but the items that decides vectors. A role matters only where its prompt differs."""
    return {
        "format": FORMAT,
        "encoder": encoder.fingerprint,
        "kind": encoder.kind,
        "dtype": encoder.dtype,
        "prompt": encoder.prompt(role),
        "view": view,
        "gpu": torch.cuda.is_available(),
        "versions": [torch.__version__, transformers.__version__, sentence_transformers.__version__],
    }


def _save(file: Path, vectors: np.ndarray) -> None:
    staged = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with staged.open("wb") as handle:
            np.save(handle, vectors)
            handle.flush()
            os.fsync(handle.fileno())
        staged.replace(file)
    except OSError as error:
        raise EvaluationError(f"The cache cannot be written: {file}: {error.strerror}.") from error


def _write(file: Path, content: bytes) -> None:
    staged = file.with_name(f"{file.name}.{os.getpid()}.part")
    staged.write_bytes(content)
    staged.replace(file)


def _read(file: Path, shape: tuple[int, int]) -> torch.Tensor:
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EvaluationError(f"The cached vectors {file} cannot be read: delete the folder {file.parent}.") from error
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise EvaluationError(f"The cached vectors {file} are not {shape} float32: delete the folder {file.parent}.")
    return torch.from_numpy(vectors)
