"""What the commands of `python -m mbe2_dataset` can be told, on the command line or, for `build`, in a YAML file."""

import dataclasses
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_origin

from common_moon2.cli import whole
from common_moon2.fields import Command, option, positional
from common_moon2.hub import check_repo_id
from common_moon2.source import local_folder
from mbe2_dataset.catalogue.columns import LAYOUTS
from mbe2_dataset.errors import CheckError, OptionError, PublishError

FORMATS = ("auto", "table", "triplets", "fashion200k", *LAYOUTS)
SYNTHETIC_FALSE_POSITIVES = 0.08
NO_LOG = "none"
SYNTHETIC_SIZES = {"num_products": 2400, "num_validation": 120, "num_test": 500, "picture_size": 96}
# Options of several words like 'cost=20': what each word is. The first word of a licence is the licence.
PAIRS = {
    "hub": {"config": str, "split": str},
    "title_budget": {"requests": int, "tokens": int, "cost": float, "read": float, "written": float},
    "editor_budget": {"cost": float, "edit": float},
    "licence": {"name": str, "link": str, "attribution": str},
    "revisions": dict.fromkeys(("catalogue", "negative_model", "title_model", "consistency_model"), str),
}
# Products that `--dry_run` tries.
DRY_RUN_ROWS = 100
# Options of earlier versions, and what says the same now.
MOVED = {
    "hub_config": "--hub config=...",
    "hub_split": "--hub split=...",
    "log_only": "--only log:COLUMN=VALUE",
    "made_queries": "--query_mix none (for false)",
    "most_alike": "the third number of --hardness",
    "title_pictures": "--title_uses picture (or text, for false)",
    "title_entities": "--title_uses entities",
    "title_concurrency": "--concurrency",
    "editor_concurrency": "--concurrency",
    "title_max_requests": "--title_budget requests=...",
    "title_max_tokens": "--title_budget tokens=...",
    "title_max_cost": "--title_budget cost=...",
    "title_prices": "--title_budget read=... written=...",
    "editor_max_cost": "--editor_budget cost=...",
    "editor_price": "--editor_budget edit=...",
    "subject_labels": "the words after the model in --subject_model",
    "dry_run_rows": "--dry_run ROWS",
    "licence_name": "--licence other name=...",
    "licence_link": "--licence other link=...",
    "attribution": "--licence ... attribution=...",
}


def processes() -> int:
    """Return one process for each core."""
    return os.cpu_count() or 1


def _tried(text: str) -> int:
    """Read how many products a dry run tries, or whether there is one."""
    return {"true": DRY_RUN_ROWS, "false": 0}[text.lower()] if text.lower() in ("true", "false") else int(text)


_tried.__name__ = "number of rows"  # as argparse calls it


