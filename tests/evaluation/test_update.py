"""Bringing vectors up to date: what is embedded, what is kept beside, and kills at any point."""

import json
import os
import re
import signal
from pathlib import Path
from threading import Thread

import fresh
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_bulk import digests, run, table

from common_moon2.cli import UserError
from conftest import picture, tiny_model, tiny_processor
from evaluation.__main__ import main
from evaluation.models.encoders import Moon2Encoder
from evaluation.tables.details import read_filters
from evaluation.vectors import catalogue, search, store
from evaluation.vectors.store import open_vectors, read_beside

COUNT = 11


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """How many products each call of the encoder has embedded."""
    counts, encode = [], Moon2Encoder.encode

    def counting(self, products, *more, **options):
        counts.append(len(products))
        return encode(self, products, *more, **options)

    monkeypatch.setattr(Moon2Encoder, "encode", counting)
    return counts


def change(content: dict) -> None:
    """A changed title, a changed photo, one that is gone, one that is new; the others in another order."""
    for name in content:
        content[name] = content[name][1:][::-1] + content[name][:1]
    content["title"][0], content["photo"][3] = "a green lamp", content["photo"][7]
    for name in content:
        del content[name][5]
    content["sku"].append(500)
    content["title"].append("a teapot")
    content["photo"].append(content["photo"][0])


def test_only_what_is_new_or_changed_is_embedded(tmp_path, model, embedded, capsys):
    source = table(tmp_path / "c.parquet")
    run(source, model, tmp_path / "v", update=True)  # nothing there yet: a run like any other
    before = {identifier: row for row, identifier in enumerate(open_vectors(tmp_path / "v").ids.tolist())}
    old = np.array(open_vectors(tmp_path / "v").array)
    embedded.clear()
    table(tmp_path / "c.parquet", change)
    facts = run(source, model, tmp_path / "v", update=True)
    assert (facts["unchanged"], facts["new"], facts["changed"], facts["removed"]) == (8, 1, 2, 1)
    assert sum(embedded) == facts["to_embed"] == 3
    assert "8 products unchanged, 1 new, 2 changed, 1 removed: 3 to embed\n" in capsys.readouterr().out
    run(source, model, tmp_path / "whole")
    updated, whole = open_vectors(tmp_path / "v"), open_vectors(tmp_path / "whole")
    assert updated.ids.tolist() == whole.ids.tolist()
    np.testing.assert_allclose(updated.array, whole.array, atol=1e-6)
    untouched = [row for row, identifier in enumerate(updated.ids) if identifier in before and row not in (0, 3)]
    np.testing.assert_array_equal(
        updated.array[untouched], old[[before[identifier] for identifier in updated.ids[untouched]]]
    )
    assert sorted(digests(tmp_path / "v")) == sorted(digests(tmp_path / "whole")), "the same files, and no others"
    assert read_beside(tmp_path / "v").equals(read_beside(tmp_path / "whole"))
    embedded.clear()
    manifest = (tmp_path / "v" / "manifest.json").read_bytes()
    assert run(source, model, tmp_path / "v", update=True)["to_embed"] == 0
    assert not embedded and (tmp_path / "v" / "manifest.json").read_bytes() == manifest


def test_what_a_new_model_costs_is_said_before_it_starts(tmp_path, model, embedded, capsys):
    source, other = table(tmp_path / "c.parquet"), tmp_path / "other"
    run(source, model, tmp_path / "v")
    tiny_model(seed=1).save_pretrained(other)
    tiny_processor().save_pretrained(other)
    before = digests(tmp_path / "v")
    facts = run(source, str(other), tmp_path / "v", update=True, dry_run=True)
    said = capsys.readouterr().out
    assert "model_fingerprint is another one than that of" in said
    assert re.search(r": 11 to embed, about \d+ s at [\d.]+ products/s on this machine\n", said)
    assert facts["to_embed"] == COUNT and facts["seconds"] > 0
    assert digests(tmp_path / "v") == before, "a dry run changes nothing"
    embedded.clear()
    run(source, str(other), tmp_path / "v", update=True)
    assert sum(embedded) == COUNT
    run(source, str(other), tmp_path / "whole")
    np.testing.assert_array_equal(open_vectors(tmp_path / "v").array, open_vectors(tmp_path / "whole").array)


