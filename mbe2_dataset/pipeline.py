"""From options to a finished data set: source, catalogue, search log, build; and what it would take."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from mbe2_dataset.build import Built, OutputError, build_dataset
from mbe2_dataset.catalogue import (
    Fashion200K,
    HubTables,
    LocalTables,
    LoggedQuery,
    M5Product,
    ProductSource,
    Source,
    Tables,
    TripletSource,
    join_log,
    log_events,
    parse_columns,
    read_columns,
)
from mbe2_dataset.catalogue.ingest import IngestOptions, ingest
from mbe2_dataset.catalogue.search_log import LOG_QUARANTINE
from mbe2_dataset.catalogue.store import Catalogue, CatalogueError
from mbe2_dataset.coaugmentation.makers import makers_for
from mbe2_dataset.coaugmentation.titles.gazetteer import learn_gazetteer
from mbe2_dataset.coaugmentation.titles.writers import EndpointWriter, estimate
from mbe2_dataset.options import Options, SourceArguments
from mbe2_dataset.output.card import Origin
from mbe2_dataset.parallel import Engine, Stopwatch
from mbe2_dataset.synthetic import SyntheticSource


def open_source(told: SourceArguments, seed: int, num_proc: int) -> Source:
    """The source that the options name.

    Raises:
        CatalogueError: there is none, or it is laid out otherwise.
    """
    if told.synthetic:
        return SyntheticSource(seed, **told.sizes, num_proc=num_proc)
    if told.format == "fashion200k":
        return Fashion200K(told.catalogue)
    columns = (read_columns(told.columns_file) if told.columns_file else {}) | parse_columns(told.columns)
    if told.format == "m5product":
        return M5Product(told.catalogue, told.pictures, columns, told.encoding)
    only = {name: value[0] for name, value in parse_columns(told.only).items() if value}
    kind = TripletSource if told.format == "triplets" else ProductSource
    return kind(_tables(told), columns, told.pictures, only)


def _tables(told: SourceArguments) -> Tables:
    named = told.catalogue
    on_hub = not Path(named).exists() and named.count("/") == 1 and not named.startswith((".", "/"))
    if on_hub or told.hub_config or told.hub_split or told.hub_revision:
        return HubTables(named, told.hub_config, told.hub_split, told.hub_revision)
    return LocalTables(named, told.encoding)


def store_catalogue(source: Source, told: SourceArguments, folder: Path, seed: int, num_proc: int) -> Catalogue:
    """The catalogue of the source, stored in `folder`.

    Raises:
        CatalogueError: it cannot be read, or has no row to train or to test with.
    """
    options = IngestOptions(
        seed=seed,
        shares=told.shares,
        assign_splits=told.assign_splits,
        max_pixels=told.max_pixels,
        allow_urls=told.allow_urls,
        limit=told.limit,
    )
    catalogue = ingest(source, folder, options, num_proc, overwrite=True)
    for split, wanted in (("train", "triplets need"), ("test", "the benchmark needs")):
        if not catalogue.summary["rows"][split]:
            raise CatalogueError(
                f"The catalogue {told.catalogue} has no row in the split '{split}', which {wanted}: give rows that "
                f"split, or let splits be made (--assign_splits true --split_shares 0.8,0.1,0.1)."
            )
    return catalogue


def open_log(told: SourceArguments, source: Source, catalogue: Catalogue, work: Path) -> Sequence[LoggedQuery]:
    """The queries of shoppers: of the search log, or of a source of triplets; none otherwise."""
    if told.search_log is not None:
        only = {name: value[0] for name, value in parse_columns(told.log_only).items() if value}
        tables = LocalTables(told.search_log, told.encoding)
        events, pictures = log_events(tables, parse_columns(told.log_columns), only), tables.folder
    elif isinstance(source, TripletSource):
        events, pictures = source.events(), source.folder
    else:
        return ()
    items = {row.id for row in catalogue.rows}
    log = join_log(events, items, work / "log", pictures, told.allow_urls, told.min_exposures)
    print("search log: " + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in log.counts.items()))
    if not log.queries:
        reasons = work / "log" / LOG_QUARANTINE
        raise CatalogueError(f"No query of the search log has a right item in the catalogue; see {reasons}.")
    return log.queries


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keeps other builds out of the work folder, until the block or the process ends."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(work / "lock", timeout=0).acquire()
    except Timeout:
        raise OutputError(
            f"Another build is at work in {work}: wait until it ends, or give this one its own folder with --work."
        ) from None
    with lock:
        yield


def run(options: Options, watch: Stopwatch) -> tuple[Built, Catalogue]:
    """Everything; a second run of the same does nothing but look.

    Raises:
        OutputError: the output is a file, or another build uses the work folder.
    """
    told = options.output
    output = Path(told.output).absolute()
    if output.is_file():
        raise OutputError(f"The output {told.output} is a file; give a folder.")
    work = Path(told.work or f"{output}.work").absolute()
    engine = Engine(told.engine, told.num_proc or os.cpu_count() or 1)
    makers = makers_for(options)
    with watch("read"):  # before anything is written: where there is no source, nothing is left behind
        source = open_source(options.source, told.seed, engine.num_proc)
    with _alone(work):
        with watch("read"):
            catalogue = store_catalogue(source, options.source, work / "catalogue", told.seed, engine.num_proc)
            logged = open_log(options.source, source, catalogue, work)
        origin = Origin(
            catalogue=source.name,
            synthetic=options.source.synthetic,
            command=options.command(source.name),
            seed=told.seed,
        )
        built = build_dataset(
            catalogue.rows,
            output,
            origin,
            options.build_options(),
            makers,
            logged=logged,
            work=work,
            overwrite=told.overwrite,
            engine=engine,
            terms=told.terms(),
            watch=watch,
        )
        return built, catalogue


def dry_run(options: Options) -> dict:
    """Says what a build would take, from carrying it out for a few products in a temporary folder.

    Returns:
        The same as figures.
    """
    num_proc, seed = options.output.num_proc or os.cpu_count() or 1, options.output.seed
    folder = Path(tempfile.mkdtemp(prefix="mbe2-dry-run-"))
    few = options.output.dry_run_rows
    try:
        start = time.perf_counter()
        source = open_source(options.source, seed, num_proc)
        total = options.source.limit or sum(1 for _ in source)
        shares = IngestOptions(seed, options.source.shares, True, options.source.max_pixels, False, limit=few)
        catalogue = ingest(source, folder / "catalogue", shares, num_proc)
        facts: dict = {"dry_run": True, "rows": total, "tried": min(few, total)}
        print(f"{total:,} rows in the source; {facts['tried']:,} of them tried")
        facts["set_aside"] = catalogue.summary["counts"]["rows_quarantined"]
        if problem := next(catalogue.quarantine(), None):
            facts["first_reason"] = problem["reason"]
            print(f"set aside: {facts['set_aside']} of those tried, the first because {problem['reason']}")
        makers = makers_for(options)
        if isinstance(makers.writer, EndpointWriter):
            sample = catalogue.rows
            expected = estimate(sample, total, learn_gazetteer(sample), makers.writer)
            facts["titles"] = asdict(expected)
            print(
                f"titles: about {expected.calls:,} requests to {makers.writer.model}, {expected.input_tokens:,} tokens "
                f"read, {expected.output_tokens:,} written, cost {expected.cost:,.2f} (no retries; nothing was sent)"
            )
        if options.pictures.editor == "endpoint":
            edits = total * options.pictures.augmented_images
            facts["pictures"] = {"edits": edits, "cost": edits * options.pictures.editor_price}
            print(f"pictures: about {edits:,} edits, cost {facts['pictures']['cost']:,.2f} (nothing was sent)")
        offline = makers.without_services()
        origin = Origin(source.name, options.source.synthetic, "", seed)
        build_dataset(catalogue.rows, folder / "mbe2", origin, options.build_options(), offline, work=folder / "work",
                      engine=Engine("processes", num_proc))  # fmt: skip
        taken = time.perf_counter() - start
        size = sum(path.stat().st_size for path in (folder / "mbe2").rglob("*.parquet"))
        scale = total / max(1, min(few, total))
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
