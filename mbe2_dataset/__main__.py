"""Command line: `python -m mbe2_dataset build --catalogue synthetic --output mbe2`."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from .build import BuildOptions, OutputError, build_dataset, check_output
from .card import Origin
from .catalogue import CatalogueError, read_catalogue
from .leakage import LeakageError
from .synthetic import synthetic_rows

# Options of the synthetic catalogue only: default, least value, meaning.
SYNTHETIC = {
    "num_products": (2400, 1, "train products"),
    "num_validation": (120, 0, "validation products"),
    "num_test": (500, 1, "test products"),
    "picture_size": (96, 16, "width and height of the pictures"),
}
SYNTHETIC_FALSE_POSITIVES = 0.08

DESCRIPTION = """Turn a product catalogue into MBE2.0-format training triplets and a retrieval benchmark.

The catalogue is 'synthetic' (built in: drawn products with known truth and noise) or a folder of Parquet files with
the columns id, title, description, brand, category, attributes, price, images, split, group_id
(optional: noise, translations).
"""

EXAMPLES = """examples:
  python -m mbe2_dataset build --catalogue synthetic --output mbe2
  python -m mbe2_dataset build --catalogue my_catalogue --output mbe2 --query_mix 2,1,1

then, in Python:
  load_dataset("mbe2")                            triplets: train and validation
  load_dataset("mbe2", "corpus", split="test")    and likewise queries and qrels
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 2 something the user can mend (said on stderr)."""
    arguments = _parser().parse_args(argv)
    try:
        return _build(arguments)
    except (CatalogueError, LeakageError, OutputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mbe2_dataset", description="Data sets for MOON2.0.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser(
        "build",
        help="catalogue -> triplets, corpus, queries and qrels as Parquet with a card",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument("--catalogue", required=True, metavar="SRC", help="'synthetic' or a folder of Parquet files")
    build.add_argument(
        "--output", required=True, metavar="DIR", type=Path, help="folder to write; must be absent or empty"
    )
    build.add_argument("--overwrite", action="store_true", help="replace DIR if it holds an MBE2.0-format data set")
    build.add_argument("--seed", type=_at_least(0), default=0, help="the same seed gives the same bytes (default: 0)")
    build.add_argument(
        "--augmented_images",
        type=_at_least(0),
        default=1,
        metavar="N",
        help="changed views for each product (default: 1)",
    )
    build.add_argument(
        "--query_mix",
        type=_mix,
        default=(1.0, 1.0, 1.0),
        metavar="T,I,M",
        help="shares of text, image and mixed queries among the triplets (default: 1,1,1)",
    )
    build.add_argument(
        "--false_positive_rate",
        type=_rate,
        metavar="R",
        help="share of train triplets that get a wrong positive, to test filtering "
        f"(default: {SYNTHETIC_FALSE_POSITIVES} for synthetic, else 0)",
    )
    for name, (default, least, meaning) in SYNTHETIC.items():
        build.add_argument(
            f"--{name}", type=_at_least(least), metavar="N", help=f"synthetic only: {meaning} (default: {default})"
        )
    build.add_argument(
        "--num_proc",
        type=_at_least(1),
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes; changes the speed, never the result (default: one for each core)",
    )
    return parser


def _build(arguments: argparse.Namespace) -> int:
    check_output(arguments.output, arguments.overwrite)
    synthetic = arguments.catalogue == "synthetic"
    sizes = {name: getattr(arguments, name) for name in SYNTHETIC}
    if synthetic:
        sizes = {name: SYNTHETIC[name][0] if size is None else size for name, size in sizes.items()}
        rows = synthetic_rows(arguments.seed, **sizes, num_proc=arguments.num_proc)
    else:
        given = [f"--{name}" for name, size in sizes.items() if size is not None]
        if given:
            raise CatalogueError(f"{', '.join(given)} only means something with --catalogue synthetic.")
        rows = read_catalogue(arguments.catalogue)
    rate = arguments.false_positive_rate
    options = BuildOptions(
        seed=arguments.seed,
        augmented_images=arguments.augmented_images,
        query_mix=arguments.query_mix,
        false_positive_rate=(SYNTHETIC_FALSE_POSITIVES if synthetic else 0.0) if rate is None else rate,
    )
    name = "synthetic" if synthetic else Path(arguments.catalogue).resolve().name
    origin = Origin(name, synthetic, _command(name, options, sizes if synthetic else {}), arguments.seed)
    counts = build_dataset(rows, arguments.output, origin, options, arguments.overwrite, arguments.num_proc)
    for config, splits in counts.items():
        print(f"{config:<9}" + ", ".join(f"{split} {rows:,} rows" for split, rows in splits.items()))
    print(f"written to {arguments.output}")
    print(f'load with  load_dataset("{arguments.output}")')
    return 0


def _command(catalogue: str, options: BuildOptions, sizes: dict[str, int]) -> str:
    """The command for the card: every option that shapes the data, and no path of this machine."""
    mix = ",".join(f"{share:g}" for share in options.query_mix)
    return (
        f"python -m mbe2_dataset build --catalogue {catalogue} --output mbe2 --seed {options.seed} "
        f"--augmented_images {options.augmented_images} --query_mix {mix} "
        f"--false_positive_rate {options.false_positive_rate:g}"
        + "".join(f" --{name} {size}" for name, size in sizes.items())
    )


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return integer


def _rate(text: str) -> float:
    shares = _numbers(text)
    if len(shares) != 1 or not 0 <= shares[0] <= 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, not {text!r}")
    return shares[0]


def _mix(text: str) -> tuple[float, ...]:
    shares = _numbers(text)
    if len(shares) != 3 or not all(0 <= share < math.inf for share in shares) or sum(shares) == 0:
        raise argparse.ArgumentTypeError(f"must be three shares for text, image and mixed, like 1,1,1, not {text!r}")
    return shares


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers between commas; none at all if one of them is no number."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        return ()


if __name__ == "__main__":
    sys.exit(main())
