"""Attention inside one product, in both directions (MOON2.0, section 7; the details are our choice)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from configuration_moon2 import IMAGE, TEXT
from evaluation.errors import EvaluationError
from pictures_moon2 import load_picture

# A word: a character of a script that is written without spaces, or a run of other characters between spaces. Combining
# marks stay with their character.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[^\s{UNSPACED}]+")


class AttentionMap(NamedTuple):
    """Attention inside one product, as multiples of even attention: 1 is what a place gets if all places get the same.

    Attributes:
        patches: (h, w), what each cell of the picture's grid gets from the title.
        words: the title's words and their spans (start, end) in characters.
        word_weights: what each word gets from the title's positions that can see it.
    """

    title: str
    patches: np.ndarray
    words: list[tuple[int, int]]
    word_weights: np.ndarray


def attention_map(
    model: PreTrainedModel, processor: ProcessorMixin, photo: Image.Image, title: str, layers: int = 2
) -> AttentionMap:
    """Reads the attention of the last layers, heads averaged.

    Args:
        model: a Moon2 model loaded with `attn_implementation="eager"` (the others do not keep the attention).
        layers: how many of the last decoder layers to average.

    Raises:
        EvaluationError: the title is blank or too long, the model has fewer layers, or its pictures have no patch grid.
    """
    if not title.strip():
        raise EvaluationError("The title is blank; a heat-map needs a word at least.")
    inputs = processor([{"text": title, "image": photo}], return_tensors="pt").to(model.device)
    with torch.inference_mode():
        attentions = model(**inputs, output_attentions=True).attentions
    if layers > len(attentions):
        raise EvaluationError(f"--layers is {layers}, but the model has {len(attentions)} layers.")
    attention = torch.stack(attentions[-layers:]).float().mean((0, 2))[0].cpu().numpy()

    types = inputs["position_types"][0].cpu()
    text = np.flatnonzero(types == TEXT)
    # The image block also holds its start and end marker, which are no patches and often soak up attention.
    patches = np.flatnonzero((types == IMAGE) & (inputs["input_ids"][0].cpu() == processor.image_token_id))
    words = [match.span() for match in WORD.finditer(title)]
    spans = _token_spans(processor, title)
    weights = text_attention(attention[np.ix_(text, text)])
    return AttentionMap(
        title=title,
        patches=patch_attention(attention[np.ix_(text, patches)], _grid(inputs, processor)),
        words=words,
        word_weights=np.array([_mean_over(word, spans, weights) for word in words]),
    )


def patch_attention(attention: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """What each patch gets: mean over the title's tokens of the share of their attention to patches that goes there.

    Args:
        attention: (title tokens, patches), patches in row-major order; grid: (h, w).

    Returns:
        (h, w), with mean 1.
    """
    shares = attention / attention.sum(1, keepdims=True)
    return shares.mean(0).reshape(grid) * shares.shape[1]


def text_attention(attention: np.ndarray) -> np.ndarray:
    """What each title token gets, freed of the advantage that causal attention gives to early tokens.

    Token i spreads its attention over the i + 1 tokens up to itself, so a plain mean favours the first ones, which more
    tokens see and which share with fewer. Each row is therefore taken as a multiple of an even spread, and each token
    averaged over the rows that see it: under even attention every token gets 1.

    Args:
        attention: (tokens, tokens), query by key, zero above the diagonal.

    Returns:
        (tokens,)
    """
    count = len(attention)
    seen = np.arange(1, count + 1)
    lift = attention / attention.sum(1, keepdims=True) * seen[:, None]
    return lift.sum(0) / seen[::-1]


def _grid(inputs, processor: ProcessorMixin) -> tuple[int, int]:
    """Rows and columns of visual tokens. The picture is resized without cropping, so they tile the whole photo."""
    if "image_grid_thw" not in inputs:
        raise EvaluationError("Heat-maps need a backbone whose pictures come with image_grid_thw (the Qwen-VL family).")
    merge_size = processor.image_processor.merge_size
    _, height, width = inputs["image_grid_thw"][0].tolist()
    return height // merge_size, width // merge_size


def _token_spans(processor: ProcessorMixin, title: str) -> list[tuple[int, int]]:
    """The characters (start, end) that each title token stands for, tokenised as the processor does."""
    encoded = processor.tokenizer(
        title, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    length = len(encoded["input_ids"])
    if length > processor.max_text_length:
        raise EvaluationError(
            f"The title has {length} tokens, the model reads {processor.max_text_length}: shorten it."
        )
    return encoded["offset_mapping"]


def _mean_over(word: tuple[int, int], spans: list[tuple[int, int]], weights: np.ndarray) -> float:
    """Mean weight of the tokens that overlap a word; a token may span several Chinese characters, or part of one."""
    overlaps = [start < word[1] and word[0] < end for start, end in spans]
    return float(weights[overlaps].mean())


def read_photo(source: Path | dict) -> Image.Image:
    """The photo as the model sees it (upright, RGB), from a file or the `{"bytes", "path"}` of a data set.

    Raises:
        EvaluationError: it cannot be read.
    """
    try:
        return load_picture(source)
    except ValueError as error:
        name = source["path"] if isinstance(source, dict) else source
        raise EvaluationError(f"The picture {name} cannot be read: {error}.") from error
