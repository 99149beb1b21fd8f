"""The published data set: it loads, it is the same every time, and its triplets, queries and qrels are right."""

import hashlib
import io
import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import datasets
import fresh
import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

import mbe2_dataset.build
from mbe2_dataset import BuildOptions, Origin, Picture, Row, build_dataset, synthetic_product, synthetic_rows
from mbe2_dataset.__main__ import main
from mbe2_dataset.catalogue.pictures import decode, encode
from mbe2_dataset.catalogue.store import SplitRows
from mbe2_dataset.coaugmentation.pictures.classical import ClassicalExtractor
from mbe2_dataset.coaugmentation.pictures.expand import apply_view as apply_expansion
from mbe2_dataset.parallel import Engine, seed_for
from mbe2_dataset.synthetic.catalogue import synthetic_query
from mbe2_dataset.triplets.make import plan_triplets
from mbe2_dataset.triplets.queries import apply_view, changed_view, query_text, title_units

ROOT = Path(__file__).parents[2]
SIZES = {"num_products": 96, "num_validation": 8, "num_test": 32, "picture_size": 32}
ORIGIN = Origin("shop", False, "python -m mbe2_dataset build", 0)


def command(output: Path, *options: str) -> list[str]:
    sizes = [part for name, size in SIZES.items() for part in (f"--{name}", str(size))]
    return ["build", "--catalogue", "synthetic", "--output", str(output), "--num_proc", "1", *sizes, *options]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("data") / "mbe2"
    assert main(command(output, "--augmented_images", "2")) == 0
    return output


@pytest.fixture(scope="module")
def truth() -> dict[str, Row]:
    return {row.id: row for row in synthetic_rows(0, **SIZES)}


@pytest.fixture(scope="module")
def triplets(folder) -> dict[str, list[dict]]:
    """Encoded rows of each split."""
    return {
        split: [row for path in sorted(folder.glob(f"triplets/{split}-*")) for row in pq.read_table(path).to_pylist()]
        for split in ("train", "validation")
    }


@pytest.fixture(scope="module")
def benchmark(folder) -> dict[str, list[dict]]:
    return {
        config: pq.read_table(folder / config / "test-00000-of-00001.parquet").to_pylist()
        for config in ("corpus", "queries", "qrels")
    }


def made_from_rows(triplets: list[dict]) -> list[dict]:
    """Those whose query is no shopper's own."""
    return [row for row in triplets if "-asked-" not in row["query_id"]]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shop_row(name: str, group: str, split: str, pictures: int = 1, **changes: object) -> Row:
    images = []
    for number in range(pictures):
        colour = tuple(hashlib.sha256(f"{name}-{number}".encode()).digest()[:3])
        images.append(encode(Image.new("RGB", (16, 20), colour), f"{name}-{number}.jpg"))
    facts = dict(
        id=name, title=f"Acme shirt {name} with long sleeves", description=None, brand="Acme",
        category=("Clothes", "Shirt"),
        attributes=(("colour", "red"),), price=None, images=tuple(images), split=split, group_id=group,
    )  # fmt: skip
    return Row(**(facts | changes))


def shop() -> list[Row]:
    rows = [shop_row(f"a{number}", f"ga{number // 2}", "train") for number in range(12)]
    return rows + [shop_row(f"t{number}", f"gt{number}", "test") for number in range(3)]


def test_data_set_loads_by_its_folder_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    loaded = datasets.load_dataset("mbe2", cache_dir=str(tmp_path))
    assert list(loaded) == ["train", "validation"]
    row = loaded["train"][0]
    assert row["positive_image"].size == (32, 32) and len(row["positive_augmented_images"]) == 2
    assert row["negative_augmented_images"][1].size == (32, 32)
    corpus = datasets.load_dataset("mbe2", "corpus", split="test", cache_dir=str(tmp_path))
    assert corpus[0]["image"].size == (32, 32) and set(corpus[0]["attributes"][0]) == {"name", "value"}
    for config, split, picture in (
        ("triplets", "train", "positive_image"), ("corpus", "test", "image"), ("queries", "test", "image")
    ):  # fmt: skip
        streamed = datasets.load_dataset("mbe2", config, split=split, streaming=True, cache_dir=str(tmp_path))
        # The shoppers' own queries, which are texts, come first.
        assert any(row[picture] is not None and row[picture].size == (32, 32) for row in streamed.take(40))
    qrels = datasets.load_dataset("mbe2", "qrels", split="test", cache_dir=str(tmp_path))
    assert set(qrels.column_names) == {"query-id", "corpus-id", "score"} and set(qrels["score"]) == {1}


