"""Measure how fast the parts are, as ratios, on an otherwise idle machine. No time is asserted anywhere."""

import sys

from common_moon2.cli import exit_codes
from common_moon2.fields import Command, run_command
from research.benchmarks import arguments

PROG = "python -m research.benchmarks"
COMMANDS = {
    "three_views": Command(
        arguments.ThreeViews,
        "research.benchmarks.model:three_views",
        (f"{PROG} three_views --models tiny --dtypes float32 --triplets 8",),
    ),
    "moe_block": Command(
        arguments.MoeBlock, "research.benchmarks.model:moe_block", (f"{PROG} moe_block --sizes 192x512 --tokens 64",)
    ),
    "embed_catalogue": Command(
        arguments.EmbedCatalogue,
        "research.benchmarks.catalogue:embed_catalogue",
        (f"{PROG} embed_catalogue --model moon2 --side 500",),
    ),
    "training": Command(
        arguments.Training, "research.benchmarks.training:training", (f"{PROG} training --triplets 64 256",)
    ),
    "build_dataset": Command(
        arguments.BuildDataset,
        "research.benchmarks.catalogue:build_dataset",
        (f"{PROG} build_dataset --catalogue fashion --rows 1000 10000 40000",),
    ),
    "search": Command(
        arguments.Search, "research.benchmarks.search:search", (f"{PROG} search --sizes 636241 --repeats 1",)
    ),
    "metrics": Command(arguments.Metrics, "research.benchmarks.search:metrics", (f"{PROG} metrics --queries 500",)),
    "agreement": Command(
        arguments.Agreement,
        "research.benchmarks.runtimes:agreement",
        (f"{PROG} agreement --model moon2 --dataset mbe2",),
    ),
    "serving": Command(
        arguments.Serving, "research.benchmarks.runtimes:serving", (f"{PROG} serving --model moon2 --titles 1 32",)
    ),
    "http_service": Command(
        arguments.HttpService,
        "research.benchmarks.http_service:http_service",
        (f"{PROG} http_service --model moon2 --clients 1 16",),
    ),
}


@exit_codes()
def main(argv: list[str] | None = None) -> int:
    """Run one benchmark; return 0, or 2 after an error that the user can put right."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(words, PROG, COMMANDS, description=__doc__, examples=(f"{PROG} three_views --models tiny",))


if __name__ == "__main__":
    sys.exit(main())
