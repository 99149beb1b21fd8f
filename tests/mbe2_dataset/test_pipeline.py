"""The whole build on the command line: logs, mined negatives, paid titles, scores; stopped, killed and gone on with."""

import dataclasses
import hashlib
import io
import json
import os
import re
import shlex
import time
from pathlib import Path

import fresh
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_server import Reply, chat_server
from PIL import Image

from mbe2_dataset.__main__ import main
from mbe2_dataset.arguments import COMMANDS, MOVED, Build
from mbe2_dataset.catalogue.pictures import Picture
from mbe2_dataset.catalogue.store import Row, SplitRows
from mbe2_dataset.coaugmentation import makers
from mbe2_dataset.coaugmentation.pictures.subject import SegmentationExtractor
from mbe2_dataset.errors import OptionError
from mbe2_dataset.pipeline import build_options
from mbe2_dataset.schema import identity_of
from mbe2_dataset.triplets.negatives import CategoryNegatives, Hardness, MinedNegatives

ROOT = Path(__file__).parents[2]
COLOURS = ["red", "blue", "green", "black", "white", "yellow"]


def photo(number: int) -> bytes:
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)).resize((40, 48), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def product(number: int, **changes: object) -> dict:
    colour = COLOURS[number % len(COLOURS)]
    return {
        "sku": f"s{number}",
        "name": f"Acme shirt {colour} number{number}",
        "description": "Made of cotton, for women.",
        "brand": "Acme",
        "category": ["Clothes", "Shirt" if number % 2 else "Skirt"],
        "attributes": [{"name": "colour", "value": colour}, {"name": "fabric", "value": "cotton"}],
        "photo": {"bytes": photo(number), "path": f"{number}.jpg"},
        "split": "test" if number % 5 == 4 else "train",
    } | changes


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A catalogue whose columns have other names, with two rows that cannot be used."""
    folder = tmp_path_factory.mktemp("catalogues") / "shop"
    folder.mkdir()
    rows = [product(number) for number in range(30)]
    rows += [product(30, name=None), product(31, photo={"bytes": b"<html>", "path": "page.jpg"})]
    pq.write_table(pa.Table.from_pylist(rows), folder / "shop.parquet")
    return folder


def paid(url: str, *options: str) -> tuple[str, ...]:
    served = ("--titles", "endpoint", "--title_endpoint", url, "--title_model", "writer-1", "--title_uses", "text")
    return (*served, "--concurrency", "3", *options)


def build(shop: Path, output: Path, *options: str) -> int:
    words = ["build", "--catalogue", str(shop), "--output", str(output), "--columns", "images=photo"]
    return main([*words, "--num_proc", "1", "--augmented_images", "0", *options])


def triplets(output: Path) -> list[dict]:
    return [row for path in sorted(output.glob("triplets/train-*")) for row in pq.read_table(path).to_pylist()]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_rows_in_are_rows_used_and_rows_set_aside(shop, tmp_path, capsys):
    assert build(shop, tmp_path / "mbe2") == 0
    said = capsys.readouterr().out
    assert "rows in 32 = used 30 + set aside 2" in said
    aside = (tmp_path / "mbe2.work" / "catalogue" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in aside] == ["s30", "s31"]
    assert "it has no title" in aside[0] and "page.jpg" in aside[1]


def test_how_a_catalogue_was_understood_is_in_the_answer_and_its_counts_in_the_check(shop, tmp_path, capsys):
    assert build(shop, tmp_path / "mbe2", "--json") == 0
    understood = json.loads(capsys.readouterr().out)["understood"]
    assert understood["tables"][0]["columns"]["images"] == "photo" and len(understood["products"]) == 3
    assert understood["counts"] == {"rows": 32, "products": 30}
    assert main(["check", str(tmp_path / "mbe2"), "--num_proc", "1"]) == 0
    assert "read from the catalogue: rows 32, products 30" in capsys.readouterr().out


def test_an_unknown_layout_lists_what_was_found(shop, tmp_path, capsys):
    assert main(["build", "--catalogue", str(shop), "--output", str(tmp_path / "mbe2"), "--num_proc", "1"]) in (0, 2)
    pq.write_table(pa.table({"foo": ["1"], "bar": ["x"]}), tmp_path / "odd.parquet")
    assert main(["build", "--catalogue", str(tmp_path / "odd.parquet"), "--output", str(tmp_path / "odd")]) == 2
    message = capsys.readouterr().err.split("error: ")[-1]
    assert "'foo', 'bar'" in message and "--columns" in message


def test_a_yaml_file_holds_options_and_the_command_line_wins(shop, tmp_path):
    (tmp_path / "build.yaml").write_text(f"catalogue: {shop}\noutput: here\nseed: 3\nquery_mix: 1,0,0\n")
    told, _ = COMMANDS["build"].read([str(tmp_path / "build.yaml"), "--seed", "4"], "build")
    assert told.seed == 4 and build_options(told).query_mix == (1.0, 0.0, 0.0)
    (tmp_path / "build.yaml").write_text("query_mix: [2, 1, 1]\nlanguages: [en, zh]\nonly: a=b\ndry_run: true\n")
    words = [str(tmp_path / "build.yaml"), "--catalogue", "shop", "--output", "here"]
    told, _ = COMMANDS["build"].read(words, "build")
    assert (told.query_mix, told.spoken, told.only, told.dry_run) == ("2,1,1", ("en", "zh"), ["a=b"], 100)


@pytest.mark.parametrize(
    "field, said",
    [
        ("catalog: x", "catalog"),
        ("subject: rembgg", "classical, rembg"),
        ("negatives: no", "negatives: False"),
        ("languages: no", "--languages cannot be False"),
        ("columns: {title: name}", "--columns cannot be"),
        ("seed: 1.5", "--seed cannot be 1.5"),
        ("hub: 3", "--hub cannot be 3"),
        ("made_queries: false", "--query_mix none"),
    ],
)
def test_fields_of_a_yaml_file_that_cannot_be_are_refused_in_a_sentence(shop, tmp_path, capsys, field, said):
    (tmp_path / "build.yaml").write_text(f"catalogue: {shop}\noutput: {tmp_path / 'mbe2'}\n{field}\n")
    assert main(["build", str(tmp_path / "build.yaml")]) == 2
    message = capsys.readouterr().err.split("error: ")[-1]
    assert said in message and message.count("\n") == 1 and not (tmp_path / "mbe2").exists()


def test_options_of_earlier_versions_are_refused_with_one_that_there_is(capsys):
    fields = {field.name for field in dataclasses.fields(Build)}
    assert len(MOVED) == 20 and not fields & MOVED.keys()
    for name, instead in MOVED.items():
        assert main(["build", f"--{name}", "x"]) == 2
        assert f"no option --{name} any more; say it with {instead}." in capsys.readouterr().err
        assert re.search(r"--(\w+)", instead)[1] in fields


def test_the_command_of_the_card_says_what_was_told(tmp_path):
    table, model = tmp_path / "log 1.csv", tmp_path / "clip"
    table.touch(), model.mkdir()
    words = ["--only", "price<5", "title=it's", "--augmented_images", "0", "--query_mix", "none", "--search_log",
             str(table), "--allow_urls", "--licence", "other", "name=of the shop", "--consistency_model", str(model),
             "--negatives", "mined", "--negative_model", "user/name", "--revisions", "negative_model=v1"]  # fmt: skip
    told, _ = COMMANDS["build"].read(["--catalogue", "my shop", "--output", "mbe2", *words], "build")
    python, *_, name = (command := shlex.split(told.command("my shop")))[:4]
    again, _ = COMMANDS["build"].read(command[4:], "build")
    assert (python, name) == ("python", "build") and str(tmp_path) not in " ".join(command)
    assert "--allow_urls true" in told.command("x")
    assert again == dataclasses.replace(told, search_log="log 1.csv", consistency_model="clip")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--query_mix", "1,1"], "--query_mix"),
        (["--negatives", "mined"], "--negative_model"),
        (["--titles", "endpoint"], "--title_endpoint"),
        (["--editor", "endpoint", "--editor_model", "m"], "--editor_endpoint"),
        (["--subject", "none", "--augmented_images", "1"], "--editor"),
        (["--consistency_threshold", "0.2"], "--consistency_model"),
        (["--consistency_model", "nowhere/none", "--consistency_threshold", "x"], "--consistency_threshold"),
        (["--consistency_model", "nowhere"], "nowhere"),
        (["--negatives", "mined", "--negative_model", "nowhere"], "nowhere"),
        (["--hardness", "9,3"], "--hardness"),
        (["--hardness", "5,50,2"], "--hardness"),
        (["--hardness", "5.5,50"], "--hardness"),
        (["--hardness", "5,inf,0.9"], "--hardness"),
        (["--query_mix", "1,1,inf"], "--query_mix"),
        (["--revisions", "editor_model=v1"], "--revisions"),
        (["--revisions", "catalogue"], "--revisions"),
        (["--dry_run", "yes"], "--dry_run"),
        (["--subject_model", "u2net"], "--subject rembg or segmentation"),
        (["--search_log", "nowhere.csv"], "nowhere.csv"),
        (["--licence", "attribution=Acme"], "--licence"),
        (["--licence", "mit", "name=mine"], "has a name of its own"),
        (["--split_shares", "1,2"], "--split_shares"),
        (["--title_budget", "cost=1"], "--titles endpoint"),
        (["--editor_budget", "cost=much"], "cost=... edit=..."),
        ([*paid("http://nowhere"), "--title_budget", "cost=1"], "read=... written=..."),
        (["--title_uses", "sound"], "--title_uses is picture, entities, both or text"),
        (["--title_uses", "picture,text"], "--title_uses"),
        (["--hub", "branch=x"], "config=... split=..."),
        (["--made_queries", "false"], "--query_mix none"),
        (["--title-max-cost=3"], "--title_budget cost=..."),
        (["--limit", "0"], "--limit"),
        (["--titels", "template"], "--titels"),
    ],
)
def test_options_that_cannot_be_are_refused_in_a_sentence(shop, tmp_path, capsys, words, said):
    assert build(shop, tmp_path / "mbe2", *words) == 2
    message = capsys.readouterr().err.split("error: ")[-1]
    assert said in message and message.count("\n") == 1
    assert not (tmp_path / "mbe2").exists()


# Search logs


def test_a_search_log_gives_queries_positives_negatives_and_grades(shop, tmp_path, capsys):
    log = tmp_path / "log.csv"
    rows = ["query,item,label", "red mug,s0,E", "red mug,s1,I", "red mug,s6,E", "lonely,s2,E", "lost,nowhere,E",
            "evening,s4,2", "evening,s9,E"]  # fmt: skip
    log.write_text("\n".join(rows) + "\n")
    assert build(shop, tmp_path / "mbe2", "--search_log", str(log), "--query_mix", "none") == 0
    said = capsys.readouterr().out
    assert "rows in 7" in said and "item unknown 1" in said
    rows = triplets(tmp_path / "mbe2")
    found = {(row["query_text"], row["positive_id"]): (row["negative_id"], row["negative_kind"]) for row in rows}
    assert set(found) == {("red mug", "s0"), ("red mug", "s6"), ("lonely", "s2")}
    assert found["red mug", "s0"] == found["red mug", "s6"] == ("s1", "shown_not_bought")
    assert found["lonely", "s2"][1] == "same_leaf"
    assert {row["query_modality"] for row in rows} == {"text"} and len({row["query_id"] for row in rows}) == 3
    made = next(made for made in rows[0]["provenance"] if made["field"] == "query_text")
    assert made["operation"] == "search_log"
    qrels = pq.read_table(tmp_path / "mbe2" / "qrels").to_pylist()
    queries = {row["id"]: row["text"] for row in pq.read_table(tmp_path / "mbe2" / "queries").to_pylist()}
    judged = {(queries[row["query-id"]], row["corpus-id"], row["score"]) for row in qrels}
    assert judged == {("evening", "s4", 2), ("evening", "s9", 1)}


def test_without_a_right_item_there_is_nothing_to_build(shop, tmp_path, capsys):
    (tmp_path / "log.csv").write_text("query,item,label\nred,s1,I\n")
    assert build(shop, tmp_path / "mbe2", "--search_log", str(tmp_path / "log.csv")) == 2
    assert "No query of the search log has a right item" in capsys.readouterr().err


# Negatives


def mined(vectors: np.ndarray, groups: list[str], pictures: list[int], hardness: Hardness) -> MinedNegatives:
    class Hashed(Picture):
        __slots__ = ("perceptual_hash",)

    rows = []
    for number, group in enumerate(groups):
        image = Hashed(b"", str(number))
        image.perceptual_hash = pictures[number]
        rows.append(Row(f"r{number}", "t", None, None, (), (), None, (image,), "train", group))
    split = SplitRows.of(rows)
    return MinedNegatives(split, vectors.astype(np.float32), hardness, CategoryNegatives(split))


def test_mined_negatives_come_from_the_window_without_groups_and_duplicates():
    angles = np.deg2rad([0, 1, 5, 10, 20, 30, 40, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    groups = ["a", "b", "a", "c", "d", "e", "f", "g"]
    pictures = [0, 0, 0b1111100000, 0b11, 0xFFFF, 0xFF0000, 0xFF000000, 0xFF00000000]
    # Of row 0: 1 is too similar, 2 is of its group, 3 is its image but for two bits; so the ranks begin with row 4.
    hardness = Hardness(nearest=2, farthest=3, most_alike=float(np.cos(np.deg2rad(3))))
    find = mined(vectors, groups, pictures, hardness)
    a, e, f = 0, 4, 5  # groups are numbered as they appear
    drawn = [find(0, {a}, np.random.default_rng(seed)) for seed in range(40)]
    assert {(negative.row, negative.kind) for negative in drawn} == {(5, "mined"), (6, "mined")}
    found = find(0, {a, e}, np.random.default_rng(0))
    assert (found.row, found.rank) == (6, 3) and found.similarity == pytest.approx(np.cos(angles[6]), abs=1e-4)
    # Nothing is left in the window: then by category.
    assert find(0, {a, e, f}, np.random.default_rng(0)).kind == "random"


def test_mined_negatives_and_scores_of_a_model(shop, model, tmp_path, capsys):
    options = ("--negatives", "mined", "--negative_model", model, "--hardness", "2,6,1.0",
               "--consistency_model", model, "--consistency_threshold", "20%")  # fmt: skip
    assert build(shop, tmp_path / "mbe2", *options, "--augmented_images", "2") == 0
    rows = triplets(tmp_path / "mbe2")
    kinds = {row["negative_kind"] for row in rows}
    assert "mined" in kinds
    scored = {}
    for row in rows:
        for made in row["provenance"]:
            if made["field"] == "negative" and made["operation"] == "mined":
                assert 2 <= json.loads(made["parameters"])["rank"] <= 6
            if "augmented" in made["field"] or "enriched" in made["field"]:
                assert (made["consistency_score"] is None) == (made["reason"] == "nothing added")
                scored[made["source_id"], made["field"].split("_")[1], made["seed"]] = made
        assert len(row["positive_augmented_images"]) == sum(
            made["kept"] for made in row["provenance"] if made["field"].startswith("positive_augmented_images")
        )
        kept = next(made["kept"] for made in row["provenance"] if made["field"] == "positive_enriched_title")
        assert kept == (row["positive_enriched_title"] is not None)
    views = [made for (_, kind, _), made in scored.items() if kind == "augmented"]
    dropped = [made for made in views if not made["kept"]]
    assert len(views) == 48 and len(dropped) == 9  # a fifth of them
    assert max(made["consistency_score"] for made in dropped) < min(
        made["consistency_score"] for made in views if made["kept"]
    )
    assert all("is below" in made["reason"] and "moon2" in made["reason"] for made in dropped)
    text = (tmp_path / "mbe2" / "README.md").read_text()
    assert "Scored by `moon2` at revision `" in text and str(tmp_path) not in text
    # Another threshold needs no model: all scores are in the journal.
    capsys.readouterr()
    assert build(shop, tmp_path / "mbe2", *options[:-1], "0%", "--augmented_images", "2", "--overwrite") == 0
    assert all(len(row["positive_augmented_images"]) == 2 for row in triplets(tmp_path / "mbe2"))


# A service that is paid


def better(asked: dict, number: int) -> Reply:
    """The listing's own title with its material."""
    listing = json.loads(re.search(r"<listing>\n(.*)\n</listing>", said(asked), re.DOTALL)[1])
    return Reply(json.dumps({"title": listing["title"].replace("shirt", "cotton shirt")}), delay=0.02)


def said(asked: dict) -> str:
    content = asked["messages"][1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def test_titles_of_a_service_are_paid_once(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with chat_server(better) as server:
        url = server.url.replace("://", "://me:passw0rd@") + "?key=very-secret"
        assert build(shop, tmp_path / "mbe2", *paid(url, "--title_budget", "requests=10")) == 2
        assert "budget" in capsys.readouterr().err
        first = [said(asked) for asked in server.requests]
        assert len(first) == 10
        assert build(shop, tmp_path / "mbe2", *paid(url)) == 0
        asked = [said(one) for one in server.requests]
        assert len(asked) == 24 == len(set(asked)) and asked[:10] == first
        # Another split of work, one more triplet option: nothing is asked again.
        assert build(shop, tmp_path / "mbe2", *paid(url), "--query_mix", "1,0,0", "--overwrite") == 0
        assert len(server.requests) == 24
    rows = triplets(tmp_path / "mbe2")
    assert all("cotton shirt" in row["positive_enriched_title"] for row in rows)
    made = next(made for made in rows[0]["provenance"] if made["field"] == "positive_enriched_title")
    assert made["model"] == "writer-1" and made["prompt_version"].startswith("title-v1@")
    written = b"".join(path.read_bytes() for path in (tmp_path).rglob("*") if path.is_file())
    assert b"very-secret" not in written and b"passw0rd" not in written, "neither the key nor what an address may hold"
    assert b"127.0.0.1" not in (tmp_path / "mbe2" / "README.md").read_bytes()


def test_tokens_have_a_budget(shop, tmp_path, capsys):
    with chat_server(better) as server:
        assert build(shop, tmp_path / "mbe2", *paid(server.url, "--title_budget", "tokens=1")) == 2
        assert "The budget of 1 tokens would not be enough" in capsys.readouterr().err and not server.requests


def test_labels_reach_the_segmentation_model():
    told = Build(catalogue="shop", output="mbe2", subject="segmentation", subject_model=["m", "Hat"])
    extractor = makers._extractor(told)
    assert extractor.labels == ("Hat",)
    others = [SegmentationExtractor("m"), SegmentationExtractor("m", ("Bag",))]
    assert all(identity_of(extractor) != identity_of(other) for other in others), "other labels, other journal entries"
    with pytest.raises(OptionError, match="labels only with --subject segmentation"):
        Build(catalogue="shop", output="mbe2", subject="rembg", subject_model=["m", "Hat"]).check()


def test_the_same_command_asks_again_for_what_a_server_failed_to_make(shop, tmp_path, capsys):
    down = True

    def reply(asked: dict, number: int) -> Reply:
        if down and re.search(r"number3\b", said(asked)):
            return Reply(status=500, headers={"x-should-retry": "false"})
        return better(asked, number)

    with chat_server(reply) as server:
        assert build(shop, tmp_path / "mbe2", *paid(server.url)) == 0
        missing = [row for row in triplets(tmp_path / "mbe2") if row["positive_id"] == "s3"]
        assert all(row["positive_enriched_title"] is None for row in missing)
        asked, down = len(server.requests), False
        assert build(shop, tmp_path / "mbe2", *paid(server.url)) == 0, "without --overwrite"
        assert len(server.requests) == asked + 1
        found = [row for row in triplets(tmp_path / "mbe2") if row["positive_id"] == "s3"]
        assert found and all("cotton shirt" in row["positive_enriched_title"] for row in found)
        capsys.readouterr()
        assert build(shop, tmp_path / "mbe2", *paid(server.url)) == 0
        assert "up to date" in capsys.readouterr().out and len(server.requests) == asked + 1


def test_products_that_are_alike_leave_nothing_unfinished(tmp_path, capsys):
    """They share what is made of them."""
    rows = [product(number) for number in range(20)]
    rows.append(product(20) | {key: rows[1][key] for key in ("name", "photo", "category", "attributes")})
    (tmp_path / "shop").mkdir()
    pq.write_table(
        pa.Table.from_pylist([row | {"split": "train"} for row in rows[:4]] + rows[4:]),
        tmp_path / "shop" / "shop.parquet",
    )
    for said in ("written to", "up to date"):
        assert build(tmp_path / "shop", tmp_path / "mbe2", "--augmented_images", "1") == 0
        assert said in capsys.readouterr().out


def test_views_can_be_added_later_and_nothing_else_is_made_again(shop, tmp_path):
    later, whole = tmp_path / "later" / "mbe2", tmp_path / "whole" / "mbe2"
    command = ["build", "--catalogue", str(shop), "--columns", "images=photo", "--num_proc", "1", "--output"]
    with chat_server(better) as server:
        bill = paid(server.url)
        assert main([*command, str(later), *bill]) == 0
        assert all(row["positive_augmented_images"] == [] for row in triplets(later)), "the default of a real catalogue"
        asked = len(server.requests)
        stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "later/mbe2.work/catalogue").rglob("*.arrow")}
        assert main([*command, str(later), *bill, "--augmented_images", "1", "--overwrite"]) == 0
        assert len(server.requests) == asked > 0 and {path: path.stat().st_mtime_ns for path in stored} == stored
        assert all(len(row["positive_augmented_images"]) == 1 for row in triplets(later))
        assert main([*command, str(whole), *bill, "--augmented_images", "1"]) == 0
    assert contents(later) == contents(whole)


def test_killed_anywhere_and_run_again_gives_the_same_bytes_and_no_second_bill(shop, tmp_path):
    with chat_server(better) as server:
        words = ["--augmented_images", "1", *paid(server.url)]
        assert build(shop, tmp_path / "whole" / "mbe2", *words) == 0
        whole, server.requests[:] = contents(tmp_path / "whole" / "mbe2"), []
        output = tmp_path / "killed" / "mbe2"
        command = ["-m", "mbe2_dataset", "build", "--catalogue", str(shop), "--output", str(output),
                   "--columns", "images=photo", "--num_proc", "1", *words]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        # Stopped while titles are written, and when a few more are there.
        for wanted in (4, 13):
            child = fresh.start(command, environment)
            end = time.monotonic() + 60
            while len(server.requests) < wanted and time.monotonic() < end:
                time.sleep(0.005)
            child.kill()
            child.join()
            assert wanted <= len(server.requests) < 24
        assert build(shop, output, *words) == 0
        twice = len(server.requests) - 24
        assert len({said(asked) for asked in server.requests}) == 24
        assert 0 <= twice <= 2 * 3, "only what was under way when it was killed may be asked again"
    assert contents(output) == whole


# What it would take


def test_a_dry_run_tells_and_makes_nothing(shop, tmp_path, capsys):
    with chat_server(better) as server:
        words = paid(server.url, "--title_budget", "read=2", "written=10", "--dry_run", "20")
        assert build(shop, tmp_path / "mbe2", *words) == 0
        assert server.requests == []
    told = capsys.readouterr().out
    assert "32 rows in the source; 20 of them tried" in told
    assert re.search(r"titles: about 32 requests to writer-1, [\d,]+ tokens read, [\d,]+ written, cost 0\.0\d", told)
    assert re.search(r"time: about \d+ s", told) and "disk: about" in told
    assert list(tmp_path.iterdir()) == []


def test_limit_takes_the_first_rows(shop, tmp_path, capsys):
    assert build(shop, tmp_path / "mbe2", "--limit", "12") == 0
    assert "rows in 12 = used 12" in capsys.readouterr().out


# Engines


@pytest.mark.slow
def test_ray_gives_the_same_bytes(shop, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed (pip install 'moon2[ray]')")
    words = ("--augmented_images", "2", "--rows_per_shard", "5", "--num_proc", "2")
    for engine in ("processes", "ray"):
        assert build(shop, tmp_path / engine / "mbe2", *words, "--engine", engine) == 0
    assert contents(tmp_path / "ray" / "mbe2") == contents(tmp_path / "processes" / "mbe2")
