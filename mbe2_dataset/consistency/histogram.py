"""Scores that were kept and dropped, as a histogram for reports and cards."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .threshold import is_missing

BAR = 40


@dataclass(frozen=True)
class Histogram:
    """`edges` (N + 1) of the bins, `kept` and `dropped` (N) counts, and how many had no score."""

    edges: np.ndarray
    kept: np.ndarray
    dropped: np.ndarray
    missing: int

    def text(self) -> str:
        """One line for each bin: '#' for kept, '-' for dropped."""
        most = max(1, int((self.kept + self.dropped).max(initial=0)))
        lines = []
        for low, high, kept, dropped in zip(self.edges[:-1], self.edges[1:], self.kept, self.dropped, strict=True):
            bars = "-" * int(np.ceil(BAR * dropped / most)) + "#" * int(np.ceil(BAR * kept / most))
            lines.append(f"{low:7.3f} to {high:7.3f}  {bars} {kept} kept, {dropped} dropped")
        return "\n".join([*lines, f"without a score: {self.missing}"])

    def svg(self, width: int = 480, height: int = 160) -> str:
        """A self-contained SVG: dropped in orange below kept in blue."""
        foot = 18
        most = max(1, int((self.kept + self.dropped).max(initial=0)))
        step = width / max(1, len(self.kept))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="sans-serif" font-size="11">',
            "<title>Consistency scores: kept (blue) and dropped (orange)</title>",
        ]
        for number, (kept, dropped) in enumerate(zip(self.kept, self.dropped, strict=True)):
            low, high = (float(edge) for edge in self.edges[number : number + 2])
            base = float(height - foot)
            for count, colour, name in ((dropped, "#d95f02", "dropped"), (kept, "#4472a8", "kept")):
                if not count:
                    continue
                tall = (height - foot) * int(count) / most
                base -= tall
                parts.append(
                    f'<rect x="{number * step + 1:.1f}" y="{base:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" '
                    f'fill="{colour}"><title>{low:.3f} to {high:.3f}: {count} {name}</title></rect>'
                )
        if len(self.edges) > 1:
            parts.append(f'<text x="0" y="{height - 4}">{self.edges[0]:.3f}</text>')
            parts.append(f'<text x="{width}" y="{height - 4}" text-anchor="end">{self.edges[-1]:.3f}</text>')
        return "".join([*parts, "</svg>"])


def histogram(scores: Sequence[float | None], kept: Sequence[bool], bins: int = 20) -> Histogram:
    """`bins` equal bins from the lowest to the highest score; without any score there are no bins."""
    present = [(score, keep) for score, keep in zip(scores, kept, strict=True) if not is_missing(score)]
    missing = len(scores) - len(present)
    if not present:
        return Histogram(np.zeros(0), np.zeros(0, int), np.zeros(0, int), missing)
    values, flags = np.array([score for score, _ in present]), np.array([keep for _, keep in present])
    edges = np.histogram_bin_edges(values, bins)
    return Histogram(edges, np.histogram(values[flags], edges)[0], np.histogram(values[~flags], edges)[0], missing)
