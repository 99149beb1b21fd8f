"""Search logs and files of triplets: which items are right for a query, and what cannot be joined to the catalogue."""

import csv
import io
import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from mbe2_dataset.catalogue.columns import parse_columns
from mbe2_dataset.catalogue.ingest import ingest
from mbe2_dataset.catalogue.published import TripletSource
from mbe2_dataset.catalogue.search_log import NEGATIVE, POSITIVE, SearchLog, join_log, log_events
from mbe2_dataset.catalogue.store import Problem
from mbe2_dataset.catalogue.tables import LocalTables
from mbe2_dataset.errors import CatalogueError

ITEMS = {"a", "b", "c", "d"}


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def joined(path: Path, columns: list[str] = (), only: dict | None = None, **options) -> SearchLog:
    events = log_events(LocalTables(path), parse_columns(columns), only)
    return join_log(events, ITEMS, path.parent / "work", path.parent, **options)


def aside(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path.parent / "work" / "log_quarantine.jsonl").read_text().splitlines()]


def judged(log: SearchLog) -> dict[str, tuple]:
    return {query.text: (query.positives, query.negatives) for query in log.queries}


def test_esci_labels(tmp_path):
    columns = ("query_id", "query", "product_id", "product_locale", "esci_label", "split")
    rows = [(1, "red mug", "a", "us", "E", "train"), (1, "red mug", "b", "us", "S", "train"),
            (1, "red mug", "c", "us", "I", "train"), (1, "red mug", "x", "us", "I", "train"),
            (2, "cup", "d", "us", "C", "test"), (3, "taza", "a", "es", "E", "test"),
            (4, "cup red", "a", "us", "Z", "test")]  # fmt: skip
    path = write(tmp_path / "log.csv", [dict(zip(columns, row, strict=True)) for row in rows])
    log = joined(path, only={"product_locale": "us"})
    (query,) = log.queries
    assert (query.id, query.text, query.split, query.image) == ("1", "red mug", "train", None)
    assert query.positives == (("a", 1),) and query.negatives == ("c",)
    assert log.counts == {"rows_in": 6, "rows_joined": 4, "rows_item_unknown": 1, "rows_unreadable": 1,
                          "queries": 1, "queries_without_positive": 1}  # fmt: skip
    unknown, label = aside(path)
    assert unknown["where"] == "row 3 of log.csv" and "'x' is not in the catalogue" in unknown["reason"]
    assert label["where"] == "row 6 of log.csv" and "'Z' is neither a grade" in label["reason"]


def test_counts_bought_is_positive_and_shown_only_is_negative(tmp_path):
    columns = ("query", "item", "purchases", "clicks", "exposures")
    rows = [("mug", "a", 0, 1, 9), ("mug", "a", 2, 0, 9), ("mug", "b", 0, 0, 3), ("mug", "b", 0, 0, 3),
            ("mug", "c", 0, 4, 9), ("mug", "d", 0, 0, 0), ("cup", "b", 1, 1, 1), ("cup", "c", 0, 0, 2)]  # fmt: skip
    path = write(tmp_path / "log.jsonl", [dict(zip(columns, row, strict=True)) for row in rows])
    log = joined(path)
    assert judged(log) == {"mug": ((("a", 1),), ("b",)), "cup": ((("b", 1),), ("c",))}
    assert judged(joined(path, min_exposures=5)) == {"mug": ((("a", 1),), ("b",)), "cup": ((("b", 1),), ())}
    assert len({query.id for query in log.queries}) == 2
    clicks = joined(path, ["purchases="])
    assert judged(clicks)["mug"] == ((("a", 1), ("c", 1)), ("b",))


def test_events_and_grades(tmp_path):
    said = (("a", "exposure"), ("a", "purchase"), ("b", "click"), ("c", "exposure"), ("d", 3))
    rows = [{"搜索词": "杯子", "商品编号": item, "label": label} for item, label in said]
    log = joined(write(tmp_path / "log.jsonl", rows))
    assert judged(log) == {"杯子": ((("a", 1), ("d", 3)), ("c",))}


@pytest.mark.parametrize(
    ("row", "columns", "words"),
    [
        ({"query": "mug", "label": "E"}, [], ["log.jsonl", "hold item;", "'query', 'label'"]),
        ({"item": "a", "label": "E"}, [], ["query or query_image", "'item', 'label'", "--log_columns query=COLUMN"]),
        ({"item": "a", "query": "mug"}, [], ["label or purchases or clicks", "--log_columns label=COLUMN"]),
        ({"item": "a", "query": "mug", "label": 1}, ["label=mark"], ["no column 'mark'", "'label'"]),
    ],
)
def test_a_missing_column_is_said_with_those_found(row, columns, words, tmp_path):
    with pytest.raises(CatalogueError) as error:
        joined(write(tmp_path / "log.jsonl", [row]), columns)
    assert all(word in str(error.value) for word in words), error.value


