"""The command line: `python -m study run`, `table` and `plot`."""

import argparse
import sys
import time
from pathlib import Path

from evaluation.errors import EvaluationError
from study.errors import StudyError
from study.variants import HERE, choose, read_variants

EPILOG = """examples:
  python -m study run --minutes 240             what is missing, most important first, for four hours
  python -m study run --only full dense --seeds 0
  python -m study list
  python -m study table --output study/results.md
  python -m study plot --output study/fig2.png

A run may be killed at any time; the same command goes on. With OMP_NUM_THREADS=1 two of them may run side by side.
"""
WORK = HERE.parent.parent / "moon2-study"


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit code: 0, 1 if a run failed, 2 after an error that the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m study", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    _add_run(commands)
    _add_one(commands)
    for name, function, words in (
        ("list", _list, "say what there is and what is done"),
        ("table", _table, "results as Markdown, in the layout of the paper's Table 4"),
        ("plot", _plot, "text-query against image-query recall, as the paper's Fig. 2"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument("--results", type=Path, default=HERE / "results", help="folder (default: study/results)")
        if name != "list":
            command.add_argument("--output", type=Path, help="file to write" + (" (PNG)" if name == "plot" else ""))
        command.set_defaults(command=function)
    try:
        options = parser.parse_args(argv)
        return options.command(options) or 0
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (StudyError, EvaluationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _add_run(commands: argparse._SubParsersAction):
    run = commands.add_parser("run", help="do what is missing, most important first")
    run.add_argument("--only", nargs="+", metavar="NAME", help="these variants only")
    run.add_argument("--tiers", type=_numbers, help="variants of these tiers only, as 1,2")
    run.add_argument("--seeds", type=_numbers, default=[0, 1, 2], help="as 0,1,2 (the default)")
    run.add_argument("--minutes", type=float, help="stop after so many, with a checkpoint")
    run.add_argument("--catalogue", type=Path, help="folder of the fashion products (default: ../shared/data/fashion)")
    run.add_argument("--transfer", type=Path, help="folder of the transfer products (default: luma beside it)")
    _add_place(run)
    run.set_defaults(command=_run)


def _add_one(commands: argparse._SubParsersAction):
    one = commands.add_parser("one", help="do a single run in this process, with data sets that `run` has built")
    one.add_argument("name")
    one.add_argument("seed", type=int)
    one.add_argument("--no_transfer", action="store_true", help="do not score the transfer set")
    _add_place(one)
    one.set_defaults(command=_one)


def _add_place(command: argparse.ArgumentParser):
    command.add_argument(
        "--work", type=Path, default=WORK, help="folder of data sets and models (default: ../moon2-study)"
    )
    command.add_argument(
        "--results", type=Path, default=HERE / "results", help="folder of the figures (default: study/results)"
    )
    command.add_argument("--max_steps", type=int, help="in the place of the recipe's, to try the study out")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _place(options: argparse.Namespace):
    from study.schedule import Place

    if options.max_steps is not None and options.results.resolve() == (HERE / "results").resolve():
        raise StudyError("--max_steps makes no results of the study: give another folder with --results, too.")
    return Place(options.work, options.results, options.max_steps)


def _run(options: argparse.Namespace) -> int:
    from study.data import SHARED, prepare
    from study.schedule import launch, missing, run_all

    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    place, known = _place(options), read_variants()
    variants = [one for one in choose(known, options.only) if options.tiers is None or one.tier in options.tiers]
    runs = missing(variants, known, options.seeds, place)
    if not runs:
        print("nothing is missing")
        return 0
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
    return 1 if failed else 0


def _one(options: argparse.Namespace) -> int:
    from study.data import dataset, transfer_dataset
    from study.schedule import run_one
    from study.training import MODEL
    from training.callbacks import TrainingError
    from training.checkpoints import CheckpointError

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


def _list(options: argparse.Namespace):
    from study.schedule import Place

    place = Place(Path(), options.results)
    for variant in read_variants().values():
        done = [seed for seed in range(variant.seeds) if place.is_done(variant, seed)]
        print(f"{variant.tier}  {variant.name:24} {len(done)}/{variant.seeds}  {variant.changes}")


def _table(options: argparse.Namespace):
    from study.table import report

    text = report(options.results, read_variants())
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n", encoding="utf-8")


def _plot(options: argparse.Namespace):
    from study.plot import draw

    if options.output is None:
        raise StudyError("plot needs --output FILE.png.")
    draw(options.results, read_variants(), options.output)


if __name__ == "__main__":
    sys.exit(main())
