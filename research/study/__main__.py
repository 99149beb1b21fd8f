"""Measure what each part of the method is worth: run the variants of the study, and report what they gave."""

import sys

from common_moon2.cli import exit_codes
from common_moon2.fields import Command, run_command
from research.study.arguments import (
    ListArguments,
    OneArguments,
    PackArguments,
    PlotArguments,
    RunArguments,
    TableArguments,
)

PROG = "python -m research.study"
RESULTS = "research/study/results.md"
COMMANDS = {
    "run": Command(
        RunArguments,
        "research.study.runs:run",
        (
            f"{PROG} run --minutes 240",
            f"{PROG} run --only full dense --seeds 0",
            f"{PROG} run --packed study.tar.xz --device cuda --processes 6 --times 20 --results results-cuda.parquet",
        ),
        exit_1="a run failed",
    ),
    "one": Command(
        OneArguments, "research.study.runs:one", (f"{PROG} one full 0", f"{PROG} one dense 1 --no_transfer")
    ),
    "pack": Command(PackArguments, "research.study.data:pack", (f"{PROG} pack --output study.tar.xz",)),
    "list": Command(ListArguments, "research.study.runs:list_runs", (f"{PROG} list", f"{PROG} list --json")),
    "table": Command(
        TableArguments,
        "research.study.table:table",
        (f"{PROG} table --output {RESULTS}", f"{PROG} table --tiers 1 --galleries hard"),
    ),
    "plot": Command(PlotArguments, "research.study.table:plot", (f"{PROG} plot --output research/study/fig2.png",)),
}
ABOUT = {
    "description": __doc__,
    "examples": (f"{PROG} list", f"{PROG} run --minutes 240", f"{PROG} table"),
    "exit_1": COMMANDS["run"].exit_1,
}


@exit_codes(interrupted="interrupted; the same command goes on from here")
def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0, 1 if a run failed, 2 after an error that the user can put right."""
    return run_command(sys.argv[1:] if argv is None else argv, PROG, COMMANDS, **ABOUT)


if __name__ == "__main__":
    sys.exit(main())