def test_an_update_that_was_cut_short_embeds_nothing_twice(tmp_path, model, embedded, monkeypatch):
    source = table(tmp_path / "c.parquet")
    run(source, model, tmp_path / "v")
    old = digests(tmp_path / "v")
    table(tmp_path / "c.parquet", lambda content: content.update(title=[f"new {row}" for row in range(COUNT)]))
    write, written = catalogue.write_shard, []

    def dying(path, *content):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *content)

    monkeypatch.setattr(catalogue, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        run(source, model, tmp_path / "v", update=True)
    assert {name: digests(tmp_path / "v")[name] for name in old} == old, "readers see the old state"
    monkeypatch.setattr(catalogue, "write_shard", write)
    embedded.clear()

    def further(content):  # meanwhile the shop has changed again
        content["title"] = [f"new {row}" for row in range(COUNT - 1)] + ["newer"]

    table(tmp_path / "c.parquet", further)
    run(source, model, tmp_path / "v", update=True)
    assert sum(embedded) == COUNT - 8, "two shards of four were embedded already"
    assert not list((tmp_path / "v").glob("update-*"))


def test_an_image_of_the_same_size_and_time_is_another_one(tmp_path, model, embedded):
    for row in range(3):
        picture(24, 24, seed=row).convert("RGB").save(tmp_path / f"{row}.bmp")
        os.utime(tmp_path / f"{row}.bmp", ns=(0, 0))
    (tmp_path / "c.csv").write_text("sku,title,photo\n1,mug,0.bmp\n2,cup,1.bmp\n3,jug,none.bmp\n")
    source, options = str(tmp_path / "c.csv"), {"on_error": "skip", "update": True}
    assert run(source, model, tmp_path / "v", **options)["skipped"] == 1
    embedded.clear()
    (tmp_path / "0.bmp").write_bytes((tmp_path / "2.bmp").read_bytes())
    os.utime(tmp_path / "0.bmp", ns=(0, 0))
    facts = run(source, model, tmp_path / "v", **options)
    assert (facts["unchanged"], facts["changed"], facts["new"]) == (1, 1, 1), "what was skipped is tried again"
    run(source, model, tmp_path / "whole", **options)
    np.testing.assert_allclose(open_vectors(tmp_path / "v").array, open_vectors(tmp_path / "whole").array, atol=1e-6)


@pytest.mark.parametrize("step", range(8))
def test_files_that_were_changing_places_are_finished_by_whoever_opens_them(tmp_path, model, step, monkeypatch):
    source = table(tmp_path / "c.parquet")
    run(source, model, tmp_path / "v")
    table(tmp_path / "c.parquet", change)
    run(source, model, tmp_path / "whole")
    moves = []

    def dying(move):
        def moved(path, target):
            if len(moves) == step:
                raise KeyboardInterrupt
            moves.append(path.name)
            return move(path, target)

        return moved

    with monkeypatch.context() as patched:
        real = store.Path.rename, store.Path.replace
        finish = catalogue.take_over

        def killed(folder):
            with monkeypatch.context() as inner:
                inner.setattr(store.Path, "rename", dying(real[0]))
                inner.setattr(store.Path, "replace", dying(real[1]))
                finish(folder)

        patched.setattr(catalogue, "take_over", killed)
        if step < 7:
            with pytest.raises(KeyboardInterrupt):
                run(source, model, tmp_path / "v", update=True)
        else:
            run(source, model, tmp_path / "v", update=True)
    opened, whole = open_vectors(tmp_path / "v"), open_vectors(tmp_path / "whole")
    assert opened.ids.tolist() == whole.ids.tolist()
    np.testing.assert_allclose(opened.array, whole.array, atol=1e-6)
    assert sorted(digests(tmp_path / "v")) == sorted(digests(tmp_path / "whole"))


def test_a_reader_waits_while_files_change_places(tmp_path, model, monkeypatch):
    source = table(tmp_path / "c.parquet")
    run(source, model, tmp_path / "v")
    table(tmp_path / "c.parquet", change)
    found, readers, replace = [], [], store.Path.replace

    def replacing(path, target):
        if path.name == "vectors.npy" and "update-" in str(path):
            readers.append(Thread(target=lambda: found.append(open_vectors(tmp_path / "v").ids.tolist())))
            readers[0].start()
            readers[0].join(0.5)  # time enough to take the file away, if it did not wait
        return replace(path, target)

    monkeypatch.setattr(store.Path, "replace", replacing)
    run(source, model, tmp_path / "v", update=True)
    readers[0].join()
    assert found == [open_vectors(tmp_path / "v").ids.tolist()] and "500" in found[0]


def test_what_was_read_before_and_after_an_update_is_not_taken_together(tmp_path, model, monkeypatch, capsys):
    source = table(tmp_path / "c.parquet")
    run(source, model, tmp_path / "v")
    table(tmp_path / "c.parquet", change)

    def late(path, *names):
        run(source, model, tmp_path / "v", update=True)
        return read_beside(path, *names)

    words = ["search", "--queries", str(tmp_path / "v"), "--corpus", str(tmp_path / "v"), "--hybrid", "rrf"]
    with monkeypatch.context() as patched:
        patched.setattr(search, "read_beside", late)
        assert main([*words, "--output", str(tmp_path / "hits")]) == 2
    assert "was brought up to date while it was read: run the same command again" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "hits")]) == 0


