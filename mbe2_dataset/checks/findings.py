"""The leakage gate: what is in one split must be in no other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from mbe2_dataset.catalogue.store import Row

LEVELS = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault in one place.

    Attributes:
        level: "error" (the data set is broken or unfair), "warning" (look at it) or "info".
        check: what was looked at: files, schema, nulls, ids, pictures, modality, provenance, qrels, leakage ...
        message: what is wrong, in the plural.
        where: a config, a split of one, or the splits that share something.
        count: how many.
        examples: the first few in words.
    """

    level: str
    check: str
    message: str
    where: str
    count: int
    examples: tuple[str, ...] = ()

    def sentence(self) -> str:
        shown = f": {'; '.join(self.examples)}" if self.examples else ""
        more = f"; and {self.count - len(self.examples):,} more" if 0 < len(self.examples) < self.count else ""
        return f"{self.where}: {self.count:,} {self.message}{shown}{more}."


SHOWN = 5


class LeakageError(ValueError):
    """Splits share a product, a group or a picture; the message names them."""


# What is compared: its kind ("product id", "group id" or "picture"), what is compared, and the name it is shown by.
Fact = tuple[str, str, str]


def check_leakage(splits: dict[str, Iterable[Fact]]) -> None:
    """Raise LeakageError if two splits share a fact."""
    facts = {split: {(kind, value): name for kind, value, name in found} for split, found in splits.items()}
    for first, second in combinations(facts, 2):
        shared = sorted(facts[first].keys() & facts[second].keys())
        if shared:
            names = [f"{kind} '{facts[first][kind, value]}'" for kind, value in shared[:SHOWN]]
            more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
            raise LeakageError(
                f"The splits '{first}' and '{second}' share {', '.join(names)}{more}: put whole groups, and rows with "
                f"the same picture, into one split (columns 'split' and 'group_id')."
            )


def catalogue_facts(rows: Iterable[Row]) -> Iterator[Fact]:
    """What the rows of one split must not share with another split."""
    for row in rows:
        yield "product id", row.id, row.id
        yield "group id", row.group_id, row.group_id
        for picture in row.images:
            yield "picture", picture.sha256, f"{picture.path} ({row.id})"
