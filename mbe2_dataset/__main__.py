"""Command line: `python -m mbe2_dataset build|check|push`."""

import sys

from common_moon2.cli import command_of, exit_codes

PROG = "python -m mbe2_dataset"
# What each command does; each is imported when it is asked for, so that --help and a mistyped word answer at once.
COMMANDS = {
    "build": "catalogue -> triplets, corpus, queries and qrels as Parquet with a card",
    "check": "look for faults in a data set, and write a report with pictures",
    "push": "check a data set and upload it to the Hub",
}
EXAMPLES = (
    "python -m mbe2_dataset build --catalogue synthetic --output mbe2",
    "python -m mbe2_dataset check mbe2 --report check.html",
    "python -m mbe2_dataset push mbe2 --repo user/mbe2 --tag v1",
    "python -m mbe2_dataset build --help",
)
NOTES = """With --json every command prints its answer as JSON, and nothing else, on stdout. Options may be spelt with
dashes as well (--num-proc)."""


@exit_codes()
def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 the check found errors, 2 something the user can mend (said on
    stderr), 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    summary = "Builds, checks and publishes data sets for MOON2.0."
    told = {"examples": EXAMPLES, "epilog": NOTES, "exit_1": "check found errors in the data set"}
    command, words = command_of(argv, PROG, COMMANDS, description=summary, **told)
    from mbe2_dataset import commands

    return commands.run(command, words)


if __name__ == "__main__":
    sys.exit(main())
