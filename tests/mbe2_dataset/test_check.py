"""The check of a published data set finds each kind of fault, its report shows the rows, and the card is valid."""

import hashlib
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard
from PIL import Image

from common_moon2.cli import UserError
from conftest import change, cut_picture
from mbe2_dataset.card import Origin, Terms, card
from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.checks import rows, sets
from mbe2_dataset.checks.check import CheckReport, check_dataset, spread
from mbe2_dataset.checks.page import write_report
from mbe2_dataset.checks.rows import LOOK, seen
from mbe2_dataset.errors import ModelError

ORIGIN = Origin("shop", False, "python -m mbe2_dataset build", 0)


def edited(mbe2: str, target: Path, config: str, edit: Callable[[list[dict]], None]) -> str:
    """A copy of a data set with edited rows of one config (of triplets: the train split)."""
    shutil.copytree(mbe2, target)
    split = "train" if config == "triplets" else "test"
    (shard,) = (target / config).glob(f"{split}-*.parquet")
    table = pq.read_table(shard)
    rows = table.to_pylist()
    edit(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    return str(target)


def found(report: CheckReport, *levels: str) -> dict[tuple[str, str], int]:
    """(check, where) -> number, of the findings of these levels."""
    counts = Counter()
    for finding in report.findings:
        if finding.level in levels:
            counts[finding.check, finding.where] += finding.count
    return dict(counts)


@pytest.fixture(scope="module")
def report(mbe2) -> CheckReport:
    return check_dataset(mbe2)


def test_a_fresh_build_passes_and_is_counted(mbe2, report):
    assert found(report, "error", "warning") == {}
    rows = {
        config: sum(pq.read_metadata(path).num_rows for path in Path(mbe2).glob(f"{config}/*.parquet"))
        for config in ("triplets", "corpus", "queries", "qrels")
    }
    assert {config: sum(splits.values()) for config, splits in report.rows.items()} == rows
    table = pq.read_table(Path(mbe2) / "triplets", columns=["query_modality", "query_text"]).to_pylist()
    modalities = Counter()
    for split in ("train", "validation"):
        modalities.update(report.counts[f"modality of triplets/{split}"])
    assert modalities == Counter(row["query_modality"] for row in table)
    assert set(report.counts["modality of queries/test"].values()) == {8}
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    assert any(line.startswith("modality of triplets/train: ") for line in report.lines())


@pytest.mark.slow
def test_processes_change_nothing(mbe2, report):
    assert check_dataset(mbe2, num_proc=2) == report


def group_of_positive(row: dict):
    row["negative_group_id"] = row["positive_group_id"]


def lost_provenance(row: dict):
    row["provenance"] = [made for made in row["provenance"] if not made["field"].startswith("positive_augmented")]


def bad_parameters(row: dict):
    row["provenance"][0]["parameters"] = "{"


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (cut_picture, "pictures", "row 3 of train-00000-of-00001.parquet, negative_image"),
        (lambda row: row["positive_image"].update(bytes=None), "pictures", "images have no bytes"),
        (lambda row: row.update(positive_title=None), "nulls", "positive_title"),
        (lambda row: row.update(positive_title=" "), "nulls", "texts are empty"),
        (lambda row: row.update(query_modality="sound"), "modality", "'sound' holds"),
        (group_of_positive, "negatives", "is of the group"),
        (lost_provenance, "provenance", "positive_augmented_images has 0 for 1"),
        (bad_parameters, "provenance", "no JSON"),
    ],
)
def test_a_fault_of_one_triplet_is_found_and_named(mbe2, tmp_path, edit, check, words):
    report = check_dataset(change(mbe2, tmp_path / "mbe2", edit))
    assert found(report, "error") == {(check, "triplets/train"): 1}
    (finding,) = report.of_level("error")
    assert words in finding.sentence() and "row 3" in finding.sentence()
    assert report.failed and f"error: {finding.sentence()}" in report.lines()


def other_corpus(rows: list[dict]):
    rows[0]["corpus-id"] = "nowhere"


