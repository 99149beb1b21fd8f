"""Moon2Processor: products -> tensors. It owns the one template: instruction, then pictures, then text."""

import os
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, ProcessorMixin

try:
    from .configuration_moon2 import IMAGE, NOT_POOLED, TEXT
except ImportError:  # in the repository these files are top-level modules, in a checkpoint they are a package
    from configuration_moon2 import IMAGE, NOT_POOLED, TEXT

# Pictures may come in these formats only: product photos need no others, and Pillow's rarer readers are a risk.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ProductError(ValueError):
    """An item that cannot be prepared: `index` is its place in the list, `problem` says what is wrong with it."""

    def __init__(self, index: int, problem: str):
        super().__init__(f"Item {index}: {problem}")
        self.index = index
        self.problem = problem


class Moon2Processor(ProcessorMixin):
    """Turns product dicts into model inputs.

    A product is `{"text": str | list[str] | None, "image": picture | list | None, "instruction": str | None}`; it needs
    a text or a picture. A picture is a `PIL.Image`, a path, a file object, an array (H, W[, C]) of uint8, or the
    `{"bytes", "path"}` of an undecoded datasets column. Pictures come first in the sequence, so that under causal
    attention the image-only view is a prefix of the multimodal one (MOON2.0, section 1; the order is our choice).

    Args:
        image_processor: the backbone's image processor.
        tokenizer: the backbone's (fast) tokenizer, with a padding token.
        image_token (`str`): the placeholder that the backbone replaces by visual tokens.
        image_start, image_end (`str`): what the backbone expects around one picture; may be empty.
        image_seq_length (`int`, *optional*): visual tokens of one picture; `None` where it follows from its size.
        max_text_length (`int`): longer texts are cut to this many tokens.
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
    def from_backbone(cls, pretrained_model_name_or_path: str, vlm_config, **kwargs) -> "Moon2Processor":
        """The processor that goes with `Moon2Model.from_backbone` of the same checkpoint.

        Pixels must not depend on whether torchvision is installed, hence the Pillow backend.
        """
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path)
        image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, backend="pil")
        return cls(image_processor, tokenizer, **image_block(vlm_config, tokenizer), **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "position_types", *self.image_processor.model_input_names]

    def __call__(
        self,
        products: list[dict] | dict | None = None,
        *,
        text: list[str | None] | str | None = None,
        images: list | None = None,
        padding_side: str = "right",
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepares one batch.

        Args:
            products: B product dicts, in any mixture of modalities.
            text, images: the usual form, instead of `products`: B texts, B pictures (or lists of pictures), or both.
            padding_side: "right" or "left".
            return_tensors: "pt", the only kind.

        Returns:
            `input_ids`, `attention_mask` and `position_types`, each (B, L), and what the image processor gives for all
            pictures of the batch in a row (nothing if there are none).

        Raises:
            ProductError: an item without text and picture, or one that cannot be read; it names the item's index.
            ValueError: arguments that do not fit together.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}; Moon2Processor gives PyTorch tensors only ('pt').")
        if isinstance(products, dict):
            products = [products]
        if products is None:
            products = _pair(text, images)
        elif text is not None or images is not None:
            raise ValueError("Give either products or text= / images=, not both.")
        if not products:
            raise ValueError("There are no products to prepare: the list is empty.")
        items = [_read_product(product, index) for index, product in enumerate(products)]

        features, lengths = self._prepare_pictures(items)
        texts = iter(self._tokenize([item["text"] for item in items if item["text"]], self.max_text_length))
        instructions = iter(self._tokenize([item["instruction"] for item in items if item["instruction"]]))
        start, end = self._tokenize([self.image_start, self.image_end])
        lengths = iter(lengths)
        input_ids, position_types = [], []
        for item in items:
            instruction_ids = next(instructions) if item["instruction"] else []
            image_ids = [
                token for _ in item["pictures"] for token in [*start, *[self.image_token_id] * next(lengths), *end]
            ]
            text_ids = next(texts) if item["text"] else []
            input_ids.append(torch.tensor(instruction_ids + image_ids + text_ids))
            # An instruction is attended to but not pooled, so that a product's vector is the mean over the product.
            types = [NOT_POOLED] * len(instruction_ids) + [IMAGE] * len(image_ids) + [TEXT] * len(text_ids)
            position_types.append(torch.tensor(types))

        def pad(rows: list[torch.Tensor], value: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(rows, True, value, padding_side)

        return BatchFeature(
            {
                "input_ids": pad(input_ids, self.tokenizer.pad_token_id),
                "attention_mask": pad([torch.ones_like(row) for row in input_ids], 0),
                "position_types": pad(position_types, NOT_POOLED),
                **features,
            }
        )

    def _prepare_pictures(self, items: list[dict]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Pixel inputs of all pictures in a row, and how many visual tokens each one takes."""
        pictures = [picture for item in items for picture in item["pictures"]]
        if not pictures:
            return {}, []
        try:
            features = dict(self.image_processor(pictures, return_tensors="pt"))
        except ValueError:
            for index, item in enumerate(items):  # alone, each picture shows whether it is the one
                for picture in item["pictures"]:
                    try:
                        self.image_processor([picture], return_tensors="pt")
                    except ValueError as error:
                        size = f"{picture.width} x {picture.height}"
                        raise ProductError(index, f"a picture of {size} pixels cannot be used: {error}.") from error
            raise
        if "image_grid_thw" in features:
            lengths = features["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2
            return features, lengths.tolist()
        features = {
            name: value.flatten(0, 1) if value.ndim == (4 if name == "pixel_attention_mask" else 5) else value
            for name, value in features.items()
            if name in ("pixel_values", "pixel_attention_mask")
        }
        return features, [self.image_seq_length] * len(pictures)

    def _tokenize(self, texts: list[str], max_length: int | None = None) -> list[list[int]]:
        """Plain text to ids. Only our own markers may become special tokens, never the words of a title."""
        if not texts:
            return []
        options = {"truncation": True, "max_length": max_length, "split_special_tokens": True} if max_length else {}
        return self.tokenizer(texts, add_special_tokens=False, **options)["input_ids"]


def image_block(vlm_config, tokenizer) -> dict[str, Any]:
    """How a family of backbones writes one picture: the one place where the families differ for the processor.

    Returns:
        `image_token`, `image_start`, `image_end` and `image_seq_length` as `Moon2Processor` takes them.
    """
    family = vlm_config.model_type
    token = tokenizer.convert_ids_to_tokens
    block = {"image_token": token(vlm_config.image_token_id)}
    if family.startswith("qwen"):
        return block | {
            "image_start": token(vlm_config.vision_start_token_id),
            "image_end": token(vlm_config.vision_end_token_id),
        }
    vision = vlm_config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    if family in ("smolvlm", "idefics3"):
        around = "<fake_token_around_image>"
        length = patches // vlm_config.scale_factor**2
        return block | {"image_start": f"{around}<global-img>", "image_end": around, "image_seq_length": length}
    # llava: a CLIP tower gives a class token besides the patches; the strategy "default" drops the first token.
    length = patches + (vision.model_type == "clip_vision_model")
    length -= vlm_config.vision_feature_select_strategy == "default"
    return block | {"image_start": "", "image_end": "", "image_seq_length": length}


def load_picture(source: Any) -> Image.Image:
    """A picture in any accepted form -> RGB, upright, transparency on white, first frame.

    Raises:
        OSError, ValueError: it cannot be read, or is of a kind that is not accepted.
    """
    if isinstance(source, dict) and source.get("bytes") is not None:
        source = BytesIO(source["bytes"])
    elif isinstance(source, dict):
        source = source.get("path")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ValueError("addresses are not fetched; download the picture and pass its path")
    if isinstance(source, np.ndarray):
        picture = Image.fromarray(source)
    elif isinstance(source, Image.Image):
        picture = source
    elif isinstance(source, (str, os.PathLike)) or hasattr(source, "read"):
        picture = Image.open(source, formats=PICTURE_FORMATS)
    else:
        raise ValueError(f"a picture cannot be a {type(source).__name__}")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):  # Pillow would clip 16-bit greys to white instead of scaling them
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _pair(text, images) -> list[dict]:
    """The usual `text=`, `images=` arguments as product dicts."""
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


