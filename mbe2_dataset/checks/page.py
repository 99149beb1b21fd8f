"""The report of a check as one HTML page that needs nothing else: figures, findings, and rows to look at."""

import base64
import difflib
import io
import json
from html import escape
from pathlib import Path

import pyarrow.parquet as pq
import regex

from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.checks.check import CheckReport, spread
from mbe2_dataset.checks.findings import LEVELS
from mbe2_dataset.checks.rows import ROLES, SCORE_BIN

THUMBNAIL = 160
BARS = 12
LENGTHS = "characters of "
# A word, one character of a script without spaces, or anything between words.
_TOKEN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{N}]+|\s+|.")

STYLE = """
:root { --ink: #1d2430; --soft: #5d6675; --line: #dfe3e9; --panel: #f6f7f9; --bar: #4a7fb5; --bad: #b3261e;
  --odd: #9a6700; --add: #d8f0d8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 1.2rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .87rem; }
.tiles, .charts { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.tile, .chart, .row { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.3rem; }
.finding { border-left: 4px solid var(--line); padding: .2rem .8rem; margin: .6rem 0; }
.error { border-color: var(--bad); } .warning { border-color: var(--odd); }
.finding b { text-transform: uppercase; font-size: .75rem; letter-spacing: .04em; }
.error b { color: var(--bad); } .warning b { color: var(--odd); }
svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--ink); }
.row { margin: .9rem 0; } .products { display: grid; gap: .9rem; grid-template-columns: repeat(3, 1fr); }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem; } figure { margin: 0; width: 110px; }
figure img { width: 110px; height: 110px; object-fit: contain; background: #fff; border: 1px solid var(--line); }
figcaption { font-size: .75rem; color: var(--soft); line-height: 1.3; }
mark { background: var(--add); } details { margin-top: .5rem; } summary { cursor: pointer; color: var(--soft); }
table { border-collapse: collapse; font-size: .78rem; width: 100%; } .wide { overflow-x: auto; }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .5rem .2rem 0; text-align: left; vertical-align: top; }
@media (max-width: 640px) { .products { grid-template-columns: 1fr; } body { padding: .8rem; } }
"""


