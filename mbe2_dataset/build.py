"""Builds the published data set: triplets, corpus, queries and qrels as Parquet, with a card."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from common_moon2.files import replace_folder, write_text
from mbe2_dataset.card import SIGNATURE, Origin, Terms, card
from mbe2_dataset.catalogue.search_log import LoggedQuery
from mbe2_dataset.catalogue.store import Row, SplitRows, fact_key, facts_of, read_splits, take
from mbe2_dataset.checks.check import FACTS, check_dataset
from mbe2_dataset.coaugmentation.makers import Makers
from mbe2_dataset.coaugmentation.operations import EmbedProducts, carry_out, coaugment
from mbe2_dataset.errors import CheckError, LeakageError, OutputError
from mbe2_dataset.journal import Journal, key_for
from mbe2_dataset.parallel import Engine, Stopwatch
from mbe2_dataset.shards import FIELDS, MODALITY, NEGATIVE, NOISE, ORIGIN, plan_shards, write_shards
from mbe2_dataset.triplets.make import Negatives, Plans, plan_benchmark, plan_logged_triplets, plan_triplets
from mbe2_dataset.triplets.negatives import CategoryNegatives, Hardness, MinedNegatives

# Of what is written; another number makes everything anew.
FORMAT = 3
FINGERPRINT = "fingerprint"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How triplets are made.

    Attributes:
        query_mix: shares of text, image and mixed queries among those made from products.
        made_queries: make queries from products; otherwise all come from a search log.
        false_positive_rate: share of train triplets with a wrong positive.
        negatives: where negatives come from that no search log gives: the nearest category, any, or mined with a model
            within the window `hardness`.
        rows_per_shard: triplets, or rows of the corpus or queries, in one file.
    """

    seed: int = 0
    query_mix: tuple[float, float, float] = (1.0, 1.0, 1.0)
    made_queries: bool = True
    false_positive_rate: float = 0.0
    negatives: Literal["category", "random", "mined"] = "category"
    hardness: Hardness = field(default_factory=Hardness)
    rows_per_shard: int = 1000


@dataclass(frozen=True)
class Built:
    """What a build gave: `rows` (config -> split -> number), `counts` (what -> kind -> number), `facts` besides."""

    rows: dict[str, dict[str, int]]
    counts: dict[str, Counter]
    facts: dict
    is_new: bool = True


def build_dataset(
    rows: Sequence[Row],
    output: str | Path,
    origin: Origin,
    options: BuildOptions | None = None,
    makers: Makers | None = None,
    logged: Sequence[LoggedQuery] = (),
    work: str | Path | None = None,
    overwrite: bool = False,
    engine: Engine | None = None,
    terms: Terms | None = None,
    watch: Stopwatch | None = None,
    understood: dict | None = None,
) -> Built:
    """Write the data set to the folder `output`, which afterwards is complete, or else as it was before.

    The same rows, options and makers give the same bytes, whatever the engine is. What was made is kept in `work` (by
    default `<output>.work`): a build that was stopped goes on where it was, and another one makes only what is new. If
    `output` is already what would be written, only what a server failed to make is tried again.

    Args:
        logged: queries of a search log (`search_log.join_log`).
        overwrite: replace another data set of this format.
        terms: licence and languages, for the card.
        watch: gets the seconds of each stage.
        understood: how the source was understood, which `check` repeats (`catalogue.understood.Understood`).

    Raises:
        OutputError: the folder is in use.
        CatalogueError: no negative can be found.
        LeakageError: splits share products, groups or images.
        CheckError: `check_dataset` finds errors in what was written.
    """
    options, makers, engine = options or BuildOptions(), makers or Makers(), engine or Engine()
    watch = watch or Stopwatch()
    output = Path(output).absolute()
    work = output.with_name(f"{output.name}.work") if work is None else Path(work).absolute()
    fingerprint = _fingerprint(rows, (origin, terms), options, makers, logged)
    found = _written(output)
    is_same = found is not None and found["fingerprint"] == fingerprint
    if is_same and not found["unfinished"]:
        counts = {name: Counter(kinds) for name, kinds in found["counts"].items()}
        return Built(found["rows"], counts, found, is_new=False)
    check_output(output, overwrite or is_same)
    with watch("plan"):
        splits, facts = read_splits(rows)
        check_leakage(splits, facts)
        del facts

    journal = Journal(work / "journal.sqlite")
    try:
        plans = {}
        for split in ("train", "validation"):
            if splits[split]:
                with watch("plan"):
                    plans[split] = _plans(splits[split], split, options, makers, logged, journal, engine)
        chosen = [plan.split.take(plan.products()) for plan in plans.values()]
        products = take(rows, np.concatenate([np.empty(0, int), *(part.numbers for part in chosen)]))
        ids = pa.concat_arrays([pa.array([], pa.string()), *(part.ids for part in chosen)])
        made, facts = coaugment(products, ids, splits["train"].rows, makers, options.seed, journal, engine, watch)
    finally:
        journal.close()
    benchmark = plan_benchmark(splits["test"], options.seed, logged, options.made_queries)
    staging = output.with_name(f".{output.name}.incomplete")
    _begin(staging, fingerprint)
    with watch("write"):
        shards = plan_shards(staging, plans, benchmark, made, options.rows_per_shard)
        counts = write_shards(shards, options.seed, engine)
    built = _summary(counts, facts | ({"understood": understood} if understood else {}))
    readme = staging / "README.md"
    readme.write_text(card(origin, built, terms), encoding="utf-8")
    with watch("check"):
        report = check_dataset(staging, num_proc=engine.num_proc, name=output.name)
    if report.failed:
        first = report.of_level("error")[0].sentence()
        raise CheckError(f"What was built has errors, so it is not published to {output} (look at {staging}): {first}")
    readme.write_text(card(origin, built, terms, report), encoding="utf-8")
    _finish(staging, output, built, fingerprint)
    return built


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


