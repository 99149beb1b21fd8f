"""Reading a benchmark, and what is said about a broken one."""

from io import BytesIO
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value
from hub_server import hub as hub
from hub_server import run_python

from common_moon2.cli import UserError
from conftest import picture
from evaluation.tables.benchmark import load_benchmark
from evaluation.tables.products import ProductView

ATTRIBUTE = {"name": Value("string"), "value": Value("string")}
FEATURES = {
    "corpus": {
        "id": Value("string"),
        "text": Value("string"),
        "image": Image(),
        "category": List(Value("string")),
        "attributes": List(ATTRIBUTE),
        "brand": Value("string"),
        "group_id": Value("string"),
    },
    "queries": {"id": Value("string"), "text": Value("string"), "image": Image(), "modality": Value("string")},
    "qrels": {"query-id": Value("string"), "corpus-id": Value("string"), "score": Value("int64")},
}
COLORS = ("red", "blue")


pytestmark = pytest.mark.usefixtures("fresh_cache")


def encoded(seed: int) -> dict:
    file = BytesIO()
    picture(40, 32, seed).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{seed}.png"}


def benchmark_rows() -> dict[str, list[dict]]:
    """Twelve mugs and shirts, red and blue, English and Chinese; for each of the first six a query of each modality."""
    corpus, queries, qrels = [], [], []
    for index in range(12):
        kind, color = ("mug", "shirt")[index % 2], COLORS[index // 2 % 2]
        title = f"{color} {kind} {index}" if index % 3 else f"红色杯 {index}"
        corpus.append(
            {
                "id": f"p{index}",
                "text": title,
                "image": encoded(index),
                "category": ["goods", kind],
                "attributes": [{"name": "colour", "value": color}, {"name": "number", "value": str(index)}],
                "brand": "Moon",
                "group_id": f"g{index}",
            }
        )
    for index in range(6):
        row = corpus[index]
        for modality in ("text", "image", "mixed"):
            query = {"id": f"q{index}-{modality}", "text": row["text"][:6], "image": encoded(100 + index)}
            query |= {"text": None} if modality == "image" else {"image": None} if modality == "text" else {}
            queries.append({**query, "modality": modality})
            qrels.append({"query-id": query["id"], "corpus-id": row["id"], "score": 1})
    return {"corpus": corpus, "queries": queries, "qrels": qrels}


def write_benchmark(folder: Path, rows: dict[str, list[dict]]) -> Path:
    """Publishes rows as the data set package does: Parquet files and a README.md with YAML configurations."""
    lines = ["---", "configs:"]
    for config, records in rows.items():
        features = {name: kind for name, kind in FEATURES[config].items() if not records or name in records[0]}
        (folder / config).mkdir(parents=True, exist_ok=True)
        columns = {name: [record[name] for record in records] for name in features}
        Dataset.from_dict(columns, features=Features(features)).to_parquet(folder / config / "test-00000.parquet")
        lines += [f"- config_name: {config}", "  data_files:", "  - split: test", f"    path: {config}/test-*.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return folder


def test_a_benchmark_comes_back(tmp_path):
    rows = benchmark_rows()
    rows["qrels"].append({"query-id": "q0-text", "corpus-id": "p7", "score": 2})
    rows["qrels"].append({"query-id": "q0-text", "corpus-id": "p8", "score": 0})
    rows["corpus"][3]["attributes"].append({"name": "colour", "value": "green"})
    benchmark = load_benchmark(str(write_benchmark(tmp_path / "mbe2", rows)))
    assert benchmark.corpus.ids == [f"p{index}" for index in range(12)]
    assert benchmark.relevant[0] == {0: 1, 7: 2}  # a score of 0 is no relevance
    assert benchmark.categories[1] == ["goods", "shirt"]
    assert benchmark.attributes[3] == {"colour": ["blue", "green"], "number": ["3"]}
    product = benchmark.corpus.product(4, "mm")
    assert product["text"] == "red mug 4"
    assert product["image"]["bytes"] == rows["corpus"][4]["image"]["bytes"]


def test_views_show_what_they_are_named_after(tmp_path):
    rows = benchmark_rows()
    rows["corpus"][1]["image"] = None
    rows["corpus"][2]["text"] = "  "
    corpus = load_benchmark(str(write_benchmark(tmp_path / "mbe2", rows))).corpus
    assert corpus.rows("t") == [row for row in range(12) if row != 2]
    assert corpus.rows("i") == [row for row in range(12) if row != 1]
    assert corpus.rows("mm") == [row for row in range(12) if row not in (1, 2)]
    assert corpus.product(0, "t")["image"] is None
    assert corpus.product(0, "i")["text"] is None
    view = ProductView(corpus, "mm", [4, 5])
    assert (view[0]["text"], view.text_lengths) == ("red mug 4", [9, 11])
    assert view.describe(1) == "corpus row 5 (id 'p5')"


def test_a_changed_file_is_noticed(tmp_path):
    """datasets alone would serve the first version from its cache."""
    rows = benchmark_rows()
    folder = write_benchmark(tmp_path / "mbe2", rows)
    first = load_benchmark(str(folder))
    rows["corpus"][0]["text"] = "green mug"
    second = load_benchmark(str(write_benchmark(folder, rows)))
    assert second.corpus.texts[0] == "green mug"
    assert second.fingerprint != first.fingerprint
    assert load_benchmark(str(folder)).fingerprint == second.fingerprint


def change(config: str, row: int, **values):
    return lambda rows: rows[config][row].update(values)


def without_column(config: str, column: str):
    return lambda rows: [row.pop(column) for row in rows[config]]


BROKEN = {
    "missing configuration": (lambda rows: rows.pop("qrels"), "configuration 'qrels'"),
    "missing column": (without_column("corpus", "category"), "'corpus' of .* has no column 'category'.*group_id"),
    "empty corpus": (lambda rows: rows["corpus"].clear(), "configuration 'corpus' of .* is empty"),
    "duplicate id": (change("corpus", 5, id="p2"), "Rows 2 and 5 of corpus have the same id 'p2'"),
    "null id": (change("queries", 3, id=None), "Row 3 of queries has no id"),
    "unknown modality": (change("queries", 2, modality="video"), "Query 'q0-mixed' .row 2. has the modality 'video'"),
    "query without text": (change("queries", 0, text=None), "Query 'q0-text' .* 'text' but no text"),
    "query without image": (change("queries", 2, image=None), "Query 'q0-mixed' .* 'mixed' but no image"),
    "unknown query": (change("qrels", 4, **{"query-id": "q99"}), "Row 4 of qrels refers to the query 'q99'"),
    "unknown product": (change("qrels", 4, **{"corpus-id": "p99"}), "Row 4 of qrels refers to the product 'p99'"),
    "null score": (change("qrels", 4, score=None), "Row 4 of qrels has the score None; a score is a whole number"),
    "null level": (change("corpus", 4, category=["goods", None]), "'p4' .row 4 of corpus. has the category .* is null"),
    "null attribute": (change("corpus", 4, attributes=[None]), "'p4' .row 4 of corpus. has the attribute None"),
    "null name": (change("corpus", 4, attributes=[{"name": None, "value": "x"}]), "'p4' .* its name or value is null"),
    "null value": (change("corpus", 4, attributes=[{"name": "x", "value": None}]), "'p4' .* its name or value is null"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_benchmark_is_refused(tmp_path, case):
    break_it, message = BROKEN[case]
    rows = benchmark_rows()
    break_it(rows)
    folder = write_benchmark(tmp_path / "mbe2", rows)
    with pytest.raises(UserError, match=message):
        load_benchmark(str(folder))


def of_type(monkeypatch, config: str, column: str, kind, values: list, rows: dict[str, list[dict]]):
    """Gives a column another type and values."""
    monkeypatch.setitem(FEATURES[config], column, kind)
    for place, row in enumerate(rows[config]):
        row[column] = values[place % len(values)]


TEXT, WHOLE = Value("string"), Value("int64")
WRONG_TYPES = {
    "whole ids": ("corpus", "id", WHOLE, list(range(12)), "Value.'int64'. in the column 'id', which must be Value.'st"),
    "whole texts": ("queries", "text", WHOLE, [1], "Value.'int64'. in the column 'text'"),
    "paths of images": (
        "corpus",
        "image",
        TEXT,
        ["a.jpg"],
        "Value.'string'. in the column 'image', .* must be Image",
    ),
    "one string as category": (
        "corpus",
        "category",
        TEXT,
        ["mugs"],
        "Value.'string'. in .* must be List.Value.'string'",
    ),
    "strings as attributes": ("corpus", "attributes", List(TEXT), [["red"]], "must be List.*'name': Value.'string'"),
    "whole groups": ("corpus", "group_id", WHOLE, list(range(12)), "Value.'int64'. in the column 'group_id'"),
    "scores as texts": (
        "qrels",
        "score",
        TEXT,
        ["1"],
        "Value.'string'. in the column 'score', which must be Value.'int64",
    ),
    "half scores": (
        "qrels",
        "score",
        Value("float64"),
        [1.0, 0.5],
        "Row 1 of qrels has the score 0.5; a score is a whole",
    ),
}


@pytest.mark.parametrize("case", WRONG_TYPES)
def test_a_column_of_another_type_is_refused(tmp_path, monkeypatch, case):
    config, column, kind, values, message = WRONG_TYPES[case]
    rows = benchmark_rows()
    of_type(monkeypatch, config, column, kind, values, rows)
    with pytest.raises(UserError, match=message):
        load_benchmark(str(write_benchmark(tmp_path / "mbe2", rows)))


def test_what_means_the_same_is_taken(tmp_path, monkeypatch):
    """Whole floats as scores, wide strings, images as they are stored, and columns of nulls."""
    rows = benchmark_rows()
    plain = load_benchmark(str(write_benchmark(tmp_path / "plain", rows)))
    monkeypatch.setitem(FEATURES["corpus"], "text", Value("large_string"))
    monkeypatch.setitem(FEATURES["corpus"], "image", {"bytes": Value("binary"), "path": TEXT})
    of_type(monkeypatch, "qrels", "score", Value("float64"), [1.0], rows)
    of_type(monkeypatch, "corpus", "category", Value("null"), [None], rows)
    of_type(monkeypatch, "corpus", "attributes", List(Value("null")), [[]], rows)
    found = load_benchmark(str(write_benchmark(tmp_path / "other", rows)))
    assert found.relevant == plain.relevant
    assert {type(grade) for grades in found.relevant for grade in grades.values()} == {int}
    assert (found.corpus.texts, found.corpus.images) == (plain.corpus.texts, plain.corpus.images)
    assert (found.categories, found.attributes) == ([[]] * 12, [{}] * 12)


def test_a_set_of_the_hub_has_its_commit_as_revision(hub, tmp_path):
    """Whatever it was asked by; also from the cache alone."""
    hub.add_folder("user/judged", write_benchmark(tmp_path / "mbe2", benchmark_rows()))
    repository = hub.repositories["dataset", "user/judged"]
    repository.tags["v1"] = repository.branches["main"]
    code = "from evaluation.tables.benchmark import load_benchmark; print(load_benchmark('user/judged', {}).revision)"
    online = run_python("\n".join(code.format(name) for name in ("None", "'v1'")), hub, home=tmp_path / "home")
    offline = "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n" + code.format("None")
    cached = run_python(offline, hub, home=tmp_path / "home")
    assert online.stdout.split() + cached.stdout.split() == [repository.branches["main"]] * 3, online.stderr
    assert load_benchmark(str(tmp_path / "mbe2")).revision is None


def test_a_set_rebuilt_with_other_columns_and_rows_is_read_anew(tmp_path):
    """datasets alone would expect the columns and the number of rows that its cache has."""
    rows = benchmark_rows()
    folder = write_benchmark(tmp_path / "mbe2", rows)
    load_benchmark(str(folder))
    without_column("corpus", "brand")(rows)
    rows["corpus"].append(rows["corpus"][0] | {"id": "p12"})
    write_benchmark(folder, rows)
    assert len(load_benchmark(str(folder)).corpus) == 13
    caches = tmp_path / "datasets-cache" / "evaluation"
    assert len(list(caches.glob("*/*"))) == 1  # the copy of the earlier state is gone


def test_the_fingerprint_sees_a_picture_of_the_same_size(tmp_path):
    rows = benchmark_rows()
    folder = write_benchmark(tmp_path / "mbe2", rows)
    first = load_benchmark(str(folder))
    content = bytearray(rows["corpus"][4]["image"]["bytes"])
    content[-20] ^= 1
    rows["corpus"][4]["image"]["bytes"] = bytes(content)
    second = load_benchmark(str(write_benchmark(folder, rows)))
    assert second.fingerprint != first.fingerprint
    changed = [row for row in range(12) if first.corpus.images[row] != second.corpus.images[row]]
    assert changed == [4]


def test_a_damaged_parquet_file_is_refused(tmp_path):
    folder = write_benchmark(tmp_path / "mbe2", benchmark_rows())
    (folder / "queries" / "test-00000.parquet").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="configuration 'queries' of .* cannot be loaded"):
        load_benchmark(str(folder))


def test_a_missing_folder_and_a_revision_of_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="There is no data set folder .*nowhere"):
        load_benchmark(str(tmp_path / "nowhere"))
    folder = write_benchmark(tmp_path / "mbe2", benchmark_rows())
    with pytest.raises(UserError, match="leave out --dataset_revision"):
        load_benchmark(str(folder), "main")
