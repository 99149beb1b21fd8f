"""The Hub of the tests behaves, towards the real clients, as the Hub does."""

import json
from pathlib import Path

import fresh
import pytest
from hub_server import TOKEN, run_python
from hub_server import hub as hub

DATA = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from huggingface_hub import HfApi
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("data")
for config in ("a", "b"):
    (folder / config).mkdir(parents=True, exist_ok=True)
    for split, size in (("train", 40), ("test", 7)):
        table = pa.table({"n": list(range(size)), "text": [config * n for n in range(size)]})
        pq.write_table(table, folder / config / f"{split}-00000-of-00001.parquet")
card = "---\\nconfigs:\\n"
for config in ("a", "b"):
    card += f"- config_name: {config}\\n  data_files:\\n"
    card += "".join(f"  - split: {split}\\n    path: {config}/{split}-*.parquet\\n" for split in ("train", "test"))
(folder / "README.md").write_text(card + "---\\n# card\\n")
"""


def output(*arguments, **options) -> str:
    done = run_python(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory) -> Path:
    """user/data has a commit with the folder, tagged v1, and a later one with another card."""
    folder = tmp_path_factory.mktemp("pushed")
    push = """
api = HfApi()
api.create_repo("user/data", repo_type="dataset")
api.create_repo("user/data", repo_type="dataset", exist_ok=True)
api.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder, commit_message="first")
api.create_tag("user/data", tag="v1", repo_type="dataset")
api.create_branch("user/data", branch="draft", repo_type="dataset")
api.upload_file(repo_id="user/data", repo_type="dataset", path_in_repo="notes/new.txt", path_or_fileobj=b"new")
"""
    output(["-c", DATA + push, str(folder)], hub)
    return folder


def test_folder_arrives_and_revisions_keep_their_files(hub, pushed):
    local = {str(path.relative_to(pushed)): path.read_bytes() for path in pushed.rglob("*") if path.is_file()}
    tagged = hub.files("user/data", "v1")
    assert {name: tagged[name] for name in local} == local and set(tagged) - set(local) == {".gitattributes"}
    assert set(hub.files("user/data")) == {*tagged, "notes/new.txt"}
    listed = output(
        """
import json
from huggingface_hub import HfApi
api = HfApi()
refs = api.list_repo_refs("user/data", repo_type="dataset")
commits = api.list_repo_commits("user/data", repo_type="dataset")
tree = list(api.list_repo_tree("user/data", repo_type="dataset", recursive=True, expand=True))
info = api.repo_info("user/data", repo_type="dataset", files_metadata=True)
print(json.dumps({
    "tags": {ref.name: ref.target_commit for ref in refs.tags}, "branches": [ref.name for ref in refs.branches],
    "commits": [commit.commit_id for commit in commits], "titles": [commit.title for commit in commits],
    "tree": {entry.path: getattr(entry, "size", None) for entry in tree},
    "sizes": {sibling.rfilename: sibling.size for sibling in info.siblings},
    "at": [api.repo_info("user/data", repo_type="dataset", revision=name).sha for name in ("v1", "main", "draft")],
    "paths": [entry.path for entry in api.get_paths_info("user/data", ["a", "README.md", "none"], repo_type="dataset")],
    "exists": [api.file_exists("user/data", name, repo_type="dataset") for name in ("README.md", "none.txt")],
}))
""",
        hub,
    )
    found = json.loads(listed)
    newest, first, _ = found["commits"]
    assert found["titles"][1:] == ["first", "initial commit"]
    assert found["tags"] == {"v1": first} and found["branches"] == ["main", "draft"]
    assert found["at"] == [first, newest, first]
    sizes = {name: len(content) for name, content in hub.files("user/data").items()}
    assert found["sizes"] == sizes and found["tree"] == sizes | {"a": None, "b": None, "notes": None}
    assert found["paths"] == ["a", "README.md"] and found["exists"] == [True, False]


def test_nothing_that_is_there_is_uploaded_again(hub, pushed):
    commits = len(hub.repositories["dataset", "user/data"].commits)
    puts = len(hub.requests("PUT"))
    again = 'api = HfApi()\napi.upload_folder(repo_id="user/data", repo_type="dataset", folder_path=folder)'
    output(["-c", DATA + again, str(pushed)], hub)
    assert len(hub.repositories["dataset", "user/data"].commits) == commits and len(hub.requests("PUT")) == puts


def test_snapshots_and_data_sets_of_any_revision(hub, pushed, tmp_path):
    output(
        f"""
import datasets
from huggingface_hub import hf_hub_download, snapshot_download
from pathlib import Path
def names(**which):
    return {{path.name for path in Path(snapshot_download("user/data", repo_type="dataset", **which)).rglob("*")}}
assert "new.txt" in names() and "new.txt" not in names(revision="v1")
commit = {hub.repositories["dataset", "user/data"].tags["v1"]!r}
assert names(revision="v1") == names(revision=commit) == names(revision=commit[:12])
assert Path(hf_hub_download("user/data", "notes/new.txt", repo_type="dataset")).read_text() == "new"
whole = datasets.load_dataset("user/data", "b", revision="v1")
assert whole["train"]["n"][:] == list(range(40)) and whole["test"][2]["text"] == "bb"
stream = datasets.load_dataset("user/data", "b", split="train", streaming=True)
assert [row["n"] for row in stream] == list(range(40))
""",
        hub,
        home=tmp_path,
    )
    assert hub.requests("GET", r"/datasets/user/data/resolve/.*parquet")


def test_long_listings_come_in_pages(hub, pushed):
    code = """
