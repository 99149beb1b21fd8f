"""Checks that need the whole data set: ids, qrels, duplicates, what splits share, and what a model finds alike."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.checks.found import BLOCK, Found, first_places
from mbe2_dataset.checks.rows import EXAMPLES, PICTURES, Finding, Part
from mbe2_dataset.errors import ModelError

# Catalogue photos look alike, so a near hash only proposes a pair and thumbnails decide: between 2,000 test and 6,000
# train photos of different fashion products, the least difference of thumbnails among pairs with near hashes was 2.9.
HASH_DISTANCE = 12
THUMBNAIL_DIFFERENCE = 2.5
# Means of four by four colours differ at most as much as those colours do, but for rounding.
ROUNDING = 1.0
# So many pairs are looked at closely, and if there are more, the report says so.
CANDIDATES = 50_000
# An odd number that spreads the bits of one hash before another is added.
MIX = 0x9E3779B97F4A7C15
# Cosine similarity from which two products count as neighbours (our choice).
SIMILARITY = 0.98
BATCH = 64


def check_sets(found: Found) -> Iterator[Finding]:
    """Yield all findings about the data set as a whole."""
    finder = _Finder(found)
    yield from _unique(finder)
    yield from _qrels(finder)
    yield from _shared_names(finder)
    pictures, photos = _by_split(found), _by_split(found, found.photos())
    yield from _shared_pictures(pictures, photos, finder)
    del pictures
    yield from _duplicates(found, finder)
    yield from _near(photos, found.looks.mapped, finder)


class _Column:
    """Hashes of the values of some columns, one after another; the values themselves are read for examples only."""

    def __init__(self, finder: "_Finder", chosen: Callable[[str, str], bool], split: str | None = None):
        self._finder = finder
        keys = [key for key in finder.found.keys if chosen(key[0], key[2]) and split in (None, key[1])]
        self._keys = {key: finder.found.keys[key].mapped for key in keys}
        self.hashes, self.places, self.counts = first_places(
            list(self._keys.values()), [values != 0 for values in self._keys.values()]
        )

    def values(self, places: np.ndarray) -> tuple[int, tuple[str, ...]]:
        """Return how many places there are, and the values at the first of them."""
        texts = []
        for place in np.sort(places)[:EXAMPLES].tolist():
            for (config, split, name), values in self._keys.items():
                if 0 <= place < len(values):
                    texts.append(self._finder.text(config, split, name, place))
                place -= len(values)
        return len(places), tuple(texts)


def _column(finder: "_Finder", config: str, name: str) -> _Column:
    """Return a column over all splits of a config."""
    return _Column(finder, lambda *key: key == (config, name))


def _found(level: str, check: str, message: str, where: str, column: _Column, chosen: np.ndarray) -> Iterator[Finding]:
    """Yield a finding about those of the different values that are chosen."""
    if chosen.any():
        yield Finding(level, check, message, where, *column.values(column.places[chosen]))


def _unique(finder: "_Finder") -> Iterator[Finding]:
    for config, name in (("triplets", "query_id"), ("corpus", "id"), ("queries", "id")):
        column = _column(finder, config, name)
        yield from _found("error", "ids", f"values of {name} occur more than once", config, column, column.counts > 1)


def _qrels(finder: "_Finder") -> Iterator[Finding]:
    queries, corpus = _column(finder, "queries", "id"), _column(finder, "corpus", "id")
    judged, relevant = _column(finder, "qrels", "query-id"), _column(finder, "qrels", "corpus-id")

    def absent(column: _Column, known: _Column) -> np.ndarray:
        return ~np.isin(column.hashes, known.hashes)

    for level, message, where, column, known in (
        ("error", "queries have no qrel, so no right answer", "queries", queries, judged),
        ("error", "query ids are of no query", "qrels", judged, queries),
        ("error", "corpus ids are of no listing of the corpus", "qrels", relevant, corpus),
        ("info", "listings are right for no query", "corpus", corpus, relevant),
    ):
        yield from _found(level, "qrels", message, where, column, absent(column, known))
    hashes = [finder.found.keys["qrels", "test", name].mapped for name in ("query-id", "corpus-id")]
    _, places, counts = first_places([hashes[0] * np.uint64(MIX) ^ hashes[1]])
    if (counts > 1).any():
        names = [
            " -> ".join(finder.text("qrels", "test", name, place) for name in ("query-id", "corpus-id"))
            for place in np.sort(places[counts > 1])[:EXAMPLES].tolist()
        ]
        yield Finding("error", "qrels", "pairs occur more than once", "qrels", int((counts > 1).sum()), tuple(names))


def _shared_names(finder: "_Finder") -> Iterator[Finding]:
    """Find leakage by the id of a product or group."""
    names = {"products": {"id", "positive_id", "negative_id"}, "groups": {"group_id"}}
    names["groups"] |= {f"{role}_group_id" for role in ("query", "positive", "negative")}
    for kind, wanted in names.items():
        for first, second in combinations(sorted({split for _, split, _ in finder.found.keys}), 2):
            here, there = (
                _Column(finder, lambda config, name, wanted=wanted: config != "queries" and name in wanted, split)
                for split in (first, second)
            )
            shared = np.isin(here.hashes, there.hashes)
            yield from _found("error", "leakage", f"{kind} are in both splits", f"{first} and {second}", here, shared)


class _Finder:
    """Finds rows and images again by their places."""

    def __init__(self, found: Found):
        self.found = found
        self._files = {}
        self._rows = defaultdict(list)
        for part, rows in found.rows:
            self._files.setdefault(part.file, []).append(part)
            self._rows[part.config, part.split].append((part, rows))

    def name(self, place: int) -> str:
        """Return column, row and file of an image."""
        entry = self.found.pictures.mapped[place]
        part = next(part for part in reversed(self._files[entry["file"]]) if part.first <= entry["row"])
        column = list(PICTURES[part.config])[entry["column"]]
        return f"{column} in row {entry['row']} of {part.config}/{part.path.name}"

    def text(self, config: str, split: str, column: str, place: int) -> str:
        """Return a value of a column."""
        for part, rows in self._rows[config, split]:
            if place < rows:
                table = pq.ParquetFile(part.path).read_row_group(part.row_group, columns=[column])
                return table.column(column)[place].as_py()
            place -= rows
        raise IndexError(place)


# The shas of the different images of a split, sorted, and the place where each is first.
_Once = tuple[np.ndarray, np.ndarray]


def _by_split(found: Found, wanted: np.ndarray | None = None) -> dict[str, _Once]:
    """Return the images of each split, each once; with `wanted` some of all images."""
    shas, splits = found.pictures.mapped["sha"], {}
    for part, places in found.parts():
        splits.setdefault(part.split, []).append(places)
    once = {}
    for split, slices in sorted(splits.items()):
        is_own = np.zeros(len(shas), bool)
        for places in slices:
            is_own[places] = True if wanted is None else wanted[places]
        once[split] = first_places([shas], [is_own])[:2]
    return once


def _shared_pictures(pictures: dict[str, _Once], photos: dict[str, _Once], finder: _Finder) -> Iterator[Finding]:
    """Find leakage by the same bytes: an error, except between images that were both made by augmentation.

    Photos of two shades of a lip gloss may differ in one place only; a detail of another place is then the same.
    """
    for first, second in combinations(pictures, 2):
        shared, here, there = np.intersect1d(pictures[first][0], pictures[second][0], True, return_indices=True)
        shown = np.isin(shared, photos[first][0]) | np.isin(shared, photos[second][0])
        for level, what, chosen in (
            ("error", "images are in both splits, byte for byte", shown),
            ("warning", "augmented images are in both splits, byte for byte", ~shown),
        ):
            pairs = list(zip(pictures[first][1][here[chosen]], pictures[second][1][there[chosen]], strict=True))
            names = [f"{finder.name(one)} is {finder.name(other)}" for one, other in pairs[:EXAMPLES]]
            if pairs:
                yield Finding(level, "leakage", what, f"{first} and {second}", len(pairs), tuple(names))


def _duplicates(found: Found, finder: _Finder) -> Iterator[Finding]:
    texts, message = _column(finder, "corpus", "text"), "texts are those of more than one listing"
    yield from _found("warning", "duplicates", message, "corpus", texts, texts.counts > 1)
    pictures, splits = found.pictures.mapped, {}
    for part, places in found.parts():
        if part.config in ("corpus", "triplets"):  # an image and a mixed query of a group share their image
            start = splits.setdefault((part.config, part.split), [places.start, 0])
            start[1] = places.stop
    for (config, split), (start, end) in splits.items():
        own = pictures[start:end]
        shas, first, counts = first_places([own["sha"]])
        if config == "corpus" and (counts > 1).any():
            repeated = first[counts > 1]
            names = tuple(finder.name(start + place) for place in repeated[:EXAMPLES])
            message = "images are those of more than one listing"
            yield Finding("warning", "duplicates", message, "corpus", len(repeated), names)
        # Of the groups that show an image, the first; an image that another one shows as well is shared.
        known, groups, _ = first_places([own["sha"]], [own["group"] != 0])
        shared = np.zeros(len(known), bool)
        for block in range(0, len(own), BLOCK):
            seen = own[block : block + BLOCK][["sha", "group"]]
            seen = seen[seen["group"] != 0]
            at = np.searchsorted(known, seen["sha"])
            shared[at[own["group"][groups[at]] != seen["group"]]] = True
        if shared.any():
            places = first[np.searchsorted(shas, known[shared][:EXAMPLES])]
            yield Finding(
                "warning", "duplicates", "images are shown by products of different groups, which may be false "
                "negatives of each other", f"{config}/{split}", int(shared.sum()),
                tuple(finder.name(start + place) for place in places),
            )  # fmt: skip


def _near(photos: dict[str, _Once], looks: np.ndarray, finder: _Finder) -> Iterator[Finding]:
    """Find leakage by images that look the same: perceptual hashes propose, thumbnails decide."""
    order = np.argsort(looks["sha"])
    shas = looks["sha"][order]
    for first, second in combinations(photos, 2):
        small, large = sorted((photos[first], photos[second]), key=lambda once: len(once[0]))
        where = f"{first} and {second}"
        one, other = (order[np.searchsorted(shas, once[0])] for once in (small, large))
        pairs, total = _candidates(looks, one, other)
        if total > CANDIDATES:
            yield Finding(
                "info", "leakage", "pairs with like hashes were not compared closely: there are too many", where,
                total - CANDIDATES,
            )  # fmt: skip
        near = []
        for block in np.array_split(pairs, 1 + len(pairs) // 1000):
            shown = [looks["thumbnail"][side[block[:, n]]].astype(np.int16) for n, side in enumerate((one, other))]
            differences = np.abs(shown[0] - shown[1]).mean(axis=(1, 2, 3))
            alike = differences <= THUMBNAIL_DIFFERENCE
            near += zip(differences[alike].tolist(), *block[alike].T.tolist(), strict=True)
        names = [
            f"{finder.name(small[1][i])} and {finder.name(large[1][j])} (difference {difference:.1f} of 255)"
            for difference, i, j in sorted(near)[:EXAMPLES]
        ]
        if near:
            yield Finding("warning", "leakage", "pairs of images look the same", where, len(near), tuple(names))


def _candidates(looks: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, int]:
    """Find the pairs with like hashes, like colours and other bytes.

    Each hash is compared only with those of which a quarter differs from its own in one bit at most, as one must if up
    to seven of 64 bits differ. They are found by sorting.

    Args:
        looks: an array of LOOK; one, other: places in it.

    Returns:
        (N, 2) places in `one` and `other`, of the CANDIDATES nearest pairs, nearest first; and how many there are.
    """
    mine, theirs = looks["hash"][one], looks["hash"][other]
    found, total, most = [(np.empty(0), np.empty(0, int), np.empty(0, int))], 0, THUMBNAIL_DIFFERENCE + ROUNDING

    def nearest() -> tuple[np.ndarray, ...]:
        differences, i, j = map(np.concatenate, zip(*found, strict=True))
        order = np.lexsort((j, i, differences))[:CANDIDATES]
        return differences[order], i[order], j[order]

    for shift in range(0, 64, 16):
        quarters = _quarter(theirs, shift)
        order = np.argsort(quarters, kind="stable")
        quarters = quarters[order]
        for flip in (0, *(1 << bit for bit in range(16))):
            wanted = _quarter(mine, shift) ^ np.uint16(flip)
            starts, ends = (np.searchsorted(quarters, wanted, side) for side in ("left", "right"))
            counts = ends - starts
            for block in np.array_split(np.arange(len(one)), 1 + counts.sum() // BLOCK):
                i = np.repeat(block, counts[block])
                within = np.arange(len(i)) - np.repeat(np.cumsum(counts[block]) - counts[block], counts[block])
                j = order[np.repeat(starts[block], counts[block]) + within]
                unlike = mine[i] ^ theirs[j]
                near = np.bitwise_count(unlike) <= HASH_DISTANCE
                for earlier in range(0, shift, 16):  # where the pair was found already
                    near &= np.bitwise_count(_quarter(unlike, earlier)) > 1
                i, j = i[near], j[near]
                pair = looks["small"][one[i]].astype(np.int16), looks["small"][other[j]]
                differences = np.abs(pair[0] - pair[1]).mean(axis=1)
                near = (differences <= most) & (looks["sha"][one[i]] != looks["sha"][other[j]])
                found.append((differences[near], i[near], j[near]))
                total += int(near.sum())
                if sum(len(part[0]) for part in found) > 2 * CANDIDATES:
                    found[:] = [nearest()]
    return np.stack(nearest()[1:], 1), total


def _quarter(hashes: np.ndarray, shift: int) -> np.ndarray:
    return (hashes >> np.uint64(shift)).astype(np.uint16)


def check_neighbours(parts: list[Part], name: str) -> list[Finding]:
    """Compare the corpus with the positives of the triplets: by images if the model takes them, else by titles.

    The vectors of the corpus are held, those of the training products only as they come.

    Args:
        name: a sentence-transformers model (a Moon2 checkpoint is one); its code is run (`trust_remote_code`).

    Raises:
        ModelError: there is no such model.
    """
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(name, trust_remote_code=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"The model {name} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    kind = "picture" if "image" in model.modalities else "title"

    def vectors(config: str, prefix: str, title: str) -> Iterator[tuple[list[str], np.ndarray]]:
        column = f"{prefix}image" if kind == "picture" else title
        for rows in _batches(parts, config, f"{prefix}id", column):
            values = [decode(Picture(**value)) if kind == "picture" else value for value in rows.values()]
            yield list(rows), model.encode(values, normalize_embeddings=True, show_progress_bar=False)

    corpus = list(vectors("corpus", "", "text"))
    if not corpus:
        return []
    ids = [identifier for names, _ in corpus for identifier in names]
    held = np.concatenate([found for _, found in corpus])
    best, nearest = np.full(len(ids), -1.0), [""] * len(ids)
    for names, found in vectors("triplets", "positive_", "positive_title"):
        similar = held @ found.T
        for place in np.nonzero(similar.max(1) > best)[0]:
            best[place], nearest[place] = similar[place].max(), names[similar[place].argmax()]
    near = [(float(best[place]), ids[place], nearest[place]) for place in np.nonzero(best >= SIMILARITY)[0]]
    if not near:
        return []
    shown = tuple(f"{one} and {other} ({score:.3f})" for score, one, other in heapq.nlargest(EXAMPLES, near))
    message = f"listings have a {kind} next to one in training, says {name} (cosine {SIMILARITY} or more)"
    return [Finding("warning", "leakage", message, "corpus", len(near), shown)]


def _batches(parts: list[Part], config: str, key: str, column: str) -> Iterator[dict[str, object]]:
    """Yield id -> value of a column, each product once."""
    seen: set[str] = set()
    for part in tqdm([part for part in parts if part.config == config], desc=f"vectors of {config}", unit="group"):
        table = pq.ParquetFile(part.path).read_row_group(part.row_group, columns=[key, column])
        rows = {row[key]: row[column] for row in table.to_pylist() if row[key] not in seen}
        seen.update(rows)
        rows = list(rows.items())
        yield from (dict(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))
