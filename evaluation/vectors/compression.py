"""Fewer dimensions and fewer bits against quality, by sentence-transformers' own functions (docs/vectors.md)."""

import numpy as np
import torch
from sentence_transformers import quantize_embeddings
from torch.nn.functional import normalize

from evaluation.errors import EvaluationError
from evaluation.measure.retrieval import Embedded, evaluate_retrieval
from evaluation.tables.benchmark import Benchmark

# precision: bits of a dimension
PRECISIONS = {"float32": 32, "int8": 8, "binary": 1}


def check_precisions(precisions: list[str]) -> None:
    """Raises an EvaluationError if one is unknown."""
    for precision in precisions:
        if precision not in PRECISIONS:
            raise EvaluationError(f"--precisions has {precision!r}; there are {', '.join(PRECISIONS)}.")


def check_dims(dims: list[int], dimension: int, name: str) -> None:
    """Raises an EvaluationError if the vectors are too short to be cut to one of `dims`."""
    for wanted in dims:
        if wanted > dimension:
            raise EvaluationError(f"--dims has {wanted}, but the vectors of {name} have {dimension} dimensions.")


def evaluate_compression(
    benchmark: Benchmark,
    queries: dict[str, Embedded],
    corpus: dict[str, Embedded],
    dims: list[int],
    precisions: list[str],
    by_group: bool = False,
    seed: int = 0,
) -> list[dict]:
    """`evaluate_retrieval` for every pair of a dimension and a precision.

    Dimensions are the first ones, made a unit vector again. int8: each dimension of the products' vectors is divided
    into 255 steps between its least and greatest value, the queries stay float32. binary: signs on both sides, compared
    by Hamming distance, without rescoring.

    Returns:
        Rows of `dimension`, `precision`, `bytes` (of a vector) and `retrieval`.
    """
    rows = []
    for dimension in dims:
        for precision in precisions:
            asked = {name: _embedded(part, dimension, precision, True) for name, part in queries.items()}
            found = {name: _embedded(part, dimension, precision, False) for name, part in corpus.items()}
            size = -(-dimension * PRECISIONS[precision] // 8)
            retrieval, _ = evaluate_retrieval(benchmark, asked, found, by_group, seed)
            rows.append({"dimension": dimension, "precision": precision, "bytes": size, "retrieval": retrieval})
    return rows


def compress(vectors: torch.Tensor, dimension: int, precision: str, is_query: bool = False) -> torch.Tensor:
    """(N, D) -> (N, dimension) float32, L2-normalised: what is left of the vectors, to be compared by cosine."""
    short = normalize(vectors[:, :dimension], dim=-1)
    if precision == "binary":
        bits = np.unpackbits(quantize_embeddings(short.numpy(), "ubinary"), axis=1, count=dimension)
        return normalize(torch.from_numpy(bits.astype(np.float32)) * 2 - 1, dim=-1)
    if precision == "int8" and not is_query:
        low, high = short.amin(0).numpy(), short.amax(0).numpy()
        small = quantize_embeddings(short.numpy(), "int8", ranges=np.stack([low, high]))
        restored = (small.astype(np.float32) + 128.5) * (high - low) / 255 + low
        return normalize(torch.from_numpy(restored.astype(np.float32)), dim=-1)
    return short


def _embedded(part: Embedded, dimension: int, precision: str, is_query: bool) -> Embedded:
    return Embedded(part.rows, compress(part.vectors, dimension, precision, is_query)) if part.rows else part