from huggingface_hub import HfApi
print(sorted(HfApi().list_repo_files("user/data", repo_type="dataset")))
"""
    whole = output(code, hub)
    try:
        hub.page_size = 2
        before = len(hub.requests("GET", "/tree/"))
        assert output(code, hub) == whole and len(hub.requests("GET", "/tree/")) == before + 5
    finally:
        hub.page_size = 1000


def test_parts_of_a_file_can_be_read(hub, pushed):
    content = hub.files("user/data")["a/train-00000-of-00001.parquet"]
    read = output(
        """
from huggingface_hub import HfFileSystem
with HfFileSystem().open("datasets/user/data/a/train-00000-of-00001.parquet", block_size=64) as file:
    file.seek(100)
    print(file.read(30).hex())
""",
        hub,
    )
    assert bytes.fromhex(read) == content[100:130]
    assert any(request.status == 206 for request in hub.requests("GET", "/resolve/"))


def test_files_are_removed_and_a_stale_parent_is_refused(hub):
    output(
        """
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
api = HfApi()
api.create_repo("user/edit")
add = lambda name: CommitOperationAdd(name, name.encode())
first = api.create_commit("user/edit", [add("a/1.txt"), add("a/2.txt"), add("b.txt"), add("c.bin")], commit_message="1")
remove = [CommitOperationDelete("a/"), CommitOperationDelete("b.txt")]
api.create_commit("user/edit", remove, commit_message="2", parent_commit=first.oid)
try:
    api.create_commit("user/edit", [add("d.txt")], commit_message="3", parent_commit=first.oid)
except HfHubHTTPError as error:
    assert error.response.status_code == 412
else:
    raise AssertionError
""",
        hub,
    )
    assert set(hub.files("user/edit", kind="model")) == {".gitattributes", "c.bin"}


def test_private_and_unknown_repositories_and_bad_tokens_are_refused(hub):
    output(
        'from huggingface_hub import HfApi\nHfApi().create_repo("user/secret", private=True)\n'
        'HfApi().create_repo("user/open")',
        hub,
    )
    ask = """
from huggingface_hub import HfApi
def name(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__} {error.response.status_code}"
    return "fine"
api = HfApi()
print(*(name(api.repo_info, f"user/{which}") for which in ("secret", "none")), sep=", ", end=", ")
print(name(api.repo_info, "user/open", revision="x"), end=", ")
print(name(api.upload_file, repo_id="user/open", path_in_repo="a.txt", path_or_fileobj=b"a"))
"""
    missing, revision = "RepositoryNotFoundError 404", "RevisionNotFoundError 404"
    assert output(ask, hub) == f"fine, {missing}, {revision}, fine\n"
    assert output(ask, hub, token="hf_token_of_stranger").startswith(f"{missing}, {missing}, {revision}, ")
    assert "HfHubHTTPError 403" in output(ask, hub, token="hf_token_of_stranger")
    signed_out = output(ask, hub, token=None)
    assert signed_out.startswith("RepositoryNotFoundError 401, RepositoryNotFoundError 401, RevisionNotFoundError 404")
    assert output(ask, hub, token="hf_wrong").count("401") == 4


def test_model_code_runs_from_a_pinned_revision(hub, tmp_path):
    """A model repository with code of its own, as `trust_remote_code` needs it."""
    output(
        """
import json
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("user/model")
for size in (3, 5):
    code = f'''
from transformers import PretrainedConfig
class OwnConfig(PretrainedConfig):
    model_type = "own"
    size = {size}
'''
    config = json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}})
    for name, content in (("configuration_own.py", code), ("config.json", config)):
        api.upload_file(repo_id="user/model", path_in_repo=name, path_or_fileobj=content.encode())
    api.create_tag("user/model", tag=f"size{size}")
""",
        hub,
    )
    load = """
from transformers import AutoConfig
for revision in ("size3", "main"):
    print(AutoConfig.from_pretrained("user/model", trust_remote_code=True, revision=revision).size)
"""
    assert output(load, hub, home=tmp_path) == "3\n5\n"


def test_faults_come_when_asked_for_and_clients_get_over_short_ones(hub):
    """One broken upload, one 500 and one 429 are tried again; what stays broken is an error."""
    upload = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("user/faults", exist_ok=True)
api.upload_file(repo_id="user/faults", path_in_repo="{name}.bin", path_or_fileobj=b"{name}" * 1000)
"""
    with (
        hub.fault("PUT", "/lfs/objects/", "close", times=1) as cut,
        hub.fault("POST", "/preupload/", 500, times=1) as broken,
        hub.fault("POST", "/batch", 429, times=1) as busy,
    ):
        output(upload.format(name="a"), hub)
        assert (cut.seen, broken.seen, busy.seen) == (2, 2, 2)
    with hub.fault("POST", "/commit/", 403):
        assert run_python(upload.format(name="b"), hub).returncode == 1
    files = hub.files("user/faults", kind="model")
    assert files["a.bin"] == b"a" * 1000 and "b.bin" not in files
    statuses = [request.status for request in hub.requests("PUT", "/lfs/objects/")]
    assert 0 in statuses
    assert {request.token for request in hub.requests("POST", "user/faults/commit")} == {TOKEN}


def test_a_hanging_request_lets_the_test_kill_the_client(hub, tmp_path):
    code = 'from huggingface_hub import HfApi\nHfApi().create_repo("user/hang")'
    with hub.fault("POST", "/repos/create", "hang") as fault:
        client = fresh.start(["-c", code], hub.environment(tmp_path))
        assert fault.reached.wait(60)
        client.kill()
        client.join()
        assert client.exitcode == -9
    assert ("model", "user/hang") not in hub.repositories
