"""Products from anybody's tables: what is found by itself, what needs a mapping, what is refused in a sentence."""

import csv
import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mbe2_dataset.catalogue.columns import parse_columns
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.published import Fashion200K
from mbe2_dataset.catalogue.store import Item, Problem
from mbe2_dataset.catalogue.tables import HubTables, LocalTables
from mbe2_dataset.catalogue.understood import understand
from mbe2_dataset.errors import CatalogueError

DATA = Path(__file__).parents[2] / "shared" / "data"


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), colour).save(path, "JPEG")
    return path


def write_csv(path: Path, rows: list[dict], encoding: str = "utf-8", delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def products(path: Path, columns: dict | None = None, **options) -> list[Item | Problem]:
    encoding = options.pop("encoding", None)
    return list(ProductSource(LocalTables(path, encoding), columns, **options))


SHOP = [
    {"sku": "007", "name": "Red mug", "category": "Kitchen > Mugs", "price": "$1,299.50", "image": "a.jpg"},
    {"sku": "8", "name": "蓝色杯子", "category": "Kitchen", "price": "", "image": "b.jpg|c.jpg"},
]
MUG = {
    "id": "007",
    "title": "Red mug",
    "category": ["Kitchen", "Mugs"],
    "price": 1299.5,
    "images": [{"path": "a.jpg"}],
}


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolon", "pipe", "csv.gz", "jsonl", "jsonl.gz", "json", "parquet"])
def test_usual_columns_are_found_in_files_of_every_kind(kind, tmp_path):
    if kind.startswith("json") and kind != "json":
        write_jsonl(tmp_path / f"shop.{kind}", SHOP)
    elif kind == "json":
        (tmp_path / "shop.json").write_text(json.dumps(SHOP))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(SHOP), tmp_path / "shop.parquet")
    else:
        path = write_csv(
            tmp_path / "shop.csv", SHOP, delimiter={"tsv": "\t", "semicolon": ";", "pipe": "|"}.get(kind, ",")
        )
        if kind == "tsv":
            path.rename(tmp_path / "shop.tsv")
        elif kind == "csv.gz":
            (tmp_path / "shop.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    first, second = products(tmp_path)
    suffix = "csv" if kind in ("semicolon", "pipe") else kind
    assert first == Item(f"row 0 of shop.{suffix}", MUG)
    assert second.record["title"] == "蓝色杯子" and second.record["price"] is None
    assert second.record["images"] == [{"path": "b.jpg"}, {"path": "c.jpg"}]
    assert products(next(tmp_path.iterdir())) == [first, second]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_chinese_columns_and_encodings(encoding, tmp_path):
    rows = [{"商品编号": "1", "商品标题": "红色马克杯", "一级类目": "家居", "二级类目": "杯子", "品牌": "诺维克",
             "价格": "￥19.9元", "属性": "颜色：红色；材质：陶瓷", "主图": "图/1.jpg"}]  # fmt: skip
    path = write_csv(tmp_path / "shop.csv", rows, encoding)
    (item,) = products(path, encoding=encoding)
    assert item.record == {
        "id": "1",
        "title": "红色马克杯",
        "category": ["家居", "杯子"],
        "brand": "诺维克",
        "price": 19.9,
        "attributes": [{"name": "颜色", "value": "红色"}, {"name": "材质", "value": "陶瓷"}],
        "images": [{"path": "图/1.jpg"}],
    }
    assert products(path) == [item]  # found by itself
    if encoding == "gb18030":
        with pytest.raises(CatalogueError, match=r"shop\.csv is not utf-8.*--encoding gb18030"):
            products(path, encoding="utf-8")
    with pytest.raises(CatalogueError, match="no encoding 'martian'"):
        products(path, encoding="martian")


def test_columns_by_mapping(tmp_path):
    rows = [
        {"nr": 7, "label": "Mug", "front": "f.jpg", "back": "b.jpg", "hue": "red", "stuff": "clay", "price": "call"}
    ]
    path = write_jsonl(tmp_path / "odd.jsonl", rows)
    pairs = ["id=nr", "title=label", "images=front,back", "attributes=hue,stuff", "price="]
    (item,) = products(path, parse_columns(pairs))
    assert item.record == {
        "id": "7",
        "title": "Mug",
        "images": [{"path": "f.jpg"}, {"path": "b.jpg"}],
        "attributes": [{"name": "hue", "value": "red"}, {"name": "stuff", "value": "clay"}],
    }
    with pytest.raises(CatalogueError, match="'title' is not of the form ours=theirs"):
        parse_columns(["title"])


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (
            [],
            ["odd.jsonl", "id or title or images", "'zahl', 'label'", "--columns id=COLUMN title=COLUMN images=COLUMN"],
        ),
        (["id=zahl", "title=label"], ["hold images;", "'zahl', 'label'", "--columns images=COLUMN"]),
        (["id=number"], ["odd.jsonl has no column 'number'", "'id'", "'zahl', 'label'"]),
        (["colour=zahl"], ["no column 'colour'", "id, title, description"]),
    ],
)
def test_a_missing_column_is_said_with_those_found_and_the_mapping_needed(pairs, expected, tmp_path):
    path = write_jsonl(tmp_path / "odd.jsonl", [{"zahl": 7, "label": "Mug"}])
    with pytest.raises(CatalogueError) as error:
        products(path, parse_columns(pairs))
    assert all(part in str(error.value) for part in expected), error.value


