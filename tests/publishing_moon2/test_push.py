"""A model goes to the Hub (a small one on loopback), is interrupted on the way, and is loaded by its name."""

import json
import shutil
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
import yaml
from hub_server import TOKEN, HubServer, run_python, running_hub
from hub_server import hub as hub
from safetensors.torch import load_file
from test_faults import recipe as recipe

from common_moon2.cli import UserError
from conftest import picture, tiny_model, tiny_processor
from evaluation.__main__ import main
from evaluation.models.checkpoint import fingerprint
from publishing_moon2.files import MODEL_FILES, SHIPPED_CODE, included, model_files, read_results

ROOT = Path(__file__).parents[2]
INDEX = "model.safetensors.index.json"
# What a run leaves beside the model, and must not be uploaded.
LEFT_ALONE = ("trainer_state.json", "log.jsonl", "training_args.bin", "checkpoint-1/optimizer.pt", "notes.txt")
BY_HAND = "---\nlicense: mit\n---\n# By hand"
EDITED = {"LICENSE": "mine", "README.md": BY_HAND, "old_moon2.py": "print()", "results/mine.csv": "1"}
EDITED |= {"model-00001-of-00002.safetensors": "of an earlier model"}
PUSHES = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from common_moon2.cli import UserError
from publishing_moon2.arguments import PushArguments
from publishing_moon2.push import push_model
for arguments in json.loads(sys.argv[1]):
    for name in ("model", "results"):
        if name in arguments:
            arguments[name] = Path(arguments[name])
    token = arguments.pop("token", None)
    try:
        print("done:", json.dumps(asdict(push_model(PushArguments(**arguments), token))))
    except UserError as error:
        print("done:", json.dumps(f"error: {error}"))
