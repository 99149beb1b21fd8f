"""The variants of the study, read from variants.yaml."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import yaml

from configuration_moon2 import INTER_OBJECTIVES, INTRA_OBJECTIVES
from research.study.arguments import HERE, Place, StudyError
from research.study.losses import LOSSES

VARIANTS, RECIPE = HERE / "variants.yaml", HERE / "recipe.yaml"
ENCODERS = ("moon2", "two_towers")
SMOLLM2 = "smollm2"


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
        shared = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        recipe = {name: value for name, value in (shared | self.recipe).items() if value is not None}
        if self.start is not None:  # what it starts from has an architecture, a tokenizer and a size of pictures
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
