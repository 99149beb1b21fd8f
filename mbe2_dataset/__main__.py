"""Command line: `python -m mbe2_dataset build|check|push`."""

import sys

from common_moon2.cli import exit_codes


@exit_codes(OSError, ModuleNotFoundError, interrupted="interrupted; the same command goes on from here")
def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 the check found errors."""
    # Each process of a pool imports this module, and needs no parser, whose import takes a second.
    from common_moon2.fields import run_command
    from mbe2_dataset.arguments import ABOUT, COMMANDS, PROG

    return run_command(sys.argv[1:] if argv is None else argv, PROG, COMMANDS, **ABOUT)


if __name__ == "__main__":
    sys.exit(main())
