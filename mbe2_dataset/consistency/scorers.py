"""Scores picture against title: the cosine similarity of their embeddings (MOON2.0, section 5)."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image

from ..models import ModelError


class ConsistencyScorer(Protocol):
    """Scores pairs; says what it is, so that a record can name it."""

    model: str
    revision: str
    prompt_version: str

    def score(self, pairs: Sequence[tuple[str, Image.Image]]) -> list[float]:
        """The cosine similarity of each text and RGB picture; NaN where the model gives a vector that is not finite.

        Raises:
            ModelError: the model cannot be loaded, or takes no texts or no pictures.
        """


class SentenceTransformerScorer:
    """Any sentence-transformers model that embeds texts and pictures in one space, a Moon2 checkpoint among them.

    Texts longer than the model takes are truncated by its tokenizer.

    Args:
        model: id on the Hub or folder.
        revision: commit or tag on the Hub, "" for the newest.
        trust_remote_code: run the code that comes with the model; a Moon2 checkpoint needs it.
        batch_size: texts or pictures in one forward.
        device: as in torch.
    """

    prompt_version = ""

    def __init__(
        self,
        model: str,
        revision: str = "",
        trust_remote_code: bool = False,
        batch_size: int = 32,
        device: str = "cpu",
    ):
        self.model, self.revision = model, revision
        self.trust_remote_code, self.batch_size, self.device = trust_remote_code, batch_size, device

    def __getstate__(self) -> dict:
        """Without the weights, which another process loads for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}

    def score(self, pairs: Sequence[tuple[str, Image.Image]]) -> list[float]:
        if not pairs:
            return []
        texts, images = zip(*pairs, strict=True)
        return _cosines(self._embed(list(texts)), self._embed(list(images)))

    def _embed(self, inputs: list) -> np.ndarray:
        return self._loaded.encode(inputs, batch_size=self.batch_size, show_progress_bar=False)

    @cached_property
    def _loaded(self):
        from sentence_transformers import SentenceTransformer

        try:
            loaded = SentenceTransformer(
                self.model,
                revision=self.revision or None,
                trust_remote_code=self.trust_remote_code,
                device=self.device,
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.model} cannot be loaded as a sentence-transformers model: {error}") from error
        if missing := [modality for modality in ("text", "image") if not loaded.supports(modality)]:
            raise ModelError(f"The model {self.model} embeds no {' and no '.join(missing)}: choose a multimodal one.")
        return loaded


class ClipScorer:
    """A CLIP or SigLIP from transformers.

    Titles longer than the text tower takes (77 tokens in CLIP, 64 in SigLIP) are truncated by the tokenizer.

    Args:
        model: id on the Hub or folder.
        revision: commit or tag on the Hub, "" for the newest.
        batch_size: pairs in one forward.
        device: as in torch.
    """

    prompt_version = ""

    def __init__(self, model: str, revision: str = "", batch_size: int = 32, device: str = "cpu"):
        self.model, self.revision, self.batch_size, self.device = model, revision, batch_size, device

    def __getstate__(self) -> dict:
        """Without the weights, which another process loads for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}

    def score(self, pairs: Sequence[tuple[str, Image.Image]]) -> list[float]:
        import torch

        scores: list[float] = []
        for start in range(0, len(pairs), self.batch_size):
            texts, images = zip(*pairs[start : start + self.batch_size], strict=True)
            with torch.inference_mode():
                scores += _cosines(self._text_vectors(list(texts)), self._image_vectors(list(images)))
        return scores

    def _text_vectors(self, texts: list[str]) -> np.ndarray:
        model, tokenizer, _ = self._loaded
        length = model.config.text_config.max_position_embeddings
        # SigLIP was trained on texts padded to full length, and attends to the padding.
        padding = "max_length" if "siglip" in model.config.model_type else True
        tokens = tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return model.get_text_features(**tokens.to(self.device)).pooler_output.float().cpu().numpy()

    def _image_vectors(self, images: list[Image.Image]) -> np.ndarray:
        model, _, image_processor = self._loaded
        inputs = image_processor(images=images, return_tensors="pt").to(self.device)
        return model.get_image_features(**inputs).pooler_output.float().cpu().numpy()

    @cached_property
    def _loaded(self):
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        revision = self.revision or "main"
        try:
            model = AutoModel.from_pretrained(self.model, revision=revision).eval().to(self.device)
            tokenizer = AutoTokenizer.from_pretrained(self.model, revision=revision)
            # With the "pil" backend pixels do not depend on whether torchvision is installed.
            image_processor = AutoImageProcessor.from_pretrained(self.model, revision=revision, backend="pil")
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.model} cannot be loaded as a CLIP or SigLIP: {error}") from error
        if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
            raise ModelError(f"{self.model} is a {model.config.model_type}, not a CLIP or SigLIP with two towers.")
        return model, tokenizer, image_processor


def _cosines(left: np.ndarray, right: np.ndarray) -> list[float]:
    """Row by row; NaN where a vector is zero or not finite."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cosines = (left * right).sum(1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    return [float(cosine) if np.isfinite(cosine) else float("nan") for cosine in cosines]
