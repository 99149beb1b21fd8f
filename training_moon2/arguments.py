"""What the commands train_moon2 and upcycle_moon2 are told; nothing here imports torch, so that --help is quick."""

import argparse
import ast
import functools
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from common_moon2.cli import UserError
from common_moon2.fields import FieldParser, option, read_fields
from common_moon2.loss_options import LossOptions
from common_moon2.source import local_folder

TRAIN_EXAMPLES = (
    "python -m train_moon2 tiny --dataset mbe2 --output_dir moon2",
    "python -m train_moon2 fashion --dataset mbe2-mine --output_dir moon2-mine --max_steps 500",
    "python -m train_moon2 mine.yaml --dry_run              what a run would cost",
    "python -m train_moon2 mine.yaml --resume_from_checkpoint true",
    "torchrun --nproc_per_node 2 -m train_moon2 tiny --dataset mbe2",
)
EXPERT_FIELDS = (
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size", "moe_layers",
    "router",
)  # fmt: skip
AMOUNTS = {"copy": 0.0, "noise": 0.01, "drop": 0.5}
LORA_TARGETS = ("attention", "experts", "vision")
CATEGORY = "positive_category"


class TripletError(UserError):
    """A triplet, or a whole data set, that cannot be trained on; the message names the data set, row or column."""


@dataclass
class ExpertArguments:
    """The experts of a new model; `Moon2Config` says what is left out."""

    num_experts: int | None = option(None, "Z, experts of a layer; left out: 4.")
    num_experts_per_tok: int | None = option(None, "Experts for a token; left out: 2.")
    moe_intermediate_size: int | None = option(None, "Width of an expert; left out: that of a dense layer.")
    shared_expert_intermediate_size: int | None = option(
        None, "Width of an expert that every token passes; left out: there is none."
    )
    moe_layers: list[int] | None = option(None, "Layers with experts; left out: all.")
    router: str | None = option(None, "'token' or 'composition' (of the item's modalities); left out: token.")
    upcycling: Literal["copy", "noise", "drop"] | None = option(
        None,
        "How experts start from a dense layer: 'copy' (the same function, but copies give the router nothing to learn "
        "from), 'noise' (copies with noise) or 'drop' (a share of each expert's neurons is drawn anew); left out: "
        "copy.",
    )
    upcycling_amount: float | None = option(
        None,
        "noise: its size, as a share of the weights' standard deviation (left out: 0.01); drop: the share of neurons "
        "(left out: 0.5).",
    )
    router_start: Literal["random", "kmeans"] | None = option(
        None,
        "How routers start beside experts that come from a dense layer: 'kmeans' points them at clusters of the "
        "layer's inputs, of some products of the data set; left out: random.",
    )

    def experts(self) -> dict:
        """Return what is given of the experts' form, as `Moon2Config` and `model_from_backbone` take it."""
        return {name: getattr(self, name) for name in EXPERT_FIELDS if getattr(self, name) is not None}

    def check_upcycling(self) -> None:
        """Check that the options of upcycling go together.

        Raises:
            UserError: they do not.
        """
        amount, most = self.upcycling_amount, {"noise": math.inf, "drop": 1.0}.get(self.upcycling)
        if amount is not None and most is None:
            raise UserError("upcycling_amount only means something with upcycling: noise or drop.")
        if amount is not None and not 0 < amount <= most:
            limit = "a positive number" if most == math.inf else "above 0 and at most 1"
            raise UserError(f"upcycling_amount is {amount}; with upcycling: {self.upcycling} it must be {limit}.")


