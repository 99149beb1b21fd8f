"""What the commands of `python -m mbe2_dataset` do and print."""

import argparse
import json
import os
import sys
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from hub_moon2 import without_secrets

from .build import OutputError
from .catalogue import CatalogueError
from .checks import CheckError, LeakageError, check_dataset, local_folder, write_report
from .enrichment import WriterError
from .expansion import EditorUnavailable
from .models import ModelError
from .options import OptionError, build_parser, read_options
from .parallel import EngineError
from .pipeline import dry_run
from .pipeline import run as run_build
from .publish import PublishError, push_dataset
from .stopwatch import Stopwatch

MENDABLE = (CatalogueError, CheckError, EditorUnavailable, EngineError, HfHubHTTPError, LeakageError, ModelError,
            ModuleNotFoundError, OptionError, OSError, OutputError, PublishError, WriterError)  # fmt: skip


def run(command: str, argv: list[str]) -> int:
    """Runs one command; the exit code."""
    try:
        return {"build": build, "check": check, "push": push}[command](argv)
    except MENDABLE as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def build(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        build_parser().parse_args(argv or ["--help"])
    options = read_options(argv)
    if options.output.dry_run:
        print(dry_run(options))
        return 0
    watch = Stopwatch()
    built, catalogue = run_build(options, watch)
    counts = catalogue.summary["counts"]
    print(
        f"rows in {counts['rows_in']:,} = used {counts['rows_out']:,} + set aside {counts['rows_quarantined']:,}; "
        f"pictures set aside {counts['pictures_quarantined']:,}"
    )
    if counts["rows_quarantined"] or counts["pictures_quarantined"]:
        print(f"reasons: {catalogue.folder / 'quarantine.jsonl'}")
    for config, splits in built.rows.items():
        print(f"{config:<9}" + ", ".join(f"{split} {rows:,} rows" for split, rows in splits.items()))
    for kind, count in sorted(built.counts["augmented field"].items()):
        print(f"{kind}: {count:,}")
    output = Path(options.output.output)
    print(f"took: {watch}")
    print(f"written to {output}" if built.is_new else f"{output} is up to date: nothing was written")
    print(f'load with  load_dataset("{output}")')
    return 0


def check(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mbe2_dataset check",
        description="Looks for faults in an MBE2.0-format data set: columns, pictures, judgements, duplicates, what "
        "splits share. The exit code is 2 if there are errors.",
    )
    parser.add_argument("dataset", help="a folder, or user/name on the Hub")
    parser.add_argument("--revision", help="of a data set on the Hub: branch, tag or commit")
    parser.add_argument(
        "--model",
        help="a multimodal sentence-transformers or Moon2 model: products of different splits whose vectors are near "
        "are reported, too. Its code is run",
    )
    parser.add_argument("--report", type=Path, metavar="HTML", help="write a page with sample rows and pictures")
    parser.add_argument("--samples", type=_natural, default=12, help="rows on that page (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings and counts")
    parser.add_argument(
        "--num_proc", type=_natural, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    told = parser.parse_args(argv)
    folder = local_folder(told.dataset, told.revision)
    report = check_dataset(folder, model=told.model, num_proc=told.num_proc, name=told.dataset)
    print("\n".join(report.lines()))
    if told.json is not None:
        told.json.write_text(json.dumps(report.as_dict(), ensure_ascii=False, indent=1), encoding="utf-8")
    if told.report is not None:
        write_report(folder, report, told.report, told.samples)
        print(f"the report is in {told.report}")
    return 2 if report.failed else 0


def push(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mbe2_dataset push",
        description="Checks a data set and uploads it to the Hub. What is there already is not uploaded again, so "
        "after an interruption the same command goes on. Sign in with `hf auth login` or HF_TOKEN.",
    )
    parser.add_argument("dataset", help="the folder that was built")
    parser.add_argument("--repo", required=True, help="user/name; made if there is none")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--tag", help="name for this state, to load it by: load_dataset(..., revision=TAG)")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--force", action="store_true", help="publish although the check finds errors")
    parser.add_argument(
        "--num_proc", type=_natural, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    told = parser.parse_args(argv)
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
    return 0


def _natural(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value
