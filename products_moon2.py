"""Product dicts: what one may hold, and the error that names the item in which something is wrong."""

from typing import Any


class ProductError(ValueError):
    """An item that cannot be prepared: `index` is its place in the list, `problem` says what is wrong with it."""

    def __init__(self, index: int, problem: str):
        super().__init__(index, problem)  # both, so that the error can be pickled: it comes out of worker processes
        self.index = index
        self.problem = problem

    def __str__(self) -> str:
        return f"Item {self.index}: {self.problem}"


def pair(text: list | str | None, images: Any) -> list[dict]:
    """The usual `text=`, `images=` arguments as product dicts.

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
    """One product dict, checked: its text, its instruction, and what its pictures are to be read from.

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
    if text is not None and not (_is_text(text) and text.strip()):
        raise ProductError(index, f"the text is {text!r}; give a non-empty string of valid Unicode, or None.")
    if instruction is not None and not _is_text(instruction):
        raise ProductError(index, f"the instruction is {instruction!r}; give a string of valid Unicode, or None.")
    sources = list(sources) if isinstance(sources, (list, tuple)) else [] if sources is None else [sources]
    if text is None and not sources:
        raise ProductError(index, "there is neither text nor image; a product needs one of them.")
    return text, instruction, sources


def _is_text(value: Any) -> bool:
    """Whether the tokenizer can read it: half an emoji, as broken JSON has them, is no text."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value
