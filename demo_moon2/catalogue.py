"""The catalogue that the page searches: products, their vectors from the evaluation's cache, exact search.

A search goes by vectors, by the words of the titles, or by both. Both needs weights: given ones, or those that the data
set's validation triplets tell.
"""

from base64 import b64encode
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from common_moon2.cli import UserError
from evaluation.arguments import Options
from evaluation.measure.attention import read_photo
from evaluation.measure.hybrid import fit_fusion
from evaluation.models.bm25 import tokens
from evaluation.models.encoders import Encoder
from evaluation.tables.benchmark import load_corpus
from evaluation.tables.products import Products, ProductView
from evaluation.vectors.catalogue import DEFAULT_CACHE, VectorCache
from evaluation.vectors.hybrid import WORDS_ALONE, Fusion, HybridSearch, Weight, WordedCorpus
from evaluation.vectors.nearest import ExactSearch
from evaluation.vectors.store import Vectors

VECTORS, WORDS, BOTH = "Vectors", "Words", "Vectors and words"
# In the order in which a product gets one: its richest view.
VIEWS = ("mm", "t", "i")
THUMBNAIL = 256  # pixels of the longer side; cards are at most half as wide on screens of usual density
KEPT = 512  # encoded thumbnails, some 10 kB each


class Found(NamedTuple):
    """The products of a search, as (row, score), best first, and what the words of the query counted, 0 to 1."""

    products: list[tuple[int, float]]
    weight: float


class Catalogue:
    """N products, each in its richest view (title and image, or what it has), ready to be searched.

    Args:
        fusion: the weights of vectors and words.

    Attributes:
        products: the corpus of the data set; rows below are its rows.
        view: row -> "mm", "t" or "i".
        left_out: how many products have neither title nor image.
        ways: the ways to search, of `VECTORS`, `WORDS` and `BOTH`; the first is the usual one.
    """

    def __init__(self, products: Products, vectors: np.ndarray, view: dict[int, str], fusion: Fusion | None = None):
        self.products, self.view = products, view
        self.left_out = len(products) - len(view)
        self._rows = np.array(list(view))
        found = Vectors(vectors, [products.ids[row] for row in view], "the catalogue")
        self._search, self._fusion, self._worded, self.ways = ExactSearch(found, threads=1), fusion, None, [VECTORS]
        titles = [products.texts[row] for row in view]
        if any(tokens(title) for title in titles if title):
            self._worded = WordedCorpus(found, titles)
            self.ways = [*([BOTH] if fusion and fusion.weights else []), VECTORS, WORDS]
        self.thumbnail = lru_cache(KEPT)(self._thumbnail)

    def __len__(self) -> int:
        return len(self.view)

    def title(self, row: int) -> str | None:
        """Return the title; `None` where there is none."""
        return self.products.texts[row]

    def photo(self, row: int) -> Image.Image | None:
        """Return the upright RGB image in full size; `None` where there is none.

        Raises:
            UserError: it cannot be read.
        """
        return None if self.view[row] == "t" else read_photo(self.products.product(row, "i")["image"])

    def _thumbnail(self, row: int) -> str | None:
        """Return the image encoded anew, to be put into the page itself, so that no file is served."""
        photo = self.photo(row)
        return None if photo is None else data_address(photo, THUMBNAIL)

    def search(self, vector: np.ndarray, k: int, way: str = VECTORS, text: str | None = None, view: str = "t") -> Found:
        """Return the k best products, or all. Without a word that a title has, vectors decide in any case.

        Args:
            vector: (D,), L2-normalised.
            way: one of `ways`.
            text: the query's.
            view: of the query, "t", "i" or "mm".

        Raises:
            UserError: there is no such way.
        """
        if way not in self.ways:
            raise UserError(f"There is no way {way!r} to search, but {', '.join(self.ways)}.")
        asked, weight, engine = Vectors(vector[None], ["query"], "the query"), 0.0, self._search
        if way != VECTORS and text:
            own: Weight | None = WORDS_ALONE if way == WORDS else self._fusion.weights.get(f"{view}2mm")
            engine = HybridSearch(self._worded, [text], [own], threads=1)
            weight = float(engine.weights[0])
        hits = engine.search(asked, min(k, len(self)))
        rows = [(int(self._rows[row]), float(score)) for row, score in zip(hits.rows[0], hits.scores[0], strict=True)]
        return Found(rows, weight)


def open_catalogue(
    dataset: str,
    encoder: Encoder,
    revision: str | None = None,
    cache: Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
    fusion: Fusion | None = None,
) -> Catalogue:
    """Load the corpus of an MBE2.0-format data set, and embed what the evaluation's cache has not.

    Args:
        dataset: folder or Hub id.
        cache: folder of the cache; by default the one that `python -m evaluation` uses.
        batch_size, workers: see `Encoder.encode`.
        fusion: weights of vectors and words; left out: fitted on the data set's validation triplets, if it has any.

    Raises:
        UserError: the data set or an image cannot be read, or no product has a title or an image.
    """
    products = load_corpus(dataset, revision)
    vectors = VectorCache(cache or DEFAULT_CACHE)
    view: dict[int, str] = {}
    parts = []
    for name in VIEWS:
        rows = [row for row in products.rows(name) if row not in view]
        view |= dict.fromkeys(rows, name)
        if rows:
            items = ProductView(products, name, rows)
            parts.append(
                vectors.embed(encoder, items, name, batch_size=batch_size, workers=workers, description="catalogue")
            )
    if not parts:
        raise UserError(f"No product of {dataset} has a title or an image.")
    if fusion is None:
        fusion = fit_fusion(encoder, dataset, revision, products, vectors, Options(batch_size=batch_size))
    return Catalogue(products, torch.cat(parts).numpy(), view, fusion)


def data_address(picture: Image.Image, longest: int, quality: int = 82) -> str:
    """Return a JPEG of at most `longest` pixels a side as a data: address."""
    picture = picture.copy()
    picture.thumbnail((longest, longest))
    encoded = BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{b64encode(encoded.getvalue()).decode()}"
