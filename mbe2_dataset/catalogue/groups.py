"""Which rows of a stored catalogue sell one product, which images show none in particular, and the splits.

Everything is held in arrays: there may be millions of rows.
"""

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mbe2_dataset.catalogue.pictures import StoredPicture
from mbe2_dataset.catalogue.store import SPLITS, part_records
from mbe2_dataset.catalogue.values import NAMES
from mbe2_dataset.parallel import seed_for
from pictures_moon2 import load_picture

# Titles with this share of common words are nearly the same (our choice).
COMMON_WORDS = 0.75
# Copies of an image that were encoded anew: the same perceptual hash, and thumbnails that differ by at most so much of
# 255 on average. Two products may look alike; only what three or more show is taken for a copy (our choices).
THUMBNAIL = 16
THUMBNAIL_DIFFERENCE = 1.5
COPIES_OF = 3
# What each split must have to be of use: a product to train with needs another one as its negative.
NEEDED = {"train": 2, "test": 1, "validation": 2}

# Words of a title that tell variants of one product apart: sizes, colours, and the row's own values of such attributes.
SIZE = re.compile(r"x{0,4}s|m|x{0,5}l|\d+xl|\d+(?:[.,]\d+)?(?:[mc]?l|[mc]?m|k?g|oz|in|inch|gb|tb|w)")
COLOURS = set(NAMES["colours"].split())
VARIES = re.compile(r"colou?r|size|farbe|größe|couleur|taille|talla|colore|颜色|尺码|尺寸|サイズ|カラー", re.IGNORECASE)
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


@dataclass
class Rows:
    """What groups and splits are decided from, for each row and each image of a row.

    Attributes:
        ids, groups: what the source says, texts; a group may be null.
        splits: (rows,) places in SPLITS that the source says, -1 where it says none.
        bases: (rows,) equal numbers for rows of one given group, or without one of the same title.
        row: (images,) the row of each image.
        picture: (images,) equal numbers for equal bytes.
        hash: (images,) perceptual hashes.
        place: (images, 2) the part and the number in it of each image.
    """

    ids: pa.StringArray
    groups: pa.StringArray
    splits: np.ndarray
    bases: np.ndarray
    row: np.ndarray
    picture: np.ndarray
    hash: np.ndarray
    place: np.ndarray


@dataclass(frozen=True, slots=True)
class SharedPicture:
    """An image that products with different titles share: where it is first, and how many rows show it."""

    sha256: str
    picture: str
    products: int


