"""Attention inside one product, in both directions (MOON2.0, section 7; the details are our choice)."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from backbones_moon2 import family_of
from common_moon2.cli import UserError
from common_moon2.text import UNSPACED
from configuration_moon2 import IMAGE, TEXT
from pictures_moon2 import load_picture

RESAMPLES = 2000
# A word: a character of a script that is written without spaces, or a run of other characters between spaces. Combining
# marks stay with their character.
WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[^\s{UNSPACED}]+")


class AttentionMap(NamedTuple):
    """Attention inside one product, as multiples of even attention: 1 is what a place gets if all places get the same.

    Attributes:
        patches: (h, w), what each cell of the image's grid gets from the title.
        words: the title's words and their spans (start, end) in characters. Where words are written without spaces,
            each character is one, or the several that the tokenizer takes for one.
        word_weights: what each word gets from the title's positions that can see it.
        word_patches: (words, h, w), what each cell gets from one word; each word's mean is 1.
        region: what part of the photo the grid covers: left, upper, right and lower edge, in shares of the photo's
            width and height. It is smaller where images are cropped, and larger where they are padded.
    """

    title: str
    patches: np.ndarray
    words: list[tuple[int, int]]
    word_weights: np.ndarray
    word_patches: np.ndarray
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def attention_map(
    model: PreTrainedModel, processor: ProcessorMixin, photo: Image.Image, title: str, layers: int = 2
) -> AttentionMap:
    """Read the attention of the last layers, heads averaged.

    Args:
        model: a Moon2 model of any backbone, loaded with `attn_implementation="eager"` (the others do not keep the
            attention).
        layers: how many of the last decoder layers to average.

    Raises:
        UserError: the title is blank or too long, the model has fewer layers, or its attention is not finite.
    """
    if not title.strip():
        raise UserError("The title is blank; a heat-map needs a word at least.")
    inputs = processor([{"text": title, "image": photo}], return_tensors="pt").to(model.device)
    with torch.inference_mode():
        attentions = model(**inputs, output_attentions=True).attentions
    if layers > len(attentions):
        raise UserError(f"--layers is {layers}, but the model has {len(attentions)} layers.")
    attention = torch.stack(attentions[-layers:]).float().mean((0, 2))[0].cpu().numpy()
    if not np.isfinite(attention).all():
        raise UserError("The model's attention is not finite (NaN): its weights are damaged.")

    types = inputs["position_types"][0].cpu()
    text = np.flatnonzero(types == TEXT)
    # The image block also holds its start and end marker, which are no patches and often soak up attention.
    patches = np.flatnonzero((types == IMAGE) & (inputs["input_ids"][0].cpu() == processor.image_token_id))
    grid = _grid(inputs, processor, len(patches))
    patches = patches[len(patches) - grid[0] * grid[1] :]  # a CLIP tower's first token stands for the whole image
    spans = _token_spans(processor, title)
    words, tokens = _words(title, spans)
    weights = text_attention(attention[np.ix_(text, text)], family_of(model.config.vlm_config).causal)
    shares = attention[np.ix_(text, patches)]
    return AttentionMap(
        title=title,
        patches=patch_attention(shares, grid),
        words=words,
        word_weights=np.array([weights[own].mean() for own in tokens]),
        word_patches=np.stack([patch_attention(shares[own], grid) for own in tokens]),
        region=_region(inputs, processor, photo.size),
    )


def patch_attention(attention: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return what each patch gets: the mean share of the title tokens' attention to patches.

    Args:
        attention: (title tokens, patches), patches in row-major order; grid: (h, w).

    Returns:
        (h, w), with mean 1.
    """
    shares = attention / attention.sum(1, keepdims=True)
    return shares.mean(0).reshape(grid) * shares.shape[1]


def text_attention(attention: np.ndarray, causal: bool = True) -> np.ndarray:
    """Return what each title token gets, freed of the advantage that causal attention gives to early tokens.

    Under causal attention token i spreads its attention over the i + 1 tokens up to itself, so a plain mean favours the
    first ones, which more tokens see and which share with fewer. Each row is therefore taken as a multiple of an even
    spread, and each token averaged over the rows that see it: under even attention every token gets 1.

    Args:
        attention: (tokens, tokens), query by key, zero above the diagonal if `causal`.

    Returns:
        (tokens,)
    """
    count = len(attention)
    seen = np.arange(1, count + 1) if causal else np.full(count, count)
    lift = attention / attention.sum(1, keepdims=True) * seen[:, None]
    return lift.sum(0) / (seen[::-1] if causal else count)


def _grid(inputs, processor: ProcessorMixin, tokens: int) -> tuple[int, int]:
    """Return the rows and columns of visual tokens; outside the Qwen-VL families they form a square."""
    if "image_grid_thw" in inputs:
        merge_size = processor.image_processor.merge_size
        _, height, width = inputs["image_grid_thw"][0].tolist()
        return height // merge_size, width // merge_size
    return (math.isqrt(tokens),) * 2


