"""Scores picture against title: the cosine similarity of their embeddings (MOON2.0, section 5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image

from mbe2_dataset.errors import ModelError


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


@dataclass(frozen=True, slots=True)
class Threshold:
    """An absolute cosine similarity, or the share (0 to 1) of the lowest scores that is dropped."""

    value: float
    is_quantile: bool

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """A threshold from "0.2" (a cosine similarity) or "5%" (drop the lowest 5 %).

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


@dataclass(frozen=True, slots=True)
class Selection:
    """`kept` and `reasons` ("" where kept) in the order of the scores; `cut`: the least score that was kept.

    With no score at all there is no cut of a quantile: `cut` is None.
    """

    kept: tuple[bool, ...]
    reasons: tuple[str, ...]
    cut: float | None


def apply_threshold(scores: Sequence[float | None], threshold: Threshold) -> Selection:
    """Keeps every score that reaches the threshold; a missing one (None, NaN or infinite) is never kept.

    Of n scores a quantile q drops the floor(q n) lowest, and fewer where the next one ties with them: equal scores
    share their fate. Missing scores do not count in n.
    """
    cut: float | None = threshold.value
    if threshold.is_quantile:
        present = sorted(score for score in scores if not is_missing(score))
        # The tenth of a millionth undoes the rounding of a share such as 0.29, times 100.
        cut = present[math.floor(threshold.value * len(present) + 1e-7)] if present else None
    reasons = tuple(_reason(score, cut) for score in scores)
    return Selection(tuple(not reason for reason in reasons), reasons, cut)


def is_missing(score: float | None) -> bool:
    return score is None or not math.isfinite(score)


def _reason(score: float | None, cut: float | None) -> str:
    if is_missing(score):
        return "no consistency score"
    return f"consistency {score:.4f} is below {cut:.4f}" if score < cut else ""


BAR = 40


@dataclass(frozen=True)
class Histogram:
    """`edges` (N + 1) of the bins, `kept` and `dropped` (N) counts, and how many had no score."""

    edges: np.ndarray
    kept: np.ndarray
    dropped: np.ndarray
    missing: int

    def text(self) -> str:
        """One line for each bin: '#' for kept, '-' for dropped."""
        most = max(1, int((self.kept + self.dropped).max(initial=0)))
        lines = []
        for low, high, kept, dropped in zip(self.edges[:-1], self.edges[1:], self.kept, self.dropped, strict=True):
            bars = "-" * int(np.ceil(BAR * dropped / most)) + "#" * int(np.ceil(BAR * kept / most))
            lines.append(f"{low:7.3f} to {high:7.3f}  {bars} {kept} kept, {dropped} dropped")
        return "\n".join([*lines, f"without a score: {self.missing}"])

    def svg(self, width: int = 480, height: int = 160) -> str:
        """A self-contained SVG: dropped in orange below kept in blue."""
        foot = 18
        most = max(1, int((self.kept + self.dropped).max(initial=0)))
        step = width / max(1, len(self.kept))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="sans-serif" font-size="11">',
            "<title>Consistency scores: kept (blue) and dropped (orange)</title>",
        ]
        for number, (kept, dropped) in enumerate(zip(self.kept, self.dropped, strict=True)):
            low, high = (float(edge) for edge in self.edges[number : number + 2])
            base = float(height - foot)
            for count, colour, name in ((dropped, "#d95f02", "dropped"), (kept, "#4472a8", "kept")):
                if not count:
                    continue
                tall = (height - foot) * int(count) / most
                base -= tall
                parts.append(
                    f'<rect x="{number * step + 1:.1f}" y="{base:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" '
                    f'fill="{colour}"><title>{low:.3f} to {high:.3f}: {count} {name}</title></rect>'
                )
        if len(self.edges) > 1:
            parts.append(f'<text x="0" y="{height - 4}">{self.edges[0]:.3f}</text>')
            parts.append(f'<text x="{width}" y="{height - 4}" text-anchor="end">{self.edges[-1]:.3f}</text>')
        return "".join([*parts, "</svg>"])


def histogram(scores: Sequence[float | None], kept: Sequence[bool], bins: int = 20) -> Histogram:
    """`bins` equal bins from the lowest to the highest score; without any score there are no bins."""
    present = [(score, keep) for score, keep in zip(scores, kept, strict=True) if not is_missing(score)]
    missing = len(scores) - len(present)
    if not present:
        return Histogram(np.zeros(0), np.zeros(0, int), np.zeros(0, int), missing)
    values, flags = np.array([score for score, _ in present]), np.array([keep for _, keep in present])
    edges = np.histogram_bin_edges(values, bins)
    return Histogram(edges, np.histogram(values[flags], edges)[0], np.histogram(values[~flags], edges)[0], missing)


__all__ = [
    "ClipScorer",
    "ConsistencyScorer",
    "Histogram",
    "Selection",
    "SentenceTransformerScorer",
    "Threshold",
    "apply_threshold",
    "histogram",
]