def write_report(folder: str | Path, report: CheckReport, path: str | Path, samples: int = 12) -> None:
    """Write the page.

    Args:
        folder: the data set that was checked; sample rows are read from its train triplets.
        samples: so many rows are shown, evenly spread over the split; their pictures are inlined as thumbnails.
    """
    rows = [_row(record) for record in _sampled(Path(folder), samples)]
    shown, rows = len(rows), "".join(rows)
    scores = _scores(report)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Check of {escape(report.dataset)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Check of {escape(Path(report.dataset).name)}</h1>
<p class="soft">An MBE2.0-format data set: triplets for training, a corpus, queries and qrels for evaluation.</p>
<h2>Rows</h2>
<div class="tiles">{_tiles(report)}</div>
<h2>Findings</h2>
{_findings(report)}
{f'<h2>Consistency of pictures and titles</h2><div class="charts">{scores}</div>' if scores else ""}
<h2>{shown} of the train triplets</h2>
<p class="soft">Words that an enriched title has and the title has not are <mark>marked</mark>.</p>
{rows}
<h2>What is in it</h2>
<div class="charts">{_distributions(report)}</div>
<h2>Lengths of texts</h2>
{_lengths(report)}
</body>
</html>
"""
    Path(path).write_text(page, encoding="utf-8")


def _tiles(report: CheckReport) -> str:
    tiles = [
        (f"{config}, {split}", number) for config, splits in report.rows.items() for split, number in splits.items()
    ]
    tiles += [(f"pictures, {name}", number) for name, number in report.pictures.items()]
    return "".join(f'<div class="tile">{escape(name)}<b>{number:,}</b></div>' for name, number in tiles)


def _findings(report: CheckReport) -> str:
    if not report.findings:
        return "<p>None: every check passed.</p>"
    parts = []
    for level in LEVELS:
        for finding in report.of_level(level):
            examples = "".join(f"<br>{escape(example)}" for example in finding.examples)
            parts.append(
                f'<div class="finding {level}"><b>{level}</b> {escape(finding.where)}: {finding.count:,} '
                f'{escape(finding.message)}<span class="soft">{examples}</span></div>'
            )
    return "".join(parts)


def _distributions(report: CheckReport) -> str:
    charts = []
    for name, counter in report.counts.items():
        if not name.startswith((LENGTHS, "consistency scores")):
            largest = sorted(counter.items(), key=lambda item: -item[1])
            rest = sum(number for _, number in largest[BARS:])
            bars = [(str(value), number) for value, number in largest[:BARS]]
            charts.append(_chart(name, bars + ([("others", rest)] if rest else [])))
    return "".join(charts)


def _lengths(report: CheckReport) -> str:
    lines = []
    for name, counter in report.counts.items():
        if name.startswith(LENGTHS):
            figures = (f"{figure:,}" for figure in (sum(counter.values()), *spread(counter)))
            cells = "".join(f"<td>{cell}</td>" for cell in (escape(name.removeprefix(LENGTHS)), *figures))
            lines.append(f"<tr>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("characters of", "texts", "least", "median", "most"))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _chart(name: str, bars: list[tuple[str, int]]) -> str:
    """Horizontal bars with their labels above them, so that long ones fit a narrow screen."""
    most = max((number for _, number in bars), default=0) or 1
    total = sum(number for _, number in bars) or 1
    lines = []
    for place, (label, number) in enumerate(bars):
        y = 26 * place
        shown = label if len(label) <= 38 else f"{label[:37]}…"
        lines.append(
            f'<text x="0" y="{y + 11}">{escape(shown)}</text>'
            f'<text x="300" y="{y + 11}" text-anchor="end">{number:,} ({100 * number / total:.1f} %)</text>'
            f'<rect x="0" y="{y + 15}" width="{max(1, 300 * number / most):.1f}" height="6" rx="2" fill="#4a7fb5"/>'
        )
    picture = f'<svg viewBox="0 0 300 {26 * len(bars)}" role="img">{"".join(lines)}</svg>'
    return f'<div class="chart"><h3>{escape(name)}</h3>{picture}</div>'


def _scores(report: CheckReport) -> str:
    """A histogram of what was kept and of what was dropped, over the same axis; nothing if nothing was scored."""
    sides = {state: report.counts.get(f"consistency scores, {state}", {}) for state in ("kept", "dropped")}
    values = sorted({float(value) for counter in sides.values() for value in counter})
    if not values:
        return ""
    # JSON turns the keys of a report into text.
    sides = {state: {float(value): number for value, number in counter.items()} for state, counter in sides.items()}
    bins = round((values[-1] - values[0]) / SCORE_BIN) + 1
    heights = {
        state: [counter.get(round(values[0] + place * SCORE_BIN, 4), 0) for place in range(bins)]
        for state, counter in sides.items()
    }
    most = max(sum(pair) for pair in zip(*heights.values(), strict=True)) or 1
    width, parts = 300 / bins, []
    for place, (kept, dropped) in enumerate(zip(heights["kept"], heights["dropped"], strict=True)):
        bottom = 110.0
        for number, colour in ((kept, "#4a7fb5"), (dropped, "#d08a3a")):
            height = 100 * number / most
            bottom -= height
            parts.append(
                f'<rect x="{place * width:.1f}" y="{bottom:.1f}" width="{max(0.5, width - 1):.1f}" '
                f'height="{height:.1f}" fill="{colour}"/>'
            )
    parts.append(f'<text x="0" y="124">{values[0]:.2f}</text>')
    parts.append(f'<text x="300" y="124" text-anchor="end">{values[-1] + SCORE_BIN:.2f}</text>')
    kept, dropped = (sum(counter.values()) for counter in sides.values())
    name = f"Scores: {kept:,} kept (blue), {dropped:,} dropped (orange)"
    return f'<div class="chart"><h3>{name}</h3><svg viewBox="0 0 300 128" role="img">{"".join(parts)}</svg></div>'


def _sampled(folder: Path, samples: int) -> list[dict]:
    """Rows at even distances over the train triplets."""
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


def _row(record: dict) -> str:
    made = {entry["field"]: entry for entry in record["provenance"] if entry["kept"]}
    query = "".join(
        [
            f"<p>{escape(record['query_text'])}</p>" if record["query_text"] is not None else "",
            _pictures([(record["query_image"], _origin(made.get("query_image")))]),
        ]
    )
    blocks = [f"<div><h3>query ({escape(record['query_modality'])})</h3>{query}</div>"]
    for role in ROLES:
        rich = record[f"{role}_enriched_title"]
        pictures = [(record[f"{role}_image"], "original")]
        fields = [entry for name, entry in made.items() if name.startswith(f"{role}_augmented_images")]
        augmented = record[f"{role}_augmented_images"]
        pictures += [
            (picture, _origin(fields[number] if number < len(fields) else None))
            for number, picture in enumerate(augmented)
        ]
        title = record[f"{role}_title"]
        enriched = f'<p class="soft">{_marked(title, rich)}</p>' if rich is not None else ""
        kind = f" ({escape(record['negative_kind'])})" if role == "negative" else ""
        blocks.append(f"<div><h3>{role}{kind}</h3><p>{escape(title)}</p>{enriched}{_pictures(pictures)}</div>")
    noise = f'<p class="soft">Known noise: {escape(", ".join(record["noise"]))}</p>' if record["noise"] else ""
    return (
        f'<div class="row"><p class="soft">{escape(record["query_id"])}</p>'
        f'<div class="products">{"".join(blocks)}</div>{noise}{_provenance(record["provenance"])}</div>'
    )


def _origin(entry: dict | None) -> str:
    """How a picture was made, in a few words."""
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
    return str(value)


def _pictures(pictures: list[tuple[dict | None, str]]) -> str:
    shown = []
    for record, text in pictures:
        if record is not None:
            shown.append(f"<figure>{_thumbnail(record)}<figcaption>{escape(text)}</figcaption></figure>")
    return f'<div class="pictures">{"".join(shown)}</div>' if shown else ""


def _thumbnail(record: dict) -> str:
    try:
        image = decode(Picture(record["bytes"], record["path"]))
    except ValueError as error:
        return f"<p>cannot be decoded: {escape(str(error))}</p>"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _marked(title: str, rich: str) -> str:
    """The enriched title with what it adds to the title marked."""
    old, new = _TOKEN.findall(title), _TOKEN.findall(rich)
    parts = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        text = escape("".join(new[start:end]))
        parts.append(f"<mark>{text}</mark>" if kind in ("insert", "replace") and text.strip() else text)
    return "".join(parts)


def _provenance(entries: list[dict]) -> str:
    names = ("field", "source_id", "operation", "model", "revision", "prompt_version", "seed", "consistency_score")
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in (*names, "kept", "parameters"))
    lines = []
    for entry in entries:
        values = [entry[name] for name in names]
        kept = "yes" if entry["kept"] else f"no: {entry['reason']}"
        cells = ["" if value is None else _short(value) for value in values]
        lines.append("".join(f"<td>{escape(cell)}</td>" for cell in (*cells, kept, entry["parameters"])))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<details><summary>provenance</summary><div class="wide"><table><tr>{head}</tr>{body}</table></div></details>'
    )
