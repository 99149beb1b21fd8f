"""Triplets from data set to passes: whole or streamed, in whichever worker, the same; every view is found."""

import copy
import itertools
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import DataLoader

from conftest import change, picture, tiny_model, tiny_processor
from training_moon2 import triplets as triplets_module
from training_moon2.arguments import BatchArguments
from training_moon2.batches import TripletSampler
from training_moon2.collator import KINDS, TripletCollator
from training_moon2.triplets import (
    ROLES,
    TripletDataset,
    TripletError,
    TripletStream,
    fingerprint,
    load_triplets,
    stable_key,
)

AUGMENTED = (0.5, 0.5, 1)


@pytest.fixture(scope="module")
def rows(mbe2):
    return load_triplets(mbe2, "train")


@pytest.fixture(scope="module")
def sharded(mbe2, tmp_path_factory) -> str:
    """The same data set with its triplets in three files."""
    folder = tmp_path_factory.mktemp("sharded") / "mbe2"
    shutil.copytree(mbe2, folder)
    (shard,) = (folder / "triplets").glob("train-*.parquet")
    table = pq.read_table(shard)
    shard.unlink()
    for number, (start, end) in enumerate(((0, 30), (30, 50), (50, len(table)))):
        part = table.slice(start, end - start)
        pq.write_table(part, folder / "triplets" / f"train-{number:05d}-of-00003.parquet", row_group_size=11)
    return str(folder)


@pytest.fixture
def one_file_at_a_time(monkeypatch):
    """datasets sleeps for five seconds at the end of every stream that it reads from several files at once."""
    monkeypatch.setattr(triplets_module, "MIXED_FILES", 1)


def by_id(triplets) -> dict[str, dict]:
    triplets = list(triplets)
    found = {triplet["query_id"]: triplet for triplet in triplets}
    assert len(found) == len(triplets), "a triplet came twice"
    return found


def first(items: list):
    """A collator of one item; at the top of the module for workers."""
    return items[0]


def test_augmentation_depends_on_seed_epoch_and_row_only(rows):
    one, other = TripletDataset(rows, *AUGMENTED), TripletDataset(rows, *AUGMENTED)
    shown = [one[index] for index in range(20)]
    assert [other[index] for index in reversed(range(20))] == shown[::-1]
    moved = TripletDataset(rows.select(range(10, 20)), *AUGMENTED)
    assert [moved[index] for index in range(10)] == shown[10:], "another place in the table, the same row"
    one.set_epoch(1)
    assert [one[index] for index in range(20)] != shown
    one.set_epoch(0)
    assert [one[index] for index in range(20)] == shown
    plain = TripletDataset(rows)
    assert all(plain[index]["positive"]["text"] == rows[index]["positive_title"] for index in range(20))
    full = TripletDataset(rows, 1.0, 1.0)
    for index in range(20):
        (row,) = rows.with_format("arrow")[index].to_pylist()
        assert full[index]["positive"]["text"] == row["positive_enriched_title"]
        assert full[index]["positive"]["image"] in row["positive_augmented_images"]
    added = TripletDataset(rows, 1.0, 1.0, coaugmentation="add")
    for index in range(20):
        (row,) = rows.with_format("arrow")[index].to_pylist()
        shown = added[index]["positive"]
        assert shown["text"] == f"{row['positive_title']}\n{row['positive_enriched_title']}"
        assert shown["image"] == [row["positive_image"], *row["positive_augmented_images"]]
        assert len(shown["image"]) > 1
    (row,) = rows.with_format("arrow")[0].to_pylist()
    alone = added.triplet(row | {"positive_image": None, "positive_title": None})["positive"]
    assert alone == {"text": row["positive_enriched_title"], "image": row["positive_augmented_images"]}
    assert TripletDataset(rows, coaugmentation="add")[0] == plain[0], "what is never shown is not added"


def test_augmented_images_that_nobody_made_are_not_silently_missing(rows):
    bare = rows.with_format("arrow").map(
        lambda table: table.set_column(
            table.column_names.index("positive_augmented_images"),
            "positive_augmented_images",
            pa.array([[]] * len(table), table.schema.field("positive_augmented_images").type),
        ).drop_columns(["negative_augmented_images"]),
        batched=True,
        remove_columns=["negative_augmented_images"],
    )
    assert TripletDataset(bare)[0]["positive"]["image"] is not None
    with pytest.raises(TripletError, match="build it with --augmented_images 1"):
        TripletDataset(bare, 0.25, 0.5)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_streams_show_the_same_triplets(sharded, workers, one_file_at_a_time):
    dataset = TripletDataset(load_triplets(sharded, "train"), *AUGMENTED)
    stream = TripletStream(load_triplets(sharded, "train", streaming=True), *AUGMENTED, batch_size=4, passes=1)
    expected = by_id(dataset)
    assert by_id(DataLoader(dataset, 1, num_workers=workers, collate_fn=first)) == expected
    assert by_id(stream) == expected
    assert by_id(DataLoader(stream, 1, num_workers=workers, collate_fn=first)) == expected


