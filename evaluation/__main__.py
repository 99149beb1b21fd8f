"""Run one command: `python -m evaluation COMMAND`; without a command, models are scored."""

import sys

from common_moon2.cli import exit_codes
from common_moon2.fields import Command, run_command
from evaluation import arguments

PROG = "python -m evaluation"
EXTRAS = dict.fromkeys(("sklearn", "matplotlib", "jinja2", "bm25s"), "eval") | {"mteb": "mteb"}

COMMANDS = {
    "run": Command(
        arguments.Run,
        "evaluation.score:score",
        (
            "python -m evaluation --model moon2 --dataset mbe2 --output results",
            "python -m evaluation --model moon2 --model openai/clip-vit-base-patch32 --model bm25 --dataset mbe2 "
            "--output results",
            "python -m evaluation --model moon2 --dataset mbe2 --output results --gallery hard --by_group",
            "python -m evaluation --model moon2 --dataset mbe2 --output results --dims 128,64 --precisions int8,binary",
            "python -m evaluation --model moon2 --dataset mbe2 --output results --json > scores.json",
        ),
    ),
    "suite": Command(
        arguments.Suite,
        "evaluation.measure.suite:run_suite",
        (
            "python -m evaluation suite --model moon2 --dataset mbe2",
            "python -m evaluation suite --model moon2 --model google/siglip-so400m-patch14-384",
            "python -m evaluation suite --model moon2 --tasks SOPI2IRetrieval,ESCIReranking --json > suite.json",
        ),
        exit_1="a data set could not be fetched; the other tasks were run",
    ),
    "compare": Command(
        arguments.Compare,
        "evaluation.measure.compare:compare",
        (
            "python -m evaluation compare results-a results-b",
            "python -m evaluation compare results-a results-b --json > difference.json",
        ),
    ),
    "heatmap": Command(
        arguments.Heatmap,
        "evaluation.show.heatmap:draw_heatmap",
        (
            "python -m evaluation heatmap --model moon2 --image p.jpg --text 'knitted cardigan'",
            "python -m evaluation heatmap --model moon2 --dataset mbe2 --product p000001-2 --output heatmap.png",
            "python -m evaluation heatmap --model moon2 --dataset mbe2 --count 12 --output sheet.png",
            "python -m evaluation heatmap --model moon2 --sanity --output sanity.json",
        ),
    ),
    "curves": Command(
        arguments.Curves,
        "evaluation.show.curves:draw_curves",
        ("python -m evaluation curves moon2", "python -m evaluation curves moon2-mine --output mine.png"),
    ),
    "embed": Command(
        arguments.Embed,
        "evaluation.vectors.catalogue:embed_catalogue",
        (
            "python -m evaluation embed --model moon2 --dataset mbe2 --output vectors",
            "python -m evaluation embed --model moon2 --dataset shop.csv --text_column title --output vectors",
            "python -m evaluation embed --model moon2 --dataset mbe2 --config queries --role query --output asked",
            "python -m evaluation embed --model moon2 --dataset shop.csv --on_error skip --num_proc 4 --output vectors",
            "python -m evaluation embed --model moon2 --dataset shop.csv --keep category,price:number --output vectors "
            "--update",
        ),
    ),
    "search": Command(
        arguments.Search,
        "evaluation.vectors.search:search_all",
        (
            "python -m evaluation search --queries vectors --corpus vectors --output hits.parquet",
            "python -m evaluation search --queries asked.npy --corpus vectors --k 100 --output hits.parquet",
            "python -m evaluation search --queries asked --corpus vectors --engine faiss-hnsw --output hits.parquet",
            "python -m evaluation search --queries asked --corpus vectors --hybrid --filter brand=A --output h.parquet",
            "python -m evaluation search --queries asked --corpus vectors --engine lancedb --location lance --output "
            "hits.parquet",
        ),
    ),
    "weigh": Command(
        arguments.Weigh,
        "evaluation.vectors.search:weigh",
        ("python -m evaluation weigh --queries asked --corpus vectors --qrels mbe2",),
    ),
    "store": Command(
        arguments.Store,
        "evaluation.stores.load:load",
        (
            "python -m evaluation store --vectors vectors --store lancedb --location lance",
            "python -m evaluation store --vectors vectors --store qdrant --location http://localhost:6333 --name shop",
            "python -m evaluation store --vectors vectors --store lancedb --location lance --update",
        ),
    ),
    "report": Command(
        arguments.Report,
        "evaluation.show.page:write_page",
        ("python -m evaluation report results", "python -m evaluation report results --queries 30 --model moon2-moved"),
    ),
    "push": Command(
        "publishing_moon2.arguments:PushArguments",
        "publishing_moon2.push:push",
        (
            "python -m evaluation push --model moon2 --repo user/moon2 --dry_run",
            "python -m evaluation push --model moon2 --repo user/moon2 --results results --tag v1",
            "python -m evaluation push --model moon2 --repo user/moon2 --private --license other --license_name mine",
        ),
    ),
    "push_metric": Command(
        "publishing_moon2.arguments:MetricArguments",
        "publishing_moon2.push:push_metric",
        (
            "python -m evaluation push_metric recall_at_k",
            "python -m evaluation push_metric mean_reciprocal_rank --owner my-team --private",
        ),
    ),
}

SUMMARY = """Score models and compare runs, embed and search catalogues, draw attention and training runs, and put
models on the Hub."""
EXAMPLES = (
    "python -m evaluation --model moon2 --dataset mbe2 --output results",
    "python -m evaluation report results",
    "python -m evaluation compare results-a results-b",
    "python -m evaluation embed --model moon2 --dataset mbe2 --output vectors",
    "python -m evaluation heatmap --model moon2 --image p.jpg --text 'knitted cardigan' --output heatmap.png",
    "python -m evaluation run --help",
)
NOTES = """Without a command, `run` is run. With --json every command prints its answer as JSON, and nothing else, on
stdout. Options may be spelt with dashes as well (--batch-size). The code inside a checkpoint is run: use checkpoints
that you trust."""


@exit_codes(interrupted="interrupted; what was embedded is kept")
def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    It is 0, 2 with a sentence on stderr if the user can put it right, or 130.
    """
    argv = sys.argv[1:] if argv is None else argv
    about = {"description": SUMMARY, "examples": EXAMPLES, "epilog": NOTES}
    return run_command(argv, PROG, COMMANDS, "run", EXTRAS, **about)


if __name__ == "__main__":
    sys.exit(main())
