"""Recipes: the fields that describe a run, read from YAML and the command line."""

from dataclasses import asdict
from typing import NamedTuple

from transformers import TrainingArguments

from common_moon2.fields import FieldParser
from loss_moon2 import Moon2Loss
from training_moon2.arguments import (
    BatchArguments,
    DataArguments,
    ModelArguments,
    OwnFields,
    RunArguments,
    read_own,
)

RUN_DECISIVE = (
    "grad_cache_chunk", "grad_cache_unit", "dual_alignment_learning_rate", "router_learning_rate_factor"
)  # fmt: skip
# Fields that came later, and what earlier runs did, whose checkpoints do not name them.
LATER = {
    "upcycling": None, "upcycling_amount": None, "router_start": None, "router_learning_rate_factor": 1.0,
    "z_loss_weight": 0.0, "filter_power": 1.0,
}  # fmt: skip
# What the weights after a given step depend on; a checkpoint remembers these of the TrainingArguments.
DECISIVE = (
    "seed", "data_seed", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "optim", "optim_args",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "fp16", "tf32", "dataloader_drop_last",
    "use_cpu", "neftune_noise_alpha", "optim_target_modules",
)  # fmt: skip


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
        own = {name: value for part in parts for name, value in asdict(part).items()}
        own |= {name: getattr(self.run, name) for name in RUN_DECISIVE}
        return (
            {name: value for name, value in own.items() if name not in LATER or value != LATER[name]}
            | {name: training[name] for name in DECISIVE}
            | {"processes": self.training.world_size}
            # The order of a stream's rows depends on how many processes read it.
            | ({"dataloader_num_workers": self.training.dataloader_num_workers} if self.data.streaming else {})
        )


def build_parser() -> FieldParser:
    parser = FieldParser(
        TrainingArguments,
        prog="python -m train_moon2",
        usage="%(prog)s RECIPE [--field value ...]",
        description="The fields of transformers' TrainingArguments; those of the method: --help.",
    )
    # The collator needs all columns, no column is a label, and a loss that is not finite must show.
    parser.set_defaults(remove_unused_columns=False, label_names=[], logging_nan_inf_filter=False)
    return parser


def read_recipe(argv: list[str]) -> Recipe:
    """Read `RECIPE [--field value ...]`; the command line wins over the recipe, the recipe over the defaults.

    Raises:
        ValueError: as `read_own`, and a value that TrainingArguments cannot have; the message names it.
    """
    return complete(read_own(argv))


def complete(own: OwnFields) -> Recipe:
    """Read what is left for TrainingArguments.

    Raises:
        ValueError: a value that cannot be; the message names it.
    """
    parser = build_parser()
    parser.set_defaults(**own.defaults)
    (training,) = parser.read(own.words)
    loss = Moon2Loss(**asdict(own.loss))
    recipe = Recipe(own.model, own.data, own.batches, own.run, loss, training, own.given)
    if recipe.data.streaming and training.max_steps < 1:
        raise ValueError("streaming needs max_steps: nobody knows how long an epoch of a stream is.")
    check_training(training)
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