@dataclass
class UpcycleArguments(ExpertArguments):
    """Make a Moon2 of a trained vision-language model: its feed-forward layers become the experts.

    With experts as wide as those layers the new model computes what the old one did, so it is a sound place for
    training to start from.
    """

    model: str = option(help="A transformers vision-language model: Hub id or folder.")
    output_dir: str = option(help="The Moon2 folder to write (--output is the same).", aliases=["--output"])
    overwrite: bool = option(False, "Write into the folder although it is not empty.")
    revision: str | None = option(None, "Branch, tag or commit on the Hub.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "Of the weights; auto: as stored.")
    device_map: str | None = option(None, "As in transformers: auto, cpu, cuda:0, ...")
    max_pixels: int | None = option(None, "Larger images are scaled down to this; left out: 1048576 (1024 x 1024).")
    verify: bool = option(False, "Compare with the dense model on a sentence (takes its memory once more).")
    dataset: str | None = option(None, "With router_start: kmeans: an MBE2.0-format folder or Hub data set.")

    def __post_init__(self):
        self.check_upcycling()
        if (self.router_start == "kmeans") != (self.dataset is not None):
            raise UserError("--router_start kmeans and --dataset go together: its products' tokens are clustered.")

    def check(self) -> None:
        """Check that there may be such a model, and that the folder can be written to.

        Raises:
            UserError: there is none, or it cannot.
        """
        check_model(self.model)
        if self.dataset is not None:
            triplets_folder(self.dataset)
        output = Path(self.output_dir)
        if output.is_file():
            raise UserError(f"--output_dir {output} is a file; give a folder.")
        if not self.overwrite and output.is_dir() and any(output.iterdir()):
            raise UserError(f"The folder {output} is not empty: choose another one, or write into it with --overwrite.")


@dataclass
class ModelArguments(ExpertArguments):
    """Where the model comes from, and which part of it is trained."""

    model: str | None = option(
        None,
        "A Moon2 folder or Hub id to go on from, or a transformers vision-language model whose "
        "feed-forward layers become experts. Leave it out to train `architecture` from nothing.",
    )
    revision: str | None = option(None, "With `model`: branch, tag or commit on the Hub; left out: its main branch.")
    dtype: Literal["float32", "bfloat16"] = option(
        "float32", "With `model`: type of the weights in memory; bfloat16 is meant for LoRA."
    )
    architecture: dict | str | None = option(None, "A Qwen3-VL configuration (YAML), trained from nothing.")
    vocab_size: int | None = option(None, "With `architecture`: size of its tokenizer; left out: 4096.")
    fold_words: bool = option(
        False,
        "With `architecture`: its tokenizer takes a word for the same at any place and in any case, and each Chinese "
        "character for a word, so that a short run sees more of each.",
    )
    max_pixels: int | None = option(
        None,
        "Larger images are scaled down to this many pixels; left out: 9216 (96 x 96) with "
        "`architecture`, 1048576 (1024 x 1024) with a vision-language model.",
    )
    lora_rank: int | None = option(None, "Train LoRA matrices of this rank instead of all weights (needs peft).")
    lora_alpha: float | None = option(None, "With lora_rank: scale of the change; left out: twice the rank.")
    lora_targets: list[str] | None = option(
        None,
        "With lora_rank: 'attention' of the language model, its 'experts', attention of the 'vision' "
        "tower; left out: attention experts. Routers and W* are always trained whole.",
    )

    def __post_init__(self):
        if isinstance(self.architecture, str):
            self.architecture = yaml.safe_load(self.architecture)
        if (self.model is None) == (self.architecture is None):
            raise ValueError("Give either model (something trained) or architecture (from nothing), not both.")
        self.check_upcycling()
        if self.model is None and (self.upcycling or self.router_start):
            raise ValueError("upcycling and router_start only mean something with model, not with architecture.")
        if self.model is not None and (self.vocab_size is not None or self.fold_words):
            name = "fold_words" if self.vocab_size is None else "vocab_size"
            raise ValueError(f"{name} only means something with architecture; {self.model} has its own tokenizer.")
        if self.model is None and (self.revision is not None or self.dtype != "float32"):
            raise ValueError("revision and dtype only mean something with model, not with architecture.")
        if self.lora_rank is None and (self.lora_alpha is not None or self.lora_targets is not None):
            raise ValueError("lora_alpha and lora_targets only mean something with lora_rank.")
        if self.lora_rank is None and self.dtype == "bfloat16":
            raise ValueError(
                "dtype is bfloat16 without lora_rank: the steps of a usual learning rate are smaller than bfloat16's "
                "spacing, so most weights would never move. Use bf16: true with float32 weights, or LoRA."
            )
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"lora_rank is {self.lora_rank}; it must be at least 1.")
        unknown = sorted(set(self.lora_targets or ()) - set(LORA_TARGETS))
        if unknown or self.lora_targets == []:
            raise ValueError(f"lora_targets must be some of {', '.join(LORA_TARGETS)}; found: {', '.join(unknown)}.")


@dataclass
class DataArguments:
    """What the model learns from."""

    dataset: str = option("mbe2", "An MBE2.0-format folder or Hub data set.")
    streaming: bool = option(False, "Read the triplets as a stream, for sets larger than the disk; needs max_steps.")
    enriched_title_probability: float = option(
        0.0, "How often a product shows its enriched title (off by default, by research/study/)."
    )
    augmented_image_probability: float = option(
        0.0, "How often a product shows an augmented image (off by default, by research/study/)."
    )
    coaugmentation: Literal["replace", "add"] = option(
        "replace",
        "Whether an enriched title and one augmented image 'replace' a product's own, or 'add' to them: "
        "then all augmented images are shown, as the paper counts the positions of an item.",
    )
    false_positive_share: float = option(
        0.0, "Gives so many triplets a wrong positive, to see what the dynamic sample filter does."
    )
    validation_sample: int = option(
        1000, "With eval_strategy: so many validation triplets at most are used for Recall@10."
    )

    def __post_init__(self):
        for name in ("enriched_title_probability", "augmented_image_probability", "false_positive_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a probability lies between 0 and 1.")
        shown = self.enriched_title_probability or self.augmented_image_probability
        if self.coaugmentation == "add" and not shown:
            raise ValueError(
                "coaugmentation is 'add', but enriched_title_probability and augmented_image_probability are 0, so "
                "that nothing is ever added: give at least one of them."
            )
        if self.streaming and self.false_positive_share:
            raise ValueError("false_positive_share draws from all triplets: it does not go with streaming.")
        if self.validation_sample < 1:
            raise ValueError(f"validation_sample is {self.validation_sample}; it must be at least 1.")


