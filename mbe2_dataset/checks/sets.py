"""Checks that need the whole data set: ids, qrels, duplicates, what splits share, and what a model finds alike."""

import heapq
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import combinations, product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.checks.rows import EXAMPLES, PICTURES, THUMBNAIL, Finding, Part, Scan, is_photo, thumbnail
from mbe2_dataset.errors import ModelError

# Catalogue photos look alike, so a near hash only proposes a pair and thumbnails decide: between 2,000 test and 6,000
# train photos of different fashion products, the least difference of thumbnails among pairs with near hashes was 2.9.
HASH_DISTANCE = 12
THUMBNAIL_DIFFERENCE = 2.5
# Means of four by four colours differ at most as much as those colours do, but for rounding.
ROUNDING = 1.0
# So many pairs are compared at a time; so many are then looked at closely, and if there are more, the report says so.
BLOCK = 2_000_000
CANDIDATES = 50_000
# Cosine similarity from which two products count as neighbours (our choice).
SIMILARITY = 0.98
BATCH = 64


def check_sets(scans: list[Scan], parts: list[Part], looks: np.ndarray) -> Iterator[Finding]:
    """Yield all findings about the data set as a whole.

    Args:
        scans: one for each part, in the order of the files.
        parts: to find a picture again.
        looks: of all pictures, an array of rows.LOOK sorted by `sha`.
    """
    columns = {}
    for scan in scans:
        for name, values in scan.columns.items():
            columns.setdefault((scan.part.config, scan.part.split, name), []).append(values)
    columns = {key: pa.chunked_array(values) for key, values in columns.items()}
    pictures = {}
    for scan in scans:
        pictures.setdefault((scan.part.config, scan.part.split), []).append(scan.pictures)
    pictures = {key: np.concatenate(values) for key, values in pictures.items()}
    yield from _unique(columns)
    yield from _qrels(columns)
    yield from _shared_names(columns)
    finder = _Finder(parts)
    yield from _shared_pictures(pictures, finder)
    yield from _duplicates(columns, pictures, finder)
    yield from _near(pictures, looks, finder)


def _found(level: str, check: str, message: str, where: str, values: pa.Array) -> Iterator[Finding]:
    if len(values):
        yield Finding(level, check, message, where, len(values), tuple(values[:EXAMPLES].to_pylist()))


def _repeated(values: pa.ChunkedArray) -> pa.Array:
    """Return the values that occur more than once."""
    counts = pc.value_counts(values.drop_null())
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def _column(columns: dict, config: str, name: str) -> pa.ChunkedArray:
    """Return a column over all splits of a config."""
    chunks = [chunk for (c, _, n), values in columns.items() if (c, n) == (config, name) for chunk in values.chunks]
    return pa.chunked_array(chunks, pa.string())


def _unique(columns: dict) -> Iterator[Finding]:
    for config, name in (("triplets", "query_id"), ("corpus", "id"), ("queries", "id")):
        repeated = _repeated(_column(columns, config, name))
        yield from _found("error", "ids", f"values of {name} occur more than once", config, repeated)


