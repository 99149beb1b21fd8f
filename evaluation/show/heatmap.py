"""Attention inside one product, in both directions (MOON2.0, section 7; the details are our choice)."""

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from backbones_moon2 import family_of
from common_moon2.cli import whole
from common_moon2.text import UNSPACED
from configuration_moon2 import IMAGE, TEXT
from evaluation.errors import EvaluationError
from pictures_moon2 import load_picture

# A word: a character of a script that is written without spaces, or a run of other characters between spaces. Combining
# marks stay with their character.
WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[^\s{UNSPACED}]+")


class AttentionMap(NamedTuple):
    """Attention inside one product, as multiples of even attention: 1 is what a place gets if all places get the same.

    Attributes:
        patches: (h, w), what each cell of the picture's grid gets from the title.
        words: the title's words and their spans (start, end) in characters. Where words are written without spaces,
            each character is one, or the several that the tokenizer takes for one.
        word_weights: what each word gets from the title's positions that can see it.
        word_patches: (words, h, w), what each cell gets from one word; each word's mean is 1.
        region: what part of the photo the grid covers: left, upper, right and lower edge, in shares of the photo's
            width and height. It is smaller where pictures are cropped, and larger where they are padded.
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
    """Reads the attention of the last layers, heads averaged.

    Args:
        model: a Moon2 model of any backbone, loaded with `attn_implementation="eager"` (the others do not keep the
            attention).
        layers: how many of the last decoder layers to average.

    Raises:
        EvaluationError: the title is blank or too long, the model has fewer layers, or its attention is not finite.
    """
    if not title.strip():
        raise EvaluationError("The title is blank; a heat-map needs a word at least.")
    inputs = processor([{"text": title, "image": photo}], return_tensors="pt").to(model.device)
    with torch.inference_mode():
        attentions = model(**inputs, output_attentions=True).attentions
    if layers > len(attentions):
        raise EvaluationError(f"--layers is {layers}, but the model has {len(attentions)} layers.")
    attention = torch.stack(attentions[-layers:]).float().mean((0, 2))[0].cpu().numpy()
    if not np.isfinite(attention).all():
        raise EvaluationError("The model's attention is not finite (NaN): its weights are damaged.")

    types = inputs["position_types"][0].cpu()
    text = np.flatnonzero(types == TEXT)
    # The image block also holds its start and end marker, which are no patches and often soak up attention.
    patches = np.flatnonzero((types == IMAGE) & (inputs["input_ids"][0].cpu() == processor.image_token_id))
    grid = _grid(inputs, processor, len(patches))
    patches = patches[len(patches) - grid[0] * grid[1] :]  # a CLIP tower's first token stands for the whole picture
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
    """What each patch gets: mean over the title's tokens of the share of their attention to patches that goes there.

    Args:
        attention: (title tokens, patches), patches in row-major order; grid: (h, w).

    Returns:
        (h, w), with mean 1.
    """
    shares = attention / attention.sum(1, keepdims=True)
    return shares.mean(0).reshape(grid) * shares.shape[1]


def text_attention(attention: np.ndarray, causal: bool = True) -> np.ndarray:
    """What each title token gets, freed of the advantage that causal attention gives to early tokens.

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
    """Rows and columns of visual tokens; outside the Qwen-VL families they form a square."""
    if "image_grid_thw" in inputs:
        merge_size = processor.image_processor.merge_size
        _, height, width = inputs["image_grid_thw"][0].tolist()
        return height // merge_size, width // merge_size
    return (math.isqrt(tokens),) * 2