"""


def arguments(folder: Path, repo_id: str, **options) -> dict:
    return {"model": str(folder), "repo": repo_id, **options}


def pushes(hub: HubServer, *calls: dict, token: str | None = TOKEN, **environment) -> list[dict | str]:
    """What each `push_model` of one fresh process returns, or the sentence with which it stops."""
    done = run_python(["-c", PUSHES, json.dumps(calls)], hub, token=token, **environment)
    assert done.returncode == 0, done.stderr
    assert token is None or token not in done.stdout + done.stderr
    lines = [line.removeprefix("done: ") for line in done.stdout.splitlines() if line.startswith("done: ")]
    assert len(lines) == len(calls)
    return [json.loads(line) for line in lines]


def held(hub: HubServer, repo_id: str, revision: str = "main") -> dict[str, bytes]:
    """The files on the Hub, without the one that it makes itself."""
    files = hub.files(repo_id, revision, kind="model")
    return {path: content for path, content in files.items() if path != ".gitattributes"}


def checkpoint(folder: Path, seed: int = 0) -> Path:
    """A folder as a run leaves it, with a results folder beside."""
    tiny_model(seed=seed).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"dataset": "user/mbe2", "model": None, "seed": seed}))
    for name in LEFT_ALONE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def results_of(folder: Path, target: Path) -> Path:
    """The least that results are; `test_model_card.py` has real ones."""
    target.mkdir()
    run = {
        "model": {"fingerprint": fingerprint(folder)},
        "hardware": {"gpu": "none"},
        "command": "python -m evaluation",
    }
    run |= {"dataset": {"name": "mbe2", "revision": None, "corpus": 8, "queries": 8}, "versions": {}}
    content = {"run": run, "retrieval": {}, "classification": None, "attributes": None}
    (target / "results.json").write_text(json.dumps(content))
    (target / "own.txt").write_text("not of the evaluation")
    return target


class Folders:
    """Two models of the same form, the first also with a card written by hand, and what is in a repository before."""

    def __init__(self, place: Path):
        self.first, self.second = checkpoint(place / "moon2"), checkpoint(place / "other", seed=1)
        self.results = results_of(self.first, place / "results")
        self.written, self.edited = place / "written", place / "edited"
        shutil.copytree(self.first, self.written)
        (self.written / "README.md").write_text(BY_HAND)
        (self.edited / "results").mkdir(parents=True)
        for name, text in EDITED.items():
            (self.edited / name).write_text(text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def done(hub, folders) -> dict:
    """A series of pushes, in one process: name -> what came of it."""
    hub.add_folder("user/mbe2", folders.results)  # the data set that the recipe names
    hub.add_folder("user/edited", folders.edited, kind="model")
    calls = {
        "no upload": arguments(folders.first, "user/half", tag="v1"),
        "no commit": arguments(folders.first, "user/half", tag="v1"),
        "no card": arguments(folders.first, "user/half", tag="v1"),
        "at last": arguments(folders.first, "user/half", tag="v1"),
        "first": arguments(folders.first, "user/moon2", tag="v1", private=True, results=str(folders.results)),
        "again": arguments(folders.first, "user/moon2", tag="v1", results=str(folders.results)),
        "another tag": arguments(folders.first, "user/moon2", tag="v1.1", results=str(folders.results)),
        "taken tag": arguments(folders.second, "user/moon2", tag="v1"),
        "taken tag, other card": arguments(folders.first, "user/moon2", tag="v1"),
        "second": arguments(folders.second, "user/moon2", tag="v2"),
        "sharded": arguments(folders.first, "user/shards", tag="sharded", max_shard_size="400KB"),
        "sharded again": arguments(folders.first, "user/shards", tag="sharded", max_shard_size="400KB"),
        "whole": arguments(folders.first, "user/shards"),
        "branch": arguments(folders.first, "user/shards", branch="trial", include=["log.jsonl", "checkpoint-*/*"]),
        "no name": arguments(folders.first, "moon2"),
        "bad name": arguments(folders.first, "user/a b"),
        "not mine": arguments(folders.first, "stranger/moon2"),
        "results of another": arguments(folders.second, "user/x", results=str(folders.results)),
        "no size": arguments(folders.first, "user/x", max_shard_size="5 lots"),
        "no folder": arguments(folders.first / "nothing", "user/x"),
        "edited there": arguments(folders.first, "user/edited"),
        "written here": arguments(folders.written, "user/written"),
        "wrong token": arguments(folders.first, "user/x", token="hf_wrong_token"),
        "odd token": arguments(folders.first, "user/x", token="hf_odd\ntoken"),
    }
    with (
        hub.fault("PUT", "/lfs/objects/", 403, times=1),
        hub.fault("POST", "user/half/commit/", 403, times=1),
        hub.fault("POST", "user/half/commit/", 403, first=2, times=1),
    ):
        return dict(zip(calls, pushes(hub, *calls.values()), strict=True))


def test_the_model_its_code_and_a_card_arrive_and_nothing_else(hub, folders, done):
    files = held(hub, "user/moon2", "v1")
    assert set(files) == {
        *SHIPPED_CODE, "config.json", "model.safetensors", "processor_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "modules.json", "sentence_bert_config.json",
        "config_sentence_transformers.json", "recipe.yaml", "results/results.json", "README.md",
    }  # fmt: skip
    for path in set(files) & {*MODEL_FILES, "model.safetensors"}:
        assert files[path] == (folders.first / path).read_bytes()
    assert done["first"]["uploaded"] == len(files) and hub.repositories["model", "user/moon2"].private
    assert done["first"]["url"] == f"{hub.url}/user/moon2"


def test_the_card_pins_a_commit_that_has_the_model(hub, done):
    files = held(hub, "user/moon2", "v1")
    (pin,) = {word for word in files["README.md"].decode().split('"') if len(word) == 40}
    assert pin != done["first"]["commit"]
    assert held(hub, "user/moon2", pin) == {path: files[path] for path in files if path != "README.md"}
    assert b"datasets/user/mbe2" in files["README.md"], "the Hub has the data set, so the card links it"


def test_again_nothing_is_uploaded(hub, done):
    assert done["again"] == done["another tag"] == done["first"] | {"uploaded": 0}
    tags = hub.repositories["model", "user/moon2"].tags
    assert tags["v1"] == tags["v1.1"] == done["first"]["commit"]


@pytest.mark.parametrize("which", ["taken tag", "taken tag, other card"])
def test_a_tag_is_never_moved_silently(done, which):
    assert "has a tag 'v1' with other files" in done[which] and "HfApi().delete_tag('user/moon2'" in done[which]


def test_another_model_takes_the_place_of_the_first_with_all_that_was_said_of_it(hub, folders, done):
    files = held(hub, "user/moon2")
    assert files["model.safetensors"] == (folders.second / "model.safetensors").read_bytes()
    assert "results/results.json" not in files, "they are figures of the first"
    assert done["second"]["removed"] == 1


def test_weights_are_divided_and_whole_again(hub, folders, done):
    sharded, whole = held(hub, "user/shards", "sharded"), held(hub, "user/shards")
    shards = sorted(path for path in sharded if path.startswith("model-"))
    assert len(shards) >= 3 and INDEX in sharded and "model.safetensors" not in sharded
    assert max(len(sharded[path]) for path in shards) < 450_000
    weight_map = json.loads(sharded[INDEX])["weight_map"]
    assert set(weight_map.values()) == set(shards)
    assert set(weight_map) == set(load_file(folders.first / "model.safetensors"))
    assert done["sharded again"] == done["sharded"] | {"uploaded": 0}
    assert "model.safetensors" in whole and not [path for path in whole if path.startswith("model-")]
    assert done["whole"]["removed"] == len(shards) + 1


def test_a_branch_and_more_files_if_asked(hub, done):
    more = set(held(hub, "user/shards", "trial")) - set(held(hub, "user/shards"))
    assert more == {"log.jsonl", "checkpoint-1/optimizer.pt"} and done["branch"]["uploaded"]


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ("no name", "Name the model as user/name, not 'moon2'"),
        ("bad name", "'user/a b' cannot be the name of a model on the Hub"),
        ("not mine", "The token may not write to stranger/moon2"),
        ("results of another", "evaluate the folder again, or push without --results"),
        ("no size", "'5 lots' is no size"),
        ("no folder", "There is no model folder"),
    ],
)
def test_what_cannot_be_pushed_is_one_sentence(hub, done, which, sentence):
    assert done[which].startswith("error: ") and sentence in done[which]
    assert ("model", "user/x") not in hub.repositories


LOADED = """
import json, sys
import numpy as np, torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
photo = Image.open(sys.argv[1])
products = [{"text": "red striped mug"}, {"image": photo}, {"text": "红色条纹马克杯", "image": [photo, photo]}]
vectors = []
for name, revision in json.loads(sys.argv[2]):
    pinned = dict(trust_remote_code=True, revision=revision)
    model, processor = AutoModel.from_pretrained(name, **pinned).eval(), AutoProcessor.from_pretrained(name, **pinned)
    with torch.no_grad():
        vectors.append(model(**processor(products)).embeddings.numpy())
    vectors.append(SentenceTransformer(name, device="cpu", **pinned).encode(products))
