"""The arguments of every command, checked as far as that needs no library: --help and mistakes answer at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common_moon2.cli import UserError, whole, wholes
from common_moon2.fields import option, positional
from common_moon2.source import local_folder

BM25 = "bm25"  # what --model calls matching words
HYBRID = f"+{BM25}"  # what follows the name of a model that is to be used together with words
PRECISIONS = {"float32": 32, "int8": 8, "binary": 1}  # bits of a dimension
VIEWS = ("own", "t", "i", "mm")
DTYPES = ("float32", "float16", "int8")
ENGINES = ("exact", "faiss", "faiss-hnsw", "faiss-ivf")
STORES = ("lancedb", "qdrant", "pgvector")  # that can be asked
# Public product tasks of mteb; docs/benchmark.md says what each asks for.
PUBLIC_TASKS = (
    "Fashion200kT2IRetrieval",
    "Fashion200kI2TRetrieval",
    "FashionIQIT2IRetrieval",
    "SOPI2IRetrieval",
    "RP2kI2IRetrieval",
    "GLAMI1MT2IRetrieval",
    "GLAMI1MI2TRetrieval",
    "ESCIReranking",
)
OWN_TASKS = "MBE2Format-{}"  # of a data set in MBE2.0 format
OWN_NAMES = tuple(map(OWN_TASKS.format, ("t2mm", "i2mm", "mm2mm", "t2i", "i2t", "classification")))
SANITY = 200  # products of the built-in catalogue
# Tables in a single file -> what datasets calls the format.
FILE_KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
CACHE_HELP = "folder of vectors (default: moon2/embeddings in Hugging Face's cache)"
VECTORS_HELP = "folder written by `embed`, or an .npy file"


def refuse_file(output: Path) -> None:
    """Refuse an --output that is a file, before an hour of embedding ends at it."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; give a folder.")


def refuse_without_results(folder: Path) -> None:
    """Refuse a folder that is not the --output of an evaluation."""
    if not (folder / "results.json").exists():
        raise UserError(f"{folder} has no results.json: give the --output of an evaluation.")


@dataclass(frozen=True)
class Options:
    """The options of scoring one model."""

    batch_size: int = option(64, "products embedded at a time", type=whole(1))
    workers: int = option(0, "processes that read large images while the model is at work", type=whole(0))
    by_group: bool = option(False, "products of one group count as one in retrieval", action="store_true")
    dims: list[int] = option(list, "dimensions to cut the vectors to as well, as 256,128,64", type=wholes(1))
    precisions: list[str] = option(
        list, "precisions to store them in as well: float32,int8,binary", type=lambda text: text.split(",")
    )
    seed: int = option(0, "of the bootstrap", type=whole(0))


@dataclass(frozen=True)
class Run(Options):
    """Score models (the default).

    Scores models zero-shot: retrieval in five directions, classification, attribute prediction. Prints a summary and
    writes results.json, results.md and scores.parquet.
    """

    model: list[str] = option(
        help="folder or Hub id of a Moon2 checkpoint, a sentence-transformers model, or a CLIP or SigLIP of "
        "transformers; its code is run. Or bm25, which matches words, or both, as moon2+bm25. Give it several times "
        "for a table side by side",
        action="append",
    )
    model_revision: str | None = option(None, "branch, tag or commit of a --model on the Hub")
    dataset: str = option(help="folder or Hub id of an MBE2.0-format data set (configurations corpus, queries, qrels)")
    dataset_revision: str | None = option(None, "branch, tag or commit of a --dataset on the Hub")
    output: Path = option(help="folder for the results, made if it is not there")
    gallery: str = option(
        "easy",
        "where the products are to be found: easy (the corpus), hard (the corpus and all products of the data set's "
        "triplets), or folder or Hub id of another data set whose corpus is added",
    )
    probe: bool = option(
        False, "also train a linear classifier of categories on the train triplets", action="store_true"
    )
    paper_rows: bool = option(False, "quote the paper's own figures below the table", action="store_true")
    cache: Path | None = option(None, CACHE_HELP)

    @property
    def folders(self) -> dict[str, Path]:
        """Return where each model's results go: the output folder, or folders in it if there are several models."""
        if len(self.model) == 1:
            return {self.model[0]: self.output}
        return {name: self.output / Path(name.rstrip("/")).name for name in self.model}

    def check(self) -> None:
        """Refuse what cannot be done, before the first model is at work."""
        refuse_file(self.output)
        if len(set(self.folders.values())) < len(self.model):
            raise UserError(f"Two of the models have the same last name ({', '.join(self.model)}): rename a folder.")
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise UserError(f"--precisions has {precision!r}; there are {', '.join(PRECISIONS)}.")
        if self.model_revision is not None and len(self.model) > 1:
            raise UserError("--model_revision only means something with a single --model.")
        given = [f"--{name}" for name in ("model_revision", "dims", "precisions", "probe") if getattr(self, name)]
        if self.model == [BM25] and given:
            raise UserError(f"{BM25} matches words and has no vectors: leave out {', '.join(given)}.")
        for name in self.model:
            if name != BM25:
                local_folder("model", name.removesuffix(HYBRID), self.model_revision)
        local_folder("dataset", self.dataset, self.dataset_revision)


