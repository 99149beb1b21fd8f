"""Moon2Processor: products -> tensors. It owns the one template: instruction, then images, then text."""

import copy
import functools
import json
import os
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

# From its own module: before 5.18 the one of `transformers` wants torchvision, which is not used here.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

try:
    from .configuration_moon2 import IMAGE, NOT_POOLED, PICTURE_INPUTS, TEXT
    from .pictures_moon2 import address, check_shape, load_picture
except ImportError:  # in the repository these files are top-level modules, in a checkpoint they are a package
    from configuration_moon2 import IMAGE, NOT_POOLED, PICTURE_INPUTS, TEXT
    from pictures_moon2 import address, check_shape, load_picture

POSITIONS = ("input_ids", "attention_mask", "position_types")
# What the processor does anyway, in the words of transformers.
AS_ALWAYS = {"padding": (True, "longest"), "truncation": (True, "longest_first")}
# The order is that of Moon2Processor: instruction, then images, then text, wherever they stand in the messages.
CHAT_TEMPLATE = r"""
{%- set found = namespace(instruction=[], pictures="", text=[]) -%}
{%- for message in messages -%}
  {%- if message.role not in ["system", "user"] -%}
    {{- raise_exception("A message has the role '" ~ message.role ~ "'; only 'system' and 'user' are known.") -}}
  {%- endif -%}
  {%- set content = [{"type": "text", "text": message.content}] if message.content is string else message.content -%}
  {%- for part in content -%}
    {%- if part.type == "text" and message.role == "system" -%}
      {%- set found.instruction = found.instruction + [part.text] -%}
    {%- elif part.type == "text" -%}
      {%- set found.text = found.text + [part.text] -%}
    {%- elif part.type == "image" and message.role == "user" -%}
      {%- set found.pictures = found.pictures ~ PICTURE -%}
    {%- else -%}
      {{- raise_exception("A '" ~ message.role ~ "' message cannot have a part of type '" ~ part.type ~ "'.") -}}
    {%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{{- (found.instruction | join("\n")) ~ ("\n" if found.instruction else "") -}}
{{- found.pictures ~ (found.text | join("\n")) -}}
"""


class ProductError(ValueError):
    """An item that cannot be prepared: `index` is its place in the list, `problem` says what is wrong with it."""

    def __init__(self, index: int, problem: str):
        super().__init__(index, problem)  # both, so that the error can be pickled: it comes out of worker processes
        self.index = index
        self.problem = problem

    def __str__(self) -> str:
        return f"Item {self.index}: {self.problem}"


def pair(text: list | str | None, images: Any) -> list[dict]:
    """Return the usual `text=`, `images=` arguments as product dicts.

    Raises:
        ValueError: there is neither, or they differ in length.
    """
    text = [text] if isinstance(text, str) else text
    if images is not None and not isinstance(images, (list, tuple)):
        images = [images]
    if text is None and images is None:
        raise ValueError("Give products, or text= and / or images=.")
    if text is not None and images is not None and len(text) != len(images):
        raise ValueError(
            f"There are {len(text)} texts but {len(images)} images; give one entry an item, None where absent."
        )
    count = len(text if text is not None else images)
    return [{"text": text and text[index], "image": images and images[index]} for index in range(count)]


def read_product(product: dict, index: int) -> tuple[str | None, str | None, list]:
    """Check a product dict; return its text, its instruction, and what its images are to be read from.

    Raises:
        ProductError: it is not a product; `index` is its place in the list.
    """
    if not isinstance(product, dict):
        raise ProductError(index, f"a product is a dict with 'text' and / or 'image', not a {type(product).__name__}.")
    unknown = sorted(str(key) for key in set(product) - {"text", "image", "instruction"})
    if unknown:
        raise ProductError(index, f"unknown keys {unknown}; a product has 'text', 'image', 'instruction'.")
    text, instruction, sources = product.get("text"), product.get("instruction"), product.get("image")
    if isinstance(text, (list, tuple)) and all(isinstance(line, str) for line in text):
        text = "\n".join(text)
    for name, value in (("text", text), ("instruction", instruction)):
        if value is not None and not _is_text(value):
            raise ProductError(index, f"the {name} is {value!r}; give a string of valid Unicode, or None.")
    text = text if text and text.strip() else None  # blank is as absent
    sources = list(sources) if isinstance(sources, (list, tuple)) else [] if sources is None else [sources]
    if text is None and not sources:
        raise ProductError(index, "there is neither text nor image; a product needs one of them.")
    return text, instruction, sources


