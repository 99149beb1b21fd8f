"""Plots of an evaluation, each a matplotlib figure: what to draw, and how, is our choice."""

from collections.abc import Sequence
from io import BytesIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from evaluation.measure.metrics import CUTOFFS, DIRECTIONS
from evaluation.models.embed import VIEWS, Routing
from evaluation.show.curves import COLORS, INK, STYLE
from evaluation.show.heatmap import fonts_for

DPI = 130
GREY = "#b9b9b9"
# Of categories: without the two greys, which would pass for what is drawn in grey.
CATEGORY_COLORS = [color for number, color in enumerate(COLORS) if number not in (3, 8)]
PLOT_STYLE = STYLE | {"axes.titlelocation": "left", "text.parse_math": False}
VIEW_NAMES = {"t": "text", "i": "image", "mm": "image + text"}
MARKERS = {"t": "^", "i": "s", "mm": "o"}
# Of the cutoffs, from dark to light, and of the figures in them.
SHADES = (("#08519c", "white"), ("#3a8bc9", "white"), ("#a6cee3", INK))
# float32 and int8 lie on each other nearly everywhere.
LINES = {"float32": {"linewidth": 2.6}, "int8": {"linestyle": (0, (2, 2))}, "binary": {}}
LEAST_LABELLED = 9  # per cent: a lower bar has no room for a figure


def arrow(direction: str) -> str:
    """Return the name of a direction for people."""
    return direction.replace("2", " \u2192 ")


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG; the same figure gives the same bytes."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return file.getvalue()


def draw_directions(retrieval: dict) -> Figure | None:
    """Draw Recall at each cutoff for every direction, with 95 % intervals, beside chance; `None` without figures."""
    rows = {name: row for name, row in retrieval.items() if row is not None and row["metrics"] is not None}
    if not rows:
        return None
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(1.6 + 1.25 * len(rows), 3.4))
        axes = figure.subplots()
        width = 0.8 / len(CUTOFFS)
        for number, (k, (shade, ink)) in enumerate(zip(CUTOFFS, SHADES, strict=True)):
            metric = f"recall@{k}"
            places = np.arange(len(rows)) + (number - (len(CUTOFFS) - 1) / 2) * width
            values = np.array([100 * row["metrics"][metric] for row in rows.values()])
            low, high = np.array([[100 * edge for edge in row["intervals"][metric]] for row in rows.values()]).T
            # A percentile interval need not hold the mean where nearly all queries agree.
            errors = np.clip([values - low, high - values], 0, None)
            bars = axes.bar(places, values, width * 0.92, color=shade, label=f"R@{k}")
            axes.errorbar(places, values, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            labels = [f"{value:.0f}" if value >= LEAST_LABELLED else "" for value in values]
            axes.bar_label(bars, labels, label_type="center", color=ink, fontsize=7.5)
            chance = [100 * row["chance"][metric] for row in rows.values()]
            line = {"label": "chance"} if number == 0 else {}
            axes.hlines(chance, places - width / 2, places + width / 2, color=INK, linewidth=1.2, linestyle=":", **line)
        axes.set_xticks(range(len(rows)), [arrow(name) for name in rows])
        axes.set(ylim=(0, 104), ylabel="Recall, per cent", title="Retrieval, with 95 % intervals")
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_compression(rows: Sequence[dict]) -> Figure | None:
    """Draw Recall@10 against dimensions, a line for each precision, a panel for each direction; `None` if none."""
    shown = [
        name
        for name in DIRECTIONS
        if all(row["retrieval"].get(name) is not None and row["retrieval"][name]["metrics"] is not None for row in rows)
    ]
    if not rows or not shown:
        return None
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    dims = sorted({row["dimension"] for row in rows})
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(0.8 + 2.1 * len(shown), 2.9))
        for axes, direction in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
            for color, precision in zip(COLORS, precisions, strict=False):
                own = sorted((row for row in rows if row["precision"] == precision), key=lambda row: row["dimension"])
                values = [row["retrieval"][direction] for row in own]
                sizes = [row["dimension"] for row in own]
                recall = [100 * value["metrics"]["recall@10"] for value in values]
                low, high = zip(*(value["intervals"]["recall@10"] for value in values), strict=True)
                axes.plot(
                    sizes,
                    recall,
                    "o",
                    color=color,
                    markersize=4,
                    label=precision,
                    **{"linestyle": "-"} | LINES[precision],
                )
                axes.fill_between(sizes, [100 * v for v in low], [100 * v for v in high], color=color, alpha=0.15, lw=0)
            axes.set_xscale("log", base=2)
            axes.set_xticks(dims, [str(size) for size in dims])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set(title=arrow(direction), xlabel="dimensions", ylim=(0, 102))
        figure.axes[0].set_ylabel("Recall@10, per cent")
        figure.axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.subplots_adjust(wspace=0.12)
    return figure