def test_rows_that_contradict_or_lack_something_are_set_aside(tmp_path):
    rows = [{"query_id": 1, "query": "mug", "item": "a", "purchases": 1},
            {"query_id": 1, "query": "cup", "item": "b", "purchases": 1},
            {"query_id": 2, "query": "cup", "item": None, "purchases": 1},
            {"query_id": 3, "query": "cup", "item": "a", "purchases": "many"},
            {"query_id": None, "query": " ", "item": "a", "purchases": 1}]  # fmt: skip
    path = write(tmp_path / "log.jsonl", rows)
    log = joined(path)
    assert judged(log) == {"mug": ((("a", 1),), ())}
    assert (
        log.counts["rows_in"]
        == 5
        == log.counts["rows_joined"]
        + sum(count for name, count in log.counts.items() if name in ("rows_query_differs", "rows_unreadable"))
    )
    words = ("'cup' here", "no item", "'many', not a number of times", "neither text nor image")
    for problem, word in zip(aside(path), words, strict=True):
        assert word in problem["reason"]


def test_pictures_of_queries_are_stored_once_and_faulty_ones_named(tmp_path):
    for name in ("red", "blue"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(name))
    (tmp_path / "page.jpg").write_bytes(b"<html></html>")
    rows = [{"query": "", "query_image": "red.jpg", "item": "a", "label": 1},
            {"query": "", "query_image": "red.jpg", "item": "b", "label": 0},
            {"query": "mug", "query_image": "blue.jpg", "item": "c", "label": 1},
            {"query": "x", "query_image": "page.jpg", "item": "c", "label": 1},
            {"query": "x", "query_image": "../out.jpg", "item": "c", "label": 1},
            {"query": "x", "query_image": "http://x.test/a.jpg", "item": "c", "label": 1}]  # fmt: skip
    path = write(tmp_path / "log.jsonl", rows)
    log = joined(path)
    image, mixed = log.queries
    assert image.text is None and image.image.bytes == jpeg("red") and image.negatives == ("b",)
    assert mixed.text == "mug" and mixed.image.bytes == jpeg("blue") and mixed.image.size == (12, 10)
    assert len(pickle.dumps(mixed)) < 1000
    assert log.counts["rows_query_picture"] == 3
    words = ("not a JPEG", "outside", "addresses are not fetched")
    for problem, word in zip(aside(path), words, strict=True):
        assert word in problem["reason"] and problem["picture"] is not None


def triplets(tmp_path: Path) -> Path:
    for name in ("red", "blue", "green"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(name))
    rows = [
        {"q": "mug", "pos_title": "Red mug", "pos_img": "red.jpg", "neg_title": "Blue cup", "neg_img": "blue.jpg"},
        {"q": "cup", "pos_title": "Blue cup", "pos_img": "blue.jpg", "neg_title": "Pot", "neg_img": "green.jpg"},
        {"q": "pan", "pos_title": "Pot", "pos_img": "green.jpg", "neg_title": "", "neg_img": ""},
    ]
    return write(tmp_path / "mbe2" / "train.jsonl", rows).parent


def test_a_file_of_triplets_is_a_catalogue_and_a_log(tmp_path):
    """The authors' MBE2.0, whose column names are not known, goes through a mapping."""
    source = TripletSource(LocalTables(triplets(tmp_path)), {"query_text": ("q",)}, pictures=tmp_path)
    catalogue = ingest(source, tmp_path / "stored")
    assert [row.title for row in catalogue.rows] == ["Red mug", "Blue cup", "Pot"]
    titles = {row.id: row.title for row in catalogue.rows}
    log = join_log(source.events(), titles, tmp_path / "work")
    found = {
        query.text: ([titles[item] for item, _ in query.positives], [titles[item] for item in query.negatives])
        for query in log.queries
    }
    assert found == {"mug": (["Red mug"], ["Blue cup"]), "cup": (["Blue cup"], ["Pot"]), "pan": (["Pot"], [])}
    assert log.counts["rows_in"] == 5 == log.counts["rows_joined"]


def test_rows_of_triplets_may_leave_columns_out(tmp_path):
    first = {"query_text": "mug", "positive_title": "Mug", "positive_image": "m.jpg"}
    rows = [{**first, "negative_title": "Cup", "negative_image": "c.jpg", "split": "test"}, first]
    source = TripletSource(LocalTables(write(tmp_path / "t.jsonl", rows)))
    assert [item.record["title"] for item in source] == ["Mug", "Cup"]
    assert [(event.split, event.state) for event in source.events()] == [
        ("test", POSITIVE), ("test", NEGATIVE), (None, POSITIVE)
    ]  # fmt: skip


def test_ids_and_splits_of_triplets_are_kept(tmp_path):
    row = {"query_text": "mug", "split": "valid",
           "positive_id": 1, "positive_title": "Mug", "positive_image": "m.jpg",
           "negative_id": 2, "negative_title": "Cup", "negative_image": {"size": 3}}  # fmt: skip
    source = TripletSource(LocalTables(write(tmp_path / "t.jsonl", [row])))
    positive, negative = source
    assert positive.record == {"id": "1", "title": "Mug", "images": [{"path": "m.jpg"}], "split": "validation"}
    assert isinstance(negative, Problem) and negative.where == "the negative of row 0 of t.jsonl"


def test_a_file_without_triplets_is_refused_with_its_columns(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"question": "mug", "good": "Mug"}])
    with pytest.raises(
        CatalogueError, match=r"positive_title or positive_images; it has: 'question', 'good'.*--columns"
    ):
        list(TripletSource(LocalTables(path)))