def _read_product(product: dict, index: int) -> dict:
    """One product dict, checked: text and instruction as strings or None, pictures as a list of RGB images."""
    if not isinstance(product, dict):
        raise ProductError(index, f"a product is a dict with 'text' and / or 'image', not a {type(product).__name__}.")
    unknown = sorted(set(product) - {"text", "image", "instruction"})
    if unknown:
        raise ProductError(index, f"unknown keys {unknown}; a product has 'text', 'image', 'instruction'.")
    text = product.get("text")
    text = "\n".join(text) if isinstance(text, (list, tuple)) else text
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise ProductError(index, f"the text is {text!r}; give a non-empty string, or None where there is no text.")
    sources = product.get("image")
    sources = list(sources) if isinstance(sources, (list, tuple)) else [] if sources is None else [sources]
    if text is None and not sources:
        raise ProductError(index, "there is neither text nor image; a product needs one of them.")
    pictures = []
    for source in sources:
        try:
            pictures.append(load_picture(source))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            path = source.get("path") if isinstance(source, dict) else source
            name = f" {path}" if isinstance(path, (str, os.PathLike)) else ""
            raise ProductError(index, f"the picture{name} cannot be read: {error}.") from error
    return {"text": text, "pictures": pictures, "instruction": product.get("instruction")}


Moon2Processor.register_for_auto_class()
