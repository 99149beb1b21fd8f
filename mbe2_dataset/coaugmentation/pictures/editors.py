"""Models that edit an image as a prompt says: a diffusers pipeline, or a server with the OpenAI `images/edits` API."""

import base64
import binascii
import inspect
import io
from functools import cached_property, lru_cache
from importlib.resources import files
from string import Template
from typing import Protocol

import numpy as np
import yaml
from PIL import Image

from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.coaugmentation.endpoint import Endpoint, Refusal, Usage, optional_package
from mbe2_dataset.errors import ModelError

# The prompt of stage 1; the others have the names of the kinds of views.
SUBJECT = "subject"
LEAST_SIDE, MOST_PIXELS = 64, 4096 * 4096
# Standard deviation of the pixels (0 to 255); below it an image is of one colour.
LEAST_SPREAD = 2.0


class ImageEditor(Protocol):
    """Edits an image as a prompt says; says what it is, so that a record can name it."""

    model: str
    revision: str
    prompt_version: str

    def __call__(self, image: Image.Image, prompt: str, seed: int) -> Image.Image:
        """Return the edited RGB image.

        Raises:
            Refusal: this image could not be edited.
            ModelError: no image can be, or no more: the build should stop.
        """


@lru_cache(maxsize=1)
def _prompts() -> dict[str, dict[str, str]]:
    return yaml.safe_load((files("mbe2_dataset.coaugmentation") / "prompts/images.yaml").read_text(encoding="utf-8"))


def prompt_for(kind: str, title: str) -> tuple[str, str]:
    """Return the prompt of one kind (SUBJECT, or a kind of view) about a product, and its version.

    A title is data: it is quoted, on one line, and cannot end the quotation.
    """
    prompt = _prompts()[kind]
    quoted = " ".join(title.replace('"', "'").split())[:500]
    return Template(prompt["text"]).substitute(title=quoted), prompt["version"]


def prompts_version() -> str:
    """Return the versions of all prompts."""
    return " ".join(prompt["version"] for prompt in _prompts().values())


def checked_edit(edited: Image.Image) -> Image.Image:
    """Return the RGB image of an answer, if its size is sensible and there is something to see.

    Raises:
        Refusal: it is not.
    """
    if min(edited.size) < LEAST_SIDE or edited.width * edited.height > MOST_PIXELS:
        raise Refusal(f"the answer is an image of {edited.width} x {edited.height} pixels")
    edited = edited.convert("RGB")
    if np.asarray(edited.resize((64, 64))).std() < LEAST_SPREAD:
        raise Refusal("the answer is an image of one colour")
    return edited


# Latent models halve an image up to six times.
MULTIPLE = 64


class DiffusersEditor:
    """Any pipeline that takes an image and a prompt (InstructPix2Pix, Qwen-Image-Edit, FLUX Kontext ...).

    The same image, prompt and seed give the same answer on the same machine.

    Args:
        model: id on the Hub or folder.
        options: further arguments of the pipeline's call, such as `{"num_inference_steps": 20, "guidance_scale": 7}`.
        side: longest side in pixels at which the pipeline works.
    """

    revision = ""

    def __init__(self, model: str, options: dict[str, object] | None = None, side: int = 512):
        optional_package("diffusers", "An image-editing pipeline")
        self.model, self.prompt_version = model, prompts_version()
        self.options, self.side = options or {}, side

    def __call__(self, image: Image.Image, prompt: str, seed: int) -> Image.Image:
        """See `ImageEditor`."""
        import torch

        scale = self.side / max(image.size)
        size = [max(MULTIPLE, round(length * scale / MULTIPLE) * MULTIPLE) for length in image.size]
        generator = torch.Generator("cpu").manual_seed(seed)
        answer = self._pipeline(
            prompt=prompt, image=image.resize(size, Image.Resampling.LANCZOS), generator=generator, **self.options
        )
        if any(getattr(answer, "nsfw_content_detected", None) or ()):
            raise Refusal("the pipeline's safety checker withheld the answer")
        # A pipeline works in steps of MULTIPLE; the image gets its shape back.
        shape = (round(image.width * scale), round(image.height * scale))
        return checked_edit(answer.images[0].resize(shape, Image.Resampling.LANCZOS))

    @cached_property
    def _pipeline(self):
        import torch
        from diffusers import DiffusionPipeline

        try:
            pipeline = DiffusionPipeline.from_pretrained(self.model, torch_dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.model} cannot be loaded as a diffusers pipeline: {error}") from error
        accepted = inspect.signature(pipeline.__call__).parameters
        if missing := [name for name in ("image", "prompt", *self.options) if name not in accepted]:
            raise ModelError(
                f"The pipeline {type(pipeline).__name__} of {self.model} takes no {', '.join(missing)}: "
                f"an editing pipeline takes an image and a prompt."
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


# What is sent has at most this longest side (pixels), and an answer at most so many bytes.
LONGEST_SIDE = 1024
MOST_BYTES = 32_000_000


class EndpointEditor:
    """Sends images to a server. It knows no seeds, so the same call may give another image.

    A server that answers with an address instead of the image is refused, because addresses are not fetched.
    """

    def __init__(self, server: Endpoint):
        self.server, self.model, self.revision = server, server.model, server.revision
        self.prompt_version = prompts_version()

    def __call__(self, image: Image.Image, prompt: str, seed: int) -> Image.Image:
        """See `ImageEditor`."""
        import openai

        try:
            encoded, _ = self.server.send(
                "images.edit", _encoded, Usage(1, cost=self.server.price),
                image=("product.png", _png(image), "image/png"), prompt=prompt,
            )  # fmt: skip
        except openai.OpenAIError as error:
            if fault := self.server.fault(error):
                raise fault from None
            if isinstance(error, openai.APITimeoutError):
                raise Refusal(f"the server did not answer within {self.server.timeout:g} s") from None
            status = getattr(error, "status_code", None)
            if status is not None:
                raise Refusal(f"the server refused: HTTP {status}: {self.server.quoted(error)}") from None
            raise Refusal("the answer holds no image (data[0].b64_json)") from None
        if len(encoded) > MOST_BYTES * 4 / 3:
            raise Refusal(f"the answer is longer than {MOST_BYTES:,} bytes")
        try:
            return checked_edit(decode(Picture(base64.b64decode(encoded, validate=True), "answer")))
        except binascii.Error as error:
            raise Refusal(f"the answer's image is not base64: {error}") from error
        except ValueError as error:
            raise Refusal(f"the answer's image cannot be read: {error}") from error


def _encoded(answer) -> str:
    encoded = answer.data[0].b64_json
    if not isinstance(encoded, str):
        raise ValueError
    return encoded


def _png(image: Image.Image) -> bytes:
    image = image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
