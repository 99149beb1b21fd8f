"""The command line: `python -m evaluation COMMAND`; without a command, models are scored."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from common_moon2.cli import CommandParser, answer, command_of, exit_codes, whole, wholes
from common_moon2.fields import Command, run_command
from evaluation.errors import EvaluationError

# command -> the module with its `add_<command>`
COMMANDS = {
    "run": "evaluation.__main__",
    "compare": "evaluation.measure.compare",
    "heatmap": "evaluation.show.heatmap",
    "curves": "evaluation.__main__",
    "embed": "evaluation.vectors.catalogue",
    "search": "evaluation.search.neighbours",
    "store": "evaluation.search.stores",
    "report": "evaluation.show.page",
}
PUSHES = {
    "push": Command(
        "publishing_moon2.arguments:PushArguments",
        "publishing_moon2.push:push",
        (
            "python -m evaluation push --model moon2 --repo user/moon2 --dry_run",
            "python -m evaluation push --model moon2 --repo user/moon2 --results results --tag v1",
            "python -m evaluation push --model moon2 --repo user/moon2 --private --license other --license_name mine",
        ),
    ),
    "push_metric": Command(
        "publishing_moon2.arguments:MetricArguments",
        "publishing_moon2.metric:push_metric",
        (
            "python -m evaluation push_metric recall_at_k",
            "python -m evaluation push_metric mean_reciprocal_rank --owner my-team --private",
        ),
    ),
}
# What `--help` says of each; here, because the modules take seconds to import.
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

PROG = "python -m evaluation"
OPTIONAL = ("sklearn", "matplotlib", "jinja2")  # what the extra `eval` brings

SUMMARY = """Scores models and compares runs, embeds and searches catalogues, draws attention and training runs, and
puts models on the Hub."""
EXAMPLES = (
    "python -m evaluation --model moon2 --dataset mbe2 --output results",
    "python -m evaluation report results",
    "python -m evaluation compare results-a results-b",
    "python -m evaluation embed --model moon2 --dataset mbe2 --output vectors",
    "python -m evaluation heatmap --model moon2 --image p.jpg --text 'knitted cardigan' --output heatmap.png",
    "python -m evaluation run --help",
)
NOTES = """`run` is meant where no command is given. With --json every command prints its answer as JSON, and nothing
else, on stdout. Options may be spelt with dashes as well (--batch-size). The code inside a checkpoint is run: use
checkpoints that you trust."""


@exit_codes(EvaluationError, interrupted="interrupted; what was embedded is kept")
def main(argv: list[str] | None = None) -> None:
    """Runs one command; returns the exit code: 0, 2 with a sentence on stderr if the user can put it right, or 130."""
    argv = sys.argv[1:] if argv is None else argv
    command, words = command_of(argv, PROG, SUMMARIES, "run", description=SUMMARY, examples=EXAMPLES, epilog=NOTES)
    if command in PUSHES:
        run_command([command, *words], PROG, PUSHES)
        return
    try:
        options = parser_of(command).parse_args([command, *words])
        answer(lambda: options.command(options), options.json)
    except ModuleNotFoundError as error:
        missing = str(error.name).split(".")[0]
        if missing not in OPTIONAL:
            raise
        raise EvaluationError(f"{missing} is not installed: pip install 'moon2[eval]'.") from error


def _run(options: argparse.Namespace) -> dict:
    from evaluation.measure.evaluate import Options
    from evaluation.measure.retrieval import check_groups
    from evaluation.show.report import side_by_side, summary, write_text
    from evaluation.tables.benchmark import load_benchmark
    from evaluation.tables.gallery import train_products, with_gallery
    from evaluation.vectors.cache import DEFAULT_FOLDER

    _refuse_file(options.output)
    folders = _folders(options.model, options.output)
    _check_models(options)
    benchmark = load_benchmark(options.dataset, options.dataset_revision)
    benchmark = with_gallery(benchmark, options.gallery, options.dataset, options.dataset_revision)
    if options.by_group:
        check_groups(benchmark)
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
        print(summary(facts["model"]["name"], evaluation.results, facts["model"]["note"]))
    else:
        text = side_by_side(runs, options.paper_rows)
        write_text(options.output / ("results.md" if len(runs) > 1 else "side_by_side.md"), text + "\n")
        print(text)
    written = ", ".join(str(folder / "results.json") for folder in folders.values())
    print(f"\nAll figures: {written}; the tables: results.md beside")
    outputs = folders.values()
    return {
        "models": [{"output": out, "run": facts, **it.results} for out, (facts, it) in zip(outputs, runs, strict=True)]
    }


def _score(name: str, folder: Path, benchmark, what, cache: Path, options: argparse.Namespace) -> tuple:
    """One model: facts and evaluation, which are written into its folder."""
    from evaluation.measure.evaluate import evaluate, evaluate_words
    from evaluation.models.bm25 import NAME
    from evaluation.models.encoders import load_encoder
    from evaluation.show.report import run_facts, write_report
    from evaluation.vectors.cache import VectorCache
    from evaluation.vectors.compression import check_dims

    vectors = VectorCache(cache)
    if name == NAME:
        encoder, evaluation = None, evaluate_words(benchmark, what)
    else:
        encoder = load_encoder(name, options.model_revision)
        check_dims(what.dims, encoder.dimension, name)
        evaluation = evaluate(encoder, benchmark, vectors, what)
    facts = run_facts(encoder, benchmark, vars(options), evaluation.note, vectors)
    write_report(folder, facts, evaluation)
    return facts, evaluation


def _check_models(options: argparse.Namespace) -> None:
    """What can be known of the models before the first is at work: that each is there, and what was asked of it."""
    from evaluation.models.bm25 import NAME
    from evaluation.models.checkpoint import find_checkpoint
    from evaluation.vectors.compression import check_precisions

    check_precisions(options.precisions)
    if options.model_revision is not None and len(options.model) > 1:
        raise EvaluationError("--model_revision only means something with a single --model.")
    given = [f"--{name}" for name in ("model_revision", "dims", "precisions", "probe") if getattr(options, name)]
    if options.model == [NAME] and given:
        raise EvaluationError(f"{NAME} matches words and has no vectors: leave out {', '.join(given)}.")
    for name in options.model:
        if name != NAME:
            find_checkpoint(name, options.model_revision)


def _folders(names: list[str], output: Path) -> dict[str, Path]:
    """Where each model's results go: the output folder, or folders in it if there are several models."""
    if len(names) == 1:
        return {names[0]: output}
    folders = {name: output / Path(name.rstrip("/")).name for name in names}
    if len(set(folders.values())) < len(names):
        raise EvaluationError(f"Two of the models have the same last name ({', '.join(names)}): rename a folder.")
    return folders


