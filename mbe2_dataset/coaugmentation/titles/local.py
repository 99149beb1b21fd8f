"""Titles from a model on this machine, through transformers."""

from functools import cached_property

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from mbe2_dataset.catalogue.pictures import decode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.enrich import Draft, Refusal, Usage, WriterError
from mbe2_dataset.coaugmentation.titles.entities import Entity
from mbe2_dataset.coaugmentation.titles.prompt import AnswerError, TitlePrompt, again


class LocalWriter:
    """Asks an image-text-to-text model, or a language model, which then sees no picture. Answers are greedy.

    Args:
        model: a folder, or an id on the Hub.
        revision: of the id.
        picture: show the first picture of the listing; a language model sees none in any case.
        extract: let the model extract entities, too. Those that the listing does not say in so many words are dropped.
        attempts: how often one product is asked for until the answer can be used.
        max_side: of the picture, in pixels.
        device: as in torch; None is the first GPU if there is one.

    Raises:
        WriterError: the model cannot be read, or has no chat template.
    """

    concurrency = 1

    def __init__(
        self,
        model: str,
        revision: str = "",
        *,
        picture: bool = True,
        extract: bool = False,
        attempts: int = 2,
        max_output_tokens: int = 400,
        max_side: int = 512,
        device: str | None = None,
    ):
        self.model, self.revision = model, revision
        self.attempts, self.max_output_tokens, self.max_side = attempts, max_output_tokens, max_side
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            config = AutoConfig.from_pretrained(model, **self._source)
        except (OSError, ValueError) as error:
            raise WriterError(f"The model {model!r} cannot be read: {error}") from error
        self.sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        self.prompt = TitlePrompt(picture and self.sees, extract)
        self.prompt_version = self.prompt.version

    @property
    def _source(self) -> dict[str, str]:
        return {"revision": self.revision} if self.revision else {}

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_loaded"}

    @cached_property
    def _loaded(self):
        """The model, and the processor or tokenizer that goes with it."""
        model_class = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
        processor_class = AutoProcessor if self.sees else AutoTokenizer
        try:
            model = model_class.from_pretrained(self.model, dtype="auto", **self._source)
            processor = processor_class.from_pretrained(self.model, **self._source)
        except (OSError, ValueError, ImportError) as error:
            raise WriterError(f"The model {self.model!r} cannot be read: {error}") from error
        tokenizer = processor.tokenizer if self.sees else processor
        if processor.chat_template is None:
            raise WriterError(f"The model {self.model!r} has no chat template: take one that was trained on chats.")
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return model.to(self.device).eval(), processor, tokenizer

    def write(self, row: Row, entities: tuple[Entity, ...]) -> Draft:
        """A title for `row`; see TitleWriter."""
        (result,) = self.write_batch([(row, entities)])
        if isinstance(result, Refusal):
            raise result
        return result

    def write_batch(self, products: list[tuple[Row, tuple[Entity, ...]]]) -> list[Draft | Refusal]:
        """A result for each product; those whose answer cannot be used are asked again together.

        In a batch, the last bits of a model's numbers depend on the neighbours, and so may a title.
        """
        results: list[Draft | Refusal] = [Refusal("bad answer: none")] * len(products)
        chats: dict[int, list[dict]] = {}
        usages = [Usage()] * len(products)
        for place, (row, entities) in enumerate(products):
            try:
                chats[place] = self._chat(row, entities)
            except ValueError as error:
                results[place] = Refusal(f"unreadable picture: {error}")
        for _ in range(self.attempts):
            if not chats:
                break
            for place, (text, usage) in zip(list(chats), self._answers(list(chats.values())), strict=True):
                usages[place] += usage
                try:
                    answer = self.prompt.read(text)
                except AnswerError as error:
                    results[place] = Refusal(f"bad answer: {error}", usages[place])
                    chats[place] += [_says("assistant", text), _says("user", again(str(error)))]
                else:
                    claims = answer.from_picture if self.prompt.picture else None
                    results[place] = Draft(answer.title, usages[place], claims, answer.entities)
                    del chats[place]
        return results

    def _chat(self, row: Row, entities: tuple[Entity, ...]) -> list[dict]:
        user = _says("user", self.prompt.user(row, entities))
        if self.prompt.picture:
            image = decode(row.images[0])
            image.thumbnail((self.max_side, self.max_side))
            user["content"].insert(0, {"type": "image", "image": image})
        return [_says("system", self.prompt.system), user]

    @torch.no_grad()
    def _answers(self, chats: list[list[dict]]) -> list[tuple[str, Usage]]:
        model, processor, tokenizer = self._loaded
        if not self.sees:
            chats = [[{**says, "content": says["content"][0]["text"]} for says in chat] for chat in chats]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        padding = {"processor_kwargs": {"padding": True}} if self.sees else {"padding": True}
        inputs = processor.apply_chat_template(chats, **options, **padding).to(self.device)
        output = model.generate(
            **inputs, max_new_tokens=self.max_output_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        written = output[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        read = inputs["attention_mask"].sum(1).tolist()
        ends = (written != tokenizer.pad_token_id).sum(1).tolist()
        return [(text, Usage(1, inp, out)) for text, inp, out in zip(texts, read, ends, strict=True)]


def _says(role: str, text: str) -> dict:
    return {"role": role, "content": [{"type": "text", "text": text}]}
