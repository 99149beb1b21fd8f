"""Models that embed texts and images; the consistency of the two as a cosine similarity (MOON2.0, section 5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image

from common_moon2.hub import first_line
from mbe2_dataset.catalogue.pictures import decode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.errors import ModelError


class ConsistencyScorer(Protocol):
    """Scores pairs; says what it is, so that a record can name it."""

    model: str
    revision: str

    def score(self, pairs: Sequence[tuple[str, Image.Image]]) -> list[float]:
        """Return the cosine similarity of each text and RGB image; NaN where a vector is not finite.

        Raises:
            ModelError: the model cannot be loaded, or takes no texts or no images.
        """


class Embedder(Protocol):
    """Embeds products; says what it is, so that a record can name it."""

    model: str
    revision: str

    def embed(self, rows: Sequence[Row]) -> np.ndarray:
        """Return (N, D) float32, L2-normalised: title and first image of each row."""


class SentenceTransformerModel:
    """A scorer and embedder: any sentence-transformers model that embeds texts and images, a Moon2 checkpoint too.

    Texts longer than the model takes are truncated by its tokenizer. The code inside the model is run: use models that
    you trust.

    Args:
        model: id on the Hub or folder.
        revision: commit or tag on the Hub, "" for the newest.
        device: as in torch; None is the first GPU if there is one.
    """

    def __init__(self, model: str, revision: str = "", device: str | None = "cpu"):
        self.model, self.revision, self.device = model, revision, device

    def score(self, pairs: Sequence[tuple[str, Image.Image]]) -> list[float]:
        """See `ConsistencyScorer`."""
        if not pairs:
            return []
        texts, images = zip(*pairs, strict=True)
        return _cosines(*(self._loaded.encode(list(inputs), show_progress_bar=False) for inputs in (texts, images)))

    def embed(self, rows: Sequence[Row]) -> np.ndarray:
        """See `Embedder`."""
        products = [{"text": row.title, "image": decode(row.images[0])} for row in rows]
        return self._loaded.encode(products, normalize_embeddings=True).astype(np.float32)

    @cached_property
    def _loaded(self):
        from sentence_transformers import SentenceTransformer

        try:
            loaded = SentenceTransformer(
                self.model, revision=self.revision or None, trust_remote_code=True, device=self.device
            )
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(
                f"{self.model} cannot be loaded as a sentence-transformers model: {first_line(error)}"
            ) from error
        if missing := [modality for modality in ("text", "image") if not loaded.supports(modality)]:
            raise ModelError(f"The model {self.model} embeds no {' and no '.join(missing)}: choose a multimodal one.")
        return loaded


# Pairs in one forward of a CLIP or SigLIP.
BATCH_SIZE = 32


class ClipScorer:
    """A CLIP or SigLIP from transformers; its tokenizer truncates titles that are too long for the text tower.

    Args:
        model: id on the Hub or folder.
        revision: commit or tag on the Hub, "" for the newest.
    """

    def __init__(self, model: str, revision: str = ""):
        self.model, self.revision = model, revision

    def score(self, pairs: Sequence[tuple[str, Image.Image]]) -> list[float]:
        """See `ConsistencyScorer`."""
        import torch

        scores: list[float] = []
        for start in range(0, len(pairs), BATCH_SIZE):
            texts, images = zip(*pairs[start : start + BATCH_SIZE], strict=True)
            with torch.inference_mode():
                scores += _cosines(self._text_vectors(list(texts)), self._image_vectors(list(images)))
        return scores

    def _text_vectors(self, texts: list[str]) -> np.ndarray:
        model, tokenizer, _ = self._loaded
        length = model.config.text_config.max_position_embeddings
        # SigLIP was trained on texts padded to full length, and attends to the padding.
        padding = "max_length" if "siglip" in model.config.model_type else True
        tokens = tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")
        return model.get_text_features(**tokens).pooler_output.float().numpy()

    def _image_vectors(self, images: list[Image.Image]) -> np.ndarray:
        model, _, image_processor = self._loaded
        inputs = image_processor(images=images, return_tensors="pt")
        return model.get_image_features(**inputs).pooler_output.float().numpy()

    @cached_property
    def _loaded(self):
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        revision = self.revision or "main"
        try:
            model = AutoModel.from_pretrained(self.model, revision=revision).eval()
            tokenizer = AutoTokenizer.from_pretrained(self.model, revision=revision)
            # With the "pil" backend pixels do not depend on whether torchvision is installed.
            image_processor = AutoImageProcessor.from_pretrained(self.model, revision=revision, backend="pil")
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.model} cannot be loaded as a CLIP or SigLIP: {error}") from error
        if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
            raise ModelError(f"{self.model} is a {model.config.model_type}, not a CLIP or SigLIP with two towers.")
        return model, tokenizer, image_processor


def _cosines(left: np.ndarray, right: np.ndarray) -> list[float]:
    """Compare row by row; NaN where a vector is zero or not finite."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cosines = (left * right).sum(1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    return [float(cosine) if np.isfinite(cosine) else float("nan") for cosine in cosines]