def check_model(name: str) -> None:
    """Check that a name is a folder, or has the form of a Hub id.

    Raises:
        UserError: it is neither.
    """
    try:
        local_folder("model", name)
    except UserError as error:
        raise UserError(f"The model {name} is neither a folder nor available on the Hub: {error}") from error


def triplets_folder(dataset: str) -> Path | None:
    """Return the folder of a data set in MBE2.0 format; `None` if it is on the Hub.

    Raises:
        TripletError: it is neither, or has no triplets.
    """
    try:
        folder = local_folder("dataset", dataset)
    except UserError as error:
        raise TripletError(f"{error} Build one with 'python -m mbe2_dataset build'.") from error
    if folder is not None and not (folder / "triplets").is_dir():
        raise TripletError(f"The folder {dataset} has no triplets/ in it; is it an MBE2.0-format data set?")
    return folder


@dataclass
class RunArguments:
    """How the run is carried out."""

    grad_cache_chunk: int | None = option(
        None,
        "GradCache: so many items (or tokens) are computed at a time, first without and then with "
        "gradient, so that memory no longer grows with the batch. Costs one more forward pass.",
    )
    grad_cache_unit: Literal["items", "tokens"] = option(
        "items", "What grad_cache_chunk counts; tokens include padding."
    )
    dual_alignment_learning_rate: float | None = option(
        None,
        "Learning rate of W*; left out: that of all weights, at which W* hardly leaves its even start in "
        "a short run (our addition).",
    )
    router_learning_rate_factor: float = option(
        1.0, "Learning rate of the routers, as a multiple of that of all weights (our addition)."
    )
    max_refused_steps: int = option(5, "So many steps in a row with a loss or gradient that is not finite end the run.")
    dump_filtered: bool = option(
        False, "Write filtered.jsonl at the end: the triplets whose latest phi is below filter_threshold."
    )
    allow_changed_run: bool = option(
        False, "Resume although data or recipe differ from those that the checkpoint was made with."
    )
    dry_run: bool = option(
        False, "Train nothing: print sizes, costs and the first batch in words, after one trial step."
    )

    def __post_init__(self):
        if self.grad_cache_chunk is None and self.grad_cache_unit != "items":
            raise ValueError("grad_cache_unit only means something with grad_cache_chunk.")
        if self.grad_cache_chunk is not None and self.grad_cache_chunk < 1:
            raise ValueError(f"grad_cache_chunk is {self.grad_cache_chunk}; it must be at least 1.")
        if not 0 <= self.router_learning_rate_factor < math.inf:
            raise ValueError(
                f"router_learning_rate_factor is {self.router_learning_rate_factor}; it must be 0 or a positive number."
            )
        rate = self.dual_alignment_learning_rate
        if rate is not None and not 0 <= rate < math.inf:
            raise ValueError(f"dual_alignment_learning_rate is {rate}; it must be 0 or a positive number.")


@dataclass
class BatchArguments:
    """How triplets are put together to batches."""

    batch_window: int = option(
        1,
        "So many batches' worth of triplets are sorted by the length of their texts, which saves padding; "
        "the batches are shuffled afterwards. 1: no sorting.",
    )
    batch_category: bool = option(
        False, "Batches of one category (the whole path): harder negatives. What is left over is mixed."
    )
    batch_modality: bool = option(
        False, "Batches whose queries are all texts, all images or all both. What is left over is mixed."
    )

    def __post_init__(self):
        if self.batch_window < 1:
            raise ValueError(f"batch_window is {self.batch_window}; it counts batches, so it must be at least 1.")

    def check(self, columns: list[str]):
        """Raise ValueError if a column is asked for that is not there."""
        if self.batch_category and CATEGORY not in columns:
            raise ValueError(
                f"batch_category needs the column {CATEGORY}, which these triplets do not have; build them again with "
                "'python -m mbe2_dataset build', or leave batch_category out."
            )


