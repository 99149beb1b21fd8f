"""The command line: `python -m evaluation` scores models, `python -m evaluation compare` tests how two runs differ,
`python -m evaluation heatmap` shows a model's attention, `python -m evaluation curves` how its training went."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from evaluation.errors import EvaluationError

# command -> the module with its `add_<command>`
COMMANDS = {
    "run": "evaluation.__main__",
    "compare": "evaluation.compare",
    "heatmap": "evaluation.heatmap_command",
    "curves": "evaluation.__main__",
    "embed": "evaluation.bulk",
    "search": "evaluation.hits",
    "store": "evaluation.stores",
    "push": "evaluation.push",
    "report": "evaluation.report_command",
    "push_metric": "evaluation.metric_spaces",
}
# What `--help` says of each, here too, because the modules take seconds to import.
SUMMARIES = {
    "run": "score models (the default)",
    "compare": "test the difference between two runs",
    "heatmap": "draw what a product's title and photo attend to",
    "curves": "draw how a training run went",
    "embed": "write the vectors of a whole catalogue",
    "search": "find the nearest neighbours of many vectors among many",
    "store": "hand vectors to LanceDB or Qdrant",
    "push": "put a model on the Hub",
    "report": "write a page with a run's tables, plots and answers",
    "push_metric": "put a metric module for evaluate on the Hub",
}

# What only the evaluation needs: module -> package that brings it.
OPTIONAL = {"scipy": "scikit-learn", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "jinja2": "jinja2"}

EPILOG = """examples:
  python -m evaluation --model moon2 --dataset mbe2 --output results
  python -m evaluation --model moon2 --model openai/clip-vit-base-patch32 --model bm25 --dataset mbe2 --output results
  python -m evaluation --model moon2 --dataset mbe2 --output results --gallery hard --by_group
  python -m evaluation --model moon2 --dataset mbe2 --output results --dims 128,64 --precisions float32,int8,binary
  python -m evaluation compare results-a results-b
  python -m evaluation report results
  python -m evaluation heatmap --model moon2 --image p.jpg --text "polo-neck knitted cardigan" --output heatmap.png
  python -m evaluation heatmap --model moon2 --dataset mbe2 --product p000001-2 --output heatmap.png
  python -m evaluation curves moon2 --output curves.png

`run` is meant where no command is given; `run --help` and the like list the options of each command.
The code inside a checkpoint is run: use checkpoints that you trust.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 with a sentence on stderr if the user can put it right."""
    argv = sys.argv[1:] if argv is None else argv
    asks_for_help = not argv or argv[0] in ("-h", "--help")
    if not asks_for_help and argv[0] not in COMMANDS:
        argv = ["run", *argv]
    try:
        options = _parser(None if asks_for_help else argv[0]).parse_args(argv)
        options.command(options)
    except EvaluationError as error:
        from hub_moon2 import without_secrets  # it takes a second to import

        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = str(error.name).split(".")[0]
        if missing not in OPTIONAL:
            raise
        packages = " ".join(dict.fromkeys(OPTIONAL.values()))
        print(f"error: {missing} is not installed: pip install {packages}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    from evaluation.benchmark import load_benchmark
    from evaluation.cache import DEFAULT_FOLDER
    from evaluation.evaluate import Options
    from evaluation.gallery import train_products, with_gallery
    from evaluation.report import side_by_side, summary, write_text

    _refuse_file(options.output)
    folders = _folders(options.model, options.output)
    if options.model_revision is not None and len(options.model) > 1:
        raise EvaluationError("--model_revision only means something with a single --model.")
    benchmark = load_benchmark(options.dataset, options.dataset_revision)
    benchmark = with_gallery(benchmark, options.gallery, options.dataset, options.dataset_revision)
    what = Options(
        batch_size=options.batch_size,
        workers=options.workers,
        by_group=options.by_group,
        seed=options.seed,
        dims=options.dims,
        precisions=options.precisions,
        train=train_products(options.dataset, options.dataset_revision) if options.probe else None,
    )
    cache = options.cache or DEFAULT_FOLDER
    runs = [_score(name, folder, benchmark, what, cache, options) for name, folder in folders.items()]
    if len(runs) == 1 and not options.paper_rows:
        facts, evaluation = runs[0]
        print(summary(facts["model"]["name"], evaluation.results, evaluation.note))
    else:
        text = side_by_side(runs, options.paper_rows)
        write_text(options.output / ("results.md" if len(runs) > 1 else "side_by_side.md"), text + "\n")
        print(text)
    written = ", ".join(str(folder / "results.json") for folder in folders.values())
    print(f"\nAll figures: {written}; the tables: results.md beside")


def _score(name: str, folder: Path, benchmark, what, cache: Path, options: argparse.Namespace) -> tuple:
    """One model: facts and evaluation, which are written into its folder."""
    from evaluation.cache import VectorCache
    from evaluation.compression import check_compression
    from evaluation.encoders import load_encoder
    from evaluation.evaluate import evaluate, evaluate_words
    from evaluation.lexical import NAME
    from evaluation.report import run_facts, write_report

    vectors = VectorCache(cache)
    if name == NAME:
        encoder, evaluation = None, evaluate_words(benchmark, what)
    else:
        encoder = load_encoder(name, options.model_revision)
        check_compression(what.dims, what.precisions, encoder.dimension, name)
        evaluation = evaluate(encoder, benchmark, vectors, what)
    facts = run_facts(encoder, benchmark, vars(options), evaluation.note, vectors)
    write_report(folder, facts, evaluation)
    return facts, evaluation


def _folders(names: list[str], output: Path) -> dict[str, Path]:
    """Where each model's results go: the output folder, or folders in it if there are several models."""
    if len(names) == 1:
        return {names[0]: output}
    folders = {name: output / Path(name.rstrip("/")).name for name in names}
    if len(set(folders.values())) < len(names):
        raise EvaluationError(f"Two of the models have the same last name ({', '.join(names)}): rename a folder.")
    return folders