@pytest.mark.slow
def test_kill_9_while_it_updates(tmp_path, model):
    """Killed again and again, ever later, until it is done: the folder can always be read, and is right in the end."""
    source = table(tmp_path / "c.parquet", count=60)
    run(source, model, tmp_path / "v")
    first = open_vectors(tmp_path / "v").ids.tolist()
    table(tmp_path / "c.parquet", change, count=60)
    run(source, model, tmp_path / "whole")
    script = tmp_path / "go.py"
    script.write_text(
        "import sys; from test_bulk import run; from pathlib import Path\n"
        "if __name__ == '__main__': run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), update=True)"
    )
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}:{here.parents[1]}"}
    command, seconds = [str(script), source, model, str(tmp_path / "v")], 0.5
    while True:
        process = fresh.start(command, environment)
        process.join(seconds)
        if not process.is_alive():
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert open_vectors(tmp_path / "v").ids.tolist() in (first, open_vectors(tmp_path / "whole").ids.tolist())
        seconds *= 1.15
    np.testing.assert_allclose(open_vectors(tmp_path / "v").array, open_vectors(tmp_path / "whole").array, atol=1e-6)


def priced(path: Path) -> str:
    """The table of `test_bulk`, with columns to filter by."""
    content = pq.read_table(table(path))
    content = content.append_column("price", pa.array([float(row) if row else None for row in range(COUNT)]))
    content = content.append_column("version", pa.array(["a"] * COUNT))  # stores have one of their own
    content = content.append_column("cost", pa.array([f"{row}.5" if row else "" for row in range(COUNT)]))
    content = content.append_column(
        "category", pa.array([["Home", "Mug" if row % 2 else "Cup"] for row in range(COUNT)])
    )
    pairs = pa.array([[{"name": "colour", "value": "红" if row < 3 else "blue"}] for row in range(COUNT)])
    pq.write_table(content.append_column("attributes", pairs), path)
    return str(path)


