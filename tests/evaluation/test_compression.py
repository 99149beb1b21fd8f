"""Fewer dimensions and bits, against what they are by definition."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import quantize_embeddings

from evaluation.measure.evaluate import compress, evaluate_compression
from evaluation.measure.retrieval import Embedded, similarity


def vectors(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def test_dimensions_are_the_first_ones_made_a_unit_vector_again():
    full = vectors(5, 12)
    expected = full[:, :5] / full[:, :5].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(compress(full, 5, "float32"), expected)


def test_int8_is_within_a_step_and_leaves_queries_alone():
    full = vectors(200, 16)
    found = compress(full, 16, "int8")
    step = (full.amax(0) - full.amin(0)) / 255
    assert ((found - full).abs() <= step).all()
    assert not torch.equal(found, full)
    torch.testing.assert_close(compress(full, 16, "int8", is_query=True), full)


@pytest.mark.parametrize("dimension", [16, 13])
def test_binary_ranks_by_hamming_distance(dimension):
    products, queries = vectors(50, 16, seed=1), vectors(7, 16, seed=2)
    scores = similarity(compress(queries, dimension, "binary", True), compress(products, dimension, "binary"))
    left, right = (quantize_embeddings(part[:, :dimension].numpy(), "ubinary") for part in (queries, products))
    distance = np.unpackbits(left[:, None] ^ right[None], axis=2).sum(axis=2)
    np.testing.assert_allclose(scores.numpy(), 1 - 2 * distance / dimension, atol=1e-6)


def test_every_pair_is_a_row_and_the_full_one_is_the_plain_search():
    benchmark = SimpleNamespace(
        candidates=[SimpleNamespace(ids=[f"p{row:02d}" for row in range(40)], groups=None)],
        relevant=[{row: 1} for row in range(40)],
        queries=SimpleNamespace(ids=[f"q{row:02d}" for row in range(40)]),
    )
    products = vectors(40, 32, seed=3)
    noisy = torch.nn.functional.normalize(products + 0.8 * vectors(40, 32, seed=4), dim=-1)
    everything = list(range(40))
    queries, corpus = {"text": Embedded(everything, noisy)}, {"mm": Embedded(everything, products)}
    rows = evaluate_compression(benchmark, queries, corpus, [32, 8], ["float32", "int8", "binary"])
    assert [(row["dimension"], row["precision"], row["bytes"]) for row in rows] == [
        (32, "float32", 128), (32, "int8", 32), (32, "binary", 4), (8, "float32", 32), (8, "int8", 8), (8, "binary", 1),
    ]  # fmt: skip
    quality = [row["retrieval"]["t2mm"]["metrics"]["mrr"] for row in rows]
    plain = [1 / (1 + (row > row[index]).sum().item()) for index, row in enumerate(similarity(noisy, products))]
    assert quality[0] == pytest.approx(np.mean(plain))
    assert abs(quality[1] - quality[0]) < 0.02
    assert quality[0] > quality[2] > quality[5]
    assert quality[0] > quality[3]