def _curves(options: argparse.Namespace) -> None:
    from evaluation.curves import draw_curves

    draw_curves(options.run, options.output)
    print(f"The curves are in {options.output}")


def _refuse_file(output: Path) -> None:
    """An hour of embedding must not end at a folder that cannot be made."""
    if output.exists() and not output.is_dir():
        raise EvaluationError(f"--output {output} is a file; give a folder.")


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The parser of one command, or, for the list of them, of none: what a command imports only it pays for."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    if command is None:
        for name, summary in SUMMARIES.items():
            commands.add_parser(name, help=summary)
    else:
        getattr(import_module(COMMANDS[command]), f"add_{command}")(commands)
    return parser


def add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="score models (the default)",
        description="Scores models zero-shot: retrieval in five directions, classification, attribute prediction. "
        "Prints a summary and writes results.json, results.md and scores.parquet.",
    )
    run.add_argument(
        "--model",
        required=True,
        action="append",
        help="folder or Hub id of a Moon2 checkpoint, a sentence-transformers model, or a CLIP or SigLIP of "
        "transformers; its code is run. Or bm25, which matches words. Give it several times for a table side by side",
    )
    run.add_argument("--model_revision", help="branch, tag or commit of a --model on the Hub")
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
    run.add_argument(
        "--gallery",
        default="easy",
        help="what the products are to be found among: easy (the corpus), hard (the corpus and all products of the "
        "data set's triplets), or folder or Hub id of another data set whose corpus is added (default: %(default)s)",
    )
    run.add_argument("--by_group", action="store_true", help="listings of one group count as one product in retrieval")
    run.add_argument("--dims", type=_counts, default=[], help="dimensions to cut the vectors to as well, as 256,128,64")
    run.add_argument(
        "--precisions",
        type=lambda text: text.split(","),
        default=[],
        help="precisions to store them in as well: float32,int8,binary",
    )
    run.add_argument(
        "--probe", action="store_true", help="also train a linear classifier of categories on the train triplets"
    )
    run.add_argument("--seed", type=natural_int, default=0, help="of the bootstrap (default: %(default)s)")
    run.add_argument("--paper_rows", action="store_true", help="quote the paper's own figures below the table")
    run.add_argument(
        "--cache", type=Path, help="folder for vectors (default: moon2/embeddings in Hugging Face's cache)"
    )
    run.set_defaults(command=_run)


def add_curves(commands: argparse._SubParsersAction) -> None:
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


def _counts(text: str) -> list[int]:
    # as "256,128"
    return [positive_int(part) for part in text.split(",")]


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
