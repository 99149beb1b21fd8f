"""Text-query against image-query recall for several query mixes, as the paper's Fig. 2."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from research.study.scoring import HARD_SET
from research.study.table import read_results
from research.study.variants import StudyError, Variant

# Colours that stay apart for colour-blind readers.
STYLES = {
    "joint + MoE": {"color": "#3f90da", "marker": "o"},
    "joint + dense": {"color": "#ffa90e", "marker": "s"},
    "joint + MoE, by queries": {"color": "#7a21dd", "marker": "v"},
    "joint + dense, by queries": {"color": "#8a8a8a", "marker": "D"},
    "fixed mixing": {"color": "#bd1f01", "marker": "^"},
}
EVEN = (1, 1, 1)


def draw(folder: Path, variants: dict[str, Variant], output: Path):
    """Writes a PNG: one line for each way of training, one point (mean over seeds) for each query mix.

    Raises:
        StudyError: no result of the sweep is there, or `output` is no PNG or cannot be written.
    """
    if output.suffix.lower() != ".png":
        raise StudyError(f"--output {output} must end in .png: that is what is written.")
    points = sweep(folder, variants)
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


def sweep(folder: Path, variants: dict[str, Variant]) -> dict[str, dict[tuple[int, int, int], np.ndarray]]:
    """{way of training: {query mix: (seeds, 2)}}, t->mm and i->mm in per cent; mixes from most image to most text.

    Raises:
        StudyError: no result of the sweep is there.
    """
    lines: dict[str, dict] = {name: {} for name in STYLES}
    for runs in read_results(folder, variants).values():
        if runs.variant.curve is not None:
            retrieval = [run["sets"][HARD_SET]["retrieval"] for run in runs.by_seed.values()]
            values = [[100 * one[direction]["recall@10"] for direction in ("t2mm", "i2mm")] for one in retrieval]
            lines[runs.variant.curve][runs.variant.query_mix] = np.array(values)
    ordered = {
        name: dict(sorted(line.items(), key=lambda item: item[0][0] / item[0][1])) for name, line in lines.items()
    }
    if not any(ordered.values()):
        raise StudyError(f"{folder} has no result of the sweep yet: python -m research.study run --tiers 1,3")
    return {name: line for name, line in ordered.items() if line}
