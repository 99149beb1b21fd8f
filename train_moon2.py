"""Trains a Moon2Model on MBE2.0-format triplets: `python train_moon2.py recipes/tiny.yaml [--max_steps 100 ...]`."""

import json
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from transformers import (
    HfArgumentParser,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from loss_moon2 import LossOutput, Moon2Loss, Products, Role, View
from modeling_moon2 import Moon2Model, Moon2Output
from processing_moon2 import Moon2Processor
from scratch_moon2 import scratch_model, scratch_processor
from triplets_moon2 import ROLES, TripletCollator, TripletDataset, TripletError, load_triplets
from upcycle_moon2 import ExpertArguments, is_moon2, upcycle

# Written into the output folder: what the dynamic sample filter did, and the least trusted triplets since the last log.
FILTER_LOG, LOWEST_LOGGED = "filter.jsonl", 8


class Moon2Trainer(Trainer):
    """The stock Trainer with the method's loss: a few passes give all views, the losses read them (MOON2.0, 1 to 4).

    Args:
        loss: the objective and its options.
        args, kwargs: as for `Trainer`; `data_collator` is a `TripletCollator`.
    """

    loss_is_scaled_for_ga = False

    def __init__(self, *args, loss: Moon2Loss, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.world_size > 1:
            raise ValueError(
                f"This run has {self.args.world_size} processes; the in-batch negatives are not gathered across "
                "processes yet, so train with one."
            )
        self.can_return_loss = True  # so that evaluate() computes the loss without labels
        self.loss = loss
        self._figures: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._phi: dict[str, float] = {}
        self._last_logged = time.perf_counter()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The total loss (a scalar) of one batch from `TripletCollator`."""
        items = concatenate([model(**features) for features in inputs["passes"]])
        masks = torch.cat([features["attention_mask"].flatten() for features in inputs["passes"]])
        roles = {role: role_views(items, inputs["rows"][role]) for role in ROLES}
        unwrapped = self.accelerator.unwrap_model(model)
        config = unwrapped.config
        result = self.loss(
            roles["query"],
            Products(positive=roles["positive"], negative=roles["negative"], **inputs["keys"]),
            unwrapped.dual_alignment.weight,
            config.objectives,
            aux_loss=load_balancing_loss_func(
                items.router_logits, config.num_experts, config.num_experts_per_tok, masks
            ),
            progress=self.state.global_step / self.state.max_steps if self.state.max_steps else 0.0,
        )
        if not torch.isfinite(result.loss):
            raise TripletError(
                f"The loss of step {self.state.global_step} is {result.loss.item()}; its triplets: "
                f"{', '.join(inputs['query_ids'])}. Lower the learning rate, or look at these rows."
            )
        if model.training:
            self._record(result, items, masks.sum(), inputs["query_ids"])
        return (result.loss, {}) if return_outputs else result.loss

    def _record(self, result: LossOutput, items: Moon2Output, tokens: torch.Tensor, query_ids: list[str]):
        """Keeps the figures of this step until the next log."""
        figures = {f"loss_{name}": value for name, value in result.objective_losses.items()}
        figures |= {f"omega_{name}": value for name, value in result.omega.items()}
        figures |= {
            "omega_sum": sum(result.omega.values()),
            "loss_sparsity": result.sparsity,
            "phi": result.phi.mean(),
            "kept_share": result.kept,
            "positive_similarity": result.positive_similarity,
            "negative_similarity": result.negative_similarity,
            "tokens": tokens,
        }
        for kind, rows in (("pictures", items.has_image), ("texts", ~items.has_image)):
            if rows.any():
                for expert, share in enumerate(items.expert_usage[rows].mean(0)):
                    figures[f"expert_{expert}_{kind}"] = share
        for name, value in figures.items():
            self._figures[name].append(value.detach())
        self._phi |= dict(zip(query_ids, result.phi.tolist(), strict=True))

    def log(self, logs: dict[str, float], start_time: float | None = None):
        """Adds the mean of every figure since the last log; names the least trusted triplets in filter.jsonl."""
        if "loss" in logs and self._figures:
            now = time.perf_counter()
            tokens = torch.stack(self._figures.pop("tokens")).sum().item()
            logs |= {name: torch.stack(values).float().mean().item() for name, values in self._figures.items()}
            logs["tokens_per_second"] = tokens / (now - self._last_logged)
            self._figures.clear()
            self._last_logged = now
            if self.is_world_process_zero():
                lowest = sorted(self._phi.items(), key=lambda item: item[1])[:LOWEST_LOGGED]
                entry = {name: logs[name] for name in ("phi", "kept_share")}
                entry = {"step": self.state.global_step, **entry, "lowest_phi": dict(lowest)}
                with open(Path(self.args.output_dir) / FILTER_LOG, "a", encoding="utf-8") as file:
                    file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._phi.clear()
        super().log(logs, start_time)


def concatenate(outputs: list[Moon2Output]) -> Moon2Output:
    """The items of several passes as if they had been one, without the hidden states."""
    return Moon2Output(
        **{
            name: torch.cat([getattr(output, name) for output in outputs])
            for name in ("embeddings", "image_embeddings", "has_image", "expert_usage", "image_expert_usage")
        },
        router_logits=tuple(map(torch.cat, zip(*(output.router_logits for output in outputs), strict=True))),
    )


def role_views(items: Moon2Output, rows: dict[str, torch.Tensor]) -> Role:
    """Finds the three views of one role among the outputs of all passes.

    Args:
        items: the outputs of all passes, one after the other.
        rows: the place of every triplet's item with pictures, and of its text alone: (B,) each, -1 where there is none.
    """
    pictures, texts = rows["pictures"].clamp(min=0), rows["texts"].clamp(min=0)
    has_image, has_text = rows["pictures"] >= 0, rows["texts"] >= 0
    return Role(
        t=View(items.embeddings[texts], items.expert_usage[texts], has_text),
        i=View(items.image_embeddings[pictures], items.image_expert_usage[pictures], has_image),
        mm=View(items.embeddings[pictures], items.expert_usage[pictures], has_image & has_text),
        own=items.embeddings[torch.where(has_image, pictures, texts)],
    )


class EpochSetter(TrainerCallback):
    """Tells the data set which epoch it is, so that its augmentation changes from one to the next."""

    def __init__(self, dataset: TripletDataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.set_epoch(int(state.epoch))


class Progress(ProgressCallback):
    """The usual progress bar, with one short line for each log instead of every figure."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        if "eval_loss" in logs:
            self.training_bar.write(f"step {state.global_step}: validation loss {logs['eval_loss']:.3f}")
        if "kept_share" not in logs:
            return
        objectives = [name.removeprefix("omega_") for name in logs if name.startswith("omega_")]
        losses = ", ".join(
            f"{name} {logs[f'loss_{name}']:.2f}x{logs[f'omega_{name}']:.2f}"
            for name in objectives
            if f"loss_{name}" in logs
        )
        self.training_bar.write(
            f"step {state.global_step}: loss {logs['loss']:.3f} (each x omega: {losses}), phi {logs['phi']:.2f}, "
            f"kept {logs['kept_share']:.0%}, {logs['tokens_per_second']:,.0f} tokens/s"
        )


@dataclass
class ModelArguments(ExpertArguments):
    """Where the model comes from."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "A Moon2 folder or Hub id to go on from, or a transformers vision-language model whose "
            "feed-forward layers become experts. Leave it out to train `architecture` from nothing."
        },
    )
    architecture: dict | str | None = field(
        default=None, metadata={"help": "A Qwen3-VL configuration (YAML), trained from nothing."}
    )
    vocab_size: int | None = field(
        default=None, metadata={"help": "With `architecture`: size of its tokenizer; left out: 4096."}
    )
    max_pixels: int | None = field(
        default=None,
        metadata={
            "help": "Larger pictures are scaled down to this many pixels; left out: 9216 (96 x 96) with "
            "`architecture`, 1048576 (1024 x 1024) with a vision-language model."
        },
    )

    def __post_init__(self):
        if isinstance(self.architecture, str):
            self.architecture = yaml.safe_load(self.architecture)
        if (self.model is None) == (self.architecture is None):
            raise ValueError("Give either model (something trained) or architecture (from nothing), not both.")
        if self.model is not None and self.vocab_size is not None:
            raise ValueError(f"vocab_size only means something with architecture; {self.model} has its own.")


@dataclass
class DataArguments:
    """What the model learns from."""

    dataset: str = field(default="mbe2", metadata={"help": "An MBE2.0-format folder or Hub data set."})
    enriched_title_probability: float = field(
        default=0.5, metadata={"help": "How often a product shows its enriched title (our choice)."}
    )
    augmented_image_probability: float = field(
        default=0.5, metadata={"help": "How often a product shows an augmented picture (our choice)."}
    )


def read_recipe(argv: list[str]) -> tuple[ModelArguments, DataArguments, Moon2Loss, TrainingArguments]:
    """Reads `RECIPE.yaml [--field value ...]`; the command line wins over the recipe, the recipe over the defaults.

    Raises:
        ValueError: no such file, unknown field, or a value that cannot be; the message names it.
    """
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, Moon2Loss, TrainingArguments),
        prog="train_moon2.py",
        usage="%(prog)s RECIPE.yaml [--field value ...]",
        description="Trains a Moon2Model. Any field of a recipe can be overridden on the command line.",
    )
    parser.add_argument("recipe", help="a YAML file, see recipes/")
    # The collator needs all columns, no column is a label, and a loss that is not finite must show.
    parser.set_defaults(remove_unused_columns=False, label_names=[], logging_nan_inf_filter=False)
    path = Path(next((word for word in argv if not word.startswith("-")), ""))
    if argv and "-h" not in argv and "--help" not in argv:
        if not path.is_file():
            raise ValueError(f"There is no recipe {path}; the first argument is a YAML file such as recipes/tiny.yaml.")
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(recipe, dict):
            raise ValueError(f"The recipe {path} is not a list of 'field: value' lines.")
        unknown = sorted(set(recipe) - {action.dest for action in parser._actions})
        if unknown:
            raise ValueError(f"The recipe {path} has unknown fields: {', '.join(unknown)}.")
        parser.set_defaults(**recipe)
    *arguments, _ = parser.parse_args_into_dataclasses(argv)
    data = arguments[1]
    for name in ("enriched_title_probability", "augmented_image_probability"):
        if not 0 <= getattr(data, name) <= 1:
            raise ValueError(f"{name} is {getattr(data, name)}; a probability lies between 0 and 1.")
    return tuple(arguments)


def build_model(arguments: ModelArguments, rows) -> tuple[Moon2Model, Moon2Processor]:
    """The model and processor that a recipe asks for.

    Args:
        rows: training triplets; a tokenizer trained from nothing learns from their texts.

    Raises:
        ValueError, OSError: the recipe contradicts itself or the checkpoint, or there is no such checkpoint.
    """
    if arguments.architecture is not None:
        columns = [name for name in rows.column_names if name.endswith(("_title", "query_text"))]
        texts = (text for name in columns for text in rows[name] if text)
        processor = scratch_processor(
            texts, arguments.architecture, arguments.vocab_size or 4096, arguments.max_pixels or 96 * 96
        )
        return scratch_model(arguments.architecture, processor.tokenizer, **arguments.experts()), processor
    if is_moon2(arguments.model):
        if arguments.max_pixels is not None:
            raise ValueError(f"max_pixels is in the recipe, but {arguments.model} has its own.")
        model = Moon2Model.from_pretrained(arguments.model)
        for name, value in arguments.experts().items():
            if getattr(model.config, name) != value:
                raise ValueError(
                    f"{name} is {value} in the recipe but {getattr(model.config, name)} in {arguments.model}."
                )
        return model, Moon2Processor.from_pretrained(arguments.model)
    return upcycle(arguments.model, arguments.max_pixels, **arguments.experts())


def main(argv: list[str]) -> int:
    """Trains and saves; returns the exit code."""
    try:
        model_arguments, data, loss, training = read_recipe(argv)
        set_seed(training.seed)
        rows = load_triplets(data.dataset, "train")
        model, processor = build_model(model_arguments, rows)
        train_dataset = TripletDataset(
            rows, data.enriched_title_probability, data.augmented_image_probability, seed=training.seed
        )
        with_validation = training.eval_strategy != "no"
        trainer = Moon2Trainer(
            model,
            training,
            loss=loss,
            data_collator=TripletCollator(processor),
            train_dataset=train_dataset,
            eval_dataset=TripletDataset(load_triplets(data.dataset, "validation")) if with_validation else None,
            processing_class=processor,
            callbacks=[EpochSetter(train_dataset)],
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{model.num_parameters() / 1e6:.1f} M parameters, {model.num_active_parameters() / 1e6:.1f} M active for a "
          f"token; {len(rows):,} triplets; "
          f"{'bf16' if training.bf16 else 'fp32'} on {training.device}")  # fmt: skip
    if not training.resume_from_checkpoint:
        (Path(training.output_dir) / FILTER_LOG).unlink(missing_ok=True)
    if not training.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Progress)
    try:
        trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    except TripletError as error:
        # A worker process puts its traceback before the sentence.
        sentence = str(error).strip().splitlines()[-1].removeprefix("triplets_moon2.TripletError: ")
        print(f"\nerror: {sentence}", file=sys.stderr)  # on a line of its own, below the progress bar
        return 2
    trainer.save_model()
    trainer.save_state()
    output = Path(training.output_dir)
    (output / "training_args.bin").unlink()  # a pickle; recipe.yaml says the same and can be read
    recipe = asdict(model_arguments) | asdict(data) | asdict(loss) | _given(training)
    (output / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    print(
        f"In {output}/: the model, its processor, its code, recipe.yaml, and every logged figure in trainer_state.json."
    )
    return 0


def _given(training: TrainingArguments) -> dict:
    """The training arguments that differ from the defaults."""
    default = TrainingArguments(output_dir=training.output_dir).to_dict()
    return {name: value for name, value in training.to_dict().items() if value != default[name]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