def _curves(options: argparse.Namespace) -> dict:
    from evaluation.show.curves import draw_curves

    draw_curves(options.run, options.output)
    print(f"The curves are in {options.output}")
    return {"run": options.run, "output": options.output}


def _refuse_file(output: Path) -> None:
    """An hour of embedding must not end at a folder that cannot be made."""
    if output.exists() and not output.is_dir():
        raise EvaluationError(f"--output {output} is a file; give a folder.")


def parser_of(command: str) -> CommandParser:
    """A parser that knows one command: what a command imports only it pays for."""
    parser = CommandParser(prog=PROG)
    commands = parser.add_subparsers(required=True)
    getattr(import_module(COMMANDS[command]), f"add_{command}")(commands)
    commands.choices[command].add_json()
    return parser


def add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        examples=[
            "python -m evaluation --model moon2 --dataset mbe2 --output results",
            "python -m evaluation --model moon2 --model openai/clip-vit-base-patch32 --model bm25 --dataset mbe2 "
            "--output results",
            "python -m evaluation --model moon2 --dataset mbe2 --output results --gallery hard --by_group",
            "python -m evaluation --model moon2 --dataset mbe2 --output results --dims 128,64 --precisions int8,binary",
            "python -m evaluation --model moon2 --dataset mbe2 --output results --json > scores.json",
        ],
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
    run.add_argument("--batch_size", type=whole(1), default=64, help="items embedded at a time")
    run.add_argument(
        "--workers",
        type=whole(0),
        default=0,
        help="processes that read large pictures while the model is at work",
    )
    run.add_argument(
        "--gallery",
        default="easy",
        help="what the products are to be found among: easy (the corpus), hard (the corpus and all products of the "
        "data set's triplets), or folder or Hub id of another data set whose corpus is added",
    )
    run.add_argument("--by_group", action="store_true", help="listings of one group count as one product in retrieval")
    run.add_argument(
        "--dims", type=wholes(1), default=[], help="dimensions to cut the vectors to as well, as 256,128,64"
    )
    run.add_argument(
        "--precisions",
        type=lambda text: text.split(","),
        default=[],
        help="precisions to store them in as well: float32,int8,binary",
    )
    run.add_argument(
        "--probe", action="store_true", help="also train a linear classifier of categories on the train triplets"
    )
    run.add_argument("--seed", type=whole(0), default=0, help="of the bootstrap")
    run.add_argument("--paper_rows", action="store_true", help="quote the paper's own figures below the table")
    run.add_argument(
        "--cache", type=Path, help="folder for vectors (default: moon2/embeddings in Hugging Face's cache)"
    )
    run.set_defaults(command=_run)


def add_curves(commands: argparse._SubParsersAction) -> None:
    curves = commands.add_parser(
        "curves",
        examples=[
            "python -m evaluation curves moon2",
            "python -m evaluation curves moon2-mine --output mine.png",
        ],
        description="Draws what a training run logged, step by step: losses and their weights, experts, sample filter, "
        "similarities, validation, optimizer and throughput.",
    )
    curves.add_argument("run", type=Path, metavar="RUN", help="the run's output folder, which holds log.jsonl")
    curves.add_argument("--output", type=Path, default=Path("curves.png"), help="the PNG file to write")
    curves.set_defaults(command=_curves)


if __name__ == "__main__":
    sys.exit(main())