def test_faults_of_a_row_are_problems_of_that_row(tmp_path):
    lines = ['{"id": 1, "title": "A", "image": "a.jpg", "price": "from 3 to 4"}', '{"id": 2, "title": ', "[1]",
             '{"id": 3, "title": "C", "image": "c.jpg", "attributes": "red"}',
             '{"id": 4, "title": "D", "image": "d.jpg", "attributes": {"colour": "red"}, "price": 3}']  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    ranged, *bad, unnamed, good = products(tmp_path)
    assert [(problem.where, problem.id) for problem in bad] == [("row 1 of a.jsonl", None), ("row 2 of a.jsonl", None)]
    for problem, words in zip(bad, ("not JSON", "a list"), strict=True):
        assert words in problem.reason
    assert ranged.record["price"] == 3.0 and not ranged.faults
    # What a product can do without is left empty, and named.
    assert unnamed.record["attributes"] == [] and unnamed.faults == (
        ("attributes", "'red' is not of the form 'name: value'"),
    )
    assert good.record["attributes"] == [{"name": "colour", "value": "red"}] and good.record["price"] == 3.0
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.csv").write_text("id,title,image\n1,Mug,a.jpg\n2,Mug, red,b.jpg\n3,Cup,c.jpg\n")
    assert [item.id if isinstance(item, Problem) else item.record["id"] for item in products(tmp_path)] == [
        "1",
        None,
        "3",
    ]