@pytest.mark.parametrize(
    ("config", "edit", "expected"),
    [
        ("qrels", lambda rows: rows.append(rows[0]), {("qrels", "qrels"): 1}),
        ("qrels", lambda rows: rows[0].update({"query-id": "nobody"}), {("qrels", "qrels"): 1}),
        ("qrels", other_corpus, {("qrels", "qrels"): 1}),
        ("qrels", lambda rows: rows[0].update(score=0), {("qrels", "qrels/test"): 1}),
        ("corpus", lambda rows: rows.append(rows[0]), {("ids", "corpus"): 1}),
        ("queries", lambda rows: rows[1].update(id=rows[0]["id"]), {("ids", "queries"): 1}),
    ],
)  # fmt: skip
def test_faults_of_the_benchmark_are_found(mbe2, tmp_path, config, edit, expected):
    errors = found(check_dataset(edited(mbe2, tmp_path / "mbe2", config, edit)), "error")
    assert {key: errors.get(key) for key in expected} == expected


def test_a_query_without_qrel_is_found(mbe2, tmp_path):
    def drop(rows: list[dict]):
        rows[:] = [row for row in rows if row["query-id"] != rows[0]["query-id"]]

    errors = found(check_dataset(edited(mbe2, tmp_path / "mbe2", "qrels", drop)), "error")
    assert errors == {("qrels", "queries"): 1}


def train_row(mbe2: str, place: int = 5) -> dict:
    return pq.read_table(Path(mbe2) / "triplets" / "train-00000-of-00001.parquet").slice(place, 1).to_pylist()[0]


def test_products_groups_and_pictures_in_two_splits_are_found(mbe2, tmp_path):
    leaked = train_row(mbe2)

    def leak(rows: list[dict]):
        rows[0]["id"] = leaked["positive_id"]
        rows[1]["group_id"] = leaked["negative_group_id"]
        rows[2]["image"] = leaked["negative_augmented_images"][0]

    report = check_dataset(edited(mbe2, tmp_path / "mbe2", "corpus", leak))
    leaks = {finding.message: finding for finding in report.of_level("error") if finding.check == "leakage"}
    assert {message.split(" ")[0]: leaks[message].count for message in leaks} == {
        "products": 1, "groups": 1, "images": 1,
    }  # fmt: skip
    assert leaks["products are in both splits"].examples == (leaked["positive_id"],)
    (names,) = leaks["images are in both splits, byte for byte"].examples
    assert "image in row 2 of corpus/test" in names and "negative_augmented_images in row " in names


def test_the_same_detail_of_different_photos_is_a_warning(mbe2, tmp_path):
    """As of two shades of one lip gloss. A whole build must not be thrown away for it."""
    (shard,) = (Path(mbe2) / "triplets").glob("validation-*.parquet")
    theirs = pq.read_table(shard).to_pylist()[0]["positive_augmented_images"][0]

    def leak(rows: list[dict]):
        for row in rows:
            if row["positive_augmented_images"]:
                row["positive_augmented_images"][0] = theirs
                return

    report = check_dataset(edited(mbe2, tmp_path / "mbe2", "triplets", leak))
    assert found(report, "error") == {}
    (finding,) = (finding for finding in report.of_level("warning") if finding.check == "leakage")
    assert (finding.count, finding.where) == (1, "train and validation") and "augmented images" in finding.message
    assert finding.examples[0].count("augmented_images in row ") == 2


def test_a_picture_that_was_encoded_again_is_found_by_its_looks(mbe2, tmp_path):
    picture = train_row(mbe2, 3)["positive_image"]
    image = Image.open(io.BytesIO(picture["bytes"])).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)

    def leak(rows: list[dict]):
        rows[4]["image"] = {"bytes": buffer.getvalue(), "path": "other.jpg"}

    report = check_dataset(edited(mbe2, tmp_path / "mbe2", "corpus", leak))
    assert found(report, "error") == {}
    near = [finding for finding in report.of_level("warning") if finding.check == "leakage"]
    assert [finding.where for finding in near] == ["test and train"]
    assert "image in row 4 of corpus/test-00000-of-00001.parquet" in near[0].examples[0]