@dataclass(frozen=True, slots=True)
class Threshold:
    """An absolute cosine similarity, or the share (0 to 1) of the lowest scores that is dropped."""

    value: float
    is_quantile: bool

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """Read a threshold: "0.2" is a cosine similarity, "5%" drops the lowest 5 %.

        Raises:
            ValueError: it is neither, or out of range.
        """
        is_quantile = text.strip().endswith("%")
        try:
            value = float(text.strip().removesuffix("%"))
        except ValueError:
            value = math.nan
        if is_quantile and 0 <= value < 100:
            return cls(value / 100, True)
        if not is_quantile and -1 <= value <= 1:
            return cls(value, False)
        raise ValueError(
            f"The threshold {text!r} is no threshold: give a cosine similarity between -1 and 1, such as 0.2, or the "
            "share of the lowest scores to drop, from 0% to below 100%, such as 5%."
        )

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.is_quantile else f"{self.value:g}"


def apply_threshold(scores: Sequence[float | None], threshold: Threshold) -> tuple[tuple[bool, ...], float | None]:
    """Keep every score that reaches the threshold; a missing one (None, NaN or infinite) is never kept.

    Of n scores a quantile q drops the floor(q n) lowest, and fewer where the next one ties with them: equal scores
    share their fate. Missing scores do not count in n.

    Returns:
        Which scores are kept, and the least that may be; None for a quantile of no score at all.
    """
    cut: float | None = threshold.value
    if threshold.is_quantile:
        present = sorted(score for score in scores if not is_missing(score))
        # The tenth of a millionth undoes the rounding of a share such as 0.29, times 100.
        cut = present[math.floor(threshold.value * len(present) + 1e-7)] if present else None
    return tuple(not is_missing(score) and score >= cut for score in scores), cut


def is_missing(score: float | None) -> bool:
    """Tell whether there is no score: None, NaN or infinite."""
    return score is None or not math.isfinite(score)


# Characters of the longest bar.
BAR = 40


def histogram(scores: Sequence[float | None], kept: Sequence[bool], bins: int = 20) -> str:
    """Return a line for each of `bins` equal bins, lowest first: '#' for kept, '-' for dropped; without scores none."""
    present = [(score, keep) for score, keep in zip(scores, kept, strict=True) if not is_missing(score)]
    lines = []
    if present:
        values, flags = map(np.array, zip(*present, strict=True))
        edges = np.histogram_bin_edges(values, bins)
        shown, hidden = np.histogram(values[flags], edges)[0], np.histogram(values[~flags], edges)[0]
        most = max(1, int((shown + hidden).max()))
        for low, high, keep, drop in zip(edges[:-1], edges[1:], shown, hidden, strict=True):
            bars = "-" * int(np.ceil(BAR * drop / most)) + "#" * int(np.ceil(BAR * keep / most))
            lines.append(f"{low:7.3f} to {high:7.3f}  {bars} {keep} kept, {drop} dropped")
    return "\n".join([*lines, f"without a score: {len(scores) - len(present)}"])
