"""A stored catalogue: every row is in it or set aside with the reason; its bytes depend on source and options only."""

import hashlib
import io
import json
import os
import time
from pathlib import Path

import datasets
import fresh
import numpy as np
import pytest
from PIL import Image, ImageDraw

import mbe2_dataset.catalogue.ingest as ingest_module
from mbe2_dataset.catalogue import pictures as contents
from mbe2_dataset.catalogue.ingest import IngestOptions, ingest
from mbe2_dataset.catalogue.pictures import decode
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.store import Catalogue, Item, Problem
from mbe2_dataset.catalogue.tables import LocalTables
from mbe2_dataset.errors import CatalogueError

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def jpeg(key: object, size: tuple[int, int] = (24, 32), kind: str = "JPEG") -> bytes:
    seed = int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, kind)
    return buffer.getvalue()


def record(name: str, *images: dict, **more: object) -> dict:
    images = images or ({"bytes": jpeg(name), "path": f"{name}.jpg"},)
    return {"id": name, "title": f"Mug {name}", "images": list(images), **more}


class Shop:
    """A source that is written in a test."""

    name = "shop"

    def __init__(self, items: list, folder: Path | None = None) -> None:
        self.items = [item if isinstance(item, Problem) else Item(f"row {n}", item) for n, item in enumerate(items)]
        self.folder = folder

    def __iter__(self):
        return iter(self.items)

    def fingerprint(self) -> str:
        return repr(self.items)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_catalogue_keeps_texts_and_pictures_and_opens_again(tmp_path):
    more = {"brand": "Acme", "category": ["Kitchen", "Mug"], "attributes": [{"name": "colour", "value": "red"}],
            "price": 2.5, "description": "A mug.", "split": "test", "group_id": "g", "parent_id": "p",
            "noise": ["n"], "translations": [{"label": "red", "text": "红色"}]}  # fmt: skip
    png = jpeg("png", (40, 20), "PNG")
    source = Shop(
        [record("a", {"bytes": jpeg("a"), "path": "a.jpg"}, {"bytes": png, "path": None}, **more), record("b")]
    )
    catalogue = ingest(source, tmp_path / "stored")
    row = catalogue.rows[0]
    assert (row.brand, row.category, row.attributes) == ("Acme", ("Kitchen", "Mug"), (("colour", "red"),))
    assert (row.price, row.description, row.split, row.group_id, row.parent_id) == (2.5, "A mug.", "test", "g", "p")
    assert (row.noise, row.translations) == (("n",), {"red": "红色"})
    assert [picture.path for picture in row.images] == ["a.jpg", "a-1"]
    assert row.images[1].bytes == png and row.images[1].sha256 == hashlib.sha256(png).hexdigest()
    assert row.images[1].size == (40, 20) == decode(row.images[1]).size
    assert list(Catalogue(catalogue.folder).rows) == list(catalogue.rows) and catalogue.rows is catalogue.rows
    assert catalogue.rows[1].brand is None and catalogue.rows[1].category == () and catalogue.rows[1].noise == ()
    pictures = datasets.Dataset.from_file(str(row.images[0].file))
    assert pictures[1]["bytes"] == png
    with pytest.raises(CatalogueError, match="no stored catalogue"):
        Catalogue(tmp_path)