def test_files_that_cannot_be_read_are_named(tmp_path):
    for name, content, words in (
        ("a.parquet", b"PAR1 no more", "not a readable Parquet file"),
        ("b.csv", b"", "is empty"),
        ("c.csv", b"7,Mug,7.jpg\n8,Cup,8.jpg\n", "no line with the names of columns: the first has '7.jpg'"),
        ("d.jsonl.gz", gzip.compress(json.dumps(SHOP[0]).encode() * 9)[:-20], "cannot be read"),
        ("e.json", b"{", "is not JSON"),
        ("f.json", b"[1]", "list of objects"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CatalogueError, match=words) as error:
            products(path)
        assert name in str(error.value)
    (tmp_path / "bare").mkdir()
    picture(tmp_path / "bare" / "a.jpg")
    with pytest.raises(CatalogueError, match=r"bare holds no table: files of \*\.parquet, \*\.csv"):
        LocalTables(tmp_path / "bare")
    with pytest.raises(CatalogueError, match="no file or folder"):
        LocalTables(tmp_path / "nowhere")


def test_rows_are_selected_and_files_come_in_order_of_their_names(tmp_path):
    for name, locale in (("b", "us"), ("a", "es")):
        rows = [{"product_id": f"{name}{number}", "title": "Mug", "image": "m.jpg", "locale": code}
                for number, code in enumerate((locale, "jp"))]  # fmt: skip
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    assert [item.record["id"] for item in products(tmp_path)] == ["a0", "a1", "b0", "b1"]
    assert [item.record["id"] for item in products(tmp_path, only={"locale": "jp"})] == ["a1", "b1"]
    with pytest.raises(CatalogueError, match="no column 'country' to select by"):
        products(tmp_path, only={"country": "us"})


def test_the_fingerprint_follows_files_and_options(tmp_path):
    path = write_jsonl(tmp_path / "shop.jsonl", SHOP)

    def fingerprint(**options) -> str:
        return ProductSource(LocalTables(tmp_path), **options).fingerprint()

    before = fingerprint()
    assert fingerprint() == before and fingerprint(columns={"id": ("name",)}) != before
    picture(tmp_path / "pictures" / "a.jpg")
    with_picture = fingerprint()
    write_jsonl(path, SHOP[:1])
    assert len({before, with_picture, fingerprint(), fingerprint(only={"sku": "8"})}) == 4


MBE = {"id": "9", "doc_title": "纯棉衬衫", "doc_image": "https://img.test/9.jpg", "doc_industry_name": "服饰",
       "doc_cate1_name": "女装", "doc_cate2_name": "上衣", "doc_cate3_name": "衬衫", "doc_cate4_name": "",
       "doc_attributes": "颜色:白色!!!蓝色,,材质:棉"}  # fmt: skip


def test_mbe_files_need_no_mapping(tmp_path):
    (item,) = products(write_csv(tmp_path / "mbe.csv", [MBE]))
    assert item.record == {
        "id": "9",
        "title": "纯棉衬衫",
        "images": [{"url": "https://img.test/9.jpg"}],
        "category": ["服饰", "女装", "上衣", "衬衫"],
        "attributes": [{"name": n, "value": v} for n, v in (("颜色", "白色"), ("颜色", "蓝色"), ("材质", "棉"))],
    }


def test_a_data_set_of_pictures_is_streamed_with_their_bytes(tmp_path):
    """A folder goes through the same call of `datasets` as a name on the Hub."""
    folder = tmp_path / "shop"
    for split, number in (("train", 0), ("train", 1), ("test", 2)):
        picture(folder / split / f"{number}.jpg", ("red", "blue", "green")[number])
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        rows = [{"file_name": f"{number}.jpg", "sku": str(number), "title": f"Mug {number}"} for number in numbers]
        write_jsonl(folder / split / "metadata.jsonl", rows)
    items = list(ProductSource(HubTables(str(folder))))
    assert [(item.where, item.record["id"], item.record["split"]) for item in items] == [
        ("row 0 of split train of shop", "0", "train"),
        ("row 1 of split train of shop", "1", "train"),
        ("row 0 of split test of shop", "2", "test"),
    ]
    assert items[2].record["images"] == [{"bytes": (folder / "test" / "2.jpg").read_bytes(), "path": "2.jpg"}]
    (only,) = ProductSource(HubTables(str(folder), split="test"))
    assert only.record["id"] == "2" and "split" not in only.record
    with pytest.raises(CatalogueError, match=r"shop.*split evaluation.*cannot be loaded"):
        HubTables(str(folder), split="evaluation")
    with pytest.raises(CatalogueError, match=r"'nobody/nothing'.*cannot be loaded"):
        HubTables("nobody/nothing")


def test_a_data_set_in_parquet_with_lists_of_pictures(tmp_path):
    content = picture(tmp_path / "a.jpg").read_bytes()
    features = datasets.Features({"id": datasets.Value("int64"), "title": datasets.Value("string"),
                                  "images": datasets.List(datasets.Image())})  # fmt: skip
    rows = [{"id": 1, "title": "Mug", "images": [{"bytes": content, "path": "a.jpg"}] * 2}]
    (tmp_path / "shop").mkdir()
    datasets.Dataset.from_list(rows, features).to_parquet(str(tmp_path / "shop" / "train.parquet"))
    (item,) = ProductSource(HubTables(str(tmp_path / "shop")))
    assert item.record == {"id": "1", "title": "Mug", "images": [{"bytes": content, "path": "a.jpg"}] * 2}


def fashion200k(folder: Path) -> Path:
    for name, lines in (
        ("dress_train", ["women/dresses/day_dresses/51/51_0.jpeg\t-1.7\tgreen dress", "broken line",
                         "women/dresses/day_dresses/52/52_0.jpeg\t-1.1\tred dress",
                         "women/dresses/day_dresses/51/51_1.jpeg\t-0.7\tgreen a-line dress",
                         "women/dresses/day_dresses/51/51_2.jpeg\t-0.9\tgreen dress"]),
        ("top_test", ["women/tops/blouses/60/60_0.jpeg\t-2.0\twhite blouse"]),
    ):  # fmt: skip
        path = folder / "labels" / f"{name}_detect_all.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_fashion200k(tmp_path):
    problem, green, red, blouse = Fashion200K(fashion200k(tmp_path))
    assert problem.where == "row 1 of labels/dress_train_detect_all.txt" and "tabs" in problem.reason
    assert green.record == {
        "id": "51",
        "title": "green dress",
        "description": "green a-line dress",
        "category": ["women", "dresses", "day dresses"],
        "images": [{"path": f"women/dresses/day_dresses/51/51_{number}.jpeg"} for number in range(3)],
        "split": "train",
        "group_id": "51",
    }
    assert red.record["description"] is None and blouse.record["split"] == "test"
    (tmp_path / "labels" / "top_test_detect_all.txt").write_bytes(b"women/a/b/1/1.jpeg\t0\t\xff\n")
    with pytest.raises(CatalogueError, match=r"top_test_detect_all\.txt cannot be read"):
        list(Fashion200K(tmp_path))


def test_fashion200k_is_found_by_its_label_files(tmp_path):
    assert not Fashion200K.is_in(tmp_path) and Fashion200K.is_in(fashion200k(tmp_path))
    told = "\n".join(understand(Fashion200K(tmp_path)).lines())
    assert "understood as Fashion200K" in told and "product 1: 51" in told and "rows that cannot be read 1" in told


def test_a_folder_that_is_not_fashion200k_is_said_with_what_it_has(tmp_path):
    picture(tmp_path / "women" / "a.jpg")
    with pytest.raises(CatalogueError, match=r"labels/\*_train_detect_all\.txt.* it has: women"):
        Fashion200K(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "dress.txt").write_text("")
    with pytest.raises(CatalogueError, match=r"labels has: dress\.txt"):
        Fashion200K(tmp_path)


def test_m5product(tmp_path):
    rows = {"61": {"title": "红色马克杯", "pv": "颜色#:#红色#;#材质#:#陶瓷"}, "62": {"title": "杯子", "pv": ""}}
    (tmp_path / "train.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(CatalogueError, match=r"hold images;.*No files .* are named by its ids either, such as 61\.jpg"):
        products(tmp_path, layout="m5product")
    for name in ("61", "62"):
        picture(tmp_path / "images" / f"{name}.jpg")
    first, second = products(tmp_path, layout="m5product")
    assert first.record == {
        "id": "61",
        "title": "红色马克杯",
        "attributes": [{"name": "颜色", "value": "红色"}, {"name": "材质", "value": "陶瓷"}],
        "images": [{"path": "images/61.jpg"}],
    }
    assert second.record["attributes"] == []
    (tmp_path / "train.json").unlink()
    path = write_jsonl(tmp_path / "meta.jsonl", [{"item_id": 61, "headline": "Mug"}])
    with pytest.raises(CatalogueError, match=r"hold title or images; it has: 'item_id', 'headline'"):
        products(path, layout="m5product")
    (item,) = products(path, {"title": ("headline",)}, layout="m5product")
    assert item.record["title"] == "Mug"


@pytest.mark.parametrize("name", ["fashion", "luma", "sample"])
@pytest.mark.skipif(not DATA.is_dir(), reason="the product data are not beside this repository")
def test_real_tables_are_read_without_a_mapping(name):
    item = next(iter(ProductSource(LocalTables(DATA / name))))
    assert {
        "id",
        "title",
        "description",
        "brand",
        "category",
        "attributes",
        "price",
        "images",
        "split",
        "group_id",
    } <= set(item.record)
    assert item.record["images"][0]["bytes"][:2] == b"\xff\xd8"
