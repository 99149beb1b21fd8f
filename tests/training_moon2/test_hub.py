"""Training from a data set on the Hub, by its id: read whole and as a stream, and what a wrong id says."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from hub_server import HubServer, run_python
from hub_server import hub as hub
from test_faults import recipe as recipe
from test_faults import triplets as triplets

from conftest import same_bytes

ROOT = Path(__file__).parents[2]
STEPS = 4


@pytest.fixture(scope="module")
def dataset(hub, mbe2) -> str:
    hub.add_folder("user/mbe2", mbe2)
    return "user/mbe2"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The cache of all runs."""
    return tmp_path_factory.mktemp("home")


def train(hub: HubServer, recipe: str, output: Path, *options: str, **environment) -> tuple[int, str, str]:
    """Run train_moon2.py in a fresh process; its exit code, stdout and stderr."""
    arguments = [str(ROOT / "train_moon2.py"), recipe, "--output_dir", str(output), "--max_steps", str(STEPS), *options]
    done = run_python(arguments, hub, **environment)
    return done.returncode, done.stdout, done.stderr


def losses(folder: Path) -> list[float]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


@pytest.mark.slow
def test_a_run_reads_the_triplets_of_a_hub_id(hub, dataset, recipe, mbe2, home, tmp_path):
    """The same run as from the folder that was pushed."""
    for name, source in (("hub", dataset), ("folder", mbe2)):
        code, _, problems = train(hub, recipe, tmp_path / name, "--dataset", source, home=home)
        assert code == 0, problems
    found = losses(tmp_path / "hub")
    assert len(found) == STEPS and all(map(math.isfinite, found))
    assert found == losses(tmp_path / "folder")
    assert hub.requests("GET", "datasets/user/mbe2/resolve/.*triplets/train")


@pytest.mark.slow
def test_a_stream_from_the_hub_is_trained_on_and_resumed(hub, dataset, recipe, home, tmp_path):
    """Stopped after its third step it ends like one that was not; no other files than those of triplets are read."""
    options = ("--dataset", dataset, "--streaming", "true")
    code, _, problems = train(hub, recipe, tmp_path / "run", *options, home=home)
    assert code == 0, problems
    found = losses(tmp_path / "run")
    assert len(found) == STEPS and all(map(math.isfinite, found))
    shutil.copytree(tmp_path / "run" / "checkpoint-3", tmp_path / "again" / "checkpoint-3")
    code, said, problems = train(
        hub, recipe, tmp_path / "again", *options, "--resume_from_checkpoint", "true", home=home
    )
    assert code == 0, problems
    assert "Resuming from" in said
    assert losses(tmp_path / "again")[-1] == found[-1]
    assert same_bytes(tmp_path / "again" / "model.safetensors", tmp_path / "run" / "model.safetensors")
    assert not hub.requests("GET", "resolve/.*(corpus|queries|qrels)/")


SENTENCES = """
from training_moon2.arguments import TripletError
from training_moon2.triplets import load_triplets
import sys
for dataset, streaming in ((name, kind) for name in sys.argv[1:] for kind in (False, True)):
    try:
        load_triplets(dataset, "train", streaming)
    except TripletError as error:
        print(error)
"""


def test_a_wrong_hub_id_is_one_sentence_that_names_it(hub, mbe2):
    hub.add_folder("user/secret", mbe2, private=True)
    hub.add_folder("user/other", Path(mbe2) / "corpus")
    done = run_python(["-c", SENTENCES, "user/none", "user/secret", "user/other"], hub, token=None)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and len(said) == 6, done.stdout + done.stderr
    for line, name in zip(said, ("none", "none", "secret", "secret", "other", "other"), strict=True):
        assert line.startswith(f"The train triplets of user/{name} cannot be read: ")
    assert all("user/none' doesn't exist on the Hub or cannot be accessed" in line for line in said[:2])
    assert all("user/secret' doesn't exist on the Hub or cannot be accessed" in line for line in said[2:4])
    signed_in = run_python(["-c", SENTENCES, "user/secret"], hub)
    assert signed_in.returncode == 0 and signed_in.stdout == "", signed_in.stdout + signed_in.stderr


def test_the_command_line_says_it_and_stops(hub, recipe, tmp_path):
    code, _, problems = train(hub, recipe, tmp_path / "run", "--dataset", "user/nowhere")
    assert code == 2 and "Traceback" not in problems
    (sentence,) = [line for line in problems.splitlines() if line.startswith("error: ")]
    assert "user/nowhere" in sentence and "doesn't exist on the Hub" in sentence
    assert sys.executable not in sentence