print("vectors:", json.dumps(np.stack(vectors).tolist()))
"""


def test_a_fresh_process_gets_the_vectors_of_the_folder(hub, folders, done, tmp_path):
    """By AutoModel and by sentence-transformers, by tag and by commit, whole and in shards, with an empty cache and
    without this repository on the path."""
    photo = picture(40, 30)
    photo.save(tmp_path / "p.png")
    asked = [("user/moon2", "v1"), ("user/moon2", done["first"]["commit"]), ("user/shards", "sharded")]
    environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": ""}
    found = fresh.run(["-c", LOADED, str(tmp_path / "p.png"), json.dumps(asked)], environment, tmp_path)
    assert found.returncode == 0, found.stderr
    (line,) = [line for line in found.stdout.splitlines() if line.startswith("vectors: ")]
    products = [{"text": "red striped mug"}, {"image": photo}, {"text": "红色条纹马克杯", "image": [photo, photo]}]
    with torch.no_grad():
        expected = tiny_model()(**tiny_processor()(products)).embeddings.numpy()
    vectors = np.array(json.loads(line.removeprefix("vectors: ")))
    assert vectors.shape == (6, *expected.shape)
    assert np.abs(vectors - expected).max() <= 1e-5
    assert TOKEN not in found.stdout + found.stderr


def test_an_upload_that_breaks_off_is_a_sentence_and_goes_on_when_called_again(hub, done):
    """At the weights, at the commit, and between the model and its card."""
    for which in ("no upload", "no commit", "no card"):
        assert done[which].startswith("error: ") and "user/half" in done[which]
    files = held(hub, "user/half", "v1")
    assert done["at last"]["uploaded"] == 1 and "README.md" in files and "model.safetensors" in files
    assert len(hub.repositories["model", "user/half"].commits) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "first"), [("PUT", "/lfs/objects/", 2), ("POST", "/commit/", 1), ("POST", "/commit/", 2)]
)
def test_a_push_that_is_killed_goes_on_when_it_is_called_again(folders, tmp_path, method, path, first):
    """While the shards go up, before the commit, and between the model and its card."""
    call = arguments(folders.first, "user/killed", tag="v1", max_shard_size="400KB")
    with running_hub() as new_hub:
        with new_hub.fault(method, path, "hang", first=first) as fault:
            client = fresh.start(["-c", PUSHES, json.dumps([call])], new_hub.environment(tmp_path / "home"))
            assert fault.reached.wait(60)
            client.kill()
            client.join()
        assert "README.md" not in held(new_hub, "user/killed")
        (done,) = pushes(new_hub, call)
        files = held(new_hub, "user/killed", "v1")
        assert INDEX in files and "README.md" in files
        uploads = [request.path for request in new_hub.requests("PUT") if request.status == 200]
        assert len(uploads) == len(set(uploads)), "what has arrived is not sent again"
        (nothing,) = pushes(new_hub, call)
        assert nothing == done | {"uploaded": 0}


def test_what_others_put_there_stays(hub, done):
    """Files of the repository's owner, and a card that was edited on the Hub; weights of an earlier model do not."""
    files = held(hub, "user/edited")
    assert done["edited there"]["kept_card"] and done["edited there"]["removed"] == 1
    kept = set(EDITED) - {"model-00001-of-00002.safetensors"}
    assert {name: files[name].decode() for name in kept} == {name: EDITED[name] for name in kept}
    assert "model-00001-of-00002.safetensors" not in files and "model.safetensors" in files


