"""Subject extraction with the networks of the rembg package."""

import hashlib
import os
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from mbe2_dataset.coaugmentation.pictures.subject import Subject, checked_subject, no_subject, optional_package
from mbe2_dataset.errors import ModelError


class RembgExtractor:
    """Any model of rembg by its name (`u2net`, `isnet-general-use`, `birefnet-general` ...), or a U2-Net ONNX file.

    Named models are downloaded by rembg at first use. `revision` is the version of rembg, or the start of the file's
    SHA-256.
    """

    prompt_version = ""

    def __init__(self, model: str = "u2net"):
        self._file = Path(model) if model.endswith(".onnx") else None
        if self._file and not self._file.is_file():
            raise ModelError(f"There is no model file {model}: give an ONNX file, or the name of a model of rembg.")
        optional_package("rembg", "Subject extraction with rembg")
        self.model = f"rembg/{self._file.name if self._file else model}"
        self.revision = hashlib.sha256(self._file.read_bytes()).hexdigest()[:16] if self._file else version("rembg")

    def __getstate__(self) -> dict:
        """Without the session, which another process opens for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __call__(self, image: Image.Image) -> Subject:
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
            raise ModelError(f"The model {self.model} sends pictures to a service: choose one that runs here.")
        return session


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