def recipes() -> dict[str, Path]:
    """List the recipes that come along, by name: from recipes/ of a checkout, or from this package where installed."""
    here = Path(__file__).parent
    folder = next((at for at in (here / "recipes", here.parent / "recipes") if at.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if not path.stem.startswith("accelerate-")}


class OwnFields(NamedTuple):
    """The fields that are the method's, and what is left for `TrainingArguments` to read.

    Attributes:
        given: the names of all fields in the recipe's file or on the command line.
        words: those of the command line that are for TrainingArguments.
        defaults: the fields of the file that are for TrainingArguments.
    """

    model: ModelArguments
    data: DataArguments
    batches: BatchArguments
    run: RunArguments
    loss: LossOptions
    given: frozenset[str]
    words: list[str]
    defaults: dict

    def check(self) -> None:
        """Check that the data set and the model may be there, which needs no torch.

        Raises:
            UserError: they are neither a folder nor the id of something on the Hub.
        """
        triplets_folder(self.data.dataset)
        if self.model.model is not None:
            check_model(self.model.model)


class Keep(argparse.Action):
    """Keep an option of TrainingArguments, with its values, in `words`: to read it takes seconds."""

    def __call__(self, parser, namespace, values, option_string=None):
        name = "--output_dir" if option_string == "--output" else option_string
        namespace.words = [*getattr(namespace, "words", ()), name, *values]


@functools.cache  # of three thousand lines
def trainer_fields() -> list[str]:
    """Return the names of the fields of transformers' TrainingArguments, read from its source without running it."""
    source = Path(find_spec("transformers").origin).with_name("training_args.py").read_text(encoding="utf-8")
    (of_class,) = (node for node in ast.parse(source).body if getattr(node, "name", None) == "TrainingArguments")
    fields = [node for node in of_class.body if isinstance(node, ast.AnnAssign)]
    return [field.target.id for field in fields if "init=False" not in ast.unparse(field)]


def build_parser() -> FieldParser:
    known, of_trainer = recipes(), trainer_fields()
    folder = next((path.parent for path in known.values()), None)
    parser = FieldParser(
        (ModelArguments, DataArguments, BatchArguments, RunArguments, LossOptions),
        prog="python -m train_moon2",
        usage="%(prog)s RECIPE [--field value ...]",
        description="Trains a Moon2Model on MBE2.0-format triplets. RECIPE is a YAML file, or the name of one that "
        f"comes along: {', '.join(known)} (files in {folder}). Any field can be overridden on the command line. "
        "Fields are those of the method, listed here, and of transformers' TrainingArguments, named at the end. In a "
        "checkout of the repository, `python train_moon2.py` is the same.",
        examples=TRAIN_EXAMPLES,
        epilog="A run that is stopped by Ctrl-C or SIGTERM saves a checkpoint first and ends with 130 or 143.\n\n"
        f"Fields of TrainingArguments, which --help_trainer explains: {', '.join(of_trainer)}.",
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe that comes along")
    parser.add_argument("--output", action=Keep, nargs=1, dest="output_dir", metavar="OUTPUT_DIR",
                        default=argparse.SUPPRESS, help="The same as --output_dir.")  # fmt: skip
    parser.add_argument(
        "--help_trainer", action="store_true", help="Explain the fields of TrainingArguments; takes some seconds."
    )
    for name in of_trainer:
        names = (f"--{name}", f"--no_{name}")
        parser.add_argument(
            *names, action=Keep, nargs="*", dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def read_own(argv: list[str]) -> OwnFields:
    """Read the fields of the method from `RECIPE [--field value ...]`; the command line wins over the recipe.

    Raises:
        ValueError: no such recipe, unknown field, or a value that cannot be; the message names it.
    """
    parser = build_parser()
    given = frozenset()
    if not {"-h", "--help"} & set(argv):
        named = argv[0] if argv else ""
        file = named if Path(named).is_file() else recipes().get(named)
        if file is None:
            what = (
                f"There is no recipe {named}" if named and not named.startswith("-") else "The first word is a recipe"
            )
            raise UserError(f"{what}: give a YAML file, or one of the names {', '.join(recipes())}.")
        given = read_fields(parser, argv, str(file))
    *own, rest = parser.read(argv)
    run, weighting = own[3], own[4].objective_weighting
    if run.dual_alignment_learning_rate is not None and weighting in ("uniform", "queries"):
        raise UserError(
            f"dual_alignment_learning_rate is that of W*, which objective_weighting: {weighting} does not read: leave "
            "it out, or let W* weigh the objectives with objective_weighting: learned or detached."
        )
    defaults = {name: getattr(rest, name) for name in trainer_fields() if hasattr(rest, name)}
    return OwnFields(*own, given=given, words=getattr(rest, "words", []), defaults=defaults)