@dataclass(frozen=True)
class Suite:
    """Score models on public product tasks.

    Runs mteb's own tasks, and those of a data set in MBE2.0 format if one is given. Prints one table, a row for each
    task and a column for each model. A run that was interrupted goes on where it was when it is started again.
    """

    model: list[str] = option(
        help="folder or Hub id of a model, as `run` takes it (bm25 not); its code is run. Give it several times for a "
        "table side by side",
        action="append",
    )
    model_revision: str | None = option(None, "branch, tag or commit of a --model on the Hub")
    tasks: list[str] = option(
        list,
        f"some of them only, as SOPI2IRetrieval,ESCIReranking; there are {', '.join(PUBLIC_TASKS)}, and with --dataset "
        f"{', '.join(OWN_NAMES)}",
        type=lambda text: text.split(","),
    )
    dataset: str | None = option(None, "folder or Hub id of a data set in MBE2.0 format, whose directions are added")
    dataset_revision: str | None = option(None, "branch, tag or commit of a --dataset on the Hub")
    output: Path = option(Path("suite"), "folder for the results and for suite.md, made if it is not there")
    batch_size: int = option(64, "products embedded at a time", type=whole(1))
    workers: int = option(0, "processes that read large images while the model is at work", type=whole(0))
    cache: Path | None = option(None, CACHE_HELP)

    def check(self) -> None:
        """Refuse what cannot be done, before mteb is imported."""
        refuse_file(self.output)
        known = (*PUBLIC_TASKS, *OWN_NAMES)
        for name in self.tasks:
            if name not in known:
                raise UserError(f"There is no task {name!r} in the suite; there are {', '.join(known)}.")
            if name in OWN_NAMES and self.dataset is None:
                raise UserError(f"The task {name} is one of a data set in MBE2.0 format: give --dataset.")
        if self.dataset is not None:
            local_folder("dataset", self.dataset, self.dataset_revision)
        elif self.dataset_revision is not None:
            raise UserError("--dataset_revision only means something with --dataset.")
        if len(set(self.model)) < len(self.model):
            raise UserError("A --model is given twice.")
        if self.model_revision is not None and len(self.model) > 1:
            raise UserError("--model_revision only means something with a single --model.")
        for name in self.model:
            if name == BM25 or name.endswith(HYBRID):
                raise UserError(f"mteb compares vectors, and {BM25} has none: leave out --model {name}.")
            local_folder("model", name, self.model_revision)


@dataclass(frozen=True)
class Compare:
    """Test the difference between two runs.

    Tests what B's figures differ from A's: a paired bootstrap interval and a permutation test, for every direction and
    metric. Both must be on the same data.
    """

    first: Path = positional("results folder of a run", metavar="A")
    second: Path = positional("results folder of another run", metavar="B")
    seed: int = option(0, "of the resampling", type=whole(0))
    output: Path | None = option(None, "a JSON file to write as well")

    def check(self) -> None:
        """Refuse folders without results."""
        for folder in (self.first, self.second):
            refuse_without_results(folder)


