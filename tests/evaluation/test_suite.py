"""mteb's own product tasks, on small local data sets with the columns of the real ones; what is said without them."""

import json
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import fresh
import pytest
from datasets import Dataset, Features, Image, List, Value
from guides import ROOT
from hub_server import hub as hub
from hub_server import run_python
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from test_benchmark import benchmark_rows, encoded, write_benchmark
from transformers import LlamaConfig, LlamaModel

from conftest import TEXTS
from evaluation.__main__ import main
from evaluation.arguments import OWN_NAMES, PUBLIC_TASKS
from evaluation.measure.evaluate import Options, evaluate
from evaluation.models.encoders import load_encoder
from evaluation.tables.benchmark import load_benchmark
from evaluation.vectors.catalogue import VectorCache
from training_moon2.model import train_tokenizer

mteb = pytest.importorskip("mteb")
pytestmark = pytest.mark.usefixtures("fresh_cache", "fresh_vectors")

TEXT, COUNT = Value("string"), 6
FEATURES = {
    **dict.fromkeys(("id", "query-id", "corpus-id", "text", "title", "modality"), TEXT),
    "image": Image(),
    "score": Value("int64"),
    "corpus-ids": List(TEXT),
}
GLAMI = ("bg", "tr")  # of 13 languages


@pytest.fixture
def fresh_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.measure.suite.DEFAULT_CACHE", tmp_path / "vectors")


def products(kind: str, count: int = COUNT, **columns) -> list[dict]:
    """Rows with ids, and what is given for each column: a function of the row's number."""
    return [{"id": f"{kind}{row}"} | {name: value(row) for name, value in columns.items()} for row in range(count)]


def described(row: int) -> str:
    return f"{('red', 'blue')[row % 2]} {('mug', 'shirt', 'chair')[row % 3]} {row}"


def answers(queries: list[dict], corpus: list[dict]) -> list[dict]:
    """The product of the same number is the right one, and every third query has a second."""
    pairs = [(row, row) for row in range(len(queries))] + [(row, row - 1) for row in range(2, len(queries), 3)]
    return [{"query-id": queries[a]["id"], "corpus-id": corpus[b]["id"], "score": 1} for a, b in pairs]


def nothing(row: int) -> None:
    return None


