"""`--dry_run`: what a run would cost, measured by one step that is not kept, and its first batch in words."""

import itertools
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from common_moon2.machine import peak_memory
from modeling_moon2 import Moon2Model
from training_moon2.recipe import Recipe
from training_moon2.trainer import Moon2Trainer
from training_moon2.triplets import ROLES

SHOWN_TRIPLETS, SHOWN_CHARACTERS = 3, 80


def report(trainer: Moon2Trainer, recipe: Recipe) -> str:
    """Return sizes, costs and the first batch of a run as text. Weights and optimizer are left as they were."""
    training = recipe.training
    triplets = first_batch(trainer)
    features = trainer.data_collator(triplets)
    passes = [part for parts in features["passes"].values() for part in parts]
    positions = sum(part["attention_mask"].sum().item() for part in passes)
    padded = sum(part["attention_mask"].numel() for part in passes)
    visual = sum((part["position_types"] == 1).sum().item() for part in passes)
    seconds, flops, peak = trial_step(trainer, features)

    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = sum(value.numel() * value.element_size() for value in model.parameters())
    # A gradient of each trained weight in its own type, and AdamW's two moments likewise.
    states = 3 * sum(value.numel() * value.element_size() for value in model.parameters() if value.requires_grad)
    batch = len(triplets) * training.world_size * training.gradient_accumulation_steps
    steps = training.max_steps if training.max_steps > 0 else steps_of(trainer, recipe)
    of_data = "" if recipe.data.streaming else f" = {steps * batch / len(trainer.train_dataset):.1f} epochs"
    memory = "on the GPU" if training.device.type == "cuda" else "of the process, libraries included"
    lines = [
        f"Model: {sizes(model)}",
        f"Data: {recipe.data.dataset}"
        + ("" if recipe.data.streaming else f", {len(trainer.train_dataset):,} triplets")
        + f"; {batch:,} triplets a step, {steps:,} steps{of_data}",
        f"Tokens of a triplet, in the first batch: {positions / len(triplets):,.0f} ({visual / len(triplets):,.0f} of "
        f"images), {padded / positions - 1:.0%} padding on top; {len(passes)} passes a step",
        f"Memory of a process: {weights / 2**20:,.0f} MiB of weights, {states / 2**20:,.0f} MiB of gradients and AdamW "
        f"states; the peak of a trial step without optimizer was {peak / 2**20:,.0f} MiB {memory}",
        f"Time: a trial step of {len(triplets)} triplets took {seconds:.2f} s ({flops / 1e12:,.3f} TFLOP) on "
        f"{training.device}; {steps:,} steps would take about "
        f"{duration(seconds * steps * training.gradient_accumulation_steps)}, without reading data, evaluating, saving",
        "",
        f"The first batch: {in_kinds(triplets)}; of its triplets the first {SHOWN_TRIPLETS}:",
    ]
    for triplet in triplets[:SHOWN_TRIPLETS]:
        lines.append(f"- {triplet['query_id']}")
        lines += [f"  {role:9} {in_words(triplet[role])}" for role in ROLES]
    return "\n".join(lines)


def sizes(model: Moon2Model) -> str:
    """Return how many parameters a model has, how many a token passes, and how many are trained."""
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    counts = model.num_parameters(), model.num_active_parameters(), trained
    return "{:,.1f} M parameters, {:,.1f} M active for a token, {:,.1f} M trained".format(*(n / 1e6 for n in counts))


def first_batch(trainer: Moon2Trainer) -> list[dict]:
    """Return the triplets that this process would see first."""
    dataset, size = trainer.train_dataset, trainer.args.train_batch_size
    start = size * trainer.args.process_index
    if isinstance(dataset, torch.utils.data.IterableDataset):
        return list(itertools.islice(dataset, start, start + size))
    return [dataset[index] for index in itertools.islice(trainer._get_train_sampler(), start, start + size)]


def trial_step(trainer: Moon2Trainer, features: dict) -> tuple[float, int, int]:
    """Run forward and backward of one batch twice: the first also warms up and counts.

    Returns:
        seconds of the second, floating-point operations of one, and bytes of memory at the peak.
    """
    model = trainer.accelerator.prepare_model(trainer.model).train()
    features = trainer._prepare_inputs(features)

    def step():
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, features)
        trainer.accelerator.backward(loss)
        model.zero_grad()
        loss.item()  # waits for the GPU

    experts = {torch.ops.aten._grouped_mm: grouped_mm_flops}  # which torch does not count itself
    with FlopCounterMode(display=False, custom_mapping=experts) as counter:
        step()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    memory = peak_memory()
    return seconds, counter.get_total_flops(), memory["gpu" if trainer.args.device.type == "cuda" else "process"]


def grouped_mm_flops(one: tuple[int, ...], other: tuple[int, ...], *args, **kwargs) -> int:
    """Count a grouped product's operations: every row meets one group only, so the groups do not multiply them."""
    return 2 * one[-2] * one[-1] * other[-1]


def steps_of(trainer: Moon2Trainer, recipe: Recipe) -> int:
    """Count the optimizer steps of `num_train_epochs`."""
    batches = len(trainer.get_train_dataloader())
    updates = -(-batches // recipe.training.gradient_accumulation_steps)
    return round(updates * recipe.training.num_train_epochs)


def in_kinds(triplets: list[dict]) -> str:
    """Count the queries of each modality."""
    kinds = {"text": 0, "image": 0, "text and image": 0}
    for triplet in triplets:
        query = triplet["query"]
        kinds[" and ".join(name for name in ("text", "image") if query[name] is not None)] += 1
    return ", ".join(f"{count} queries by {kind}" for kind, count in kinds.items())


def in_words(product: dict) -> str:
    """Describe a product on one line."""
    text = product["text"]
    if text is not None and len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + "..."
    return " + ".join(["an image"] * (product["image"] is not None) + [f'"{text}"'] * (text is not None))


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
