"""Measure how fast the parts are, as ratios, on an otherwise idle machine. No time is asserted anywhere."""

import sys

from common_moon2.cli import exit_codes
from common_moon2.fields import Command, run_command
from research.benchmarks import arguments

PROG = "python -m research.benchmarks"
# name -> its module, what it is told, an example of that
BENCHMARKS = {
    "three_views": ("model", arguments.ThreeViews, "--models tiny --dtypes float32 --triplets 8"),
    "moe_block": ("model", arguments.MoeBlock, "--sizes 192x512 --tokens 64"),
    "embed_catalogue": ("catalogue", arguments.EmbedCatalogue, "--model moon2 --side 500"),
    "training": ("training", arguments.Training, "--triplets 64 256 --parts throughput processes"),
    "build_dataset": ("catalogue", arguments.BuildDataset, "--catalogue fashion --rows 1000 10000 40000"),
    "search": ("search", arguments.Search, "--sizes 636241 --queries 636241 --repeats 1"),
    "embedding_cost": ("cost", arguments.EmbeddingCost, "--model moon2 --sides 224 1000"),
    "update_cost": ("cost", arguments.UpdateCost, "--model moon2 --products 10000"),
    "compression": ("cost", arguments.Compression, "--size 10000 --dims 256 64"),
    "stores": ("cost", arguments.Stores, "--sizes 10000 --stores lancedb qdrant"),
    "small_objects": ("cost", arguments.SmallObjects, "--model moon2"),
    "metrics": ("search", arguments.Metrics, "--queries 500"),
    "agreement": ("runtimes", arguments.Agreement, "--model moon2 --dataset mbe2"),
    "serving": ("runtimes", arguments.Serving, "--model moon2 --titles 1 32"),
    "http_service": ("http_service", arguments.HttpService, "--model moon2 --clients 1 16"),
    "scale": ("scale", arguments.Scale, "--gpus 64 --teraflops 312"),
    "gpu": ("gpu", arguments.Gpu, "--parts agreement"),
}
EXIT_1 = {"gpu": "a difference is too large, or a way cannot be run"}
COMMANDS = {
    name: Command(told, f"research.benchmarks.{module}:{name}", (f"{PROG} {name} {example}",), EXIT_1.get(name))
    for name, (module, told, example) in BENCHMARKS.items()
}


@exit_codes()
def main(argv: list[str] | None = None) -> int:
    """Run one benchmark; return 0, 1 if it found something wrong, or 2 after an error that the user can put right."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(words, PROG, COMMANDS, description=__doc__, examples=(f"{PROG} three_views --models tiny",))


if __name__ == "__main__":
    sys.exit(main())
