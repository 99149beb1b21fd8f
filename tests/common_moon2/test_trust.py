"""What is run when a checkpoint is loaded: the files that are shipped with it and libraries; no pickle, no secret."""

import ast
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, run_python
from hub_server import hub as hub
from transformers import AutoModel, AutoProcessor

from common_moon2.cli import UserError
from common_moon2.hub import without_secrets
from conftest import picture, tiny_model, tiny_processor
from mbe2_dataset.__main__ import main as mbe2_main
from mbe2_dataset.coaugmentation.endpoint import Endpoint
from mbe2_dataset.coaugmentation.pictures.editors import EndpointEditor
from mbe2_dataset.errors import ModelError
from pictures_moon2 import address
from publishing_moon2.files import SHIPPED_CODE, check_code, check_folder, classes_asked_for
from train_moon2 import main as train
from upcycle_moon2 import main as upcycle

ROOT = Path(__file__).parents[2]
LIBRARIES = {"torch", "transformers", "numpy", "PIL", "huggingface_hub", "safetensors"}
# Functions and modules that a file one trusts by reading it should not have at all.
UNWANTED = {"eval", "exec", "compile", "__import__"}
UNWANTED_MODULES = {"pickle", "subprocess", "ctypes", "marshal", "shelve", "importlib", "runpy", "multiprocessing"}
GUIDES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


class Marked:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trust") / "moon2"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    shutil.copytree(folder, tmp_path / "moon2")
    return tmp_path / "moon2"


def settings(folder: Path, name: str) -> dict | list:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_a_checkpoint_holds_just_these_files_of_code(folder):
    assert sorted(path.name for path in folder.rglob("*.py")) == sorted(SHIPPED_CODE)
    for name in SHIPPED_CODE:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    assert {path.suffix for path in folder.iterdir()} == {".py", ".json", ".jinja", ".safetensors"}


def test_its_settings_point_to_them_and_to_libraries_only(folder):
    named = {name: set(classes_asked_for(settings(folder, name))) for name in ("config.json", "processor_config.json")}
    assert named["config.json"] == {"configuration_moon2.Moon2Config", "modeling_moon2.Moon2Model"}
    assert named["processor_config.json"] == {"processing_moon2.Moon2Processor"}
    assert set(classes_asked_for(settings(folder, "tokenizer_config.json"))) <= named["processor_config.json"]
    assert [module["type"] for module in settings(folder, "modules.json")] == [
        "sentence_transformers.base.modules.transformer.Transformer"
    ]
    check_code(folder)


@pytest.mark.parametrize("name", SHIPPED_CODE)
def test_shipped_code_imports_itself_the_standard_library_and_few_libraries(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in UNWANTED, f"line {node.lineno}"
    own = {file.removesuffix(".py") for file in SHIPPED_CODE}
    assert imported <= own | LIBRARIES | sys.stdlib_module_names
    assert not imported & UNWANTED_MODULES


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("config.json", {"auto_map": {"AutoModel": "other/repository--modeling_moon2.Moon2Model"}}, "have other/repo"),
        ("config.json", {"vlm_config": {"auto_map": {"AutoConfig": "evil.Config"}}}, "would have evil.Config loaded"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Slow", None]}}, "would have evil.Slow loaded"),
        ("modules.json", [{"type": "evil.Transformer", "path": ""}], "not of sentence-transformers"),
    ],
)
def test_settings_that_name_other_code_are_refused(copy, file, change, sentence):
    found = settings(copy, file)
    (copy / file).write_text(json.dumps(change if isinstance(change, list) else found | change))
    with pytest.raises(UserError, match=sentence):
        check_folder(copy)


def test_a_checkpoint_without_its_code_is_refused(copy):
    (copy / "modeling_moon2.py").unlink()
    with pytest.raises(UserError, match="has no modeling_moon2.py, which its config.json names"):
        check_folder(copy)


def test_a_pickle_is_never_run(copy, tmp_path):
    """Beside safetensors it is not read. Alone it is read by torch with weights_only, which builds tensors and refuses
    all else; `push` does not take it at all."""
    mark = tmp_path / "was run"
    torch.save({"weight": Marked(mark)}, copy / "pytorch_model.bin")
    AutoModel.from_pretrained(copy, trust_remote_code=True)
    (copy / "model.safetensors").unlink()
    with pytest.raises(Exception, match="(?i)weights_only|safetensors"):
        AutoModel.from_pretrained(copy, trust_remote_code=True)
    assert not mark.exists()
    with pytest.raises(UserError, match="only weights in safetensors can be pushed"):
        check_folder(copy)
    torch.load(copy / "pytorch_model.bin", weights_only=False)
    assert mark.exists(), "the test's pickle does nothing"


LOADED = """
import json, sys
import transformers
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
pinned = dict(trust_remote_code=True, revision=sys.argv[1])
AutoModel.from_pretrained("user/private", **pinned)
AutoProcessor.from_pretrained("user/private", **pinned)
SentenceTransformer("user/private", device="cpu", **pinned)
files = {str(getattr(module, "__file__", None)) for module in list(sys.modules.values())}
print("files:", json.dumps([file for file in files if "user" in file and "private" in file]))
"""