SHOWN = 5


def check_leakage(splits: dict[str, SplitRows], facts: dict[str, np.ndarray]) -> None:
    """Raise a LeakageError if two splits share a product, a group or an image; `facts` are those of `read_splits`."""
    for first, second in combinations(splits, 2):
        hashes = set(np.intersect1d(facts[first], facts[second]).tolist())
        if not hashes:
            continue
        found, other = (
            {fact[:2]: fact[2] for row in splits[split].rows for fact in facts_of(row) if fact_key(fact) in hashes}
            for split in (first, second)
        )
        if shared := sorted(found.keys() & other.keys()):
            names = [f"{kind} '{found[kind, value]}'" for kind, value in shared[:SHOWN]]
            more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
            raise LeakageError(
                f"The splits '{first}' and '{second}' share {', '.join(names)}{more}. Rows of one group, with the same "
                f"image or, where no group is given, with the same title belong in one split: change the columns "
                f"'split' and 'group_id', or let splits be made with --assign_splits true."
            )


def _fingerprint(
    rows: Sequence[Row],
    said: tuple[Origin, Terms | None],
    options: BuildOptions,
    makers: Makers,
    logged: Sequence[LoggedQuery],
) -> str:
    """Hash all that the bytes of the data set depend on."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        pictures = [(picture.path, picture.sha256) for picture in row.images]
        texts = (row.id, row.title, row.description, row.brand, row.category, row.attributes, row.price)
        digest.update(repr((*texts, row.split, row.group_id, row.noise, row.translations, pictures)).encode())
    for query in logged:
        picture = query.image and query.image.sha256
        digest.update(repr((query.id, query.text, picture, query.positives, query.negatives, query.split)).encode())
    return key_for(
        format=FORMAT, rows=digest.hexdigest(), said=repr(said), options=asdict(options), makers=makers.identity()
    )


def _written(output: Path) -> dict | None:
    """Return the facts that `output` holds, if all its files are there in their sizes."""
    try:
        facts = json.loads((output / FACTS).read_text(encoding="utf-8"))
        whole = all((output / name).stat().st_size == size for name, size in facts["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return facts if whole else None


def _plans(
    rows: SplitRows,
    split: str,
    options: BuildOptions,
    makers: Makers,
    logged: Sequence[LoggedQuery],
    journal: Journal,
    engine: Engine,
) -> Plans:
    negatives: Negatives = CategoryNegatives(rows, nearest=options.negatives == "category")
    if options.negatives == "mined":
        operation = EmbedProducts(makers.embedder)
        keys = carry_out(operation, rows.rows, journal, engine)
        vectors = np.stack([np.frombuffer(journal.result(key).blobs[0], dtype=np.float32) for key in keys])
        negatives = MinedNegatives(rows, vectors, options.hardness, CategoryNegatives(rows))
    asked = [query for query in logged if query.split in (None, split)]
    plans = plan_logged_triplets(rows, asked, options.seed, negatives)
    if options.made_queries:
        rate = options.false_positive_rate if split == "train" else 0.0
        made = plan_triplets(rows, options.query_mix, rate, options.seed, negatives)
        plans = Plans(rows, np.concatenate([plans.entries, made.entries]), asked)
    return plans


def _begin(staging: Path, fingerprint: str) -> None:
    """Keep the shards of a build that was stopped, if they are those that are wanted now."""
    mark = staging / FINGERPRINT
    if not mark.exists() or mark.read_text(encoding="utf-8") != fingerprint:
        shutil.rmtree(staging, ignore_errors=True)
        write_text(mark, fingerprint)
    for unfinished in staging.glob("*/.*"):
        unfinished.unlink()


def _summary(counts: Counter, facts: dict) -> Built:
    rows: dict[str, dict[str, int]] = {}
    kinds: dict[str, Counter] = {name: Counter() for name in (MODALITY, NEGATIVE, NOISE, FIELDS, ORIGIN)}
    for (name, kind), count in counts.items():
        if name == "rows":
            config, _, split = kind.partition("/")
            rows.setdefault(config, {})[split] = count
        else:
            kinds[name][kind] = count
    return Built(rows, kinds, facts)


def _finish(staging: Path, output: Path, built: Built, fingerprint: str) -> None:
    """Write the facts, then make `staging` the output."""
    (staging / FINGERPRINT).unlink()
    for path in staging.glob("*/*.json"):
        path.unlink()
    files = {
        str(path.relative_to(staging)): path.stat().st_size for path in sorted(staging.rglob("*")) if path.is_file()
    }
    facts = {"fingerprint": fingerprint, "files": files, "rows": built.rows, "counts": built.counts, **built.facts}
    write_text(staging / FACTS, json.dumps(facts, ensure_ascii=False, indent=1))
    replace_folder(staging, output)
