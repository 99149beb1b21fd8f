"""What the dynamic sample filter (MOON2.0, section 4) makes of the triplets, for people to look at."""

import json
from pathlib import Path

import numpy as np
from torch import distributed

FILTERED = "filtered.jsonl"
BINS, LOWEST = 10, 8


class FilterRecord:
    """Collects phi of every triplet that a process sees; several processes add theirs when they are asked.

    Args:
        threshold: delta; triplets with phi below it count as filtered.
        dump: keep the latest phi of every triplet for `dump`, some 200 bytes each.
    """

    def __init__(self, threshold: float, dump: bool):
        self.threshold = threshold
        self.latest: dict[tuple[str, str], dict] | None = {} if dump else None
        self._clear()

    def _clear(self):
        self._phi: dict[str, float] = {}
        self._histogram = np.zeros(BINS, dtype=int)
        self._counts = np.zeros(3, dtype=int)  # filtered, false positives, both; of triplets whose truth is known

    def add(self, step: int, phi: list[float], query_ids: list[str], positive_ids: list[str], truth: list[bool | None]):
        """Record the triplets of one step of this process; `truth`: whether the positive is known to be a false one."""
        self._phi |= dict(zip(query_ids, phi, strict=True))
        self._histogram += np.histogram(phi, bins=BINS, range=(0, 1))[0]
        filtered = np.array(phi) < self.threshold
        known = np.array([planted is not None for planted in truth])
        false = np.array([bool(planted) for planted in truth])
        self._counts += [(filtered & known).sum(), false.sum(), (filtered & false).sum()]
        if self.latest is not None:
            for query_id, positive_id, value, planted in zip(query_ids, positive_ids, phi, truth, strict=True):
                entry = {"query_id": query_id, "positive_id": positive_id, "phi": value, "step": step}
                self.latest[query_id, positive_id] = entry | ({} if planted is None else {"false_positive": planted})

    def since_last_log(self, world_size: int) -> dict:
        """`lowest_phi` (by query id), `phi_histogram` (counts), and, where the data set knows its false positives,
        `filter_precision` and `filter_recall` of "phi below delta" against them."""
        parts = _of_all((self._phi, self._histogram, self._counts), world_size)
        phi = {query_id: value for part in parts for query_id, value in part[0].items()}
        histogram, counts = (sum(part[index] for part in parts) for index in (1, 2))
        self._clear()
        lowest = dict(sorted(phi.items(), key=lambda item: item[1])[:LOWEST])
        return {"lowest_phi": lowest, "phi_histogram": histogram.tolist(), **precision_and_recall(*counts.tolist())}

    def dump(self, folder: Path, world_size: int, write: bool) -> str:
        """Write filtered.jsonl: the triplets whose latest phi is below delta, the least trusted first.

        Args:
            write: whether this process writes the file.

        Returns:
            a sentence on it.
        """
        entries = {}
        for part in _of_all(self.latest, world_size):
            for name, entry in part.items():
                if name not in entries or entries[name]["step"] <= entry["step"]:
                    entries[name] = entry
        filtered = sorted((e for e in entries.values() if e["phi"] < self.threshold), key=lambda entry: entry["phi"])
        if write:
            lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in filtered)
            (folder / FILTERED).write_text("".join(lines), encoding="utf-8")
        known = [entry for entry in entries.values() if "false_positive" in entry]
        false = sum(entry["false_positive"] for entry in known)
        hits = sum(entry.get("false_positive", False) for entry in filtered)
        figures = precision_and_recall(sum("false_positive" in entry for entry in filtered), false, hits)
        words = "".join(f", {name.removeprefix('filter_')} {value:.1%}" for name, value in figures.items())
        return (
            f"{folder / FILTERED}: {len(filtered):,} of {len(entries):,} triplets seen have phi below {self.threshold}"
            + (f"; against {false:,} known false positives{words}." if words else ".")
        )


def precision_and_recall(filtered: int, false: int, both: int) -> dict[str, float]:
    """Judge "phi below delta" as a detector of false positives; what cannot be said (nothing filtered, none known) is
    left out."""
    figures = {}
    if false:
        figures["filter_recall"] = both / false
        if filtered:
            figures["filter_precision"] = both / filtered
    return figures


def _of_all(value, world_size: int) -> list:
    """Return the value of every process."""
    if world_size == 1:
        return [value]
    parts = [None] * world_size
    distributed.all_gather_object(parts, value)
    return parts
