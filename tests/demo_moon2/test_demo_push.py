"""The demo as a Space: its metadata, its settings, a push to a small Hub, and the pushed files running on their own."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from hub_server import TOKEN, run_python
from hub_server import hub as hub
from huggingface_hub import SpaceCard

from common_moon2.cli import UserError
from conftest import tiny_model, tiny_processor
from demo_moon2.__main__ import EXAMPLES, main
from demo_moon2.app import read_settings, serve
from demo_moon2.arguments import COMMANDS, ServeArguments, SpaceArguments
from demo_moon2.push import write_space

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo_moon2"
SPACE = {"model": "user/moon2", "model_revision": "v1", "dataset": "user/mbe2"}
OPTIONS = ["--model", "user/moon2", "--model_revision", "v1", "--dataset", "user/mbe2"]
# The pushed app, in a process that knows nothing of the repository but what is in its folder.
APP = """
import json, sys, urllib.request
sys.path.insert(0, "")
import app
page = app.serve(app.read_settings())
text = urllib.request.urlopen(page.local_url).read().decode()
ours = ("app", "demo_moon2", "evaluation")
own = [module for name, module in sorted(sys.modules.items()) if name.split(".")[0] in ours
       or name.endswith("_moon2") and "." not in name]
files = sorted({module.__file__ for module in own if getattr(module, "__file__", None)})
print(json.dumps(["search by text and image" in text, files]))
"""


@pytest.fixture(scope="module")
def filled(hub, mbe2, tmp_path_factory):
    """The Hub with a model, which has the tag v1, and a data set."""
    folder = tmp_path_factory.mktemp("pushed") / "moon2"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    hub.add_folder("user/moon2", folder, kind="model")
    hub.add_folder("user/mbe2", mbe2, kind="dataset")
    model = hub.repositories["model", "user/moon2"]
    model.tags["v1"] = model.branches["main"]
    return hub


def push(hub, *options: str):
    return run_python(["-m", "demo_moon2", "push", "--repo", "user/space", *OPTIONS, *options], hub, cwd=ROOT)


def test_the_metadata_are_those_of_a_space():
    card = SpaceCard.load(DEMO / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.license) == ("gradio", "app.py", "apache-2.0")
    assert (DEMO / card.data.app_file).is_file()
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert card.data.sdk_version == pins["gradio"], "a Space has the gradio that the tests ran with"
    # What the Hub allows.
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {card.data.colorFrom, card.data.colorTo} <= colors and len(card.data.short_description) <= 60
    assert re.fullmatch(r"3\.\d+", card.data.python_version)


def test_a_space_needs_what_the_project_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["eval"], *(line for line in extras["demo"] if "moon2" not in line)]
    lines = (DEMO / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith(("#", "-"))] == wanted


def test_variables_take_the_place_of_what_was_pushed(tmp_path, monkeypatch):
    monkeypatch.setattr("demo_moon2.app.CONFIG", tmp_path / "space.json")
    assert read_settings() == ServeArguments(host=None), "gradio knows where a Space listens"
    write_space(tmp_path / "space", SpaceArguments(repo="user/space", **SPACE, dataset_revision="v2"))
    monkeypatch.setattr("demo_moon2.app.CONFIG", tmp_path / "space" / "space.json")
    assert read_settings() == ServeArguments(host=None, **SPACE, dataset_revision="v2")
    monkeypatch.setenv("MOON2_DATASET", "user/other")
    monkeypatch.setenv("MOON2_MODEL", "")
    kept = ServeArguments(host=None, **SPACE | {"dataset": "user/other"})
    assert read_settings() == kept, "v2 is a revision of another data set"
    (tmp_path / "space" / "space.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_settings()


def test_a_pushed_space_runs_from_its_own_files(filled, tmp_path):
    done = push(filled, "--private")
    assert done.returncode == 0, done.stderr
    assert f"{filled.url}/spaces/user/space: " in done.stdout and " files uploaded; commit " in done.stdout
    assert filled.repositories["space", "user/space"].private
    files = filled.files("user/space", kind="space")
    front = SpaceCard(files["README.md"].decode()).data
    assert (front.models, front.datasets, front.sdk) == (["user/moon2"], ["user/mbe2"], "gradio")
    assert json.loads(files["space.json"]) == SPACE
    assert not [path for path in files if "__pycache__" in path or path.endswith(".pyc")]
    assert TOKEN not in done.stdout + done.stderr and not [p for p, c in files.items() if TOKEN.encode() in c]

    again = push(filled)
    assert "nothing new, all was there" in again.stdout
    assert len(filled.repositories["space", "user/space"].commits) == 2, "the Hub's first, and one of two pushes"
    filled.repositories["space", "user/space"].commit(
        "main",
        "old",
        filled.repositories["space", "user/space"].at("main").files | {"demo_moon2/old.py": filled.add_blob(b"#")},
    )
    assert "0 files uploaded, 1 removed" in push(filled).stdout

    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    for path, content in filled.files("user/space", kind="space").items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    ran = run_python(APP, filled, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    served, modules = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("[")))
    assert served and str(tmp_path / "demo_moon2" / "query.py") in modules
    assert all(module.startswith(str(tmp_path)) for module in modules)


def test_what_is_not_on_the_hub_is_not_pushed(filled):
    calls = {
        "A Space needs a model of the Hub": SPACE | {"model": "moon2"},
        "The Hub has no model user/none": SPACE | {"model": "user/none"},
        "The Hub has no data set user/none": SPACE | {"dataset": "user/none"},
        "has no revision 'v9'": SPACE | {"model_revision": "v9"},
        "as user/name": SPACE | {"repo": "other"},
    }
    code = f"""
