"""Builds the published data set: triplets, corpus, queries and qrels as Parquet, with a card."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .benchmark import build_benchmark
from .card import SIGNATURE, Origin, card
from .catalogue import Row
from .leakage import catalogue_facts, check_leakage, written_facts
from .parallel import parallel_map
from .schema import CORPUS, QRELS, QUERIES, TRIPLETS
from .triplets import plan_triplets, triplet_record
from .writing import write_shards


class OutputError(ValueError):
    """The output folder cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How triplets are made.

    `query_mix`: shares of text, image and mixed queries. `false_positive_rate`: share of train triplets with a wrong
    positive.
    """

    seed: int = 0
    augmented_images: int = 1
    query_mix: tuple[float, float, float] = (1.0, 1.0, 1.0)
    false_positive_rate: float = 0.0


def build_dataset(
    rows: list[Row],
    output: str | Path,
    origin: Origin,
    options: BuildOptions,
    overwrite: bool = False,
    num_proc: int = 1,
) -> dict[str, dict[str, int]]:
    """Write the data set to the folder `output`, which afterwards is complete, or else as it was before.

    The same rows and options give the same bytes, whatever `num_proc` is.

    Returns:
        Numbers of rows: config -> split -> rows.

    Raises:
        OutputError: the folder is in use.
        CatalogueError: no negative can be found.
        LeakageError: splits share products, groups or pictures.
    """
    output = Path(output).absolute()
    check_output(output, overwrite)
    splits = {split: [row for row in rows if row.split == split] for split in ("train", "validation", "test")}
    check_leakage({split: catalogue_facts(part) for split, part in splits.items()})
    staging = output.with_name(f".{output.name}.incomplete")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        counts = _write(staging, splits, origin, options, num_proc)
        check_leakage({split: written_facts(staging, split) for split in splits})
        _publish(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return counts


def check_output(output: Path, overwrite: bool) -> None:
    """Raise OutputError unless `output` is absent, empty, or (with `overwrite`) a data set of this kind."""
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"The output {output} is a file; give a folder.")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise OutputError(
            f"The output folder {output} is not empty: choose another one, or replace it with --overwrite."
        )
    readme = output / "README.md"
    if not readme.is_file() or SIGNATURE not in readme.read_text(encoding="utf-8", errors="replace"):
        raise OutputError(
            f"The output folder {output} has no README.md of an {SIGNATURE} data set, so --overwrite does not "
            f"replace it: remove it yourself or choose another folder."
        )


def _write(
    staging: Path, splits: dict[str, list[Row]], origin: Origin, options: BuildOptions, num_proc: int
) -> dict[str, dict[str, int]]:
    kinds, negatives, noise = Counter(), Counter(), Counter()
    rows: dict[str, dict[str, int]] = {"triplets": {}}

    def counted(records: Iterator[dict]) -> Iterator[dict]:
        for record in records:
            kinds[record["query_modality"]] += 1
            negatives[record["negative_kind"]] += 1
            noise.update(record["noise"] or ["none"])
            yield record

    for split in ("train", "validation"):
        if splits[split]:
            rate = options.false_positive_rate if split == "train" else 0.0
            plans = plan_triplets(splits[split], options.query_mix, rate, options.seed)
            make = partial(triplet_record, augmented=options.augmented_images, seed=options.seed)
            records = counted(parallel_map(make, plans, num_proc, f"{split} triplets"))
            rows["triplets"][split] = write_shards(staging / "triplets", split, TRIPLETS, records)
    benchmark = build_benchmark(splits["test"], options.seed)
    for config, features, records in (
        ("corpus", CORPUS, benchmark.corpus),
        ("queries", QUERIES, benchmark.queries),
        ("qrels", QRELS, benchmark.qrels),
    ):
        rows[config] = {"test": write_shards(staging / config, "test", features, records)}
    counts = {
        "triplet query": (kinds, kinds.total()),
        "negative": (negatives, kinds.total()),
        "noise (a triplet may have several)": (noise, kinds.total()),
        "picture of a test query": (benchmark.picture_origins, benchmark.picture_origins.total()),
    }
    (staging / "README.md").write_text(card(origin, rows, counts), encoding="utf-8")
    return rows


def _publish(staging: Path, output: Path) -> None:
    """Put `staging` in the place of `output`; renames, so no reader ever sees half of it."""
    for path in staging.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    if output.exists():
        old = output.with_name(f".{output.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
        staging.rename(output)
        shutil.rmtree(old)
    else:
        staging.rename(output)
