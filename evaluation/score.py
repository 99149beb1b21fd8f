"""Score models on a benchmark: `python -m evaluation`."""

from pathlib import Path

from common_moon2.cli import UserError
from common_moon2.files import write_text
from evaluation.arguments import BM25, HYBRID, Run
from evaluation.measure.evaluate import Evaluation, evaluate, evaluate_words
from evaluation.measure.hybrid import evaluate_hybrid, fit_fusion
from evaluation.measure.retrieval import check_groups
from evaluation.models.checkpoint import find_checkpoint
from evaluation.models.encoders import load_encoder
from evaluation.show.report import run_facts, side_by_side, summary, write_report
from evaluation.tables.benchmark import Benchmark, Products, load_benchmark, train_products, with_gallery
from evaluation.vectors.catalogue import DEFAULT_CACHE, VectorCache


def score(arguments: Run) -> dict:
    """Score every model, write its results into its folder, and print a summary.

    Raises:
        UserError: a model or the data cannot be read, or cannot do what was asked for.
    """
    for name in arguments.model:
        if name != BM25:
            find_checkpoint(name.removesuffix(HYBRID), arguments.model_revision)
    benchmark = load_benchmark(arguments.dataset, arguments.dataset_revision)
    benchmark = with_gallery(benchmark, arguments.gallery, arguments.dataset, arguments.dataset_revision)
    if arguments.by_group:
        check_groups(benchmark)
    train = train_products(arguments.dataset, arguments.dataset_revision) if arguments.probe else None
    folders = arguments.folders
    runs = [_score_model(name, folder, benchmark, train, arguments) for name, folder in folders.items()]
    if len(runs) == 1 and not arguments.paper_rows:
        facts, evaluation = runs[0]
        print(summary(facts["model"]["name"], evaluation.results, facts["model"]["note"]))
    else:
        text = side_by_side(runs, arguments.paper_rows)
        write_text(arguments.output / ("results.md" if len(runs) > 1 else "side_by_side.md"), text + "\n")
        print(text)
    written = ", ".join(str(folder / "results.json") for folder in folders.values())
    print(f"\nAll figures: {written}; the tables: results.md beside")
    outputs = folders.values()
    return {
        "models": [{"output": out, "run": facts, **it.results} for out, (facts, it) in zip(outputs, runs, strict=True)]
    }


def _score_model(
    name: str, folder: Path, benchmark: Benchmark, train: tuple[Products, list[list[str]]] | None, arguments: Run
) -> tuple[dict, Evaluation]:
    """Return the facts and the figures of one model, which are also written into its folder."""
    vectors = VectorCache(arguments.cache or DEFAULT_CACHE)
    if name == BM25:
        encoder, evaluation = None, evaluate_words(benchmark, arguments)
    else:
        encoder = load_encoder(name.removesuffix(HYBRID), arguments.model_revision)
        for wanted in arguments.dims:
            if wanted > encoder.dimension:
                raise UserError(f"--dims has {wanted}, but the vectors of {name} have {encoder.dimension} dimensions.")
        evaluation = evaluate(encoder, benchmark, vectors, arguments, train)
        if name.endswith(HYBRID):
            data = arguments.dataset, arguments.dataset_revision
            fusion = fit_fusion(encoder, *data, benchmark.corpus, vectors, arguments)
            evaluation = evaluate_hybrid(evaluation, encoder, benchmark, vectors, arguments, fusion)
            encoder.name = name
    facts = run_facts(encoder, benchmark, arguments, evaluation.note, vectors)
    write_report(folder, facts, evaluation)
    return facts, evaluation