def test_loading_from_the_hub_runs_these_files_only_and_shows_no_token(hub, copy, tmp_path):
    """At the most talkative settings; other files that lie in the repository are not even imported."""
    mark = tmp_path / "was run"
    for name in ("evil.py", "conftest.py", "setup.py", "sitecustomize.py", "handler.py", "__init__.py"):
        (copy / name).write_text(f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n")
    torch.save({"weight": Marked(mark)}, copy / "pytorch_model.bin")
    hub.add_folder("user/private", copy, private=True, kind="model")
    (revision,) = hub.repositories["model", "user/private"].commits
    talkative = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "TRANSFORMERS_VERBOSITY": "debug"}
    script = f"import os\nos.environ.update({talkative!r})\n{LOADED}"
    done = run_python(["-c", script, revision], hub, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("files: ")]
    loaded = {Path(file).name for file in json.loads(line.removeprefix("files: "))}
    assert loaded - {"__init__.py"} == set(SHIPPED_CODE)
    assert "Request" in done.stderr, "the client says what it asks for"
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_examples_pin_remote_code(guide):
    """Where a snippet loads code from the Hub it names a revision; a folder has none."""
    for snippet in re.findall(r"```(?:python|bash)\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL):
        for call in re.findall(r"\w+\((?:[^()]|\([^()]*\))*trust_remote_code=True(?:[^()]|\([^()]*\))*\)", snippet):
            if re.search(r'\(\s*"[\w.-]+/[\w.-]+"', call):
                assert "revision=" in call, call


def test_a_way_to_report_is_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for name in SHIPPED_CODE:
        assert f"`{name}`" in text


KEYS = ("hf_" + "aB3" * 12, "sk-proj-0123456789abcdef")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"unused: --hub_tokn {KEYS[0]}", "unused: --hub_tokn <token>"),
        (f"Illegal header value b'Bearer {KEYS[1]}\\n'", "Illegal header value b'Bearer <token>\\n'"),
        ("cannot reach https://me:pass@host/v1", "cannot reach https://host/v1"),
        ("hf_hub_download found no hf_home", "hf_hub_download found no hf_home"),
        ("the key a-key-of-mine is refused", "the key <token> is refused"),
        ("the mail me@host", "the mail me@host"),
    ],
)
def test_what_libraries_say_is_shown_without_keys(said, shown, monkeypatch):
    monkeypatch.setenv("ANY_API_KEY", "a-key-of-mine")
    assert without_secrets(said) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pass@host.example:8000/v1?key=1#part", "https://host.example:8000/v1"),
        ("http://host/a%20b.jpg", "http://host/a%20b.jpg"),
        ("photos/mug.jpg", "photos/mug.jpg"),
    ],
)
def test_an_address_is_shown_without_password_and_query(url, shown):
    assert address(url) == shown


def test_a_mistyped_option_does_not_put_its_token_into_a_log(tmp_path, capsys):
    recipe = str(ROOT / "recipes" / "tiny.yaml")
    assert train([recipe, "--output_dir", str(tmp_path), "--hub_tokn", KEYS[0]]) == 2
    assert upcycle(["--model", f"https://me:pass@host/{KEYS[0]}", "--output_dir", str(tmp_path)]) == 2
    said = "".join(capsys.readouterr())
    assert "<token>" in said and KEYS[0] not in said and "pass@" not in said


def test_addresses_with_keys_come_into_no_record(after_demo):
    """Images behind signed addresses, which are not fetched or not there: what is written of them, and the errors."""
    signed = "http://me:pass@127.0.0.1:9/photo.jpg?Signature=very-secret"
    rows = []
    for number in range(8):
        picture(80, 80, seed=number).save(f"{number}.png")
        rows.append({"id": str(number), "title": f"mug {number}", "image": (f"{number}.png", signed)[number % 2]})
    Path("shop.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for options in ([], ["--allow_urls", "true", "--overwrite"]):
        mbe2_main(["build", "--catalogue", "shop.jsonl", "--output", "mine", "--num_proc", "1", *options])
        records = b"".join(path.read_bytes() for path in Path().glob("mine*/**/*") if path.is_file())
        assert b"http://127.0.0.1:9/photo.jpg" in records
        assert b"very-secret" not in records and b"pass@" not in records
    processor = AutoProcessor.from_pretrained("moon2", trust_remote_code=True)
    with pytest.raises(ValueError, match="photo.jpg cannot be read") as refused:
        processor([{"image": signed}])
    assert "secret" not in str(refused.value) and "pass@" not in str(refused.value)


def test_an_editor_is_refused_without_its_key(monkeypatch):
    """Its client quotes the header that no HTTP request can have."""
    pytest.importorskip("openai")
    monkeypatch.setenv("ODD", "sk-odd\nkey")
    server = Endpoint("http://me:pass@127.0.0.1:9/v1?key=very-secret", "m", api_key_env="ODD", max_retries=0)
    editor = EndpointEditor(server)
    with pytest.raises(ModelError) as refused:
        editor(picture(80, 80), "on a table", 0)
    said = str(refused.value)
    assert "127.0.0.1:9/v1" in said and "very-secret" not in said and "pass@" not in said and "sk-odd" not in said
