"""Run by torchrun for tests/training_moon2/test_distributed.py: what one of two processes does. Not a test itself."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainingArguments

from conftest import tiny_model, tiny_processor
from loss_moon2 import Moon2Loss
from train_moon2 import main
from training_moon2.arguments import BatchArguments
from training_moon2.collator import TripletCollator
from training_moon2.trainer import Moon2Trainer
from training_moon2.triplets import TripletDataset, load_triplets

OBJECTIVE = dict(objective_weighting="learned", aux_loss_weight=0.5, sparsity_loss_weight=0.1, filter_warmup=0.0)
# Case -> which triplets each of the two processes has.
SHARES = {"even": (4, 4), "uneven": (2, 6), "texts": (3, 5), "grad_cache": (5, 3)}


def make_trainer(mbe2: str, output_dir: Path, batch_size: int, grad_cache: bool = False, **options) -> Moon2Trainer:
    """A trainer whose result can be compared to the last digits: SGD, float32, no dropout."""
    arguments = dict(optim="sgd", learning_rate=0.05, max_grad_norm=0.0, report_to="none", save_strategy="no", seed=0)
    arguments |= dict(use_cpu=True, remove_unused_columns=False, label_names=[], dataloader_pin_memory=False)
    arguments |= dict(logging_steps=1, disable_tqdm=True, per_device_train_batch_size=batch_size)
    return Moon2Trainer(
        tiny_model(),
        TrainingArguments(str(output_dir), **arguments | options),
        loss=Moon2Loss(**OBJECTIVE),
        grad_cache=grad_cache,
        batches=BatchArguments(),
        data_collator=TripletCollator(tiny_processor(), chunk=3 if grad_cache else 64),
        train_dataset=TripletDataset(load_triplets(mbe2, "train", refresh=False), 0.5, 0.5),
    )


def triplets_of(case: str, dataset: TripletDataset) -> list[dict]:
    """The eight triplets of a case, in which some products are the same."""
    triplets = [dataset[index] for index in (0, 1, 2, 3, 4, 5, 0, 7)]
    if case == "texts":  # the first process has no image at all
        for triplet in triplets[: SHARES[case][0]]:
            for role in ("query", "positive", "negative"):
                triplet[role] = {"text": triplet[role]["text"] or triplet["positive"]["text"], "image": None}
    return triplets


def gradients(trainer: Moon2Trainer, triplets: list[dict]) -> dict[str, torch.Tensor]:
    """Loss and gradients of one batch, as the loop of the Trainer gets them."""
    model = trainer.accelerator.prepare_model(trainer.model).train()
    model.zero_grad()
    loss = trainer.compute_loss(model, trainer._prepare_inputs(trainer.data_collator(triplets)))
    trainer.accelerator.backward(loss)
    unwrapped = trainer.accelerator.unwrap_model(model)
    found = {name: value.grad for name, value in unwrapped.named_parameters() if value.grad is not None}
    return {name: value.clone() for name, value in found.items()} | {"loss": loss.detach()}


def sharded_gradients(trainer: Moon2Trainer, triplets: list[dict]) -> dict[str, torch.Tensor]:
    """As `gradients`, with the weights sharded by torch's FSDP2, layer by layer as accelerate does it."""
    model, mesh = trainer.model.train(), init_device_mesh("cpu", (2,))
    for layer in (*model.vlm.get_decoder().layers, *model.vlm.visual.blocks):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh)
    loss = trainer.compute_loss(model, trainer._prepare_inputs(trainer.data_collator(triplets)))
    loss.backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {name: value.full_tensor() for name, value in found.items()} | {"loss": loss.detach()}


class BrokenOnce(Moon2Loss):
    """A loss that is NaN in its fourth call: the second batch of the second step."""

    def __call__(self, *args, **kwargs):
        self.calls = getattr(self, "calls", 0) + 1
        result = super().__call__(*args, **kwargs)
        return replace(result, loss=result.loss * float("nan")) if self.calls == 4 else result


def train_with_a_broken_step(mbe2: str, folder: Path, batch_size: int) -> Moon2Trainer:
    """Three steps of two batches, of which the second step has to be refused."""
    trainer = make_trainer(mbe2, folder, batch_size, gradient_accumulation_steps=2, max_steps=3)
    trainer.loss = BrokenOnce(**OBJECTIVE)
    trainer.train()
    return trainer


def compare(mbe2: str, folder: Path):
    """Writes the gradients of every case, and the weights after a few steps."""
    for case, shares in SHARES.items():
        trainer = make_trainer(mbe2, folder / "run", 4, grad_cache=case == "grad_cache")
        rank = trainer.args.process_index
        triplets = triplets_of(case, trainer.train_dataset)
        found = gradients(trainer, triplets[: shares[0]] if rank == 0 else triplets[shares[0] :])
        if rank == 0:
            torch.save(found, folder / f"{case}.pt")
    trainer = make_trainer(mbe2, folder / "run", 4)
    triplets = triplets_of("texts", trainer.train_dataset)
    found = sharded_gradients(trainer, triplets[:3] if rank == 0 else triplets[3:])
    if rank == 0:
        torch.save(found, folder / "sharded.pt")
    # Three steps of two batches each; 40 triplets, so that the last batch of the epoch is not a full one.
    for how, grad_cache in (("plain", False), ("grad_cache", True)):
        trainer = make_trainer(mbe2, folder / "run", 3, grad_cache, gradient_accumulation_steps=2, max_steps=3)
        trainer.train()
        if rank == 0:
            torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), folder / f"trained-{how}.pt")
            torch.save(trainer.state.log_history, folder / f"log-{how}.pt")
    # Nothing reads W* here: weight decay must not shrink it.
    trainer = make_trainer(mbe2, folder / "decay", 3, max_steps=2, optim="adamw_torch", weight_decay=0.5)
    trainer.loss = Moon2Loss(objective_weighting="uniform", sparsity_loss_weight=0.0)
    before = trainer.model.dual_alignment.weight.detach().clone()
    trainer.train()
    after = trainer.accelerator.unwrap_model(trainer.model).dual_alignment.weight.detach()
    if rank == 0:
        torch.save([before, after], folder / "decay.pt")
    trainer = train_with_a_broken_step(mbe2, folder / "broken", 3)
    if rank == 0:
        torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), folder / "broken.pt")


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "compare":
        compare(words[0], Path(words[1]))
        distributed.destroy_process_group()
    else:
        sys.exit(main(words))
