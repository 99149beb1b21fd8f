"""Serve a Moon2 to other programs."""

import sys

from common_moon2.cli import exit_codes
from common_moon2.fields import Command, run_command
from serving_moon2.arguments import ConvertArguments, ServeArguments

PROG = "python -m serving_moon2"
EXTRAS = {"litserve": "serve"}
COMMANDS = {
    "serve": Command(
        ServeArguments,
        "serving_moon2.service:serve",
        (
            f"{PROG} serve --model moon2",
            f"{PROG} serve --model user/moon2 --model_revision v1 --host 0.0.0.0 --dtype bfloat16 --max_queue 512",
        ),
    ),
    "convert": Command(
        ConvertArguments,
        "serving_moon2.convert:convert",
        (f"{PROG} convert --model moon2 --output moon2-qwen3-vl-moe",),
    ),
}
EXAMPLES = tuple(example for command in COMMANDS.values() for example in command.examples)


@exit_codes(ValueError, OSError, OverflowError)
def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code, see `common_moon2.cli`."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(words, PROG, COMMANDS, extras=EXTRAS, description=__doc__, examples=EXAMPLES)


if __name__ == "__main__":
    sys.exit(main())
