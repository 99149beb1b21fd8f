"""Command line: `python -m mbe2_dataset build|check|push`."""

import sys

from common_moon2.cli import exit_codes
from common_moon2.fields import Command, run_command
from mbe2_dataset.arguments import Build, Check, Push

PROG = "python -m mbe2_dataset"
COMMANDS = {
    "build": Command(
        Build,
        "mbe2_dataset.commands:build",
        examples=(
            f"{PROG} build --catalogue synthetic --output mbe2",
            f"{PROG} build --catalogue my_catalogue --output mbe2 --augmented_images 2 --query_mix 2,1,1",
            f"{PROG} build --catalogue shop.csv --columns title=name images=photo --output mbe2 --dry_run",
            f"{PROG} build --catalogue my_catalogue --search_log clicks.parquet --output mbe2 --json",
        ),
        usage="%(prog)s [OPTIONS.yaml] --catalogue SRC --output DIR [--option value ...]",
        reads_file=True,
    ),
    "check": Command(
        Check,
        "mbe2_dataset.commands:check",
        examples=(
            f"{PROG} check mbe2",
            f"{PROG} check mbe2 --report check.html --samples 30",
            f"{PROG} check user/mbe2 --revision v1 --json > findings.json",
        ),
        exit_1="there are errors in the data set",
    ),
    "push": Command(
        Push,
        "mbe2_dataset.commands:push",
        examples=(
            f"{PROG} push mbe2 --repo user/mbe2 --dry_run",
            f"{PROG} push mbe2 --repo user/mbe2 --private --tag v1",
        ),
    ),
}
ABOUT = {
    "description": "Builds, checks and publishes data sets for MOON2.0.",
    "examples": (
        f"{PROG} build --catalogue synthetic --output mbe2",
        f"{PROG} check mbe2 --report check.html",
        f"{PROG} push mbe2 --repo user/mbe2 --tag v1",
        f"{PROG} build --help",
    ),
    "epilog": "With --json every command prints its answer as JSON, and nothing else, on stdout. Options may be spelt "
    "with dashes as well (--num-proc).",
    "exit_1": "check found errors in the data set",
}


@exit_codes(OSError, ModuleNotFoundError, interrupted="interrupted; the same command goes on from here")
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 the check found errors."""
    return run_command(sys.argv[1:] if argv is None else argv, PROG, COMMANDS, **ABOUT)


if __name__ == "__main__":
    sys.exit(main())
