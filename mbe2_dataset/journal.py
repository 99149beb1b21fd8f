"""Keeps what was made for each product, so that a stopped build goes on; says what of it is published."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbe2_dataset.catalogue.pictures import Picture
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.enrich import Enrichment
from mbe2_dataset.parallel import key_of
from mbe2_dataset.schema import provenance


@dataclass(frozen=True, slots=True)
class Result:
    """What an operation made of one product: `facts`, which JSON can hold, and images or vectors as bytes.

    A result that is not `final` (a server was down) serves this build; the next one tries again.
    """

    facts: dict
    blobs: tuple[bytes, ...] = ()
    final: bool = True


DIGEST = 16


def key_for(**parts: object) -> str:
    """Hash everything on which a result depends, as JSON, to 32 hexadecimal digits."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).hexdigest()


class Keys(Sequence[str]):
    """The keys of results, 16 bytes each."""

    def __init__(self, keys: Iterable[str] = ()):
        self.digests = bytearray()
        self.extend(keys)

    def extend(self, keys: Iterable[str]) -> None:
        """Add some at the end."""
        for key in keys:
            self.digests += bytes.fromhex(key)

    def __len__(self) -> int:
        return len(self.digests) // DIGEST

    def __getitem__(self, place):
        places = range(len(self))[place]
        if isinstance(places, int):
            return self.digests[DIGEST * places : DIGEST * (places + 1)].hex()
        return [self[one] for one in places]


class KeysById(Mapping[str, str]):
    """Id of a product -> the key of its result, 24 bytes each."""

    def __init__(self, ids: Iterable[str], keys: Keys):
        hashes = np.fromiter(map(key_of, ids), "u8", len(keys))
        order = np.argsort(hashes)
        self._hashes, self._digests = hashes[order], np.frombuffer(keys.digests, f"V{DIGEST}")[order]

    def __getitem__(self, name: str) -> str:
        place = int(np.searchsorted(self._hashes, np.uint64(key_of(name))))
        if place == len(self._hashes) or self._hashes[place] != key_of(name):
            raise KeyError(name)
        return self._digests[place].tobytes().hex()

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[str]:
        raise TypeError("the ids themselves are not kept")


