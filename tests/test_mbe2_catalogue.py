"""Catalogues are read whole or refused with a sentence that names what is wrong, on the real command line."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mbe2_dataset.__main__ import main
from mbe2_dataset.catalogue import read_catalogue
from mbe2_dataset.pictures import Picture, decode
from mbe2_dataset.schema import CATALOGUE
from mbe2_dataset.synthetic import synthetic_rows
from mbe2_dataset.text_units import join_units, mentions, title_units

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


def truncated() -> list[dict]:
    return changed(3, images=[{"bytes": jpeg((1, 2, 3))[:-200], "path": "pictures/broken.jpg"}])


ERRORS = {
    "missing column": (lambda: without("brand"), ["part.parquet", "'brand'", "title, description, category"]),
    "duplicate id": (lambda: changed(4, id="sku/1"), ["'sku/1'", "row 1", "row 4", "part.parquet"]),
    "no id": (lambda: changed(4, id=None), ["Row 4", "part.parquet", "'id'"]),
    "no title": (lambda: changed(4, title=" "), ["'sku/4'", "part.parquet", "'title'"]),
    "no picture": (lambda: changed(4, images=[]), ["'sku/4'", "part.parquet", "'images'"]),
    "no picture bytes": (lambda: changed(4, images=[{"bytes": None, "path": "a.jpg"}]), ["'a.jpg'", "'sku/4'"]),
    "truncated picture": (truncated, ["'pictures/broken.jpg'", "'sku/3'", "part.parquet"]),
    "not a picture": (
        lambda: changed(2, images=[{"bytes": b"<html></html>", "path": "page.jpg"}]),
        ["'page.jpg'", "'sku/2'", "JPEG"],
    ),
    "null split": (lambda: changed(5, split=None), ["'sku/5'", "part.parquet", "'split'"]),
    "unknown split": (lambda: changed(5, split="dev"), ["'sku/5'", "'dev'", "train, validation, test"]),
    "no test rows": (lambda: records()[:8], ["'split'", "'test'"]),
    "column of another type": (lambda: [row | {"attributes": "red"} for row in records()], ["'attributes'", "string"]),
    "nothing to contrast": (lambda: [r for r in records() if r["id"] not in ("sku/6",)], ["'validation'", "'sku/7'"]),
    "group in two splits": (lambda: changed(0, group_id="g9"), ["'train'", "'test'", "group id 'g9'"]),
    "picture in two splits": (
        lambda: changed(0, images=[records()[9]["images"][0]]),
        ["'train'", "'test'", "picture", "pictures/9.jpg"],
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_catalogue_is_refused_with_a_sentence(case, tmp_path, capsys):
    make, expected = ERRORS[case]
    catalogue = write(tmp_path / "catalogue", make())
    assert build(catalogue, tmp_path / "out") == 2
    message = capsys.readouterr().err.split("error: ")[-1]
    assert all(item in message for item in expected), message
    assert message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]


def test_bad_folders_are_refused(tmp_path, capsys):
    assert build(tmp_path / "nowhere", tmp_path / "out") == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    assert build(tmp_path / "bare", tmp_path / "out") == 2
    assert "*.parquet" in capsys.readouterr().err
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
    with pytest.raises(SystemExit) as stop:
        build(tmp_path, tmp_path / "out", *options)
    assert stop.value.code == 2
    assert f"argument {options[0]}: " in capsys.readouterr().err


def test_rows_come_back_as_written(tmp_path):
    rows = changed(4, group_id=None, parent_id="ignored", brand=None, description=None, price=None)
    folder = write(tmp_path / "catalogue", rows[:5], "a.parquet")
    write(folder, rows[5:], "b.parquet")
    read = read_catalogue(folder)
    assert [row.id for row in read] == [row["id"] for row in rows]
    assert read[4].group_id == "sku/4" and read[3].group_id == "g3"
    assert read[4].brand is None and read[4].price is None
    assert read[0].category == ("Clothes", "Shirt") and read[0].attributes == (("colour", "red"), ("fit", "slim"))
    assert read[7].images == (Picture(rows[7]["images"][0]["bytes"], "pictures/7.jpg"),)
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
    assert read_catalogue(write(tmp_path / "catalogue", written)) == rows


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
    with pytest.raises(ValueError, match="not a JPEG, PNG, WEBP, GIF, BMP or TIFF picture"):
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


def test_mentions_are_whole_words():
    assert (
        mentions("Women's RED shirt", "red")
        and mentions("亮红色T恤", "红色")
        and mentions("100% cotton", "100% Cotton")
    )
    assert not mentions("Incredible mug", "red") and not mentions("menswear", "men")


@pytest.mark.skipif(not FASHION.is_dir(), reason="the fashion catalogue is not beside this repository")
def test_a_real_catalogue_file_is_read(tmp_path):
    for split in ("train-00000-of-00004", "test-00000-of-00001"):
        file = pq.ParquetFile(FASHION / f"{split}.parquet")
        pq.write_table(file.read_row_group(0).slice(0, 60), tmp_path / f"{split}.parquet")
    rows = read_catalogue(tmp_path)
    assert len(rows) == 120 and all(decode(row.images[0]).mode == "RGB" for row in rows)
