"""Stage 1 of the visual expansion: where in an image the product is (MOON2.0, section 5)."""

import os
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from common_moon2.files import sha256_of
from mbe2_dataset.coaugmentation.endpoint import optional_package
from mbe2_dataset.errors import ModelError

# Below the first share of the image nothing was found, above the second nothing was left out.
LEAST_COVERAGE, MOST_COVERAGE = 0.01, 0.95
# A mask on this share of each of the four edges is no subject in front of something.
MOST_TOUCHED = 0.3
# Goods may be cut by the lower or the upper edge all along, but hardly by this share of the left or the right one.
WHOLE_SIDE = 0.9


@dataclass(frozen=True, slots=True)
class Subject:
    """The clean subject I_m: the image's own pixels under `mask`.

    Attributes:
        mask: mode "L", as large as the image, 255 where the product is; None if none was found.
        coverage: share of the image that the product takes, 0 to 1.
        score: how sure the extractor is, 0 to 1; each extractor has its own scale.
        reason: why no subject was found, "" if one was.
    """

    mask: Image.Image | None
    coverage: float
    score: float
    reason: str = ""


class SubjectExtractor(Protocol):
    """Finds the product in an image; says what it is, so that a record can name it."""

    model: str
    revision: str
    prompt_version: str

    def __call__(self, image: Image.Image) -> Subject:
        """Return the subject of an RGB image. An image without one gives a reason, not an exception."""


def no_subject(reason: str, coverage: float = 0.0) -> Subject:
    """Return a subject that was not found."""
    return Subject(None, coverage, 0.0, reason)


def checked_subject(mask: Image.Image, score: float) -> Subject:
    """Return a subject if `mask` (mode "L") can be one; otherwise the reason why it cannot."""
    inside = np.asarray(mask) > 127
    coverage = round(float(inside.mean()), 4)
    if coverage < LEAST_COVERAGE:
        return no_subject(f"the subject covers {coverage:.1%} of the image: nothing was found", coverage)
    if coverage > MOST_COVERAGE:
        return no_subject(f"the subject covers {coverage:.1%} of the image: no background was found", coverage)
    if min(edge.mean() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])) > MOST_TOUCHED:
        return no_subject("the subject touches all four edges of the image", coverage)
    if max(inside[:, 0].mean(), inside[:, -1].mean()) > WHOLE_SIDE:
        return no_subject("the subject takes a whole side of the image: it has no outline", coverage)
    return Subject(mask, coverage, round(score, 4))


class RembgExtractor:
    """Any model of rembg by its name (`u2net`, `isnet-general-use`, `birefnet-general` ...), or a U2-Net ONNX file.

    rembg downloads a named model at first use. `revision` is the version of rembg, or the start of the file's SHA-256.
    """

    prompt_version = ""

    def __init__(self, model: str = "u2net"):
        self._file = Path(model) if model.endswith(".onnx") else None
        if self._file and not self._file.is_file():
            raise ModelError(f"There is no model file {model}: give an ONNX file, or the name of a model of rembg.")
        optional_package("rembg", "Subject extraction with rembg")
        self.model = f"rembg/{self._file.name if self._file else model}"
        self.revision = sha256_of(self._file)[:16] if self._file else version("rembg")

    def __getstate__(self) -> dict:
        """Leave out the session, which another process opens for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __call__(self, image: Image.Image) -> Subject:
        """See `SubjectExtractor`."""
        from rembg import remove

        mask = remove(image, session=self._session, only_mask=True).convert("L")
        alpha = np.asarray(mask, dtype=np.float32) / 255
        inside = alpha > 0.5
        # Where the network is sure that there is a subject, its mask is near 1.
        return checked_subject(mask, float(alpha[inside].mean()) if inside.any() else 0.0)

    @cached_property
    def _session(self):
        from rembg import new_session

        if self._file:
            # rembg opens files of its own folder only, which this variable names.
            before = os.environ.get("U2NET_HOME")
            os.environ["U2NET_HOME"] = str(self._file.resolve().parent)
            try:
                return new_session("u2net_custom", model_path=str(self._file.resolve()))
            finally:
                del os.environ["U2NET_HOME"]
                if before is not None:
                    os.environ["U2NET_HOME"] = before
        session = new_session(self.model.removeprefix("rembg/"))
        if not session.is_local():
            raise ModelError(f"The model {self.model} sends images to a service: choose one that runs here.")
        return session


class SegmentationExtractor:
    """Any model of the pipeline "image-segmentation" (SegFormer, Mask2Former, DETR ...), by id or path.

    Args:
        model: id on the Hub or folder.
        labels: names of the segments that make up the subject; none: all but those called background.
    """

    revision = ""

    def __init__(self, model: str, labels: tuple[str, ...] = ()):
        self.model, self.labels = model, labels
        # A part of the identity, so that other labels make other images instead of finding the old ones in the journal.
        self.prompt_version = f"labels {', '.join(sorted(labels))}" if labels else ""

    def __call__(self, image: Image.Image) -> Subject:
        """See `SubjectExtractor`."""
        wanted = [segment for segment in self._pipeline(image) if self._is_wanted(segment["label"])]
        if not wanted:
            return no_subject("the model found no segment of the subject")
        mask = np.maximum.reduce([np.asarray(segment["mask"].convert("L")) for segment in wanted])
        scores = [segment["score"] for segment in wanted if segment["score"] is not None]
        return checked_subject(Image.fromarray(mask), float(np.mean(scores)) if scores else 1.0)

    def _is_wanted(self, label: str) -> bool:
        return label in self.labels if self.labels else "background" not in label.lower()

    @cached_property
    def _pipeline(self):
        from transformers import pipeline

        try:
            loaded = pipeline("image-segmentation", self.model, device="cpu", use_fast=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{self.model} cannot be loaded as a segmentation model: {error}") from error
        known = set(loaded.model.config.id2label.values())
        if missing := [label for label in self.labels if label not in known]:
            raise ModelError(
                f"The model {self.model} has no label {', '.join(map(repr, missing))}; it has: "
                f"{', '.join(sorted(known))}."
            )
        return loaded