def draw_usage(routing: Routing) -> Figure:
    """Draw the mean share of each expert for text, image, and image + text, with the middle half of the products."""
    with matplotlib.rc_context(PLOT_STYLE):
        experts = routing.preference.shape[0]
        figure = Figure(figsize=(1.8 + 1.1 * experts, 3.2))
        axes = figure.subplots()
        width = 0.8 / len(VIEWS)
        for number, view in enumerate(VIEWS):
            usage = 100 * routing.usage[view]
            places = np.arange(experts) + (number - 1) * width
            mean, (low, high) = usage.mean(0), np.percentile(usage, (25, 75), axis=0)
            axes.bar(places, mean, width * 0.92, color=COLORS[number], label=VIEW_NAMES[view])
            axes.vlines(places, low, high, color=INK, linewidth=1)
        axes.axhline(100 / experts, color=INK, linewidth=1, linestyle=":", label="even")
        axes.set_xticks(range(experts), [f"expert {number + 1}" for number in range(experts)])
        axes.set(ylabel="share of the gate, per cent", title="Experts by what is shown of a product")
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_preference(routing: Routing) -> Figure:
    """Draw the softmax of W* as a heat-map: what share of each expert is for each objective."""
    with matplotlib.rc_context(PLOT_STYLE):
        experts, objectives = routing.preference.shape
        figure = Figure(figsize=(1.8 + 0.8 * objectives, 1.2 + 0.45 * experts))
        axes = figure.subplots()
        # From 0, so that a preference that is nearly even looks so.
        top = max(routing.preference.max(), 2 / objectives)
        image = axes.imshow(routing.preference, cmap="viridis", vmin=0, vmax=top, aspect="auto")
        for expert, objective in np.ndindex(experts, objectives):
            value = routing.preference[expert, objective]
            color = "white" if value < 0.6 * top else INK
            axes.text(objective, expert, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8.5)
        axes.set_xticks(range(objectives), [arrow(name) for name in routing.objectives])
        axes.set_yticks(range(experts), [f"expert {number + 1}" for number in range(experts)])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_title("W*: what each expert is for")
        figure.colorbar(image, ax=axes, label=f"share (even: {1 / objectives:.2f})").outline.set_visible(False)
    return figure


def draw_map(vectors: dict[str, np.ndarray], categories: Sequence[str]) -> Figure:
    """Draw the first two principal components of products' vectors, with colours for categories, markers for views.

    Args:
        vectors: {view: (N, D)} of the same N products.
        categories: of each product; beyond the most frequent they are drawn as others.
    """
    points, shares = principal_components(np.concatenate(list(vectors.values())))
    parts = dict(zip(vectors, np.split(points, len(vectors)), strict=True))
    names, counts = np.unique(np.array(categories), return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][: len(CATEGORY_COLORS)].tolist()
    with matplotlib.rc_context(PLOT_STYLE | {"font.family": fonts_for("".join(frequent))}):
        figure = Figure(figsize=(4.2 * len(parts) + 1.2, 4))
        panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (view, own) in zip(panels, parts.items(), strict=True):
            # All views in grey behind, so that one sees where each lies among the others.
            axes.scatter(*points.T, s=6, color="#dedede", linewidths=0)
            for color, name in zip([*CATEGORY_COLORS[: len(frequent)], GREY], [*frequent, None], strict=True):
                chosen = np.array([(category if category in frequent else None) == name for category in categories])
                _scatter(axes, own[chosen], color, MARKERS[view], "other" if name is None else name)
            axes.set(title=VIEW_NAMES[view], xlabel=f"component 1 ({shares[0]:.0%} of the variance)")
        panels[0].set_ylabel(f"component 2 ({shares[1]:.0%})")
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=2)
        figure.subplots_adjust(wspace=0.06)
    return figure


def _scatter(axes: Axes, points: np.ndarray, color, marker: str, label: str) -> None:
    if len(points):
        axes.scatter(*points.T, s=11, color=color, marker=marker, alpha=0.75, linewidths=0, label=label)


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 2) coordinates of (N, D), and the (2,) shares of the variance; the largest weights are positive."""
    centred = vectors - vectors.mean(0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    # The sign of a singular vector is arbitrary: fixed, the same vectors always give the same map.
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(1)])
    return centred @ (axes[:2] * signs[:, None]).T, sizes[:2] ** 2 / (sizes**2).sum()