class Journal:
    """Results by key, in an SQLite file. Entries are only added, each batch of them whole or not at all.

    A process that is killed loses nothing that was added before. One process writes; others may read meanwhile
    (`read_only`).
    """

    def __init__(self, path: Path, read_only: bool = False):
        self.path = path
        if read_only:
            self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=60)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, operation TEXT, facts TEXT, final INTEGER)"
        )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS blobs (key TEXT, number INTEGER, content BLOB, PRIMARY KEY (key, number))"
        )
        self._database.commit()

    def add(self, operation: str, results: Iterable[tuple[str, Result]]) -> None:
        """Write results and return when they are safe. A key keeps its first final result."""
        with self._database:
            for key, result in results:
                facts = json.dumps(result.facts, ensure_ascii=False)
                if self._database.execute("DELETE FROM results WHERE key = ? AND NOT final", (key,)).rowcount:
                    self._database.execute("DELETE FROM blobs WHERE key = ?", (key,))
                row = (key, operation, facts, result.final)
                if self._database.execute("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)", row).rowcount:
                    rows = [(key, number, content) for number, content in enumerate(result.blobs)]
                    self._database.executemany("INSERT INTO blobs VALUES (?, ?, ?)", rows)

    def known(self, keys: Iterable[str]) -> set[str]:
        """Return those of the keys that have a final result."""
        query = "SELECT key FROM results WHERE final AND key IN (SELECT value FROM json_each(?))"
        return {key for (key,) in self._database.execute(query, (json.dumps(list(keys)),))}

    def facts(self, key: str) -> dict:
        """Return the facts of a result, without its blobs.

        Raises:
            KeyError: there is none.
        """
        row = self._database.execute("SELECT facts FROM results WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return json.loads(row[0])

    def result(self, key: str) -> Result:
        """Return the whole result.

        Raises:
            KeyError: there is none.
        """
        blobs = self._database.execute("SELECT content FROM blobs WHERE key = ? ORDER BY number", (key,))
        return Result(self.facts(key), tuple(content for (content,) in blobs), self.known([key]) == {key})

    def close(self) -> None:
        """Close the file."""
        self._database.close()


@lru_cache(maxsize=4)
def open_journal(path: Path) -> Journal:
    """Open the journal for reading, once in each process."""
    return Journal(path, read_only=True)


TITLE, VIEWS, SCORES = "enriched title", "views", "consistency"
MAKER = ("model", "revision", "prompt_version")


class Scores(NamedTuple):
    """Cosine similarities of a product's images and titles; None where one was not made."""

    original: float
    title: float | None
    views: list[float | None]


class Augmented(NamedTuple):
    """The co-augmented fields of a product as they are published. `title` is None if there is none to publish."""

    title: str | None
    images: list[Picture]
    provenance: list[dict]


@dataclass(frozen=True)
class Made:
    """Reads from the journal what was made of each product, and applies the consistency threshold.

    Args:
        journal: its file.
        keys: name of the operation -> id of the product -> key of its result.
        cuts: name of the field ("title" or "views") -> the least score that is kept; without scores, none.
        scorer: name of the model that scored.
    """

    journal: Path
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cuts: Mapping[str, float] = field(default_factory=dict)
    scorer: str = ""

    def only(self, ids: Iterable[str]) -> "Made":
        """Return the same for these products only, which is small enough to be sent to another process."""
        keys = {name: {one: of[one] for one in ids if one in of} for name, of in self.keys.items()}
        return Made(self.journal, keys, self.cuts, self.scorer)

    def _facts(self, name: str, row: Row) -> dict | None:
        key = self.keys.get(name, {}).get(row.id)
        return None if key is None else open_journal(self.journal).facts(key)

    def title(self, row: Row) -> Enrichment | None:
        """Return the enriched title and how it came about; None if none was asked for."""
        facts = self._facts(TITLE, row)
        return None if facts is None else Enrichment.from_dict(facts)

    def view_facts(self, row: Row) -> list[dict]:
        """Return what the journal says of each changed view."""
        return (self._facts(VIEWS, row) or {"views": []})["views"]

    def views(self, row: Row) -> dict[int, Picture]:
        """Return the images that were made, by their place among the views."""
        key = self.keys.get(VIEWS, {}).get(row.id)
        if key is None:
            return {}
        result = open_journal(self.journal).result(key)
        made = [(place, view) for place, view in enumerate(result.facts["views"]) if view["sha256"]]
        return {
            place: Picture(content, view["path"]) for (place, view), content in zip(made, result.blobs, strict=True)
        }

    def scores(self, row: Row) -> Scores | None:
        """Return the consistency scores; None if no model scored."""
        facts = self._facts(SCORES, row)
        return None if facts is None else Scores(**facts)

    def __call__(self, row: Row) -> Augmented:
        """Return what is published of a product, and how it came about."""
        scores = self.scores(row)
        title, records = None, []
        enrichment = self.title(row)
        if enrichment is not None:
            score = scores.title if scores else None
            kept, reason = self._verdict("title", enrichment.kept, enrichment.reason, score)
            title = enrichment.title if kept else None
            facts = {"added": list(enrichment.added)}
            if not kept and enrichment.draft:
                facts["draft"] = enrichment.draft
            told = {name: getattr(enrichment, name) for name in MAKER} | {"kept": kept, "reason": reason}
            records.append(provenance("enriched_title", row.id, "enrich_title", facts, consistency_score=score, **told))
        images = []
        pictures = self.views(row)
        for place, view in enumerate(self.view_facts(row)):
            score = scores.views[place] if scores else None
            kept, reason = self._verdict("views", view["kept"], view["reason"], score)
            name = f"augmented_images[{len(images)}]" if kept else "augmented_images"
            told = {name: view[name] for name in (*MAKER, "seed")} | {"kept": kept, "reason": reason}
            records.append(
                provenance(name, row.id, view["operation"], view["parameters"], consistency_score=score, **told)
            )
            if kept:
                images.append(pictures[place])
        return Augmented(title, images, records)

    def _verdict(self, name: str, kept: bool, reason: str, score: float | None) -> tuple[bool, str]:
        if kept and score is not None and name in self.cuts and not score >= self.cuts[name]:
            return False, f"consistency {score:.4f} is below {self.cuts[name]:.4f} ({self.scorer})"
        return kept, reason
