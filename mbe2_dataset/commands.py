"""What the commands of `python -m mbe2_dataset` do and print."""

import os
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from common_moon2.cli import CommandParser, answer, exit_codes, whole
from mbe2_dataset.build import OutputError
from mbe2_dataset.catalogue.store import CatalogueError
from mbe2_dataset.checks import CheckError, LeakageError, check_dataset, local_folder, write_report
from mbe2_dataset.options import OptionError, Options, build_parser, read_options
from mbe2_dataset.output.publish import PublishError, plan_push, push_dataset
from mbe2_dataset.parallel import EngineError, Stopwatch
from mbe2_dataset.pipeline import dry_run
from mbe2_dataset.pipeline import run as run_build
from mbe2_dataset.schema import ModelError

MENDABLE = (CatalogueError, CheckError, EngineError, HfHubHTTPError, LeakageError, ModelError,
            ModuleNotFoundError, OptionError, OSError, OutputError, PublishError)  # fmt: skip


@exit_codes(*MENDABLE, interrupted="interrupted; the same command goes on from here")
def run(command: str, argv: list[str]) -> int:
    """Runs one command; the exit code."""
    return {"build": build, "check": check, "push": push}[command](argv)


def build(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        build_parser().parse_args(["--help"])
    options = read_options(argv)
    answer(lambda: dry_run(options) if options.output.dry_run else _build(options), options.output.json)
    return 0


def _build(options: Options) -> dict:
    watch = Stopwatch()
    built, catalogue = run_build(options, watch)
    counts = catalogue.summary["counts"]
    print(
        f"rows in {counts['rows_in']:,} = used {counts['rows_out']:,} + set aside {counts['rows_quarantined']:,}; "
        f"pictures set aside {counts['pictures_quarantined']:,}"
    )
    quarantine = catalogue.folder / "quarantine.jsonl"
    if counts["rows_quarantined"] or counts["pictures_quarantined"]:
        print(f"reasons: {quarantine}")
    for config, splits in built.rows.items():
        print(f"{config:<9}" + ", ".join(f"{split} {rows:,} rows" for split, rows in splits.items()))
    for kind, count in sorted(built.counts["augmented field"].items()):
        print(f"{kind}: {count:,}")
    output = Path(options.output.output)
    print(f"took: {watch}")
    print(f"written to {output}" if built.is_new else f"{output} is up to date: nothing was written")
    print(f'load with  load_dataset("{output}")')
    facts = {"output": output, "is_new": built.is_new, "rows": built.rows, "counts": built.counts}
    return facts | {"catalogue": counts, "quarantine": quarantine}


def check_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m mbe2_dataset check",
        description="Looks for faults in an MBE2.0-format data set: columns, pictures, judgements, duplicates, what "
        "splits share.",
        examples=[
            "python -m mbe2_dataset check mbe2",
            "python -m mbe2_dataset check mbe2 --report check.html --samples 30",
            "python -m mbe2_dataset check user/mbe2 --revision v1 --json > findings.json",
        ],
        exit_1="there are errors in the data set",
    )
    parser.add_argument("dataset", help="a folder, or user/name on the Hub")
    parser.add_argument("--revision", help="of a data set on the Hub: branch, tag or commit")
    parser.add_argument(
        "--model",
        help="a multimodal sentence-transformers or Moon2 model: products of different splits whose vectors are near "
        "are reported, too. Its code is run",
    )
    parser.add_argument("--report", type=Path, metavar="HTML", help="write a page with sample rows and pictures")
    parser.add_argument("--samples", type=whole(1), default=12, help="rows on that page")
    _add_num_proc(parser)
    parser.add_json()
    return parser


def check(argv: list[str]) -> int:
    told = check_parser().parse_args(argv)

    if told.report is not None and not told.report.absolute().parent.is_dir():
        raise CheckError(f"--report {told.report}: there is no folder {told.report.parent}; make it first.")

    def work() -> dict:
        folder = local_folder(told.dataset, told.revision)
        report = check_dataset(folder, model=told.model, num_proc=told.num_proc, name=told.dataset)
        print("\n".join(report.lines()))
        if told.report is not None:
            write_report(folder, report, told.report, told.samples)
            print(f"the report is in {told.report}")
        return report.as_dict() | {"failed": report.failed}

    return int(answer(work, told.json)["failed"])


def push_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m mbe2_dataset push",
        description="Checks a data set and uploads it to the Hub. What is there already is not uploaded again, so "
        "after an interruption the same command goes on. Sign in with `hf auth login` or HF_TOKEN.",
        examples=[
            "python -m mbe2_dataset push mbe2 --repo user/mbe2 --dry_run",
            "python -m mbe2_dataset push mbe2 --repo user/mbe2 --private --tag v1",
        ],
    )
    parser.add_argument("dataset", help="the folder that was built")
    parser.add_argument("--repo", required=True, help="user/name; made if there is none")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--tag", help="name for this state, to load it by: load_dataset(..., revision=TAG)")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--force", action="store_true", help="publish although the check finds errors")
    parser.add_argument("--dry_run", action="store_true", help="upload nothing: check, and list the files")
    _add_num_proc(parser)
    parser.add_json()
    return parser


def push(argv: list[str]) -> int:
    told = push_parser().parse_args(argv)
    answer(lambda: _plan(told) if told.dry_run else _push(told), told.json)
    return 0


def _plan(told) -> dict:
    sizes = plan_push(told.dataset, told.repo, told.force, told.num_proc)
    for path, size in sizes.items():
        print(f"{size:>14,}  {path}")
    return {"repo": told.repo, "dry_run": True, "files": sizes}


def _push(told) -> dict:
    done = push_dataset(
        told.dataset, told.repo, told.private or None, told.tag, told.message, force=told.force, num_proc=told.num_proc
    )
    if done.uploaded or done.removed:
        print(f"uploaded {done.uploaded} files, removed {done.removed}")
    else:
        print("nothing was new: the Hub has these files already")
    print(f"{done.url} at commit {done.commit}" + (f", tag {told.tag}" if told.tag else ""))
    revision = f', revision="{told.tag}"' if told.tag else ""
    print(f'load with  load_dataset("{told.repo}"{revision})')
    return {"repo": told.repo, "tag": told.tag, **done._asdict()}


def _add_num_proc(parser: CommandParser):
    parser.add_argument(
        "--num_proc", type=whole(1), default=os.cpu_count() or 1, help="processes; left out: one a core"
    )
