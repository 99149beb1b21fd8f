"""Distractors: from the triplets of the set, or from another set."""

from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value
from test_benchmark import benchmark_rows, encoded, write_benchmark

from common_moon2.cli import UserError
from evaluation.tables.benchmark import load_benchmark, train_products, with_gallery

pytestmark = pytest.mark.usefixtures("fresh_cache")


def product(name: str, number: int, group: str) -> dict:
    return {
        "id": name,
        "title": f"{('red', 'blue')[number % 2]} hat {name}",
        "image": encoded(number),
        "group_id": group,
    }


def triplet_rows() -> list[dict]:
    """Four triplets of six products: n1 stands twice, and p3 and a listing of g5 are in the corpus."""
    positives = [product("a", 50, "x"), product("b", 51, "x"), product("c", 52, "y"), product("p3", 53, "z")]
    negatives = [product("n1", 54, "n"), product("n1", 54, "n"), product("a", 50, "x"), product("d", 55, "g5")]
    categories = [["goods", "mug"], ["goods", "shirt"], ["goods", "mug"], []]
    return [
        {f"positive_{key}": value for key, value in positive.items()}
        | {f"negative_{key}": value for key, value in negative.items()}
        | {"positive_category": category}
        for positive, negative, category in zip(positives, negatives, categories, strict=True)
    ]


def add_triplets(folder: Path, rows: list[dict]) -> str:
    kinds = {name: Value("string") for name in rows[0]}
    kinds |= {name: Image() for name in rows[0] if name.endswith("_image")}
    kinds |= {name: List(Value("string")) for name in rows[0] if name.endswith("_category")}
    columns = {name: [row[name] for row in rows] for name in kinds}
    (folder / "triplets").mkdir()
    Dataset.from_dict(columns, Features(kinds)).to_parquet(folder / "triplets" / "train-00000.parquet")
    card = (folder / "README.md").read_text().removesuffix("---\n")
    config = "- config_name: triplets\n  data_files:\n  - split: train\n    path: triplets/train-*.parquet\n"
    (folder / "README.md").write_text(card + config + "---\n")
    return str(folder)


@pytest.fixture
def folder(tmp_path) -> str:
    return add_triplets(write_benchmark(tmp_path / "mbe2", benchmark_rows()), triplet_rows())


def test_hard_adds_every_other_product_of_the_triplets_once(folder):
    easy = load_benchmark(folder)
    hard = with_gallery(easy, "hard", folder)
    assert hard.distractors.ids == ["a", "b", "c", "n1"]  # p3 is in the corpus, d is of a group of the corpus
    assert hard.distractors.groups == ["x", "x", "y", "n"]
    assert hard.distractors.product(2, "mm")["image"]["bytes"] == encoded(52)["bytes"]
    assert hard.distractors.texts[1] == "blue hat b"
    assert [len(products) for products in hard.candidates] == [12, 4]
    assert (easy.gallery, hard.gallery) == ("easy", "hard")
    assert hard.fingerprint != easy.fingerprint
    assert with_gallery(easy, "easy", folder) is easy


def test_another_set_lends_its_corpus(folder, tmp_path):
    rows = benchmark_rows()
    for row in rows["corpus"]:
        row["id"] = f"other-{row['id']}"
    rows["corpus"][0]["group_id"] = "elsewhere"
    other = write_benchmark(tmp_path / "other", {"corpus": rows["corpus"]})
    benchmark = with_gallery(load_benchmark(folder), str(other), folder)
    assert benchmark.distractors.ids == ["other-p0"]  # the others are of groups that the corpus has
    rows["corpus"][0]["group_id"] = "g0"
    write_benchmark(other, {"corpus": rows["corpus"]})
    with pytest.raises(UserError, match="has no product that is not in the corpus"):
        with_gallery(load_benchmark(folder), str(other), folder)


def test_train_products_are_the_positives_and_their_categories(folder):
    products, paths = train_products(folder)
    assert products.ids == ["a", "b", "c", "p3"]
    assert paths == [["goods", "mug"], ["goods", "shirt"], ["goods", "mug"], []]


def test_what_the_triplets_lack_is_named(tmp_path):
    bare = write_benchmark(tmp_path / "bare", benchmark_rows())
    with pytest.raises(UserError, match="configuration 'triplets'"):
        with_gallery(load_benchmark(str(bare)), "hard", str(bare))
    rows = triplet_rows()
    for row in rows:
        del row["negative_title"], row["positive_category"]
    folder = add_triplets(bare, rows)
    with pytest.raises(UserError, match="no column 'negative_title'"):
        with_gallery(load_benchmark(folder), "hard", folder)
    with pytest.raises(UserError, match="'positive_category'"):
        train_products(folder)
