"""An image-editing model behind an OpenAI-compatible endpoint (`images/edits`)."""

import base64
import binascii
import io
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property

from PIL import Image

from fetch_moon2 import address
from hub_moon2 import without_secrets

from ..pictures import Picture, decode
from .editors import EditError, EditorUnavailable, checked_edit, prompts_version
from .optional import optional_package

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

        try:
            answer = self._client.images.edit(
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