def test_same_seed_same_bytes_whatever_the_processes(folder, tmp_path):
    again = tmp_path / "other_name"
    assert main(command(again, "--augmented_images", "2")) == 0
    assert contents(again) == contents(folder)
    outputs = [tmp_path / name for name in ("one", "two", "seed1")]
    for output, num_proc, seed in zip(outputs, (1, 2, 1), (0, 0, 1), strict=True):
        build_dataset(shop(), output, ORIGIN, BuildOptions(seed=seed), engine=Engine(num_proc=num_proc))
    one, two, seed1 = map(contents, outputs)
    assert one == two
    assert one["triplets/train-00000-of-00001.parquet"] != seed1["triplets/train-00000-of-00001.parquet"]


def test_long_splits_fall_into_shards_that_hold_every_row(triplets, benchmark, tmp_path):
    assert main(command(tmp_path / "mbe2", "--augmented_images", "2", "--rows_per_shard", "17")) == 0
    for config, split, rows in (("triplets", "train", triplets["train"]), ("corpus", "test", benchmark["corpus"])):
        shards = sorted((tmp_path / "mbe2" / config).glob(f"{split}-*"))
        assert len(shards) == -(-len(rows) // 17)
        assert shards[-1].name == f"{split}-{len(shards) - 1:05d}-of-{len(shards):05d}.parquet"
        assert [row for path in shards for row in pq.read_table(path).to_pylist()] == rows


def test_every_train_and_validation_listing_has_one_triplet_and_every_query_of_a_shopper(triplets, truth):
    for split, rows in triplets.items():
        own = [row for row in truth.values() if row.split == split]
        assert [row["query_id"] for row in made_from_rows(rows)] == [f"{row.id}-query" for row in own]
        asked = {row["query_group_id"]: row["query_text"] for row in rows if row not in made_from_rows(rows)}
        assert asked == {row.group_id: synthetic_query(synthetic_product(int(row.id[1:7]))) for row in own}
        for row in rows:
            for role in ("positive", "negative"):
                listing = truth[row[f"{role}_id"]]
                assert listing.split == split
                assert row[f"{role}_title"] == listing.title and row[f"{role}_group_id"] == listing.group_id
                assert row[f"{role}_image"] == listing.images[0].as_record()
            assert tuple(row["positive_category"]) == truth[row["positive_id"]].category


def test_hard_negatives_are_of_the_same_leaf_and_another_group(triplets, truth):
    for row in triplets["train"]:
        positive, negative = truth[row["positive_id"]], truth[row["negative_id"]]
        assert negative.group_id not in (positive.group_id, row["query_group_id"])
        assert row["negative_kind"] == "same_leaf" and negative.category == positive.category
    # The eight validation products are of eight categories.
    for row in triplets["validation"]:
        shared = truth[row["positive_id"]].category[0] == truth[row["negative_id"]].category[0]
        assert shared == (row["negative_kind"] == "same_parent")


def test_a_listing_without_a_category_has_an_empty_path(tmp_path):
    rows = [shop_row(f"a{number}", f"ga{number}", "train", category=()) for number in range(3)]
    build_dataset([*rows, shop_row("t", "gt", "test")], tmp_path / "mbe2", ORIGIN, BuildOptions())
    assert pq.read_table(tmp_path / "mbe2" / "triplets")["positive_category"].to_pylist() == [[], [], []]
    assert datasets.load_dataset(str(tmp_path / "mbe2"), cache_dir=str(tmp_path / "cache"))["train"].features[
        "positive_category"
    ] == datasets.List(datasets.Value("string"))


def test_the_catalogue_s_own_log_can_be_left_out(tmp_path, capsys):
    few = ("--num_products", "8", "--num_validation", "0", "--num_test", "3", "--search_log", "none")
    assert main(command(tmp_path / "mbe2", *few)) == 0
    names = pq.read_table(tmp_path / "mbe2" / "triplets")["query_id"].to_pylist()
    names += pq.read_table(tmp_path / "mbe2" / "queries")["id"].to_pylist()
    assert names and not [name for name in names if "-asked" in name]
    assert main(command(tmp_path / "other", *few, "--query_mix", "none")) == 2
    assert "leave no query" in capsys.readouterr().err


def test_negatives_come_from_the_nearest_category_there_is():
    def kinds(*paths: tuple[str, ...]) -> tuple[str, str]:
        rows = [shop_row(f"r{n}", f"g{n}", "train", category=path) for n, path in enumerate(paths)]
        negative = plan_triplets(SplitRows.of(rows), (1, 1, 1), 0.0, 0)[0].negative
        return negative.row.id, negative.kind

    assert kinds(("A", "B", "C"), ("A", "X"), ("A", "B", "C")) == ("r2", "same_leaf")
    assert kinds(("A", "B", "C"), ("A", "X"), ("A", "B", "D")) == ("r2", "same_parent")
    assert kinds(("A", "B"), ("A", "X"), ("C",)) == ("r1", "same_parent")
    assert kinds(("A", "B"), ("C",)) == ("r1", "random")
    assert kinds((), ()) == ("r1", "random")


def test_negative_of_a_false_positive_is_of_a_third_group():
    rows = [shop_row(f"r{n}", f"g{n % 3}", "train") for n in range(30)]
    for plan in plan_triplets(SplitRows.of(rows), (1, 1, 1), 1.0, 0):
        assert plan.false_positive
        assert {plan.source.group_id, plan.positive.group_id, plan.negative.row.group_id} == {"g0", "g1", "g2"}


def test_false_positives_are_noted_where_they_are(triplets, truth, folder):
    wrong = [row for row in triplets["train"] if row["positive_group_id"] != row["query_group_id"]]
    assert wrong == [row for row in triplets["train"] if "false_positive" in row["noise"]]
    assert 0.03 < len(wrong) / len(triplets["train"]) < 0.15
    for row in wrong:
        listing = truth[row["query_id"].removesuffix("-query")]
        assert row["query_group_id"] == listing.group_id
        assert truth[row["positive_id"]].category == listing.category
    assert not [row for row in triplets["validation"] if row["positive_group_id"] != row["query_group_id"]]
    assert f"| false_positive | {len(wrong)} |" in (folder / "README.md").read_text()


def test_noise_of_a_triplet_is_that_of_its_listings(triplets, truth):
    seen = Counter()
    for row in made_from_rows([*triplets["train"], *triplets["validation"]]):
        source = next(made["source_id"] for made in row["provenance"] if made["field"].startswith("query_"))
        for role, name in (("positive", row["positive_id"]), ("negative", row["negative_id"])):
            expected = [f"{role}:{noise}" for noise in truth[name].noise]
            assert [noise for noise in row["noise"] if noise.startswith(role)] == expected
            seen.update(expected)
        if row["query_text"] is not None:
            expected = [f"query_source:{noise}" for noise in truth[source].noise]
            assert [noise for noise in row["noise"] if noise.startswith("query_source")] == expected
    assert seen["positive:cluttered_background"] and any("wrong_title" in noise for noise in seen)


def test_query_mix_is_kept(folder, triplets, tmp_path):
    shares = Counter(row["query_modality"] for row in made_from_rows(triplets["train"]))
    assert set(shares) == {"text", "image", "mixed"}
    assert all(0.2 < n / shares.total() < 0.47 for n in shares.values())
    build_dataset(shop(), tmp_path / "text", ORIGIN, BuildOptions(query_mix=(1.0, 0.0, 0.0)))
    rows = pq.read_table(tmp_path / "text" / "triplets", columns=["query_modality", "query_image"]).to_pylist()
    assert all(row == {"query_modality": "text", "query_image": None} for row in rows)


def test_queries_have_what_their_modality_says(triplets, benchmark):
    queries = [(row["query_modality"], row["query_text"], row["query_image"]) for row in triplets["train"]]
    queries += [(row["modality"], row["text"], row["image"]) for row in benchmark["queries"]]
    for modality, text, image in queries:
        assert (text is not None) == (modality in ("text", "mixed"))
        assert (image is not None) == (modality in ("image", "mixed"))
        assert image is None or Image.open(io.BytesIO(image["bytes"])).size == (32, 32)


def test_query_text_is_part_of_the_title_and_never_the_title(truth):
    for row in truth.values():
        units = title_units(row.title, row.values())
        assert len(units) > 2
        for modality in ("text", "mixed"):
            text, made = query_text(row, modality, seed_for(row.id))
            chosen = json.loads(made["parameters"])["units"]
            assert not Counter(chosen) - Counter(units)
            assert 1 <= len(chosen) <= 5 and len(chosen) < len(units) and (modality == "mixed" or len(chosen) >= 2)
            assert text.replace(" ", "") == "".join(chosen).replace(" ", "")
            assert text.lower() != row.title.lower()


def test_words_of_a_query_change_their_order(truth):
    kept = 0
    for row in truth.values():
        _, made = query_text(row, "text", seed_for(row.id))
        chosen = json.loads(made["parameters"])["units"]
        kept += sorted(chosen, key=row.title.find) == chosen
    assert 0 < kept < 0.6 * len(truth)


def test_query_picture_is_the_second_photo_or_another_listing_s(triplets, truth):
    for row in triplets["train"]:
        if row["query_image"]:
            made = next(made for made in row["provenance"] if made["field"] == "query_image")
            listing = truth[made["source_id"]]
            assert made["operation"] == "second_photo" and row["query_image"] == listing.images[1].as_record()
            assert listing.group_id == row["query_group_id"]
            assert row["query_image"]["bytes"] != row["positive_image"]["bytes"]


def test_benchmark_has_three_made_queries_and_one_asked_for_each_group_and_right_qrels(benchmark, truth):
    groups = defaultdict(set)
    for row in truth.values():
        if row.split == "test":
            groups[row.group_id].add(row.id)
    assert {row["id"] for row in benchmark["corpus"]} == set().union(*groups.values())
    found = defaultdict(set)
    for row in benchmark["qrels"]:
        found[row["query-id"]].add(row["corpus-id"])
    kinds = ("text", "image", "mixed", "asked")
    assert found == {f"{group}-{kind}": ids for group, ids in groups.items() for kind in kinds}
    assert [row["id"] for row in benchmark["queries"]] == list(found)
    for row in benchmark["corpus"]:
        listing = truth[row["id"]]
        assert row["text"] == listing.title and row["image"] == listing.images[0].as_record()
        assert tuple(row["category"]) == listing.category and row["brand"] == listing.brand


def test_no_query_picture_is_in_the_corpus(benchmark):
    corpus = {row["image"]["bytes"] for row in benchmark["corpus"]}
    pictures = [row["image"]["bytes"] for row in benchmark["queries"] if row["image"]]
    assert len(pictures) == 64 and not corpus & set(pictures)


def test_a_listing_whose_photo_is_the_query_is_not_in_the_corpus(tmp_path):
    """Groups without second photos keep one listing out; lone listings and shared photos give changed views."""
    pair = [shop_row("p0", "pair", "test"), shop_row("p1", "pair", "test")]
    alone = shop_row("s0", "alone", "test")
    twins = [shop_row("w0", "twins", "test"), shop_row("w1", "twins", "test")]
    twins[1] = shop_row("w1", "twins", "test", images=twins[0].images)
    borrowed = shop_row("b0", "borrowed", "test", pictures=2)
    borrowed = shop_row("b0", "borrowed", "test", images=(borrowed.images[0], alone.images[0]))
    train = [shop_row(f"a{n}", f"ga{n}", "train") for n in range(3)]
    build_dataset([*train, *pair, alone, *twins, borrowed], tmp_path / "mbe2", ORIGIN, BuildOptions())
    corpus, queries, qrels = (pq.read_table(tmp_path / "mbe2" / c).to_pylist() for c in ("corpus", "queries", "qrels"))
    held = {"p0", "p1"} - {row["id"] for row in corpus}
    assert len(held) == 1 and {row["id"] for row in corpus} >= {"s0", "w0", "w1", "b0"}
    image = next(row["image"] for row in queries if row["id"] == "pair-image")
    assert image == next(row for row in pair if row.id in held).images[0].as_record()
    assert {row["corpus-id"] for row in qrels if row["query-id"] == "pair-text"} == {"p0", "p1"} - held
    shown = {row["image"]["bytes"] for row in corpus}
    assert not [row["id"] for row in queries if row["image"] and row["image"]["bytes"] in shown]


def test_every_augmented_field_has_its_provenance(triplets):
    fields = {f"{role}_{name}" for role in ("positive", "negative") for name in
              ("enriched_title", "augmented_images[0]", "augmented_images[1]")}  # fmt: skip
    for row in triplets["train"]:
        query = {name for name in ("query_text", "query_image") if row[name] is not None}
        records = {made["field"]: made for made in row["provenance"]}
        assert len(records) == len(row["provenance"])
        assert set(records) == fields | query | {"negative"}
        assert records["negative"]["operation"] == row["negative_kind"]
        for name, made in records.items():
            role = name.split("_")[0]
            assert role == "query" or made["source_id"] == row[f"{role}_id"]
            maker = "template" if "title" in name else "classical" if "augmented" in name else ""
            assert made["model"] == maker and made["consistency_score"] is None and made["operation"]
            assert made["kept"] or (name.endswith("enriched_title") and row[name] is None and made["reason"])
            json.loads(made["parameters"])


def test_provenance_makes_the_augmented_picture_again(triplets, truth):
    kinds = set()
    for row in triplets["train"][:12]:
        made = next(made for made in row["provenance"] if made["field"] == "positive_augmented_images[1]")
        original = truth[row["positive_id"]].images[0]
        image, parameters = decode(original), json.loads(made["parameters"])
        again = apply_expansion(image, ClassicalExtractor()(image).mask, parameters)
        stored = row["positive_augmented_images"][1]
        assert encode(again, "again.jpg").bytes == stored["bytes"]
        assert stored["bytes"] not in (original.bytes, row["positive_augmented_images"][0]["bytes"])
        kinds.add(made["operation"])
    assert len(kinds) > 2


def test_provenance_makes_a_query_s_changed_view_again(tmp_path):
    rows = [shop_row(f"a{n}", f"ga{n}", "train") for n in range(3)]
    build_dataset(
        [*rows, shop_row("t", "gt", "test")], tmp_path / "mbe2", ORIGIN, BuildOptions(query_mix=(0.0, 1.0, 0.0))
    )
    for row, triplet in zip(rows, pq.read_table(tmp_path / "mbe2" / "triplets").to_pylist(), strict=True):
        made = next(made for made in triplet["provenance"] if made["field"] == "query_image")
        assert made["operation"] == "changed_view"
        again = apply_view(decode(row.images[0]), json.loads(made["parameters"]))
        assert encode(again, "again.jpg").bytes == triplet["query_image"]["bytes"]


def test_changed_views_are_never_mirrored_and_fill_nothing_in():
    left_to_right = np.tile(np.linspace(60, 200, 40, dtype=np.uint8)[None, :, None], (30, 1, 3))
    picture = Picture(encode(Image.fromarray(left_to_right), "ramp.jpg").bytes, "ramp.jpg")
    for seed in range(20):
        view = np.asarray(decode(changed_view(picture, seed, "view.jpg")[0]), dtype=float)
        assert view.shape == (30, 40, 3) and view.min() > 20
        assert view[:, 30:].mean() > view[:, :10].mean() + 30


def test_enriched_title_gains_only_the_row_s_own_facts(triplets, truth):
    kept = 0
    for row in [*triplets["train"], *triplets["validation"]]:
        for role in ("positive", "negative"):
            listing = truth[row[f"{role}_id"]]
            made = next(made for made in row["provenance"] if made["field"] == f"{role}_enriched_title")
            assert made["kept"] == (row[f"{role}_enriched_title"] is not None)
            facts = " ".join(
                (listing.title, listing.description or "", *listing.values(), *listing.category)
            ).casefold()
            for added in json.loads(made["parameters"])["added"] if made["kept"] else ():
                assert added.casefold() in row[f"{role}_enriched_title"].casefold()
                words = added if listing.translations else added.casefold().split()
                assert all(word in facts for word in words), (added, facts)
                kept += 1
    assert kept > 100


def test_a_failing_build_leaves_the_old_data_set_and_goes_on_later(tmp_path, monkeypatch):
    output = tmp_path / "mbe2"
    build_dataset(shop(), output, ORIGIN, BuildOptions())
    before = contents(output)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(mbe2_dataset.build, "card", fail)
    with pytest.raises(OSError, match="disk full"):
        build_dataset(shop(), output, ORIGIN, BuildOptions(seed=1), overwrite=True)
    assert contents(output) == before
    monkeypatch.undo()
    build_dataset(shop(), output, ORIGIN, BuildOptions(seed=1), overwrite=True)
    assert contents(output) != before
    assert {path.name for path in tmp_path.iterdir()} == {"mbe2", "mbe2.work"}


def test_output_folder_is_not_overwritten_by_accident(tmp_path, capsys):
    output = tmp_path / "mbe2"
    output.mkdir()
    few = ("--num_products", "8", "--num_validation", "0", "--num_test", "3")
    assert main(command(output, *few)) == 0  # an empty folder is fine
    before = contents(output)
    assert main(command(output, *few)) == 0
    assert "up to date" in capsys.readouterr().out and contents(output) == before
    assert main(command(output)) == 2
    assert "mbe2 is not empty" in capsys.readouterr().err and contents(output) == before
    assert main(command(output, *few, "--overwrite", "--seed", "4")) == 0
    assert contents(output) != before
    assert {path.name for path in tmp_path.iterdir()} == {"mbe2", "mbe2.work"}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("my notes")
    assert main(command(mine, "--overwrite")) == 2
    assert "mine has no README.md of an MBE2.0-format data set" in capsys.readouterr().err
    assert (mine / "README.md").read_text() == "my notes"
    assert main(command(mine / "README.md")) == 2
    assert "is a file" in capsys.readouterr().err


def test_two_builds_do_not_share_a_work_folder(tmp_path, capsys):
    few = ("--num_products", "8", "--num_validation", "0", "--num_test", "3")
    work = tmp_path / "mbe2.work"
    work.mkdir()
    with FileLock(work / "lock"):
        assert main(command(tmp_path / "mbe2", *few)) == 2
        assert f"Another build is at work in {work}" in capsys.readouterr().err
        assert [path.name for path in tmp_path.rglob("*")] == ["mbe2.work", "lock"]
        assert main(command(tmp_path / "mbe2", *few, "--work", str(tmp_path / "own"))) == 0
    assert main(command(tmp_path / "mbe2", *few)) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_source_that_is_not_there_leaves_nothing_behind(tmp_path, capsys):
    missing = str(tmp_path / "nowhere")
    assert main(["build", "--catalogue", missing, "--output", str(tmp_path / "mbe2")]) == 2
    assert f"There is no file or folder {missing}" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_card_tells_where_it_came_from(folder):
    text = (folder / "README.md").read_text()
    assert "MBE2.0-format" in text and "2511.12449" in text and "it is not MBE2.0" in text
    assert "--num_products 96 --num_validation 8 --num_test 32 --picture_size 32 --augmented_images 2\n" in text
    assert str(folder.parent) not in text
    loaded = datasets.load_dataset_builder(str(folder), "qrels")
    assert list(loaded.config.data_files) == ["test"]


def test_shares_of_noise_are_those_of_triplets(folder):
    """A triplet may have several kinds of noise, so that the shares of labels would be too small."""
    rows = pq.read_table(folder / "triplets").to_pylist()
    wrong = sum("false_positive" in row["noise"] for row in rows)
    assert wrong and sum(len(row["noise"] or ["none"]) for row in rows) > len(rows)
    text = (folder / "README.md").read_text()
    assert f"| false_positive | {wrong} | {100 * wrong / len(rows):.1f} % |" in text


def test_real_catalogues_without_validation_have_no_noise_of_their_own(tmp_path):
    counts = build_dataset(shop(), tmp_path / "mbe2", ORIGIN, BuildOptions()).rows
    assert counts["triplets"] == {"train": 12} and counts["corpus"] == {"test": 3}
    rows = pq.read_table(tmp_path / "mbe2" / "triplets").to_pylist()
    assert all(row["noise"] == [] and row["positive_group_id"] == row["query_group_id"] for row in rows)
    text = (tmp_path / "mbe2" / "README.md").read_text()
    assert "license: other" in text and "Noise is known for synthetic catalogues only" in text


def test_command_line_prints_a_summary_and_help(tmp_path):
    run = ["-m", "mbe2_dataset"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    few = ("--num_products", "8", "--num_validation", "0", "--num_test", "3")
    done = fresh.run([*run, *command(Path("mbe2"), *few)], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "qrels" in done.stdout and 'load_dataset("mbe2")' in done.stdout and "train" in done.stdout
    bad = fresh.run([*run, "build", "--catalogue", "nowhere", "--output", "x"], environment, tmp_path)
    assert bad.returncode == 2 and "nowhere" in bad.stderr and "Traceback" not in bad.stderr
    with pytest.raises(SystemExit) as stop:
        main(["build", "--help"])
    assert stop.value.code == 0
