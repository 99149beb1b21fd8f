"""A run from its recipe to the saved model."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from accelerate.utils import broadcast_object_list
from transformers import ProgressCallback, TrainingArguments, set_seed

from common_moon2.cli import without_secrets
from common_moon2.files import write_json, write_text
from common_moon2.machine import hardware, versions
from loss_moon2 import Moon2Loss
from publishing_moon2.checkpoints import PUSHING, push_final
from publishing_moon2.files import RUN
from training_moon2.arguments import OwnFields
from training_moon2.callbacks import REFUSED_LOG, Progress, TrainingError
from training_moon2.checkpoints import (
    STAGING,
    CheckpointError,
    check_writable,
    checkpoints,
    damage,
    differences,
    newest_complete,
    writing,
)
from training_moon2.collator import TripletCollator
from training_moon2.dry_run import report, sizes
from training_moon2.figures import ValidationRetrieval
from training_moon2.model import ADAPTER, build_model
from training_moon2.recipe import Recipe, complete
from training_moon2.trainer import FILTER_LOG, LOG, Moon2Trainer
from training_moon2.triplets import TripletDataset, TripletStream, fingerprint, load_triplets


def train(own: OwnFields) -> int:
    """Train and save; return the exit code: 0, 2 after an error, 128 + the number of a signal that stopped it."""
    try:
        recipe = complete(own)
        if recipe.run.dry_run:
            recipe.training.push_to_hub = False
        if recipe.training.should_save:
            check_writable(Path(recipe.training.output_dir))
        trainer = build_trainer(recipe)
        if recipe.run.dry_run:
            print(report(trainer, recipe))
            return 0
        resume_from = prepare_output(trainer, recipe)
        tell(recipe.training, describe(trainer, recipe))
        trainer.train(resume_from_checkpoint=resume_from)
        if trainer.interruption.signal is not None:
            tell(
                recipe.training,
                f"Stopped by {trainer.interruption.signal.name} after step {trainer.state.global_step}; a checkpoint "
                f"is in {recipe.training.output_dir}/. To go on: the same command with --resume_from_checkpoint true",
            )
            return 128 + trainer.interruption.signal
        save(trainer, recipe)
        if recipe.run.dump_filtered:
            output, main_process = Path(recipe.training.output_dir), recipe.training.process_index == 0
            tell(recipe.training, trainer.filter.dump(output, recipe.training.world_size, main_process))
        if recipe.training.push_to_hub and recipe.training.process_index == 0:
            pushed = push_final(Path(recipe.training.output_dir), recipe.training, trainer.hub_model_id)
            tell(recipe.training, pushed.sentence())
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"\nerror: {without_secrets(sentence(error))}", file=sys.stderr)  # below the progress bar
        return 2
    return 0


def sentence(error: Exception) -> str:
    """Return all that an error says, on one line; of one from a worker process without the traceback before it."""
    text = str(error).strip()
    if "Traceback (most recent call last):" in text:
        text = re.split(r"\n(?=[\w.]+: )", text)[-1].partition(": ")[2]
    return " ".join(text.split())


def build_trainer(
    recipe: Recipe, build: Callable | None = None, loss: Moon2Loss | None = None, **decisive
) -> Moon2Trainer:
    """Build everything that a run needs, from its recipe.

    Args:
        build: makes model and processor; by default `build_model`.
        loss: replaces that of the recipe.
        decisive: what else a run that is resumed must have in common.

    Raises:
        ValueError, OSError: the recipe contradicts itself, or names something that is not there.
    """
    model_arguments, data, batches, run, own_loss, training, _ = recipe
    set_seed(training.seed)
    # One process of each machine refreshes the cache of the data set, the others find it done.
    with training.main_process_first(desc="reading the data set"):
        first = training.local_process_index == 0
        rows = load_triplets(data.dataset, "train", streaming=data.streaming, refresh=first)
        evaluated = None
        if training.eval_strategy != "no":
            evaluated = TripletDataset(load_triplets(data.dataset, "validation", refresh=first))
    model, processor = (build or build_model)(model_arguments, rows)
    shown = (data.enriched_title_probability, data.augmented_image_probability, training.seed, data.coaugmentation)
    if data.streaming:
        training.accelerator_config.dispatch_batches = False  # every process reads; strings cannot be handed around
        batch_size = training.train_batch_size * training.world_size
        dataset = TripletStream(rows, *shown, batch_size=batch_size, batches=batches)
    else:
        dataset = TripletDataset(rows, *shown, false_positive_share=data.false_positive_share)
    trainer = Moon2Trainer(
        model,
        training,
        loss=loss or own_loss,
        grad_cache=run.grad_cache_chunk is not None,
        batches=batches,
        dual_alignment_learning_rate=run.dual_alignment_learning_rate,
        router_learning_rate_factor=run.router_learning_rate_factor,
        max_refused_steps=run.max_refused_steps,
        validation=None if evaluated is None else ValidationRetrieval(evaluated, data.validation_sample),
        dump_filtered=run.dump_filtered,
        run=recipe.decisive() | {"triplets": fingerprint(rows)} | decisive,
        data_collator=TripletCollator(processor, run.grad_cache_chunk or 64, run.grad_cache_unit),
        train_dataset=dataset,
        eval_dataset=evaluated,
        processing_class=processor,
    )
    if not training.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Progress)
    return trainer


def prepare_output(trainer: Moon2Trainer, recipe: Recipe) -> str | None:
    """Find the checkpoint to resume from, if that is asked for, and ready the output folder.

    Raises:
        ValueError, CheckpointError: there is none, it is of another run, or nothing can be written.
    """
    training, outcome = recipe.training, [None]
    if training.process_index == 0:
        try:
            outcome = [_prepare_output(trainer, recipe)]
        except (ValueError, CheckpointError) as error:
            outcome = [error]
    if training.world_size > 1:
        broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _prepare_output(trainer: Moon2Trainer, recipe: Recipe) -> str | None:
    training, output = recipe.training, Path(recipe.training.output_dir)
    for name in (STAGING, PUSHING):  # of a run that was killed while it saved or pushed
        shutil.rmtree(output / name, ignore_errors=True)
    asked = training.resume_from_checkpoint
    if asked in (None, "false", "False", False):
        if checkpoints(output):
            raise ValueError(
                f"{output} holds checkpoints of an earlier run: add --resume_from_checkpoint true to go on with it, "
                "choose another --output_dir, or remove them."
            )
        for name in (LOG, FILTER_LOG, REFUSED_LOG):
            (output / name).unlink(missing_ok=True)
        return None
    if asked in ("true", "True", True):
        checkpoint, skipped = newest_complete(output)
        print(*skipped, sep="\n", end="\n" if skipped else "")
        if checkpoint is None:
            raise ValueError(f"There is no complete checkpoint in {output} to resume from.")
    else:
        checkpoint, problem = Path(asked), damage(Path(asked))
        if problem is not None:
            raise ValueError(f"{checkpoint} cannot be resumed from: {problem}.")
    changed = differences(checkpoint, trainer.run)
    if changed and not recipe.run.allow_changed_run:
        raise ValueError(
            f"{checkpoint} belongs to another run: {'; '.join(changed)}. Add --allow_changed_run true to go on with it "
            "all the same."
        )
    for folder in checkpoints(output):
        if folder.samefile(checkpoint):
            break
        # Left in its place it would count as the newest again, and have better ones removed by save_total_limit.
        if damage(folder) is None:
            raise ValueError(f"{folder} is complete and newer than {checkpoint}: resume from it, or remove it first.")
        shutil.rmtree(folder)
        print(f"Removed {folder}: it is damaged.")
    print(f"Resuming from {checkpoint}" + (f" although {'; '.join(changed)}" if changed else "") + ".")
    step = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    for name in (LOG, FILTER_LOG, REFUSED_LOG):  # what came after the checkpoint comes again
        if (output / name).exists():
            lines = (output / name).read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            write_text(output / name, "".join(kept))
    return str(checkpoint)


def save(trainer: Moon2Trainer, recipe: Recipe):
    """Save the finished model with its processor, code, recipe and figures; a LoRA adapter is merged and kept beside
    it.

    Raises:
        CheckpointError: it cannot be written.
    """
    training, output = recipe.training, Path(recipe.training.output_dir)
    staged = output / STAGING / "model"
    lora = recipe.model.lora_rank is not None
    with writing(staged, remove=training.should_save):
        if lora:
            trainer.save_model(str(staged / ADAPTER), _internal_call=True)
            merged = not trainer.is_fsdp_enabled and not trainer.is_deepspeed_enabled
            if merged and training.should_save:
                trainer.accelerator.unwrap_model(trainer.model).merge_and_unload().save_pretrained(staged)
                trainer.processing_class.save_pretrained(staged)
        else:
            trainer.save_model(str(staged), _internal_call=True)  # main pushes it, once it is whole
        trainer.accelerator.wait_for_everyone()
        if training.should_save:
            trainer.save_state()
            text = yaml.safe_dump(recipe.fields(), sort_keys=False, allow_unicode=True)
            write_text(staged / "recipe.yaml", text)
            write_json(staged / RUN, run_facts(trainer), indent=1)
            for pickle in staged.rglob("training_args.bin"):
                pickle.unlink()  # recipe.yaml says the same and can be read
            for path in sorted(staged.iterdir()):
                if (output / path.name).is_dir():
                    shutil.rmtree(output / path.name)
                path.replace(output / path.name)
            shutil.rmtree(output / STAGING)
    what = "the model" if not lora else "the model, its LoRA adapter" if merged else "the LoRA adapter, not merged"
    tell(
        training,
        f"In {output}/: {what}, its processor, its code, recipe.yaml, and every logged figure in trainer_state.json.",
    )


def run_facts(trainer: Moon2Trainer) -> dict:
    """Return what a run was made from, with and on, for the model card."""
    rows = trainer.train_dataset
    return {
        "triplets": None if isinstance(rows, TripletStream) else len(rows),
        "fingerprint": trainer.run["triplets"],
        "processes": trainer.args.world_size,
        "hardware": hardware(),
        "versions": versions(("torch", "transformers", "accelerate")),
    }


def describe(trainer: Moon2Trainer, recipe: Recipe) -> str:
    """Describe the size of the run in a line."""
    training = recipe.training
    model = trainer.accelerator.unwrap_model(trainer.model)
    count = "a stream of triplets" if recipe.data.streaming else f"{len(trainer.train_dataset):,} triplets"
    processes = f", {training.world_size} processes" if training.world_size > 1 else ""
    return f"{sizes(model)}; {count}; {'bf16' if training.bf16 else 'fp32'} on {training.device}{processes}"


def tell(training: TrainingArguments, sentence: str):
    """Print once, however many processes there are."""
    if training.process_index == 0:
        print(sentence, flush=True)