def _is_text(value: Any) -> bool:
    """Tell whether the tokenizer can read it: half an emoji, as broken JSON has them, is no text."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


class ProductBatch(BatchFeature):
    """Model inputs, and beside them in `skipped` what is wrong with the items that were left out."""

    def __init__(self, data: dict[str, torch.Tensor], skipped: list[ProductError] | None = None):
        super().__init__(data)
        self.skipped = skipped or []

    def __getstate__(self) -> dict:
        return self.__dict__  # BatchFeature would pickle the tensors only

    def __setstate__(self, state: dict):
        self.__dict__.update(state)


class Moon2Processor(ProcessorMixin):
    """Turns product dicts into model inputs.

    A product is `{"text": str | list[str] | None, "image": image | list | None, "instruction": str | None}`; it needs
    a text or an image (in any form that `load_picture` takes). Images come first in the sequence, so that under
    causal attention the image-only view is a prefix of the multimodal one (MOON2.0, section 1; the order is our
    choice).

    Args:
        image_processor: the backbone's image processor.
        tokenizer: the backbone's (fast) tokenizer, with a padding token.
        image_token (`str`): the placeholder that the backbone replaces by visual tokens.
        image_start, image_end (`str`): what the backbone expects around one image; may be empty.
        image_seq_length (`int`, *optional*): visual tokens of one image; `None` where it follows from its size.
        max_text_length (`int`): longer texts are cut to this many tokens, or to the tokenizer's `model_max_length` if
            that is less (sentence-transformers' `max_seq_length`). Instructions and images are never cut.
        max_positions (`int`, *optional*): an item with a longer sequence is refused; `None`: the model refuses it.
        chat_template (`str`, *optional*): the template in Jinja, for servers that render strings; built from the
            image's marks when absent. Tensors do not depend on it.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        image_token: str = "<|image_pad|>",
        image_start: str = "<|vision_start|>",
        image_end: str = "<|vision_end|>",
        image_seq_length: int | None = None,
        max_text_length: int = 512,
        max_positions: int | None = None,
        chat_template: str | None = None,
    ):
        if chat_template is None:
            picture = json.dumps(image_start + image_token + image_end, ensure_ascii=False)
            chat_template = CHAT_TEMPLATE.strip().replace("PICTURE", picture)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = image_token
        self.image_start = image_start
        self.image_end = image_end
        self.image_seq_length = image_seq_length
        self.max_text_length = max_text_length
        self.max_positions = max_positions
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if self.image_token_id is None or self.image_token_id == tokenizer.unk_token_id:
            raise ValueError(f"The tokenizer has no image token {image_token!r}.")
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no padding token; set tokenizer.pad_token.")

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs) -> list:
        """Load with Pillow always: pixels must not depend on whether torchvision is installed."""
        image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, backend="pil", **kwargs)
        return [image_processor, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)]

    @property
    def model_input_names(self) -> list[str]:
        return [*POSITIONS, *self.image_processor.model_input_names]

    def __call__(
        self,
        products: list[dict] | dict | None = None,
        *,
        text: list[str | None] | str | None = None,
        images: list | None = None,
        on_error: str = "raise",
        fetch: Callable[[str], bytes] | None = None,
        max_length: int | None = None,
        padding_side: str = "right",
        return_tensors: str = "pt",
    ) -> ProductBatch:
        """Prepare one batch.

        Args:
            products: B product dicts, in any mixture of modalities.
            text, images: B texts, B images (or lists of images), or both, instead of `products`.
            on_error: "raise", or "skip" to leave out the items that cannot be prepared.
            fetch: gives the bytes at an http or https address, so that images may be such addresses. An argument and
                no setting: loading someone's checkpoint must not switch it on.
            max_length: cuts texts to this many tokens, if that is less than `max_text_length`.
            padding_side: "right" or "left".
            return_tensors: "pt", the only kind.

        Returns:
            `input_ids`, `attention_mask` and `position_types`, each (B, L), and what the image processor gives for all
            images of the batch in a row (nothing if there are none). Beside them, the attribute `skipped`: for each
            item that was left out a `ProductError` with its index in the given list.

        Raises:
            ProductError: an item without text and image, or one that cannot be read; it names the item's index.
            ValueError: arguments that do not fit together, or every item is skipped.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'.")
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}; Moon2Processor gives PyTorch tensors only ('pt').")
        if isinstance(products, dict):
            products = [products]
        if products is None:
            products = pair(text, images)
        elif text is not None or images is not None:
            raise ValueError("Give either products or text= / images=, not both.")
        if not products:
            raise ValueError("There are no products to prepare: the list is empty.")
        items, skipped = [], []

        def refuse(error: ProductError):
            if on_error == "raise":
                raise error
            skipped.append(ProductError(error.index, error.problem))  # a caught one holds on to its frames

        for index, product in enumerate(products):
            try:
                text, instruction, sources = read_product(product, index)
                items.append((index, text or "", instruction or "", self._read_pictures(sources, index, fetch)))
            except ProductError as error:
                refuse(error)
        limits = [self.max_text_length, self.tokenizer.model_max_length, max_length]
        longest = min(limit for limit in limits if limit is not None)
        if longest < 1:
            raise ValueError(f"A text would be cut to {longest} tokens; max_length must be positive.")
        texts = self._tokenize([text for _, text, _, _ in items], longest)
        # A line of its own, so that its last word and the first one of the text stay apart (our choice).
        instructions = self._tokenize([instruction and instruction + "\n" for _, _, instruction, _ in items])
        _, start, end = self._plain
        rows, pictures = [], []
        for (index, _, _, seen), text_ids, instruction_ids in zip(items, texts, instructions, strict=True):
            image_ids = []
            for picture in seen:
                image_ids += [*start, *[self.image_token_id] * self._visual_tokens(picture), *end]
            ids = instruction_ids + image_ids + text_ids
            if self.max_positions is not None and len(ids) > self.max_positions:
                refuse(self._too_long(index, len(ids)))
                continue
            # An instruction is attended to but not pooled, so that a product's vector is the mean over the product.
            types = [NOT_POOLED] * len(instruction_ids) + [IMAGE] * len(image_ids) + [TEXT] * len(text_ids)
            rows.append((torch.tensor(ids), torch.tensor(types)))
            pictures += seen
        if not rows:
            problems = " ".join(str(error) for error in skipped[:3])
            raise ValueError(f"None of the {len(skipped)} items can be prepared. {problems}")
        return self._batch(rows, pictures, padding_side, skipped)

    def join(self, batches: list[ProductBatch], padding_side: str = "right") -> ProductBatch:
        """Join batches to one, as if all their items had been prepared together.

        So the lengths of items can be known, and items of similar length be put together, before anything is padded.

        Args:
            batches: what `__call__` gave, at least one batch, on either padding side.
            padding_side: "right" or "left".

        Returns:
            As `__call__`; `skipped` is that of all batches, each error with the index that its own batch gave it.

        Raises:
            ValueError: there are no batches.
        """
        if not batches:
            raise ValueError("There is nothing to join: the list of batches is empty.")
        rows = [
            (ids, types) if len(batch["input_ids"]) == 1 else (ids[mask.bool()], types[mask.bool()])
            for batch in batches
            for ids, mask, types in zip(*(batch[name] for name in POSITIONS), strict=True)
        ]
        pictures = [
            {name: value for name, value in batch.items() if name in PICTURE_INPUTS}
            for batch in batches
            if "pixel_values" in batch
        ]
        skipped = [error for batch in batches for error in batch.skipped]
        return self._batch(rows, pictures, padding_side, skipped)

    def _batch(
        self,
        rows: list[tuple[torch.Tensor, torch.Tensor]],
        pictures: list[dict[str, torch.Tensor]],
        padding_side: str,
        skipped: list[ProductError],
    ) -> ProductBatch:
        """Pad the ids and types of B items, and put the inputs of all their images in a row."""
        input_ids, position_types = zip(*rows, strict=True)
        pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=padding_side)
        names = pictures[0] if pictures else ()
        return ProductBatch(
            {
                "input_ids": pad(input_ids, padding_value=self.tokenizer.pad_token_id),
                "attention_mask": pad([torch.ones_like(row) for row in input_ids]),
                "position_types": pad(position_types, padding_value=NOT_POOLED),
                **{name: torch.cat([picture[name] for picture in pictures]) for name in names},
            },
            skipped,
        )

    def _read_pictures(self, sources: list, index: int, fetch: Callable | None) -> list[dict[str, torch.Tensor]]:
        """Return the pixel inputs of an item's images, but no more than fit into a sequence."""
        pictures, positions = [], 0
        for source in sources:
            pictures.append(self._read_picture(source, index, fetch))
            positions += self._visual_tokens(pictures[-1])
            if self.max_positions is not None and positions > self.max_positions:
                raise self._too_long(index, positions)
        return pictures

    def _too_long(self, index: int, positions: int) -> ProductError:
        problem = f"its sequence has {positions} positions or more; the model takes {self.max_positions}."
        return ProductError(index, f"{problem} Give fewer images or a shorter instruction.")

    def _read_picture(self, source: Any, index: int, fetch: Callable | None) -> dict[str, torch.Tensor]:
        """Return the pixel inputs of one image: one at a time, so that a batch never holds two in full size."""
        try:
            picture = load_picture(source, fetch=fetch, least=_enough(self.image_processor))
        except ValueError as error:
            path = source.get("path") if isinstance(source, dict) else source
            path = address(path) if isinstance(path, str) and "://" in path else path
            name = f" {path}" if isinstance(path, (str, os.PathLike)) else ""
            raise ProductError(index, f"the image{name} cannot be read: {error}.") from error
        try:
            check_shape(picture.size)
            features = self.image_processor([picture], return_tensors="pt")
            if "pixel_attention_mask" in features and not features["pixel_values"].any():
                raise ValueError("all its values are 0.0, which the backbone takes for padding")
        except ValueError as error:
            size = f"{picture.width} x {picture.height}"
            raise ProductError(index, f"an image of {size} pixels cannot be used: {error}.") from error
        return {
            name: value.flatten(0, 1) if value.ndim == (4 if name == "pixel_attention_mask" else 5) else value
            for name, value in features.items()
            if name in PICTURE_INPUTS
        }

    def _visual_tokens(self, picture: dict[str, torch.Tensor]) -> int:
        """Count the visual tokens of an image."""
        if "image_grid_thw" in picture:
            return picture["image_grid_thw"].prod().item() // self.image_processor.merge_size**2
        return self.image_seq_length

    @functools.cached_property
    def _plain(self) -> tuple:
        """Copy the tokenizer so that no word of a text becomes a special token; with the ids of the marks before and
        behind an image.

        The tokenizer itself keeps such a setting, and where it cuts, as its own state, which threads share.
        """
        plain = copy.deepcopy(self.tokenizer.backend_tokenizer)
        plain.no_truncation()
        plain.no_padding()
        marks = [plain.encode(mark, add_special_tokens=False).ids for mark in (self.image_start, self.image_end)]
        plain.add_special_tokens([self.image_token])
        plain.encode_special_tokens = True
        return plain, *marks

    def _tokenize(self, texts: list[str], max_length: int | None = None) -> list[list[int]]:
        """Turn plain texts into ids. Only our own marks may become special tokens, never the words of a title."""
        tokenizer, _, _ = self._plain
        cut = slice(-max_length, None) if max_length and self.tokenizer.truncation_side == "left" else slice(max_length)
        return [encoding.ids[cut] for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str = "pt",
        processor_kwargs: dict | None = None,
        **kwargs,
    ) -> str | list[str] | BatchFeature | torch.Tensor:
        """Render chat messages as strings or, with `tokenize=True`, as the tensors that `__call__` gives for products.

        System messages are the instruction; the images of the user's messages come before their text.

        Args:
            conversation: one conversation or a list of them, such as `[{"role": "user", "content": [{"type": "text",
                "text": "red mug"}, {"type": "image", "image": image}]}]`.
            chat_template: another template; for strings only.
            tokenize: `False` gives strings with the placeholder once for each image.
            return_dict: `False` gives `input_ids` alone, as in transformers.
            processor_kwargs: `max_length` and `padding_side` as in `__call__`.

        Raises:
            ProductError: a conversation that does not tell of one product; it names the conversation's index.
            ValueError: an option that cannot be followed.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template, **kwargs)
        wrong = sorted(name for name, value in (kwargs | {"chat_template": chat_template}).items() if value)
        if wrong:
            raise ValueError(f"Moon2Processor.apply_chat_template(tokenize=True) does not take {', '.join(wrong)}.")
        options = {"return_tensors": return_tensors} | read_options(processor_kwargs or {})
        products = []
        one = bool(conversation) and not isinstance(conversation[0], (list, tuple))
        for index, messages in enumerate([conversation] if one else conversation):
            try:
                products.append(read_messages(messages))
            except ValueError as error:
                raise ProductError(index, str(error)) from error
        features = self(products, **options)
        return features if return_dict else features["input_ids"]


def is_any_size(image_processor) -> bool:
    """Tell whether images keep their shape (the Qwen families); "longest_edge" then is a number of pixels."""
    return hasattr(image_processor, "merge_size")


def _enough(image_processor) -> int | tuple[int, int] | None:
    """Return how large a JPEG must be decoded, as `load_picture` takes it for `least`."""
    if not image_processor.do_resize:
        return None
    if is_any_size(image_processor):
        return image_processor.size["longest_edge"]
    size = getattr(image_processor, "max_image_size", image_processor.size)
    side = 2 * max(dict(size).values())  # twice of what it is scaled to, since that may be sharper than a draft
    return side, side


def read_messages(messages: list[dict]) -> dict:
    """Return the product that one conversation tells of; a part whose value is None counts as absent.

    Raises:
        ValueError: a role, or a part of a message, that a product cannot have; the message says which.
    """
    found = {"instruction": [], "image": [], "text": []}
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "user"):
            raise ValueError(
                f"a message has the role {role!r}; a product is told by 'user' messages, its instruction by 'system'."
            )
        content = message.get("content")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if kind not in ("text", "image") or (kind == "image" and role == "system"):
                raise ValueError(f"a {role!r} message cannot have a part of type {kind!r}.")
            names = ("text",) if kind == "text" else ("image", "path", "url")  # as transformers names them
            values = [part[name] for name in names if name in part]
            if not values:
                raise ValueError(
                    f"a part of type {kind!r} must have one of the keys {', '.join(names)}, not {sorted(part)}."
                )
            if values[0] is not None:  # sentence-transformers before 6.1 puts all images into one part
                several = values[0] if kind == "image" and isinstance(values[0], list) else [values[0]]
                found["instruction" if role == "system" else kind] += several
    wrong = [part for part in found["instruction"] + found["text"] if not isinstance(part, str)]
    if wrong:
        raise ValueError(f"a text in a message is {wrong[0]!r}; give a string.")
    return {
        "instruction": "\n".join(found["instruction"]) or None,
        "image": found["image"] or None,
        "text": found["text"] or None,
    }


def read_options(processor_kwargs: dict) -> dict:
    """Translate options of a transformers processor into those of `Moon2Processor.__call__`.

    Args:
        processor_kwargs: options by name, or in groups (`text_kwargs`, ...) as sentence-transformers has them.

    Raises:
        ValueError: an option that the processor does not have; the message names it.
    """
    options = {}
    for name, value in processor_kwargs.items():
        if name in ("text_kwargs", "images_kwargs", "common_kwargs"):
            options |= value
        elif name not in ("audio_kwargs", "videos_kwargs"):  # they always come, and there is nothing to apply them to
            options[name] = value
    options = {name: value for name, value in options.items() if value not in AS_ALWAYS.get(name, ())}
    known = ("max_length", "padding_side", "return_tensors")
    wrong = [f"{name}={value!r}" for name, value in options.items() if name not in known]
    if wrong:
        raise ValueError(f"Moon2Processor cannot follow {', '.join(wrong)}; for messages it takes {', '.join(known)}.")
    return options


Moon2Processor.register_for_auto_class()
