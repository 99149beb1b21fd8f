"""`python -m serving_moon2 convert --model moon2 --output folder`: see `serving_moon2.convert`."""

import sys

from commands_moon2 import command_of, exit_codes

COMMANDS = {"convert": "write a Moon2 as a stock Qwen3-VL-MoE"}


@exit_codes()
def main(argv: list[str]) -> int:
    """Run the command that is named, and return its exit code."""
    _, words = command_of(argv, "python -m serving_moon2", COMMANDS)
    from serving_moon2.convert import main as convert

    return convert(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