def _qrels(columns: dict) -> Iterator[Finding]:
    queries, corpus = _column(columns, "queries", "id"), _column(columns, "corpus", "id")
    judged, relevant = _column(columns, "qrels", "query-id"), _column(columns, "qrels", "corpus-id")

    def absent(values: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.Array:
        values = pc.unique(values)
        return values.filter(pc.invert(pc.is_in(values, known.combine_chunks())))

    yield from _found("error", "qrels", "queries have no qrel, so no right answer", "queries", absent(queries, judged))
    yield from _found("error", "qrels", "query ids are of no query", "qrels", absent(judged, queries))
    yield from _found("error", "qrels", "corpus ids are of no listing of the corpus", "qrels", absent(relevant, corpus))
    pairs = pc.binary_join_element_wise(judged, relevant, " -> ")
    yield from _found("error", "qrels", "pairs occur more than once", "qrels", _repeated(pairs))
    yield from _found("info", "qrels", "listings are right for no query", "corpus", absent(corpus, relevant))


def _shared_names(columns: dict) -> Iterator[Finding]:
    """Find leakage by the id of a product or group."""
    ids, groups = {}, {}
    for (config, split, name), values in columns.items():
        if name in ("positive_id", "negative_id") or (config, name) == ("corpus", "id"):
            ids.setdefault(split, []).extend(values.chunks)
        elif name.endswith("group_id"):
            groups.setdefault(split, []).extend(values.chunks)
    for kind, found in (("products", ids), ("groups", groups)):
        known = {split: pc.unique(pa.chunked_array(chunks)) for split, chunks in found.items()}
        for first, second in combinations(sorted(known), 2):
            shared = known[first].filter(pc.is_in(known[first], known[second]))
            yield from _found("error", "leakage", f"{kind} are in both splits", f"{first} and {second}", shared)


class _Finder:
    """Finds pictures again by their entries of `rows.PICTURE`."""

    def __init__(self, parts: list[Part]):
        self._files = {}
        for part in parts:
            self._files.setdefault(part.file, []).append(part)
        self._column = lru_cache(maxsize=2)(self._read)

    def name(self, entry: np.void) -> str:
        """Return column, row and file of a picture."""
        part, _ = self._part(int(entry["file"]), int(entry["row"]))
        column = list(PICTURES[part.config])[entry["column"]]
        return f"{column} in row {entry['row']} of {part.config}/{part.path.name}"

    def _part(self, file: int, row: int) -> tuple[Part, int]:
        part = [part for part in self._files[file] if part.first <= row][-1]
        return part, row - part.first

    def _read(self, part: Part, column: str) -> pa.ChunkedArray:
        return pq.ParquetFile(part.path).read_row_group(part.row_group, columns=[column]).column(column)

    def thumbnails(self, entries: np.ndarray) -> np.ndarray:
        """Return the thumbnails (N, 16, 16, 3) of pictures, which are read in the order of the files: reading a row
        group takes long.
        """
        found = np.empty((len(entries), THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
        for place in np.argsort(entries, order=["file", "column", "row"]):
            part, row = self._part(int(entries[place]["file"]), int(entries[place]["row"]))
            column = list(PICTURES[part.config])[entries[place]["column"]]
            found[place] = thumbnail(decode(Picture(**self._column(part, column)[row].as_py())))
        return found


def _by_split(pictures: dict, chosen: Callable[[str, np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """Return the pictures of each split that are chosen (by config and pictures), each once."""
    splits = {}
    for (config, split), found in pictures.items():
        splits.setdefault(split, []).append(chosen(config, found))
    return {split: _once(np.concatenate(found)) for split, found in sorted(splits.items())}


def _once(found: np.ndarray) -> np.ndarray:
    return found[np.unique(found["sha"], return_index=True)[1]]


def _shared_pictures(pictures: dict, finder: _Finder) -> Iterator[Finding]:
    """Find leakage by the same bytes: an error, except between pictures that were both made by augmentation.

    Photos of two shades of a lip gloss may differ in one place only; a detail of another place is then the same.
    """
    splits, photos = _by_split(pictures, lambda config, found: found), _by_split(pictures, _photos)
    for first, second in combinations(splits, 2):
        _, here, there = np.intersect1d(splits[first]["sha"], splits[second]["sha"], return_indices=True)
        shown = np.isin(splits[first]["sha"][here], np.concatenate([photos[first]["sha"], photos[second]["sha"]]))
        for level, what, chosen in (
            ("error", "pictures are in both splits, byte for byte", shown),
            ("warning", "augmented pictures are in both splits, byte for byte", ~shown),
        ):
            pairs = list(zip(here[chosen], there[chosen], strict=True))
            names = [
                f"{finder.name(splits[first][i])} is {finder.name(splits[second][j])}" for i, j in pairs[:EXAMPLES]
            ]
            if pairs:
                yield Finding(level, "leakage", what, f"{first} and {second}", len(pairs), tuple(names))


def _photos(config: str, found: np.ndarray) -> np.ndarray:
    """Return those that were not made by augmentation."""
    return found[is_photo(config, found["column"])]


def _duplicates(columns: dict, pictures: dict, finder: _Finder) -> Iterator[Finding]:
    texts = _repeated(_column(columns, "corpus", "text"))
    yield from _found("warning", "duplicates", "texts are those of more than one listing", "corpus", texts)
    # Queries are left out: the image and the mixed query of a group share their picture.
    for found in (found for (config, _), found in pictures.items() if config == "corpus"):
        _, first, counts = np.unique(found["sha"], return_index=True, return_counts=True)
        repeated = first[counts > 1]
        names = [finder.name(found[place]) for place in repeated[:EXAMPLES]]
        if len(repeated):
            message = "pictures are those of more than one listing"
            yield Finding("warning", "duplicates", message, "corpus", len(repeated), tuple(names))
    for (config, split), found in pictures.items():
        if config in ("triplets", "corpus"):
            pairs = np.unique(found[found["group"] != 0][["sha", "group"]])
            shas, counts = np.unique(pairs["sha"], return_counts=True)
            shared = shas[counts > 1]
            names = [finder.name(found[found["sha"] == sha][0]) for sha in shared[:EXAMPLES]]
            if len(shared):
                yield Finding(
                    "warning", "duplicates", "pictures are shown by products of different groups, which may be false "
                    "negatives of each other", f"{config}/{split}", len(shared), tuple(names),
                )  # fmt: skip


def _near(pictures: dict, looks: np.ndarray, finder: _Finder) -> Iterator[Finding]:
    """Find leakage by pictures that look the same: perceptual hashes propose, thumbnails decide."""
    splits = _by_split(pictures, _photos)
    for first, second in combinations(splits, 2):
        small, large = sorted((splits[first], splits[second]), key=len)
        where = f"{first} and {second}"
        pairs = _candidates(*(looks[np.searchsorted(looks["sha"], photos["sha"])] for photos in (small, large)))
        if len(pairs) > CANDIDATES:
            yield Finding(
                "info", "leakage", "pairs with like hashes were not compared closely: there are too many", where,
                len(pairs) - CANDIDATES,
            )  # fmt: skip
        shown = []
        for photos, places in zip(
            (small, large), np.array(pairs[:CANDIDATES], dtype=int).reshape(-1, 2).T, strict=True
        ):
            different, which = np.unique(places, return_inverse=True)
            shown.append(finder.thumbnails(photos[different])[which].astype(np.int16))
        differences = np.abs(shown[0] - shown[1]).mean(axis=(1, 2, 3)).tolist()
        near = sorted((d, *pair) for d, pair in zip(differences, pairs, strict=False) if d <= THUMBNAIL_DIFFERENCE)
        names = [
            f"{finder.name(small[i])} and {finder.name(large[j])} (difference {difference:.1f} of 255)"
            for difference, i, j in near[:EXAMPLES]
        ]
        if near:
            yield Finding("warning", "leakage", "pairs of pictures look the same", where, len(near), tuple(names))


def _candidates(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """Return the places of pairs with like hashes, like colours and other bytes (arrays of LOOK), nearest first.

    Each hash is compared only with those of which a quarter differs from its own in one bit at most, as one must if up
    to seven of 64 bits differ. They are found by sorting.
    """
    found = {}
    most = THUMBNAIL_DIFFERENCE + ROUNDING
    for shift, flip in product(range(0, 64, 16), [0, *(1 << bit for bit in range(16))]):
        quarters = (other["hash"] >> np.uint64(shift)) & np.uint64(0xFFFF)
        order = np.argsort(quarters)
        wanted = ((one["hash"] >> np.uint64(shift)) & np.uint64(0xFFFF)) ^ np.uint64(flip)
        starts, ends = (np.searchsorted(quarters[order], wanted, side) for side in ("left", "right"))
        counts = ends - starts
        for block in np.array_split(np.arange(len(one)), 1 + counts.sum() // BLOCK):
            i = np.repeat(block, counts[block])
            within = np.arange(len(i)) - np.repeat(np.cumsum(counts[block]) - counts[block], counts[block])
            j = order[np.repeat(starts[block], counts[block]) + within]
            near = np.bitwise_count(one["hash"][i] ^ other["hash"][j]) <= HASH_DISTANCE
            i, j = i[near], j[near]
            differences = np.abs(one["small"][i].astype(np.int16) - other["small"][j]).mean(axis=1)
            near = (differences <= most) & (one["sha"][i] != other["sha"][j])
            found.update(zip(zip(i[near].tolist(), j[near].tolist(), strict=True), differences[near], strict=True))
    return sorted(found, key=lambda pair: (found[pair], pair))


def check_neighbours(parts: list[Part], name: str) -> list[Finding]:
    """Compare the corpus with the positives of the triplets: by pictures if the model takes them, else by titles.

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