def test_near_pictures_are_those_that_comparing_all_finds(monkeypatch):
    monkeypatch.setattr(sets, "BLOCK", 500)
    random = np.random.default_rng(0)
    one, other = np.zeros(300, LOOK), np.zeros(400, LOOK)
    for looks in (one, other):
        # Few kinds of images, each with some bits and colours changed.
        kinds = random.integers(0, 20, len(looks))
        flips = random.random((len(looks), 64)) < 0.06
        bits = (np.random.default_rng(1).random((20, 64)) < 0.5)[kinds] ^ flips
        looks["hash"] = np.packbits(bits, axis=1).view(">u8")[:, 0]
        looks["small"] = 10 * kinds[:, None] + random.integers(0, 7, (len(looks), 1))
        looks["sha"] = random.integers(0, 1000, len(looks))
    bits = np.bitwise_count(one["hash"][:, None] ^ other["hash"])
    colours = np.abs(one["small"][:, None].astype(int) - other["small"]).mean(axis=-1)
    quarters = [np.bitwise_count((one["hash"][:, None] ^ other["hash"]).view("u2")[:, place::4]) for place in range(4)]
    alike = (
        (bits <= sets.HASH_DISTANCE)
        & (np.min(quarters, axis=0) <= 1)
        & (colours <= 3.5)
        & (one["sha"][:, None] != other["sha"])
    )
    looks, places = np.concatenate([one, other]), np.arange(len(one) + len(other))
    found, total = sets._candidates(looks, places[: len(one)], places[len(one) :])
    expected = list(zip(*(place.tolist() for place in np.nonzero(alike)), strict=True))
    assert sorted(map(tuple, found.tolist())) == expected
    assert (bits[alike] > 7).any() and 100 < len(found) == total < (bits <= sets.HASH_DISTANCE).sum()
    distances = colours[*found.T].tolist()
    assert distances == sorted(distances)
    # Of too many, those that are nearest are looked at closely.
    monkeypatch.setattr(sets, "CANDIDATES", 30)
    nearest, counted = sets._candidates(looks, places[: len(one)], places[len(one) :])
    assert nearest.tolist() == found[:30].tolist() and counted == total


def test_each_different_picture_is_decoded_once(mbe2, report, monkeypatch):
    decoded = []

    def counted(content: bytes, is_photo: bool):
        decoded.append(hashlib.sha256(content).hexdigest())
        return seen(content, is_photo)

    monkeypatch.setattr(rows, "seen", counted)
    assert check_dataset(mbe2) == report
    assert len(decoded) == len(set(decoded)) == report.pictures["different"] < report.pictures["decoded"]


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(17, 40), (70, 64), (150, 300), (520, 640)])
def test_a_jpeg_that_is_decoded_smaller_looks_as_it_does_to_pillow(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8))
    image = image.resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    usual = [encoded(image), encoded(image.convert("L")), encoded(image, quality=60, subsampling=0)]
    others = [encoded(image, progressive=True), encoded(image, exif=exif), encoded(image.convert("CMYK"))]
    for content in [*usual, *others, encoded(image, "PNG")]:
        assert (rows._usual_jpeg(content) == size) == (content in usual)
        side, colours = seen(content)
        expected = np.asarray(decode(Picture(content, "x")))
        small = cv2.resize(expected, colours.shape[:2], interpolation=cv2.INTER_AREA)
        assert side == max(size) and np.abs(colours.astype(int) - small).mean() < 1
        assert seen(content, is_photo=False)[0] == max(size)


def is_refused(read: Callable, *told) -> bool:
    try:
        read(*told)
    except ValueError:
        return True
    return False


def test_damage_of_a_jpeg_is_found_where_pillow_finds_it():
    content = encoded(Image.effect_noise((90, 70), 60).convert("RGB"))
    ends = [*range(0, len(content) - 2, 97), len(content) - 2]
    assert all(is_refused(seen, content[:end]) for end in ends)
    damaged = [content[:end] + bytes(len(content) - end) for end in ends]
    damaged += [content[:end] + content[end + 1 :] for end in ends[1:]]
    random = np.random.default_rng(0)
    places = random.integers(content.index(b"\xff\xda"), len(content), 600)
    for place, value in zip(places.tolist(), random.integers(0, 256, 600).tolist(), strict=True):
        damaged.append(content[:place] + bytes([value]) + content[place + 1 :])
    for one in damaged:
        assert is_refused(seen, one, True) == is_refused(seen, one, False) == is_refused(decode, Picture(one, ""))
    assert {is_refused(seen, one) for one in damaged} == {True, False}, "neither finds all of it"
    assert is_refused(seen, encoded(Image.new("RGB", (900, 4)))), "no processor takes this shape"