def test_a_card_written_by_hand_is_taken_as_it_is(hub, done):
    assert held(hub, "user/written")["README.md"].decode() == BY_HAND and not done["written here"]["kept_card"]


def test_a_token_is_never_shown(done):
    """Neither a refused one, nor one that an HTTP library quotes because no header can hold it."""
    assert "sign in with" in done["wrong token"] and "<token>" in done["odd token"]
    assert not [said for said in done.values() if "hf_wrong" in str(said) or "hf_odd" in str(said)]


def test_the_command_line_shows_beforehand(folders, capsys):
    options = ["push", "--model", str(folders.first), "--repo", "user/commanded"]
    assert main([*options, "--dry_run", "--license", "apache-2.0"]) == 0
    shown = capsys.readouterr().out
    assert "model.safetensors" in shown and "license: apache-2.0" in shown
    assert main([*options, "--license", "other"]) == 2
    assert capsys.readouterr().err.startswith("error: --license_name is for")


def test_the_command_line_pushes(hub, folders):
    options = ["-m", "evaluation", "push", "--model", str(folders.first), "--repo", "user/commanded"]
    pushed = run_python([*options, "--tag", "v1", "--private"], hub)
    assert pushed.returncode == 0, pushed.stderr
    assert f"{hub.url}/user/commanded: " in pushed.stdout and " files uploaded; commit " in pushed.stdout
    assert hub.repositories["model", "user/commanded"].private