def test_workers_that_persist_see_the_new_epoch(rows):
    dataset = TripletDataset(rows, *AUGMENTED)
    loader = DataLoader(dataset, 1, num_workers=1, persistent_workers=True, collate_fn=first)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        fresh = TripletDataset(rows, *AUGMENTED)
        fresh.set_epoch(epoch)
        assert by_id(loader) == by_id(fresh)


def order_of(stream) -> list[str]:
    return [triplet["query_id"] for triplet in stream]


def test_the_order_of_a_stream_depends_on_the_seed_only(mbe2):
    def order(seed: int) -> list[str]:
        rows = load_triplets(mbe2, "train", streaming=True)
        return order_of(TripletStream(rows, seed=seed, batch_size=4, passes=1))

    assert order(1) == order(1) != order(2)
    assert order(1) != sorted(order(1)) == sorted(order(2))


@pytest.mark.parametrize("workers", [0, 1])
def test_every_pass_of_a_stream_has_another_order_and_other_draws(mbe2, rows, workers):
    stream = TripletStream(load_triplets(mbe2, "train", streaming=True), *AUGMENTED, batch_size=4, passes=2)
    shown = list(DataLoader(stream, 1, num_workers=workers, collate_fn=first))
    order = order_of(shown)
    assert sorted(order) == sorted(2 * list(rows["query_id"])) and order[: len(rows)] != order[len(rows) :]
    draws = {query_id: [t["positive"] for t in shown if t["query_id"] == query_id] for query_id in order}
    assert sum(one != other for one, other in draws.values()) > 10
    endless = TripletStream(load_triplets(mbe2, "train", streaming=True), *AUGMENTED, batch_size=4)
    endless = itertools.islice(DataLoader(endless, 1, num_workers=workers, collate_fn=first), 5 * len(rows))
    endless = order_of(endless)
    assert endless[: len(rows)] == order[: len(rows)] and set(endless[3 * len(rows) :]) == set(order)


def test_batches_of_a_stream_are_as_those_of_the_sampler(mbe2, rows):
    """No product twice; within a window of the whole stream even batches of one modality."""
    batches = BatchArguments(batch_modality=True, batch_window=40)
    table = rows.select_columns(["query_id", "query_modality"]).to_list()
    modality = {row["query_id"]: row["query_modality"] for row in table}
    for options, pure in ((BatchArguments(), 0), (batches, 12)):
        stream = TripletStream(load_triplets(mbe2, "train", streaming=True), batch_size=4, batches=options, passes=1)
        triplets = list(stream)
        assert len(triplets) == len(rows)
        blocks = [triplets[start : start + 4] for start in range(0, len(triplets), 4)]
        for block in blocks[:-1]:  # what could not be kept apart is in the last one
            groups = [triplet[f"{role}_group"] for triplet in block for role in ROLES[1:]]
            assert len(set(groups)) == len(groups)
        assert sum(len({modality[triplet["query_id"]] for triplet in block}) == 1 for block in blocks) >= pure


def test_processes_share_the_batches_of_a_stream(mbe2):
    rows = load_triplets(mbe2, "train", streaming=True)
    whole = order_of(TripletStream(rows, batch_size=6, passes=1))
    shards = [
        IterableDatasetShard(TripletStream(rows, batch_size=6, passes=1), 3, True, 2, index) for index in range(2)
    ]
    for shard in shards:
        shard.set_epoch(0)
    parts = [order_of(shard) for shard in shards]
    for start in range(0, len(whole) - 6, 6):
        half = start // 2
        assert parts[0][half : half + 3] + parts[1][half : half + 3] == whole[start : start + 6]


def test_a_stream_whose_rows_cannot_be_kept_apart_still_ends(mbe2, tmp_path, caplog):
    folder = tmp_path / "hot"
    shutil.copytree(mbe2, folder)
    (shard,) = (folder / "triplets").glob("train-*.parquet")
    table = pq.read_table(shard)
    for name in ("positive_id", "positive_group_id"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(["hot"] * len(table)))
    pq.write_table(table, shard)
    stream = TripletStream(load_triplets(str(folder), "train", streaming=True), batch_size=8, passes=1)
    assert len(by_id(stream)) == len(by_id(stream)) == len(table)
    (record,) = caplog.records
    assert "triplets share a batch" in record.getMessage()


