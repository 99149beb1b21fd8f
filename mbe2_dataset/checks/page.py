"""Writes the report of a check as one HTML page that needs nothing else: figures, findings, and rows to look at."""

import base64
import difflib
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import regex
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common_moon2.files import write_text
from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.checks.check import CheckReport, spread
from mbe2_dataset.checks.rows import LEVELS, ROLES, SCORE_BIN

THUMBNAIL = 160
BARS = 12
LENGTHS = "characters of "
PROVENANCE = ("field", "source_id", "operation", "model", "revision", "prompt_version", "seed", "consistency_score",
              "kept", "parameters")  # fmt: skip
# A word, one character of a script without spaces, or anything between words.
_TOKEN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{N}]+|\s+|.")


def write_report(folder: str | Path, report: CheckReport, path: str | Path, samples: int = 12) -> None:
    """Write the page.

    Args:
        folder: the data set that was checked; sample rows are read from its train triplets.
        samples: so many rows are shown, evenly spread over the split; their images are inlined as thumbnails.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = templates.get_template("page.html").render(
        report=report,
        name=Path(report.dataset).name,
        findings=[finding for level in LEVELS for finding in report.of_level(level)],
        scores=_scores(report),
        provenance=PROVENANCE,
        rows=[_row(record) for record in _sampled(Path(folder), samples)],
        charts=_charts(report),
        lengths=[
            (name.removeprefix(LENGTHS), sum(counter.values()), *spread(counter))
            for name, counter in report.counts.items()
            if name.startswith(LENGTHS)
        ],
    )
    write_text(Path(path), page)


def _charts(report: CheckReport) -> list[dict]:
    charts = []
    for name, counter in report.counts.items():
        if not name.startswith((LENGTHS, "consistency scores")):
            largest = sorted(counter.items(), key=lambda item: -item[1])
            rest = sum(number for _, number in largest[BARS:])
            bars = [(str(value), number) for value, number in largest[:BARS]] + ([("others", rest)] if rest else [])
            numbers = [number for _, number in bars]
            config, _, split = name.removeprefix("noise of ").partition("/")  # a row may have several kinds of noise
            total = report.rows[config][split] if name.startswith("noise of ") else sum(numbers)
            charts.append({"name": name, "bars": bars, "total": total or 1, "most": max(numbers, default=0) or 1})
    return charts


def _scores(report: CheckReport) -> dict | None:
    """Return a histogram of what was kept and of what was dropped, over the same axis; None if nothing was scored."""
    # JSON turns the keys of a report into text.
    kept, dropped = (
        {float(value): number for value, number in report.counts.get(f"consistency scores, {state}", {}).items()}
        for state in ("kept", "dropped")
    )
    values = sorted({*kept, *dropped})
    if not values:
        return None
    bins = round((values[-1] - values[0]) / SCORE_BIN) + 1
    places = [round(values[0] + place * SCORE_BIN, 4) for place in range(bins)]
    most = max(kept.get(value, 0) + dropped.get(value, 0) for value in places) or 1
    width, bars = 300 / bins, []
    for place, value in enumerate(places):
        bottom = 110.0
        for counter, colour in ((kept, "#4a7fb5"), (dropped, "#d08a3a")):
            height = 100 * counter.get(value, 0) / most
            bottom -= height
            bars.append((place * width, bottom, max(0.5, width - 1), height, colour))
    ends = {"least": values[0], "most": values[-1] + SCORE_BIN}
    return {"bars": bars, "kept": sum(kept.values()), "dropped": sum(dropped.values()), **ends}


def _sampled(folder: Path, samples: int) -> list[dict]:
    """Return rows at even distances over the train triplets."""
    files = [pq.ParquetFile(path) for path in sorted(folder.glob("triplets/train-*.parquet"))]
    groups = [(file, group) for file in files for group in range(file.num_row_groups)]
    sizes = [file.metadata.row_group(group).num_rows for file, group in groups]
    total = sum(sizes)
    wanted = sorted({place * total // samples for place in range(samples)} if total else ())
    found, start = [], 0
    for (file, group), size in zip(groups, sizes, strict=True):
        here = [place - start for place in wanted if start <= place < start + size]
        if here:
            found += file.read_row_group(group).take(here).to_pylist()
        start += size
    return found


def _row(record: dict) -> dict:
    made = {entry["field"]: entry for entry in record["provenance"] if entry["kept"]}
    image = record["query_image"]
    query = {
        "heading": f"query ({record['query_modality']})",
        "text": record["query_text"],
        "enriched": None,
        "pictures": [] if image is None else [_picture(image, _origin(made.get("query_image")))],
    }
    return {
        "id": record["query_id"],
        "products": [query, *(_product(record, role, made) for role in ROLES)],
        "noise": record["noise"],
        "provenance": [_cells(entry) for entry in record["provenance"]],
    }


def _product(record: dict, role: str, made: dict[str, dict]) -> dict:
    fields = [entry for name, entry in made.items() if name.startswith(f"{role}_augmented_images")]
    title, rich = record[f"{role}_title"], record[f"{role}_enriched_title"]
    kind = f" ({record['negative_kind']})" if role == "negative" else ""
    return {
        "heading": f"{role}{kind}",
        "text": title,
        "enriched": None if rich is None else _marked(title, rich),
        "pictures": [
            _picture(record[f"{role}_image"], "original"),
            *(
                _picture(picture, _origin(fields[number] if number < len(fields) else None))
                for number, picture in enumerate(record[f"{role}_augmented_images"])
            ),
        ],
    }


def _origin(entry: dict | None) -> str:
    """Return how an image was made, in a few words."""
    if entry is None:
        return "no provenance"
    score = entry["consistency_score"]
    parameters = ", ".join(f"{name} {_short(value)}" for name, value in json.loads(entry["parameters"] or "{}").items())
    shown = [entry["operation"], parameters, "" if score is None else f"score {score:.3f}"]
    text = ": ".join(filter(None, shown))
    return text if len(text) <= 160 else f"{text[:159]}…"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return "" if value is None else str(value)


def _picture(record: dict, caption: str) -> dict:
    """Return a thumbnail as base64, or why there is none."""
    try:
        image = decode(Picture(record["bytes"], record["path"]))
    except ValueError as error:
        return {"fault": str(error), "caption": caption}
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return {"fault": None, "jpeg": base64.b64encode(buffer.getvalue()).decode(), "caption": caption}


def _marked(title: str, rich: str) -> list[tuple[str, bool]]:
    """Return the pieces of the enriched title, and which of them the title lacks."""
    old, new = _TOKEN.findall(title), _TOKEN.findall(rich)
    pieces = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        text = "".join(new[start:end])
        pieces.append((text, kind in ("insert", "replace") and bool(text.strip())))
    return pieces


def _cells(entry: dict) -> list[str]:
    shown = entry | {"kept": "yes" if entry["kept"] else f"no: {entry['reason']}"}
    return [_short(shown[name]) for name in PROVENANCE]
