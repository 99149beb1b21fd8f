"""Titles from a model: behind a server with the OpenAI chat API, or on this machine through transformers.

First comes the prompt and the reading of an answer, then those who ask.
"""

import base64
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from string import Template

from PIL import Image

from mbe2_dataset.catalogue.pictures import decode, encode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.endpoint import Endpoint, Refusal, Usage
from mbe2_dataset.coaugmentation.titles.enrich import Draft
from mbe2_dataset.coaugmentation.titles.entities import Entity, Gazetteer, about_the_product, extract_entities
from mbe2_dataset.coaugmentation.titles.guard import MAX_CHARACTERS
from mbe2_dataset.errors import ModelError

NAME = "title-v1"
# Longer descriptions are cut: what matters stands in the beginning, and every token is paid for.
MAX_DESCRIPTION = 1500


class AnswerError(ValueError):
    """The answer of a model is not what was asked for; the message says in what way."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered; `entities` are (type, value)."""

    title: str
    from_picture: tuple[str, ...]
    entities: tuple[tuple[str, str], ...]


class TitlePrompt:
    """What the model is told, and what it may answer.

    Args:
        picture: the model is shown an image.
        extract: the model is asked for the entities, too.

    `version` is the name of the file and a hash of the file and both options.
    """

    def __init__(self, picture: bool, extract: bool = False):
        text = files("mbe2_dataset.coaugmentation").joinpath(f"prompts/{NAME}.txt").read_text(encoding="utf-8")
        system, user = text.removeprefix("[system]\n").split("[user]\n")
        self.picture, self.extract = picture, extract
        self.version = f"{NAME}@{hashlib.sha256(f'{text}{picture}{extract}'.encode()).hexdigest()[:12]}"
        shape = {"title": "the new title"}
        if picture:
            shape["from_picture"] = ["each word of the title that only the picture shows"]
        if extract:
            shape["entities"] = [{"type": "colour", "value": "a fact, in the listing's own words"}]
        self.system = Template(system.strip()).substitute(
            picture=", and a picture of the product" if picture else "",
            or_picture=" or the picture" if picture else "",
            max_characters=MAX_CHARACTERS,
            shape=json.dumps(shape, ensure_ascii=False),
        )
        self._user = Template(user.strip())

    @property
    def schema(self) -> dict[str, object]:
        """Return the JSON schema of the answer."""
        text = {"type": "string"}
        properties: dict[str, object] = {"title": text | {"minLength": 1, "maxLength": MAX_CHARACTERS}}
        if self.picture:
            properties["from_picture"] = {"type": "array", "items": text}
        if self.extract:
            pair = {"type": "object", "properties": {"type": text, "value": text}}
            pair |= {"required": ["type", "value"], "additionalProperties": False}
            properties["entities"] = {"type": "array", "items": pair}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def user(self, row: Row, entities: tuple[Entity, ...]) -> str:
        """Return the row as JSON. No text in it can look like its end, because "<" is written as an escape."""
        listing = {
            "title": row.title,
            "description": " ".join(about_the_product(row.description or "").split())[:MAX_DESCRIPTION],
            "facts": [{"type": entity.type, "value": entity.value} for entity in entities],
        }
        text = json.dumps(listing, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
        return self._user.substitute(listing=text)

    def read(self, text: str) -> Answer:
        """Read the first JSON object in `text`, which may have other text around it.

        Raises:
            AnswerError: there is none, or it has other keys or values than `schema`.
        """
        found = next(_objects(text), None)
        if found is None:
            raise AnswerError("it holds no JSON object")
        expected = list(self.schema["properties"])
        if set(found) != set(expected):
            raise AnswerError(f"its keys are {', '.join(map(repr, found)) or 'none'} and not {', '.join(expected)}")
        title, claims, pairs = found["title"], found.get("from_picture", []), found.get("entities", [])
        if not isinstance(title, str) or not title.strip():
            raise AnswerError("'title' is empty or no text")
        if len(title) > MAX_CHARACTERS:
            raise AnswerError(f"'title' has {len(title)} characters, more than {MAX_CHARACTERS}")
        if not isinstance(claims, list) or not all(isinstance(claim, str) for claim in claims):
            raise AnswerError("'from_picture' is no list of texts")
        if not isinstance(pairs, list) or not all(map(_is_entity, pairs)):
            raise AnswerError("'entities' is no list of objects with a 'type' and a 'value'")
        return Answer(title.strip(), tuple(claims), tuple((pair["type"], pair["value"]) for pair in pairs))


def _is_entity(pair: object) -> bool:
    return (
        isinstance(pair, dict)
        and set(pair) == {"type", "value"}
        and all(isinstance(text, str) and text.strip() for text in pair.values())
    )


def _objects(text: str) -> Iterator[dict]:
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            found, place = decoder.raw_decode(text, place)
            yield found
        except (json.JSONDecodeError, RecursionError):
            place += 1
        place = text.find("{", place)


def again(reason: str) -> str:
    """Return what is said after an answer that cannot be used."""
    return f"Your answer cannot be used: {reason}. Answer again, with the JSON object alone."


# So many products in a row without an answer mean that the server is out of order, not the products.
MAX_FAILURES_IN_A_ROW = 5
# The most that an image of `max_side` takes with the models known to us; it is set aside, and the true number is paid.
IMAGE_TOKENS = 2000
# What a chat template adds to the messages.
TEMPLATE_TOKENS = 200


class ModelWriter(ABC):
    """Asks a model for a title, and asks again where the answer cannot be used.

    Args:
        picture: show the first image of the row, with at most `max_side` pixels on its longest side.
        extract: let the model extract entities, too. Those that the row does not say in so many words are dropped.
        attempts: how often one product is asked for until the answer can be used.
    """

    resampling = Image.Resampling.BICUBIC

    def __init__(
        self,
        picture: bool = True,
        extract: bool = False,
        attempts: int = 2,
        max_output_tokens: int = 400,
        max_side: int = 512,
    ):
        self.prompt = TitlePrompt(picture, extract)
        self.prompt_version = self.prompt.version
        self.attempts, self.max_output_tokens, self.max_side = attempts, max_output_tokens, max_side

    def write(self, row: Row, entities: tuple[Entity, ...]) -> Draft:
        """Return a title for `row`; see TitleWriter.

        Raises:
            Refusal: no usable answer after `attempts`, an unreadable image, or a server that fails with this product.
            ModelError: no product can be asked for; also a budget that does not suffice for one more request.
        """
        content: str | list[dict] = self.prompt.user(row, entities)
        if self.prompt.picture:
            content = [self._shown(self._first_image(row)), {"type": "text", "text": content}]
        messages = [{"role": "system", "content": self.prompt.system}, {"role": "user", "content": content}]
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
                claims = answer.from_picture if self.prompt.picture else None
                return Draft(answer.title, usage, claims, answer.entities)
        raise Refusal(f"bad answer: {reason}", usage)

    def _first_image(self, row: Row) -> Image.Image:
        try:
            image = decode(row.images[0])
        except ValueError as error:
            raise Refusal(f"unreadable image: {error}") from error
        image.thumbnail((self.max_side, self.max_side), self.resampling)
        return image

    @abstractmethod
    def _shown(self, image: Image.Image) -> dict:
        """Return the part of a message that holds an image."""

    @abstractmethod
    def _ask(self, messages: list[dict], row: Row) -> tuple[str, Usage]:
        """Return the model's answer, and what it took."""


class EndpointWriter(ModelWriter):
    """Asks a server; `concurrency` calls of `write` at a time make sense, `options` are those of `ModelWriter`."""

    resampling = Image.Resampling.LANCZOS

    def __init__(self, server: Endpoint, concurrency: int = 4, **options):
        super().__init__(**options)
        self.server, self.model, self.revision = server, server.model, server.revision
        self.concurrency = concurrency
        self._takes_schema, self._failures = True, 0

    def _shown(self, image: Image.Image) -> dict:
        content = base64.b64encode(encode(image, "picture.jpg").bytes).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{content}"}}

    def most(self, messages: list[dict]) -> Usage:
        """Return the most that one request can use: no tokenizer makes more tokens of a text than it has bytes."""
        texts = [part for message in messages for part in _texts(message["content"])]
        tokens = sum(len(text.encode()) for text in texts) + TEMPLATE_TOKENS + IMAGE_TOKENS * self.prompt.picture
        return self.server.usage(1, tokens, self.max_output_tokens)

    def _ask(self, messages: list[dict], row: Row) -> tuple[str, Usage]:
        import openai

        usage = Usage()
        if self._takes_schema:
            schema = {"name": "enriched_title", "schema": self.prompt.schema, "strict": True}
            try:
                return self._send(messages, response_format={"type": "json_schema", "json_schema": schema})
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                # Either the server does not know schemas, or it refuses this product: the next request tells.
                usage = Usage(requests=1)
            except openai.OpenAIError as error:
                raise self._problem(error, row, usage) from None
        try:
            text, more = self._send(messages)
        except openai.OpenAIError as error:
            raise self._problem(error, row, usage) from None
        self._takes_schema = False
        return text, usage + more

    def _send(self, messages: list[dict], **more: object) -> tuple[str, Usage]:
        text, usage = self.server.send(
            "chat.completions.create", lambda answer: answer.choices[0].message.content or "", self.most(messages),
            messages=messages, temperature=0.0, max_tokens=self.max_output_tokens, **more,
        )  # fmt: skip
        self._failures = 0
        return text, usage

    def _problem(self, error: Exception, row: Row, usage: Usage) -> ModelError | Refusal:
        """Return what to raise instead of the client's error, whose text may repeat the key."""
        import openai

        if fault := self.server.fault(error):
            return fault
        usage += Usage(requests=1)
        status = getattr(error, "status_code", None)
        if status == 429:
            return ModelError(f"{self.server} takes no more requests (status 429): wait, or lower the concurrency.")
        if status in (400, 413, 422):
            return Refusal(f"the server refuses this product (status {status})", usage)
        self._failures += 1
        late = isinstance(error, openai.APITimeoutError)
        what = f"no answer in {self.server.timeout:g} s" if late else f"status {status}" if status else str(error)
        if self._failures >= MAX_FAILURES_IN_A_ROW:
            return ModelError(f"{self.server} failed with {self._failures} products in a row; with {row.id!r}: {what}.")
        return Refusal(f"the server failed: {what}", usage, retry=True)


def _texts(content: str | list[dict]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


class LocalWriter(ModelWriter):
    """Asks an image-text-to-text model, or a language model, which then sees no image. Answers are greedy.

    Args:
        model: a folder, or an id on the Hub; `revision` of the id. The first GPU is used if there is one.
        options: those of `ModelWriter`.

    Raises:
        ModelError: the model cannot be read, or has no chat template.
    """

    concurrency = 1

    def __init__(self, model: str, revision: str = "", picture: bool = True, **options):
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

        self.model, self.revision = model, revision
        try:
            config = AutoConfig.from_pretrained(model, revision=revision or None)
        except (OSError, ValueError) as error:
            raise ModelError(f"The model {model!r} cannot be read: {error}") from error
        self.sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        super().__init__(picture=picture and self.sees, **options)

    @cached_property
    def _loaded(self):
        """Load the model, and the processor or tokenizer that belongs to it."""
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        model_class = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
        processor_class = AutoProcessor if self.sees else AutoTokenizer
        try:
            model = model_class.from_pretrained(self.model, dtype="auto", revision=self.revision or None)
            processor = processor_class.from_pretrained(self.model, revision=self.revision or None)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(f"The model {self.model!r} cannot be read: {error}") from error
        if processor.chat_template is None:
            raise ModelError(f"The model {self.model!r} has no chat template: take one that was trained on chats.")
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor

    def _shown(self, image: Image.Image) -> dict:
        return {"type": "image", "image": image}

    def _ask(self, messages: list[dict], row: Row) -> tuple[str, Usage]:
        model, processor = self._loaded
        tokenizer = processor.tokenizer if self.sees else processor
        if self.sees:  # processors want every content as a list of parts
            messages = [
                {**said, "content": [{"type": "text", "text": said["content"]}]}
                if isinstance(said["content"], str)
                else said
                for said in messages
            ]
        inputs = processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        ).to(model.device)
        end = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        output = model.generate(**inputs, max_new_tokens=self.max_output_tokens, do_sample=False, pad_token_id=end)
        read = inputs["input_ids"].shape[1]
        written = output[0, read:]
        return tokenizer.decode(written, skip_special_tokens=True), Usage(1, read, int((written != end).sum()))


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
    """Estimate what `total` rows like those of `sample` (at least one) will take; an image counts with its most."""
    read = 0.0
    for row in sample:
        text = writer.prompt.system + writer.prompt.user(row, extract_entities(row, gazetteer))
        ascii_characters = sum(character.isascii() for character in text)
        read += ascii_characters / CHARACTERS_PER_TOKEN + (len(text) - ascii_characters)
    each = read / len(sample) + IMAGE_TOKENS * writer.prompt.picture
    usage = writer.server.usage(total, round(each * total), OUTPUT_TOKENS * total)
    return Estimate(total, usage.input_tokens, usage.output_tokens, usage.cost)