def test_columns_and_files_of_a_stream_are_checked(mbe2, tmp_path):
    with pytest.raises(TripletError, match="The nosuch triplets of .* cannot be read"):
        load_triplets(mbe2, "nosuch", streaming=True)
    old = tmp_path / "old"
    shutil.copytree(mbe2, old)

    def rewrite(edit):
        for shard in (old / "triplets").glob("*.parquet"):
            pq.write_table(edit(pq.read_table(shard)), shard)

    rewrite(lambda table: table.drop_columns(["positive_category"]))
    for streaming in (False, True):
        rows = load_triplets(str(old), "train", streaming=streaming)
        assert "positive_category" not in rows.column_names, "older folders can still be read"
    with pytest.raises(ValueError, match="batch_category needs the column positive_category"):
        TripletStream(rows, batches=BatchArguments(batch_category=True))
    rewrite(lambda table: table.drop_columns(["negative_title"]))
    with pytest.raises(TripletError, match="lack the columns negative_title"):
        load_triplets(str(old), "train", streaming=True)
    shutil.copytree(mbe2, tmp_path / "empty")
    (shard,) = (tmp_path / "empty" / "triplets").glob("train-*.parquet")
    pq.ParquetWriter(shard, pq.read_schema(shard)).close()
    with pytest.raises(TripletError, match="The train split of .* has no triplets"):
        load_triplets(str(tmp_path / "empty"), "train", streaming=True)


