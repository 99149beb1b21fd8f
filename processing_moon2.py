"""Moon2Processor: products -> tensors. It owns the one template: instruction, then pictures, then text."""

import copy
import functools
import os
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, ProcessorMixin

try:
    from .backbones_moon2 import image_block
    from .chat_moon2 import chat_template as jinja_template
    from .chat_moon2 import read_messages, read_options
    from .configuration_moon2 import IMAGE, NOT_POOLED, TEXT
    from .fetch_moon2 import address
    from .pictures_moon2 import load_picture
    from .products_moon2 import ProductError, pair, read_product
except ImportError:  # in the repository these files are top-level modules, in a checkpoint they are a package
    from backbones_moon2 import image_block
    from chat_moon2 import chat_template as jinja_template
    from chat_moon2 import read_messages, read_options
    from configuration_moon2 import IMAGE, NOT_POOLED, TEXT
    from fetch_moon2 import address
    from pictures_moon2 import load_picture
    from products_moon2 import ProductError, pair, read_product

# Our choice: a page of Qwen3-VL costs one token per 32 x 32 pixels, so that a picture takes 1024 tokens at most.
MAX_PIXELS = 1024 * 1024
# The limit of Qwen's image processors, for all: others would squash a line to a square, or blow it up without bounds.
MAX_ASPECT_RATIO = 200
POSITIONS = ("input_ids", "attention_mask", "position_types")
# What image processors give for pictures, as far as backbones read it.
PICTURE_INPUTS = ("pixel_values", "pixel_attention_mask", "image_grid_thw")


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

    A product is `{"text": str | list[str] | None, "image": picture | list | None, "instruction": str | None}`; it needs
    a text or a picture (in any form that `load_picture` takes). Pictures come first in the sequence, so that under
    causal attention the image-only view is a prefix of the multimodal one (MOON2.0, section 1; the order is our
    choice).

    Args:
        image_processor: the backbone's image processor.
        tokenizer: the backbone's (fast) tokenizer, with a padding token.
        image_token (`str`): the placeholder that the backbone replaces by visual tokens.
        image_start, image_end (`str`): what the backbone expects around one picture; may be empty.
        image_seq_length (`int`, *optional*): visual tokens of one picture; `None` where it follows from its size.
        max_text_length (`int`): longer texts are cut to this many tokens, or to the tokenizer's `model_max_length` if
            that is less (sentence-transformers' `max_seq_length`). Instructions and pictures are never cut.
        chat_template (`str`, *optional*): the template in Jinja, for servers that render strings; built from the
            picture's marks when absent. Tensors do not depend on it.
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
        chat_template: str | None = None,
    ):
        if chat_template is None:
            chat_template = jinja_template(image_start + image_token + image_end)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = image_token
        self.image_start = image_start
        self.image_end = image_end
        self.image_seq_length = image_seq_length
        self.max_text_length = max_text_length
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if self.image_token_id is None or self.image_token_id == tokenizer.unk_token_id:
            raise ValueError(f"The tokenizer has no image token {image_token!r}.")
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no padding token; set tokenizer.pad_token.")

    @classmethod
    def from_backbone(
        cls,
        pretrained_model_name_or_path: str,
        vlm_config,
        max_pixels: int | None = None,
        revision: str | None = None,
        **kwargs,
    ) -> "Moon2Processor":
        """The processor that goes with `Moon2Model.from_backbone` of the same checkpoint.

        Args:
            max_pixels: the size of a picture at most, for backbones that take pictures at their own shape. It is kept
                in the image processor's settings. `None` means `MAX_PIXELS`, or the checkpoint's bound if that is less.
            revision: branch, tag or commit on the Hub.
            kwargs: further arguments of the class (`max_text_length`, ...).

        Raises:
            ValueError: `max_pixels` is too small, or given for a backbone that scales all pictures to one size.
        """
        where = {} if revision is None else {"revision": revision}
        image_processor, tokenizer = cls._get_arguments_from_pretrained(pretrained_model_name_or_path, **where)
        if _is_any_size(image_processor):
            size, token = image_processor.size, (image_processor.patch_size * image_processor.merge_size) ** 2
            most = min(size["longest_edge"], MAX_PIXELS) if max_pixels is None else max_pixels
            if most < token:
                raise ValueError(f"max_pixels is {most}; a single visual token takes {token} pixels.")
            # Small pictures are enlarged, and rounded up to whole tokens: half of the bound leaves room for that.
            image_processor.size = size | {"shortest_edge": min(size["shortest_edge"], most // 2), "longest_edge": most}
        elif max_pixels is not None:
            raise ValueError(
                f"max_pixels is {max_pixels}, but a {vlm_config.model_type} scales all pictures to one size."
            )
        if hasattr(image_processor, "do_image_splitting"):
            image_processor.do_image_splitting = False  # a picture is one block of visual tokens, not one for each tile
        return cls(image_processor, tokenizer, **image_block(vlm_config, tokenizer), **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs) -> list:
        """As in transformers, but always with Pillow: pixels must not depend on whether torchvision is installed."""
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
        allow_urls: bool = False,
        max_length: int | None = None,
        padding_side: str = "right",
        return_tensors: str = "pt",
    ) -> ProductBatch:
        """Prepares one batch.

        Args:
            products: B product dicts, in any mixture of modalities.
            text, images: the usual form, instead of `products`: B texts, B pictures (or lists of pictures), or both.
            on_error: "raise", or "skip" to leave out the items that cannot be prepared.
            allow_urls: pictures may be http and https addresses on the public Internet. An argument and no setting,
                for a setting would be saved: loading someone's checkpoint must not switch it on.
            max_length: cuts texts to this many tokens, if that is less than `max_text_length`.
            padding_side: "right" or "left".
            return_tensors: "pt", the only kind.

        Returns:
            `input_ids`, `attention_mask` and `position_types`, each (B, L), and what the image processor gives for all
            pictures of the batch in a row (nothing if there are none). Beside them, the attribute `skipped`: for each
            item that was left out a `ProductError` with its index in the given list.

        Raises:
            ProductError: an item without text and picture, or one that cannot be read; it names the item's index.
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
        for index, product in enumerate(products):
            try:
                text, instruction, sources = read_product(product, index)
                pictures = [self._read_picture(source, index, allow_urls) for source in sources]
                items.append({"text": text, "pictures": pictures, "instruction": instruction})
            except ProductError as error:
                if on_error == "raise":
                    raise
                skipped.append(ProductError(index, error.problem))  # a caught one holds on to its frames
        if not items:
            problems = " ".join(str(error) for error in skipped[:3])
            raise ValueError(f"None of the {len(skipped)} items can be prepared. {problems}")

        limits = [self.max_text_length, self.tokenizer.model_max_length, max_length]
        texts = iter(self._tokenize([item["text"] for item in items if item["text"]], _least(limits)))
        # A line of its own, so that its last word and the first one of the text stay apart (our choice).
        instructions = iter(self._tokenize([item["instruction"] + "\n" for item in items if item["instruction"]]))
        _, start, end = self._plain
        input_ids, position_types = [], []
        for item in items:
            instruction_ids = next(instructions) if item["instruction"] else []
            image_ids = []
            for picture in item["pictures"]:
                image_ids += [*start, *[self.image_token_id] * self._visual_tokens(picture), *end]
            text_ids = next(texts) if item["text"] else []
            input_ids.append(torch.tensor(instruction_ids + image_ids + text_ids))
            # An instruction is attended to but not pooled, so that a product's vector is the mean over the product.
            types = [NOT_POOLED] * len(instruction_ids) + [IMAGE] * len(image_ids) + [TEXT] * len(text_ids)
            position_types.append(torch.tensor(types))
        pictures = [picture for item in items for picture in item["pictures"]]
        return self._batch(input_ids, position_types, pictures, padding_side, skipped)

    def join(self, batches: list[ProductBatch], padding_side: str = "right") -> ProductBatch:
        """Several batches as one, as if all their items had been prepared together.

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
        input_ids, position_types = [], []
        for batch in batches:
            for ids, mask, types in zip(*(batch[name] for name in POSITIONS), strict=True):
                input_ids.append(ids[mask.bool()])
                position_types.append(types[mask.bool()])
        pictures = [
            {name: value for name, value in batch.items() if name in PICTURE_INPUTS}
            for batch in batches
            if "pixel_values" in batch
        ]
        skipped = [error for batch in batches for error in batch.skipped]
        return self._batch(input_ids, position_types, pictures, padding_side, skipped)

    def _batch(
        self,
        input_ids: list[torch.Tensor],
        position_types: list[torch.Tensor],
        pictures: list[dict[str, torch.Tensor]],
        padding_side: str,
        skipped: list[ProductError],
    ) -> ProductBatch:
        """Pads the positions of B items, and puts the inputs of all their pictures in a row."""

        def pad(rows: list[torch.Tensor], value: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(rows, True, value, padding_side)

        names = pictures[0] if pictures else ()
        return ProductBatch(
            {
                "input_ids": pad(input_ids, self.tokenizer.pad_token_id),
                "attention_mask": pad([torch.ones_like(row) for row in input_ids], 0),
                "position_types": pad(position_types, NOT_POOLED),
                **{name: torch.cat([picture[name] for picture in pictures]) for name in names},
            },
            skipped,
        )

    def _read_picture(self, source: Any, index: int, allow_urls: bool) -> dict[str, torch.Tensor]:
        """The pixel inputs of one picture. One at a time, so that a batch never holds more than one in full size."""
        try:
            picture = load_picture(source, allow_urls=allow_urls, least=_enough(self.image_processor))
        except ValueError as error:
            path = source.get("path") if isinstance(source, dict) else source
            path = address(path) if isinstance(path, str) and "://" in path else path
            name = f" {path}" if isinstance(path, (str, os.PathLike)) else ""
            raise ProductError(index, f"the picture{name} cannot be read: {error}.") from error
        try:
            if max(picture.size) > MAX_ASPECT_RATIO * min(picture.size):
                raise ValueError(f"one side is more than {MAX_ASPECT_RATIO} times the other")
            features = self.image_processor([picture], return_tensors="pt")
            if "pixel_attention_mask" in features and not features["pixel_values"].any():
                raise ValueError("all its values are 0.0, which the backbone takes for padding")
        except ValueError as error:
            size = f"{picture.width} x {picture.height}"
            raise ProductError(index, f"a picture of {size} pixels cannot be used: {error}.") from error
        return {
            name: value.flatten(0, 1) if value.ndim == (4 if name == "pixel_attention_mask" else 5) else value
            for name, value in features.items()
            if name in PICTURE_INPUTS
        }

    def _visual_tokens(self, picture: dict[str, torch.Tensor]) -> int:
        """How many visual tokens a picture takes."""
        if "image_grid_thw" in picture:
            return picture["image_grid_thw"].prod().item() // self.image_processor.merge_size**2
        return self.image_seq_length

    @functools.cached_property
    def _plain(self) -> tuple:
        """A copy of the tokenizer in which no word of a text becomes a special token, and the ids of the marks before
        and behind a picture.

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
        """Plain text to ids. Only our own markers may become special tokens, never the words of a title."""
        tokenizer, _, _ = self._plain
        cut = slice(-max_length, None) if max_length and self.tokenizer.truncation_side == "left" else slice(max_length)
        return [encoding.ids[cut] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]

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
        """Chat messages as strings, or, with `tokenize=True`, as the very tensors that `__call__` gives for products.

        Either way system messages are the instruction, and the pictures of the user's messages come before their text.

        Args:
            conversation: one conversation or a list of them, such as `[{"role": "user", "content": [{"type": "text",
                "text": "red mug"}, {"type": "image", "image": picture}]}]`.
            chat_template: another template; for strings only.
            tokenize: `False` gives strings with the placeholder once for each picture.
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


def _least(limits: list[int | None]) -> int:
    """The strictest of the limits that are set."""
    least = min(limit for limit in limits if limit is not None)
    if least < 1:
        raise ValueError(f"A text would be cut to {least} tokens; max_length must be positive.")
    return least


def _is_any_size(image_processor) -> bool:
    """Whether pictures keep their shape (the Qwen families); "longest_edge" then is a number of pixels."""
    return hasattr(image_processor, "merge_size")


def _enough(image_processor) -> int | tuple[int, int] | None:
    """How large a JPEG must be decoded: as `load_picture` takes it for `least`."""
    if not image_processor.do_resize:
        return None
    if _is_any_size(image_processor):
        return image_processor.size["longest_edge"]
    size = getattr(image_processor, "max_image_size", image_processor.size)
    side = 2 * max(dict(size).values())  # twice of what it is scaled to, since that may be sharper than a draft
    return side, side


Moon2Processor.register_for_auto_class()
