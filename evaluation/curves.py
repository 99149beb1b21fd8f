"""Draws a training run: the figures of its log.jsonl as panels of one picture (which, and how, is our choice)."""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from evaluation.errors import EvaluationError

LOG = "log.jsonl"
BINS = 10  # of phi_histogram, between 0 and 1

# Inches, dots per inch, and panels side by side. A series of few points also shows the points.
WIDTH, HEIGHT, DPI, COLUMNS, FEW = 5.4, 3.5, 120, 3, 30
# Colours that stay apart for colour-blind readers. Where there are more series than colours the style changes.
COLORS, STYLES, INK = matplotlib.color_sequences["petroff10"], ("-", "--", ":"), "#222222"
HEAT = matplotlib.colormaps["cividis"]

OBJECTIVES = {"t2mm": "t→mm", "i2mm": "i→mm", "mm2mm": "mm→mm", "t2i": "t→i", "i2t": "i→t"}
COMPOSITIONS = {"t": "text", "i": "image", "mm": "text + image"}


class Curve(NamedTuple):
    """One series: its name in the log, its name in the legend ("" if the axis says enough), how it is drawn."""

    key: str
    label: str
    color: tuple | str = COLORS[0]
    style: str = "-"


class Panel(NamedTuple):
    """One pair of axes. `limits` are those of the y axis, `None` where the data decide; `even` is marked if given."""

    unit: str
    curves: list[Curve]
    limits: tuple[float | None, float | None] = (None, None)
    scale: str = "linear"
    even: float | None = None


class Cell(NamedTuple):
    """One place of the grid: panels below each other, with one title, one legend and one axis of steps."""

    title: str
    panels: list[Panel]


class Log:
    """The lines of a log.jsonl; a last one that a killed run left cut short is dropped.

    Raises:
        EvaluationError: there is no such file, it is empty, or a line is not what the trainer writes.
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
        self.entries = [self._entry(line, number) for number, line in enumerate(lines, 1)]
        if rest and _is_json(rest):
            self.entries.append(self._entry(rest, len(lines) + 1))
        if not self.entries:
            raise EvaluationError(f"{self.path} has no complete line: the run has logged nothing yet.")

    def _entry(self, line: bytes, number: int) -> dict:
        if not _is_json(line):
            raise EvaluationError(f"{self.path}, line {number}, is not JSON; mend or remove the line.")
        entry = json.loads(line)
        if not isinstance(entry, dict) or not _is_number(entry.get("step")):
            raise EvaluationError(f"{self.path}, line {number}, is not an object with a step; is it a training log?")
        return entry

    def values(self, key: str) -> dict[float, object]:
        """What is logged as `key`, by step. Of a step that was done again on resuming, the later line counts."""
        return self._checked(key, _is_number, "a number")

    def histograms(self, key: str) -> dict[float, list]:
        """As `values`, for lists of counts."""
        return self._checked(key, _is_histogram, f"a list of {BINS} counts")

    def _checked(self, key: str, is_valid, kind: str) -> dict:
        found = {}
        for number, entry in enumerate(self.entries, 1):
            if key in entry:
                if not is_valid(entry[key]):
                    raise EvaluationError(f"{self.path}, line {number}: {key} is {entry[key]!r}; it must be {kind}.")
                found[entry["step"]] = entry[key]
        return dict(sorted(found.items()))

    def keys(self) -> set[str]:
        return set().union(*self.entries)


def draw_curves(run: Path, output: Path) -> None:
    """Writes one PNG for the training run whose output folder is `run`.

    Raises:
        EvaluationError: `run` holds no log that can be drawn, or `output` cannot be written.
    """
    if output.suffix.lower() != ".png":
        raise EvaluationError(f"--output {output} must end in .png; no other kind of picture is written.")
    if not output.parent.is_dir():
        raise EvaluationError(f"--output {output}: there is no folder {output.parent}; make it first.")
    figure = curves_figure(Log(run), run.resolve().name)
    try:
        figure.savefig(output, format="png")
    except OSError as error:
        raise EvaluationError(f"The curves cannot be written to {output}: {error.strerror}.") from error


def curves_figure(log: Log, name: str) -> Figure:
    """The picture. What the log does not hold is left out, be it a curve, a panel or a cell of the grid.

    Args:
        name: of the run, for the title.

    Raises:
        EvaluationError: the log holds nothing that is drawn here.
    """
    cells = _with_data(log)
    if not cells:
        raise EvaluationError(f"{log.path} holds none of the figures that are drawn; is it the log of a training?")
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    # The heading needs the width even where there is a single cell.
    figure = Figure((max(WIDTH * columns, 1.5 * WIDTH), HEIGHT * rows + 0.5), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    figure.suptitle(_heading(log, name), color=INK, fontsize=13, parse_math=False)
    grid = figure.add_gridspec(rows, columns)
    end = max(entry["step"] for entry in log.entries)
    for place, cell in zip(grid, cells, strict=False):  # the last row may have places left
        for axes in _draw_cell(figure, place, cell, log):
            axes.set_xlim(0, max(end, 1))
    return figure


def _cells(log: Log) -> list[Cell]:
    """All there is to draw, in the order of the grid."""
    share = (0, 1.02)  # a curve at 1 must not lie on the frame
    return [
        Cell("Losses", [Panel("loss (nats)", [*_by_objective("loss_"), *_overall("loss", "total", "eval_loss")])]),
        Cell("Omega, the weights of the losses", [Panel("weight", [*_by_objective("omega_"), *_overall("omega_sum", "sum")], (0, None))]),
    ]
