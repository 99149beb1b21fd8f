"""Titles from a server that speaks the OpenAI chat API: vLLM, `transformers serve`, or a hosted one."""

import base64
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from mbe2_dataset.catalogue.pictures import decode, encode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.budget import Account, Budget
from mbe2_dataset.coaugmentation.titles.enrich import Draft, Refusal, Usage, WriterError
from mbe2_dataset.coaugmentation.titles.entities import Entity, extract_entities
from mbe2_dataset.coaugmentation.titles.gazetteer import Gazetteer
from mbe2_dataset.coaugmentation.titles.prompt import Answer, AnswerError, TitlePrompt, again
from pictures_moon2 import address

# So many products in a row without an answer mean that the server is out of order, not the products.
MAX_FAILURES_IN_A_ROW = 5
# The most that a picture of MAX_SIDE takes with the models known to us; it is set aside, and the true number is paid.
PICTURE_TOKENS = 2000
# What a chat template adds to the messages.
TEMPLATE_TOKENS = 200


class EndpointWriter:
    """Asks an OpenAI-compatible server. It may be used from several threads; `concurrency` calls run at a time.

    Copies in other processes have budgets and counts of their own.

    Args:
        base_url: for instance "http://localhost:8000/v1".
        picture: send the first picture of the listing, as a JPEG whose longest side is at most `max_side`.
        extract: let the model extract entities, too. Those that the listing does not say in so many words are dropped.
        attempts: how often one product is asked for until the answer can be used.
        max_retries: how often a request is sent again after 429, 5xx, a time-out or a lost connection (with jitter, and
            as the server says in Retry-After).
        timeout: seconds for one request.
        input_price, output_price: for a million tokens.
        api_key_env: the environment variable that holds the key. A key is in no attribute, message, log or pickle.

    Raises:
        WriterError: the package openai is missing.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        revision: str = "",
        picture: bool = True,
        extract: bool = False,
        concurrency: int = 4,
        attempts: int = 2,
        max_retries: int = 5,
        timeout: float = 120.0,
        max_output_tokens: int = 400,
        max_side: int = 512,
        input_price: float = 0.0,
        output_price: float = 0.0,
        budget: Budget | None = None,
        api_key_env: str = "OPENAI_API_KEY",
    ):
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise WriterError("An endpoint needs the package openai: pip install 'moon2[augment]'.") from error
        self.base_url, self.model, self.revision = base_url, model, revision
        self.concurrency, self.attempts, self.max_retries, self.timeout = concurrency, attempts, max_retries, timeout
        self.max_output_tokens, self.max_side = max_output_tokens, max_side
        self.input_price, self.output_price = input_price, output_price
        self.budget, self.api_key_env = budget or Budget(), api_key_env
        self.prompt = TitlePrompt(picture, extract)
        self.prompt_version = self.prompt.version
        self._start()

    def _start(self) -> None:
        self.account = Account(self.budget)
        self._slots = threading.BoundedSemaphore(self.concurrency)
        self._takes_schema = True
        self._failures = 0

    def __getstate__(self) -> dict:
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("_client", "_slots", "account", "_takes_schema", "_failures")
        }

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._start()

    @cached_property
    def _client(self):
        import openai

        # Servers on one's own machine want no key, but the client does.
        key = os.environ.get(self.api_key_env) or "none"
        return openai.OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.max_retries)

    def write(self, row: Row, entities: tuple[Entity, ...]) -> Draft:
        """A title for `row`; see TitleWriter.

        Raises:
            Refusal: no usable answer after `attempts`, an unreadable picture, or a server that fails with this product.
            BudgetExceeded: one more request might cost more than is left.
            WriterError: no server, no such model, a wrong key, too many requests, or failures in a row.
        """
        content: list[dict] = [{"type": "text", "text": self.prompt.user(row, entities)}]
        if self.prompt.picture:
            content.insert(0, {"type": "image_url", "image_url": {"url": self._data_url(row)}})
        messages = [{"role": "system", "content": self.prompt.system}]
        messages += [{"role": "user", "content": content if self.prompt.picture else content[0]["text"]}]
        usage, reason = Usage(), ""
        for _ in range(self.attempts):
            try:
                text, more = self._ask(messages, row)
                usage += more
                answer = self.prompt.read(text)
            except AnswerError as error:
                reason = str(error)
                messages += [{"role": "assistant", "content": text or "{}"}, {"role": "user", "content": again(reason)}]
            except Refusal as refusal:
                raise Refusal(str(refusal), usage + refusal.usage, refusal.retry) from None
            else:
                return self._draft(answer, usage)
        raise Refusal(f"bad answer: {reason}", usage)

    def _draft(self, answer: Answer, usage: Usage) -> Draft:
        claims = answer.from_picture if self.prompt.picture else None
        return Draft(answer.title, usage, claims, answer.entities)

    def _data_url(self, row: Row) -> str:
        try:
            image = decode(row.images[0])
        except ValueError as error:
            raise Refusal(f"unreadable picture: {error}") from error
        image.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        return "data:image/jpeg;base64," + base64.b64encode(encode(image, "picture.jpg").bytes).decode()

    def most(self, messages: list[dict]) -> Usage:
        """The most that one request can use: no tokenizer makes more tokens of a text than it has bytes."""
        texts = [part for message in messages for part in _texts(message["content"])]
        tokens = sum(len(text.encode()) for text in texts) + TEMPLATE_TOKENS + PICTURE_TOKENS * self.prompt.picture
        return self._usage(1, tokens, self.max_output_tokens)

    def _usage(self, requests: int, input_tokens: int, output_tokens: int) -> Usage:
        cost = (input_tokens * self.input_price + output_tokens * self.output_price) / 1e6
        return Usage(requests, input_tokens, output_tokens, cost)

    def _ask(self, messages: list[dict], row: Row) -> tuple[str, Usage]:
        import openai

        with self._slots:
            usage = Usage()
            if self._takes_schema:
                try:
                    return self._send(messages, self._response_format())
                except (openai.BadRequestError, openai.UnprocessableEntityError):
                    # Either the server does not know schemas, or it refuses this product: the next request tells.
                    usage = Usage(requests=1)
                except openai.OpenAIError as error:
                    raise self._problem(error, row) from None
            try:
                text, more = self._send(messages, None)
            except openai.OpenAIError as error:
                raise self._problem(error, row, usage) from None
            self._takes_schema = False
            return text, usage + more

    def _response_format(self) -> dict[str, object]:
        schema = {"name": "enriched_title", "schema": self.prompt.schema, "strict": True}
        return {"type": "json_schema", "json_schema": schema}

    def _send(self, messages: list[dict], response_format: dict | None) -> tuple[str, Usage]:
        import openai

        extra = {"response_format": response_format} if response_format else {}
        with self.account.reserve(self.most(messages)) as settle:
            left = self.account.requests_left()
            client = self._client.with_options(
                max_retries=self.max_retries if left is None else min(self.max_retries, left)
            )
            raw = client.chat.completions.with_raw_response.create(
                model=self.model, messages=messages, temperature=0.0, max_tokens=self.max_output_tokens, **extra
            )
            try:
                completion = raw.parse()
                text, told = completion.choices[0].message.content or "", completion.usage
            except (ValueError, AttributeError, IndexError, TypeError):
                raise openai.OpenAIError("no chat completion") from None
            usage = self._usage(
                1 + raw.retries_taken, told.prompt_tokens if told else 0, told.completion_tokens if told else 0
            )
            settle(usage)
        self._failures = 0
        return text, usage

    def _problem(self, error: Exception, row: Row, usage: Usage | None = None) -> Exception:
        """What to raise instead of the client's error, whose text may repeat the key."""
        import openai

        usage = (usage or Usage()) + Usage(requests=1)
        status = getattr(error, "status_code", None)
        where = f"The server {address(self.base_url)}"
        if status in (401, 403):
            return WriterError(f"{where} refuses the key (status {status}): set the variable {self.api_key_env}.")
        if status == 404:
            return WriterError(f"{where} knows no model {self.model!r} (status 404): check the address and the name.")
        if status == 429:
            return WriterError(f"{where} takes no more requests (status 429): wait, or lower the concurrency.")
        late = isinstance(error, openai.APITimeoutError)
        if isinstance(error, openai.APIConnectionError) and not late:
            return WriterError(f"{where} cannot be reached, or broke off: see that it runs, and run this again.")
        if status in (400, 413, 422):
            return Refusal(f"the server refuses this product (status {status})", usage)
        self._failures += 1
        what = f"no answer in {self.timeout:g} s" if late else f"status {status}" if status else "no chat completion"
        if self._failures >= MAX_FAILURES_IN_A_ROW:
            return WriterError(f"{where} failed with {self._failures} products in a row; with {row.id!r}: {what}.")
        return Refusal(f"the server failed: {what}", usage, retry=True)


def _texts(content: str | list[dict]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


# English has about four characters to a token, an unspaced script about one; a title and its JSON are short.
CHARACTERS_PER_TOKEN = 4
OUTPUT_TOKENS = 60


@dataclass(frozen=True, slots=True)
class Estimate:
    """Without retries. `cost` is in the currency of the prices."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: float


def estimate(sample: Sequence[Row], total: int, gazetteer: Gazetteer, writer: EndpointWriter) -> Estimate:
    """What `total` listings like those of `sample` (at least one) will take.

    A picture is counted with the most that it can take.
    """
    read = 0.0
    for row in sample:
        text = writer.prompt.system + writer.prompt.user(row, extract_entities(row, gazetteer))
        ascii_characters = sum(character.isascii() for character in text)
        read += ascii_characters / CHARACTERS_PER_TOKEN + (len(text) - ascii_characters)
    each = read / len(sample) + PICTURE_TOKENS * writer.prompt.picture
    tokens = round(each * total), OUTPUT_TOKENS * total
    cost = (tokens[0] * writer.input_price + tokens[1] * writer.output_price) / 1e6
    return Estimate(total, *tokens, cost)
