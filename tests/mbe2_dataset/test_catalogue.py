"""Catalogues that no data set can be built from are refused in a sentence; images and titles are read as they are."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mbe2_dataset.__main__ import main
from mbe2_dataset.catalogue.ingest import read_catalogue
from mbe2_dataset.catalogue.pictures import Picture, decode, perceptual_hash
from mbe2_dataset.errors import CatalogueError
from mbe2_dataset.schema import CATALOGUE
from mbe2_dataset.synthetic.catalogue import synthetic_rows
from mbe2_dataset.triplets.queries import join_units, occurrences, title_units

FASHION = Path(__file__).parents[2] / "shared" / "data" / "fashion"


def jpeg(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 32), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def record(number: int, split: str = "train", **changes: object) -> dict:
    return {
        "id": f"sku/{number}",
        "title": f"Acme red cotton shirt number{number}",
        "description": "A shirt.",
        "brand": "Acme",
        "category": ["Clothes", "Shirt"],
        "attributes": [{"name": "colour", "value": "red"}, {"name": "fit", "value": "slim"}],
        "price": 9.5,
        "images": [{"bytes": jpeg((number * 9 % 256, number * 40 % 256, 80)), "path": f"pictures/{number}.jpg"}],
        "split": split,
        "group_id": f"g{number}",
        **changes,
    }


def records() -> list[dict]:
    return [record(number, split) for number, split in enumerate(["train"] * 6 + ["validation"] * 2 + ["test"] * 3)]


def write(folder: Path, rows: list[dict], name: str = "part.parquet") -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder


def build(catalogue: Path, output: Path, *options: str) -> int:
    return main(["build", "--catalogue", str(catalogue), "--output", str(output), "--num_proc", "1", *options])


def changed(number: int, **changes: object) -> list[dict]:
    rows = records()
    rows[number] |= changes
    return rows


def without(column: str) -> list[dict]:
    return [{name: value for name, value in row.items() if name != column} for row in records()]


ERRORS = {
    "missing column": (lambda: without("images"), ["part.parquet", "images", "'id', 'title', 'description', 'brand'"]),
    "no test rows": (lambda: records()[:8], ["'split'", "'test'"]),
    "column of another type": (
        lambda: [row | {"attributes": "red"} for row in records()],
        ["row 0 of part.parquet", "column 'attributes'", "'red'"],
    ),
    "one bad row": (lambda: changed(4, title=" "), ["row 4 of part.parquet", "'sku/4'", "title"]),
    "one bad image": (
        lambda: changed(3, images=[records()[3]["images"][0], {"bytes": b"<html></html>", "path": "page.jpg"}]),
        ["row 3 of part.parquet", "'sku/3'", "page.jpg", "JPEG"],
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_bad_catalogue_is_refused_with_a_sentence(case, tmp_path):
    make, expected = ERRORS[case]
    with pytest.raises(CatalogueError) as error:
        read_catalogue(write(tmp_path / "catalogue", make()))
    message = str(error.value)
    assert all(item in message for item in expected), message
    assert "\n" not in message


UNFIT = {
    "nothing to contrast": (lambda: [r for r in records() if r["id"] not in ("sku/6",)], ["'validation'", "'sku/7'"]),
    "group in two splits": (lambda: changed(0, group_id="g9"), ["'train'", "'test'", "group id 'g9'"]),
    "title in two splits": (
        lambda: [{**row, "title": row["title"].replace("number9", "number0")} for row in without("group_id")],
        ["'train'", "'test'", "group id 'sku/0'", "with the same title", "--assign_splits true"],
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_catalogue_that_no_data_set_can_be_built_from_is_refused(case, tmp_path, capsys):
    make, expected = UNFIT[case]
    catalogue = write(tmp_path / "catalogue", make())
    assert build(catalogue, tmp_path / "out") == 2
    message = capsys.readouterr().err.split("error: ")[-1]
    assert all(item in message for item in expected), message
    assert message.count("\n") == 1 and not (tmp_path / "out").exists()


def test_bad_folders_are_refused(tmp_path, capsys):
    assert build(tmp_path / "nowhere", tmp_path / "out") == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    assert build(tmp_path / "bare", tmp_path / "out") == 2
    assert "*.parquet, *.csv" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    pq.write_table(pa.Table.from_pylist(records()).slice(0, 0), empty / "part.parquet")
    assert build(empty, tmp_path / "out") == 2
    assert "is empty" in capsys.readouterr().err
    (empty / "part.parquet").write_bytes(b"PAR1 no more")
    assert build(empty, tmp_path / "out") == 2
    assert "part.parquet is not a readable Parquet file" in capsys.readouterr().err


def test_options_of_the_synthetic_catalogue_are_refused_for_others(tmp_path, capsys):
    catalogue = write(tmp_path / "catalogue", records())
    assert build(catalogue, tmp_path / "out", "--num_test", "3") == 2
    assert "--num_test" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--query_mix", "1,1"),
        ("--query_mix", "0,0,0"),
        ("--query_mix", "1,nan,1"),
        ("--false_positive_rate", "1.5"),
        ("--false_positive_rate", "x"),
        ("--seed", "-1"),
    ],
)
def test_bad_options_exit_with_2_and_name_the_option(options, tmp_path, capsys):
    try:
        code = build(tmp_path, tmp_path / "out", *options)
    except SystemExit as stop:  # what cannot be parsed at all ends argparse
        code = stop.code
    assert code == 2
    assert options[0] in capsys.readouterr().err.split("error: ")[-1]


def test_rows_come_back_as_written(tmp_path):
    rows = changed(0, parent_id="coat")
    rows[4] |= {"group_id": None, "brand": None, "description": None, "price": None}
    folder = write(tmp_path / "catalogue", rows[:5], "a.parquet")
    write(folder, rows[5:], "b.parquet")
    read = read_catalogue(folder)
    assert [row.id for row in read] == [row["id"] for row in rows]
    assert read[4].group_id == "sku/4" and read[3].group_id == "g3"
    assert read[4].brand is None and read[4].price is None and read[4].parent_id is None
    assert read[0].parent_id == "coat"
    assert read[0].category == ("Clothes", "Shirt") and read[0].attributes == (("colour", "red"), ("fit", "slim"))
    assert read[7].images == (Picture(rows[7]["images"][0]["bytes"], "pictures/7.jpg"),)
    assert read[7].images[0].as_record() == rows[7]["images"][0] and read[7].images[0].size == (24, 32)
    assert read[0].values() == ["Acme", "red", "slim", "Shirt"]


def test_noise_and_translations_are_read(tmp_path):
    rows = synthetic_rows(num_products=30, num_validation=2, num_test=2, picture_size=16)
    written = [
        {
            **{name: getattr(row, name) for name in CATALOGUE},
            "attributes": [{"name": name, "value": value} for name, value in row.attributes],
            "images": [picture.as_record() for picture in row.images],
            "noise": row.noise,
            "translations": [{"label": label, "text": text} for label, text in row.translations.items()],
        }
        for row in rows
    ]
    assert {bool(row.translations) for row in rows} == {bool(row.noise) for row in rows} == {True, False}
    assert list(read_catalogue(write(tmp_path / "catalogue", written))) == rows


def test_a_stored_picture_pickles_small_and_is_read_where_it_lies(tmp_path):
    rows = read_catalogue(write(tmp_path / "catalogue", records()))
    pickled = pickle.dumps(rows[5].images[0])
    assert len(pickled) < 700 and rows[5].images[0].bytes not in pickled
    again = pickle.loads(pickled)
    assert again == rows[5].images[0] and again.bytes == records()[5]["images"][0]["bytes"]
    assert again.sha256 == hashlib.sha256(again.bytes).hexdigest()
    assert again != Picture(again.bytes, "another.jpg") and again != Picture(jpeg((9, 9, 9)), again.path)


def test_perceptual_hashes_are_near_for_pictures_that_look_alike():
    shades = np.add.outer(np.arange(64) * 2, np.abs(np.arange(64) - 20)).astype(np.uint8)
    picture = Image.fromarray(shades).convert("RGB")
    hashes = [perceptual_hash(image) for image in (picture, picture.resize((200, 180)), picture.rotate(90))]
    assert all(0 <= value < 2**64 for value in hashes)
    assert (hashes[0] ^ hashes[1]).bit_count() <= 4 < 8 < (hashes[0] ^ hashes[2]).bit_count()


def test_pictures_are_upright_rgb_on_white():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("L", (20, 10), 100).save(buffer, "JPEG", exif=exif)
    image = decode(Picture(buffer.getvalue(), "turned.jpg"))
    assert image.size == (10, 20) and image.mode == "RGB"
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(buffer, "PNG")
    assert decode(Picture(buffer.getvalue(), "clear.png")).getpixel((1, 1)) == (255, 255, 255)
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)).save(buffer, "PNG")
    assert decode(Picture(buffer.getvalue(), "deep.png")).getpixel((1, 1)) == (128, 128, 128)


@pytest.mark.parametrize("kind", ["PPM", "EPS"])
def test_other_formats_are_refused(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    with pytest.raises(ValueError, match="not a JPEG, PNG, WEBP, GIF, BMP, AVIF or TIFF image"):
        decode(Picture(buffer.getvalue(), "x"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused():
    buffer = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="10000 x 9000 pixels"):
        decode(Picture(buffer.getvalue(), "bomb.png"))


@pytest.mark.parametrize(
    ("title", "values", "units"),
    [
        ("Acme red T-shirt for men", ["red", "Acme", "T-shirt"], ["Acme", "red", "T-shirt", "men"]),
        ("Nike Air Max 1.5 - Dark Blue", ["dark blue", "Blue"], ["Nike", "Air", "Max", "1.5", "Dark Blue"]),
        ("诺维克红色条纹T恤的新款", ["红色", "诺维克", "T恤"], ["诺维克", "红色", "条纹", "T恤", "的新款"]),
        ("红色的条纹", ["红色", "条纹"], ["红色", "条纹"]),
        ("红色 Nike 鞋子Max", [], ["红色", "Nike", "鞋子", "Max"]),
        ("Redwood", ["red", "wood"], ["Redwood"]),
        ("Polo Men's Tee", ["Men"], ["Polo", "Men's", "Tee"]),
        ("!!!", [], ["!!!"]),
    ],
)
def test_titles_fall_into_units(title, values, units):
    assert title_units(title, values) == units


def test_units_are_joined_without_spaces_only_between_unspaced_scripts():
    assert join_units(["红色", "条纹", "Nike", "mug", "杯"]) == "红色条纹 Nike mug 杯"


def test_occurrences_are_whole_words():
    assert [*occurrences("Women's RED shirt", "red")] == [(8, 11)]
    assert [*occurrences("亮红色T恤", "红色")] == [(1, 3)] and [*occurrences("100% cotton", "100% Cotton")] == [(0, 11)]
    assert not [*occurrences("Incredible mug", "red")] and not [*occurrences("menswear", "men")]


@pytest.mark.skipif(not FASHION.is_dir(), reason="the fashion catalogue is not beside this repository")
def test_a_real_catalogue_file_is_read(tmp_path):
    for split in ("train-00000-of-00004", "test-00000-of-00001"):
        file = pq.ParquetFile(FASHION / f"{split}.parquet")
        pq.write_table(file.read_row_group(0).slice(0, 60), tmp_path / f"{split}.parquet")
    rows = read_catalogue(tmp_path)
    assert len(rows) == 120 and all(decode(row.images[0]).mode == "RGB" for row in rows)