def _region(inputs, processor: ProcessorMixin, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return `AttentionMap.region`; `size` is (width, height) of the photo."""
    if getattr(processor.image_processor, "do_center_crop", False):
        # The shorter side is scaled to the square's, and the longer one's ends are cut off.
        width, height = (min(size) / side for side in size)
        return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2
    if "pixel_attention_mask" in inputs:
        seen = inputs["pixel_attention_mask"].flatten(0, -3)[0].bool().cpu()
        return 0.0, 0.0, len(seen[0]) / int(seen.any(0).sum()), len(seen) / int(seen.any(1).sum())
    return 0.0, 0.0, 1.0, 1.0


def _words(title: str, spans: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Return the words' spans and the tokens that overlap each; neighbours of the very same tokens are one word."""
    words: list[tuple[int, int]] = []
    tokens: list[list[int]] = []
    for match in WORD.finditer(title):
        start, end = match.span()
        own = [index for index, span in enumerate(spans) if span[0] < end and start < span[1]]
        if tokens and own == tokens[-1] and words[-1][1] == start:
            words[-1] = words[-1][0], end
        else:
            words.append((start, end))
            tokens.append(own)
    return words, tokens


def _token_spans(processor: ProcessorMixin, title: str) -> list[tuple[int, int]]:
    """Return the characters (start, end) that each title token stands for, tokenised as the processor does."""
    encoded = processor.tokenizer(
        title, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    length = len(encoded["input_ids"])
    if length > processor.max_text_length:
        raise UserError(f"The title has {length} tokens, the model reads {processor.max_text_length}: shorten it.")
    return encoded["offset_mapping"]


def read_photo(source: Path | dict) -> Image.Image:
    """Read the photo as the model sees it (upright, RGB), from a file or the `{"bytes", "path"}` of a data set.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return load_picture(source)
    except ValueError as error:
        name = source["path"] if isinstance(source, dict) else source
        raise UserError(f"The image {name} cannot be read: {error}.") from error


def heat_of(
    patches: np.ndarray, size: tuple[int, int], region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
) -> np.ndarray:
    """Spread patch weights (h, w) over the photo's (height, width) pixels, smoothed between cell centres.

    Args:
        size: (width, height) of the photo; region: see `AttentionMap.region`. What is outside of it gets 0.
    """
    left, upper, right, lower = (round(edge * size[axis % 2]) for axis, edge in enumerate(region))
    heat = Image.fromarray(patches.astype(np.float32)).resize((right - left, lower - upper), Image.Resampling.BICUBIC)
    canvas = Image.new("F", size)
    canvas.paste(heat, (left, upper))
    return np.asarray(canvas).clip(0, patches.max())


class OnProduct(NamedTuple):
    """The share of a photo that its product covers, and the share of the attention that falls on it."""

    id: str
    area: float
    attention: float


class Located(NamedTuple):
    """A product of which is known where it is: its photo, title, and the mask of its pixels, bool (height, width)."""

    id: str
    photo: Image.Image
    title: str
    mask: np.ndarray


def attention_on_products(
    model: PreTrainedModel, processor: ProcessorMixin, products: Iterable[Located], layers: int = 2
) -> list[OnProduct]:
    """Measure how much of the attention falls on each product.

    Args:
        model, layers: see `attention_map`.
    """
    found = []
    for product in tqdm(products, desc="attention", unit="product"):
        attention = attention_map(model, processor, product.photo, product.title, layers)
        found.append(OnProduct(product.id, *share_on(attention.patches, attention.region, product.mask)))
    return found


def share_on(patches: np.ndarray, region: tuple, mask: np.ndarray) -> tuple[float, float]:
    """Return the mask's share of the area that the grid covers, and its share of the attention there.

    Each cell counts by how much of it the mask covers: nothing is smoothed.

    Args:
        patches: (h, w); region: see `AttentionMap.region`; mask: bool (height, width).
    """
    height, width = mask.shape
    seen = heat_of(np.ones((1, 1)), (width, height), region) > 0
    left, upper, right, lower = (round(edge * (width, height)[axis % 2]) for axis, edge in enumerate(region))
    size = (right - left, lower - upper)
    weights = np.asarray(Image.fromarray(patches.astype(np.float32)).resize(size, Image.Resampling.NEAREST))
    on_photo = np.zeros(mask.shape)
    on_photo[max(upper, 0) : lower, max(left, 0) : right] = weights[: height - max(upper, 0), : width - max(left, 0)]
    return float(mask[seen].mean()), float(on_photo[mask].sum() / on_photo.sum())


def summary(found: list[OnProduct], seed: int = 0) -> dict:
    """Return means, and the 95 % bootstrap interval of the mean ratio of attention to area, 1 for even attention."""
    ratios = np.array([one.attention / one.area for one in found])
    draws = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(ratios[draws].mean(1), [0.025, 0.975])
    return {
        "products": len(found),
        "area": float(np.mean([one.area for one in found])),
        "attention": float(np.mean([one.attention for one in found])),
        "ratio": float(ratios.mean()),
        "ratio_interval_95": [float(low), float(high)],
        "above_area": float((ratios > 1).mean()),
    }
