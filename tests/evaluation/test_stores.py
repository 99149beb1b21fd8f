"""LanceDB and Qdrant give back what exact search finds."""

import numpy as np
import pytest

from common_moon2.cli import UserError
from evaluation.vectors.export import to_lancedb, to_qdrant
from evaluation.vectors.nearest import ExactSearch
from evaluation.vectors.store import Vectors


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
    searches = [table.search(query).distance_type("cosine").limit(5).to_list() for query in vectors.array[:10]]
    agrees([[(row["id"], 1 - row["_distance"]) for row in rows] for rows in searches], vectors)
    with pytest.raises(UserError, match="has a table 'products' already"):
        to_lancedb(vectors, tmp_path / "db", "products")


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_qdrant(vectors, tmp_path):
    qdrant_client = pytest.importorskip("qdrant_client")
    to_qdrant(vectors, str(tmp_path / "db"), "products").close()
    client = qdrant_client.QdrantClient(path=str(tmp_path / "db"))
    assert client.count("products").count == 1100
    searches = [client.query_points("products", query=query, limit=5).points for query in vectors.array[:10].tolist()]
    agrees([[(point.payload["id"], point.score) for point in points] for points in searches], vectors)
    client.close()
    with pytest.raises(UserError, match="has a collection 'products' already"):
        to_qdrant(vectors, str(tmp_path / "db"), "products")


def test_a_server_that_is_not_there(vectors):
    pytest.importorskip("qdrant_client")
    with pytest.raises(UserError, match="'products' cannot be written to Qdrant at http://127.0.0.1:9: "):
        to_qdrant(vectors, "http://127.0.0.1:9", "products")


@pytest.mark.parametrize(("module", "store"), [("lancedb", to_lancedb), ("qdrant_client", to_qdrant)])
def test_what_a_store_cannot_take_is_refused(vectors, tmp_path, monkeypatch, module, store):
    pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--location file is a file: give a folder"):
        store(vectors, "file", "products")
    for location in (":memory:", "memory://"):
        with pytest.raises(UserError, match="is memory, which ends with this command"):
            store(vectors, location, "products")
    wrong = Vectors(vectors.array.copy(), vectors.ids)
    wrong.array[1050, 3] = np.nan
    with pytest.raises(UserError, match="'p1050-红' .row 1050 of the array. is not finite"):
        store(wrong, "db", "products")
    assert not (tmp_path / "db").exists()
    with pytest.raises(UserError, match="'a/b' cannot be written to .* at db: .* name"):
        store(vectors, "db", "a/b")


def test_an_address_is_not_taken_for_a_folder(vectors, tmp_path, monkeypatch):
    pytest.importorskip("qdrant_client")
    pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="localhost:6333 would be a folder .* as in http://localhost:6333"):
        to_qdrant(vectors, "localhost:6333", "products")
    with pytest.raises(UserError, match="http://localhost:6333 is a web server; LanceDB is kept in a folder"):
        to_lancedb(vectors, "http://localhost:6333", "products")
    assert not any(tmp_path.iterdir())
