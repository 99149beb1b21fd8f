"""An image-editing model behind an OpenAI-compatible endpoint (`images/edits`)."""

import base64
import binascii
import inspect
import io
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from string import Template
from typing import Protocol

import numpy as np
from PIL import Image

from common_moon2.cli import UserError
from common_moon2.hub import without_secrets
from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.coaugmentation.pictures.subject import optional_package
from mbe2_dataset.coaugmentation.pictures.views import KINDS
from pictures_moon2 import address

# The prompt of stage 1.
SUBJECT = "subject"
LEAST_SIDE, MOST_PIXELS = 64, 4096 * 4096
# Standard deviation of the pixels (0 to 255); below it a picture is of one colour.
LEAST_SPREAD = 2.0


class EditError(Exception):
    """This picture could not be edited; the message is the reason, for the record of that picture."""


class EditorUnavailable(UserError):
    """No picture can be edited, or no more: the build should stop (wrong key or address, budget used up)."""


class ImageEditor(Protocol):
    """Edits a picture as a prompt says; says what it is, so that a record can name it."""

    model: str
    revision: str
    prompt_version: str

    def __call__(self, image: Image.Image, prompt: str, seed: int) -> Image.Image:
        """The edited RGB picture.

        Raises:
            EditError: this picture could not be edited.
            EditorUnavailable: no picture can be.
        """


def prompt_for(kind: str, title: str) -> tuple[str, str]:
    """The prompt of one kind (SUBJECT, or a kind of view) about a product, and its version.

    A prompt is a file, and its version is in it, so that a record names the text that was sent. A title
    is data: it is quoted, on one line, and cannot end the quotation.
    """
    version, _, text = (files(__package__) / "prompts" / f"{kind}.txt").read_text(encoding="utf-8").partition("\n")
    quoted = " ".join(title.replace('"', "'").split())[:500]
    return Template(text.strip()).substitute(title=quoted), version.removeprefix("version: ").strip()


def prompts_version() -> str:
    """The versions of all prompts, which an editor goes by."""
    return " ".join(prompt_for(kind, "")[1] for kind in (SUBJECT, *KINDS))


def checked_edit(edited: Image.Image) -> Image.Image:
    """The RGB picture of an answer, if its size is sensible and there is something to see.

    Raises:
        EditError: it is not.
    """
    if min(edited.size) < LEAST_SIDE or edited.width * edited.height > MOST_PIXELS:
        raise EditError(f"the answer is a picture of {edited.width} x {edited.height} pixels")
    edited = edited.convert("RGB")
    if np.asarray(edited.resize((64, 64))).std() < LEAST_SPREAD:
        raise EditError("the answer is a picture of one colour")
    return edited


# Latent models halve a picture up to six times.
MULTIPLE = 64


