"""Fast inner products of rounded vectors, with a bound of how far they are from the true ones.

A bound holds for every pair: it follows from the norms of the vectors and of what rounding took from them
(Cauchy-Schwarz), not from statistics. With q = q' + e and c = c' + f, where q' and c' are the rounded vectors,
|q.c - q'.c'| <= |e| |c| + |q'| |f|.
"""

import time
from typing import NamedTuple

import numpy as np
import torch

from evaluation.vectors.store import Vectors, read_blocks

# Corpus rows of one product: with some hundred queries, the result stays in the processor's cache.
BLOCK = 2048
# What the sums that are taken as true lose: float64 sums, rounded once to float32.
TRUE_ERROR = 2.0**-22
BFLOAT16_ERROR = 2.0**-8


class Queries(NamedTuple):
    """Rounded queries.

    Attributes:
        codes: (Q, D) in the type that is multiplied; units: (Q,) what a code of 1 stands for.
        norms: (Q,) of the true vectors; lost: (Q,) norms of what rounding took.
    """

    codes: torch.Tensor
    units: np.ndarray
    norms: np.ndarray
    lost: np.ndarray


class Coarse:
    """A corpus in blocks of `BLOCK` rows, each in the type that is multiplied.

    Attributes:
        order: (N,) the corpus row at each place of the blocks.
        relative: the rounding of a product itself, as a share of it.
    """

    relative = 0.0

    def __init__(self, vectors: Vectors):
        count = len(vectors)
        self.blocks = -(-count // BLOCK)
        self.order = np.arange(count)
        self.units, self.norms, self.lost = np.ones(self.blocks), np.zeros(self.blocks), np.zeros(self.blocks)
        # float32 sums of D products, in any order
        self.sum_error = 2.0**-24 * (vectors.dimension + 2)

    def rows(self, block: int) -> np.ndarray:
        """The corpus rows of a block."""
        return self.order[block * BLOCK : (block + 1) * BLOCK]

    def unit(self, queries: Queries, block: int) -> np.ndarray:
        """(Q,) true product = product * unit +- (error + relative * |product * unit|)."""
        return queries.units * self.units[block]

    def error(self, queries: Queries, block: int) -> np.ndarray:
        """(Q,) the bound, without what is relative."""
        rounded = queries.norms + queries.lost
        error = queries.lost * self.norms[block] + rounded * self.lost[block]
        return error + (self.sum_error + TRUE_ERROR) * rounded * (self.norms[block] + self.lost[block])

    def _note(self, blocks: np.ndarray, norms: np.ndarray, lost: np.ndarray) -> None:
        np.maximum.at(self.norms, blocks, norms)
        np.maximum.at(self.lost, blocks, lost)


class Int8(Coarse):
    """Vectors as multiples of 1/127 of their largest component; products are exact integers.

    Rows of similar largest component share a block and its unit, so that a block needs one threshold a query.
    """

    def __init__(self, vectors: Vectors):
        super().__init__(vectors)
        self.sum_error = 0.0
        largest = np.concatenate([np.abs(block).max(1) for _, block in read_blocks(vectors)])
        self.order = np.argsort(largest, kind="stable")
        self.units = np.maximum(np.maximum.reduceat(largest[self.order], _starts(len(vectors))), 1e-30) / 127.0
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(place))
        codes = np.empty((len(vectors), vectors.dimension), np.int8)
        for start, block in read_blocks(vectors):
            places = place[start : start + len(block)]
            units = self.units[places // BLOCK]
            rounded = np.rint(block / units[:, None].astype(np.float32)).clip(-127, 127)
            codes[places] = rounded
            lost = np.linalg.norm(block - rounded * units[:, None], axis=1)
            self._note(places // BLOCK, np.linalg.norm(block.astype(np.float64), axis=1), lost)
        self.codes = torch.from_numpy(codes)

    def prepare(self, queries: np.ndarray) -> Queries:
        units = np.maximum(np.abs(queries).max(1), 1e-30) / 127.0
        rounded = np.rint(queries / units[:, None]).clip(-127, 127)
        lost = np.linalg.norm(queries - rounded * units[:, None], axis=1)
        return Queries(torch.from_numpy(rounded.astype(np.int8)), units, _norms(queries), lost)

    def product(self, queries: Queries, block: int) -> torch.Tensor:
        return torch._int_mm(queries.codes, self.codes[block * BLOCK : (block + 1) * BLOCK].T)


class Bfloat16(Coarse):
    """Vectors and products rounded to bfloat16, sums in float32."""

    relative = BFLOAT16_ERROR / (1 - BFLOAT16_ERROR)

    def __init__(self, vectors: Vectors):
        super().__init__(vectors)
        self.codes = torch.empty(len(vectors), vectors.dimension, dtype=torch.bfloat16)
        for start, block in read_blocks(vectors):
            exact = torch.from_numpy(block)
            self.codes[start : start + len(block)] = exact.bfloat16()
            lost = torch.linalg.norm((exact - exact.bfloat16().float()).double(), dim=1).numpy()
            self._note(np.arange(start, start + len(block)) // BLOCK, _norms(block), lost)

    def prepare(self, queries: np.ndarray) -> Queries:
        exact = torch.from_numpy(queries)
        codes = exact.bfloat16()
        lost = torch.linalg.norm((exact - codes.float()).double(), dim=1).numpy()
        return Queries(codes, np.ones(len(queries)), _norms(queries), lost)

    def product(self, queries: Queries, block: int) -> torch.Tensor:
        return queries.codes @ self.codes[block * BLOCK : (block + 1) * BLOCK].T


class Float32(Coarse):
    """The vectors as they are: only the order of float32 sums is uncertain."""

    def __init__(self, vectors: Vectors):
        super().__init__(vectors)
        self.vectors = vectors
        for start, block in read_blocks(vectors):
            self._note(np.arange(start, start + len(block)) // BLOCK, _norms(block), np.zeros(len(block)))

    def prepare(self, queries: np.ndarray) -> Queries:
        return Queries(torch.from_numpy(queries), np.ones(len(queries)), _norms(queries), np.zeros(len(queries)))

    def product(self, queries: Queries, block: int) -> torch.Tensor:
        stop = min((block + 1) * BLOCK, len(self.vectors))
        return queries.codes @ torch.from_numpy(self.vectors.read(block * BLOCK, stop)).T


PRECISIONS = {"int8": Int8, "bfloat16": Bfloat16, "float32": Float32}


def fastest_first(dimension: int) -> list[str]:
    """The precisions in the order in which this processor multiplies them.

    Measured (some 50 ms), as what a processor can do says little of what the library in use does with it. int8 is left
    out if its products are wrong: some processors saturate at 16 bits.
    """
    codes = torch.full((256, dimension), 127, dtype=torch.int8)
    codes[:, ::3] = -127
    right = torch._int_mm(codes, codes.T)
    # A saturated sum differs already at two products of 127 x 127.
    usable = list(PRECISIONS) if bool((right == 127**2 * dimension).all()) else ["bfloat16", "float32"]
    types = {"int8": torch.int8, "bfloat16": torch.bfloat16, "float32": torch.float32}

    def seconds(name: str) -> float:
        left, right = (torch.ones(rows, dimension, dtype=types[name]) for rows in (256, BLOCK))
        multiply = torch._int_mm if name == "int8" else torch.mm
        start = time.perf_counter()
        multiply(left, right.T)
        return time.perf_counter() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as it will be used, each thread with queries of its own
    try:
        # In turn, so that a slow moment of the machine hits all; the first round is slow everywhere.
        rounds = [{name: seconds(name) for name in usable} for _ in range(9)]
    finally:
        torch.set_num_threads(threads)
    return sorted(usable, key=lambda name: min(times[name] for times in rounds))


def _norms(block: np.ndarray) -> np.ndarray:
    return np.linalg.norm(block.astype(np.float64), axis=1)


def _starts(count: int) -> np.ndarray:
    return np.arange(0, count, BLOCK)