def test_a_stream_that_breaks_off_is_told(mbe2, tmp_path):
    folder = tmp_path / "spoilt"
    shutil.copytree(mbe2, folder)
    (shard,) = (folder / "triplets").glob("train-*.parquet")
    pq.write_table(pq.read_table(shard), shard, row_group_size=10)
    group = pq.read_metadata(shard).row_group(6)
    content = bytearray(shard.read_bytes())
    start = min(
        group.column(index).dictionary_page_offset or group.column(index).data_page_offset for index in range(5)
    )
    content[start : start + group.total_byte_size // 2] = bytes(group.total_byte_size // 2)
    shard.write_bytes(content)
    stream = TripletStream(load_triplets(str(folder), "train", streaming=True))
    with pytest.raises(TripletError, match="The stream of triplets broke off: "):
        list(stream)


def test_a_row_without_an_id_is_named(mbe2, tmp_path):
    folder = change(mbe2, tmp_path / "mbe2", lambda row: row.update(negative_group_id=None))
    dataset = TripletDataset(load_triplets(folder, "train"))
    with pytest.raises(TripletError, match=f"Triplet {dataset.rows['query_id'][3]} has no negative_group_id"):
        dataset[3]
    TripletSampler(dataset, 4, BatchArguments(), seed=0)


def test_only_one_process_refreshes_the_cache(mbe2, tmp_path):
    folder = str(tmp_path / "mbe2")
    shutil.copytree(mbe2, folder)
    assert load_triplets(folder, "train")[3]["positive_title"] != "new"
    cached = [file["filename"] for file in load_triplets(folder, "train").cache_files]
    times = [os.stat(name).st_mtime_ns for name in cached]
    load_triplets(folder, "train", refresh=False)
    assert [os.stat(name).st_mtime_ns for name in cached] == times
    shutil.rmtree(folder)
    change(mbe2, Path(folder), lambda row: row.update(positive_title="new"))
    assert load_triplets(folder, "train")[3]["positive_title"] == "new"
    for shard in Path(folder).glob("triplets/*.parquet"):  # a set of other columns at the same place
        pq.write_table(pq.read_table(shard).drop_columns("positive_category").replace_schema_metadata(None), shard)
    assert "positive_category" not in load_triplets(folder, "train").column_names


def edits() -> dict:
    def longer_picture(row):
        row["negative_image"]["bytes"] += b"\0"

    def augmented(row):
        row["positive_augmented_images"] = []

    def provenance(row):
        row["provenance"][0]["seed"] = 77

    def renamed(row):
        row["positive_image"]["path"] = "/elsewhere/p.jpg"

    return {
        "title": (lambda row: row.update(positive_title=row["positive_title"][:-1] + "#"), True),
        "no title": (lambda row: row.update(query_text="" if row["query_text"] is None else None), True),
        "picture": (longer_picture, True),
        "fewer images": (augmented, True),
        "nested": (provenance, True),
        "path": (renamed, False),
    }


@pytest.mark.parametrize("name", edits())
def test_a_fingerprint_is_that_of_the_contents(mbe2, rows, tmp_path, name):
    edit, differs = edits()[name]
    changed = load_triplets(change(mbe2, tmp_path / "changed", edit), "train")
    assert (fingerprint(changed) != fingerprint(rows)) == differs


def test_a_fingerprint_does_not_depend_on_place_cache_or_cut(mbe2, rows, sharded, tmp_path):
    shutil.copytree(mbe2, tmp_path / "copy")
    moved = load_triplets(str(tmp_path / "copy"), "train")
    assert fingerprint(moved) == fingerprint(rows) == fingerprint(load_triplets(sharded, "train"))
    assert fingerprint(rows.select(range(len(rows)))) == fingerprint(rows)
    assert fingerprint(rows.select(range(len(rows) - 1))) != fingerprint(rows)
    assert fingerprint(rows.select(list(reversed(range(len(rows)))))) != fingerprint(rows)
    # Letters must not move from one title to the next unseen.
    swapped = [row["positive_title"] for row in rows.select_columns("positive_title")]
    swapped[0], swapped[1] = swapped[0] + swapped[1][0], swapped[1][1:]
    place = rows.column_names.index("positive_title")
    other = rows.remove_columns("positive_title").add_column("positive_title", swapped)
    other = other.select_columns([*rows.column_names[:place], "positive_title", *rows.column_names[place + 1 :]])
    assert fingerprint(other) != fingerprint(rows)


def test_a_fingerprint_of_a_stream(mbe2, sharded, tmp_path):
    def of(folder) -> str:
        return fingerprint(load_triplets(str(folder), "train", streaming=True))

    shutil.copytree(mbe2, tmp_path / "copy")
    assert of(tmp_path / "copy") == of(mbe2) != of(sharded)
    longer = change(mbe2, tmp_path / "longer", lambda row: row.update(positive_title="x" * 1000))
    assert of(longer) != of(mbe2)


def test_keys_are_the_same_in_every_process():
    assert stable_key("红色-1") == stable_key("红色-1") != stable_key("红色-2")
    assert stable_key("p000001-0") == 1882285741518013396


def nine(rows, *shown) -> list[dict]:
    triplets = [TripletDataset(rows, *shown)[index] for index in range(9)]
    kinds = {(triplet["query"]["text"] is None, triplet["query"]["image"] is None) for triplet in triplets}
    assert len(kinds) == 3, "the sample should have text, image and mixed queries"
    return triplets


@pytest.mark.parametrize(
    "chunk, unit, shown", [(7, "items", ()), (100, "tokens", ()), (7, "items", (1.0, 1.0, 0, "add"))]
)
def test_items_are_in_the_passes_where_the_rows_say(rows, chunk, unit, shown):
    """Each item's positions are those of that product alone, and what is beyond them is padding."""
    processor, triplets = tiny_processor(), nine(rows, *shown)
    batch = TripletCollator(processor, chunk, unit)(triplets)
    assert list(batch["passes"]) == list(KINDS) and all(len(passes) > 1 for passes in batch["passes"].values())
    found = [
        (features, index)
        for kind in KINDS
        for features in batch["passes"][kind]
        for index in range(len(features["input_ids"]))
    ]
    places = []
    for role in ROLES:
        for row, triplet in enumerate(triplets):
            text, image = triplet[role]["text"], triplet[role]["image"]
            products = {"pictures": triplet[role] if image else None, "texts": {"text": text} if text else None}
            for kind, product in products.items():
                place = batch["rows"][role][kind][row].item()
                assert (place == -1) == (product is None)
                if product:
                    places.append(place)
                    features, index = found[place]
                    alone = processor(product)
                    length = alone["input_ids"].shape[1]
                    for name in ("input_ids", "position_types"):
                        assert torch.equal(features[name][index, :length], alone[name][0])
                    assert features["attention_mask"][index].sum() == length
    assert sorted(places) == list(range(len(found)))
    pictures = sum(len(features["image_grid_thw"]) for features in batch["passes"]["pictures"])
    images = [triplet[role]["image"] for triplet in triplets for role in ROLES]
    assert pictures == sum(len(image) if isinstance(image, list) else image is not None for image in images)


def test_passes_keep_to_their_size_and_waste_little(rows):
    triplets = nine(rows)
    for chunk, unit in ((7, "items"), (120, "tokens"), (1, "tokens"), (1, "items"), (10**6, "tokens")):
        passes = TripletCollator(tiny_processor(), chunk, unit)(triplets)["passes"]
        for features in passes["pictures"] + passes["texts"]:
            items, longest = features["attention_mask"].shape
            assert items == 1 or (items if unit == "items" else items * longest) <= chunk
    masks = [
        features["attention_mask"] for features in TripletCollator(tiny_processor(), 7)(triplets)["passes"]["texts"]
    ]
    lengths = torch.cat([mask.sum(1) for mask in masks])
    assert torch.equal(lengths, lengths.sort().values), "by their true lengths"
    counts = [len(mask) for mask in masks]
    assert counts[:-1] == [7] * (len(counts) - 1)


def test_passes_of_one_kind_only(rows):
    triplets = copy.deepcopy(nine(rows))
    for triplet in triplets:
        for role in ROLES:
            triplet[role] = {"text": "red mug", "image": None}
    passes = TripletCollator(tiny_processor())(triplets)["passes"]
    assert passes["pictures"] == [] and len(passes["texts"]) == 1
    triplets[4]["negative"] = {"text": None, "image": None}
    with pytest.raises(TripletError, match=f"Triplet {triplets[4]['query_id']}: its negative has neither"):
        TripletCollator(tiny_processor())(triplets)


def test_a_product_is_prepared_once_for_its_views(rows, monkeypatch):
    triplets, prepared = nine(rows), []
    prepare = TripletCollator.prepare
    monkeypatch.setattr(TripletCollator, "prepare", lambda self, product: prepared.append(1) or prepare(self, product))
    batch = TripletCollator(tiny_processor())(triplets)
    items = [len(features["input_ids"]) for passes in batch["passes"].values() for features in passes]
    assert len(prepared) == 3 * len(triplets) < sum(items)


def test_a_blank_text_beside_a_picture_is_refused(rows):
    triplets = nine(rows)
    triplets[1]["positive"] = {"text": " ", "image": picture(40, 30, 1)}
    with pytest.raises(TripletError, match=f"Triplet {triplets[1]['query_id']}, its positive: there is neither text"):
        TripletCollator(tiny_processor())(triplets)


def test_an_unreadable_picture_is_named_by_triplet_and_role(rows):
    triplets = [TripletDataset(rows)[index] for index in range(3)]
    triplets[2]["negative"]["image"] = {"bytes": b"<html>", "path": "page.jpg"}
    with pytest.raises(TripletError, match=f"Triplet {triplets[2]['query_id']}, its negative: .*page.jpg"):
        TripletCollator(tiny_processor())(triplets)


@pytest.mark.parametrize("chunk, unit, words", [(0, "items", "chunk is 0"), (8, "bytes", "unit is 'bytes'")])
def test_sizes_that_cannot_be_are_refused(chunk, unit, words):
    with pytest.raises(ValueError, match=words):
        TripletCollator(tiny_processor(), chunk, unit)


def test_fillers_are_passes_of_their_kind(family):
    collator = TripletCollator(tiny_processor(family))
    model = tiny_model(family)
    for kind in KINDS:
        features = collator.filler(kind)
        assert collator.filler(kind) is features
        with torch.no_grad():
            output = model(**features)
        assert output.embeddings.shape[0] == 1 and output.embeddings.isfinite().all()
        assert output.has_image.item() == (kind == "pictures") == ("pixel_values" in features)


@pytest.mark.parametrize("side", ["right", "left"])
def test_items_joined_are_items_prepared_together(family, side):
    processor = tiny_processor(family)
    products = [
        {"text": "red striped mug"},
        {"text": "mug", "image": picture(40, 30, seed=2)},
        {"image": [picture(20, 50, seed=3), picture(32, 32, seed=4)], "instruction": "find"},
        {"text": "红"},
    ]
    together = processor(products, padding_side=side)
    for cuts in ([0, 1, 2, 3, 4], [0, 2, 4], [0, 4]):
        for before in ("left", "right"):
            parts = [processor(products[a:b], padding_side=before) for a, b in zip(cuts, cuts[1:], strict=False)]
            joined = processor.join(parts, padding_side=side)
            assert joined.keys() == together.keys()
            assert all(torch.equal(joined[name], together[name]) for name in together)
    texts = processor.join([processor(products[0]), processor(products[3])])
    assert "pixel_values" not in texts
    skipping = [processor([products[0], {}], on_error="skip"), processor(products[3])]
    assert [error.index for error in processor.join(skipping).skipped] == [1]
    with pytest.raises(ValueError, match="nothing to join"):
        processor.join([])
