"""A catalogue's vectors: every source, every view, bad items, and runs that are cut short."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import datasets
import fresh
import numpy as np
import pytest

from common_moon2.cli import UserError
from conftest import picture
from evaluation.arguments import Embed
from evaluation.models import encoders
from evaluation.models.encoders import load_encoder
from evaluation.tables.products import Columns, ProductView, open_products
from evaluation.vectors import catalogue as bulk
from evaluation.vectors.catalogue import embed_catalogue
from evaluation.vectors.store import open_vectors

COUNT = 11


def rows(count: int = COUNT) -> dict:
    return {
        "sku": list(range(100, 100 + count)),
        "title": [f"red mug {row}" if row % 3 else f"红色条纹马克杯 {row}" for row in range(count)],
        "photo": [picture(30 + row % 5, 24, seed=row) for row in range(count)],
    }


def table(path: Path, change=None, count: int = COUNT) -> str:
    content = rows(count)
    features = datasets.Features(
        {"sku": datasets.Value("int64"), "title": datasets.Value("string"), "photo": datasets.Image()}
    )
    dataset = datasets.Dataset.from_dict(content, features=features).cast_column("photo", datasets.Image(decode=False))
    content = dataset.to_dict()
    if change is not None:
        change(content)
    datasets.Dataset.from_dict(content, features=dataset.features).cast(features).to_parquet(str(path))
    return str(path)


def run(source: str, model: str, output: Path, num_proc: int = 1, **options) -> dict:
    columns = {"id_column": "sku", "text_column": "title", "image_column": "photo"}
    settings = {"model": model, "dataset": source, "output": output, "view": "mm", "shard_size": 4, "batch_size": 3}
    return embed_catalogue(Embed(**settings | columns | options, num_proc=num_proc))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("view", ["own", "t", "i", "mm"])
def test_vectors_are_those_of_the_model(tmp_path, model, view):
    manifest = run(table(tmp_path / "c.parquet"), model, tmp_path / "v", view=view)
    content = rows()
    products = [
        {"text": None if view == "i" else text, "image": None if view == "t" else photo}
        for text, photo in zip(content["title"], content["photo"], strict=True)
    ]
    opened = open_vectors(tmp_path / "v")
    np.testing.assert_allclose(opened.array, load_encoder(model).encode(products, 20).numpy(), atol=1e-5)
    assert opened.ids.tolist() == [str(100 + row) for row in range(COUNT)]
    assert (manifest["vectors"], manifest["skipped"], manifest["view"]) == (COUNT, 0, view)


def test_a_run_that_was_cut_short_ends_with_the_same_bytes(tmp_path, model, monkeypatch):
    source = table(tmp_path / "c.parquet")
    run(source, model, tmp_path / "whole")
    write, written = bulk.write_shard, []

    def dying(path, *content):
        if len(written) == 2:
            path.with_name(f".{path.name}.7-7.part").write_bytes(b"half of a shard")
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *content)

    monkeypatch.setattr(bulk, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        run(source, model, tmp_path / "cut")
    assert not (tmp_path / "cut" / "manifest.json").exists()
    written.clear()
    monkeypatch.setattr(bulk, "write_shard", lambda *arguments: written.append(arguments[0].name) or write(*arguments))
    run(source, model, tmp_path / "cut")
    assert written == ["00002.parquet"]
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def damage(content: dict) -> None:
    content["photo"][2]["bytes"] = content["photo"][2]["bytes"][:60]
    content["photo"][5] = None
    content["title"][9] = " "


def test_bad_items_are_named_or_noted(tmp_path, model):
    source = table(tmp_path / "c.parquet", damage)
    with pytest.raises(UserError, match=r"row 2 \(id '102'\) cannot be prepared"):
        run(source, model, tmp_path / "raise")
    manifest = run(source, model, tmp_path / "skip", on_error="skip")
    assert (manifest["vectors"], manifest["skipped"]) == (COUNT - 3, 3)
    notes = [json.loads(line) for line in (tmp_path / "skip" / "skipped.jsonl").read_text().splitlines()]
    assert [(note["row"], note["id"]) for note in notes] == [(2, "102"), (5, "105"), (9, "109")]
    assert "cannot be prepared" in notes[0]["reason"] and notes[1]["reason"] == "there is no image"
    opened, whole = open_vectors(tmp_path / "skip"), open_vectors_of(tmp_path, model)
    kept = [row for row in range(COUNT) if row not in (2, 5, 9)]
    assert opened.ids.tolist() == [str(100 + row) for row in kept]
    np.testing.assert_allclose(opened.array, whole[kept], atol=1e-5)


def open_vectors_of(tmp_path: Path, model: str) -> np.ndarray:
    run(table(tmp_path / "good.parquet"), model, tmp_path / "good")
    return open_vectors(tmp_path / "good").array


def test_a_run_may_go_on_with_other_batches_and_with_skipping(tmp_path, model):
    source = table(tmp_path / "c.parquet", damage)
    with pytest.raises(UserError, match="row 2"):
        run(source, model, tmp_path / "v")
    manifest = run(source, model, tmp_path / "v", batch_size=2, on_error="skip")
    assert (manifest["vectors"], manifest["skipped"]) == (COUNT - 3, 3)
    assert (manifest["batch_size"], manifest["on_error"]) == (2, "skip")
    with pytest.raises(UserError, match=r"begun with --on_error skip and lacks row 2 \(id '102'\): .*cannot be"):
        run(source, model, tmp_path / "v")


def test_a_text_model_says_which_view_it_has(tmp_path, model, monkeypatch):
    encoder = load_encoder(model)
    encoder.views = frozenset("t")
    monkeypatch.setattr(encoders, "load_encoder", lambda *names: encoder)

    def bare(content):
        content["photo"] = [None] * COUNT

    for on_error in ("raise", "skip"):
        with pytest.raises(UserError, match="has images, which .* cannot embed: give --view t"):
            run(table(tmp_path / "c.parquet"), model, tmp_path / "v", view="own", on_error=on_error)
    assert not (tmp_path / "v").exists()
    assert run(table(tmp_path / "c.parquet"), model, tmp_path / "t", view="t")["vectors"] == COUNT
    assert run(table(tmp_path / "b.parquet", bare), model, tmp_path / "own", view="own")["vectors"] == COUNT


def test_nothing_to_embed_is_an_error(tmp_path, model):
    def empty(content):
        content["photo"] = [None] * COUNT

    with pytest.raises(UserError, match="None of the 11 products could be embedded"):
        run(table(tmp_path / "c.parquet", empty), model, tmp_path / "v", view="i", on_error="skip")


def test_a_folder_belongs_to_one_run(tmp_path, model):
    source = table(tmp_path / "c.parquet")
    first = run(source, model, tmp_path / "v")
    assert run(source, model, tmp_path / "v", workers=1) == first
    with pytest.raises(UserError, match=r"another run \(view differ\)"):
        run(source, model, tmp_path / "v", view="t")

    def edit(content):
        content["title"][0] = "blue"

    with pytest.raises(UserError, match="data_fingerprint"):
        run(table(tmp_path / "c.parquet", edit), model, tmp_path / "v")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        run(source, model, tmp_path / "other")


def test_tables_of_other_kinds(tmp_path, model):
    """A CSV whose images are files beside it."""
    content = rows(3)
    for row, photo in enumerate(content["photo"]):
        photo.save(tmp_path / f"{row}.png")
    lines = [f"{100 + row},{title},{row}.png" for row, title in enumerate(content["title"])]
    (tmp_path / "c.csv").write_text("\n".join(["sku,title,photo", *lines]), encoding="utf-8")
    run(str(tmp_path / "c.csv"), model, tmp_path / "csv")
    run(table(tmp_path / "c.parquet", count=3), model, tmp_path / "parquet")
    np.testing.assert_array_equal(open_vectors(tmp_path / "csv").array, open_vectors(tmp_path / "parquet").array)


def csv(path: Path, *lines: str):
    path.write_text("\n".join(["id,text,image", *lines]), encoding="utf-8")
    return open_products(str(path))


def test_a_csv_file_is_read_as_it_stands(tmp_path):
    items = csv(tmp_path / "c.csv", "00123,NA,http://a.b/1.jpg", "123,None,0012", "1.0,007,", "x,,null")
    assert items.ids == ["00123", "123", "1.0", "x"]
    shown = ProductView(items, "own", range(4))
    assert [item["text"] for item in shown] == ["NA", "None", "007", None] and shown.text_lengths == [2, 4, 3, 0]
    pictures = ["http://a.b/1.jpg", str(tmp_path / "0012"), None, str(tmp_path / "null")]
    assert [item["image"] for item in shown] == pictures
    (tmp_path / "c.tsv").write_text("id\ttext\n007\tmug, red", encoding="utf-8")
    items = open_products(str(tmp_path / "c.tsv"), columns=Columns(image=None))
    assert items.ids == ["007"] and items.product(0) == {"text": "mug, red", "image": None}
    with pytest.raises(UserError, match="Row 1 of .* has no id"):
        csv(tmp_path / "c.csv", "1,a,", ",b,")
    with pytest.raises(UserError, match="first row has more fields than its header"):
        csv(tmp_path / "c.csv", "1,mug, red,", "2,cup,")
    (tmp_path / "b.csv").write_text("\nid,text,image\n\n1,mug,\n", encoding="utf-8")
    assert open_products(str(tmp_path / "b.csv")).ids == ["1"], "blank lines say nothing"
    assert len(csv(tmp_path / "c.csv", f"1,{'mug ' * 40_000},").texts[0]) == 160_000


def test_tables_that_cannot_be_used_are_refused(tmp_path):
    source = table(tmp_path / "c.parquet")
    with pytest.raises(UserError, match="no column 'id'; it has: sku, title, photo. Name .* --id_column.$"):
        open_products(source)
    with pytest.raises(UserError, match="no column 'image'; .* or --image_column \"\" if it has no images"):
        open_products(source, columns=Columns("sku", "title"))
    with pytest.raises(UserError, match="column 'sku' of .* holds .*int64.*, not texts"):
        open_products(source, columns=Columns("title", "sku", "photo"))
    with pytest.raises(UserError, match="no file"):
        open_products(str(tmp_path / "none.parquet"))

    def twice(content):
        content["sku"][4] = content["sku"][1]

    with pytest.raises(UserError, match="Rows 1 and 4 .* same id '101'"):
        open_products(table(tmp_path / "c.parquet", twice), columns=Columns("sku", "title", "photo"))
    (tmp_path / "bad.parquet").write_text("<html>")
    with pytest.raises(UserError, match="cannot be read as a table"):
        open_products(str(tmp_path / "bad.parquet"))


@pytest.mark.slow
def test_processes_and_kill_9(tmp_path, model):
    """Two processes, killed with all their children as soon as the first shard is there, then started again."""
    source = table(tmp_path / "c.parquet", count=60)
    run(source, model, tmp_path / "whole")
    code = (
        "import sys; from test_bulk import run; from pathlib import Path\n"
        "if __name__ == '__main__': run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), num_proc=2)"
    )
    script = tmp_path / "go.py"
    script.write_text(code)
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}:{here.parents[1]}"}
    command = [str(script), source, model, str(tmp_path / "cut")]
    process = fresh.start(command, environment)
    while process.is_alive() and not list(tmp_path.glob("cut/shards/*.parquet")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    fresh.run(command, environment).check_returncode()
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