@dataclass
class SourceArguments:
    """The catalogue, and the queries of shoppers where there are some."""

    _argument_group_name = "the catalogue"

    catalogue: str = option(
        "", "'synthetic' (built in: drawn products with known truth and noise); a folder or file of Parquet, CSV, TSV, "
        "text, JSON, XML or Excel with images inside or beside it; a folder of images or WebDataset; or user/name of "
        "a data set on the Hub.",
    )  # fmt: skip
    format: str = option(
        "auto", "How the catalogue is laid out, where that is not found by itself: table (a product to a row, by the "
        "names of its columns), triplets (the authors' MBE2.0), fashion200k, or one of " + ", ".join(LAYOUTS) + ".",
        type=str, choices=FORMATS, metavar="LAYOUT",
    )  # fmt: skip
    columns: list[str] = option(
        list, "Which columns hold what, where they are not found: title=product_name images=front,back, also "
        "images=images/{id}.jpg ...",
    )  # fmt: skip
    encoding: str | None = option(None, "Of text and JSON; left out: what the file looks like.")
    pictures: str | None = option(None, "Folder in which the paths of images begin; by default that of the table.")
    only: list[str] = option(
        list, "Read only rows with these values: locale=us ...; of the search log: log:locale=us ..."
    )
    hub: list[str] = option(list, "Of a Hub data set: its configuration, or one split only: config=... split=...")
    allow_urls: bool = option(False, "Fetch images that are given by http(s) addresses of the public Internet.")
    max_pixels: int | None = option(None, "Store larger images at this many pixels; by default as they are.")
    split_shares: str = option("0.8,0.1,0.1", "Train, validation and test, by group, where the source has no splits.")
    assign_splits: bool = option(False, "Assign splits by split_shares even if the source has some.")
    limit: int | None = option(None, "Take only the first rows of the source.")
    search_log: str | None = option(
        None, "A table of queries, items and labels (ESCI's E/S/C/I and others) or counts of purchases, clicks and "
        "exposures: bought is positive, shown and not bought is negative; none: not even the one that a catalogue has.",
    )  # fmt: skip
    log_columns: list[str] = option(list, "As columns, for the search log.")
    num_products: int | None = option(None, "Synthetic only: train products; left out: 2400.")
    num_validation: int | None = option(None, "Synthetic only: validation products; left out: 120.")
    num_test: int | None = option(None, "Synthetic only: test products; left out: 500.")
    picture_size: int | None = option(None, "Synthetic only: width and height of the images; left out: 96.")

    def check(self) -> None:
        """Raise an OptionError for what cannot be."""
        if not self.catalogue:
            raise OptionError("Give --catalogue: 'synthetic', a folder or file, or user/name of a data set on the Hub.")
        sizes = [name for name in SYNTHETIC_SIZES if getattr(self, name) is not None]
        if sizes and not self.synthetic:
            raise OptionError(
                f"{', '.join(f'--{name}' for name in sizes)} only means something with the synthetic catalogue."
            )
        _at_least(self, num_products=1, num_validation=0, num_test=1, picture_size=16, limit=1, max_pixels=1)
        if min(self.shares) < 0 or sum(self.shares) == 0:
            raise OptionError(f"--split_shares must be three shares like 0.8,0.1,0.1, not {self.split_shares!r}.")
        if self.search_log in (None, NO_LOG) and self.log_columns:
            raise OptionError("--log_columns only means something with --search_log.")
        if self.search_log == NO_LOG and self.query_mix == "none":
            raise OptionError("--search_log none and --query_mix none leave no query: leave one of them out.")

    @property
    def synthetic(self) -> bool:
        """Tell whether the catalogue is the built-in one."""
        return self.catalogue == "synthetic"

    @property
    def sizes(self) -> dict[str, int]:
        """Return the sizes of the synthetic catalogue."""
        told = {name: getattr(self, name) for name in SYNTHETIC_SIZES}
        return SYNTHETIC_SIZES | {name: size for name, size in told.items() if size is not None}

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the shares of train, validation and test."""
        return _numbers("split_shares", self.split_shares, 3)


@dataclass
class TripletArguments:
    """Query, positive, negative."""

    _argument_group_name = "query, positive, negative"

    query_mix: str = option(
        "1,1,1", "Shares of text, image and mixed queries among those made from products, which come in addition to "
        "those of a search log; or none: only the shoppers' own.",
    )  # fmt: skip
    negatives: Literal["category", "random", "mined"] = option(
        "category", "Where negatives come from that no log gives: the nearest category, anywhere, or the neighbours in "
        "a model's space.",
    )  # fmt: skip
    negative_model: str | None = option(
        None, "With mined negatives: a multimodal sentence-transformers or Moon2 model. Its code is run."
    )
    hardness: str = option(
        "5,50,0.95", "With mined negatives: nearest and farthest rank that may be drawn, and the greatest similarity: "
        "what is more similar may be the same thing.",
    )  # fmt: skip
    false_positive_rate: float | None = option(
        None,
        "Share of train triplets that get a wrong positive, to test filtering; left out: 0.08 for synthetic, else 0.",
    )

    def check(self) -> None:
        """Raise an OptionError for what cannot be."""
        if min(self.mix) < 0 or sum(self.mix) == 0:
            raise OptionError(f"--query_mix must be three shares like 1,1,1, not {self.query_mix!r}.")
        if self.false_positive_rate is not None and not 0 <= self.false_positive_rate <= 1:
            raise OptionError(f"--false_positive_rate must lie between 0 and 1, not {self.false_positive_rate}.")
        if (self.negatives == "mined") != (self.negative_model is not None):
            raise OptionError("--negatives mined and --negative_model go together.")
        nearest, farthest, most_alike = self.window
        if not (1 <= nearest <= farthest and -1 < most_alike <= 1):
            raise OptionError(
                f"--hardness must be two whole ranks, the nearest from 1, and a cosine similarity above -1 and up to "
                f"1, like 5,50,0.95, not {self.hardness!r}."
            )

    @property
    def mix(self) -> tuple[float, ...]:
        """Return the shares of text, image and mixed queries."""
        return _numbers("query_mix", self.query_mix, 3) if self.made_queries else (1.0, 1.0, 1.0)

    @property
    def made_queries(self) -> bool:
        """Tell whether queries are made from products."""
        return self.query_mix != "none"

    @property
    def window(self) -> tuple[int, int, float]:
        """Return the nearest and the farthest rank of a mined negative, and its greatest similarity."""
        told = self.hardness if self.hardness.count(",") == 2 else f"{self.hardness},0.95"
        *ranks, most_alike = _numbers("hardness", told, 3)
        nearest, farthest = (int(rank) if rank.is_integer() else 0 for rank in ranks)  # 0 is refused by `check`
        return nearest, farthest, most_alike


@dataclass
class TitleArguments:
    """Enriched titles (MOON2.0, section 5)."""

    _argument_group_name = "enriched titles"

    titles: Literal["template", "endpoint", "local", "none"] = option(
        "template",
        "Who writes them: offline templates, a server with the OpenAI chat API, or a local transformers model.",
    )
    title_model: str | None = option(None, "Name of the model at the server; or its id or folder.")
    title_endpoint: str | None = option(None, "Address of the server, like http://localhost:8000/v1.")
    title_uses: str = option(
        "picture", "What the model does: picture (it is shown the image), entities (it extracts them, too), both, "
        "with a comma between them, or text (neither).",
    )  # fmt: skip
    title_budget: list[str] = option(
        list, "Stop before more is used than this: requests=..., tokens=... (read and written), cost=...; what a "
        "million tokens cost: read=... written=...",
    )  # fmt: skip
    concurrency: int = option(4, "Requests at a time, to the server of titles or of images.")
    api_key_env: str = option("OPENAI_API_KEY", "Environment variable with the key of the servers.")

    def check(self) -> None:
        """Raise an OptionError for what cannot be."""
        _at_least(self, concurrency=1)
        served = self.titles == "endpoint"
        if served != (self.title_endpoint is not None):
            raise OptionError("--titles endpoint and --title_endpoint go together.")
        if (self.titles in ("endpoint", "local")) != (self.title_model is not None):
            raise OptionError("--title_model names the model of --titles endpoint or local, and only of these.")
        if self.title_budget and not served:
            raise OptionError("--title_budget only means something with --titles endpoint.")
        if (budget := self.pairs("title_budget")).get("cost") and not budget.keys() & {"read", "written"}:
            raise OptionError("--title_budget cost=... also needs the prices: read=... written=...")
        if self.uses not in ({"picture"}, {"entities"}, {"picture", "entities"}, {"text"}):
            raise OptionError(f"--title_uses is picture, entities, both or text, not {self.title_uses!r}.")

    @property
    def uses(self) -> set[str]:
        """Return what the model of the titles does."""
        return {word.strip() for word in self.title_uses.split(",")}


@dataclass
class PictureArguments:
    """Changed views (MOON2.0, section 5)."""

    _argument_group_name = "changed views"

    augmented_images: int | None = option(
        None, "Changed views of each product (n_c in the paper); left out: 1 for synthetic, with an --editor, or "
        "with a --subject other than classical, else 0, since recipes for real products do not show them. They can be "
        "added later.",
    )  # fmt: skip
    subject: Literal["classical", "rembg", "segmentation", "none"] = option(
        "classical", "Who finds the subject of a photo: classical segmentation, rembg, a transformers segmentation "
        "model, or nobody (then the editor does).",
    )  # fmt: skip
    subject_model: list[str] = option(
        list, "Name or ONNX file for rembg; id or folder of a segmentation model, and after it those of its labels "
        "that are the subject; left out: all but the background.",
    )  # fmt: skip
    editor: Literal["none", "endpoint", "diffusers"] = option(
        "none", "Who changes the image: geometry and light, a server with the OpenAI images/edits API, or a "
        "diffusers pipeline.",
    )  # fmt: skip
    editor_model: str | None = option(None, "Name of the model at the server; or id or folder of the pipeline.")
    editor_endpoint: str | None = option(None, "Address of the server.")
    editor_budget: list[str] = option(list, "Stop before it costs more than this: cost=...; what one costs: edit=...")

    def check(self) -> None:
        """Raise an OptionError for what cannot be."""
        _at_least(self, augmented_images=0)
        if self.subject == "none" and self.editor == "none" and self.views:
            raise OptionError("--subject none needs an --editor, which then finds the subject itself.")
        if (self.editor == "endpoint") != (self.editor_endpoint is not None):
            raise OptionError("--editor endpoint and --editor_endpoint go together.")
        if (self.editor != "none") != (self.editor_model is not None):
            raise OptionError("--editor endpoint or diffusers and --editor_model go together.")
        if self.subject == "segmentation" and not self.subject_model:
            raise OptionError("--subject segmentation needs --subject_model.")
        if self.subject_model and self.subject not in ("rembg", "segmentation"):
            raise OptionError("--subject_model only means something with --subject rembg or segmentation.")
        if self.subject_model[1:] and self.subject == "rembg":
            raise OptionError("--subject_model takes labels only with --subject segmentation.")
        if self.editor_budget and self.editor != "endpoint":
            raise OptionError("--editor_budget only means something with --editor endpoint.")
        if (budget := self.pairs("editor_budget")).get("cost") and "edit" not in budget:
            raise OptionError("--editor_budget cost=... also needs the price: edit=...")

    @property
    def views(self) -> int:
        """Return how many changed views of each product there will be."""
        if self.augmented_images is not None:
            return self.augmented_images
        return int(self.synthetic or (self.subject, self.editor) != ("classical", "none"))


@dataclass
class ConsistencyArguments:
    """Whether image and title still say the same."""

    _argument_group_name = "consistency of image and title"

    consistency_model: str | None = option(
        None,
        "CLIP, SigLIP, or a multimodal sentence-transformers or Moon2 model, whose code is run. Scores are stored.",
    )
    consistency_threshold: str | None = option(
        None, "What scores less is recorded but not published: 0.2, or 5%% for the lowest twentieth."
    )

    def check(self) -> None:
        """Raise an OptionError for what cannot be."""
        if self.consistency_threshold is not None and self.consistency_model is None:
            raise OptionError("--consistency_threshold only means something with --consistency_model.")


@dataclass
class OutputArguments:
    """Where everything goes, and how it is worked on."""

    _argument_group_name = "output"

    output: str = option("", "Folder to write; must be absent or empty.")
    overwrite: bool = option(False, "Replace the folder if it holds an MBE2.0-format data set.")
    work: str | None = option(
        None, "Folder of the stored catalogue and the journal; by default OUTPUT.work. With it a build that was "
        "stopped goes on, and nothing is paid for twice.",
    )  # fmt: skip
    seed: int = option(0, "The same seed gives the same bytes.")
    rows_per_shard: int = option(1000, "Triplets in one Parquet file.")
    revisions: list[str] = option(
        list, "Branches, tags or commits of what is read from the Hub: catalogue=v1 negative_model=... title_model=... "
        "consistency_model=...",
    )  # fmt: skip
    engine: Literal["processes", "ray"] = option(
        "processes", "Where the work is done: in processes of this machine, or by Ray Data on a cluster that sees the "
        "same folders. It changes the speed, never the result.",
    )  # fmt: skip
    num_proc: int | None = option(None, "Processes; left out: one for each core.")
    dry_run: int = option(
        0, f"Make nothing: try {DRY_RUN_ROWS} products, or as many as are named, and say what the build would take.",
        type=_tried, nargs="?", const=DRY_RUN_ROWS, metavar="ROWS",
    )  # fmt: skip
    licence: list[str] = option(
        list, "Of the catalogue, as the Hub names it (cc-by-4.0 ...), or 'other' with name=... link=...; and a "
        "sentence for the card on where the catalogue comes from: attribution=...",
    )  # fmt: skip
    languages: str = option(
        "", "Of the texts, like en,zh: for the card, and, of texts in several languages, the first of these is read."
    )

    def check(self) -> None:
        """Raise an OptionError for what cannot be."""
        if not self.output:
            raise OptionError("Give --output: the folder to write.")
        _at_least(self, seed=0, rows_per_shard=1, dry_run=0, num_proc=1)
        if self.licence and "=" in self.licence[0]:
            raise OptionError(f"--licence must begin with the licence itself, not with {self.licence[0]!r}.")

    @property
    def spoken(self) -> tuple[str, ...]:
        """Return the languages of the texts."""
        return tuple(code.strip() for code in self.languages.split(",") if code.strip())


# The bases in the other order: fields of a dataclass begin with those of the last one.
@dataclass
class Build(OutputArguments, ConsistencyArguments, PictureArguments, TitleArguments, TripletArguments, SourceArguments):
    """Turn a product catalogue into MBE2.0-format training triplets and a retrieval benchmark.

    Every option may also stand in a YAML file, which is the first argument then.
    """

    def __post_init__(self):
        """Read what a YAML file gives: one word for a list, a list for a text with commas, true for a dry run."""
        self.dry_run = DRY_RUN_ROWS if self.dry_run is True else self.dry_run
        for field in dataclasses.fields(self):
            value, is_list = getattr(self, field.name), field.default_factory is list
            if is_list and isinstance(value, str):
                setattr(self, field.name, [value])
            elif field.type is str and isinstance(value, list):
                setattr(self, field.name, ",".join(map(str, value)))
            elif value != field.default and not _is_of(value, list if is_list else field.type):
                raise OptionError(f"--{field.name} cannot be {value!r} ({type(value).__name__}); see --help.")

    def check(self) -> None:
        """Raise an OptionError for options that cannot be, or do not go together."""
        for name in PAIRS:
            self.pairs(name)
        for part in reversed(Build.__bases__):
            part.check(self)

    def pairs(self, name: str) -> dict:
        """Return what is told in the words of an option of `PAIRS`, like 'cost=20'."""
        known, found = PAIRS[name], {}
        for word in getattr(self, name)[name == "licence" :]:
            key, _, value = word.partition("=")
            try:
                found[key] = known[key](value)
                if not value or (isinstance(found[key], (int, float)) and not 0 <= found[key] < float("inf")):
                    raise ValueError
            except (KeyError, ValueError):
                words = " ".join(f"{one}=..." for one in known)
                raise OptionError(f"--{name} takes {words}, and not {word!r}.") from None
        return found

    def revision(self, of: str) -> str | None:
        """Return the revision of what an option names, None if it was not told."""
        return self.pairs("revisions").get(of)

    def command(self, name: str) -> str:
        """Return the command for the card: all that shapes the data and is not the default, without paths."""
        words = [f"python -m mbe2_dataset build --catalogue {shlex.quote(name)} --output mbe2"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _NOT_IN_COMMAND or value in (None, field.default, []):
                continue
            shown = value if isinstance(value, list) else [str(value).lower() if value is True else str(value)]
            if field.name in _PATHS:  # what is not on this disk is the name of a model
                shown = (Path(text).name if Path(text).exists() else text for text in shown)
            words.append(f"--{field.name} {shlex.join(shown)}")
        return " ".join(words)


_PATHS = {"pictures", "search_log", "negative_model", "title_model", "subject_model", "editor_model",
          "consistency_model"}  # fmt: skip
_NOT_IN_COMMAND = {"catalogue", "output", "overwrite", "work", "num_proc", "engine", "dry_run", "api_key_env",
                   "concurrency", "title_budget", "editor_budget", "title_endpoint", "editor_endpoint"}  # fmt: skip


def _is_of(value: object, kind: object) -> bool:
    """Tell whether a value is of the kind that a field says; argparse has looked at those of the command line."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(word, str) for word in value)
    if get_origin(kind) is Literal:  # `fields.read_fields` looks at choices
        return True
    return isinstance(value, kind | int if kind in (float, float | None) else kind)


