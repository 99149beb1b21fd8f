"""Writes the dataset card: README.md with the YAML from which `load_dataset` learns the configs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import DatasetCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mbe2_dataset.checks.rows import LEVELS
from mbe2_dataset.errors import OptionError

if TYPE_CHECKING:  # build imports this module
    from mbe2_dataset.build import Built
    from mbe2_dataset.checks.check import CheckReport

# What a folder must say in its card for `--overwrite` to replace it.
SIGNATURE = "MBE2.0-format"

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_HEADINGS = {
    "triplet query": "Queries of the triplets",
    "negative": "Negatives",
    "noise": "Known noise (shares of the triplets; one may have several)",
    "query image": "Where images of test queries come from",
    "augmented field": "What became of augmented fields",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows came from; `command` makes the data set again."""

    catalogue: str
    synthetic: bool
    command: str
    seed: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What only the publisher knows about the data.

    Attributes:
        license: an identifier of the Hub ("cc-by-4.0", "mit" ...) or "other".
        license_name, license_link: of a licence without an identifier.
        languages: ISO 639-1 codes of the texts.
        attribution: who made the catalogue and how they want to be named; Markdown.
    """

    license: str = "other"
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    attribution: str = ""

    def __post_init__(self):
        if self.license != "other" and (self.license_name or self.license_link):
            raise OptionError(
                f"The licence {self.license!r} has a name of its own: give license_name and license_link only together "
                "with license 'other'."
            )


_SYNTHETIC_TERMS = Terms(license="cc0-1.0", languages=("en", "zh"))
_UNKNOWN_TERMS = Terms(license_name="as-the-source-catalogue")


def card(
    origin: Origin,
    built: "Built",
    terms: Terms | None = None,
    report: "CheckReport | None" = None,
    repo_id: str = "mbe2",
) -> str:
    """Return the text of README.md.

    Args:
        terms: by default CC0 for the synthetic catalogue, and for others the terms of the source.
        report: of `check_dataset`; its summary goes into the card.
        repo_id: the name by which the examples load it.
    """
    terms = terms or (_SYNTHETIC_TERMS if origin.synthetic else _UNKNOWN_TERMS)
    name = terms.license_name or terms.license
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = templates.get_template("card.md").render(
        signature=SIGNATURE,
        origin=origin,
        built=built,
        terms=terms,
        licence=f"[{name}]({terms.license_link})" if terms.license_link else name,
        consistency=built.facts.get("consistency"),
        report=report,
        repo_id=repo_id,
        headings=_HEADINGS,
        levels=LEVELS,
    )
    return f"---\n{_front_matter(origin, built.rows, terms)}\n---\n\n{text}"


def _front_matter(origin: Origin, rows: dict[str, dict[str, int]], terms: Terms) -> str:
    total = sum(rows["triplets"].values())
    configs = [
        {
            "config_name": config,
            **({"default": True} if config == "triplets" else {}),
            "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits],
        }
        for config, splits in rows.items()
    ]
    facts = DatasetCardData(
        pretty_name=f"{SIGNATURE} triplets and benchmark from {origin.catalogue}",
        license=terms.license,
        license_name=terms.license_name,
        license_link=terms.license_link,
        language=list(terms.languages) or None,
        size_categories=[next((name for limit, name in _SIZES if total < limit), "n>1M")],
        task_categories=["feature-extraction", "sentence-similarity", "image-feature-extraction"],
        tags=["e-commerce", "multimodal", "retrieval", "mbe2.0-format"],
        configs=configs,
    )
    return facts.to_yaml()
