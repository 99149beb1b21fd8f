"""The dataset card: README.md with the YAML from which `load_dataset` learns the configs."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import DatasetCardData

from mbe2_dataset.checks.rows import LEVELS

if TYPE_CHECKING:  # build imports this module
    from mbe2_dataset.build import Built
    from mbe2_dataset.checks.check import CheckReport

# What a folder must say in its card for `--overwrite` to replace it.
SIGNATURE = "MBE2.0-format"

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_HEADINGS = {
    "triplet query": "Queries of the triplets",
    "negative": "Negatives",
    "noise": "Known noise (a triplet may have several)",
    "query picture": "Where pictures of test queries come from",
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
            raise ValueError(
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
    """The text of README.md.

    Args:
        terms: by default CC0 for the synthetic catalogue, and for others the terms of the source.
        report: of `check_dataset`; its summary goes into the card.
        repo_id: the name by which the examples load it.
    """
    terms = terms or (_SYNTHETIC_TERMS if origin.synthetic else _UNKNOWN_TERMS)
    return f"---\n{_front_matter(origin, built.rows, terms)}\n---\n\n{_text(origin, built, terms, report, repo_id)}"


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


def _text(origin: Origin, built: "Built", terms: Terms, report: "CheckReport | None", repo_id: str) -> str:
    source = (
        "the built-in synthetic catalogue: a program made every product, picture and word, with known truth and noise"
        if origin.synthetic
        else f"the catalogue `{origin.catalogue}`, whose licence and traps apply to this data set too"
    )
    noise = (
        ""
        if origin.synthetic
        else "\nNoise is known for synthetic catalogues only: here `noise` holds what the catalogue itself declares "
        "and what this build put in, and an empty list does not mean that a row is clean.\n"
    )
    row_table = "\n".join(
        f"| {config} | {split} | {n:,} |" for config, splits in built.rows.items() for split, n in splits.items()
    )
    tables = "".join(_share_table(_HEADINGS.get(name, name), counter) for name, counter in built.counts.items())
    return f"""# {SIGNATURE} triplets and retrieval benchmark from {origin.catalogue}

Made from {source}. It has the form of MBE2.0, the data set of the MOON2.0 paper (arXiv 2511.12449); it is not MBE2.0,
which belongs to the authors of that paper.

```python
from datasets import load_dataset

triplets = load_dataset("{repo_id}")  # train and validation
corpus = load_dataset("{repo_id}", "corpus", split="test")
stream = load_dataset("{repo_id}", "triplets", split="train", streaming=True)
```

Built with seed {origin.seed} by

```bash
{origin.command}
```
{_terms(terms)}
## Rows

| config | split | rows |
|---|---|---|
{row_table}
{tables}{noise}{_consistency(built.facts.get("consistency"))}{_checks(report)}
## Columns

`triplets`, one row for each train and validation listing (and for each query of a search log, where there is one):

- `query_id`, `query_text`, `query_image`, `query_modality` (text, image or mixed), `query_group_id`: a query made from
  a listing of the group, or asked by a user. Where the modality has no text or no picture, the column is null.
- `positive_*`: the listing that was looked for; `negative_*`: a hard negative. Of each: `id`, `title`, `image` (its
  first picture), `group_id`, and co-augmented (MOON2.0, section 5) `enriched_title` and `augmented_images`.
- `positive_category`: the positive's category (path); empty where the catalogue has none.
- `negative_kind`: how the negative was found, e.g. same_leaf (same category path, another group), same_parent (nearest
  shared category) or random.
- `provenance`: one record for the query's text and picture and for each augmented field: `field`, `source_id`,
  `operation`, `parameters` (JSON), `model`, `revision` and `prompt_version` ("" = none used), `seed`,
  `consistency_score` (null = not scored), `kept`, `reason`.
- `noise`: known faults: `false_positive` (query and positive are of different groups) and, after `query_source:`,
  `positive:` or `negative:`, the faults of that listing, e.g. `wrong_title:colour` (the title states another colour) or
  `cluttered_background`.

`corpus`: `id`, `text` (title), `image`, `category` (path), `attributes` (name, value), `brand`, `group_id` of the test
listings. `queries`: `id`, `text`, `image`, `modality`; one text, image and mixed query for each test group.
`qrels`: `query-id`, `corpus-id`, `score` (1): all listings of the query's group. Others may fit a short query as
well; they count as wrong. Test data are not augmented, and no query picture is in the corpus.

## Citation

The method and the data format:

```bibtex
@misc{{moon2,
  title = {{MOON2.0: Dynamic Modality-balanced Multimodal Representation Learning
           for E-commerce Product Understanding}},
  eprint = {{2511.12449}},
  archivePrefix = {{arXiv}},
  year = {{2025}}
}}
```
"""


def _terms(terms: Terms) -> str:
    name = terms.license_name or terms.license
    licence = f"[{name}]({terms.license_link})" if terms.license_link else name
    attribution = f" {terms.attribution}" if terms.attribution else ""
    return f"\n## Licence and sources\n\nLicence: {licence}.{attribution}\n"


def _share_table(title: str, counter: Counter) -> str:
    if not counter:
        return ""
    total = counter.total()
    lines = "\n".join(f"| {kind} | {n:,} | {100 * n / total:.1f} % |" for kind, n in sorted(counter.items()))
    return f"\n| {title} | count | share |\n|---|---|---|\n{lines}\n"


def _consistency(facts: dict | None) -> str:
    if facts is None:
        return ""
    name = " at revision ".join(f"`{part}`" for part in (facts["model"], facts["revision"]) if part)
    cuts = ", ".join(f"{kind} {cut:.3f}" for kind, cut in facts["cuts"].items())
    dropped = f"what scored below {cuts} was dropped ({facts['threshold']})" if cuts else "nothing was dropped by it"
    names = {"original": "photo and title", "title": "photo and enriched title", "views": "changed view and title"}
    tables = "".join(f"\n{names[kind]}:\n\n```text\n{text}\n```\n" for kind, text in facts["histograms"].items())
    return f"\n## Consistency of pictures and titles\n\nScored by {name}; {dropped}.\n{tables}"


def _checks(report: "CheckReport | None") -> str:
    if report is None:
        return ""
    numbers = ", ".join(f"{len(report.of_level(level))} of level {level}" for level in LEVELS)
    worst = [finding for level in LEVELS[:2] for finding in report.of_level(level)]
    lines = "".join(f"- {finding.level}: {finding.where}: {finding.count:,} {finding.message}\n" for finding in worst)
    decoded, different = report.pictures["decoded"], report.pictures["different"]
    return (
        f"\n## Checks\n\n{decoded:,} pictures were decoded, {different:,} of them different. Findings of "
        f"`python -m mbe2_dataset check`: {numbers}.\n{lines and chr(10)}{lines}"
    )
