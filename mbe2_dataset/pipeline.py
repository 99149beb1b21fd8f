"""What the commands do and print: from options to a finished data set, checked and published; what it would take."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from mbe2_dataset.arguments import NO_LOG, SYNTHETIC_FALSE_POSITIVES, Build, Check, Push, processes
from mbe2_dataset.build import BuildOptions, Built, build_dataset
from mbe2_dataset.card import Origin, Terms
from mbe2_dataset.catalogue.columns import parse_columns
from mbe2_dataset.catalogue.ingest import IngestOptions, ingest, told_lines
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.published import Fashion200K, TripletSource
from mbe2_dataset.catalogue.search_log import LOG_QUARANTINE, LoggedQuery, join_log, log_events
from mbe2_dataset.catalogue.store import Catalogue, Ids, Source, read_splits
from mbe2_dataset.catalogue.tables import HubTables, LocalTables, Tables, open_tables
from mbe2_dataset.catalogue.understood import Understood, understand
from mbe2_dataset.checks.check import check_dataset, data_folder
from mbe2_dataset.checks.page import write_report
from mbe2_dataset.coaugmentation.makers import makers_for
from mbe2_dataset.coaugmentation.titles.entities import learn_gazetteer
from mbe2_dataset.coaugmentation.titles.writers import EndpointWriter, estimate
from mbe2_dataset.errors import CatalogueError, OutputError
from mbe2_dataset.parallel import Engine, Stopwatch
from mbe2_dataset.publish import plan_push, push_dataset
from mbe2_dataset.synthetic.catalogue import SyntheticSource
from mbe2_dataset.triplets.negatives import Hardness


def open_source(told: Build, num_proc: int) -> Source:
    """Open the source that the options name.

    Raises:
        CatalogueError: there is none, or it is laid out otherwise.
    """
    if told.synthetic:
        return SyntheticSource(told.seed, **told.sizes, num_proc=num_proc)
    if told.format == "fashion200k" or (told.format == "auto" and Fashion200K.is_in(told.catalogue)):
        return Fashion200K(told.catalogue)
    tables, columns, only = _tables(told), parse_columns(told.columns), _selection(told)
    if told.format == "triplets":
        return TripletSource(tables, columns, told.pictures, only)
    return ProductSource(tables, columns, told.pictures, only, told.format, told.spoken)


def tell(source: Source, told: Build, count_all: bool = False) -> Understood | None:
    """Print how the tables of a source were understood; nothing of a source that has none.

    Raises:
        CatalogueError: they were not, or their images are addresses and may not be fetched.
    """
    if not isinstance(source, (ProductSource, Fashion200K)):
        return None
    understood = understand(source, told.limit, told.allow_urls, count_all)
    print("\n".join(understood.lines()), flush=True)
    return understood


def _tables(told: Build) -> Tables:
    named, revision = told.catalogue, told.revision("catalogue")
    on_hub = not Path(named).exists() and named.count("/") == 1 and not named.startswith((".", "/"))
    if on_hub or told.hub or revision:
        return HubTables(named, *map(told.pairs("hub").get, ("config", "split")), revision)
    return open_tables(named, told.encoding)


def _selection(told: Build, of_log: bool = False) -> dict[str, str]:
    """Return column -> value of `--only`, for the catalogue or for the search log."""
    pairs = [word.removeprefix("log:") for word in told.only if word.startswith("log:") == of_log]
    return {name: value[0] for name, value in parse_columns(pairs).items() if value}


def store_catalogue(source: Source, told: Build, folder: Path, num_proc: int) -> Catalogue:
    """Store the catalogue of the source in `folder`.

    Raises:
        CatalogueError: it cannot be read, or has no row to train or to test with.
    """
    options = IngestOptions(
        seed=told.seed,
        shares=told.shares,
        assign_splits=told.assign_splits,
        max_pixels=told.max_pixels,
        allow_urls=told.allow_urls,
        limit=told.limit,
    )
    catalogue = ingest(source, folder, options, num_proc, overwrite=True)
    print("\n".join(told_lines(catalogue)))
    summary = catalogue.summary
    if summary["splits_made"] != "given by the source" and summary["groups"] < 3:
        raise CatalogueError(
            f"The catalogue {told.catalogue} has {summary['groups']} different products among the "
            f"{summary['counts']['rows_out']:,} usable rows, of {summary['counts']['rows_in']:,}. It takes 3: "
            f"two to train with, and one to test. Give more rows{' or a larger --limit' if told.limit else ''}."
        )
    for split, wanted in (("train", "triplets need"), ("test", "the benchmark needs")):
        if not catalogue.summary["rows"][split]:
            raise CatalogueError(
                f"The catalogue {told.catalogue} has no row in the split '{split}', which {wanted}: give rows that "
                f"split, or let splits be made (--assign_splits true --split_shares 0.8,0.1,0.1)."
            )
    return catalogue


def open_log(told: Build, source: Source, catalogue: Catalogue, work: Path) -> Sequence[LoggedQuery]:
    """Return the queries of shoppers, from the search log or a source that has some; otherwise none."""
    if told.search_log == NO_LOG:
        return ()
    if told.search_log is not None:
        tables = LocalTables(told.search_log, told.encoding)
        events = log_events(tables, parse_columns(told.log_columns), _selection(told, of_log=True))
        pictures = tables.folder
    elif isinstance(source, (TripletSource, SyntheticSource)):
        events, pictures = source.events(), source.folder
    elif isinstance(source, ProductSource) and (judged := source.judgements()) is not None:
        tables, columns, texts = judged
        print(f"search log: {', '.join(table.name for table in tables)}, beside the products")
        events, pictures = log_events(tables, columns, _selection(told, of_log=True), texts), source.folder
    else:
        return ()
    items = Ids(pa.concat_arrays([split.ids for split in read_splits(catalogue.rows)[0].values()]))
    log = join_log(events, items, work / "log", pictures, told.allow_urls)
    print("search log: " + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in log.counts.items()))
    if not log.queries:
        reasons = work / "log" / LOG_QUARANTINE
        raise CatalogueError(f"No query of the search log has a right item in the catalogue; see {reasons}.")
    return log.queries


def build_options(told: Build) -> BuildOptions:
    """Return how triplets are made."""
    rate = told.false_positive_rate
    return BuildOptions(
        seed=told.seed,
        query_mix=told.mix,
        made_queries=told.made_queries,
        false_positive_rate=(SYNTHETIC_FALSE_POSITIVES if told.synthetic else 0.0) if rate is None else rate,
        negatives=told.negatives,
        hardness=Hardness(*told.window),
        rows_per_shard=told.rows_per_shard,
    )


def terms(told: Build) -> Terms | None:
    """Return licence and languages for the card; None: the defaults."""
    if not told.licence:
        return None
    said = told.pairs("licence")
    return Terms(told.licence[0], said.get("name"), said.get("link"), told.spoken, said.get("attribution", ""))


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keep other builds out of the work folder until the block or the process ends."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(work / "lock", timeout=0).acquire()
    except Timeout:
        raise OutputError(
            f"Another build is at work in {work}: wait until it ends, or give this one its own folder with --work."
        ) from None
    with lock:
        yield


def run(told: Build, watch: Stopwatch) -> tuple[Built, Catalogue, Understood | None]:
    """Do everything that the options say; a second run of the same only looks whether anything changed.

    Raises:
        OutputError: the output is a file, or another build uses the work folder.
    """
    output = Path(told.output).absolute()
    if output.is_file():
        raise OutputError(f"The output {told.output} is a file; give a folder.")
    work = Path(told.work or f"{output}.work").absolute()
    engine = Engine(told.engine, told.num_proc or processes())
    makers, licence = makers_for(told), terms(told)
    with watch("read"):  # before anything is written: where there is no source, nothing is left behind
        source = open_source(told, engine.num_proc)
        understood = tell(source, told)
    with _alone(work):
        with watch("read"):
            catalogue = store_catalogue(source, told, work / "catalogue", engine.num_proc)
            if understood is not None and not understood.counts:
                rows = {"rows": catalogue.summary["counts"]["rows_in"], "products": len(catalogue.rows)}
                understood.counts = rows | catalogue.summary["changes"]
            logged = open_log(told, source, catalogue, work)
        built = build_dataset(
            catalogue.rows,
            output,
            Origin(source.name, told.synthetic, told.command(source.name), told.seed),
            build_options(told),
            makers,
            logged=logged,
            work=work,
            overwrite=told.overwrite,
            engine=engine,
            terms=licence,
            watch=watch,
            understood=understood.as_dict() if understood else None,
        )
        return built, catalogue, understood


def dry_run(told: Build) -> dict:
    """Print what a build would take, from carrying it out for a few products in a temporary folder.

    Returns:
        The same as figures.
    """
    num_proc, few = told.num_proc or processes(), told.dry_run
    folder = Path(tempfile.mkdtemp(prefix="mbe2-dry-run-"))
    try:
        start = time.perf_counter()
        source = open_source(told, num_proc)
        understood = tell(source, told, count_all=True)
        counted = understood.counts if understood else {}
        total = counted.get("products", 0) + counted.get("rows that cannot be read", 0) or sum(
            1 for _ in islice(source, told.limit)
        )
        shares = IngestOptions(told.seed, told.shares, True, told.max_pixels, told.allow_urls, limit=few)
        catalogue = ingest(source, folder / "catalogue", shares, num_proc)
        facts: dict = {"dry_run": True, "rows": total, "tried": min(few, total)}
        facts |= {"understood": understood.as_dict()} if understood else {}
        print(f"{total:,} rows in the source; {facts['tried']:,} of them tried")
        facts["set_aside"] = catalogue.summary["counts"]["rows_quarantined"]
        rows = (one for one in catalogue.quarantine() if not one["picture"] and not one["column"])
        if problem := next(rows, None):
            facts["first_reason"] = problem["reason"]
            print(f"set aside: {facts['set_aside']} of those tried, the first because {problem['reason']}")
        makers = makers_for(told)
        if isinstance(makers.writer, EndpointWriter):
            sample = catalogue.rows
            expected = estimate(sample, total, learn_gazetteer(sample), makers.writer)
            facts["titles"] = asdict(expected)
            print(
                f"titles: about {expected.calls:,} requests to {makers.writer.model}, {expected.input_tokens:,} tokens "
                f"read, {expected.output_tokens:,} written, cost {expected.cost:,.2f} (no retries; nothing was sent)"
            )
        if told.editor == "endpoint":
            edits = total * told.views
            facts["pictures"] = {"edits": edits, "cost": edits * told.pairs("editor_budget").get("edit", 0.0)}
            print(f"images: about {edits:,} edits, cost {facts['pictures']['cost']:,.2f} (nothing was sent)")
        build_dataset(
            catalogue.rows,
            folder / "mbe2",
            Origin(source.name, told.synthetic, "", told.seed),
            build_options(told),
            makers.without_services(),
            work=folder / "work",
            engine=Engine("processes", num_proc),
        )
        taken = time.perf_counter() - start
        size = sum(path.stat().st_size for path in (folder / "mbe2").rglob("*.parquet"))
        scale = total / max(1, facts["tried"])
        facts |= {"seconds": taken * scale, "bytes": round(size * scale), "num_proc": num_proc}
        print(
            f"time: about {_duration(facts['seconds'])} with {num_proc} processes, without waiting for servers "
            f"({taken:.1f} s for those tried, starting included)"
        )
        print(f"disk: about {size * scale / 1e6:,.0f} MB of Parquet, and as much for the work folder")
        return facts
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def build(told: Build) -> dict:
    """Build a data set, or say what that would take."""
    if told.dry_run:
        return dry_run(told)
    watch = Stopwatch()
    built, catalogue, understood = run(told, watch)
    counts = catalogue.summary["counts"]
    print(
        f"rows in {counts['rows_in']:,} = used {counts['rows_out']:,} + set aside {counts['rows_quarantined']:,}; "
        f"images set aside {counts['pictures_quarantined']:,}"
    )
    quarantine = catalogue.folder / "quarantine.jsonl"
    if counts["rows_quarantined"] or counts["pictures_quarantined"]:
        print(f"reasons: {quarantine}")
    for config, splits in built.rows.items():
        print(f"{config:<9}" + ", ".join(f"{split} {rows:,} rows" for split, rows in splits.items()))
    for kind, count in sorted(built.counts["augmented field"].items()):
        print(f"{kind}: {count:,}")
    output = Path(told.output)
    print(f"took: {watch}")
    print(f"written to {output}" if built.is_new else f"{output} is up to date: nothing was written")
    print(f'load with  load_dataset("{output}")')
    facts = {"output": output, "is_new": built.is_new, "rows": built.rows, "counts": built.counts}
    facts |= {"catalogue": counts, "quarantine": quarantine}
    return facts | ({"understood": understood.as_dict()} if understood else {})


def check(told: Check) -> dict:
    """Check a data set and, if asked, write the report."""
    folder = data_folder(told.dataset, told.revision)
    report = check_dataset(folder, model=told.model, num_proc=told.num_proc, name=told.dataset)
    print("\n".join(report.lines()))
    if told.report is not None:
        write_report(folder, report, told.report, told.samples)
        print(f"the report is in {told.report}")
    return report.as_dict() | {"failed": report.failed}


def push(told: Push) -> dict:
    """Upload a data set, or list what would be uploaded."""
    if told.dry_run:
        sizes = plan_push(told.dataset, told.repo, told.force, told.num_proc)
        for path, size in sizes.items():
            print(f"{size:>14,}  {path}")
        return {"repo": told.repo, "dry_run": True, "files": sizes}
    done = push_dataset(
        told.dataset, told.repo, told.private or None, told.tag, told.message, force=told.force, num_proc=told.num_proc
    )
    if done.uploaded or done.removed:
        print(f"uploaded {done.uploaded} files, removed {done.removed}")
    else:
        print("nothing was new: the Hub has these files already")
    print(f"{done.url} at commit {done.commit}" + (f", tag {told.tag}" if told.tag else ""))
    revision = f', revision="{told.tag}"' if told.tag else ""
    print(f'load with  load_dataset("{told.repo}"{revision})')
    return {"repo": told.repo, "tag": told.tag, **asdict(done)}
