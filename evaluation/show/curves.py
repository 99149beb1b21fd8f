"""Draws a training run: the figures of its log.jsonl as panels of one picture (which, and how, is our choice)."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import LogFormatter

from evaluation.errors import EvaluationError

LOG = "log.jsonl"
BINS = 10  # of phi_histogram, between 0 and 1

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

# Of the log's names -> for people. Not taken from evaluation.report, which takes seconds to import torch.
DIRECTIONS = {"t2mm": "t→mm", "i2mm": "i→mm", "mm2mm": "mm→mm", "t2i": "t→i", "i2t": "i→t"}
COMPOSITIONS = {"t": "text", "i": "image", "mm": "text and image"}


class Log:
    """The lines of a run's log.jsonl. A last line that a killed run left cut short is dropped.

    Raises:
        EvaluationError: there is no such file, nothing is in it, or a line is not what the trainer writes.
    """

    def __init__(self, run: Path):
        self.path = run / LOG
        if not run.is_dir():
            raise EvaluationError(f"There is no folder {run}; give the output folder of a training run.")
        try:
            *lines, rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError as error:
            raise EvaluationError(f"{run} has no {LOG}; give the output folder of a training run.") from error
        except OSError as error:
            raise EvaluationError(f"{self.path} cannot be read: {error.strerror}.") from error
        if _parsed(rest) is not None:
            lines.append(rest)
        self.entries = [_parsed(line) for line in lines]
        for number, entry in enumerate(self.entries, 1):
            if not isinstance(entry, dict) or type(entry.get("step")) is not int:
                raise EvaluationError(f"{self.path}, line {number}, is not a JSON object with a step.")
        if not self.entries:
            raise EvaluationError(f"{self.path} has no complete line: the run has logged nothing yet.")

    @property
    def names(self) -> set[str]:
        return set().union(*self.entries)

    def values(self, name: str) -> dict[int, float]:
        """A figure by step. A step that was done again after resuming has the later value.

        Raises:
            EvaluationError: a value is no number.
        """
        return self._by_step(name, _is_number, "a number")

    def counts(self, name: str) -> dict[int, list[float]]:
        """As `values`, for histograms."""
        return self._by_step(name, _is_histogram, f"a list of {BINS} numbers")

    def _by_step(self, name: str, is_valid: Callable[[object], bool], kind: str) -> dict:
        found = {}
        for number, entry in enumerate(self.entries, 1):
            if name in entry:
                if not is_valid(entry[name]):
                    raise EvaluationError(f"{self.path}, line {number}: {name} is {entry[name]!r}, not {kind}.")
                found[entry["step"]] = entry[name]
        return dict(sorted(found.items()))


class Curve(NamedTuple):
    """points: values by step; label: its name in the legend, "" where the axis says enough."""

    label: str
    points: dict[int, float]
    color: tuple[float, ...] | str
    style: str = "-"


class Lines(NamedTuple):
    """A panel of curves. limits: of the y axis, `None` where the data decide; even: what each would be if all were."""

    unit: str
    data: list[Curve]
    limits: tuple[float | None, float | None] = (None, None)
    scale: str = "linear"
    even: float | None = None
    legend_title: str | None = None
    height: int = 1

    def draw(self, axes: Axes) -> None:
        for label, points, color, style in self.data:
            marker = "." if len(points) <= FEW else None
            # A value that is not finite is a gap.
            values = [value if math.isfinite(value) else math.nan for value in points.values()]
            axes.plot(list(points), values, color=color, linestyle=style, marker=marker, label=label)
        if self.even is not None:
            axes.axhline(self.even, color=INK, linewidth=0.8, linestyle=(0, (1, 3)), label="even")
        axes.set_yscale(self.scale)
        if self.limits[0] is not None:  # so that the room above the highest curve is a share of the whole axis
            axes.update_datalim([(0, self.limits[0])], updatex=False)
        axes.set_ylim(*self.limits)
        if self.scale == "log":
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter())
        else:
            axes.ticklabel_format(axis="y", scilimits=(-3, 6))
            whole = all(isinstance(value, int) for curve in self.data for value in curve.points.values())
            axes.yaxis.get_major_locator().set_params(integer=whole)
        handles, labels = axes.get_legend_handles_labels()
        if labels:  # beside the panel, where it hides nothing
            columns = math.ceil(len(labels) / LEGEND_ROWS)
            place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
            axes.legend(handles, labels, title=self.legend_title, ncols=columns, **place)


class Heat(NamedTuple):
    """A panel of histograms, counts by step: each becomes a column that reaches back to the one before."""

    unit: str
    data: dict[int, list[float]]
    height: int = 2

    def draw(self, axes: Axes) -> None:
        steps, counts = np.array(list(self.data)), np.array(list(self.data.values()), dtype=float)
        # The first column, which has none before it, is as wide as the second; a single one reaches back to step 0.
        width = steps[1] - steps[0] if len(steps) > 1 else steps[0]
        edges = np.array([max(steps[0] - width, 0), *steps])
        totals = counts.sum(1, keepdims=True)
        shares = counts / np.where(totals > 0, totals, np.nan)  # phi that is not finite is counted nowhere
        mesh = axes.pcolormesh(edges, np.linspace(0, 1, BINS + 1), shares.T, cmap="cividis", vmin=0)
        axes.grid(False)
        axes.figure.colorbar(mesh, ax=axes, label="share of triplets", pad=0.02)


class Cell(NamedTuple):
    """One place of the grid: panels below each other with one title and one axis of steps."""

    title: str
    panels: list[Lines | Heat]


def draw_curves(run: Path, output: Path) -> None:
    """Writes one PNG for the training run whose output folder is `run`.

    Raises:
        EvaluationError: `run` has no log that can be drawn, or `output` cannot be written.
    """
    if output.suffix.lower() != ".png":
        raise EvaluationError(f"--output {output} must end in .png: that is what is written.")
    if not output.parent.is_dir():
        raise EvaluationError(f"--output {output}: there is no folder {output.parent}; make it first.")
    figure = curves_figure(Log(run), run.resolve().name)
    try:
        figure.savefig(output, format="png")
    except OSError as error:
        raise EvaluationError(f"The curves cannot be written to {output}: {error.strerror}.") from error


@matplotlib.rc_context(STYLE)
def curves_figure(log: Log, name: str) -> Figure:
    """The picture. What the log does not hold is left out, be it a curve, a panel or a whole cell.

    Args:
        name: the run's, for the title.

    Raises:
        EvaluationError: the log holds nothing that is drawn here.
    """
    cells = [cell._replace(panels=[panel for panel in cell.panels if panel.data]) for cell in _cells(log)]
    cells = [cell for cell in cells if cell.panels]
    if not cells:
        raise EvaluationError(f"{log.path} has none of the figures that a training logs; there is nothing to draw.")
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    figure = Figure((WIDTH * columns, HEIGHT * rows + 0.5), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    end = max(entry["step"] for entry in log.entries)
    figure.suptitle(f"{name}, {end:,} steps", color=INK, fontsize=14, parse_math=False)
    # The last row may have places left.
    for place, cell in zip(figure.add_gridspec(rows, columns), cells, strict=False):
        _draw_cell(figure, place, cell, end)
    return figure


def _draw_cell(figure: Figure, place: SubplotSpec, cell: Cell, end: int) -> None:
    grid = place.subgridspec(len(cell.panels), 1, height_ratios=[panel.height for panel in cell.panels])
    for panel, spot in zip(cell.panels, grid, strict=True):
        axes = figure.add_subplot(spot)
        panel.draw(axes)
        axes.set_xlim(0, 1.02 * max(end, 1))  # the last points are not to lie on the frame
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel(panel.unit)
        axes.tick_params(labelbottom=spot.is_last_row())
        if spot.is_first_row():
            axes.set_title(cell.title, loc="left")
    axes.set_xlabel("step")


def _cells(log: Log) -> list[Cell]:
    """Everything that there may be to draw."""
    losses = _curves(log, _by_direction("loss_"))
    losses += [*_curves(log, {"loss": "total"}, INK), *_curves(log, {"eval_loss": "validation"}, INK, "--")]
    recalls = _curves(log, _by_direction("eval_recall_")) + _curves(log, {"eval_recall_mean": "mean"}, INK)
    similarity = {
        "positive_similarity": "positive",
        "negative_similarity": "negative",
        "similarity_margin": "margin",
    }
    noise = {"filter_precision": "precision", "filter_recall": "recall"}
    share, positive = (0, 1.04), (0, None)  # a curve at 1 is not to lie on the frame
    return [
        Cell("Losses", [Lines("loss (nats)", losses)]),
        Cell(
            "Omega, the weights of the objectives",
            [
                Lines("weight", _curves(log, _by_direction("omega_")), positive, height=2),
                _single(log, "omega_sum", "sum", positive),
            ],
        ),
        Cell("Similarity of query and product", [Lines("cosine", _curves(log, similarity))]),
        *_routing(log),
        Cell(
            "Sample filter: phi and what it keeps",
            [Heat("phi", log.counts("phi_histogram")), _single(log, "kept_share", "share kept", share)],
        ),
        Cell("Filter against known false positives", [Lines("share", _curves(log, noise), share)]),
        Cell("Retrieval on the validation sample", [Lines("Recall@10 (share)", recalls, positive)]),
        Cell(
            "Steps of the optimizer",
            [
                _single(log, "grad_norm", "gradient norm", scale="log"),
                _single(log, "learning_rate", "learning rate", positive),
            ],
        ),
        Cell(
            "Throughput",
            [_single(log, f"{what}_per_second", f"{what}/s", positive) for what in ("tokens", "triplets")],
        ),
        Cell("Refused since start or resumption", [_single(log, "refused_steps", "steps", positive)]),
    ]


def _routing(log: Log) -> list[Cell]:
    """A cell for each modality composition, all with the same y axis."""
    matches = [re.fullmatch(r"expert_(\d+)_(?:t|i|mm)", name) for name in log.names]
    experts = sorted({int(match[1]) for match in matches if match})
    curves = {
        composition: _curves(log, {f"expert_{expert}_{composition}": str(expert) for expert in experts})
        for composition in COMPOSITIONS
    }
    shares = [share for group in curves.values() for curve in group for share in curve.points.values()]
    limits = (0, 1.05 * max(filter(math.isfinite, shares), default=1))
    return [
        Cell(
            f"Experts used for {words}",
            [Lines("share of routing", curves[composition], limits, "linear", 1 / len(experts), "expert")],
        )
        for composition, words in COMPOSITIONS.items()
        if curves[composition]
    ]


def _single(log: Log, name: str, unit: str, limits=(None, None), scale: str = "linear") -> Lines:
    return Lines(unit, _curves(log, {name: ""}), limits, scale)


def _by_direction(prefix: str) -> dict[str, str]:
    return {f"{prefix}{direction}": arrow for direction, arrow in DIRECTIONS.items()}


def _curves(log: Log, labels: dict[str, str], color: str | None = None, style: str | None = None) -> list[Curve]:
    """The curves (name in the log -> label) that have a value. One keeps its colour where others are absent."""
    curves = []
    for place, (name, label) in enumerate(labels.items()):
        points = log.values(name)
        if any(math.isfinite(value) for value in points.values()):
            own_color = COLORS[place % len(COLORS)]
            own_style = LINE_STYLES[place // len(COLORS) % len(LINE_STYLES)]
            curves.append(Curve(label, points, color or own_color, style or own_style))
    return curves


def _parsed(line: bytes) -> object:
    """What a line says; `None` if it is not JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_histogram(value: object) -> bool:
    return isinstance(value, list) and len(value) == BINS and all(map(_is_number, value))