def test_a_broken_picture_is_named_wherever_it_occurs(mbe2, tmp_path):
    def cut(rows: list[dict]):
        for place in (3, 5):
            rows[place]["negative_image"] = {"bytes": rows[3]["negative_image"]["bytes"][:300], "path": "cut.jpg"}

    report = check_dataset(edited(mbe2, tmp_path / "mbe2", "triplets", cut))
    (finding,) = report.of_level("error")
    assert finding.count == 2 and "row 3 of" in finding.examples[0] and "row 5 of" in finding.examples[1]


def test_duplicates_of_the_corpus_are_warned_of(mbe2, tmp_path):
    def repeat(rows: list[dict]):
        rows[0]["text"], rows[0]["image"] = rows[1]["text"], rows[1]["image"]

    report = check_dataset(edited(mbe2, tmp_path / "mbe2", "corpus", repeat))
    messages = {finding.message for finding in report.of_level("warning")}
    assert {"texts are those of more than one listing", "images are those of more than one listing"} <= messages


def test_augmented_rows_outside_training_and_missing_files_are_errors(mbe2, tmp_path):
    folder = tmp_path / "mbe2"
    shutil.copytree(mbe2, folder)
    (train,) = folder.glob("triplets/train-*")
    shutil.copy(train, folder / "triplets" / "test-00000-of-00001.parquet")
    assert ("split", "data set") in found(check_dataset(folder), "error")
    (folder / "triplets" / "test-00000-of-00001.parquet").unlink()
    train.rename(folder / "triplets" / "train-00000-of-00002.parquet")
    (sentence,) = [finding.sentence() for finding in check_dataset(folder).of_level("error")]
    assert "triplets/train is not whole" in sentence
    shutil.rmtree(folder / "qrels")
    assert "qrels/ has no Parquet file" in "".join(check_dataset(folder).lines())


def test_other_columns_and_damaged_files_are_errors(mbe2, tmp_path):
    folder = tmp_path / "mbe2"
    shutil.copytree(mbe2, folder)
    (corpus,) = folder.glob("corpus/*")
    table = pq.read_table(corpus)
    pq.write_table(table.drop_columns(["text"]).append_column("stars", [[1] * len(table)]), corpus)
    report = check_dataset(folder)
    assert found(report, "error") == {("schema", "corpus/test"): 1} and found(report, "warning")
    assert "text is missing" in "".join(report.lines())
    (qrels,) = folder.glob("qrels/*")
    qrels.write_bytes(qrels.read_bytes()[:-20])
    assert ("files", "data set") in found(check_dataset(folder), "error")


@pytest.mark.parametrize("dataset", ["nowhere", "user/none"])
def test_a_data_set_that_is_not_there_is_a_sentence(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=dataset):
        check_dataset(dataset)


def test_a_model_finds_neighbours_across_splits(mbe2, tmp_path, after_demo):
    leaked = train_row(mbe2)["positive_image"]
    report = check_dataset(edited(mbe2, tmp_path / "leaking", "corpus", lambda rows: rows[0].update(image=leaked)),
                           model=str(after_demo / "moon2"))  # fmt: skip
    (near,) = [finding for finding in report.findings if "says" in finding.message]
    assert near.where == "corpus" and near.level == "warning" and "(1.000)" in near.examples[0]
    with pytest.raises(ModelError, match="The model .* cannot be loaded"):
        check_dataset(mbe2, model=str(tmp_path / "no_model"))


def test_spread_is_that_of_the_numbers():
    random.seed(0)
    for size in (1, 2, 3, 10, 101):
        numbers = [random.randrange(20) for _ in range(size)]
        middle = int(np.percentile(numbers, 50, method="lower"))
        assert spread(Counter(numbers)) == (min(numbers), middle, max(numbers))


