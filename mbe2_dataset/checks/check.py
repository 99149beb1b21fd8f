"""Checks a published data set: every row, every image, and what splits share. Nothing is changed."""

import json
import tempfile
from dataclasses import asdict, dataclass, field
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from tqdm import tqdm

from common_moon2.parallel import in_processes
from common_moon2.source import find_folder
from mbe2_dataset.checks.found import Found
from mbe2_dataset.checks.rows import EXAMPLES, LEVELS, Finding, Part, scan
from mbe2_dataset.checks.sets import check_neighbours, check_sets
from mbe2_dataset.schema import CONFIGS

# What `build` writes beside a data set.
FACTS = "build.json"
# Co-augmentation is for training only (MOON2.0, section 5), and the benchmark has the test split only.
SPLITS = {"triplets": ("train", "validation"), "corpus": ("test",), "queries": ("test",), "qrels": ("test",)}


@dataclass
class CheckReport:
    """What `check_dataset` found; `as_dict()` can be written as JSON.

    Attributes:
        rows: config -> split -> rows.
        pictures: how many were decoded, and how many different ones there are.
        counts: what was counted -> value -> how often, e.g. "modality of triplets/train".
        understood: how the catalogue was understood that the data set was built from, where the folder says it.
    """

    dataset: str
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, dict[str | int | float, int]] = field(default_factory=dict)
    understood: dict | None = None

    @property
    def failed(self) -> bool:
        """Tell whether there are errors."""
        return any(finding.level == "error" for finding in self.findings)

    def of_level(self, level: str) -> list[Finding]:
        """Return the findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    def lines(self) -> list[str]:
        """Return the report for a terminal: rows, shares, lengths, then the findings, worst first."""
        lines = [
            f"{config:<9}" + ", ".join(f"{split} {rows:,} rows" for split, rows in splits.items())
            for config, splits in self.rows.items()
        ]
        lines.append(f"images {self.pictures['decoded']:,} decoded, {self.pictures['different']:,} different")
        for name, counter in self.counts.items():
            if name.startswith(("modality of", "enriched titles", "kept,", "dropped,", "why ")):
                lines.append(f"{name}: {shares(counter)}")
            elif name.startswith("characters of "):
                least, middle, most = spread(counter)
                lines.append(f"{name}: {least} to {most}, median {middle}")
        if self.understood and self.understood["counts"]:
            told = (f"{name} {count:,}" for name, count in self.understood["counts"].items())
            lines.append(f"read from the catalogue: {', '.join(told)}")
        for level in LEVELS:
            lines += [f"{level}: {finding.sentence()}" for finding in self.of_level(level)]
        numbers = ", ".join(f"{len(self.of_level(level))} {level}" for level in LEVELS)
        return [*lines, f"checked {self.dataset}: {numbers}"]

    def as_dict(self) -> dict:
        """Return the report as JSON can hold it."""
        return json.loads(json.dumps(asdict(self)))


def shares(counter: dict) -> str:
    """Return a text like `text 33.3 %, image 66.7 %`."""
    total = sum(counter.values())
    return ", ".join(f"{name} {100 * number / total:.1f} %" for name, number in counter.items())


def spread(counter: dict[int, int]) -> tuple[int, int, int]:
    """Return minimum, (lower) median and maximum of counted numbers."""
    values = sorted(counter)
    places = np.cumsum([counter[value] for value in values])
    return values[0], values[int(np.searchsorted(places, (places[-1] + 1) // 2))], values[-1]


def check_dataset(
    dataset: str | Path,
    revision: str | None = None,
    model: str | None = None,
    num_proc: int = 1,
    token: str | None = None,
    name: str | None = None,
) -> CheckReport:
    """Read a whole MBE2.0-format data set and report what is wrong with it.

    Each different image is decoded once, a JPEG no larger than needed to compare it. What is found of rows and
    images is written to a temporary folder, about 0.2 KB a row and 0.8 KB for each different photo.

    Args:
        dataset: a folder, or an id on the Hub, which is downloaded to the cache.
        revision: of the Hub data set.
        model: a sentence-transformers model (a Moon2 checkpoint is one); products of different splits whose vectors are
            near are reported. Code inside the checkpoint is run (`trust_remote_code`).
        num_proc: processes that decode images.
        name: what the report calls the data set; by default `dataset`.

    Raises:
        UserError: there is no such data set or model.
    """
    folder = data_folder(dataset, revision, token)
    report = CheckReport(str(name or dataset))
    if not (folder / "README.md").is_file():
        report.findings.append(_finding("error", "files", "README.md: load_dataset finds no configs without it"))
    if (folder / FACTS).is_file():
        report.understood = json.loads((folder / FACTS).read_text(encoding="utf-8")).get("understood")
    parts = _parts(folder, report)
    is_whole = not report.failed
    with tempfile.TemporaryDirectory(prefix="mbe2-check-") as scratch:
        found = Found(Path(scratch))
        with tqdm(total=sum(part.rows for part in parts), desc="check", unit="row") as bar:
            for one in in_processes(scan, parts, min(num_proc, max(1, len(parts)))):
                found.add(one)
                bar.update(one.rows)
        found.look(num_proc)
        report.findings += found.findings()
        report.counts, report.pictures = found.counted()
        if is_whole:
            report.findings += check_sets(found)
        else:
            report.findings.append(_finding("info", "files", "so ids, qrels and leakage were not looked at"))
    if model is not None and is_whole:
        report.findings += check_neighbours(parts, model)
    report.findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return report


def data_folder(dataset: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder itself, or the cached files of a data set on the Hub.

    Raises:
        UserError: there is no such data set.
    """
    wanted = ["README.md", *(f"{config}/*.parquet" for config in CONFIGS)]
    revision = None if Path(dataset).is_dir() else revision  # a folder has none
    return find_folder("dataset", dataset, revision, token=token, allow_patterns=wanted)


