"""Command line: `python -m demo_moon2 serve|push`."""

import sys

from common_moon2.cli import exit_codes
from common_moon2.fields import run_command
from demo_moon2.arguments import COMMANDS

SUMMARY = "Serves a page that searches a catalogue, or puts it on the Hub as a Space."
NOTES = """`serve` is the command if none is given; `serve --help` and `push --help` list the options of each. The code
inside a checkpoint is run: use checkpoints that you trust."""
EXAMPLES = [line for command in COMMANDS.values() for line in command.examples]
EXTRAS = dict.fromkeys(("gradio", "starlette", "matplotlib"), "demo")


@exit_codes(interrupted="interrupted; what is embedded is kept")
def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code, see `common_moon2.cli`."""
    argv = sys.argv[1:] if argv is None else argv
    told = {"description": SUMMARY, "examples": EXAMPLES, "epilog": NOTES}
    return run_command(argv, "python -m demo_moon2", COMMANDS, "serve", EXTRAS, **told)


if __name__ == "__main__":
    sys.exit(main())
