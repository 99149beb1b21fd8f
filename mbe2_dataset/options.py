"""What `python -m mbe2_dataset build` can be told, on the command line or in a YAML file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from common_moon2.fields import FieldParser, read_fields
from mbe2_dataset.build import BuildOptions
from mbe2_dataset.output.card import Terms
from mbe2_dataset.triplets.negatives import Hardness

SYNTHETIC_FALSE_POSITIVES = 0.08
SYNTHETIC_SIZES = {"num_products": 2400, "num_validation": 120, "num_test": 500, "picture_size": 96}


class OptionError(ValueError):
    """An option that cannot be, or that does not go with another; the message names it."""


def _told(default, help: str, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class SourceArguments:
    """The catalogue, and the queries of shoppers where there are some."""

    _argument_group_name = "the catalogue"

    catalogue: str = _told(
        "", "'synthetic' (built in: drawn products with known truth and noise); a folder or file of Parquet, CSV, TSV "
        "or JSONL with pictures inside or beside it; or user/name of a data set on the Hub.",
    )  # fmt: skip
    format: Literal["table", "triplets", "m5product", "fashion200k"] = _told(
        "table", "How the catalogue is laid out: a product to a row (MBE v1 among them), a triplet to a row (the "
        "authors' MBE2.0), or the published layout of M5Product or Fashion200K.",
    )  # fmt: skip
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Which columns hold what, where the names are not usual: title=product_name images=front,back ..."
        },
    )
    columns_file: str | None = _told(None, "The same as a YAML file.")
    encoding: str = _told("utf-8-sig", "Of CSV, TSV and JSONL.")
    pictures: str | None = _told(None, "Folder in which the paths of pictures begin; by default that of the table.")
    only: list[str] = field(default_factory=list, metadata={"help": "Read only rows with these values: locale=us ..."})
    hub_config: str | None = _told(None, "Of a Hub data set: its configuration.")
    hub_split: str | None = _told(None, "Of a Hub data set: one split only.")
    hub_revision: str | None = _told(None, "Of a Hub data set: branch, tag or, to be sure what is read, commit.")
    allow_urls: bool = _told(False, "Fetch pictures that are given by http(s) addresses of the public Internet.")
    max_pixels: int | None = _told(None, "Store larger pictures at this many pixels; by default as they are.")
    split_shares: str = _told("0.8,0.1,0.1", "Train, validation and test, by group, where the source has no splits.")
    assign_splits: bool = _told(False, "Assign splits by split_shares even if the source has some.")
    limit: int | None = _told(None, "Take only the first rows of the source.")
    search_log: str | None = _told(
        None, "A table of queries, items and labels (ESCI's E/S/C/I and others) or counts of purchases, clicks and "
        "exposures: bought is positive, shown and not bought is negative.",
    )  # fmt: skip
    log_columns: list[str] = field(default_factory=list, metadata={"help": "As columns, for the search log."})
    log_only: list[str] = field(default_factory=list, metadata={"help": "As only, for the search log."})
    min_exposures: int = _told(1, "An item of the log that was shown fewer times is no negative.")
    num_products: int | None = _told(None, "Synthetic only: train products; left out: 2400.")
    num_validation: int | None = _told(None, "Synthetic only: validation products; left out: 120.")
    num_test: int | None = _told(None, "Synthetic only: test products; left out: 500.")
    picture_size: int | None = _told(None, "Synthetic only: width and height of the pictures; left out: 96.")

    def __post_init__(self):
        if not self.catalogue:
            raise OptionError("Give --catalogue: 'synthetic', a folder or file, or user/name of a data set on the Hub.")
        sizes = [name for name in SYNTHETIC_SIZES if getattr(self, name) is not None]
        if sizes and not self.synthetic:
            raise OptionError(
                f"{', '.join(f'--{name}' for name in sizes)} only means something with the synthetic catalogue."
            )
        for name, least in (("num_products", 1), ("num_validation", 0), ("num_test", 1), ("picture_size", 16),
                            ("limit", 1), ("max_pixels", 1), ("min_exposures", 1)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"--{name} must be at least {least}, not {value}.")
        self.shares = _numbers("split_shares", self.split_shares, 3)
        if not all(share >= 0 for share in self.shares) or not sum(self.shares) > 0:
            raise OptionError(f"--split_shares must be three shares like 0.8,0.1,0.1, not {self.split_shares!r}.")
        if self.search_log is None and (self.log_columns or self.log_only or self.min_exposures != 1):
            raise OptionError("--log_columns, --log_only and --min_exposures only mean something with --search_log.")

    @property
    def synthetic(self) -> bool:
        return self.catalogue == "synthetic"

    @property
    def sizes(self) -> dict[str, int]:
        """Of the synthetic catalogue."""
        return {
            name: default if getattr(self, name) is None else getattr(self, name)
            for name, default in SYNTHETIC_SIZES.items()
        }


@dataclass
class TripletArguments:
    """Query, positive, negative."""

    _argument_group_name = "query, positive, negative"

    query_mix: str = _told("1,1,1", "Shares of text, image and mixed queries among those made from listings.")
    made_queries: bool = _told(
        True, "Make queries from listings; with a search log they come in addition to the shoppers' own."
    )
    negatives: Literal["category", "random", "mined"] = _told(
        "category", "Where negatives come from that no log gives: the nearest category, anywhere, or the neighbours in "
        "a model's space.",
    )  # fmt: skip
    negative_model: str | None = _told(
        None, "With mined negatives: a multimodal sentence-transformers or Moon2 model. Its code is run."
    )
    negative_model_revision: str | None = _told(None, "Branch, tag or commit of it on the Hub.")
    hardness: str = _told("5,50", "With mined negatives: nearest and farthest rank that may be drawn.")
    most_alike: float = _told(0.95, "With mined negatives: what is more similar may be the same thing, and is none.")
    false_positive_rate: float | None = _told(
        None,
        "Share of train triplets that get a wrong positive, to test filtering; left out: 0.08 for synthetic, else 0.",
    )

    def __post_init__(self):
        self.mix = _numbers("query_mix", self.query_mix, 3)
        if not all(0 <= share < float("inf") for share in self.mix) or sum(self.mix) == 0:
            raise OptionError(f"--query_mix must be three shares like 1,1,1, not {self.query_mix!r}.")
        if self.false_positive_rate is not None and not 0 <= self.false_positive_rate <= 1:
            raise OptionError(f"--false_positive_rate must lie between 0 and 1, not {self.false_positive_rate}.")
        if (self.negatives == "mined") != (self.negative_model is not None):
            raise OptionError("--negatives mined and --negative_model go together.")
        nearest, farthest = _numbers("hardness", self.hardness, 2)
        try:
            self.window = Hardness(int(nearest), int(farthest), self.most_alike)
        except ValueError as error:
            raise OptionError(f"--hardness or --most_alike: {error}") from error


@dataclass
class TitleArguments:
    """Enriched titles (MOON2.0, section 5)."""

    _argument_group_name = "enriched titles"

    titles: Literal["template", "endpoint", "local", "none"] = _told(
        "template",
        "Who writes them: offline templates, a server with the OpenAI chat API, or a local transformers model.",
    )
    title_model: str | None = _told(None, "Name of the model at the server; or its id or folder.")
    title_model_revision: str | None = _told(None, "Its revision, for the record; of a local model: on the Hub.")
    title_endpoint: str | None = _told(None, "Address of the server, like http://localhost:8000/v1.")
    title_pictures: bool = _told(True, "Show the picture to the model.")
    title_entities: bool = _told(False, "Let the model extract entities, too.")
    title_concurrency: int = _told(4, "Requests at a time.")
    title_max_requests: int | None = _told(None, "Stop before more requests than this.")
    title_max_tokens: int | None = _told(None, "Stop before more tokens than this.")
    title_max_cost: float | None = _told(None, "Stop before it costs more than this, in the currency of the prices.")
    title_prices: str = _told("0,0", "For a million tokens read, and written.")
    api_key_env: str = _told("OPENAI_API_KEY", "Environment variable with the key of the servers.")

    def __post_init__(self):
        self.prices = _numbers("title_prices", self.title_prices, 2)
        served = self.titles == "endpoint"
        if served != (self.title_endpoint is not None):
            raise OptionError("--titles endpoint and --title_endpoint go together.")
        if (self.titles in ("endpoint", "local")) != (self.title_model is not None):
            raise OptionError("--title_model names the model of --titles endpoint or local, and only of these.")
        budget = [
            name
            for name in ("title_max_requests", "title_max_tokens", "title_max_cost")
            if getattr(self, name) is not None
        ]
        if budget and not served:
            raise OptionError(f"--{budget[0]} only means something with --titles endpoint.")


@dataclass
class PictureArguments:
    """Changed views (MOON2.0, section 5)."""

    _argument_group_name = "changed views"

    augmented_images: int = _told(1, "Changed views of each product (n_c in the paper).")
    subject: Literal["classical", "rembg", "segmentation", "none"] = _told(
        "classical", "Who finds the subject of a photo: classical segmentation, rembg, a transformers segmentation "
        "model, or nobody (then the editor does).",
    )  # fmt: skip
    subject_model: str | None = _told(None, "Name or ONNX file of rembg's model; id or folder of a segmentation model.")
    subject_labels: list[str] = field(
        default_factory=list, metadata={"help": "Labels of the segmentation model that are the subject; none: all."}
    )
    editor: Literal["none", "endpoint", "diffusers"] = _told(
        "none", "Who changes the picture: geometry and light, a server with the OpenAI images/edits API, or a "
        "diffusers pipeline.",
    )  # fmt: skip
    editor_model: str | None = _told(None, "Name of the model at the server; or id or folder of the pipeline.")
    editor_endpoint: str | None = _told(None, "Address of the server.")
    editor_concurrency: int = _told(4, "Products at a time at the server.")
    editor_max_cost: float | None = _told(None, "Stop before it costs more than this.")
    editor_price: float = _told(0.0, "For one edit.")

    def __post_init__(self):
        if self.augmented_images < 0:
            raise OptionError(f"--augmented_images must be at least 0, not {self.augmented_images}.")
        if self.subject == "none" and self.editor == "none" and self.augmented_images:
            raise OptionError("--subject none needs an --editor, which then finds the subject itself.")
        if (self.editor == "endpoint") != (self.editor_endpoint is not None):
            raise OptionError("--editor endpoint and --editor_endpoint go together.")
        if (self.editor != "none") != (self.editor_model is not None):
            raise OptionError("--editor endpoint or diffusers and --editor_model go together.")
        if self.subject == "segmentation" and self.subject_model is None:
            raise OptionError("--subject segmentation needs --subject_model.")


@dataclass
class ConsistencyArguments:
    """Whether picture and title still say the same."""

    _argument_group_name = "consistency of picture and title"

    consistency_model: str | None = _told(
        None,
        "CLIP, SigLIP, or a multimodal sentence-transformers or Moon2 model, whose code is run. Scores are stored.",
    )
    consistency_model_revision: str | None = _told(None, "Branch, tag or commit of it on the Hub.")
    consistency_threshold: str | None = _told(
        None, "What scores less is recorded but not published: 0.2, or 5%% for the lowest twentieth."
    )

    def __post_init__(self):
        if self.consistency_threshold is not None and self.consistency_model is None:
            raise OptionError("--consistency_threshold only means something with --consistency_model.")


@dataclass
class OutputArguments:
    """Where everything goes, and how it is worked on."""

    _argument_group_name = "output"

    output: str = _told("", "Folder to write; must be absent or empty.")
    overwrite: bool = _told(False, "Replace the folder if it holds an MBE2.0-format data set.")
    work: str | None = _told(
        None, "Folder of the stored catalogue and the journal; by default OUTPUT.work. With it a build that was "
        "stopped goes on, and nothing is paid for twice.",
    )  # fmt: skip
    seed: int = _told(0, "The same seed gives the same bytes.")
    rows_per_shard: int = _told(1000, "Triplets in one Parquet file.")
    engine: Literal["processes", "ray"] = _told(
        "processes", "Where the work is done: in processes of this machine, or by Ray Data on a cluster that sees the "
        "same folders. It changes the speed, never the result.",
    )  # fmt: skip
    num_proc: int | None = _told(None, "Processes; left out: one for each core.")
    dry_run: bool = _told(False, "Make nothing: try a few products and say what the build would take.")
    json: bool = _told(False, "Print the answer as JSON, and nothing else, on stdout.")
    dry_run_rows: int = _told(100, "So many products are tried.")
    licence: str | None = _told(None, "Of the catalogue, as the Hub names it (cc-by-4.0 ...), or 'other'.")
    licence_name: str | None = _told(None, "With licence other: its name; left out: as-the-source-catalogue.")
    licence_link: str | None = _told(None, "With licence other: where it can be read.")
    languages: str = _told("", "Of the texts, like en,zh.")
    attribution: str = _told("", "A sentence for the card on where the catalogue comes from.")

    def __post_init__(self):
        if not self.output:
            raise OptionError("Give --output: the folder to write.")
        for name, least in (("seed", 0), ("rows_per_shard", 1), ("dry_run_rows", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"--{name} must be at least {least}, not {getattr(self, name)}.")
        if self.num_proc is not None and self.num_proc < 1:
            raise OptionError(f"--num_proc must be at least 1, not {self.num_proc}.")
        if self.licence is None and (self.languages or self.attribution or self.licence_name or self.licence_link):
            raise OptionError("--languages, --attribution, --licence_name and --licence_link need --licence.")

    def terms(self) -> Terms | None:
        """For the card; None: what is usual."""
        if self.licence is None:
            return None
        languages = tuple(code.strip() for code in self.languages.split(",") if code.strip())
        try:
            return Terms(self.licence, self.licence_name, self.licence_link, languages, self.attribution)
        except ValueError as error:
            raise OptionError(f"--licence: {error}") from error


class Options(NamedTuple):
    """Everything a build was told."""

    source: SourceArguments
    triplets: TripletArguments
    titles: TitleArguments
    pictures: PictureArguments
    consistency: ConsistencyArguments
    output: OutputArguments

    def build_options(self) -> BuildOptions:
        rate = self.triplets.false_positive_rate
        return BuildOptions(
            seed=self.output.seed,
            query_mix=self.triplets.mix,
            made_queries=self.triplets.made_queries,
            false_positive_rate=(SYNTHETIC_FALSE_POSITIVES if self.source.synthetic else 0.0) if rate is None else rate,
            negatives=self.triplets.negatives,
            hardness=self.triplets.window,
            rows_per_shard=self.output.rows_per_shard,
        )

    def command(self, name: str) -> str:
        """The command for the card: all that shapes the data and is not the default, and no path of this machine."""
        words = [f"python -m mbe2_dataset build --catalogue {name} --output mbe2"]
        for part in self:
            defaults = {field.name: field for field in part.__dataclass_fields__.values()}
            for name, value in asdict(part).items():
                if name in _NOT_IN_COMMAND or value in (None, defaults[name].default, []):
                    continue
                shown = [
                    Path(text).name if name in _PATHS else text
                    for text in (value if isinstance(value, list) else [value])
                ]
                words.append(f"--{name} {' '.join(_quoted(text) for text in shown)}")
        return " ".join(words)


_PATHS = {"columns_file", "pictures", "search_log", "negative_model", "title_model", "subject_model", "editor_model",
          "consistency_model"}  # fmt: skip
_NOT_IN_COMMAND = {"catalogue", "output", "overwrite", "work", "num_proc", "engine", "dry_run", "dry_run_rows", "json",
                   "api_key_env", "title_concurrency", "editor_concurrency", "title_endpoint",
                   "editor_endpoint"}  # fmt: skip


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f'"{text}"' if " " in text or not text else text


def build_parser() -> FieldParser:
    return FieldParser(
        Options.__annotations__.values(),
        prog="python -m mbe2_dataset build",
        usage="%(prog)s [OPTIONS.yaml] --catalogue SRC --output DIR [--option value ...]",
        description="Turns a product catalogue into MBE2.0-format training triplets and a retrieval benchmark. Every "
        "option may also stand in a YAML file, which is the first argument then.",
        examples=EXAMPLES,
    )


EXAMPLES = (
    "python -m mbe2_dataset build --catalogue synthetic --output mbe2",
    "python -m mbe2_dataset build --catalogue my_catalogue --output mbe2 --augmented_images 2 --query_mix 2,1,1",
    "python -m mbe2_dataset build --catalogue shop.csv --columns title=name images=photo --output mbe2 --dry_run",
    "python -m mbe2_dataset build --catalogue my_catalogue --search_log clicks.parquet --output mbe2 --json",
)


def read_options(argv: list[str]) -> Options:
    """Reads `[OPTIONS.yaml] [--option value ...]`; the command line wins over the file.

    Raises:
        OptionError: no such file or option, or a value that cannot be; the message names it.
    """
    parser = build_parser()
    file = argv[0] if argv and not argv[0].startswith("-") else None
    try:
        read_fields(parser, argv, file)
    except ValueError as error:
        raise OptionError(str(error)) from error
    return Options(*parser.read(argv[file is not None :]))


def _numbers(name: str, text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in str(text).split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise OptionError(f"--{name} must be {count} numbers with commas between them, not {text!r}.")
    return numbers