@dataclass(frozen=True)
class Heatmap:
    """Draw what a product's title and photo attend to.

    Draws a product: the photo, the photo with the attention that its patches get from the title and from single words,
    and the title's words with the attention they get. Several products make a contact sheet.
    """

    model: str = option(help="folder or Hub id of a Moon2 checkpoint; its code is run")
    model_revision: str | None = option(None, "branch, tag or commit of a --model on the Hub")
    image: Path | None = option(None, "the product's photo")
    text: str | None = option(None, "the product's title")
    dataset: str | None = option(None, "instead: folder or Hub id of a data set to take products from")
    dataset_revision: str | None = option(None, "branch, tag or commit of a --dataset on the Hub")
    product: str | None = option(None, "which product of the --dataset's corpus (default: the first)", metavar="ID")
    products: str | None = option(None, "several products, on a contact sheet", metavar="ID,ID")
    count: int | None = option(None, "the first so many products, on a contact sheet", type=whole(1))
    sanity: bool = option(
        False,
        f"draw nothing: measure on the built-in catalogue (--count products, {SANITY} by default) how much of the "
        "attention falls on the product, into a JSON file",
        action="store_true",
    )
    seed: int = option(0, "of the built-in catalogue, for --sanity", type=whole(0))
    output: Path | None = option(None, "the PNG file to write (default: heatmap.png; with --sanity sanity.json)")
    words: int = option(5, "single words to draw, those with most attention; on a contact sheet none", type=whole(0))
    layers: int = option(2, "how many of the last layers to average", type=whole(1))

    @property
    def file(self) -> Path:
        """Return the file to write."""
        return self.output or Path("sanity.json" if self.sanity else "heatmap.png")

    def check(self) -> None:
        """Refuse options that do not go together, and a missing folder."""
        given = [f"--{name}" for name in ("image", "text", "dataset", "product", "products") if getattr(self, name)]
        if self.sanity and given:
            raise UserError(f"--sanity looks at the built-in catalogue: leave out {', '.join(given)}.")
        if not self.sanity:
            if self.file.suffix.lower() != ".png":
                raise UserError(f"--output {self.file} must end in .png: that is what is written.")
            self._check_products()
        local_folder("model", self.model, self.model_revision)

    def _check_products(self) -> None:
        chosen = [value for value in (self.product, self.products, self.count) if value is not None]
        if self.dataset is None:
            if chosen:
                raise UserError("--product, --products and --count only mean something with --dataset.")
            if self.dataset_revision is not None:
                raise UserError("--dataset_revision only means something with --dataset.")
            if self.image is None or self.text is None:
                raise UserError("Give --image and --text, or --dataset.")
            return
        if self.image is not None or self.text is not None:
            raise UserError("Give either --image and --text, or --dataset: not both.")
        if len(chosen) > 1:
            raise UserError("Give one of --product, --products and --count.")
        local_folder("dataset", self.dataset, self.dataset_revision)


@dataclass(frozen=True)
class Curves:
    """Draw how a training run went.

    Draws what a training run logged, step by step: losses and their weights, experts, sample filter, similarities,
    validation, optimizer and throughput.
    """

    run: Path = positional("the run's output folder, which holds log.jsonl", metavar="RUN")
    output: Path = option(Path("curves.png"), "the PNG file to write")

    def check(self) -> None:
        """Refuse a run that is not there, and a file that cannot be written."""
        if not self.run.is_dir():
            raise UserError(f"There is no folder {self.run}; give the output folder of a training run.")
        if self.output.suffix.lower() != ".png":
            raise UserError(f"--output {self.output} must end in .png: that is what is written.")
        if not self.output.parent.is_dir():
            raise UserError(f"--output {self.output}: there is no folder {self.output.parent}; make it first.")


