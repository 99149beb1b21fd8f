"""What a check found of every row and image, held in files: there may be millions."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common_moon2.parallel import in_processes
from mbe2_dataset.checks.rows import (
    EXAMPLES,
    LOOK,
    PICTURE,
    SIDE,
    Finding,
    Part,
    Scan,
    is_photo,
    look,
    place_of,
)

# Hashes that are sorted at a time.
BLOCK = 2**19


class Spill:
    """An array that grows, in a file of a temporary folder."""

    def __init__(self, folder: Path, kind: np.dtype):
        self._path, self._kind, self._count = folder / str(len(list(folder.iterdir()))), kind, 0
        self._path.touch()

    def __len__(self) -> int:
        return self._count

    def append(self, values: np.ndarray) -> None:
        """Write some at the end."""
        with open(self._path, "ab") as file:
            file.write(values.tobytes())
        self._count += len(values)

    @property
    def mapped(self) -> np.ndarray:
        """Return all that was written; nothing of it is in memory until it is read."""
        return np.memmap(self._path, self._kind, "r") if self._count else np.empty(0, self._kind)


def first_places(
    values: Sequence[np.ndarray], wanted: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the different hashes in some arrays, sorted, where each is first, and how often it occurs.

    A place counts on from one array to the next. Hashes are taken range by range, so that little memory is needed
    besides that of the result.

    Args:
        wanted: which of each array count; by default all.
    """
    found = [(np.empty(0, "u8"), np.empty(0, np.int64), np.empty(0, np.int64))]
    ranges = 1 + sum(map(len, values)) // BLOCK
    for number in range(ranges):
        parts, start = [], 0
        for place, one in enumerate(values):
            chosen = (one >= number * 2**64 // ranges) & (one <= (number + 1) * 2**64 // ranges - 1)
            chosen = np.flatnonzero(chosen if wanted is None else chosen & wanted[place])
            parts.append((one[chosen], chosen + start))
            start += len(one)
        hashes, places = map(np.concatenate, zip(*parts, strict=True))
        different, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        found.append((different, places[first], counts))
    return tuple(map(np.concatenate, zip(*found, strict=True)))


class Found:
    """What was found of all rows and images: in files that are mapped, since there may be millions.

    Attributes:
        rows: each part, with the number of its rows that were read.
        keys: (config, split, column) -> hashes of the column's values.
        pictures: of PICTURE, by parts; `ends` counts those up to the end of each part.
        sides, looks: of SIDE and LOOK, one for each different image or photo.
    """

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.rows: list[tuple[Part, int]] = []
        self.keys: dict[tuple[str, str, str], Spill] = {}
        self.ends: list[int] = []
        self.pictures, self.sides, self.looks = (Spill(scratch, kind) for kind in (PICTURE, SIDE, LOOK))
        self._problems: dict[tuple[str, ...], list] = {}
        self._counts: dict[str, Counter] = {}

    def add(self, scan: Scan) -> None:
        """Take over what was found of the next part."""
        self.rows.append((scan.part, scan.rows))
        for name, values in scan.keys.items():
            key = scan.part.config, scan.part.split, name
            self.keys.setdefault(key, Spill(self.scratch, np.dtype("u8"))).append(values)
        self.pictures.append(scan.pictures)
        self.ends.append(len(self.pictures))
        self._add_problems(scan)
        for name, counter in scan.counts.items():
            self._counts.setdefault(name, Counter()).update(counter)

    def _add_problems(self, scan: Scan) -> None:
        for (level, check, message), (number, examples) in scan.problems.items():
            entry = self._problems.setdefault((level, check, message, scan.part.where), [0, []])
            entry[0] += number
            entry[1] += examples[: EXAMPLES - len(entry[1])]

    def parts(self) -> Iterator[tuple[Part, slice]]:
        """Yield each part with the places of its images."""
        starts = [0, *self.ends[:-1]]
        yield from ((part, slice(*ends)) for (part, _), *ends in zip(self.rows, starts, self.ends, strict=True))

    def photos(self) -> np.ndarray:
        """Tell which of all images are not of lists of augmented ones."""
        columns, photos = self.pictures.mapped["column"], np.empty(len(self.pictures), bool)
        for part, places in self.parts():
            photos[places] = is_photo(part.config, columns[places])
        return photos

    def look(self, num_proc: int) -> None:
        """Decode every different image once; those that cannot be decoded become problems and have no look."""
        pictures = self.pictures.mapped
        # Of bytes that are a photo anywhere, it is the look of a photo that is wanted.
        shas, chosen, _ = first_places([pictures["sha"]])
        known, first, _ = first_places([pictures["sha"]], [self.photos()])
        chosen[np.searchsorted(shas, known)] = first
        chosen.sort()
        tasks = (
            (part, pictures[chosen[np.searchsorted(chosen, places.start) : np.searchsorted(chosen, places.stop)]])
            for part, places in self.parts()
        )
        faults: dict[int, str] = {}
        count = min(num_proc, max(1, len(self.rows)))
        with tqdm(total=len(chosen), desc="decode", unit="image") as bar:
            for sides, looks, wrong in in_processes(look, (task for task in tasks if len(task[1])), count):
                self.sides.append(sides)
                self.looks.append(looks)
                faults |= wrong
                bar.update(len(sides) + len(wrong))
        if faults:
            self._leave_out(faults)

    def _leave_out(self, faults: dict[int, str]) -> None:
        """Make problems of images that cannot be decoded, which are left out from here on."""
        pictures, kept, ends = self.pictures.mapped, Spill(self.scratch, PICTURE), []
        for part, places in self.parts():
            own, broken = pictures[places], Scan(part)
            is_broken = np.isin(own["sha"], list(faults))
            for sha, _, _, *where in own[is_broken].tolist():
                example = f"{place_of(part, *where)}: {faults[sha]}"
                broken.add("error", "pictures", "images cannot be decoded", example)
            self._add_problems(broken)
            kept.append(own[~is_broken])
            ends.append(len(kept))
        self.pictures, self.ends = kept, ends

    def findings(self) -> list[Finding]:
        """Return what is wrong with single rows and images."""
        return [Finding(*key, number, tuple(examples)) for key, (number, examples) in self._problems.items()]

    def counted(self) -> tuple[dict[str, dict], dict[str, int]]:
        """Return what was counted -> value -> how often, and how many images were decoded, and different ones."""
        sides, counter = self.sides.mapped, Counter()
        order = np.argsort(sides["sha"])
        shas, lengths, seen = sides["sha"][order], sides["side"][order], self.pictures.mapped["sha"]
        for _, places in self.parts():
            counter.update(lengths[np.searchsorted(shas, seen[places])].tolist())
        counts = self._counts | {"longest side of images in pixels": counter}
        counts = {name: dict(sorted(counter.items())) for name, counter in sorted(counts.items())}
        return counts, {"decoded": len(seen), "different": len(sides)}