def _numbers(name: str, text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise OptionError(f"--{name} must be {count} numbers with commas between them, not {text!r}.")
    return numbers


def _at_least(told: object, **least: int) -> None:
    for name, number in least.items():
        value = getattr(told, name)
        if value is not None and value < number:
            raise OptionError(f"--{name} must be at least {number}, not {value}.")


@dataclass
class Check:
    """Look for faults in an MBE2.0-format data set: columns, images, judgements, duplicates, what splits share."""

    dataset: str = positional("a folder, or user/name on the Hub")
    revision: str | None = option(None, "of a data set on the Hub: branch, tag or commit")
    model: str | None = option(
        None, "a multimodal sentence-transformers or Moon2 model: products of different splits whose vectors are near "
        "are reported, too. Its code is run",
    )  # fmt: skip
    report: Path | None = option(None, "write a page with sample rows and images", type=Path, metavar="HTML")
    samples: int = option(12, "rows on that page", type=whole(1))
    num_proc: int = option(processes(), "processes; left out: one a core", type=whole(1))

    def check(self) -> None:
        """Raise a UserError if there is no such data set, or no place for the report."""
        if self.report is not None and not self.report.absolute().parent.is_dir():
            raise CheckError(f"--report {self.report}: there is no folder {self.report.parent}; make it first.")
        local_folder("dataset", self.dataset)


@dataclass
class Push:
    """Check a data set and upload it to the Hub.

    What is there already is not uploaded again, so after an interruption the same command goes on. Sign in with `hf
    auth login` or HF_TOKEN.
    """

    dataset: str = positional("the folder that was built")
    repo: str = option(help="user/name; made if there is none", type=str)
    private: bool = option(False, "a new repository is private")
    tag: str | None = option(None, "name for this state, to load it by: load_dataset(..., revision=TAG)")
    message: str | None = option(None, "of the commit")
    force: bool = option(False, "publish although the check finds errors")
    dry_run: bool = option(False, "upload nothing: check, and list the files")
    num_proc: int = option(processes(), "processes; left out: one a core", type=whole(1))

    def check(self) -> None:
        """Raise a UserError if there is no such folder, or the name cannot be."""
        check_push(self.dataset, self.repo)


def check_push(folder: str | Path, repo_id: str) -> None:
    """Raise a UserError if there is no such folder, or the name cannot be."""
    check_repo_id(repo_id, "data set")
    if not Path(folder).is_dir():
        raise PublishError(f"There is no data set folder {folder}; build one with 'python -m mbe2_dataset build'.")


PROG = "python -m mbe2_dataset"
COMMANDS = {
    "build": Command(
        Build,
        "mbe2_dataset.pipeline:build",
        examples=(
            f"{PROG} build --catalogue synthetic --output mbe2",
            f"{PROG} build --catalogue my_catalogue --output mbe2 --augmented_images 2 --query_mix 2,1,1",
            f"{PROG} build --catalogue shop.csv --columns title=name images=photo --output mbe2 --dry_run",
            f"{PROG} build --catalogue my_catalogue --search_log clicks.parquet --output mbe2 --json",
        ),
        usage="%(prog)s [OPTIONS.yaml] --catalogue SRC --output DIR [--option value ...]",
        reads_file=True,
        moved=MOVED,
    ),
    "check": Command(
        Check,
        "mbe2_dataset.pipeline:check",
        examples=(
            f"{PROG} check mbe2",
            f"{PROG} check mbe2 --report check.html --samples 30",
            f"{PROG} check user/mbe2 --revision v1 --json > findings.json",
        ),
        exit_1="there are errors in the data set",
    ),
    "push": Command(
        Push,
        "mbe2_dataset.pipeline:push",
        examples=(
            f"{PROG} push mbe2 --repo user/mbe2 --dry_run",
            f"{PROG} push mbe2 --repo user/mbe2 --private --tag v1",
        ),
    ),
}
ABOUT = {
    "description": "Builds, checks and publishes data sets for MOON2.0.",
    "examples": (
        f"{PROG} build --catalogue synthetic --output mbe2",
        f"{PROG} check mbe2 --report check.html",
        f"{PROG} push mbe2 --repo user/mbe2 --tag v1",
        f"{PROG} build --help",
    ),
    "epilog": "With --json every command prints its answer as JSON, and nothing else, on stdout. Options may be spelt "
    "with dashes as well (--num-proc).",
    "exit_1": "check found errors in the data set",
}
