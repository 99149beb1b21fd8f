"""Hard negatives: of the same category, of any, or mined with a model's vectors (how they are found is our choice)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.errors import CatalogueError

# Anchors whose neighbours are held at a time.
ANCHORS = 512
# Neighbours that are looked at beyond the window, because group members and near-duplicates are left out.
SPARE = 50
# Perceptual hashes (64 bits) that differ in so many bits at most are of the same photo, resized or re-encoded.
NEAR_IDENTICAL_BITS = 4


class Negative(NamedTuple):
    """A negative and how it was found; `facts` go into its provenance."""

    row: Row
    kind: str
    facts: dict


class CategoryNegatives:
    """Draws from the rows of one split by category and group.

    Args:
        nearest: from the nearest category that has another group; otherwise from all rows.
    """

    def __init__(self, rows: Sequence[Row], nearest: bool = True):
        self._nearest = nearest
        by_path: dict[tuple[str, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            for depth in range(len(row.category) + 1):
                by_path[row.category[:depth]][row.group_id].append(row)
        self._by_path = {path: (list(groups), groups) for path, groups in by_path.items()}

    def draw(self, path: tuple[str, ...], excluded: set[str], rng: np.random.Generator) -> Row | None:
        """Draw a row below `path` of a group that is not excluded; None if there is none."""
        names, groups = self._by_path[path]
        if len(names) == sum(name in groups for name in excluded):
            return None
        # At least one name is allowed and only a few are not, so this ends soon.
        while True:
            name = names[rng.integers(len(names))]
            if name not in excluded:
                return groups[name][rng.integers(len(groups[name]))]

    def __call__(self, row: Row, excluded: set[str], rng: np.random.Generator) -> Negative:
        """Draw a negative for `row` from none of the excluded groups.

        Raises:
            CatalogueError: there is none.
        """
        for depth in range(len(row.category) if self._nearest else 0, -1, -1):
            found = self.draw(row.category[:depth], excluded, rng)
            if found is not None:
                same = depth == len(row.category)
                kind = "random" if depth == 0 else "same_leaf" if same else "same_parent"
                return Negative(found, kind, {"category": list(row.category[:depth])} if depth else {})
        raise CatalogueError(
            f"The split '{row.split}' has no possible negative for '{row.id}': it needs a row of another group."
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
        rows: those of one split; vectors: theirs, (N, D) float32, L2-normalised.
        fallback: for rows without any neighbour in the window.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        vectors: np.ndarray,
        hardness: Hardness,
        fallback: CategoryNegatives,
    ):
        self._rows, self._fallback = rows, fallback
        self._place = {row.id: place for place, row in enumerate(rows)}
        self._candidates = _neighbours(rows, vectors, hardness)
        self._nearest = hardness.nearest

    def __call__(self, row: Row, excluded: set[str], rng: np.random.Generator) -> Negative:
        """Draw a negative, as in `CategoryNegatives`."""
        places, similarities = self._candidates[self._place[row.id]]
        allowed = [n for n, place in enumerate(places) if self._rows[place].group_id not in excluded]
        if not allowed:
            return self._fallback(row, excluded, rng)
        chosen = allowed[rng.integers(len(allowed))]
        facts = {"rank": self._nearest + chosen, "similarity": round(float(similarities[chosen]), 4)}
        return Negative(self._rows[places[chosen]], "mined", facts)


def _neighbours(rows: Sequence[Row], vectors: np.ndarray, hardness: Hardness) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each row the places and similarities of those in its window, nearest first; of equals by place."""
    # Imported here, because processes that write shards need neither and would wait seconds for them.
    import torch
    from sentence_transformers.util import dot_score, semantic_search

    corpus = torch.from_numpy(vectors)
    top_k = min(len(rows), hardness.farthest + SPARE)
    found = []
    for start in tqdm(range(0, len(rows), ANCHORS), desc="mine negatives", unit="chunk"):
        hits = semantic_search(corpus[start : start + ANCHORS], corpus, top_k=top_k, score_function=dot_score)
        for place, neighbours in enumerate(hits, start):
            own = rows[place].group_id
            neighbours = [
                (hit["corpus_id"], hit["score"])
                for hit in sorted(neighbours, key=lambda hit: (-hit["score"], hit["corpus_id"]))
                if hit["score"] <= hardness.most_alike
                and rows[hit["corpus_id"]].group_id != own
                and not _same_picture(rows[hit["corpus_id"]], rows[place])
            ]
            window = neighbours[hardness.nearest - 1 : hardness.farthest]
            places, similarities = zip(*window, strict=True) if window else ((), ())
            found.append((np.array(places, dtype=np.int32), np.array(similarities, dtype=np.float32)))
    return found


def _same_picture(one: Row, other: Row) -> bool:
    """Tell whether the first images are near-identical, by perceptual hash."""
    return (one.images[0].perceptual_hash ^ other.images[0].perceptual_hash).bit_count() <= NEAR_IDENTICAL_BITS