def test_folders_that_are_no_checkpoint_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match="fits no file"):
        included(folders.first, ["*.bin"])  # only training_args.bin is there
    with pytest.raises(UserError, match="give a path below it"):
        included(folders.first, ["../other/config.json"])
    with pytest.raises(UserError, match="holds no results"):
        read_results(folders.first, folders.first)
    worded = results_of(folders.first, tmp_path / "worded") / "results.json"
    worded.write_text(json.dumps(json.loads(worded.read_text()) | {"hybrid": {}}))
    with pytest.raises(UserError, match="is of the model and words together: push the results of the model alone"):
        read_results(worded.parent, folders.first)
    assert "training_args.bin" not in model_files(folders.first)


def train(hub: HubServer, recipe: str, output: Path, *options: str) -> tuple[int, str, str]:
    arguments = [str(ROOT / "train_moon2.py"), recipe, "--output_dir", str(output), "--push_to_hub", "true"]
    done = run_python([*arguments, "--max_steps", "4", "--save_steps", "2", *options], hub)
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_run_pushes_its_checkpoints_and_its_model(hub, recipe, tmp_path):
    options = ("--hub_model_id", "user/run", "--hub_strategy", "checkpoint", "--hub_always_push", "true")
    code, said, problems = train(hub, recipe, tmp_path / "run", *options, "--hub_token", TOKEN)
    assert code == 0, problems
    assert f"{hub.url}/user/run: " in said
    files = held(hub, "user/run")
    assert files["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    last = {path.removeprefix("last-checkpoint/"): files[path] for path in files if path.startswith("last-checkpoint/")}
    assert last == {path.name: path.read_bytes() for path in (tmp_path / "run" / "checkpoint-4").iterdir()}, (
        "it can be resumed from as it is"
    )
    own = set(files) - {f"last-checkpoint/{name}" for name in last}
    assert "recipe.yaml" in own and "trainer_state.json" not in own and "log.jsonl" not in own
    assert not [path for path in own if path.endswith((".pt", ".pth", ".bin"))]
    assert not [path for path, content in files.items() if TOKEN.encode() in content]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    titles = [commit.title for commit in hub.repositories["model", "user/run"].commits.values()]
    assert "Training in progress, step 2" in titles and "Training in progress, step 4: the checkpoint" in titles
    assert not (tmp_path / "run" / ".pushing").exists() or not list((tmp_path / "run" / ".pushing").iterdir())


@pytest.mark.slow
def test_a_hub_that_fails_does_not_end_a_run(hub, recipe, tmp_path):
    with hub.fault("POST", "user/broken/commit/", 403):
        code, _, problems = train(hub, recipe, tmp_path / "run", "--hub_model_id", "user/broken")
    assert code == 2 and "checkpoint-2 was not pushed" in problems
    assert "The model is whole in" in problems and "python -m evaluation push --model" in problems
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.slow
def test_only_the_end_is_pushed_and_nothing_by_a_dry_run(hub, recipe, tmp_path):
    code, _, problems = train(hub, recipe, tmp_path / "dry", "--hub_model_id", "user/dry", "--dry_run", "true")
    assert code == 0 and ("model", "user/dry") not in hub.repositories, problems
    options = ("--hub_model_id", "user/end", "--hub_strategy", "end", "--hub_private_repo", "true")
    code, _, problems = train(hub, recipe, tmp_path / "run", *options)
    assert code == 0, problems
    repository = hub.repositories["model", "user/end"]
    assert repository.private and len(repository.commits) == 3  # the Hub's first, the model, its card
    code, _, problems = train(hub, recipe, tmp_path / "other", "--hub_model_id", "stranger/run")
    assert code == 2 and "error: The token may not write to stranger/run" in problems
