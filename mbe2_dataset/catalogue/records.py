"""What a source gives: raw products, or what is wrong with one of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Item:
    """One product as its source has it.

    `record` has the columns of schema.CATALOGUE and OPTIONAL; those that the source knows nothing of are left out.
    A picture is `{"bytes", "path"}`, `{"path"}` (a file below the source's folder) or `{"url"}`.
    """

    where: str
    record: dict


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something of a source cannot be used: one row, or only its picture `picture`."""

    where: str
    id: str | None
    reason: str
    picture: str | None = None


class Source(Protocol):
    """Products, in an order that is always the same.

    Attributes:
        name: for the card and for messages; no path of this machine.
        folder: where the files of pictures lie; None if the source has no such files.
    """

    name: str
    folder: Path | None

    def __iter__(self) -> Iterator[Item | Problem]: ...

    def fingerprint(self) -> str:
        """Changes when the files or the options of the source do."""
        ...
