"""The table of hits: what it says, and that a search goes on where it was."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from common_moon2.cli import UserError
from conftest import same_bytes
from evaluation.__main__ import main
from evaluation.arguments import Search
from evaluation.vectors import search as hits
from evaluation.vectors.nearest import ExactSearch
from evaluation.vectors.store import open_vectors


def search_all(queries, corpus, k: int, output, part: int = hits.PART, **options) -> dict:
    return hits.search_all(Search(queries=queries, corpus=corpus, k=k, output=output, **options), part)


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    for name, count in (("queries", 50), ("corpus", 400)):
        np.save(tmp_path / f"{name}.npy", random.normal(size=(count, 8)).astype(np.float32))
    return tmp_path / "queries.npy", tmp_path / "corpus.npy"


def test_the_table_says_what_was_found(files, tmp_path):
    facts = search_all(*files, 3, tmp_path / "hits.parquet", part=20)
    rows = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    found = ExactSearch(open_vectors(files[1])).search(open_vectors(files[0]), 3)
    assert len(rows) == 150
    for number in (0, 77, 149):
        query, rank = divmod(number, 3)
        assert rows[number] == {
            "query-id": str(query),
            "corpus-id": str(found.rows[query, rank]),
            "rank": rank + 1,
            "score": float(found.scores[query, rank]),
        }
    assert json.loads((tmp_path / "hits.parquet.json").read_text()).items() <= facts.items() and facts["count"] == 50
    assert not (tmp_path / "hits.parquet.parts").exists()


def test_a_search_goes_on_where_it_was(files, tmp_path, monkeypatch):
    search_all(*files, 3, tmp_path / "whole.parquet", part=20)
    search, asked = ExactSearch.search, []
    monkeypatch.setattr(hits, "_table", stop_after(hits._table, 1))
    with pytest.raises(KeyboardInterrupt):
        search_all(*files, 3, tmp_path / "cut.parquet", part=20)
    monkeypatch.undo()
    monkeypatch.setattr(ExactSearch, "search", lambda *a: asked.append(a[3]) or search(*a))
    search_all(*files, 3, tmp_path / "cut.parquet", part=20)
    assert asked == [20, 40]
    assert same_bytes(tmp_path / "cut.parquet", tmp_path / "whole.parquet")


def stop_after(function, count):
    calls = []

    def wrapped(*arguments):
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(1)
        return function(*arguments)

    return wrapped


def test_parts_of_another_search_are_not_used(files, tmp_path, monkeypatch):
    monkeypatch.setattr(hits, "_table", stop_after(hits._table, 1))
    with pytest.raises(KeyboardInterrupt):
        search_all(*files, 3, tmp_path / "hits.parquet", part=20)
    monkeypatch.undo()
    with pytest.raises(UserError, match="parts of another search"):
        search_all(*files, 4, tmp_path / "hits.parquet", part=20)


def test_a_search_that_was_refused_takes_no_name(files, tmp_path):
    np.save(tmp_path / "narrow.npy", np.ones((2, 4), np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, 8), np.nan, np.float32))
    with pytest.raises(UserError, match="4 dimensions, those of .* 8"):
        search_all(tmp_path / "narrow.npy", files[1], 3, tmp_path / "hits.parquet")
    assert not (tmp_path / "hits.parquet.parts").exists()
    with pytest.raises(UserError, match="not finite"):
        search_all(tmp_path / "nan.npy", files[1], 3, tmp_path / "hits.parquet")
    assert search_all(*files, 3, tmp_path / "hits.parquet")["count"] == 50


def test_approximate_hits_say_so(files, tmp_path):
    pytest.importorskip("faiss")
    facts = search_all(*files, 3, tmp_path / "hits.parquet", engine="faiss-hnsw", threads=1)
    assert 0.9 < facts["recall"] <= 1 and facts["engine"] == "faiss-hnsw"
    assert "recall" not in search_all(*files, 3, tmp_path / "exact.parquet")


def test_approximate_hits_say_so_after_an_interruption(files, tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss")
    words = ["search", "--queries", str(files[0]), "--corpus", str(files[1]), "--engine", "faiss-hnsw"]
    words += ["--output", str(tmp_path / "hits.parquet")]
    monkeypatch.setattr(hits, "recall_of", stop_after(hits.recall_of, 0))
    assert main(words) == 130
    monkeypatch.undo()
    assert main(words) == 0
    assert 0.9 < json.loads((tmp_path / "hits.parquet.json").read_text())["recall"] <= 1
    assert "(approximate: " in capsys.readouterr().out
