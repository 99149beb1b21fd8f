"""Hard negatives: of the same category, of any, or mined with a model's vectors (how they are found is our choice)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mbe2_dataset.catalogue.store import SplitRows
from mbe2_dataset.errors import CatalogueError

# Anchors whose neighbours are held at a time.
ANCHORS = 512
# Neighbours that are looked at beyond the window, because group members and near-duplicates are left out.
SPARE = 50
# Perceptual hashes (64 bits) of first images that differ in so many bits at most are of the same photo.
NEAR_IDENTICAL_BITS = 4
# How a negative was found: in the row's own category, in one above it, among all rows, by a model, or in the log.
KINDS = ("same_leaf", "same_parent", "random", "mined", "shown_not_bought")


class Drawn(NamedTuple):
    """The number of a negative in its split, and how it was found: its kind, and what its provenance says of that.

    `depth`: levels of the category that it was drawn from; `rank` and `similarity`: among those that a model found.
    """

    row: int
    kind: str
    depth: int = 0
    rank: int = 0
    similarity: float = 0.0


class CategoryNegatives:
    """Draws from the rows of one split by category and group.

    For every level of the categories the rows are sorted by category and group, groups in the order in which they
    appear: a category is then a range of groups, and a group a range of rows.

    Args:
        nearest: from the nearest category that has another group; otherwise from all rows.
    """

    def __init__(self, split: SplitRows, nearest: bool = True):
        self._split, self._nearest = split, nearest
        self._levels: list[tuple[np.ndarray, np.ndarray]] = []
        self._below: dict[tuple[str, ...], tuple[int, int]] = {}
        self.paths_of = lru_cache(maxsize=1024)(self._paths_of)
        groups = int(split.groups.max(initial=-1)) + 1
        for depth in range(1 + max(map(len, split.categories), default=0)):
            names = {path[:depth]: None for path in split.categories if len(path) >= depth}
            names = {path: place for place, path in enumerate(names)}
            place_of = np.array([names[path[:depth]] if len(path) >= depth else -1 for path in split.categories], int)
            places = place_of[split.paths]
            rows = np.flatnonzero(places >= 0)
            pairs, first, inverse = np.unique(
                places[rows] * groups + split.groups[rows], return_index=True, return_inverse=True
            )
            order = np.lexsort((first, pairs // max(1, groups)))
            rank = np.empty(len(pairs), np.int32)
            rank[order] = np.arange(len(pairs), dtype=np.int32)
            ranks = rank[inverse]
            members = rows[np.argsort(ranks, kind="stable")].astype(np.int32)
            starts = np.concatenate([[0], np.cumsum(np.bincount(ranks, minlength=len(pairs)))]).astype(np.int32)
            self._levels.append((members, starts))
            ends = np.searchsorted(pairs[order] // max(1, groups), np.arange(len(names) + 1))
            self._below |= {path: (int(ends[place]), int(ends[place + 1])) for path, place in names.items()}

    def members(self, group: int) -> np.ndarray:
        """Return the rows of a group, in order."""
        members, starts = self._levels[0]
        return members[starts[group] : starts[group + 1]]

    def _paths_of(self, group: int) -> tuple[tuple[str, ...], ...]:
        return tuple(self._split.categories[path] for path in np.unique(self._split.paths[self.members(group)]))

    def draw(self, path: tuple[str, ...], excluded: set[int], rng: np.random.Generator) -> int | None:
        """Draw a row below `path` of a group that is not excluded; None if there is none."""
        (first, last), depth = self._below[path], len(path)
        present = sum(any(found[:depth] == path for found in self.paths_of(group)) for group in excluded)
        if last - first == present:
            return None
        members, starts = self._levels[depth]
        # At least one group is allowed and only a few are not, so this ends soon.
        while True:
            place = first + int(rng.integers(last - first))
            start, end = int(starts[place]), int(starts[place + 1])
            if int(self._split.groups[members[start]]) not in excluded:
                return int(members[start + rng.integers(end - start)])

    def __call__(self, row: int, excluded: set[int], rng: np.random.Generator) -> Drawn:
        """Draw a negative for a row from none of the excluded groups.

        Raises:
            CatalogueError: there is none.
        """
        path = self._split.categories[self._split.paths[row]]
        for depth in range(len(path) if self._nearest else 0, -1, -1):
            found = self.draw(path[:depth], excluded, rng)
            if found is not None:
                kind = "random" if depth == 0 else "same_leaf" if depth == len(path) else "same_parent"
                return Drawn(found, kind, depth)
        asked = self._split.rows[row]
        raise CatalogueError(
            f"The split '{asked.split}' has no possible negative for '{asked.id}': it needs a row of another group."
        )


@dataclass(frozen=True, slots=True)
class Hardness:
    """Which neighbours of a row may be its negatives.

    Args:
        nearest, farthest: ranks, counted from 1 among the rows of other groups that are not near-duplicates.
        most_alike: a row whose cosine similarity is above this counts as a near-duplicate, because it may be the same
            thing under another name.
    """

    nearest: int = 5
    farthest: int = 50
    most_alike: float = 0.95

    def __post_init__(self):
        if not 1 <= self.nearest <= self.farthest:
            raise ValueError(f"the hardness window {self.nearest},{self.farthest} needs 1 <= nearest <= farthest.")
        if not -1 < self.most_alike <= 1:
            raise ValueError(f"most_alike is {self.most_alike}; a cosine similarity lies between -1 and 1.")


class MinedNegatives:
    """Draws among the nearest neighbours of a row in a model's space; where it has none, by category.

    Args:
        split: its rows; vectors: theirs, (N, D) float32, L2-normalised.
        fallback: for rows without any neighbour in the window.
    """

    def __init__(self, split: SplitRows, vectors: np.ndarray, hardness: Hardness, fallback: CategoryNegatives):
        self._split, self._fallback, self._nearest = split, fallback, hardness.nearest
        self._candidates = _neighbours(split, vectors, hardness)

    def __call__(self, row: int, excluded: set[int], rng: np.random.Generator) -> Drawn:
        """Draw a negative, as in `CategoryNegatives`."""
        places, similarities = self._candidates[row]
        allowed = [n for n, place in enumerate(places) if int(self._split.groups[place]) not in excluded]
        if not allowed:
            return self._fallback(row, excluded, rng)
        chosen = allowed[rng.integers(len(allowed))]
        return Drawn(int(places[chosen]), "mined", rank=self._nearest + chosen, similarity=float(similarities[chosen]))


def _neighbours(split: SplitRows, vectors: np.ndarray, hardness: Hardness) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each row the places and similarities of those in its window, nearest first; of equals by place."""
    # Imported here, because processes that write shards need neither and would wait seconds for them.
    import torch
    from sentence_transformers.util import dot_score, semantic_search

    corpus = torch.from_numpy(vectors)
    looks = [row.images[0].perceptual_hash for row in split.rows]
    top_k = min(len(looks), hardness.farthest + SPARE)
    found = []
    for start in tqdm(range(0, len(looks), ANCHORS), desc="mine negatives", unit="chunk"):
        hits = semantic_search(corpus[start : start + ANCHORS], corpus, top_k=top_k, score_function=dot_score)
        for place, neighbours in enumerate(hits, start):
            own = split.groups[place]
            neighbours = [
                (hit["corpus_id"], hit["score"])
                for hit in sorted(neighbours, key=lambda hit: (-hit["score"], hit["corpus_id"]))
                if hit["score"] <= hardness.most_alike
                and split.groups[hit["corpus_id"]] != own
                and (looks[hit["corpus_id"]] ^ looks[place]).bit_count() > NEAR_IDENTICAL_BITS
            ]
            window = neighbours[hardness.nearest - 1 : hardness.farthest]
            places, similarities = zip(*window, strict=True) if window else ((), ())
            found.append((np.array(places, dtype=np.int32), np.array(similarities, dtype=np.float32)))
    return found
