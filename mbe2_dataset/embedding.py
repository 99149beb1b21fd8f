"""Vectors of listings from any multimodal sentence-transformers model, a Moon2 checkpoint among them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from .catalogue import Row
from .journal import Result
from .models import ModelError
from .pictures import decode
from .provenance import identity_of


class Embedder(Protocol):
    """Embeds products.

    Attributes:
        model, revision: what it is.
    """

    model: str
    revision: str

    def embed(self, rows: Sequence[Row]) -> np.ndarray:
        """(N, D) float32, L2-normalised: title and first picture of each listing."""


class SentenceTransformerEmbedder:
    """A model that takes title and picture together. The code inside it is run: use models that you trust.

    Args:
        model: folder or Hub id; revision: branch, tag or commit.
    """

    def __init__(self, model: str, revision: str = ""):
        self.model, self.revision = model, revision

    @cached_property
    def _encoder(self):
        from sentence_transformers import SentenceTransformer

        try:
            encoder = SentenceTransformer(self.model, revision=self.revision or None, trust_remote_code=True)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"{self.model} cannot be loaded as a sentence-transformers model: {reason}") from error
        if not {"text", "image"} <= set(encoder.modalities):
            raise ModelError(f"The model {self.model} does not embed text and pictures: choose a multimodal one.")
        return encoder

    def embed(self, rows: Sequence[Row]) -> np.ndarray:
        products = [{"text": row.title, "image": decode(row.images[0])} for row in rows]
        return self._encoder.encode(products, normalize_embeddings=True, convert_to_numpy=True).astype(np.float32)


class EmbedProducts:
    """The operation of `Embedder`s."""

    name = "embed products"
    place = "here"
    batch = 32
    threads = 1

    def __init__(self, embedder: Embedder):
        self.embedder = embedder

    def identity(self) -> dict:
        return identity_of(self.embedder)

    def inputs(self, row: Row) -> list:
        return [row.title, row.images[0].sha256]

    def __call__(self, rows: Sequence[Row]) -> list[Result]:
        return [Result({}, (vector.tobytes(),)) for vector in self.embedder.embed(rows)]
