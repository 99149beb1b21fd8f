"""The dataset card: README.md with the YAML from which `load_dataset` learns the configs."""

from collections import Counter
from dataclasses import dataclass

import yaml

# What a folder must say in its card for `--overwrite` to replace it.
SIGNATURE = "MBE2.0-format"

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows came from; `command` makes the data set again."""

    catalogue: str
    synthetic: bool
    command: str
    seed: int


def card(origin: Origin, rows: dict[str, dict[str, int]], counts: dict[str, tuple[Counter, int]]) -> str:
    """The text of README.md.

    Args:
        rows: config -> split -> number of rows.
        counts: title of a table -> how often each kind occurs, and the number that is all of them.
    """
    return f"---\n{_front_matter(origin, rows)}---\n\n{_text(origin, rows, counts)}"


def _front_matter(origin: Origin, rows: dict[str, dict[str, int]]) -> str:
    configs = [
        {
            "config_name": config,
            **({"default": True} if config == "triplets" else {}),
            "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits],
        }
        for config, splits in rows.items()
    ]
    total = sum(rows["triplets"].values())
    if origin.synthetic:
        licence = {"license": "cc0-1.0", "language": ["en", "zh"]}
    else:
        licence = {"license": "other", "license_name": "as-the-source-catalogue"}
    front = {
        "pretty_name": f"{SIGNATURE} triplets and benchmark from {origin.catalogue}",
        **licence,
        "size_categories": [next((name for limit, name in _SIZES if total < limit), "n>1M")],
        "task_categories": ["feature-extraction", "sentence-similarity", "image-feature-extraction"],
        "tags": ["e-commerce", "multimodal", "retrieval", "mbe2.0-format"],
        "configs": configs,
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def _text(origin: Origin, rows: dict[str, dict[str, int]], counts: dict[str, tuple[Counter, int]]) -> str:
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
        f"| {config} | {split} | {n:,} |" for config, splits in rows.items() for split, n in splits.items()
    )
    return f"""# {SIGNATURE} triplets and retrieval benchmark from {origin.catalogue}

Made from {source}. It has the form of MBE2.0, the data set of the MOON2.0 paper (arXiv 2511.12449); it is not MBE2.0,
which belongs to the authors of that paper.

```python
from datasets import load_dataset

triplets = load_dataset("mbe2")  # train and validation
corpus = load_dataset("mbe2", "corpus", split="test")
```

Built with seed {origin.seed} by

```bash
{origin.command}
```

## Rows

| config | split | rows |
|---|---|---|
{row_table}
{"".join(_share_table(title, *counted) for title, counted in counts.items())}{noise}
## Columns

`triplets`, one row for each train and validation listing:

- `query_id`, `query_text`, `query_image`, `query_modality` (text, image or mixed), `query_group_id`: a query made from
  a listing of the group. Where the modality has no text or no picture, the column is null.
- `positive_*`: the listing that was looked for; `negative_*`: a hard negative. Of each: `id`, `title`, `image` (its
  first picture), `group_id`, and co-augmented (MOON2.0, section 5) `enriched_title` and `augmented_images`.
- `positive_category`: the positive's category (path); empty where the catalogue has none.
- `negative_kind`: same_leaf (same category path, another group), same_parent (nearest shared category) or random.
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


def _share_table(title: str, counter: Counter, total: int) -> str:
    lines = "\n".join(f"| {kind} | {n:,} | {100 * n / total:.1f} % |" for kind, n in sorted(counter.items()))
    return f"\n| {title} | count | share |\n|---|---|---|\n{lines}\n"
