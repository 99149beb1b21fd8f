"""One run of the study: training, in a way that may be killed at any time."""

import json
from pathlib import Path

import yaml
from transformers import set_seed

from research.study.losses import LOSSES
from research.study.models import make_smollm2, starting_model
from research.study.variants import SMOLLM2, Variant
from train_moon2 import prepare_output, save
from training_moon2.checkpoints import checkpoints
from training_moon2.collator import TripletCollator
from training_moon2.recipe import Recipe, read_recipe
from training_moon2.trainer import LOG, Moon2Trainer
from training_moon2.triplets import TripletDataset, fingerprint, load_triplets

MODEL, TRAINED = "model", "trained.json"


def train(variant: Variant, fields: dict, seed: int, dataset: Path, folder: Path, start: Path | None) -> int:
    """Trains one model of a variant, or goes on with it; leaves it in `folder`/model, and trained.json.

    Args:
        fields: of the recipe.
        start: folder of the dense model that it starts from, if there is one.

    Returns:
        0, or 128 + the number of a signal that stopped it: the same call then goes on.

    Raises:
        StudyError, TripletError, TrainingError, CheckpointError, ValueError, OSError: it cannot be trained.
    """
    if (folder / TRAINED).is_file():
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / MODEL
    if variant.start == SMOLLM2:
        start = folder / SMOLLM2
        if not (start / "preprocessor_config.json").is_file():  # written last
            make_smollm2(start, seed)
    own = {"dataset": str(dataset), "output_dir": str(output), "seed": seed, "disable_tqdm": True}
    own |= {} if start is None else {"model": str(start)}
    own |= {"resume_from_checkpoint": "true"} if checkpoints(output) else {}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(fields | own, sort_keys=False), encoding="utf-8")
    recipe = read_recipe([str(file)])
    trainer = build_trainer(variant, recipe)
    trainer.train(resume_from_checkpoint=prepare_output(trainer, recipe))
    if trainer.interruption.signal is not None:
        return 128 + trainer.interruption.signal
    save(trainer, recipe)
    facts = {
        "parameters": trainer.model.num_parameters(),
        "active_parameters": trainer.model.num_active_parameters(),
        "triplets": len(trainer.train_dataset),
        "triplets_fingerprint": trainer.run["triplets"],
        "seconds": round(training_seconds(output / LOG, recipe), 1),
        "last_log": last_figures(output / LOG),
    }
    staged = folder / f"{TRAINED}.part"
    staged.write_text(json.dumps(facts), encoding="utf-8")
    staged.replace(folder / TRAINED)
    return 0


def build_trainer(variant: Variant, recipe: Recipe) -> Moon2Trainer:
    """The trainer of `train_moon2.py`, with what variants change beside the recipe: objectives, loss and encoder."""
    data, training = recipe.data, recipe.training
    set_seed(training.seed)
    rows = load_triplets(data.dataset, "train")
    model, processor = starting_model(variant, recipe.model, rows)
    options = {name: getattr(recipe.loss, name) for name in recipe.loss.__dataclass_fields__}
    shown = (data.enriched_title_probability, data.augmented_image_probability, training.seed, data.coaugmentation)
    return Moon2Trainer(
        model,
        training,
        loss=LOSSES[variant.loss](**options),
        batches=recipe.batches,
        dual_alignment_learning_rate=recipe.run.dual_alignment_learning_rate,
        run=recipe.decisive() | {"triplets": fingerprint(rows), "variant": variant.name},
        data_collator=TripletCollator(processor),
        train_dataset=TripletDataset(rows, *shown, data.false_positive_share),
        processing_class=processor,
    )


def training_seconds(log: Path, recipe: Recipe) -> float:
    """How long the steps took, over all sessions, by the logged speed."""
    seconds = 0.0
    for entry in _logged(log):
        steps = recipe.training.logging_steps
        seconds += steps * recipe.training.per_device_train_batch_size / entry["triplets_per_second"]
    return seconds


def last_figures(log: Path) -> dict[str, float]:
    """Losses, omega, filter and expert usage of the last logged steps."""
    entries = _logged(log)
    kept = ("loss", "omega_", "expert_", "phi", "kept_share", "filter_")
    last = entries[-1] if entries else {}
    return {
        name: round(value, 5)
        for name, value in last.items()
        if name.startswith(kept) and isinstance(value, int | float)
    }


def _logged(log: Path) -> list[dict]:
    if not log.is_file():
        return []
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if "triplets_per_second" in entry]
