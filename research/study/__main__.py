"""What each part of the method is worth: runs the study's variants, and draws up what they gave."""

import argparse
import sys
import time
from pathlib import Path

from common_moon2.cli import CommandParser, answer, command_of, exit_codes, whole, wholes
from evaluation.errors import EvaluationError
from research.study.variants import GALLERIES, HERE, StudyError, choose, read_variants

PROG = "python -m research.study"
FAILED = "a run failed"
EXAMPLES = (
    "python -m research.study list",
    "python -m research.study run --minutes 240",
    "python -m research.study table",
)
NOTES = """A run may be killed at any time; the same command goes on. With OMP_NUM_THREADS=1 two of them may run side by
side."""
# command -> what it does, and examples
COMMANDS = {
    "run": (
        "do what is missing, most important first",
        ["python -m research.study run --minutes 240", "python -m research.study run --only full dense --seeds 0"],
    ),
    "one": (
        "do a single run in this process, with data sets that `run` has built",
        ["python -m research.study one full 0", "python -m research.study one dense 1 --no_transfer"],
    ),
    "list": (
        "say what there is and what is done",
        ["python -m research.study list", "python -m research.study list --json"],
    ),
    "table": (
        "results as Markdown, in the layout of the paper's Table 4",
        [
            "python -m research.study table --output research/study/results.md",
            "python -m research.study table --tiers 1 --galleries hard",
        ],
    ),
    "plot": (
        "text-query against image-query recall, as the paper's Fig. 2",
        ["python -m research.study plot --output research/study/fig2.png"],
    ),
}
WORK = HERE.parents[2] / "moon2-study"


