"""Command line: `python -m mbe2_dataset build|check|push`."""

import argparse
import sys

# What each command does; each is imported when it is asked for, so that --help and a mistyped word answer at once.
COMMANDS = {
    "build": "catalogue -> triplets, corpus, queries and qrels as Parquet with a card",
    "check": "look for faults in a data set, and write a report with pictures",
    "push": "check a data set and upload it to the Hub",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 2 something the user can mend (said on stderr), 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        parser = argparse.ArgumentParser(prog="python -m mbe2_dataset", description="Data sets for MOON2.0.")
        commands = parser.add_subparsers(required=True, metavar="COMMAND")
        for name, meaning in COMMANDS.items():
            commands.add_parser(name, help=f"{meaning} (`{name} --help`)")
        parser.parse_args(argv)
    from . import commands

    return commands.run(argv[0], argv[1:])


if __name__ == "__main__":
    sys.exit(main())
