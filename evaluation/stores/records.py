"""What a store gets of a product, and what it is asked: the same for every store.

    id          the product's
    version     of all that follows; by it an update tells what has changed
    vector      D numbers, L2-normalised
    text, words the product's text, and its words (`evaluation.models.bm25.tokens`) with spaces between, so that a store
                that splits at spaces also finds Chinese
    terms       a sparse vector of the words, whose product with that of a query is BM25
    ...         the columns that `embed --keep` has kept

A word's place in `terms` is a hash of it: a new product needs no vocabulary. Products have that part of BM25 that does
not depend on the others, with the mean length of a text at the time; how rare a word is comes with the query.
"""

import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from common_moon2.cli import UserError
from evaluation.models.bm25 import K1, B, Bm25, tokens
from evaluation.tables.details import RESERVED, Filter
from evaluation.vectors.hybrid import Weight, features_of
from evaluation.vectors.store import open_vectors, read_beside, read_blocks

BATCH = 1024
TERMS = 10**9  # places of words: the most that pgvector has
CANDIDATES = 200  # best of vectors, and as many of words, that a store looks at before they are taken together
MEAN_LENGTH = 8.0  # words of a text, where there are none to count


class Records(NamedTuple):
    """Products of a folder of vectors: N ids, versions, (N, D) float32 vectors, and what is kept beside them.

    `texts` is `None` for vectors from a file, which have neither texts nor columns.
    """

    ids: list[str]
    versions: list[str]
    vectors: np.ndarray
    texts: list[str] | None
    details: pa.Table


class Sparse(NamedTuple):
    """A sparse vector: places from 0 to `TERMS` - 1, in ascending order, and their values."""

    places: list[int]
    values: list[float]


class Asked(NamedTuple):
    """A query: its vector (D,), its words as one sparse vector, the words themselves, and how much they count.

    `mean_length` is that of the products' texts, in words.
    """

    vector: np.ndarray
    terms: Sparse = Sparse([], [])
    words: Sequence[str] = ()
    weight: float = 0.0
    mean_length: float = MEAN_LENGTH


class Source:
    """The products of a folder of vectors, or of an .npy file.

    Attributes:
        vectors: all of them.
        schema: of the kept columns.
        mean_length: words of a text.
    """

    def __init__(self, path: Path):
        self.vectors = open_vectors(path)
        self._beside = read_beside(path) if path.is_dir() and _has_texts(path) else None
        kept = [] if self._beside is None else [name for name in self._beside.column_names if name not in RESERVED]
        self.details = pa.table({}) if self._beside is None else self._beside.select(kept)
        self.texts = None if self._beside is None else self._beside["text"].to_pylist()
        self.mean_length = mean_length(self.texts or ())

    def __len__(self) -> int:
        return len(self.vectors)

    def records(self, start: int, stop: int) -> Records:
        """Return the products of some rows."""
        vectors = self.vectors.read(start, stop)
        details = self.details[start:stop]
        texts = None if self.texts is None else [text or "" for text in self.texts[start:stop]]
        beside = details.to_pylist() if details.num_columns else [{}] * len(vectors)
        rest = [json.dumps(told, sort_keys=True) for told in zip(texts or [""] * len(vectors), beside, strict=True)]
        versions = [
            hashlib.blake2b(row.tobytes() + told.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
            for row, told in zip(vectors, rest, strict=True)
        ]
        return Records(self.vectors.ids[start:stop].tolist(), versions, vectors, texts, details)

    def batches(self) -> Iterator[Records]:
        """Yield all products in batches."""
        for start in range(0, len(self), BATCH):
            yield self.records(start, min(start + BATCH, len(self)))

    def check(self) -> None:
        """Check that every vector is finite, which raises a `UserError` if not."""
        for _ in read_blocks(self.vectors):
            pass


def _has_texts(path: Path) -> bool:
    try:
        read_beside(path, ["text"])
    except UserError:
        return False
    return True


def mean_length(texts: Sequence[str | None]) -> float:
    """Return the mean number of words of texts; `MEAN_LENGTH` if there is no word."""
    return sum(len(tokens(text or "")) for text in texts) / max(1, len(texts)) or MEAN_LENGTH


def term_of(word: str) -> int:
    """Return the place of a word."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % TERMS


def sparse(weights: dict[str, float]) -> Sparse:
    """Return words and their weights as one sparse vector; words of one place are added."""
    places: dict[int, float] = {}
    for word, weight in weights.items():
        places[term_of(word)] = places.get(term_of(word), 0.0) + float(weight)
    return Sparse(*map(list, zip(*sorted(places.items()), strict=True))) if places else Sparse([], [])


def terms_of(text: str, mean_length: float) -> Sparse:
    """Return the words of a product: BM25 but for how rare each word is."""
    counts = Counter(tokens(text))
    norm = K1 * (1 - B + B * counts.total() / mean_length)
    return sparse({word: count * (K1 + 1) / (count + norm) for word, count in counts.items()})


class Asking:
    """Makes queries: how rare their words are, and how much they count.

    Args:
        texts: of the corpus.
        asked: the texts of all queries; `None` asks with vectors alone.
        weights: of each query.
    """

    def __init__(
        self, texts: Sequence[str | None], asked: Sequence[str | None] | None, weights: Sequence[Weight | None]
    ):
        self._asked = asked
        if asked is not None:
            self._bm25, self._mean_length = Bm25(texts), mean_length(texts)
            counts = self._bm25.queries(asked)
            features = features_of(self._bm25, counts, asked)
            self._bounds = self._bm25.bounds(counts)
            self._weights = [
                float(weight.of(row[None])[0]) if weight and bound > 0 else 0.0
                for weight, row, bound in zip(weights, features, self._bounds, strict=True)
            ]

    def __call__(self, number: int, vector: np.ndarray) -> Asked:
        """Return the query of a number with its vector."""
        if self._asked is None or not self._bounds[number]:
            return Asked(vector)
        known = Counter(word for word in tokens(self._asked[number] or "") if self._bm25.rareness(word))
        shares = {word: count * self._bm25.rareness(word) / self._bounds[number] for word, count in known.items()}
        return Asked(vector, sparse(shares), list(known), self._weights[number], self._mean_length)


class Store(ABC):
    """A table of products in a store; a context that closes it.

    Args:
        location, name: of the table.
        source: what it is to hold; `None` to ask only, which takes an `Engine`.
        update: whether the table may be there already.

    Raises:
        UserError: the library is not installed, or refuses the location or the name, or there is such a table and
            `update` is not given, or there is none to be asked.
    """

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return the version of every product that is there."""

    @abstractmethod
    def write(self, records: Records) -> None:
        """Add products, or replace those that are there."""

    @abstractmethod
    def delete(self, ids: list[str]) -> None:
        """Remove products."""

    @abstractmethod
    def finish(self, index: bool) -> None:
        """Bring the indexes up to date; `index` asks for an approximate one of the vectors."""

    def close(self) -> None:  # noqa: B027 (files have none)
        """Close the connection, where there is one."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Engine(Store):
    """A store that can be asked."""

    @abstractmethod
    def search(self, asked: Asked, filters: Sequence[Filter], k: int) -> list[tuple[str, float]]:
        """Return id and score of the k best, best first, by one query of the store."""
