"""What is built holds what is in the repository, and works installed where nothing else of the project is."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_IN_SDIST = re.compile(r"(\.ci/.*|\.gitignore)")
# What no user of the package has: these need a checkout.
NOT_IN_WHEEL = re.compile(r"(docs|release|research|tests|\.ci)/.*|[^/]*\.(md|txt|toml|in)|LICENSE|Makefile|\.gitignore")
CHAIN = (
    "mbe2_dataset build --catalogue synthetic --output mbe2 --num_products 40 --num_validation 6 --num_test 8 "
    "--picture_size 40 --num_proc 1 --json",
    "mbe2_dataset check mbe2 --num_proc 1 --json",
    "train_moon2 tiny --dataset mbe2 --output moon2 --max_steps 2 --per_device_train_batch_size 8 --warmup_steps 1 "
    "--logging_steps 1",
    "evaluation --model moon2 --dataset mbe2 --output results --json",
    "evaluation report results --json",
    "evaluation curves moon2 --json",
    "evaluation heatmap --model moon2 --dataset mbe2 --output results/heatmap.png --json",
    "evaluation embed --model moon2 --dataset mbe2 --output vectors --json",
    "evaluation search --queries vectors --corpus vectors --k 3 --output hits.parquet --json",
    "evaluation push --model moon2 --repo user/moon2 --results results --dry_run --json",
    "upcycle_moon2 --model dense --output_dir converted --verify --json",
)
DENSE = """
from transformers import AutoModelForImageTextToText, AutoModel, AutoProcessor
model = AutoModel.from_pretrained("moon2", trust_remote_code=True)
AutoModelForImageTextToText.from_config(model.config.vlm_config).save_pretrained("dense")
processor = AutoProcessor.from_pretrained("moon2", trust_remote_code=True)
processor.tokenizer.save_pretrained("dense")
processor.image_processor.save_pretrained("dense")
"""
FRESH = """
import sys
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("moon2", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("moon2", trust_remote_code=True)
ours = model(**processor([{"text": "red mug"}])).embeddings.detach().numpy()
from sentence_transformers import SentenceTransformer
theirs = SentenceTransformer("moon2", trust_remote_code=True).encode(["red mug"])
assert "modeling_moon2" not in sys.modules, "the code must be the checkpoint's own"
assert abs(ours - theirs).max() < 1e-6
"""


def tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("only a git checkout knows its files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def build(folder: Path, *options: str) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    source = folder / "source"
    for name in tracked():  # a copy, so that setuptools leaves nothing in the checkout
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    words = [sys.executable, "-m", "build", *options, "--outdir", str(folder / "dist"), str(source)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Package would be ignored" not in done.stdout + done.stderr
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
@pytest.mark.skipif(find_spec("build") is None, reason="build is not installed")
def test_wheel_and_sdist_hold_the_files_of_the_repository(tmp_path):
    sdist, wheel = build(tmp_path, "--no-isolation")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    files = tracked()
    assert {name for name in files if not NOT_IN_SDIST.fullmatch(name)} - packed == set()
    expected = {
        re.sub(r"^recipes/", "training_moon2/recipes/", name)
        for name in files
        if not NOT_IN_WHEEL.fullmatch(name) or name.startswith(("demo/", "evaluation/", "mbe2_dataset/"))
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        said = archive.read(metadata).decode()
    assert inside == expected
    for extra in ("train", "eval", "augment", "ray"):
        assert f"Provides-Extra: {extra}\n" in said


def test_the_licences_name_every_direct_dependency():
    """If one is missing: make licences."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"]]
    groups += [lines for extra, lines in project["optional-dependencies"].items() if extra != "dev"]
    rows = re.findall(r"^\| (\S+) \| (\S*) ?\| (.*?) ?\| ", (ROOT / "LICENCES.md").read_text("utf-8"), re.MULTILINE)
    listed = {re.sub(r"[-_.]+", "-", name).lower(): (version, said) for name, version, said in rows}
    for line in (line for group in groups for line in group):
        name = re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", line)[0]).lower()
        assert name in listed, f"{name} is not in LICENCES.md: make licences"
        assert all(listed[name]), f"{name} has no version or no licence in LICENCES.md"


def test_the_lower_bounds_can_be_read_and_are_no_newer_than_what_is_pinned():
    sys.path.insert(0, str(ROOT / "release"))
    try:
        import versions
    finally:
        sys.path.remove(str(ROOT / "release"))
    pins = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    for name, bound in versions.requirements().items():
        numbers = [tuple(map(int, text.split("+")[0].split("."))) for text in (bound, pins[name])]
        assert numbers[0] <= numbers[1], name
    assert "torch==2.13.0" in versions.wanted("lowest") and "transformers>=5.16.1" in versions.wanted("newest")
    assert "torch==2.11.0" in versions.wanted("between", "2.11.0") and "transformers==5.20.2" in versions.wanted(
        "between"
    )
    assert all((ROOT / "tests" / name).is_file() for name in versions.TESTS)


@pytest.mark.slow
def test_from_an_empty_environment_to_a_model_outside_the_repository(tmp_path):
    """Downloads all that the package needs, once; then everything works without network, and without the checkout."""
    sdist, wheel = build(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python, away = str(tmp_path / "venv" / "bin" / "python"), tmp_path / "away"
    away.mkdir()
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*install, f"{wheel}[train,eval]"], check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run([python, *words], cwd=away, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    where = run("-c", "import modeling_moon2, training_moon2; print(modeling_moon2.__file__, training_moon2.__file__)")
    assert where.count(str(tmp_path / "venv")) == 2
    said = {}
    for line in CHAIN:
        if line.startswith("upcycle_moon2"):
            run("-c", DENSE)
        out = run("-m", *line.split())
        said[line.split(" --")[0]] = json.loads(out) if "--json" in line else out
    assert not said["mbe2_dataset check mbe2"]["failed"]
    assert said["evaluation"]["models"][0]["retrieval"]["t2mm"]["metrics"]["recall@10"] >= 0
    assert said["evaluation embed"]["vectors"] == said["evaluation search"]["count"] > 0
    assert "modeling_moon2.py" in said["evaluation push"]["files"] and said["evaluation push"]["card"]
    assert said["upcycle_moon2"]["largest_difference"] < 1e-4
    # Loaded without the package at hand, as by somebody who has only the checkpoint.
    for name in ("modeling_moon2", "configuration_moon2", "processing_moon2"):
        (found,) = (tmp_path / "venv").glob(f"lib/python*/site-packages/{name}.py")
        found.unlink()
    run("-c", FRESH)
