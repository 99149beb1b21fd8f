"""What a run says of itself: what the dynamic sample filter (MOON2.0, section 4) does, and retrieval while training."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from evaluation.measure.retrieval import DIRECTIONS, relevant_ranks, retrieval_metrics
from evaluation.models.embed import embed
from training_moon2.triplets import ROLES, TripletDataset

FILTERED = "filtered.jsonl"
BINS, LOWEST = 10, 8
VIEWS = {"t": ("text",), "i": ("image",), "mm": ("text", "image")}
QUERY_VIEWS = {"text": "t", "image": "i", "mixed": "mm"}


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
        """Return `lowest_phi` (by query id) and `phi_histogram` (counts).

        Where the data set knows its false positives, also `filter_precision` and `filter_recall` of "phi below delta".
        """
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


class ValidationRetrieval:
    """The queries of some validation triplets, asked of all the products in them.

    A product is right if it, or a listing of its group, is a positive of the query. The corpus is small, so the figures
    are higher than those of `python -m evaluation`: they are for comparing the moments of a run.

    Args:
        dataset: validation triplets, without augmentation.
        sample: so many triplets at most, spread evenly over the data set.
    """

    def __init__(self, dataset: TripletDataset, sample: int):
        self.products: dict[int, dict] = {}
        self.queries: dict[str, dict] = {}
        groups: dict[int, int] = {}
        wanted: dict[str, set[int]] = {}
        for index in torch.linspace(0, len(dataset) - 1, min(sample, len(dataset))).long().unique().tolist():
            triplet = dataset[index]
            for role in ROLES[1:]:
                self.products[triplet[f"{role}_id"]] = triplet[role]
                groups[triplet[f"{role}_id"]] = triplet[f"{role}_group"]
            self.queries[triplet["query_id"]] = triplet["query"]
            wanted.setdefault(triplet["query_id"], set()).add(triplet["positive_group"])
        self.relevant = {
            query_id: [product for product, group in groups.items() if group in wanted[query_id]]
            for query_id in self.queries
        }

    def __call__(self, model, processor, batch_size: int) -> dict[str, float]:
        """Return Recall@10 of every direction that has queries and candidates, and their mean; shares between 0 and 1.

        Args:
            model: in evaluation mode.

        Raises:
            UserError: a product cannot be prepared, or its vector is not finite.
        """
        corpus, asked, found = {}, {}, {}
        for direction, (modality, view) in DIRECTIONS.items():
            if view not in corpus:
                corpus[view] = _embed(model, processor, self.products, VIEWS[view], batch_size)
            if modality not in asked:
                names = VIEWS[QUERY_VIEWS[modality]]
                exactly = {key: item for key, item in self.queries.items() if _modalities(item) == names}
                asked[modality] = _embed(model, processor, exactly, names, batch_size)
            place = {product: row for row, product in enumerate(corpus[view])}
            relevant = {
                query: [place[product] for product in self.relevant[query] if product in place]
                for query in asked[modality]
            }
            scored = [query for query, rows in relevant.items() if rows]
            if scored:
                ranks = relevant_ranks(
                    torch.stack([asked[modality][query] for query in scored]),
                    torch.stack(list(corpus[view].values())),
                    [relevant[query] for query in scored],
                    torch.tensor(list(corpus[view])).argsort().argsort(),
                )
                found[f"recall_{direction}"] = retrieval_metrics(ranks)["recall@10"]
        return found | ({"recall_mean": sum(found.values()) / len(found)} if found else {})


def _modalities(product: dict) -> tuple[str, ...]:
    return tuple(name for name in ("text", "image") if product[name] is not None)


def _embed(model, processor, products: dict, names: tuple[str, ...], batch_size: int) -> dict:
    """Return the vectors of the products that have all of `names`, showing nothing else."""
    shown = {
        key: {name: product[name] for name in names}
        for key, product in products.items()
        if set(names) <= set(_modalities(product))
    }
    items, keys = list(shown.values()), list(shown)
    lengths = [len(item.get("text") or "") for item in items]
    vectors = embed(model, processor, items, lengths, lambda index: f"Product {keys[index]}", batch_size, leave=False)
    return dict(zip(keys, vectors, strict=True))
