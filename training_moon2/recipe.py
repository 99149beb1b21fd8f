"""Recipes: the fields that describe a run, read from YAML and the command line."""

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from transformers import TrainingArguments

from common_moon2.fields import FieldParser, option, read_fields
from loss_moon2 import Moon2Loss
from training_moon2.batches import BatchArguments
from upcycle_moon2 import ExpertArguments

EXAMPLES = (
    "python -m train_moon2 tiny --dataset mbe2 --output_dir moon2",
    "python -m train_moon2 fashion --dataset mbe2-mine --output_dir moon2-mine --max_steps 500",
    "python -m train_moon2 mine.yaml --dry_run              what a run would cost",
    "python -m train_moon2 mine.yaml --resume_from_checkpoint true",
    "torchrun --nproc_per_node 2 -m train_moon2 tiny --dataset mbe2",
)
RUN_DECISIVE = ("grad_cache_chunk", "grad_cache_unit", "dual_alignment_learning_rate")
LORA_TARGETS = ("attention", "experts", "vision")
# What the weights after a given step depend on; a checkpoint remembers these of the TrainingArguments.
DECISIVE = (
    "seed", "data_seed", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "optim", "optim_args",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "fp16", "tf32", "dataloader_drop_last",
    "use_cpu", "neftune_noise_alpha", "optim_target_modules",
)  # fmt: skip


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
    max_pixels: int | None = option(
        None,
        "Larger pictures are scaled down to this many pixels; left out: 9216 (96 x 96) with "
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
        if self.model is not None and self.vocab_size is not None:
            raise ValueError(f"vocab_size only means something with architecture; {self.model} has its own.")
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
        0.0, "How often a product shows its enriched title (off by default, by study/)."
    )
    augmented_image_probability: float = option(
        0.0, "How often a product shows an augmented picture (off by default, by study/)."
    )
    coaugmentation: Literal["replace", "add"] = option(
        "replace",
        "Whether an enriched title and one augmented picture 'replace' a product's own, or 'add' to them: "
        "then all augmented pictures are shown, as the paper counts the positions of an item.",
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
        rate = self.dual_alignment_learning_rate
        if rate is not None and not 0 <= rate < math.inf:
            raise ValueError(f"dual_alignment_learning_rate is {rate}; it must be 0 or a positive number.")


class Recipe(NamedTuple):
    """All fields of a run; `given`: the names of those in the file or on the command line."""

    model: ModelArguments
    data: DataArguments
    batches: BatchArguments
    run: RunArguments
    loss: Moon2Loss
    training: TrainingArguments
    given: frozenset[str]

    def parts(self) -> tuple:
        """Return the groups of fields that are the method's, not the Trainer's."""
        return self.model, self.data, self.batches, self.run, self.loss

    def fields(self) -> dict:
        """Return the fields, one dict for all; of the training arguments only those that were given."""
        training = self.training.to_dict()
        names = sorted(self.given & training.keys() - {"resume_from_checkpoint", "hub_token"})
        own = {name: value for part in self.parts() for name, value in asdict(part).items()}
        return own | {name: training[name] for name in names}

    def decisive(self) -> dict:
        """Return the fields on which the result depends, as plain values: what a run that is resumed must have in
        common."""
        training = self.training.to_dict()
        parts = (self.model, self.data, self.batches, self.loss)
        return (
            {name: value for part in parts for name, value in asdict(part).items()}
            | {name: getattr(self.run, name) for name in RUN_DECISIVE}
            | {name: training[name] for name in DECISIVE}
            | {"processes": self.training.world_size}
            # The order of a stream's rows depends on how many processes read it.
            | ({"dataloader_num_workers": self.training.dataloader_num_workers} if self.data.streaming else {})
        )


def recipes() -> dict[str, Path]:
    """List the recipes that come along, by name: from recipes/ of a checkout, or from this package where installed."""
    here = Path(__file__).parent
    folder = next((at for at in (here / "recipes", here.parent / "recipes") if at.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if not path.stem.startswith("accelerate-")}


def build_parser() -> FieldParser:
    known = recipes()
    folder = next((path.parent for path in known.values()), None)
    parser = FieldParser(
        (ModelArguments, DataArguments, BatchArguments, RunArguments, Moon2Loss, TrainingArguments),
        prog="python -m train_moon2",
        usage="%(prog)s RECIPE [--field value ...]",
        description="Trains a Moon2Model on MBE2.0-format triplets. RECIPE is a YAML file, or the name of one that "
        f"comes along: {', '.join(known)} (files in {folder}). Any field can be overridden on the command line. "
        "Fields are those of the method, listed first, and of transformers' TrainingArguments. In a checkout of the "
        "repository, `python train_moon2.py` is the same.",
        examples=EXAMPLES,
        epilog="A run that is stopped by Ctrl-C or SIGTERM saves a checkpoint first and ends with 130 or 143.",
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe that comes along")
    parser.add_argument(
        "--output", dest="output_dir", default=argparse.SUPPRESS, metavar="OUTPUT_DIR", help="The same as --output_dir."
    )
    # The collator needs all columns, no column is a label, and a loss that is not finite must show.
    parser.set_defaults(remove_unused_columns=False, label_names=[], logging_nan_inf_filter=False)
    return parser


def read_recipe(argv: list[str]) -> Recipe:
    """Read `RECIPE [--field value ...]`; the command line wins over the recipe, the recipe over the defaults.

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
            raise ValueError(f"{what}: give a YAML file, or one of the names {', '.join(recipes())}.")
        given = read_fields(parser, argv, str(file))
    *arguments, _ = parser.read(argv)
    recipe = Recipe(*arguments, given=given)
    if recipe.data.streaming and recipe.training.max_steps < 1:
        raise ValueError("streaming needs max_steps: nobody knows how long an epoch of a stream is.")
    check_training(recipe.training)
    weighting = recipe.loss.objective_weighting
    if recipe.run.dual_alignment_learning_rate is not None and weighting in ("uniform", "queries"):
        raise ValueError(
            f"dual_alignment_learning_rate is that of W*, which objective_weighting: {weighting} does not read: leave "
            "it out, or let W* weigh the objectives with objective_weighting: learned or detached."
        )
    return recipe


def check_training(training: TrainingArguments) -> None:
    """Refuse training arguments that would do nothing here, or something else than they say.

    Raises:
        ValueError: there is one; the message names it.
    """
    if training.data_seed is not None:
        raise ValueError("data_seed does nothing here, the order of triplets follows seed: leave it out.")
    if training.train_sampling_strategy != "random":
        raise ValueError(
            f"train_sampling_strategy: {training.train_sampling_strategy} does nothing here: batch_window, "
            "batch_category and batch_modality say which triplets make a batch."
        )
    if training.dataloader_persistent_workers:
        raise ValueError(
            "dataloader_persistent_workers would keep workers that never hear of a new epoch, and a resumed run would "
            "draw other random numbers: leave it out."
        )
    if training.n_gpu > 1:
        raise ValueError(
            f"There are {training.n_gpu} GPUs and one process: start one for each with torchrun --nproc_per_node "
            f"{training.n_gpu} -m train_moon2 RECIPE, or choose one with CUDA_VISIBLE_DEVICES=0."
        )
