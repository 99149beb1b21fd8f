"""Makes a Moon2 of a trained vision-language model: `python -m upcycle_moon2 --model Qwen/Qwen3-VL-2B-Instruct ...`.

Its feed-forward layers become the experts (MOON2.0, section 2). With experts as wide as those layers the new model
computes what the old one did, so it is a sound place for training to start from.
"""

import sys

from common_moon2.cli import exit_codes
from common_moon2.fields import Command
from training_moon2.arguments import UpcycleArguments

EXAMPLES = (
    "python upcycle_moon2.py --model Qwen/Qwen3-VL-2B-Instruct --output_dir moon2-init --num_experts 4 --verify",
    "python upcycle_moon2.py --model Qwen/Qwen3-VL-2B-Instruct --output_dir moon2-init --moe_layers 1 3 5",
    "python -m upcycle_moon2 --model my-llava --output_dir moon2-init --moe_intermediate_size 512 --json",
    "python -m upcycle_moon2 --model my-llava --output_dir moon2-init --upcycling drop --router_start kmeans "
    "--dataset mbe2",
)
PROG = "python -m upcycle_moon2"
COMMAND = Command(
    UpcycleArguments,
    "training_moon2.upcycling:upcycle_and_save",
    EXAMPLES,
    usage="%(prog)s --model MODEL --output_dir FOLDER [--option value ...]",
)


@exit_codes(ValueError, OSError)
def main(argv: list[str]) -> None:
    """Convert and save; return the exit code."""
    COMMAND.run(argv, PROG)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