@exit_codes(StudyError, EvaluationError, interrupted="interrupted; the same command goes on from here")
def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit code: 0, 1 if a run failed, 2 after an error that the user can put right."""
    argv = sys.argv[1:] if argv is None else argv
    summaries = {name: summary for name, (summary, _) in COMMANDS.items()}
    command, words = command_of(
        argv, PROG, summaries, description=__doc__, examples=EXAMPLES, epilog=NOTES, exit_1=FAILED
    )
    options = parser_of(command).parse_args(words)
    if command == "one":  # its exit code tells the run that started it how it ended
        return _one(options)
    return answer(lambda: FUNCTIONS[command](options), options.json).get("exit_code", 0)


def parser_of(command: str) -> CommandParser:
    summary, examples = COMMANDS[command]
    failed = FAILED if command == "run" else None
    parser = CommandParser(prog=f"{PROG} {command}", description=f"{summary}.", examples=examples, exit_1=failed)
    if command == "run":
        _add_run(parser)
    elif command == "one":
        _add_one(parser)
        return parser
    else:
        parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the figures")
    if command == "table":
        parser.add_argument("--output", type=Path, help="file to write; left out: it is printed")
        parser.add_argument("--tiers", type=wholes(0), help="variants of these tiers only, as 1,2")
        parser.add_argument("--galleries", nargs="+", choices=GALLERIES, help="these only")
        parser.add_argument("--seeds", type=wholes(0), help="runs with these seeds only, as 0")
    if command == "plot":
        parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_json()
    return parser


def _add_run(run: CommandParser):
    run.add_argument("--only", nargs="+", metavar="NAME", help="these variants only")
    run.add_argument("--tiers", type=wholes(0), help="variants of these tiers only, as 1,2")
    run.add_argument("--seeds", type=wholes(0), default=[0, 1, 2], help="as 0,1,2 (the default)")
    run.add_argument("--minutes", type=float, help="stop after so many, with a checkpoint")
    run.add_argument("--catalogue", type=Path, help="folder of the fashion products (default: ../shared/data/fashion)")
    run.add_argument("--transfer", type=Path, help="folder of the transfer products (default: luma beside it)")
    _add_place(run)


def _add_one(one: CommandParser):
    one.add_argument("name", help="of a variant")
    one.add_argument("seed", type=whole(0), help="of the run")
    one.add_argument("--no_transfer", action="store_true", help="do not score the transfer set")
    _add_place(one)


def _add_place(command: CommandParser):
    command.add_argument(
        "--work", type=Path, default=WORK, help="folder of data sets and models (default: ../moon2-study)"
    )
    command.add_argument(
        "--results", type=Path, default=HERE / "results", help="folder of the figures (default: study/results)"
    )
    command.add_argument("--max_steps", type=whole(1), help="in the place of the recipe's, to try the study out")


def _place(options: argparse.Namespace):
    from research.study.schedule import Place

    if options.max_steps is not None and options.results.resolve() == (HERE / "results").resolve():
        raise StudyError("--max_steps makes no results of the study: give another folder with --results, too.")
    return Place(options.work, options.results, options.max_steps)


def _run(options: argparse.Namespace) -> dict:
    from research.study.data import SHARED, prepare
    from research.study.schedule import launch, missing, run_all

    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    place, known = _place(options), read_variants()
    variants = [one for one in choose(known, options.only) if options.tiers is None or one.tier in options.tiers]
    runs = missing(variants, known, options.seeds, place)
    if not runs:
        print("nothing is missing")
        return {"runs": 0, "failed": []}
    catalogue = options.catalogue or SHARED / "fashion"
    transfer = options.transfer or catalogue.parent / "luma"
    with_transfer = options.transfer is not None or transfer.is_dir()
    mixes = {variant.query_mix for variant, _ in runs} | {(1, 1, 1)}
    prepare(options.work, mixes, catalogue, transfer if with_transfer else None)
    command = ["--work", str(options.work), "--results", str(options.results)]
    command += [] if options.max_steps is None else ["--max_steps", str(options.max_steps)]
    command += [] if with_transfer else ["--no_transfer"]

    def do(variant, seed, end):
        log = place.folder(variant, seed) / "output.txt"
        return launch(["one", variant.name, str(seed), *command], log, end)

    failed = run_all(runs, do, end)
    if failed:
        print(f"failed: {', '.join(failed)}; what they printed: output.txt in their folders of {options.work / 'runs'}")
    return {"runs": len(runs), "failed": failed, "exit_code": int(bool(failed))}


def _one(options: argparse.Namespace) -> int:
    from research.study.data import dataset, transfer_dataset
    from research.study.schedule import run_one
    from research.study.training import MODEL
    from training_moon2.callbacks import TrainingError
    from training_moon2.checkpoints import CheckpointError

    place, known = _place(options), read_variants()
    (variant,) = choose(known, [options.name])
    start = None
    if variant.start in known:
        start = place.folder(known[variant.start], options.seed) / MODEL
    base = dataset(options.work, (1, 1, 1))
    transfer = None if options.no_transfer else transfer_dataset(options.work)
    try:
        trained_on = dataset(options.work, variant.query_mix)
        return run_one(variant, options.seed, place, trained_on, base, transfer, start)
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        raise StudyError(f"{variant.name}, seed {options.seed}: {error}") from error


def _list(options: argparse.Namespace) -> dict:
    from research.study.schedule import Place

    place = Place(Path(), options.results)
    found = {}
    for variant in read_variants().values():
        done = [seed for seed in range(variant.seeds) if place.is_done(variant, seed)]
        print(f"{variant.tier}  {variant.name:24} {len(done)}/{variant.seeds}  {variant.changes}")
        found[variant.name] = {"tier": variant.tier, "seeds": variant.seeds, "done": done, "changes": variant.changes}
    return {"variants": found}


def _table(options: argparse.Namespace) -> dict:
    from research.study.table import report

    text = report(options.results, read_variants(), options.tiers, options.galleries, options.seeds)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n", encoding="utf-8")
    return {"results": options.results, "output": options.output, "table": text}


def _plot(options: argparse.Namespace) -> dict:
    from research.study.plot import draw

    draw(options.results, read_variants(), options.output)
    return {"results": options.results, "output": options.output}


FUNCTIONS = {"run": _run, "list": _list, "table": _table, "plot": _plot}


if __name__ == "__main__":
    sys.exit(main())