from common_moon2.cli import UserError
from demo_moon2.arguments import SpaceArguments
from demo_moon2.push import push_space
for options in {list(calls.values())!r}:
    try:
        push_space(SpaceArguments(**dict(repo="user/other") | options))
    except UserError as error:
        print(error)
"""
    ran = run_python(code, filled, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert all(sentence in line for sentence, line in zip(calls, said, strict=True)), said
    assert ("space", "user/other") not in filled.repositories


def test_the_command_line_says_what_is_missing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "There is no model moon2 here: run `make demo`, or name one with --model." in capsys.readouterr().err
    (tmp_path / "moon2").mkdir()
    assert main(["--port", "7999"]) == 2
    assert "There is no data set mbe2 here" in capsys.readouterr().err
    assert main(["--model", "elsewhere", "--dataset", "elsewhere"]) == 2
    assert capsys.readouterr().err.startswith("error: There is no model folder elsewhere; ")
    assert main(["--results", "0"]) == 2
    assert "'0' is not a whole number of at least 1" in capsys.readouterr().err


def test_the_commands_of_the_page_are_commands():
    text = "\n".join([(DEMO / "README.md").read_text(encoding="utf-8"), *EXAMPLES])
    commands = [
        shlex.split(line, comments=True)[3:] for line in re.findall(r"^ *(python -m demo_moon2.*?)(?:  |$)", text, re.M)
    ]
    assert len(commands) >= 5
    for argv in commands:
        name, words = ("push", argv[1:]) if argv and argv[0] == "push" else ("serve", argv)
        COMMANDS[name].parser(name).read(words)


def test_a_taken_port_is_said(after_demo, tmp_path):
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    page = serve(ServeArguments(cache=tmp_path / "cache"))
    try:
        with pytest.raises(UserError, match=f"The page cannot be served: .*{page.server_port}"):
            serve(ServeArguments(cache=tmp_path / "cache", port=page.server_port))
    finally:
        page.close()


@pytest.mark.parametrize("argv", [["--help"], ["serve", "--help"], ["push", "--help"]])
def test_help_teaches(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0 and "--" in capsys.readouterr().out
