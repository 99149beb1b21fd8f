"""Trains a Moon2Model on MBE2.0-format triplets: `python train_moon2.py recipes/tiny.yaml [--max_steps 100 ...]`.

Installed: `python -m train_moon2 tiny`; recipes that come along go by their names.
"""

import sys

from common_moon2.cli import exit_codes, underscored
from training_moon2.arguments import read_own


@exit_codes(ValueError, OSError)
def main(argv: list[str]) -> int:
    """Train and save; return the exit code: 0, 2 after an error, 128 + the number of a signal that stopped it."""
    if "--help_trainer" in underscored(argv):
        from training_moon2.recipe import build_parser  # it takes seconds

        build_parser().print_help()
        return 0
    own = read_own(argv)
    own.check()
    from training_moon2.run import train

    return train(own)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
