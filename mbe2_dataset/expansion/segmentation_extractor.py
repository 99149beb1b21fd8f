"""Subject extraction with a segmentation model from transformers."""

from functools import cached_property

import numpy as np
from PIL import Image

from ..models import ModelError
from .subject import Subject, checked_subject, no_subject


class SegmentationExtractor:
    """Any model of the pipeline "image-segmentation" (SegFormer, Mask2Former, DETR ...), by id or path.

    Args:
        model: id on the Hub or folder.
        revision: commit or tag on the Hub, "" for the newest.
        labels: names of the segments that make up the subject; none: all but those called background.
        device: where the model runs, as in torch.
    """

    prompt_version = ""

    def __init__(self, model: str, revision: str = "", labels: tuple[str, ...] = (), device: str = "cpu"):
        self.model, self.revision = model, revision
        self.labels, self.device = labels, device

    def __getstate__(self) -> dict:
        """Without the model, which another process loads for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_pipeline"}

    def __call__(self, image: Image.Image) -> Subject:
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
            loaded = pipeline(
                "image-segmentation", self.model, revision=self.revision or None, device=self.device, use_fast=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{self.model} cannot be loaded as a segmentation model: {error}") from error
        known = set(loaded.model.config.id2label.values())
        if missing := [label for label in self.labels if label not in known]:
            raise ModelError(
                f"The model {self.model} has no label {', '.join(map(repr, missing))}; it has: "
                f"{', '.join(sorted(known))}."
            )
        return loaded