def _finding(level: str, check: str, what: str) -> Finding:
    return Finding(level, check, "files are missing or not right", "data set", 1, (what,))


def _parts(folder: Path, report: CheckReport) -> list[Part]:
    """Return the row groups of all files whose columns are right; faults of the others go into the report."""
    parts, files = [], 0
    for config, features in CONFIGS.items():
        paths = sorted((folder / config).glob("*.parquet"))
        if not paths:
            report.findings.append(_finding("error", "files", f"{config}/ has no Parquet file"))
        for split, shards in groupby(paths, key=lambda path: path.name.split("-")[0]):
            if split not in SPLITS[config]:
                reason = "augmented rows are for training only" if config == "triplets" else "the benchmark is test"
                report.findings.append(_finding("error", "split", f"{config} has a split {split!r}: {reason}"))
            shards = list(shards)
            _check_names(shards, config, split, report)
            for path in shards:
                files += 1
                parts += _row_groups(path, files, config, split, features, report)
    return parts


def _check_names(shards: list[Path], config: str, split: str, report: CheckReport):
    """Find a missing shard by the names of the others."""
    expected = [f"{split}-{number:05d}-of-{len(shards):05d}.parquet" for number in range(len(shards))]
    if [path.name for path in shards] != expected:
        names = ", ".join(path.name for path in shards[:EXAMPLES])
        report.findings.append(
            _finding("error", "files", f"{config}/{split} is not whole or has foreign files: {names}")
        )


def _row_groups(
    path: Path, number: int, config: str, split: str, features: Features, report: CheckReport
) -> list[Part]:
    where = f"{config}/{path.name}"
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        report.findings.append(_finding("error", "files", f"{where} cannot be read: {str(error).splitlines()[0]}"))
        return []
    known, expected = file.schema_arrow, features.arrow_schema
    wrong = [f"{field.name} is missing" for field in expected if field.name not in known.names]
    for column in known:
        if column.name not in expected.names:
            extra = f"{where} has the column {column.name}, which the format does not know"
            report.findings.append(_finding("warning", "schema", extra))
        elif not column.type.equals(expected.field(column.name).type):
            wrong.append(f"{column.name} is {column.type} and not {expected.field(column.name).type}")
    if wrong:
        what = tuple(f"{where}: {reason}" for reason in wrong[:EXAMPLES])
        report.findings.append(
            Finding("error", "schema", "columns are not those of the format", f"{config}/{split}", len(wrong), what)
        )
        return []
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    places = zip(accumulate(sizes, initial=0), sizes, strict=False)
    report.rows.setdefault(config, {}).setdefault(split, 0)
    report.rows[config][split] += file.metadata.num_rows
    return [Part(path, number, config, split, group, first, rows) for group, (first, rows) in enumerate(places)]