# The report


def test_the_page_shows_rows_and_escapes_what_the_catalogue_says(mbe2, tmp_path):
    attack = "<script>alert(1)</script> & mug"

    def inject(rows: list[dict]):
        for row in rows:
            row["positive_title"], row["positive_enriched_title"] = attack, f"{attack}, <b>striped</b>"
            row["query_id"] = f"<i>{row['query_id']}"
            row["noise"].append("<u>")
            for made in row["provenance"]:
                made["operation"] = "<em>"

    folder = edited(mbe2, tmp_path / "mbe2", "triplets", inject)
    write_report(folder, check_dataset(folder), tmp_path / "report.html", samples=3)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for tag in ("<script", "<b>striped", "<i>", "<u>", "<em>"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; mug" in page
    assert "<mark>, &lt;b&gt;striped&lt;/b&gt;</mark>" in page
    assert page.count('<div class="row">') == 3 and page.count("data:image/jpeg;base64,") >= 12
    assert "http" not in page.replace("http-equiv", "") and 'name="viewport"' in page


def test_the_page_says_what_was_found_and_draws_scores(mbe2, tmp_path):
    scores = random.Random(0)

    def score(rows: list[dict]):
        cut_picture(rows[3])
        for row in rows:
            for number, made in enumerate(row["provenance"]):
                made |= {"consistency_score": scores.uniform(0.1, 0.4), "reason": "low"}
                if made["field"].endswith("enriched_title"):
                    made["kept"] = number % 2 == 0

    folder = edited(mbe2, tmp_path / "mbe2", "triplets", score)
    report = check_dataset(folder)
    write_report(folder, report, tmp_path / "report.html", samples=2)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'class="finding error"' in page and "images cannot be decoded" in page
    kept, dropped = (sum(report.counts[f"consistency scores, {state}"].values()) for state in ("kept", "dropped"))
    assert dropped and f"Scores: {kept:,} kept (blue), {dropped:,} dropped (orange)" in page
    assert 12 <= len(report.counts["consistency scores, kept"]) <= 17


# The card


def built(**changes) -> SimpleNamespace:
    rows = {"triplets": {"train": 1200}, "corpus": {"test": 30}, "queries": {"test": 9}, "qrels": {"test": 9}}
    return SimpleNamespace(**({"rows": rows, "counts": {"negative": Counter(random=3)}, "facts": {}} | changes))


def test_card_has_valid_metadata_and_the_publisher_s_terms():
    terms = Terms(
        license="other", license_name="shop-terms", license_link="https://shop.example/terms", languages=("en", "de"),
        attribution="Photos by the Shop.",
    )  # fmt: skip
    text = card(ORIGIN, built(), terms, repo_id="user/shop")
    facts = DatasetCard(text).data
    assert (facts.license, facts.license_name, facts.language) == ("other", "shop-terms", ["en", "de"])
    assert facts.size_categories == ["1K<n<10K"]
    configs = yaml.safe_load(text.split("---")[1])["configs"]
    assert [config["config_name"] for config in configs] == ["triplets", "corpus", "queries", "qrels"]
    assert "[shop-terms](https://shop.example/terms). Photos by the Shop." in text
    assert 'load_dataset("user/shop", "corpus", split="test")' in text
    with pytest.raises(ValueError, match="only together with license 'other'"):
        Terms(license="mit", license_name="shop-terms")


def test_card_tells_what_models_and_checks_said(mbe2, tmp_path):
    report = check_dataset(change(mbe2, tmp_path / "mbe2", cut_picture))
    said = {"threshold": "quantile 0.1", "cuts": {"views": 0.25}, "histograms": {"views": "0.2 to 0.3  -## 2 kept"}}
    facts = {"consistency": {"model": "clip", "revision": "abc"} | said}
    text = card(ORIGIN, built(facts=facts), report=report)
    assert "Scored by `clip` at revision `abc`; what scored below views 0.250 was dropped (quantile 0.1)." in text
    assert "- error: triplets/train: 1 images cannot be decoded" in text
    assert "## Checks" not in card(ORIGIN, built()) and "## Consistency" not in card(ORIGIN, built())
