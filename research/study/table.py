"""Report the results: in the layout of the paper's Table 4, as differences with intervals, and as its Fig. 2."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jinja2 import StrictUndefined, Template
from matplotlib.figure import Figure
from scipy.stats import t as student

from common_moon2.files import write_text
from evaluation.measure.metrics import CONFIDENCE, paired_test
from evaluation.measure.retrieval import DIRECTIONS
from evaluation.show.report import PAPER
from research.study.arguments import EASY_SET, HARD_SET, HERE, TRANSFER_SET, PlotArguments, StudyError, TableArguments
from research.study.results import Runs, read_results, unpack
from research.study.variants import Variant, read_variants

ARROWS = {"t2mm": "t→mm", "i2mm": "i→mm", "mm2mm": "mm→mm", "t2i": "t→i", "i2t": "i→t"}
COLUMNS = (*DIRECTIONS, "classification", "attributes")
HEADER = [*(ARROWS[direction] for direction in DIRECTIONS), "class", "attribute"]
TRAINING_HEADER = [
    "variant", "seeds", "minutes", "sum of omega", "omega", "expert, images", "texts", "filter precision", "recall"
]  # fmt: skip
SETS = {
    EASY_SET: "Easy gallery: the test products",
    HARD_SET: "Hard gallery: the test products among all the others",
    TRANSFER_SET: "Transfer: other products, several photos each, nothing trained on them",
}
# Colours that stay apart for colour-blind readers.
STYLES = {
    "joint + MoE": {"color": "#3f90da", "marker": "o"},
    "joint + dense": {"color": "#ffa90e", "marker": "s"},
    "joint + MoE, by queries": {"color": "#7a21dd", "marker": "v"},
    "joint + dense, by queries": {"color": "#8a8a8a", "marker": "D"},
    "fixed mixing": {"color": "#bd1f01", "marker": "^"},
}
EVEN = (1, 1, 1)
# Which ways of training differ in their experts only.
TWINS = {"joint + MoE": "joint + dense", "joint + MoE, by queries": "joint + dense, by queries"}
RESAMPLES = 1000


def table(options: TableArguments) -> dict:
    """Print the tables, or write them to a file."""
    text = report(options)
    if options.output is None:
        print(text)
    else:
        write_text(options.output, text + "\n")
    return {"results": options.results, "output": options.output, "table": text}


def report(options: TableArguments) -> str:
    """Return the tables: figures and differences for each gallery, the paper's rows, and what training came to.

    Raises:
        StudyError: as `read_results`, or nothing is left to show.
    """
    variants, seeds, tiers, galleries = read_variants(), options.seeds, options.tiers, options.galleries
    found = read_results(options.results, variants)
    if seeds is not None:
        found = {name: runs.of(seeds) for name, runs in found.items() if runs.of(seeds).by_seed}
    shown = [runs for runs in found.values() if tiers is None or runs.variant.tier in tiers]
    chosen = [name for name in SETS if galleries is None or name in galleries]
    if not any(_sets(runs, name) for runs in shown for name in chosen):
        raise StudyError("There are no such results yet; what there is: python -m research.study list")
    some = next(iter(next(iter(found.values())).by_seed.values()))
    curves = [runs for runs in shown if runs.variant.curve and HARD_SET in chosen]
    here = {variant.paper: _label(variant) for variant in variants.values() if variant.paper is not None}
    rows = [[name, here.get(name, "-"), *(f"{x:.2f}" for x in row)] for name, row in PAPER.items()]
    template = (HERE / "report.md.jinja").read_text(encoding="utf-8")
    return Template(template, trim_blocks=True, undefined=StrictUndefined).render(
        some=some,
        galleries=[_gallery(name, shown, found) for name in chosen if any(_sets(runs, name) for runs in shown)],
        tradeoff=_markdown(
            ["way of training", "mixes", "seeds", "area", "against", "difference"], tradeoff_rows(curves)
        ),
        paper=_markdown(["variant", "its row above", *HEADER], rows),
        training=_markdown(TRAINING_HEADER, map(_training_row, shown)),
    )


def _gallery(name: str, shown: list[Runs], found: dict[str, Runs]) -> dict:
    """Return the tables of one gallery, and what is searched there."""
    rows = [runs for runs in shown if _sets(runs, name)]
    first = next(iter(_sets(rows[0], name).values()))
    against = ((runs, found.get(runs.variant.against)) for runs in rows if runs.variant.against != runs.variant.name)
    differences = [_difference_row(runs, reference, name) for runs, reference in against if reference is not None]
    return {
        "title": SETS[name],
        "candidates": f"{first['candidates']:,}",
        "queries": ", ".join(f"{ARROWS[one]} {count:,}" for one, count in first["queries"].items()),
        "figures": _markdown(["variant", "seeds", *HEADER], [_row(runs, name) for runs in rows]),
        "differences": _markdown(
            ["variant", "against", "seeds", *HEADER[: len(DIRECTIONS)]], filter(None, differences)
        ),
    }


def _sets(runs: Runs, name: str) -> dict[int, dict]:
    """Return the figures of a gallery by seed."""
    return {seed: run["sets"][name] for seed, run in runs.by_seed.items() if name in run["sets"]}


def _training_row(runs: Runs) -> list[str]:
    trained = [run["training"] for run in runs.by_seed.values()]
    logs = [one["last_log"] for one in trained]
    omegas = [value for log in logs for name, value in log.items() if name.startswith("omega_") and name != "omega_sum"]
    shares = [
        (share, log[f"{name.removesuffix('_i')}_t"])
        for log in logs
        for name, share in log.items()
        if name.startswith("expert_") and name.endswith("_i") and share < 1  # there are several
    ]
    apart = max(shares, key=lambda pair: abs(pair[0] - pair[1]), default=None)
    names = ("omega_sum", "filter_precision", "filter_recall")
    total, precision, recall = (_plain_mean([log.get(name) for log in logs]) for name in names)
    return [
        _label(runs.variant),
        str(len(logs)),
        f"{np.mean([one['seconds'] for one in trained]) / 60:.1f}",
        total,
        f"{min(omegas):.3f}-{max(omegas):.3f}",
        *(["-", "-"] if apart is None else [f"{share:.4f}" for share in apart]),
        precision,
        recall,
    ]


def _plain_mean(values: list[float | None]) -> str:
    return "-" if None in values else f"{np.mean(values):.2f}"


def _row(runs: Runs, name: str) -> list[str]:
    sets = _sets(runs, name).values()
    return [
        _label(runs.variant),
        str(len(sets)),
        *(_mean([_figure(one, column) for one in sets]) for column in COLUMNS),
    ]


def _label(variant: Variant) -> str:
    return variant.changes if variant.name != "full" else "full"


def _figure(figures: dict, column: str) -> float | None:
    return figures["retrieval"][column]["recall@10"] if column in DIRECTIONS else figures[column]


def _mean(values: list[float | None]) -> str:
    if None in values:
        return "-"
    mean = f"{100 * np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * _half_interval(values):.1f}"


def _half_interval(values: list[float]) -> float:
    """Return half of the t interval of the mean of two values or more."""
    return student.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))


def _difference_row(runs: Runs, reference: Runs, name: str) -> list[str] | None:
    own, other = _sets(runs, name), _sets(reference, name)
    pairs = [(figures, other[seed]) for seed, figures in own.items() if seed in other]
    if not pairs:
        return None
    row = [runs.variant.changes, reference.variant.name, str(len(pairs))]
    return row + [_difference(pairs, direction) for direction in DIRECTIONS]


def _difference(pairs: list[tuple[dict, dict]], direction: str) -> str:
    """Compare the means over seeds, query by query.

    Raises:
        StudyError: the two were not asked the same.
    """
    if len({figures["fingerprint"] for pair in pairs for figures in pair}) > 1:
        raise StudyError("Results are on different data: remove those of the older data set, and run the study again.")
    own, other = (
        np.stack([unpack(pair[side]["hits"][direction], pair[side]["queries"][direction]) for pair in pairs])
        for side in (0, 1)
    )
    (test,) = paired_test(other.mean(0)[:, None], own.mean(0)[:, None], permutations=1)
    return _with_intervals(test["difference"], test["interval"], list((own - other).mean(1)))


def _with_intervals(difference: float, interval: tuple[float, float], by_seed: list[float]) -> str:
    """Return a difference with its interval over queries and that over seeds; bold if neither holds 0."""
    low, high = interval
    text = f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    if len(by_seed) == 1:
        return text
    half = _half_interval(by_seed)
    text += f" ± {100 * half:.1f}"
    return f"**{text}**" if (low > 0 or high < 0) and abs(difference) > half else text


def area(points: np.ndarray) -> float:
    """Return the area under a trade-off curve, as a share of the square.

    Args:
        points: (mixes, 2) recalls as shares, of text and of image queries.
    """
    text, image = points[np.argsort(points[:, 0])].T
    grid = np.linspace(0, text[-1], 1001)
    best = np.maximum.accumulate(np.interp(grid, text, image)[::-1])[::-1]  # what is reached at so much, or more
    return float(np.trapezoid(best, grid))


def tradeoff_rows(curves: list[Runs]) -> list[list[str]]:
    """Return a row for each way of training: its area, and the difference from its twin without experts."""
    ways: dict[str, dict] = {}
    for runs in curves:
        hits = {seed: _both_hits(figures) for seed, figures in _sets(runs, HARD_SET).items()}
        ways.setdefault(runs.variant.curve, {})[runs.variant.query_mix] = hits
    rows = []
    for name, mixes in ways.items():
        seeds = sorted(set.intersection(*map(set, mixes.values())))
        if len(mixes) < 2 or not seeds:
            continue
        areas = [area(np.array([_recalls(hits[seed]) for hits in mixes.values()])) for seed in seeds]
        row = [name, str(len(mixes)), str(len(seeds)), _mean(areas), "-", "-"]
        twin = ways.get(TWINS.get(name), {})
        shared = [mix for mix in mixes if mix in twin]
        both = sorted(set(seeds).intersection(*(twin[mix] for mix in shared))) if len(shared) > 1 else []
        if both:
            own, other = ([[way[mix][seed] for mix in shared] for seed in both] for way in (mixes, twin))
            row[4:] = [TWINS[name], _area_difference(own, other)]
        rows.append(row)
    return rows


def _both_hits(figures: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the hits of the text and of the image queries."""
    return tuple(unpack(figures["hits"][name], figures["queries"][name]) for name in ("t2mm", "i2mm"))