@pytest.fixture
def shelf(tmp_path) -> Path:
    """A folder of images, some of them not what they should be, and one outside of it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg("secret"))
    (folder / "good.jpg").write_bytes(jpeg("good"))
    (folder / "half.jpg").write_bytes(jpeg("half")[:-150])
    (folder / "page.jpg").write_bytes(b"<html>no</html>")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    return folder


FAULTS = {
    "missing on disk": ({"path": "none.jpg"}, "none.jpg: the file cannot be read: No such file"),
    "a folder": ({"path": "."}, "the file cannot be read: Is a directory"),
    "truncated": ({"path": "half.jpg"}, "half.jpg: "),
    "HTML named .jpg": ({"path": "page.jpg"}, "page.jpg: not a JPEG"),
    "out of the folder": ({"path": "../secret.jpg"}, "../secret.jpg: it lies outside of the source's folder"),
    "absolute path": ({"path": "/etc/passwd"}, "it lies outside of the source's folder"),
    "link out of the folder": ({"path": "link.jpg"}, "it lies outside of the source's folder"),
    "NUL in the name": ({"path": "a\0.jpg"}, "null"),
    "address": ({"url": "https://x.test/a.jpg"}, "https://x.test/a.jpg: addresses are not fetched"),
    "not bytes of an image": ({"bytes": b"", "path": "x.jpg"}, "images[0]: not a JPEG"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_row_without_a_usable_picture_is_set_aside(case, shelf, tmp_path):
    picture, reason = FAULTS[case]
    catalogue = ingest(Shop([record("a"), record("b", picture), record("c")], shelf), tmp_path / "stored")
    assert [row.id for row in catalogue.rows] == ["a", "c"]
    (problem,) = catalogue.quarantine()
    assert (problem["where"], problem["id"], problem["picture"]) == ("row 1", "b", None)
    assert reason.removeprefix("images[0]") in problem["reason"], problem


def test_a_picture_that_cannot_be_read_is_set_aside_alone(shelf, tmp_path):
    pictures = [{"path": "half.jpg"}, {"path": "good.jpg"}, {"path": "../secret.jpg"}]
    catalogue = ingest(Shop([record("a", *pictures)], shelf), tmp_path / "stored")
    assert [picture.path for picture in catalogue.rows[0].images] == ["good.jpg"]
    assert [problem["picture"] for problem in catalogue.quarantine()] == ["half.jpg", "../secret.jpg"]
    assert catalogue.summary["counts"] == {
        "pictures_in": 3, "pictures_out": 1, "pictures_quarantined": 2,
        "rows_in": 1, "rows_out": 1, "rows_quarantined": 0,
    }  # fmt: skip


def test_rows_in_are_rows_out_and_rows_set_aside(tmp_path):
    source = Shop([
        record("a", split="train"), record("a", split="train"), record("b", split="holdout"),
        record("c") | {"images": []}, record("d", title=" "), record(""),
        Problem("row 6", "e", "its line is not JSON"), record("f", split="test"),
        record("b", split="test"), record("g", split=None),
    ])  # fmt: skip
    catalogue = ingest(source, tmp_path / "stored")
    assert [row.id for row in catalogue.rows] == ["a", "f", "b"]
    reasons = {problem["where"]: problem["reason"] for problem in catalogue.quarantine()}
    words = {"row 1": "'a' occurs in row 0", "row 2": "'holdout' in column 'split'", "row 3": "no image",
             "row 4": "no title", "row 5": "no id", "row 6": "not JSON", "row 9": "None in column 'split'"}  # fmt: skip
    assert list(reasons) == list(words) and all(words[where] in reasons[where] for where in words), reasons
    counts = catalogue.summary["counts"]
    assert (counts["rows_in"], counts["rows_out"], counts["rows_quarantined"]) == (10, 3, 7)


def test_sources_of_which_nothing_can_be_used_are_refused_and_leave_nothing_behind(tmp_path):
    for items, words in (([], "is empty"), ([record("a", title="")], "None of the 1 rows.*row 0: it has no title")):
        with pytest.raises(CatalogueError, match=words):
            ingest(Shop(items), tmp_path / "stored")
        assert list(tmp_path.iterdir()) == []


def test_groups_are_rows_of_one_title_or_one_picture_joined_transitively(tmp_path):
    same = {"bytes": jpeg("same"), "path": "x.jpg"}
    catalogue = ingest(
        Shop([
            record("a", title="Red  mug"), record("b", title="red MUG", split="test"),
            record("c", same, title="Mug, blue"), record("d"),
            record("e", same, {"bytes": jpeg("e2"), "path": "e.jpg"}, title="Red mug "),
            record("f", title="Red mug", group_id="own"), record("g", title="Red mug", group_id=None),
        ]),
        tmp_path / "stored",
    )  # fmt: skip
    assert [row.group_id for row in catalogue.rows] == ["a", "a", "a", "d", "a", "own", "g"]
    assert {row.split for row in catalogue.rows if row.group_id == "a"} == {"test"}
    assert catalogue.summary["groups"] == 4 and "same title" in catalogue.summary["groups_made"]
    (largest,) = catalogue.summary["largest_groups"]
    assert largest == {"group_id": "a", "rows": 4, "reason": "nearly the same title and the same image"}
    given = ingest(Shop([record("a", group_id="x")]), tmp_path / "given")
    assert given.summary["groups_made"] == "given by the source"


KINDS = ("kettle", "sofa", "drill", "violin", "tent", "lamp")


def named(kind: str, *images: dict, **more: object) -> dict:
    return record(kind, *images, title=f"Distinct product {kind}", category=["Shop", kind], **more)


def own(kind: str) -> dict:
    return {"bytes": jpeg(kind), "path": f"{kind}.jpg"}


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("splits", [False, True])
def test_a_picture_that_different_products_share_identifies_none_of_them(groups, splits, tmp_path):
    chart = {"bytes": jpeg("chart"), "path": "chart.jpg"}
    given = [{"group_id": kind} if groups else {} for kind in KINDS]
    given = [one | ({"split": ("train", "test")[place % 2]} if splits else {}) for place, one in enumerate(given)]
    items = [named(kind, own(kind), chart, **more) for kind, more in zip(KINDS[:4], given, strict=False)]
    items += [named(kind, chart, **more) for kind, more in zip(KINDS[4:], given[4:], strict=True)]
    catalogue = ingest(Shop(items), tmp_path / "stored")
    assert [row.id for row in catalogue.rows] == [row.group_id for row in catalogue.rows] == list(KINDS[:4])
    assert all([picture.path for picture in row.images] == [f"{row.id}.jpg"] for row in catalogue.rows)
    aside = {problem["id"]: problem for problem in catalogue.quarantine()}
    assert [aside[kind]["picture"] for kind in KINDS] == ["chart.jpg"] * 4 + [None] * 2
    assert all("products with different titles share it" in problem["reason"] for problem in aside.values())
    assert catalogue.summary["counts"] == {
        "pictures_in": 8, "pictures_out": 4, "pictures_quarantined": 4,
        "rows_in": 6, "rows_out": 4, "rows_quarantined": 2,
    }  # fmt: skip
    (shared,) = catalogue.shared_pictures()
    assert (shared["picture"], shared["products"]) == ("chart.jpg", 6) and catalogue.summary["shared_pictures"] == 1
    assert "left out: chart.jpg, which 6 products with different titles share" in ingest_module.told_lines(catalogue)


def test_a_placeholder_that_was_encoded_anew_is_found_and_products_that_look_alike_stay(tmp_path):
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).text((40, 90), "NO IMAGE YET", fill="grey")

    def encoded(quality: int) -> dict:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return {"bytes": buffer.getvalue(), "path": f"none{quality}.jpg"}

    items = [named(kind, own(kind), encoded(60 + 5 * place)) for place, kind in enumerate(KINDS)]
    catalogue = ingest(Shop(items), tmp_path / "stored")
    assert all(len(row.images) == 1 for row in catalogue.rows) and catalogue.summary["shared_pictures"] == 6
    # two of a kind in other bytes may be two products that look alike
    pair = ingest(Shop(items[:2]), tmp_path / "pair")
    assert all(len(row.images) == 2 for row in pair.rows)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"title": "Red mug"}, {"title": "Blue Mug"}),
        ({"title": "Linen shirt classic XL"}, {"title": "Linen shirt classic S"}),
        ({"title": "Mug Koralle", "attributes": [{"name": "Farbe", "value": "Koralle"}]},
         {"title": "Mug Minze", "attributes": [{"name": "Farbe", "value": "Minze"}]}),
        ({"title": "Halden garden table oak 2"}, {"title": "Halden garden table oak"}),
        ({"title": "A", "parent_id": "p"}, {"title": "B", "parent_id": "p"}),
        ({"title": "A", "group_id": "g"}, {"title": "B", "group_id": "g"}),
        ({"title": "红色马克杯大号"}, {"title": "蓝色马克杯大号"}),
    ],
)  # fmt: skip
def test_a_picture_that_variants_of_one_product_share_stays(one, other, tmp_path):
    same = {"bytes": jpeg("same"), "path": "same.jpg"}
    catalogue = ingest(Shop([record("a", same) | one, record("b", same) | other]), tmp_path / "stored")
    assert len({row.group_id for row in catalogue.rows}) == 1 and len(catalogue.rows) == 2
    assert not list(catalogue.quarantine())


def test_variants_that_the_source_puts_into_different_groups_stay_in_one_split(tmp_path):
    items = []
    for kind in (f"{first}{second}" for first in KINDS for second in KINDS):
        same = {"bytes": jpeg(kind), "path": f"{kind}.jpg"}
        items += [
            record(f"{kind}{colour}", same, title=f"{colour} {kind}", group_id=f"{kind}{colour}")
            for colour in ("red", "blue")
        ]
    rows = ingest(Shop(items), tmp_path / "stored").rows
    assert len(rows) == 72 and all(one.split == other.split for one, other in zip(rows[::2], rows[1::2], strict=True))
    assert {row.split for row in rows} == {"train", "validation", "test"}


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_small_catalogues_have_what_every_split_needs_for_every_seed(count, groups, tmp_path):
    items = [record(f"{number}", **({"group_id": f"g{number}"} if groups else {})) for number in range(count)]
    for seed in range(12):
        catalogue = ingest(Shop(items), tmp_path / f"{seed}", IngestOptions(seed=seed))
        rows = catalogue.summary["rows"]
        assert rows["train"] >= 2 and rows["test"] >= 1 and rows["validation"] != 1, rows
        assert rows["validation"] >= 2 or count < 5
    none = ingest(Shop(items), tmp_path / "none", IngestOptions(shares=(1, 0, 1))).summary["rows"]
    assert none["validation"] == 0


def test_what_was_changed_and_what_cannot_be_read_is_counted_over_parts_and_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest_module, "PART_ROWS", 8)
    source = Shop([record(f"{number}") for number in range(20)])
    source.items = [
        Item(item.where, item.record, {"title: HTML made text": 1}, (("price", "'free' is no number"),)[: place % 2])
        for place, item in enumerate(source.items)
    ]
    catalogue = ingest(source, tmp_path / "stored", num_proc=2)
    assert catalogue.summary["changes"] == {"price: cannot be read, left empty": 10, "title: HTML made text": 20}
    assert catalogue.summary["counts"]["rows_out"] == 20 and catalogue.summary["counts"]["pictures_quarantined"] == 0
    problems = list(catalogue.quarantine())
    assert len(problems) == 10 and problems[0] == {
        "where": "row 1", "id": "1", "reason": "'free' is no number", "picture": None, "column": "price"
    }  # fmt: skip


def test_what_the_processor_refuses_is_set_aside_by_the_same_rule(tmp_path):
    banner, thin = ({"bytes": jpeg("b", size, "PNG"), "path": "b.png"} for size in ((2000, 8), (1600, 8)))
    catalogue = ingest(Shop([record("a", banner), record("b", thin)]), tmp_path / "stored")
    (problem,) = catalogue.quarantine()
    assert problem["id"] == "a" and "one side is more than 200 times the other" in problem["reason"]


def test_avif_is_kept_and_heic_becomes_jpeg_where_it_can_be_read(tmp_path):
    catalogue = ingest(Shop([record("a", {"bytes": jpeg("a", kind="AVIF"), "path": "a.avif"})]), tmp_path / "avif")
    assert catalogue.rows[0].images[0].bytes == jpeg("a", kind="AVIF")
    pytest.importorskip("pillow_heif")
    catalogue = ingest(Shop([record("a", {"bytes": jpeg("a", (64, 64), "HEIF"), "path": "a.heic"})]), tmp_path / "heic")
    picture = catalogue.rows[0].images[0]
    assert picture.bytes[:2] == b"\xff\xd8" and picture.path == "a.jpg" and picture.size == (64, 64)


def test_a_path_with_a_leading_slash_begins_in_the_folder_of_pictures(shelf, tmp_path):
    (shelf / "m" / "g").mkdir(parents=True)
    (shelf / "m" / "g" / "x.jpg").write_bytes(jpeg("x"))
    items = [record("a", {"path": "/m/g/x.jpg"}), record("b", {"path": "m\\g\\x.jpg"}, title="Mug a"),
             record("c", {"path": "/m/g/none.jpg"})]  # fmt: skip
    catalogue = ingest(Shop(items, shelf), tmp_path / "stored")
    assert [row.images[0].bytes for row in catalogue.rows] == [jpeg("x")] * 2
    (problem,) = catalogue.quarantine()
    assert problem["id"] == "c" and "no such file below it" in problem["reason"]


def test_splits_are_assigned_by_group_and_seed_and_do_not_change_when_the_catalogue_grows(tmp_path):
    def splits(name: str, count: int, **options) -> dict[str, str]:
        items = [record(f"{number}", title=f"Mug {number // 2}") for number in range(count)]
        rows = ingest(Shop(items), tmp_path / name, IngestOptions(**options)).rows
        assert all(rows[place].split == rows[place + 1].split for place in range(0, count, 2))
        return {row.id: row.split for row in rows}

    large = splits("large", 200)
    assert splits("small", 100).items() <= large.items() and splits("seed", 200, seed=1) != large
    shares = [
        list(splits("shares", 200, shares=(2, 0, 2)).values()).count(name) for name in ("train", "validation", "test")
    ]
    assert shares[1] == 0 and 60 <= shares[0] <= 140
    given = [record(f"{number}", split="test") for number in range(40)]
    assert {row.split for row in ingest(Shop(given), tmp_path / "given").rows} == {"test"}
    again = ingest(Shop(given), tmp_path / "again", IngestOptions(assign_splits=True))
    assert "train" in {row.split for row in again.rows} and "seed 0" in again.summary["splits_made"]


def test_processes_do_not_change_a_byte(tmp_path):
    source = Shop([record(f"{number}") if number % 7 else Problem("x", None, "y") for number in range(60)])
    one, two = (ingest(source, tmp_path / f"{number}", num_proc=number) for number in (1, 2))
    assert contents_of(one.folder) == contents_of(two.folder) and len(two.rows) == 51


def test_processes_read_only_so_far_ahead():
    """What waits to be checked holds the bytes of images."""
    pulled = []
    results = ingest_module._in_order(len, (pulled.append(number) or number for number in range(1000)), 2)
    assert next(results) == 8 and len(pulled) <= 64
    assert sum(results) == 1000 - 8


def test_a_finished_catalogue_is_used_again_and_another_one_is_not_replaced_unasked(tmp_path, monkeypatch):
    source = Shop([record("a")])
    first = ingest(source, tmp_path / "stored")
    monkeypatch.setattr(ingest_module, "_check_chunk", None)
    again = ingest(source, tmp_path / "stored", IngestOptions(connections=2), num_proc=2)
    assert list(again.rows) == list(first.rows)
    monkeypatch.undo()
    for other, options in ((Shop([record("b")]), None), (source, IngestOptions(seed=1))):
        with pytest.raises(CatalogueError, match="another source, of other files or with other options"):
            ingest(other, tmp_path / "stored", options)
    assert [row.id for row in ingest(Shop([record("b")]), tmp_path / "stored", overwrite=True).rows] == ["b"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(CatalogueError, match="not empty"):
        ingest(source, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


KILLED = """
import sys, time
sys.path[:0] = {paths!r}
import mbe2_dataset.catalogue.ingest as module
from mbe2_dataset.catalogue.tables import LocalTables
from mbe2_dataset.catalogue.products import ProductSource

