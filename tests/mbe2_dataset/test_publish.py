"""A data set goes to the Hub (a small one on loopback), is interrupted on the way, and is read by its name."""

import io
import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import fresh
import pyarrow.parquet as pq
import pytest
from hub_server import TOKEN, HubServer, run_python, running_hub
from hub_server import hub as hub

from conftest import change, cut_picture

PUSH = """
import dataclasses, json, sys
from common_moon2.cli import UserError
from mbe2_dataset.publish import push_dataset
if __name__ == "__main__":
    try:
        print(json.dumps(dataclasses.asdict(push_dataset(**json.loads(sys.argv[1])))))
    except UserError as error:
        sys.exit(f"error: {error}")
"""


def arguments(folder: str | Path, repo_id: str, **options) -> list[str]:
    return ["-c", PUSH, json.dumps({"folder": str(folder), "repo_id": repo_id, **options})]


def push(hub: HubServer, folder: str | Path, repo_id: str, token: str | None = TOKEN, **options) -> dict | str:
    """What `push_dataset` returns in a fresh process, or the sentence with which it stops."""
    done = run_python(arguments(folder, repo_id, **options), hub, token=token)
    assert TOKEN not in done.stdout + done.stderr
    if done.returncode:
        assert "Traceback" not in done.stderr, done.stderr
        (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return sentence
    return json.loads(done.stdout.strip().splitlines()[-1])


def contents(folder: str | Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def held(hub: HubServer, repo_id: str, revision: str = "main") -> dict[str, bytes]:
    """The files on the Hub, without the one that it makes itself."""
    return {path: content for path, content in hub.files(repo_id, revision).items() if path != ".gitattributes"}


@pytest.fixture
def new_hub() -> Iterator[HubServer]:
    """One that knows no file's content, so that all of it has to be uploaded."""
    with running_hub() as server:
        yield server


@pytest.fixture(scope="module")
def pushed(hub, mbe2) -> dict:
    return push(hub, mbe2, "user/mbe2", tag="v1", message="first build")


def test_all_files_arrive_under_a_tag(hub, mbe2, pushed):
    assert held(hub, "user/mbe2") == held(hub, "user/mbe2", "v1") == contents(mbe2)
    assert pushed["url"] == f"{hub.url}/datasets/user/mbe2" and pushed["uploaded"] == len(contents(mbe2))
    repository = hub.repositories["dataset", "user/mbe2"]
    assert repository.tags == {"v1": pushed["commit"]} and not repository.private
    assert repository.commits[pushed["commit"]].title == "first build"


def test_again_nothing_is_uploaded(hub, mbe2, pushed):
    commits, puts = len(hub.repositories["dataset", "user/mbe2"].commits), len(hub.requests("PUT"))
    assert push(hub, mbe2, "user/mbe2", tag="v1") == pushed | {"uploaded": 0}
    assert (len(hub.repositories["dataset", "user/mbe2"].commits), len(hub.requests("PUT"))) == (commits, puts)


def test_it_loads_by_name_config_and_revision(hub, mbe2, pushed):
    rows = {
        config: sum(pq.read_metadata(path).num_rows for path in Path(mbe2).glob(f"{config}/*-*.parquet"))
        for config in ("triplets", "corpus", "queries", "qrels")
    }
    done = run_python(
        """
import json
from datasets import load_dataset
whole = load_dataset("user/mbe2", revision="v1")
streamed = load_dataset("user/mbe2", "triplets", split="train", streaming=True)
rows = list(streamed)
assert [row["query_id"] for row in rows] == whole["train"]["query_id"][:]
assert rows[0]["positive_image"].size == rows[0]["positive_augmented_images"][0].size == (40, 40)
counts = {config: len(load_dataset("user/mbe2", config, split="test")) for config in ("corpus", "queries", "qrels")}
print(json.dumps(counts | {"triplets": len(whole["train"]) + len(whole["validation"])}))
""",
        hub,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == rows


@pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed")
def test_mteb_reads_the_benchmark(hub, pushed):
    done = run_python(
        """
import numpy as np
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

class Mbe2(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="Mbe2", description="", reference=None, dataset={"path": "user/mbe2", "revision": "v1"},
        type="Any2AnyRetrieval", category="it2it", modalities=["text", "image"], eval_splits=["test"],
        eval_langs=["eng-Latn", "zho-Hans"], main_score="ndcg_at_10", date=None, domains=None, task_subtypes=None,
        license=None, annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
    )

task = Mbe2()
task.load_data()
split = task.dataset["default"]["test"]
assert set(split["queries"]["id"]) == set(split["relevant_docs"])
assert {name for found in split["relevant_docs"].values() for name in found} <= set(split["corpus"]["id"])
document = split["corpus"][0]
assert document["image"].size == (40, 40) and document["text"]
print(len(split["corpus"]), len(split["queries"]))
""",
        hub,
    )
    assert done.returncode == 0, done.stderr
    corpus, queries = (len([*pushed_ids(hub, config)]) for config in ("corpus", "queries"))
    assert done.stdout.split() == [str(corpus), str(queries)]


def pushed_ids(hub: HubServer, config: str) -> list[str]:
    (content,) = [content for path, content in held(hub, "user/mbe2").items() if path.startswith(f"{config}/")]
    return pq.read_table(io.BytesIO(content), columns=["id"])["id"].to_pylist()


@pytest.mark.slow
def test_a_push_that_is_killed_goes_on_when_it_is_called_again(new_hub, mbe2, tmp_path):
    with new_hub.fault("PUT", "/lfs/objects/", "hang", first=3) as fault:
        words = arguments(mbe2, "user/killed", tag="v1", force=True)
        client = fresh.start(words, new_hub.environment(tmp_path / "home"))
        assert fault.reached.wait(60)
        client.kill()
        client.join()
    assert held(new_hub, "user/killed") == {}
    arrived = [request.path for request in new_hub.requests("PUT") if request.status == 200]
    done = push(new_hub, mbe2, "user/killed", tag="v1", force=True)
    assert held(new_hub, "user/killed", "v1") == contents(mbe2) and done["uploaded"] == len(contents(mbe2))
    uploads = [request.path for request in new_hub.requests("PUT") if request.status == 200]
    assert arrived and len(uploads) == len(set(uploads)) == len(list(Path(mbe2).rglob("*.parquet")))


def test_a_refused_upload_is_a_sentence_and_leaves_main_as_it_was(new_hub, mbe2):
    with new_hub.fault("PUT", "/lfs/objects/", 403, first=2):
        said = push(new_hub, mbe2, "user/half", force=True)
    assert said.startswith("error: user/half was not published completely: ") and "push again to go on" in said
    assert held(new_hub, "user/half") == {}


@pytest.mark.slow
def test_files_of_an_earlier_build_are_removed_and_others_stay(hub, mbe2, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(mbe2, first)
    (first / "triplets" / "train-00000-of-00001.parquet").rename(first / "triplets" / "train-00000-of-00002.parquet")
    shutil.copy(
        first / "triplets" / "train-00000-of-00002.parquet", first / "triplets" / "train-00001-of-00002.parquet"
    )
    (first / "LICENSE").write_text("mine")
    (first / ".journal").write_text("hidden")
    push(hub, first, "user/again", force=True, private=True)
    assert hub.repositories["dataset", "user/again"].private
    assert "LICENSE" in held(hub, "user/again") and ".journal" not in held(hub, "user/again")
    done = push(hub, mbe2, "user/again")
    assert done["removed"] == 2
    assert held(hub, "user/again") == contents(mbe2) | {"LICENSE": b"mine"}


def test_a_tag_is_never_moved_silently(hub, mbe2, pushed, tmp_path):
    changed = change(mbe2, tmp_path / "changed", lambda row: row["noise"].append("x"))
    before = held(hub, "user/mbe2")
    said = push(hub, changed, "user/mbe2", tag="v1")
    assert "has a tag 'v1' with other files" in said and "HfApi().delete_tag('user/mbe2', tag='v1'" in said
    assert held(hub, "user/mbe2") == before


def test_a_data_set_with_errors_is_not_published_unless_forced(hub, mbe2, tmp_path):
    broken = change(mbe2, tmp_path / "broken", cut_picture)
    said = push(hub, broken, "user/broken")
    assert "the check finds errors" in said and "images cannot be decoded" in said and "negative_image" in said
    assert ("dataset", "user/broken") not in hub.repositories
    assert push(hub, broken, "user/broken", force=True)["uploaded"]


@pytest.mark.parametrize(
    ("repo_id", "token", "sentence"),
    [
        ("stranger/mbe2", TOKEN, "The token may not write to stranger/mbe2"),
        ("user/new", None, "sign in with 'hf auth login' or set HF_TOKEN"),
        ("mbe2", TOKEN, "Name the data set as user/name, not 'mbe2'"),
        ("user/a b", TOKEN, "'user/a b' cannot be the name of a data set on the Hub"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, mbe2, repo_id, token, sentence):
    assert sentence in push(hub, mbe2, repo_id, token=token, force=True)
