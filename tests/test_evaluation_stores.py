"""LanceDB and Qdrant give back what exact search finds."""

import numpy as np
import pytest

from evaluation.errors import EvaluationError
from evaluation.search import ExactSearch
from evaluation.stores import search_lancedb, search_qdrant, to_lancedb, to_qdrant
from evaluation.vectors import Vectors


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    array = np.random.default_rng(0).normal(size=(1100, 16)).astype(np.float32)  # more than one batch
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    return Vectors(array, [f"p{row}-红" for row in range(1100)])


def agrees(found: list[list[tuple[str, float]]], vectors: Vectors) -> None:
    exact = ExactSearch(vectors).search(vectors, 5, 0, 10)
    assert [[identifier for identifier, _ in hits] for hits in found] == vectors.ids[exact.rows].tolist()
    np.testing.assert_allclose([[score for _, score in hits] for hits in found], exact.scores, atol=1e-5)


def test_lancedb(vectors, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    to_lancedb(vectors, tmp_path / "db", "products")
    table = lancedb.connect(str(tmp_path / "db")).open_table("products")
    assert table.count_rows() == 1100
    agrees(search_lancedb(table, vectors.array[:10], 5), vectors)
    with pytest.raises(EvaluationError, match="has a table 'products' already"):
        to_lancedb(vectors, tmp_path / "db", "products")


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_qdrant(vectors, tmp_path):
    qdrant_client = pytest.importorskip("qdrant_client")
    to_qdrant(vectors, str(tmp_path / "db"), "products").close()
    client = qdrant_client.QdrantClient(path=str(tmp_path / "db"))
    assert client.count("products").count == 1100
    agrees(search_qdrant(client, "products", vectors.array[:10], 5), vectors)
    client.close()
    with pytest.raises(EvaluationError, match="has a collection 'products' already"):
        to_qdrant(vectors, str(tmp_path / "db"), "products")


def test_a_server_that_is_not_there(vectors):
    pytest.importorskip("qdrant_client")
    with pytest.raises(EvaluationError, match="Qdrant at http://127.0.0.1:9 does not answer as it should"):
        to_qdrant(vectors, "http://127.0.0.1:9", "products")