class Slow(ProductSource):
    def __iter__(self):
        for item in super().__iter__():
            time.sleep({pause})
            yield item

module.PART_ROWS = 8
module.ingest(Slow(LocalTables({table!r})), {folder!r})
"""


def test_after_kill_9_the_next_run_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch):
    table = tmp_path / "shop" / "rows.jsonl"
    table.parent.mkdir()
    rows = []
    for number in range(60):
        (table.parent / f"{number}.jpg").write_bytes(jpeg(number)[: 100 if number == 21 else None])
        rows.append({"id": str(number % 50), "title": f"Mug {number // 3}", "image": f"{number}.jpg"})
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder, parts = tmp_path / "killed", tmp_path / ".killed.incomplete" / "parts"
    script = KILLED.format(paths=[str(ROOT)], pause=0.02, table=str(table.parent), folder=str(folder))
    process = fresh.start(["-c", script])
    limit = time.monotonic() + 60
    while not (parts / "00002").exists() and process.is_alive() and time.monotonic() < limit:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert (parts / "00002").exists() and not folder.exists()
    kept = os.stat(parts / "00001" / "pictures.arrow").st_ino
    monkeypatch.setattr(ingest_module, "PART_ROWS", 8)
    source = ProductSource(LocalTables(table.parent))
    killed = ingest(source, folder)
    assert os.stat(folder / "parts" / "00001" / "pictures.arrow").st_ino == kept
    whole = ingest(source, tmp_path / "whole")
    assert contents_of(killed.folder) == contents_of(whole.folder)
    assert len(killed.rows) == 49 and len(list(killed.quarantine())) == 11
    assert [row.images[0].bytes for row in killed.rows] == [jpeg(number) for number in range(50) if number != 21]
    assert not list(tmp_path.glob(".*"))


def test_what_another_source_left_unfinished_is_not_used(tmp_path, monkeypatch):
    for name in ("PART_ROWS", "CHUNK_ROWS"):
        monkeypatch.setattr(ingest_module, name, 2)
    broken = Shop([record(f"{number}") for number in range(4)])
    broken.items.append(None)
    with pytest.raises(AttributeError):
        ingest(broken, tmp_path / "stored")
    assert (tmp_path / ".stored.incomplete" / "parts" / "00000").exists()
    assert [row.id for row in ingest(Shop([record("z")]), tmp_path / "stored").rows] == ["z"]


def test_large_pictures_are_bounded_if_asked_and_small_ones_stay_as_they_are(tmp_path):
    large, small = jpeg("large", (200, 100), "PNG"), jpeg("small", (20, 10))
    items = [record("a", {"bytes": large, "path": "l.png"}, {"bytes": small, "path": "s.jpg"})]
    (row,) = ingest(Shop(items), tmp_path / "stored", IngestOptions(max_pixels=5000)).rows
    assert row.images[0].path == "l.jpg" and row.images[0].size == (100, 50) == decode(row.images[0]).size
    assert row.images[1].bytes == small


def test_only_the_first_rows(tmp_path):
    items = [record(f"{number}") for number in range(9)]
    assert len(ingest(Shop(items), tmp_path / "stored", IngestOptions(limit=4)).rows) == 4


def test_addresses_are_fetched_if_allowed_and_asked_again_only_where_that_may_help(tmp_path, monkeypatch):
    calls = []

    def fetch(url: str) -> bytes:
        calls.append(url)
        if "busy" in url and calls.count(url) < 3:
            raise ValueError(f"{url} answers 503 Service Unavailable")
        if "gone" in url:
            raise ValueError(f"{url} answers 404 Not Found")
        if "down" in url:
            raise ValueError(f"fetching {url} failed") from ConnectionError("down")
        return jpeg(url)

    monkeypatch.setattr(contents, "fetch", fetch)
    monkeypatch.setattr(contents, "PAUSE_SECONDS", 0.0)
    urls = [f"https://x.test/{name}.jpg?w=9" for name in ("fine", "busy", "gone", "down")]
    catalogue = ingest(
        Shop([record(f"{number}", {"url": url}) for number, url in enumerate(urls)]),
        tmp_path / "stored",
        IngestOptions(allow_urls=True, connections=2),
    )
    assert [(row.images[0].path, row.images[0].bytes) for row in catalogue.rows] == [
        ("fine.jpg", jpeg(urls[0])), ("busy.jpg", jpeg(urls[1]))
    ]  # fmt: skip
    assert [calls.count(url) for url in urls] == [1, 3, 1, 3]
    assert [problem["id"] for problem in catalogue.quarantine()] == ["2", "3"]


def test_this_machine_is_not_asked_for_pictures(tmp_path):
    catalogue = ingest(
        Shop([record("a"), record("b", {"url": "http://127.0.0.1:9/a.jpg"})]),
        tmp_path / "stored",
        IngestOptions(allow_urls=True),
    )
    (problem,) = catalogue.quarantine()
    assert "127.0.0.1, which is not an address of the public Internet" in problem["reason"]


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the product data are not beside this repository")


@needs_data
def test_real_catalogues_come_in_whole(tmp_path):
    sample = ingest(ProductSource(LocalTables(DATA / "sample")), tmp_path / "sample")
    assert sample.summary["counts"]["rows_out"] == 101 and sample.summary["groups"] == 98
    luma = ingest(ProductSource(LocalTables(DATA / "luma")), tmp_path / "luma")
    assert sum(len(row.images) for row in luma.rows) == 264 + 459 == luma.summary["counts"]["pictures_in"]
    assert luma.summary["rows"] == {"train": 295, "validation": 0, "test": 169} and luma.summary["groups"] == 63 + 118
    assert {row.parent_id is None for row in luma.rows} == {True, False}
    fashion = ingest(ProductSource(LocalTables(DATA / "fashion")), tmp_path / "fashion", IngestOptions(limit=60))
    assert len(fashion.rows) == 60 and all(row.brand and len(row.attributes) > 3 for row in fashion.rows)


@needs_data
def test_groups_made_here_are_those_of_the_data(tmp_path):
    """The packed data were grouped by the same rule; group_id is mapped away, so it is made anew."""
    given = {row.id: row.group_id for row in ingest(ProductSource(LocalTables(DATA / "luma")), tmp_path / "given").rows}
    made = ingest(ProductSource(LocalTables(DATA / "luma"), {"group_id": ()}), tmp_path / "made").rows
    partitions = []
    for groups in (given, {row.id: row.group_id for row in made}):
        members: dict[str, set[str]] = {}
        for name, group in groups.items():
            members.setdefault(group, set()).add(name)
        partitions.append(sorted(map(sorted, members.values())))
    assert partitions[0] == partitions[1]