def _region(inputs, processor: ProcessorMixin, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """See `AttentionMap.region`; `size` is (width, height) of the photo."""
    if getattr(processor.image_processor, "do_center_crop", False):
        # The shorter side is scaled to the square's, and the longer one's ends are cut off.
        width, height = (min(size) / side for side in size)
        return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2
    if "pixel_attention_mask" in inputs:
        seen = inputs["pixel_attention_mask"].flatten(0, -3)[0].bool().cpu()
        return 0.0, 0.0, len(seen[0]) / int(seen.any(0).sum()), len(seen) / int(seen.any(1).sum())
    return 0.0, 0.0, 1.0, 1.0


def _words(title: str, spans: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """The words' spans, and for each the tokens that overlap it; neighbours of the very same tokens are one word."""
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


SANITY = 200


class Shown(NamedTuple):
    """A product to draw."""

    name: str
    photo: Image.Image
    title: str


def add_heatmap(commands) -> None:
    """`python -m evaluation heatmap`."""
    parser = commands.add_parser(
        "heatmap",
        examples=[
            "python -m evaluation heatmap --model moon2 --image p.jpg --text 'knitted cardigan'",
            "python -m evaluation heatmap --model moon2 --dataset mbe2 --product p000001-2 --output heatmap.png",
            "python -m evaluation heatmap --model moon2 --dataset mbe2 --count 12 --output sheet.png",
            "python -m evaluation heatmap --model moon2 --sanity --output sanity.json",
        ],
        description="Draws a product: the photo, the photo with the attention that its patches get from the title and "
        "from single words, and the title's words with the attention they get. Several products make a contact sheet.",
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a Moon2 checkpoint; its code is run")
    parser.add_argument("--model_revision", help="branch, tag or commit of a --model on the Hub")
    parser.add_argument("--image", type=Path, help="the product's photo")
    parser.add_argument("--text", help="the product's title")
    parser.add_argument("--dataset", help="instead: folder or Hub id of a data set to take products from")
    parser.add_argument("--dataset_revision", help="branch, tag or commit of a --dataset on the Hub")
    parser.add_argument("--product", metavar="ID", help="which product of the --dataset's corpus (default: the first)")
    parser.add_argument("--products", metavar="ID,ID", help="several products, on a contact sheet")
    parser.add_argument("--count", type=whole(1), help="the first so many products, on a contact sheet")
    parser.add_argument("--sanity", action="store_true", help="draw nothing: measure on the built-in catalogue "
                        f"(--count products, {SANITY} by default) how much of the attention falls on the "
                        "product, into a JSON file")  # fmt: skip
    parser.add_argument("--seed", type=whole(0), default=0, help="of the built-in catalogue, for --sanity")
    parser.add_argument("--output", type=Path, help="the PNG file to write (default: heatmap.png; with --sanity "
                        "sanity.json)")  # fmt: skip
    parser.add_argument("--words", type=whole(0), default=5, help="single words to draw, those with most "
                        "attention; on a contact sheet none")  # fmt: skip
    parser.add_argument("--layers", type=whole(1), default=2, help="how many of the last layers to average")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> dict:
    from evaluation.models.checkpoint import load_checkpoint

    given = [f"--{name}" for name in ("image", "text", "dataset", "product", "products") if getattr(options, name)]
    if options.sanity and given:
        raise EvaluationError(f"--sanity looks at the built-in catalogue: leave out {', '.join(given)}.")
    if options.output is None:
        options.output = Path("sanity.json" if options.sanity else "heatmap.png")
    if not options.sanity and options.output.suffix.lower() != ".png":
        raise EvaluationError(f"--output {options.output} must end in .png: that is what is written.")
    shown = [] if options.sanity else _shown(options)
    checkpoint = load_checkpoint(options.model, options.model_revision, attn_implementation="eager")
    if options.sanity:
        return _measure(checkpoint, options)
    _draw(checkpoint, shown, options)
    return {"output": options.output, "products": [{"name": one.name, "title": one.title} for one in shown]}


def _draw(checkpoint, shown: list[Shown], options: argparse.Namespace) -> None:
    from evaluation.show.drawing import draw, draw_sheet, render

    maps = [
        attention_map(checkpoint.model, checkpoint.processor, one.photo, one.title, options.layers) for one in shown
    ]
    if options.products or options.count:
        drawn = [render(one.photo, attention, name=one.name) for one, attention in zip(shown, maps, strict=True)]
        draw_sheet(drawn, options.output)
    else:
        draw(shown[0].photo, maps[0], options.output, options.words)
    print(f"The heat-map is in {options.output}")


def _measure(checkpoint, options: argparse.Namespace) -> dict:
    from evaluation.measure.attention import attention_on_products, summary

    count = options.count or SANITY
    found = attention_on_products(checkpoint.model, checkpoint.processor, count, options.seed, options.layers)
    means = summary(found)
    facts = {"model": options.model, "revision": checkpoint.revision, "layers": options.layers, "seed": options.seed}
    content = facts | {"summary": means, "products": [one._asdict() for one in found]}
    try:
        options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"The figures cannot be written to {options.output}: {error.strerror}.") from error
    low, high = means["ratio_interval_95"]
    print("| products | product's area | attention on it | ratio (95 % interval) | above its area |")
    print("| --: | --: | --: | --: | --: |")
    print(
        f"| {means['products']} | {means['area']:.1%} | {means['attention']:.1%} | "
        f"{means['ratio']:.3f} ({low:.3f} to {high:.3f}) | {means['above_area']:.1%} |"
    )
    print("\nEven attention has the ratio 1.")
    return content


def _shown(options: argparse.Namespace) -> list[Shown]:
    """What --image and --text give, or products of --dataset.

    Raises:
        EvaluationError: the options do not fit together, or there are no such products.
    """
    from evaluation.tables.benchmark import load_benchmark

    if options.dataset is None:
        if any(value is not None for value in (options.product, options.products, options.count)):
            raise EvaluationError("--product, --products and --count only mean something with --dataset.")
        if options.dataset_revision is not None:
            raise EvaluationError("--dataset_revision only means something with --dataset.")
        if options.image is None or options.text is None:
            raise EvaluationError("Give --image and --text, or --dataset.")
        return [Shown("Photo", read_photo(options.image), options.text)]
    if options.image is not None or options.text is not None:
        raise EvaluationError("Give either --image and --text, or --dataset: not both.")
    if sum(value is not None for value in (options.product, options.products, options.count)) > 1:
        raise EvaluationError("Give one of --product, --products and --count.")
    corpus = load_benchmark(options.dataset, options.dataset_revision).corpus
    rows = {corpus.ids[row]: row for row in corpus.rows("mm")}
    wanted = options.products.split(",") if options.products else [options.product] if options.product else None
    wanted = list(rows)[: options.count or 1] if wanted is None else wanted
    missing = [identifier for identifier in wanted if identifier not in rows]
    if missing or not wanted:
        what = f"product {missing[0]!r}" if missing else "product"
        raise EvaluationError(f"The corpus of {options.dataset} has no {what} with title and picture.")
    products = [(identifier, corpus.product(rows[identifier], "mm")) for identifier in wanted]
    return [Shown(identifier, read_photo(product["image"]), product["text"]) for identifier, product in products]
