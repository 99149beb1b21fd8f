"""The variants of the study, read from variants.yaml, and the losses of single ones."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from configuration_moon2 import INTER_OBJECTIVES, INTRA_OBJECTIVES
from loss_moon2 import LossOutput, Moon2Loss, Products, Role, anchor_usage, objective_weights
from research.study.arguments import HERE, Place, StudyError

VARIANTS, RECIPE = HERE / "variants.yaml", HERE / "recipe.yaml"
ENCODERS = ("moon2", "two_towers")
SMOLLM2 = "smollm2"
# How strongly `Prior` keeps omega even, and after which share of the training `Late` lets it move (our choice).
PRIOR, UNIFORM_SHARE = 1.0, 1 / 3


@dataclass(frozen=True)
class Variant:
    """One line of the study; variants.yaml says what the fields mean."""

    name: str
    tier: int
    changes: str
    why: str
    seeds: int = 3
    paper: str | None = None
    against: str = "full"
    curve: str | None = None
    recipe: dict = field(default_factory=dict)
    query_mix: tuple[int, int, int] = (1, 1, 1)
    objectives: tuple[str, ...] = INTER_OBJECTIVES + INTRA_OBJECTIVES
    loss: str = "moon2"
    encoder: str = "moon2"
    start: str | None = None

    def fields(self, place: Place | None = None) -> dict:
        """Return the recipe of the variant, with what `place` changes in it."""
        recipe = {name: value for name, value in (_shared_recipe() | self.recipe).items() if value is not None}
        if self.start is not None:  # what it starts from has an architecture, a tokenizer and a size of images
            own = ("architecture", "vocab_size", "max_pixels")
            recipe = {name: value for name, value in recipe.items() if name not in own}
        place = place or Place()
        steps = place.max_steps
        if steps is not None:
            recipe |= {"max_steps": steps, "warmup_steps": min(recipe["warmup_steps"], steps // 2)}
        if place.times > 1:
            counts = ("max_steps", "warmup_steps", "save_steps", "logging_steps")
            recipe |= {name: place.times * recipe[name] for name in counts}
        recipe |= {"augmented_image_probability": 0.0} if place.no_augmented_images else {}
        return recipe | ({"bf16": True} if place.device == "cuda" else {})

    def key(self, place: Place | None = None) -> str:
        """Return a digest of what decides the model; results with another one are of an earlier form of the variant.

        It changes with every field that may change weights. How often a run logs or saves does not.
        """
        said = ("name", "tier", "changes", "why", "seeds", "paper", "against", "curve")
        own = {name: value for name, value in asdict(self).items() if name not in (*said, "recipe")}
        recipe = {name: value for name, value in self.fields(place).items() if not name.startswith(("save_", "log"))}
        if self.start not in (None, SMOLLM2):
            own["start_key"] = read_variants()[self.start].key(place)
        return hashlib.sha256(json.dumps([own, recipe], sort_keys=True).encode()).hexdigest()[:12]


@cache
def _shared_recipe() -> dict:
    return yaml.safe_load(RECIPE.read_text(encoding="utf-8"))


@cache
def read_variants(file: Path = VARIANTS) -> dict[str, Variant]:
    """Return the variants by name, in the order of the file.

    Raises:
        StudyError: a field that nobody knows, a value that cannot be, or a name that comes twice.
    """
    known = {one.name for one in fields(Variant)}
    variants: dict[str, Variant] = {}
    for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
        unknown = sorted(set(entry) - known)
        if unknown or "name" not in entry:
            raise StudyError(f"{file.name}: {entry.get('name', entry)} has unknown fields or no name: {unknown}.")
        entry |= {name: tuple(entry[name]) for name in ("query_mix", "objectives") if name in entry}
        variant = Variant(**entry)
        if variant.name in variants:
            raise StudyError(f"{file.name}: there are two variants {variant.name}.")
        if variant.loss not in LOSSES or variant.encoder not in ENCODERS:
            raise StudyError(f"{file.name}: {variant.name} has an unknown loss or encoder.")
        if variant.start not in (None, SMOLLM2, *variants):
            raise StudyError(f"{file.name}: {variant.name} starts from {variant.start}, which is not above it.")
        variants[variant.name] = variant
    strangers = sorted({variant.against for variant in variants.values()} - set(variants))
    if strangers:
        raise StudyError(f"{file.name}: variants are compared with {', '.join(strangers)}, which are not there.")
    return variants


def choose(variants: dict[str, Variant], names: list[str] | None) -> list[Variant]:
    """Return the named variants, or all.

    Raises:
        StudyError: there is no such variant.
    """
    unknown = sorted(set(names or ()) - set(variants))
    if unknown:
        raise StudyError(f"There is no variant {', '.join(unknown)}; there are {', '.join(variants)}.")
    return [variant for name, variant in variants.items() if names is None or name in names]


class Batch(NamedTuple):
    """What a loss is called with."""

    query: Role
    products: Products
    dual_alignment: torch.Tensor
    objectives: list[str]
    progress: float


class Reweighted(Moon2Loss, ABC):
    """`Moon2Loss` with other weights: a subclass says which, and what they add to the loss."""

    @abstractmethod
    def weights(self, output: LossOutput, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor | float]:
        """Return the weight of each objective, and a term that is added."""

    def __call__(self, query, products, dual_alignment, objectives, aux_loss, progress, z_loss=0.0):
        output = super().__call__(query, products, dual_alignment, objectives, aux_loss, progress, z_loss)
        omega, extra = self.weights(output, Batch(query, products, dual_alignment, objectives, progress))
        loss = sum(omega[name] * value for name, value in output.objective_losses.items()) + extra
        loss = loss + self.aux_loss_weight * aux_loss + self.sparsity_loss_weight * output.sparsity
        loss = loss + self.z_loss_weight * z_loss
        return replace(output, loss=loss, omega=omega)


class OwnView(Moon2Loss):
    """Fixed modality mixing: a query is seen in its own view only, so that the shares of the batch are the weights."""

    def __post_init__(self):
        super().__post_init__()
        self.objective_weighting = "queries"

    def __call__(self, query, products, dual_alignment, objectives, aux_loss, progress, z_loss=0.0):
        text = query.t._replace(present=query.t.present & ~query.i.present)
        image = query.i._replace(present=query.i.present & ~query.t.present)
        query = query._replace(t=text, i=image)
        return super().__call__(query, products, dual_alignment, objectives, aux_loss, progress, z_loss)


class Renormalised(Reweighted):
    """omega as written, scaled to sum to one."""

    def weights(self, output, batch):
        total = sum(output.omega.values())
        return {name: value / total for name, value in output.omega.items()}, 0.0


class Prior(Renormalised):
    """Scaled omega with a prior towards even weights: -mean log omega of the objectives that the batch has."""

    def weights(self, output, batch):
        omega, _ = super().weights(output, batch)
        logs = torch.stack([omega[name].log() for name in output.objective_losses])
        return omega, -PRIOR * logs.mean()


class Late(Prior):
    """As `Prior`, after a first part of the training with even weights."""

    def weights(self, output, batch):
        if batch.progress >= UNIFORM_SHARE:
            return super().weights(output, batch)
        return {name: torch.full_like(value, 1 / len(batch.objectives)) for name, value in output.omega.items()}, 0.0


class Uncertainty(Reweighted):
    """omega_m = exp(-s_m) / M and + s_m / M (Kendall et al., 2018), s_m the mean of W*_{z,m} over the experts used."""

    def weights(self, output, batch):
        usage = used_rows(batch)
        omega, extra, count = {}, 0.0, len(batch.objectives)
        for name, column in zip(batch.objectives, batch.dual_alignment.T, strict=True):
            if name not in output.objective_losses:
                omega[name] = column.new_zeros(())
                continue
            log_variance = usage[name].float().mean(0) @ column.float()
            omega[name] = (-log_variance).exp() / count
            extra = extra + log_variance / count
        return omega, extra


class Descent(Reweighted):
    """omega weighs without gradient, scaled to sum to one; W* learns from how far each objective is from done.

    An added cross-entropy moves omega towards the shares of L_m / log K_m (K_m candidates for an anchor): what is
    left of the loss of guessing, which is the inverse training rate of GradNorm (Chen et al., 2018).
    """

    def weights(self, output, batch):
        usage = {name: rows.detach() for name, rows in used_rows(batch).items()}
        omega = objective_weights(batch.dual_alignment, batch.objectives, usage)
        total = sum(omega.values())
        omega = {name: value / total for name, value in omega.items()}
        left = {}
        for name, loss in output.objective_losses.items():
            candidates = 2 * len(batch.products.positive.own) if name in INTER_OBJECTIVES else len(usage[name])
            left[name] = loss.detach() / math.log(max(candidates, 2))
        extra = -sum(share * omega[name].log() for name, share in left.items()) / sum(left.values())
        return {name: value.detach() for name, value in omega.items()}, extra


def used_rows(batch: Batch) -> dict[str, torch.Tensor]:
    """Return G~ of each objective's anchors that have the view (B_m, Z)."""
    query, sides = batch.query, (batch.products.positive, batch.products.negative)
    both = torch.cat([side.i.present & side.t.present for side in sides])
    present = {"t2mm": query.t.present, "i2mm": query.i.present, "mm2mm": query.mm.present}
    return {name: rows[present.get(name, both)] for name, rows in anchor_usage(query, batch.products).items()}


LOSSES = {
    "moon2": Moon2Loss,
    "own_view": OwnView,
    "renormalised": Renormalised,
    "prior": Prior,
    "late": Late,
    "uncertainty": Uncertainty,
    "descent": Descent,
}