def read_rows(folder: Path, assign_splits: bool) -> Rows:
    """Read what groups and splits are decided from; given splits are ignored with `assign_splits`."""
    names, given = ([pa.array([], pa.string())] for _ in range(2))
    splits, bases, row, shas, hashes, parts, numbers = (array(kind) for kind in "bQiQQii")
    ids, groups = [], []
    part, last = -1, None
    for record, file in part_records(folder):
        if file != last:
            part, last = part + 1, file
            names, given = [*names, pa.array(ids, pa.string())], [*given, pa.array(groups, pa.string())]
            ids, groups = [], []
        title = " ".join(record["title"].lower().split())
        fact = f"title {title}" if record["group_id"] is None else f"group {record['group_id']}"
        # a digest, for a title may be long and there may be millions
        digest = hashlib.blake2b(fact.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        bases.append(int.from_bytes(digest, "big"))
        for picture in record["pictures"]:
            row.append(len(splits))
            shas.append(int(picture["sha256"][:16], 16))
            hashes.append(picture["perceptual_hash"])
            parts.append(part)
            numbers.append(picture["number"])
        ids.append(record["id"])
        groups.append(record["group_id"])
        splits.append(-1 if assign_splits or record["split"] is None else SPLITS.index(record["split"]))
    return Rows(
        pa.concat_arrays([*names, pa.array(ids, pa.string())]),
        pa.concat_arrays([*given, pa.array(groups, pa.string())]),
        np.asarray(splits),
        np.unique(np.asarray(bases), return_inverse=True)[1].astype(np.int32),
        np.asarray(row),
        np.unique(np.asarray(shas), return_inverse=True)[1].astype(np.int32),
        np.asarray(hashes),
        np.stack([np.asarray(parts), np.asarray(numbers)], 1),
    )


# --- images that several products show ---


def find_shared(folder: Path, rows: Rows) -> tuple[np.ndarray, list[SharedPicture]]:
    """Find the images that products with different titles share: a size chart, a logo, a placeholder.

    Variants of one product share its image rightly: rows of one group or parent, or nearly of one title. An image
    that they share stays, unless the source puts them into different splits.

    Returns:
        (images,) bool: which of `rows.picture` are such; and what is known of each, the most shared first.
    """
    exact, copies = rows.picture, _copies(folder, rows)
    copied = np.isin(copies, copies[exact != copies])
    wanted = _of_several(exact, rows), copied & _of_several(copies, rows, COPIES_OF)
    is_shared = np.zeros(len(rows.row), bool)
    if not (wanted[0] | wanted[1]).any():
        return is_shared, []
    different: tuple[set, set] = (set(), set())
    first: tuple[dict, dict] = ({}, {})
    names: dict[int, tuple[str, str]] = {}
    place = 0
    for number, (record, _) in enumerate(part_records(folder)):
        likeness = None
        for picture in record["pictures"]:
            if wanted[0][place] or wanted[1][place]:
                names.setdefault(int(exact[place]), (picture["sha256"], picture["path"]))
            for labels, chosen, seen, found in zip((exact, copies), wanted, first, different, strict=True):
                label = labels[place]
                if not chosen[place] or label in found:
                    continue
                likeness = likeness or _likeness(record)
                base, split, other = seen.setdefault(label, (rows.bases[number], rows.splits[number], likeness))
                parted = min(split, rows.splits[number]) >= 0 and split != rows.splits[number]
                if base != rows.bases[number] and (parted or not _alike(other, likeness)):
                    found.add(label)
            place += 1
    is_shared = np.isin(exact, list(different[0])) | np.isin(copies, list(different[1]))
    shown = Counter(rows.picture[is_shared].tolist())
    return is_shared, [SharedPicture(*names[picture], count) for picture, count in shown.most_common()]


def _of_several(labels: np.ndarray, rows: Rows, least: int = 2) -> np.ndarray:
    """Return for each image whether rows of at least `least` groups or titles show it."""
    bases = rows.bases[rows.row]
    size = int(bases.max(initial=0)) + 1
    found, counts = np.unique(np.unique(labels.astype(np.int64) * size + bases) // size, return_counts=True)
    return np.isin(labels, found[counts >= least])


def _copies(folder: Path, rows: Rows) -> np.ndarray:
    """Return `rows.picture` with one number for all images that show the same in other bytes."""
    several = _of_several(np.unique(rows.hash, return_inverse=True)[1], rows, COPIES_OF)
    different, places = np.unique(rows.picture, return_index=True)
    same_as = np.arange(len(different))
    places = places[several[places]]
    files = sorted((folder / "parts").glob("[0-9]*"))

    def thumbnail(place: int) -> np.ndarray:
        part, number = rows.place[place].tolist()
        stored = StoredPicture(files[part] / "pictures.arrow", number, "", "", 0, (0, 0))
        image = load_picture(stored.as_record(), least=(2 * THUMBNAIL, 2 * THUMBNAIL))
        return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).astype(np.int16)

    places = places[np.argsort(rows.hash[places], kind="stable")]
    for alike in np.split(places, np.nonzero(np.diff(rows.hash[places]))[0] + 1) if len(places) else ():
        kept: list[tuple[int, np.ndarray]] = []
        for place in alike.tolist() if len(alike) > 1 else ():
            seen = thumbnail(place)
            same = next((one for one, other in kept if np.abs(seen - other).mean() <= THUMBNAIL_DIFFERENCE), None)
            if same is None:
                kept.append((place, seen))
            else:
                same_as[rows.picture[place]] = rows.picture[same]
    return same_as[rows.picture]


Likeness = tuple[str | None, tuple[str, ...], frozenset[str], frozenset[str]]


def _likeness(record: dict) -> Likeness:
    """Return parent, category, the title's words, and those that do not only tell variants apart."""
    words = frozenset(WORD.findall(record["title"].casefold()))
    own = {
        word
        for attribute in record["attributes"]
        if VARIES.search(attribute["name"])
        for word in WORD.findall(attribute["value"].casefold())
    }
    rest = frozenset(word for word in words - own - COLOURS if not SIZE.fullmatch(word))
    return record["parent_id"], tuple(record["category"]), words, rest


def _alike(one: Likeness, other: Likeness) -> bool:
    """Tell whether two rows with one image are variants of one product."""
    if one[0] is not None and one[0] == other[0]:
        return True
    if one[1] and other[1] and one[1] != other[1]:
        return False
    if one[3] and one[3] == other[3]:
        return True
    return len(one[2] & other[2]) >= COMMON_WORDS * max(len(one[2]), len(other[2]))


# --- groups and splits ---


def assign(
    rows: Rows, is_shared: np.ndarray, kept: np.ndarray, seed: int, shares: Sequence[float]
) -> tuple[pa.StringArray, pa.StringArray, list[dict]]:
    """Return the group and the split of each row, and the largest groups: {"group_id", "rows", "reason"}.

    A group that is made here is named by the id of its first row. It keeps its split when the catalogue grows, unless
    too few groups were there to give every split what it needs by chance.
    """
    titled = rows.groups.is_null().to_numpy(zero_copy_only=False)
    links = ~is_shared & _of_several(rows.picture, rows)
    component = _components(rows, links & titled[rows.row])
    first = _first_rows(component, kept)[component]
    groups = pc.coalesce(rows.groups, rows.ids.take(pa.array(np.where(first < 0, np.arange(len(first)), first))))
    bundle = _components(rows, links)
    first = _first_rows(bundle, kept)
    splits = np.full(len(first), -1, np.int8)  # of bundles
    said = kept & (rows.splits >= 0)
    splits[bundle[said]] = rows.splits[said]
    is_made = (first >= 0) & (splits < 0)
    ends = np.cumsum(shares) / sum(shares)

    def drawn(*key: object, place: int) -> int:
        return seed_for(seed, *key, groups[int(first[place])].as_py())

    for place in np.flatnonzero(is_made).tolist():
        splits[place] = np.searchsorted(ends[:-1], drawn("split", place=place) / 2**63, side="right")
    _fill(splits, is_made, drawn, dict(zip(SPLITS, shares, strict=True)))
    splits = np.where(rows.splits >= 0, rows.splits, np.maximum(splits, 0)[bundle])
    return groups, pa.array(SPLITS).take(pa.array(splits)), _largest(rows, component, kept, groups)


def _first_rows(labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the first kept row of each label, -1 where it has none."""
    numbers, first = np.flatnonzero(kept), np.full(int(labels.max()) + 1, -1, np.int32)
    first[labels[numbers[::-1]]] = numbers[::-1]
    return first


def _components(rows: Rows, links: np.ndarray) -> np.ndarray:
    """Return for each row the number of its base, joined with those that share one of the images `links`."""
    if not links.any():
        return rows.bases
    bases, (_, pictures) = rows.bases[rows.row[links]], np.unique(rows.picture[links], return_inverse=True)
    size = int(rows.bases.max()) + 1 + int(pictures.max()) + 1
    pictures = pictures + int(rows.bases.max()) + 1
    graph = coo_array((np.ones(len(bases), dtype=np.int8), (bases, pictures)), shape=(size, size))
    return connected_components(graph, directed=False)[1][rows.bases]


def _fill(splits: np.ndarray, is_made: np.ndarray, drawn: Callable[..., int], shares: dict[str, float]) -> None:
    """Move bundles whose split was made here to splits that chance left without what they need."""

    def counted(chosen: np.ndarray) -> Counter:
        return Counter(dict(zip(SPLITS, np.bincount(chosen, minlength=len(SPLITS)).tolist(), strict=True)))

    have = counted(splits[splits >= 0])

    def move(source: str, target: str) -> None:
        places = np.flatnonzero(is_made & (splits == SPLITS.index(source))).tolist()
        chosen = min(places, key=lambda place: drawn("fill", target, place=place))
        splits[chosen] = SPLITS.index(target)
        have.subtract({source: 1, target: -1})

    for target in (split for split in NEEDED if shares[split] > 0):
        while have[target] < NEEDED[target]:
            movable = counted(splits[is_made])
            spare = {split: min(have[split] - NEEDED[split] * (shares[split] > 0), movable[split]) for split in SPLITS}
            if target != "validation" and max(spare.values()) < 1:  # which a small catalogue can do without
                spare["validation"] = movable["validation"]
            source = max((split for split in SPLITS if split != target), key=lambda split: spare[split])
            if spare[source] < 1:
                break
            move(source, target)
    if have["validation"] == 1 and counted(splits[is_made])["validation"] and have["train"]:
        move("validation", "train")  # a single one has no negative


def _largest(rows: Rows, component: np.ndarray, kept: np.ndarray, groups: pa.StringArray) -> list[dict]:
    found, first, counts = np.unique(component[kept], return_index=True, return_counts=True)
    numbers = np.nonzero(kept)[0]
    largest = []
    for place in np.argsort(-counts, kind="stable")[:3]:
        if counts[place] > 1:
            number = int(numbers[first[place]])
            one_base = len(np.unique(rows.bases[kept & (component == found[place])])) == 1
            reason = "the same title" if one_base else "nearly the same title and the same image"
            reason = "given by the source" if rows.groups[number].is_valid else reason
            largest.append({"group_id": groups[number].as_py(), "rows": int(counts[place]), "reason": reason})
    return largest