def test_columns_are_kept_and_filtered_by(tmp_path, model, embedded):
    source, keep = priced(tmp_path / "c.parquet"), ["price", "cost:number", "category", "attributes"]
    run(source, model, tmp_path / "v", keep=keep)
    beside = read_beside(tmp_path / "v")
    assert beside["price"].to_pylist()[:3] == [None, 1.0, 2.0] and beside["cost"].to_pylist()[:2] == [None, 1.5]
    assert beside["attributes"].to_pylist()[0] == ["colour=红"] and beside["shows"].to_pylist()[0] == "mm"

    def rows(*texts):
        filters = read_filters(texts, beside.schema, "v")
        return np.flatnonzero(np.logical_and.reduce([one.mask(beside) for one in filters])).tolist()

    assert rows("price<3") == [1, 2] and rows("price >= 9") == [9, 10] and rows("cost<=1.5") == [1]
    assert rows("category=Mug", "price>6") == [7, 9] and rows("attributes=colour=红") == [0, 1, 2]
    assert rows("category=None") == []
    for text, problem in (
        ("price", "cannot be read"),
        ("colour=red", "keeps no column 'colour' to filter by .kept: price, cost, category, attributes."),
        ("price=cheap", "price holds numbers, and 'cheap' is none"),
        ("category<Mug", "category holds words, of which only = can be asked; --keep category:number"),
        ("price<inf", "price holds numbers, and 'inf' is none"),
    ):
        with pytest.raises(UserError, match=problem):
            rows(text)
    # A new price is no new vector, but it is kept.
    embedded.clear()
    content = pq.read_table(source)
    prices = pa.array([99.0] * COUNT)
    pq.write_table(content.set_column(content.column_names.index("price"), "price", prices), source)
    facts = run(source, model, tmp_path / "v", keep=keep, update=True)
    assert not embedded and facts["unchanged"] == COUNT
    assert read_beside(tmp_path / "v", ["price"])["price"].to_pylist() == [99.0] * COUNT
    run(source, model, tmp_path / "v", update=True)
    with pytest.raises(UserError, match="keeps no column 'price'"):  # rather than the old prices for ever
        read_beside(tmp_path / "v", ["price"])


@pytest.mark.parametrize(
    ("keep", "problem"),
    [
        ("size", "has no column 'size' to keep; it has: sku, title"),
        ("photo", "The column 'photo' of .* holds .*struct"),
        ("title:number", r"Row 0 of .* \(id '100'\) has '红色条纹马克杯 0' in the column 'title', which is no number"),
        ("price:text", "after a colon there can only be number"),
        ("version", "a column of this name is there already; rename it"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(tmp_path, model, keep, problem):
    with pytest.raises(UserError, match=problem):
        run(priced(tmp_path / "c.parquet"), model, tmp_path / "v", keep=[keep])
    assert not (tmp_path / "v").exists()


def test_a_folder_of_an_earlier_version_is_embedded_anew(tmp_path, model, capsys):
    source = table(tmp_path / "c.parquet")
    run(source, model, tmp_path / "v")
    for shard in (tmp_path / "v" / "shards").glob("*.parquet"):
        pq.write_table(pq.read_table(shard, columns=["id", "vector"]), shard)
    table(tmp_path / "c.parquet", change)
    assert run(source, model, tmp_path / "v", update=True)["to_embed"] == COUNT
    assert "kept no digests" in capsys.readouterr().out
    assert json.loads((tmp_path / "v" / "manifest.json").read_text())["vectors"] == COUNT


def test_a_dry_run_into_a_new_folder_embeds_nothing(tmp_path, model, capsys):
    facts = run(table(tmp_path / "c.parquet"), model, tmp_path / "v", update=True, dry_run=True)
    assert facts["new"] == facts["to_embed"] == COUNT and not (tmp_path / "v").exists()
    assert f"{COUNT} new, 0 changed, 0 removed: {COUNT} to embed" in capsys.readouterr().out


def test_two_at_once_do_not_fill_one_folder(tmp_path, model):
    source = table(tmp_path / "c.parquet")
    with store.alone(tmp_path / "v"), pytest.raises(UserError, match="Another `embed` is at work in "):
        run(source, model, tmp_path / "v", update=True)
    assert run(source, model, tmp_path / "v", update=True)["vectors"] == COUNT