@dataclass(frozen=True)
class Embed:
    """Write the vectors of a whole catalogue.

    Embeds every product of a table and writes the vectors as Parquet shards and as .npy. A run that was interrupted
    goes on where it was when it is started again.
    """

    model: str = option(help="folder or Hub id of a model; its code is run")
    model_revision: str | None = option(None, "branch, tag or commit of a --model on the Hub")
    dataset: str = option(help="a Parquet, CSV or JSON Lines file, or folder or Hub id of a data set")
    dataset_revision: str | None = option(None, "branch, tag or commit of a --dataset on the Hub")
    config: str | None = option(None, "which configuration of the data set (default: corpus)")
    split: str | None = option(None, "which split (default: the only one)")
    id_column: str = option("id", "with the ids of the products")
    text_column: str = option("text", 'with their texts; "" for none')
    image_column: str = option("image", 'with their images; "" for none')
    output: Path = option(help="folder for the vectors")
    keep: list[str] = option(
        list,
        "columns to keep beside the vectors, for filters and for stores, as category,price; price:number reads the "
        "text of a CSV file as a number",
        type=lambda text: text.split(","),
    )
    update: bool = option(
        False,
        "embed only what is new or has changed since the folder was made, and remove what is gone",
        action="store_true",
    )
    dry_run: bool = option(
        False, "with --update: only say what there is to do, and how long it takes", action="store_true"
    )
    view: str = option(
        "own", "what to show: what a product has (own), its text (t), its image (i), or both (mm)", choices=VIEWS
    )
    role: Literal["query", "document"] = option("document", "which prompt of the model, if it has any")
    dtype: str = option("float32", "of the stored vectors", choices=DTYPES)
    on_error: Literal["raise", "skip"] = option(
        "raise", "at a product that cannot be embedded: end with its id, or note it in skipped.jsonl"
    )
    num_proc: int = option(1, "processes, each with the model", type=whole(1))
    workers: int = option(0, "of each process, to read images", type=whole(0))
    batch_size: int = option(
        64,
        "products at a time; a run that goes on may have another, which may change the last bits of its vectors",
        type=whole(1),
    )
    shard_size: int = option(4096, "products of a shard", type=whole(1))

    def check(self) -> None:
        """Refuse what is not there, before the model is loaded."""
        refuse_file(self.output)
        if self.dry_run and not self.update:
            raise UserError("--dry_run only means something with --update.")
        local_folder("model", self.model, self.model_revision)
        if Path(self.dataset).suffix.lower() not in FILE_KINDS:
            local_folder("dataset", self.dataset, self.dataset_revision)
        elif not Path(self.dataset).is_file():
            raise UserError(f"There is no file {self.dataset}.")


@dataclass(frozen=True)
class Search:
    """Find the nearest neighbours of many vectors among many.

    Writes the k nearest corpus vectors of every query, by inner product (cosine, as vectors are normalised). The
    default engine is exact, ties broken by id. A search that was interrupted goes on where it was when it is started
    again.
    """

    queries: Path = option(help=VECTORS_HELP)
    corpus: Path = option(help=VECTORS_HELP)
    k: int = option(10, "neighbours of each query", type=whole(1))
    output: Path = option(help="the Parquet file to write")
    engine: str = option(
        "exact",
        "faiss is exact up to float32 sums; faiss-hnsw and faiss-ivf are approximate, and their recall against exact "
        "search is measured on a sample; a store that was loaded from --corpus does all of a query itself",
        choices=(*ENGINES, *STORES),
    )
    location: str | None = option(None, "of the store, as `store` was told")
    name: str = option("products", "of its table or collection")
    precision: Literal["auto", "bfloat16", "float32"] = option(
        "auto", "of the exact engine's first pass; the result does not depend on it"
    )
    hybrid: Literal["weighted", "rrf"] | None = option(
        None,
        "words and vectors together, for which both folders need texts: weighted (the default of --hybrid), or "
        "reciprocal-rank fusion",
        nargs="?",
        const="weighted",
        choices=("weighted", "rrf"),
    )
    weights: Path | None = option(
        None, "of words and vectors: file or folder that `weigh` or a run of model+bm25 has written (default: --corpus)"
    )
    filter: list[str] = option(
        list,
        "only products of which this is true, as category=Shoes or price<50; several times: all must be. The columns "
        "are those that `embed --keep` has kept",
        action="append",
    )
    threads: int | None = option(
        None, "batches of queries searched side by side (default: one for each core)", type=whole(1)
    )

    def check(self) -> None:
        """Refuse vectors that are not there, and an --output that is a folder."""
        for path in (self.queries, self.corpus):
            if not path.exists():
                raise UserError(f"There are no vectors {path}: give a {VECTORS_HELP}.")
        if self.output.is_dir():
            raise UserError(f"--output {self.output} is a folder; give a file.")
        if self.weights is not None and self.hybrid != "weighted":
            raise UserError("--weights only means something with --hybrid.")
        if self.engine.startswith("faiss") and (self.hybrid or self.filter):
            raise UserError(f"--engine {self.engine} searches vectors alone: leave out --hybrid and --filter.")
        if self.engine in STORES and self.hybrid == "rrf":
            raise UserError(f"--hybrid rrf needs --engine exact: {self.engine} adds weighted scores.")
        if (self.engine in STORES) != (self.location is not None):
            raise UserError(f"--location goes with a store as --engine ({', '.join(STORES)}), and the other way round.")