class DiffusersEditor:
    """Any pipeline that takes a picture and a prompt (InstructPix2Pix, Qwen-Image-Edit, FLUX Kontext ...).

    The same picture, prompt and seed give the same answer on the same machine.

    Args:
        model: id on the Hub or folder.
        revision: commit or tag on the Hub, "" for the newest.
        options: further arguments of the pipeline's call, such as `{"num_inference_steps": 20, "guidance_scale": 7}`.
        side: longest side in pixels at which the pipeline works.
        device: where it runs, as in torch.
        dtype: name of the weights' type in torch.
    """

    def __init__(
        self,
        model: str,
        revision: str = "",
        options: dict[str, object] | None = None,
        side: int = 512,
        device: str = "cpu",
        dtype: str = "float32",
    ):
        optional_package("diffusers", "An image-editing pipeline")
        self.model, self.revision, self.prompt_version = model, revision, prompts_version()
        self.options, self.side, self.device, self.dtype = options or {}, side, device, dtype

    def __getstate__(self) -> dict:
        """Without the weights, which another process loads for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_pipeline"}

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
            raise EditError("the pipeline's safety checker withheld the answer")
        # A pipeline works in steps of MULTIPLE; the picture gets its shape back.
        shape = (round(image.width * scale), round(image.height * scale))
        return checked_edit(answer.images[0].resize(shape, Image.Resampling.LANCZOS))

    @cached_property
    def _pipeline(self):
        import torch
        from diffusers import DiffusionPipeline

        try:
            pipeline = DiffusionPipeline.from_pretrained(
                self.model, revision=self.revision or None, torch_dtype=getattr(torch, self.dtype), use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise EditorUnavailable(f"{self.model} cannot be loaded as a diffusers pipeline: {error}") from error
        accepted = inspect.signature(pipeline.__call__).parameters
        if missing := [name for name in ("image", "prompt", *self.options) if name not in accepted]:
            raise EditorUnavailable(
                f"The pipeline {type(pipeline).__name__} of {self.model} takes no {', '.join(missing)}: "
                f"an editing pipeline takes a picture and a prompt."
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device)


# What is sent has at most this longest side (pixels), and an answer at most so many bytes.
LONGEST_SIDE = 1024
MOST_BYTES = 32_000_000
# HTTP statuses after which no other picture would fare better: wrong key, no rights, no such model or address.
_HOPELESS = (401, 403, 404)


@dataclass
class Usage:
    """What an editor did and what it cost; tokens are those that the server reports."""

    calls: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclass
class EndpointEditor:
    """Sends pictures to `images/edits` by the openai package, which retries what is worth it, with jitter.

    Attributes:
        model: its name on the server.
        base_url: address of the server's API, as "http://localhost:8000/v1"; "": that of OpenAI or OPENAI_BASE_URL.
        revision: what the user calls the served version; it is recorded.
        api_key: "": from the environment variable OPENAI_API_KEY.
        options: further fields of a request, such as `{"size": "1024x1024", "quality": "low"}`; a server that answers
            with addresses of pictures needs `{"response_format": "b64_json"}`, because addresses are not fetched.
        price_per_picture, price_per_million_input, price_per_million_output: in one currency, of which `cost` is.
        budget: no call begins when that much was spent; None: no limit. It counts in each process for itself.
        timeout: seconds for one call.
        retries: how often a call is repeated after 429, 5xx, a time-out or a broken connection.
    """

    model: str
    base_url: str = ""
    revision: str = ""
    api_key: str = field(default="", repr=False)
    options: dict[str, object] = field(default_factory=dict)
    price_per_picture: float = 0.0
    price_per_million_input: float = 0.0
    price_per_million_output: float = 0.0
    budget: float | None = None
    timeout: float = 180.0
    retries: int = 4

    def __post_init__(self):
        optional_package("openai", "An image-editing endpoint")
        self.prompt_version = prompts_version()
        self._usage, self._lock = Usage(), threading.Lock()

    def __getstate__(self) -> dict:
        """Without connection, lock and account, which another process has of its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_client", "_lock", "_usage")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._usage, self._lock = Usage(), threading.Lock()

    @property
    def usage(self) -> Usage:
        with self._lock:
            return replace(self._usage)

    def __call__(self, image: Image.Image, prompt: str, seed: int) -> Image.Image:
        """See `ImageEditor`. The endpoint knows no seeds, so the same call may give another picture."""
        with self._lock:
            if self.budget is not None and self._usage.cost >= self.budget:
                raise EditorUnavailable(
                    f"The budget of {self.budget:g} for the image-editing model {self.model} is used up "
                    f"({self._usage.cost:.2f} spent in {self._usage.calls} calls)."
                )
            self._usage.calls += 1
        try:
            return self._edited(image, prompt)
        except (EditError, EditorUnavailable):
            with self._lock:
                self._usage.failures += 1
            raise

    def _edited(self, image: Image.Image, prompt: str) -> Image.Image:
        import openai

        client = self._client
        try:
            answer = client.images.edit(
                model=self.model, image=("product.png", _png(image), "image/png"), prompt=prompt, **self.options
            )
        except openai.APITimeoutError as error:
            raise EditError(f"the server did not answer within {self.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise EditorUnavailable(
                f"The image-editing endpoint {address(str(self._client.base_url))} cannot be reached: "
                f"{without_secrets(str(error.__cause__ or error), self.api_key)}"
            ) from error
        except openai.APIStatusError as error:
            sentence = f"HTTP {error.status_code}: {_short(without_secrets(error.message, self.api_key))}"
            if error.status_code in _HOPELESS or error.code == "insufficient_quota":
                raise EditorUnavailable(f"The image-editing endpoint refuses {self.model}: {sentence}") from error
            raise EditError(f"the server refused: {sentence}") from error
        except (openai.APIError, ValueError) as error:
            raise EditError(
                f"the answer is not that of an image endpoint: {_short(without_secrets(str(error), self.api_key))}"
            ) from error
        self._account(getattr(answer, "usage", None))
        pictures = getattr(answer, "data", None)
        encoded = getattr(pictures[0], "b64_json", None) if isinstance(pictures, list) and pictures else None
        if not isinstance(encoded, str):
            raise EditError("the answer holds no picture (data[0].b64_json)")
        if len(encoded) > MOST_BYTES * 4 / 3:
            raise EditError(f"the answer is longer than {MOST_BYTES:,} bytes")
        try:
            return checked_edit(decode(Picture(base64.b64decode(encoded, validate=True), "answer")))
        except binascii.Error as error:
            raise EditError(f"the answer's picture is not base64: {error}") from error
        except ValueError as error:
            raise EditError(f"the answer's picture cannot be read: {error}") from error

    def _account(self, usage: object) -> None:
        read = getattr(usage, "input_tokens", None) or 0
        written = getattr(usage, "output_tokens", None) or 0
        with self._lock:
            self._usage.input_tokens += read
            self._usage.output_tokens += written
            self._usage.cost += (
                self.price_per_picture
                + (read * self.price_per_million_input + written * self.price_per_million_output) / 1e6
            )

    @cached_property
    def _client(self):
        import openai

        try:
            return openai.OpenAI(
                api_key=self.api_key or None,
                base_url=self.base_url or None,
                timeout=self.timeout,
                max_retries=self.retries,
            )
        except openai.OpenAIError as error:
            raise EditorUnavailable(f"The image-editing endpoint cannot be used: {error}") from error


def _png(image: Image.Image) -> bytes:
    image = image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:200] + " ..."
