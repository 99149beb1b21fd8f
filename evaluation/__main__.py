"""The command line: `python -m evaluation` scores a checkpoint, `python -m evaluation heatmap` shows its attention,
`python -m evaluation curves` how its training went."""

import argparse
import sys
from pathlib import Path

# What only the evaluation needs: module -> package.
OPTIONAL = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}

EPILOG = """examples:
  python -m evaluation --model moon2 --dataset mbe2 --output results
  python -m evaluation heatmap --model moon2 --image p.jpg --text "polo-neck knitted cardigan" --output heatmap.png
  python -m evaluation heatmap --model moon2 --dataset mbe2 --product p000001-2 --output heatmap.png
  python -m evaluation curves moon2 --output curves.png

`run` is meant where no command is given; `run --help`, `heatmap --help` and `curves --help` list the options.
The code inside a checkpoint is run: use checkpoints that you trust.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 with a sentence on stderr if the user can put it right."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] not in ("run", "heatmap", "curves", "-h", "--help"):
        argv = ["run", *argv]
    options = _parser().parse_args(argv)

    # Imported late, so that --help and a mistyped option answer at once.
    from evaluation.errors import EvaluationError

    try:
        options.command(options)
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        print(f"error: {error.name} is not installed: pip install {' '.join(OPTIONAL.values())}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    from evaluation.benchmark import load_benchmark
    from evaluation.checkpoint import load_checkpoint
    from evaluation.evaluate import evaluate
    from evaluation.report import run_facts, summary, write_report

    _refuse_file(options.output)
    benchmark = load_benchmark(options.dataset, options.dataset_revision)
    checkpoint = load_checkpoint(options.model, options.model_revision)
    facts = run_facts(checkpoint, benchmark, vars(options))
    results = evaluate(checkpoint.model, checkpoint.processor, benchmark, options.batch_size, options.workers)
    write_report(options.output, facts, results)
    print(summary(options.model, results))
    print(f"\nAll figures: {options.output / 'results.json'}; the tables: {options.output / 'results.md'}")


def _heatmap(options: argparse.Namespace) -> None:
    from evaluation.checkpoint import load_checkpoint
    from evaluation.drawing import draw
    from evaluation.heatmap import attention_map

    photo, title = _photo_and_title(options)
    checkpoint = load_checkpoint(options.model, options.model_revision, attn_implementation="eager")
    attention = attention_map(checkpoint.model, checkpoint.processor, photo, title, options.layers)
    draw(photo, attention, options.output)
    print(f"The heat-map is in {options.output}")


def _curves(options: argparse.Namespace) -> None:
    from evaluation.curves import draw_curves

    draw_curves(options.run, options.output)
    print(f"The curves are in {options.output}")


def _photo_and_title(options: argparse.Namespace) -> tuple:
    """What --image and --text give, or a product of --dataset: its photo (a PIL image) and its title."""
    from evaluation.benchmark import load_benchmark
    from evaluation.errors import EvaluationError
    from evaluation.heatmap import read_photo

    if options.dataset is None:
        if options.product is not None or options.dataset_revision is not None:
            raise EvaluationError("--product and --dataset_revision only mean something with --dataset.")
        if options.image is None or options.text is None:
            raise EvaluationError("Give --image and --text, or --dataset.")
        return read_photo(options.image), options.text
    if options.image is not None or options.text is not None:
        raise EvaluationError("Give either --image and --text, or --dataset: not both.")
    corpus = load_benchmark(options.dataset, options.dataset_revision).corpus
    rows = corpus.rows("mm")
    if options.product is not None:
        rows = [row for row in rows if corpus.ids[row] == options.product]
    if not rows:
        wanted = "product" if options.product is None else f"product {options.product!r}"
        raise EvaluationError(f"The corpus of {options.dataset} has no {wanted} with title and picture.")
    product = corpus.product(rows[0], "mm")
    return read_photo(product["image"]), product["text"]


def _refuse_file(output: Path) -> None:
    """An hour of embedding must not end at a folder that cannot be made."""
    from evaluation.errors import EvaluationError

    if output.exists() and not output.is_dir():
        raise EvaluationError(f"--output {output} is a file; give a folder.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", required=True, help="folder or Hub id of a Moon2 checkpoint; its code is run")
    model.add_argument("--model_revision", help="branch, tag or commit of a --model on the Hub")

    run = commands.add_parser(
        "run",
        parents=[model],
        help="score a checkpoint (the default)",
        description="Scores a checkpoint zero-shot: retrieval in five directions, classification, attribute "
        "prediction. Prints a summary and writes results.json and results.md.",
    )
    dataset_help = "folder or Hub id of an MBE2.0-format data set (configurations corpus, queries, qrels)"
    run.add_argument("--dataset", required=True, help=dataset_help)
    run.add_argument("--dataset_revision", help="branch, tag or commit of a --dataset on the Hub")
    run.add_argument("--output", required=True, type=Path, help="folder for the results, made if it is not there")
    run.add_argument(
        "--batch_size", type=positive_int, default=64, help="items embedded at a time (default: %(default)s)"
    )
    run.add_argument(
        "--workers",
        type=natural_int,
        default=0,
        help="processes that read large pictures while the model is at work (default: %(default)s)",
    )
    run.set_defaults(command=_run)

    heatmap = commands.add_parser(
        "heatmap",
        parents=[model],
        help="draw what one product's title and photo attend to",
        description="Draws one product: the photo, the photo with the attention that its patches get from the title, "
        "and the title's words with the attention they get.",
    )
    heatmap.add_argument("--image", type=Path, help="the product's photo")
    heatmap.add_argument("--text", help="the product's title")
    heatmap.add_argument("--dataset", help="instead: folder or Hub id of a data set to take the product from")
    heatmap.add_argument("--dataset_revision", help="branch, tag or commit of a --dataset on the Hub")
    heatmap.add_argument("--product", metavar="ID", help="which product of the --dataset's corpus (default: the first)")
    heatmap.add_argument("--output", required=True, type=Path, help="the PNG file to write")
    heatmap.add_argument(
        "--layers", type=positive_int, default=2, help="how many of the last layers to average (default: %(default)s)"
    )
    heatmap.set_defaults(command=_heatmap)

    curves = commands.add_parser(
        "curves",
        help="draw how a training run went",
        description="Draws what a training run logged, step by step: losses and their weights, experts, sample filter, "
        "similarities, validation, optimizer and throughput.",
    )
    curves.add_argument("run", type=Path, metavar="RUN", help="the run's output folder, which holds log.jsonl")
    curves.add_argument(
        "--output", type=Path, default=Path("curves.png"), help="the PNG file to write (default: %(default)s)"
    )
    curves.set_defaults(command=_curves)
    return parser


def natural_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