@dataclass(frozen=True)
class Weigh:
    """Fit how much words count beside vectors.

    Takes queries whose right products are known, and writes the weights for `search --hybrid` beside the corpus. They
    depend on whether a query has an image, a number, and rare words.
    """

    queries: Path = option(help="folder written by `embed`")
    corpus: Path = option(help="folder written by `embed`")
    qrels: str = option(help="which product is right for which query: a file, or folder or Hub id of a data set")
    output: Path | None = option(None, "the JSON file to write (default: fusion.json in --corpus)")

    def check(self) -> None:
        """Refuse folders and files that are not there."""
        for path in (self.queries, self.corpus):
            if not path.is_dir():
                raise UserError(f"There is no folder {path}: give one written by `embed`.")
        if Path(self.qrels).suffix.lower() not in FILE_KINDS:
            local_folder("dataset", self.qrels, None)
        elif not Path(self.qrels).is_file():
            raise UserError(f"There is no file {self.qrels}.")


@dataclass(frozen=True)
class Store:
    """Hand vectors to LanceDB, Qdrant, PostgreSQL, OpenSearch or Elasticsearch.

    Copies a folder of vectors, with ids, texts and the columns that `embed --keep` has kept, to a store, or brings it
    up to date. For OpenSearch and Elasticsearch it writes the files that their bulk interface takes. The key of a
    Qdrant server is read from QDRANT_API_KEY, the password of PostgreSQL from PGPASSWORD.
    """

    vectors: Path = option(help=VECTORS_HELP)
    store: Literal["lancedb", "qdrant", "pgvector", "opensearch", "elasticsearch"] = option(help="which kind of store")
    location: str = option(
        help="a folder, or the address of a server, as http://localhost:6333 or postgresql://user@host/database"
    )
    name: str = option("products", "of the table, collection or index")
    update: bool = option(
        False,
        "write only what is new or has changed, and remove what is gone",
        action="store_true",
    )
    index: bool = option(
        False,
        "build an approximate index of the vectors, with LanceDB and PostgreSQL; a Qdrant server does that by itself",
        action="store_true",
    )


@dataclass(frozen=True)
class Report:
    """Write a page with a run's tables, plots and answers.

    Writes report.html into the results folder of a run: its figures, plots, and for a sample of the queries what was
    found, with images. It contains all that it shows. The vectors come from the run's cache.
    """

    results: Path = positional("results folder of `python -m evaluation run`", metavar="RESULTS")
    model: str | None = option(None, "where the run's model is now (default: where it was)")
    dataset: str | None = option(None, "where the run's data set is now (default: where it was)")
    queries: int = option(10, "to show of each direction", type=whole(0))
    products: int = option(400, "in the plots of experts and of the embedding", type=whole(3))
    seed: int = option(0, "of both samples", type=whole(0))
    cache: Path | None = option(None, CACHE_HELP)

    def check(self) -> None:
        """Refuse a folder without results."""
        refuse_without_results(self.results)
