"""The command line of the heat-maps: `python -m evaluation heatmap`."""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from commands_moon2 import whole
from evaluation.errors import EvaluationError

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
    from evaluation.checkpoint import load_checkpoint

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
    from evaluation.drawing import draw, draw_sheet, render
    from evaluation.heatmap import attention_map

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
    from evaluation.sanity import attention_on_products, summary

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
    from evaluation.benchmark import load_benchmark
    from evaluation.heatmap import read_photo

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
