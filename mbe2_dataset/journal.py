"""Keeps what was made for each product, so that a build that was stopped goes on where it was."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

# SQLite takes at most so many parameters in one statement, in the oldest versions.
_PARAMETERS = 900


@dataclass(frozen=True, slots=True)
class Result:
    """What an operation made of one product: `facts`, which JSON can hold, and pictures or vectors as bytes.

    A result that is not `final` (a server was down) serves this build; the next one tries again.
    """

    facts: dict
    blobs: tuple[bytes, ...] = ()
    final: bool = True


def key_for(**parts: object) -> str:
    """Hash everything on which a result depends, as JSON, to 32 hexadecimal digits."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
        found, keys = set(), list(keys)
        for start in range(0, len(keys), _PARAMETERS):
            part = keys[start : start + _PARAMETERS]
            marks = ",".join("?" * len(part))
            found.update(
                key
                for (key,) in self._database.execute(f"SELECT key FROM results WHERE final AND key IN ({marks})", part)
            )
        return found

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