def tables_of(task: str) -> dict[str, list[dict]]:
    """The configurations of a task's data set, with the columns that mteb's code for the task reads or removes."""
    photos = products("c", image=encoded)
    if task.startswith("Fashion200kT2I"):
        queries, corpus = products("q", text=described, image=nothing), products("c", text=nothing, image=encoded)
    elif task.startswith("Fashion200kI2T"):
        queries, corpus = products("q", text=nothing, image=encoded), products("c", text=described, image=nothing)
    elif task.startswith("FashionIQ"):
        queries, corpus = products("q", text=described, image=lambda row: encoded(50 + row)), photos
    elif task.startswith("GLAMI"):
        tables = judged(products("q", title=described, text=lambda row: "cotton" * (row % 2)), photos)
        return {f"{subset}-{name}": rows for subset in GLAMI for name, rows in tables.items()}
    elif task.startswith("ESCI"):
        queries, corpus = products("q", text=described), products("c", title=lambda row: "shop", text=described)
        tables = judged(queries, corpus)
        offered = [{"query-id": row["id"], "corpus-ids": [item["id"] for item in corpus]} for row in queries]
        tables["top_ranked"] = offered
        return {f"{subset}-{name}": rows for subset in ("us", "es", "jp") for name, rows in tables.items()}
    else:  # SOP and RP2k: the photos that are asked are among those that are searched
        corpus = products("c", image=lambda row: encoded(row // 2))
        queries = [row | {"id": row["id"]} for row in corpus]
        pairs = [(a, b) for a in range(COUNT) for b in range(COUNT) if a // 2 == b // 2]
        qrels = [{"query-id": f"c{a}", "corpus-id": f"c{b}", "score": 1} for a, b in pairs]
        return {"queries": queries, "corpus": corpus, "qrels": qrels}
    return judged(queries, corpus)


def judged(queries: list[dict], corpus: list[dict]) -> dict[str, list[dict]]:
    return {"queries": queries, "corpus": corpus, "qrels": answers(queries, corpus)}


def write_tables(folder: Path, tables: dict[str, list[dict]]) -> Path:
    lines = ["---", "configs:"]
    for name, rows in tables.items():
        features = Features({column: FEATURES[column] for column in rows[0]})
        columns = {column: [row[column] for row in rows] for column in rows[0]}
        (folder / name).mkdir(parents=True)
        Dataset.from_dict(columns, features=features).to_parquet(folder / name / "test.parquet")
        lines += [f"- config_name: {name}", "  data_files:", f"  - {{split: test, path: {name}/test.parquet}}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return folder


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> Path:
    """A folder for each public task, which mteb takes for its data set on the Hub."""
    for name in PUBLIC_TASKS:
        folder = write_tables(tmp_path / "public" / name, tables_of(name))
        metadata = mteb.get_task(name).metadata
        monkeypatch.setitem(metadata.dataset, "path", str(folder))
        if name.startswith("GLAMI"):
            for language in metadata.eval_langs.keys() - set(GLAMI):
                monkeypatch.delitem(metadata.eval_langs, language)
    return tmp_path / "public"


@pytest.fixture(scope="module")
def text_model(tmp_path_factory) -> str:
    """A tiny sentence-transformers model that reads texts only."""
    folder = tmp_path_factory.mktemp("models")
    options = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    LlamaModel(LlamaConfig(vocab_size=400, pad_token_id=0, **options)).save_pretrained(folder / "backbone")
    train_tokenizer(TEXTS * 5, 400).save_pretrained(folder / "backbone")
    backbone = Transformer(str(folder / "backbone"))
    SentenceTransformer(modules=[backbone, Pooling(32)]).save_pretrained(str(folder / "words"))
    return str(folder / "words")


def run(capsys, *words: str) -> tuple[int, dict]:
    """The exit code, and the answer as JSON."""
    code = main(["suite", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def scores(facts: dict, model: str) -> dict[str, float | None]:
    return {row["task"]: row["models"][model].get("score") for row in facts["tasks"]}


def test_all_tasks_of_mteb_and_ours_in_one_table(model, text_model, stand_ins, tmp_path, capsys):
    mbe2, output = str(write_benchmark(tmp_path / "mbe2", benchmark_rows())), tmp_path / "suite"
    words = ["--model", model, "--model", text_model, "--dataset", mbe2, "--output", str(output)]
    code, facts = run(capsys, *words)
    assert code == 0 and facts["failed"] == []
    assert [row["task"] for row in facts["tasks"]] == [*PUBLIC_TASKS, *OWN_NAMES]
    assert all(0 <= score <= 1 for score in scores(facts, model).values())
    # What the second model cannot read is said, and is not 0.
    reads = {name for name, score in scores(facts, text_model).items() if score is not None}
    assert reads == {"ESCIReranking"}
    rows = {row["task"]: row for row in facts["tasks"]}
    assert rows["SOPI2IRetrieval"]["models"][text_model] == {"left_out": "it reads no images"}
    assert rows["FashionIQIT2IRetrieval"]["models"][text_model] == {"left_out": "it reads no images"}
    sizes = {name: (row["queries"], row["corpus"], row["metric"]) for name, row in rows.items()}
    assert sizes["Fashion200kT2IRetrieval"] == (COUNT, COUNT, "ndcg@10")
    assert sizes["GLAMI1MI2TRetrieval"] == (2 * COUNT, 2 * COUNT, "ndcg@10")
    assert sizes["ESCIReranking"] == (3 * COUNT, 3 * COUNT, "map@1000")
    assert sizes["MBE2Format-t2mm"] == (6, 12, "recall@10") and sizes["MBE2Format-classification"][:2] == (12, 2)
    assert set(rows["GLAMI1MT2IRetrieval"]["models"][model]["parts"]) == set(GLAMI)
    table = " ".join((output / "suite.md").read_text(encoding="utf-8").split())
    assert "| FashionIQIT2IRetrieval | image + text → image | 6 | 6 | ndcg@10 |" in table
    assert f"- {text_model} has no figure for Fashion200kT2IRetrieval, " in table
    assert "MBE2Format-i2t, MBE2Format-classification: it reads no images." in table

    # What is kept needs no data, and is the same.
    shutil.rmtree(stand_ins)
    again_code, again = run(capsys, *words)
    assert (again_code, again) == (0, facts)
    # A data set that cannot be had is named; the others are run all the same.
    kept = next(output.glob("results/*/*/SOPI2IRetrieval.json"))
    kept.write_text(kept.read_text(encoding="utf-8")[:40], encoding="utf-8")  # as a kill while writing leaves it
    code, facts = run(capsys, *words)
    assert code == 1 and facts["failed"] == ["SOPI2IRetrieval"]
    assert scores(facts, model) == scores(again, model) | {"SOPI2IRetrieval": None}
    table = (output / "suite.md").read_text(encoding="utf-8")
    assert "- SOPI2IRetrieval was not run: " in table


def test_the_figures_are_those_of_our_own_evaluation(model, tmp_path, monkeypatch, capsys):
    """Fashion200K asks texts of photos, as our direction t2i does: the same rows must score the same."""
    rows = benchmark_rows()
    folder = write_benchmark(tmp_path / "mbe2", rows)
    ours = evaluate(load_encoder(model), load_benchmark(str(folder)), VectorCache(tmp_path / "vectors"), Options())
    texts = [row for row in rows["queries"] if row["modality"] == "text"]
    tables = {
        "queries": [{"id": row["id"], "text": row["text"]} for row in texts],
        "corpus": [{"id": row["id"], "image": row["image"]} for row in rows["corpus"]],
        "qrels": [row for row in rows["qrels"] if row["query-id"].endswith("-text")],
    }
    path = str(write_tables(tmp_path / "public", tables))
    monkeypatch.setitem(mteb.get_task("Fashion200kT2IRetrieval").metadata.dataset, "path", path)
    words = ["--model", model, "--tasks", "Fashion200kT2IRetrieval,MBE2Format-t2i", "--dataset", str(folder)]
    _, facts = run(capsys, *words, "--output", str(tmp_path / "suite"))
    metrics = ours.results["retrieval"]["t2i"]["metrics"]
    assert 0 < metrics["ndcg@10"] < 1
    found = scores(facts, model)
    assert found["Fashion200kT2IRetrieval"] == pytest.approx(metrics["ndcg@10"], abs=1e-5)
    assert found["MBE2Format-t2i"] == pytest.approx(metrics["recall@10"], abs=1e-5)


def test_another_state_of_the_data_is_scored_anew(model, tmp_path, capsys):
    """mteb takes a kept result for that of the data now, whatever its revision says."""
    rows = benchmark_rows()
    words = ["--model", model, "--tasks", "MBE2Format-t2mm", "--output", str(tmp_path / "suite"), "--dataset"]
    _, first = run(capsys, *words, str(write_benchmark(tmp_path / "a", rows)))
    rows["qrels"] = [row for row in rows["qrels"] if row["query-id"].startswith("q0")]
    _, second = run(capsys, *words, str(write_benchmark(tmp_path / "b", rows)))
    assert (first["tasks"][0]["queries"], second["tasks"][0]["queries"]) == (6, 1)


def test_without_the_data_the_reason_is_one_sentence(model, tmp_path, capsys):
    names = "RP2kI2IRetrieval,SOPI2IRetrieval"
    assert main(["suite", "--model", model, "--tasks", names, "--output", str(tmp_path / "suite")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: No task could be run, because data could not be fetched. SOPI2IRetrieval: The data ")
    assert "mteb/stanford-online-products is neither a folder nor available on the Hub: " in said
    # The Hub is not asked again, and its client's minute of attempts is waited for once.
    assert said.endswith("mteb/rp2k was not fetched before, and the Hub does not answer.")


def test_without_mteb_the_extra_is_named(model, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "evaluation.measure.suite", raising=False)
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert main(["suite", "--model", model]) == 2
    assert "mteb is not installed: pip install 'moon2[mteb]'." in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, why",
    [
        (["--tasks", "ABO"], "There is no task 'ABO' in the suite; there are Fashion200kT2IRetrieval, "),
        (["--tasks", "MBE2Format-t2mm"], "is one of a data set in MBE2.0 format: give --dataset."),
        (["--model", "bm25"], "mteb compares vectors, and bm25 has none"),
        (["--model", "{model}"], "A --model is given twice."),
        (["--dataset_revision", "v1"], "only means something with --dataset."),
        (["--dataset", "nowhere"], "There is no data set folder nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(model, words, why, capsys):
    assert main(["suite", "--model", model, *(word.format(model=model) for word in words)]) == 2
    assert why in capsys.readouterr().err


def test_the_guide_has_every_task_with_its_size():
    """The sizes are those that mteb states for the data sets' revisions."""
    page = (ROOT / "docs/benchmark.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("| `"): [row[2], row[3], row[4].strip(" |")] for row in rows if len(row) == 5}
    names = {"ndcg_at_10": "nDCG@10", "hit_rate_at_1": "Hit@1", "map_at_1000": "MAP@1000"}
    for name in PUBLIC_TASKS:
        metadata = mteb.get_task(name).metadata
        size = metadata.descriptive_stats["test"]
        counts = [f"{size[count]:,}" for count in ("num_queries", "num_documents")]
        assert told[name] == [*counts, names[metadata.main_score]]


def publish(hub, names: list[str], folder: Path) -> None:
    """Put stand-ins on the local Hub under the names and revisions that mteb asks for."""
    for name in names:
        data = mteb.get_task(name).metadata.dataset
        hub.add_folder(data["path"], write_tables(folder / name, tables_of(name)))
        repository = hub.repositories["dataset", data["path"]]
        commit = replace(repository.at("main"), oid=data["revision"])
        repository.commits, repository.branches = {commit.oid: commit}, {"main": commit.oid}


def test_mteb_loads_from_the_hub_and_what_it_has_not_is_named(hub, model, tmp_path):
    publish(hub, ["RP2kI2IRetrieval", "FashionIQIT2IRetrieval"], tmp_path / "public")
    names = "FashionIQIT2IRetrieval,SOPI2IRetrieval,RP2kI2IRetrieval"
    words = ["-m", "evaluation", "suite", "--model", model, "--tasks", names, "--output", str(tmp_path / "suite")]
    done = run_python(words, hub, home=tmp_path / "home")
    assert done.returncode == 1, done.stderr
    missing = "- SOPI2IRetrieval was not run: The data set mteb/stanford-online-products is neither a folder nor "
    assert missing in done.stdout
    assert "| RP2kI2IRetrieval | image → image | 6 | 6 | hit_rate@1 | 100.0 |" in " ".join(done.stdout.split())

    # What was fetched can be scored without a network.
    shutil.rmtree(tmp_path / "suite")
    environment = hub.environment(tmp_path / "home") | {"HF_HUB_OFFLINE": "1"}
    offline = fresh.run(words, environment)
    assert (offline.returncode, offline.stdout.count("image → image")) == (1, 2), offline.stderr
    assert missing in offline.stdout


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(hub, model, tmp_path):
    publish(hub, ["SOPI2IRetrieval", "RP2kI2IRetrieval"], tmp_path / "public")
    words = ["-m", "evaluation", "suite", "--model", model, "--output", str(tmp_path / "suite"), "--tasks"]
    words += ["SOPI2IRetrieval,RP2kI2IRetrieval"]
    with hub.fault("GET", "rp2k", "hang") as fault:
        client = fresh.start(words, hub.environment(tmp_path / "home"))
        assert fault.reached.wait(120)
        client.kill()
        client.join()
    assert client.exitcode == -signal.SIGKILL
    (kept,) = (tmp_path / "suite" / "results").rglob("SOPI2IRetrieval.json")
    written = kept.stat().st_mtime_ns
    time.sleep(0.01)
    done = run_python(words, hub, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stdout.split()).count("hit_rate@1 | 100.0") == 2 and kept.stat().st_mtime_ns == written