def _recalls(hits: tuple[np.ndarray, np.ndarray]) -> list[float]:
    return [kind.mean() for kind in hits]


def _area_difference(own: list, other: list) -> str:
    """Compare two ways of training: a list for each seed, of the hits of each mix."""
    by_seed = [
        area(np.array([*map(_recalls, one)])) - area(np.array([*map(_recalls, two)]))
        for one, two in zip(own, other, strict=True)
    ]
    random, drawn = np.random.default_rng(0), []
    # (mixes, queries) of each kind, as means over seeds; the same queries are drawn for both ways.
    kinds = [
        [np.mean([[mix[kind] for mix in one] for one in way], axis=0) for way in (own, other)] for kind in range(2)
    ]
    for first, second in kinds:
        count = first.shape[1]
        weights = random.multinomial(count, [1 / count] * count, size=RESAMPLES) / count
        drawn.append((weights @ first.T, weights @ second.T))
    (own_text, other_text), (own_image, other_image) = drawn
    differences = [
        area(np.stack(pair[:2], axis=1)) - area(np.stack(pair[2:], axis=1))
        for pair in zip(own_text, own_image, other_text, other_image, strict=True)
    ]
    interval = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return _with_intervals(float(np.mean(by_seed)), interval, by_seed)


def _markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a table; without rows nothing."""
    cells = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells) if len(cells) > 2 else ""


def plot(options: PlotArguments) -> dict:
    """Write a PNG: one line for each way of training, one point (mean over seeds) for each query mix.

    Raises:
        StudyError: no result of the sweep is there, or `output` is no PNG or cannot be written.
    """
    output = options.output
    if output.suffix.lower() != ".png":
        raise StudyError(f"--output {output} must end in .png: that is what is written.")
    points = sweep(options.results)
    figure = Figure((6.4, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    first = next((name for name, line in points.items() if EVEN in line), None)
    for name, line in points.items():
        shown = list(line.values())
        axes.errorbar(*np.array([values.mean(0) for values in shown]).T, label=name, capsize=0, **STYLES[name])
        for values in shown:  # every seed, faint
            axes.plot(*values.T, linestyle="", alpha=0.3, **STYLES[name])
        for mix, values in line.items():
            if mix == EVEN and name != first:
                continue  # these points lie on each other: one label for all
            place = values.mean(0)
            below = name.startswith("joint + dense")  # where its points lie next to those of joint + MoE
            offset = (4, -10 if below else 4)
            axes.annotate(":".join(map(str, mix)), place, xytext=offset, textcoords="offset points", fontsize=7)
    axes.margins(x=0.1)  # room for the last label
    axes.set_xlabel("text queries: t→mm Recall@10 (%)")
    axes.set_ylabel("image queries: i→mm Recall@10 (%)")
    axes.set_title("Query mixes (text : image : mixed), hard gallery", fontsize=10)
    axes.legend(frameon=False)
    axes.grid(color="#e4e4e4")
    try:
        figure.savefig(output, format="png")
    except OSError as error:
        raise StudyError(f"The plot cannot be written to {output}: {error.strerror}.") from error
    return {"results": options.results, "output": output}


def sweep(results: Path) -> dict[str, dict[tuple[int, int, int], np.ndarray]]:
    """Return {way of training: {query mix: (seeds, 2)}}, t->mm and i->mm in per cent; mixes from image to text.

    Raises:
        StudyError: no result of the sweep is there.
    """
    lines: dict[str, dict] = {name: {} for name in STYLES}
    for runs in read_results(results, read_variants()).values():
        if runs.variant.curve is not None:
            retrieval = [run["sets"][HARD_SET]["retrieval"] for run in runs.by_seed.values()]
            values = [[100 * one[direction]["recall@10"] for direction in ("t2mm", "i2mm")] for one in retrieval]
            lines[runs.variant.curve][runs.variant.query_mix] = np.array(values)
    ordered = {
        name: dict(sorted(line.items(), key=lambda item: item[0][0] / item[0][1])) for name, line in lines.items()
    }
    if not any(ordered.values()):
        raise StudyError(f"{results} has no result of the sweep yet: python -m research.study run --tiers 1,3")
    return {name: line for name, line in ordered.items() if line}
