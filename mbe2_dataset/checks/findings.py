"""One thing that a check found."""

from dataclasses import dataclass

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
