"""The curves of a training run: the figures of its log.jsonl as panels of one image (the choice is ours)."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import LogFormatter

from common_moon2.cli import UserError
from evaluation.arguments import Curves
from evaluation.measure.metrics import DIRECTIONS

LOG = "log.jsonl"
HISTOGRAM, BINS = "phi_histogram", 10  # between 0 and 1

# Inches of a cell, dots per inch, cells side by side. A curve of few points shows the points as well.
WIDTH, HEIGHT, DPI, COLUMNS, FEW = 5.2, 3.4, 120, 3, 30
LEGEND_ROWS = 12  # that fit beside a cell
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
}
# Colours that stay apart for colour-blind readers. Where there are more curves than colours, the line style changes.
COLORS, LINE_STYLES, INK = matplotlib.color_sequences["petroff10"], ("-", "--", ":", "-."), "#222222"
# Curves that sum up the others of their panel: these are drawn in ink, in the style that is given.
SUMS = {"loss": "-", "eval_loss": "--", "eval_recall_mean": "-"}
COMPOSITIONS = {"t": "text", "i": "image", "mm": "text and image"}


class Panel(NamedTuple):
    """One pair of axes.

    Attributes:
        cell: the title of its place in the grid; panels of one cell stand below each other, over one axis of steps.
        unit: of the y axis.
        names: the log's names of the curves -> their labels; "" where the axis says enough.
        limits: of the y axis; `None` where the data decide.
        even: what each curve would be if all were equal.
    """

    cell: str
    unit: str
    names: dict[str, str]
    limits: tuple[float | None, float | None] = (None, None)
    scale: str = "linear"
    height: int = 1
    even: float | None = None
    legend_title: str | None = None


class Curve(NamedTuple):
    """What is drawn of a figure: values by step, and the label in the legend."""

    label: str
    points: dict[int, float | list[float]]
    color: tuple[float, ...] | str
    style: str


def _by_direction(prefix: str) -> dict[str, str]:
    return {f"{prefix}{direction}": direction.replace("2", "→") for direction in DIRECTIONS}


SHARE, POSITIVE = (0, 1.04), (0, None)  # a curve at 1 is not to lie on the frame
PANELS = (
    Panel("Losses", "loss (nats)", _by_direction("loss_") | {"loss": "total", "eval_loss": "validation"}),
    Panel("Omega, the weights of the objectives", "weight", _by_direction("omega_"), POSITIVE, height=2),
    Panel("Omega, the weights of the objectives", "sum", {"omega_sum": ""}, POSITIVE),
    Panel(
        "Similarity of query and product",
        "cosine",
        {"positive_similarity": "positive", "negative_similarity": "negative", "similarity_margin": "margin"},
    ),
)
# Below those of the experts, which depend on the log.
FURTHER_PANELS = (
    Panel("Sample filter: phi and what it keeps", "phi", {HISTOGRAM: ""}, height=2),
    Panel("Sample filter: phi and what it keeps", "share kept", {"kept_share": ""}, SHARE),
    Panel(
        "Filter against known false positives",
        "share",
        {"filter_precision": "precision", "filter_recall": "recall"},
        SHARE,
    ),
    Panel(
        "Retrieval on the validation sample",
        "Recall@10 (share)",
        _by_direction("eval_recall_") | {"eval_recall_mean": "mean"},
        POSITIVE,
    ),
    Panel("Steps of the optimizer", "gradient norm", {"grad_norm": ""}, scale="log"),
    Panel("Steps of the optimizer", "learning rate", {"learning_rate": ""}, POSITIVE),
    Panel("Throughput", "tokens/s", {"tokens_per_second": ""}, POSITIVE),
    Panel("Throughput", "triplets/s", {"triplets_per_second": ""}, POSITIVE),
    Panel("Refused since start or resumption", "steps", {"refused_steps": ""}, POSITIVE),
)


class Log:
    """The lines of a run's log.jsonl. A last line that a killed run did not finish is dropped.

    Raises:
        UserError: there is no such file, nothing is in it, or a line is not what the trainer writes.
    """

    def __init__(self, run: Path):
        self.path = run / LOG
        try:
            *lines, rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError as error:
            raise UserError(f"{run} has no {LOG}; give the output folder of a training run.") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}.") from error
        if _parsed(rest) is not None:
            lines.append(rest)
        self.entries = [_parsed(line) for line in lines]
        for number, entry in enumerate(self.entries, 1):
            if not isinstance(entry, dict) or type(entry.get("step")) is not int:
                raise UserError(f"{self.path}, line {number}, is not a JSON object with a step.")
        if not self.entries:
            raise UserError(f"{self.path} has no complete line: the run has logged nothing yet.")

    @property
    def names(self) -> set[str]:
        """Return the names of all figures."""
        return set().union(*self.entries)

    def values(self, name: str) -> dict[int, float | list[float]]:
        """Return a figure, or a histogram, by step. A step that was done again after resuming has the later value.

        Raises:
            UserError: a value is no number, or no histogram.
        """
        is_valid, kind = _is_number, "a number"
        if name == HISTOGRAM:
            is_valid, kind = _is_histogram, f"a list of {BINS} numbers"
        found = {}
        for number, entry in enumerate(self.entries, 1):
            if name in entry:
                if not is_valid(entry[name]):
                    raise UserError(f"{self.path}, line {number}: {name} is {entry[name]!r}, not {kind}.")
                found[entry["step"]] = entry[name]
        return dict(sorted(found.items()))


def draw_curves(arguments: Curves) -> dict:
    """Write one PNG for a training run.

    Raises:
        UserError: the run has no log that can be drawn, or the file cannot be written.
    """
    run, output = arguments.run, arguments.output
    figure = curves_figure(Log(run), run.resolve().name)
    try:
        figure.savefig(output, format="png")
    except OSError as error:
        raise UserError(f"The curves cannot be written to {output}: {error.strerror}.") from error
    print(f"The curves are in {output}")
    return {"run": run, "output": output}


@matplotlib.rc_context(STYLE)
def curves_figure(log: Log, name: str) -> Figure:
    """Return the image; a curve, panel or cell that the log does not hold is left out.

    Args:
        name: the run's, for the title.

    Raises:
        UserError: the log holds nothing that is drawn here.
    """
    cells: dict[str, list[tuple[Panel, list[Curve]]]] = {}
    for panel in (*PANELS, *_expert_panels(log), *FURTHER_PANELS):
        if curves := list(_curves(log, panel)):
            cells.setdefault(panel.cell, []).append((panel, curves))
    if not cells:
        raise UserError(f"{log.path} has none of the figures that a training logs; there is nothing to draw.")
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    figure = Figure((WIDTH * columns, HEIGHT * rows + 0.5), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    end = max(entry["step"] for entry in log.entries)
    figure.suptitle(f"{name}, {end:,} steps", color=INK, fontsize=14, parse_math=False)
    # The last row may have places left.
    for place, (title, panels) in zip(figure.add_gridspec(rows, columns), cells.items(), strict=False):
        _draw_cell(figure, place, title, panels, end)
    return figure


def _draw_cell(
    figure: Figure, place: SubplotSpec, title: str, panels: list[tuple[Panel, list[Curve]]], end: int
) -> None:
    grid = place.subgridspec(len(panels), 1, height_ratios=[panel.height for panel, _ in panels])
    for (panel, curves), spot in zip(panels, grid, strict=True):
        axes = figure.add_subplot(spot)
        if HISTOGRAM in panel.names:
            _draw_histogram(axes, curves[0].points)
        else:
            _draw_curves(axes, panel, curves)
        axes.set_xlim(0, 1.02 * max(end, 1))  # the last points are not to lie on the frame
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel(panel.unit)
        axes.tick_params(labelbottom=spot.is_last_row())
        if spot.is_first_row():
            axes.set_title(title, loc="left")
    axes.set_xlabel("step")


def _draw_curves(axes: Axes, panel: Panel, curves: list[Curve]) -> None:
    for label, points, color, style in curves:
        marker = "." if len(points) <= FEW else None
        # A value that is not finite is a gap.
        values = [value if math.isfinite(value) else math.nan for value in points.values()]
        axes.plot(list(points), values, color=color, linestyle=style, marker=marker, label=label)
    if panel.even is not None:
        axes.axhline(panel.even, color=INK, linewidth=0.8, linestyle=(0, (1, 3)), label="even")
    axes.set_yscale(panel.scale)
    if panel.limits[0] is not None:  # so that the room above the highest curve is a share of the whole axis
        axes.update_datalim([(0, panel.limits[0])], updatex=False)
    axes.set_ylim(*panel.limits)
    if panel.scale == "log":
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter())
    else:
        axes.ticklabel_format(axis="y", scilimits=(-3, 6))
        whole = all(isinstance(value, int) for curve in curves for value in curve.points.values())
        axes.yaxis.get_major_locator().set_params(integer=whole)
    handles, labels = axes.get_legend_handles_labels()
    if labels:  # beside the panel, where it hides nothing
        columns = math.ceil(len(labels) / LEGEND_ROWS)
        place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
        axes.legend(handles, labels, title=panel.legend_title, ncols=columns, **place)


def _draw_histogram(axes: Axes, data: dict[int, list[float]]) -> None:
    """Draw counts by step; each step is a column that reaches back to the one before."""
    steps, counts = np.array(list(data)), np.array(list(data.values()), dtype=float)
    # The first column, which has none before it, is as wide as the second; a single one reaches back to step 0.
    width = steps[1] - steps[0] if len(steps) > 1 else steps[0]
    edges = np.array([max(steps[0] - width, 0), *steps])
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.where(totals > 0, totals, np.nan)  # phi that is not finite is counted nowhere
    mesh = axes.pcolormesh(edges, np.linspace(0, 1, BINS + 1), shares.T, cmap="cividis", vmin=0)
    axes.grid(False)
    axes.figure.colorbar(mesh, ax=axes, label="share of triplets", pad=0.02)


def _expert_panels(log: Log) -> Iterator[Panel]:
    """Yield a panel for each modality composition, all with the same y axis."""
    matches = [re.fullmatch(r"expert_(\d+)_(?:t|i|mm)", name) for name in log.names]
    experts = sorted({int(match[1]) for match in matches if match})
    names = {kind: {f"expert_{expert}_{kind}": str(expert) for expert in experts} for kind in COMPOSITIONS}
    shares = [share for group in names.values() for name in group for share in log.values(name).values()]
    limits = (0, 1.05 * max(filter(math.isfinite, shares), default=1))
    for kind, words in COMPOSITIONS.items() if experts else ():
        title, even = f"Experts used for {words}", 1 / len(experts)
        yield Panel(title, "share of routing", names[kind], limits, even=even, legend_title="expert")


def _curves(log: Log, panel: Panel) -> Iterator[Curve]:
    """Yield the curves that have a value. One keeps its colour where others are absent."""
    for place, (name, label) in enumerate(panel.names.items()):
        points = log.values(name)
        if points and np.isfinite(np.array(list(points.values()), dtype=float)).any():
            style = LINE_STYLES[place // len(COLORS) % len(LINE_STYLES)]
            yield Curve(label, points, INK if name in SUMS else COLORS[place % len(COLORS)], SUMS.get(name, style))


def _parsed(line: bytes) -> object:
    """Return what a line holds; `None` if it is not JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_histogram(value: object) -> bool:
    return isinstance(value, list) and len(value) == BINS and all(map(_is_number, value))
