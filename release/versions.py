"""Runs tests with the lowest versions that pyproject.toml allows, and with the newest that can be had.

    python release/versions.py lowest newest      in .versions/lowest and .versions/newest, made if they are not there

`lowest` has every direct dependency, of the package itself and of the extras `train` and `eval`, at its lower bound;
`newest` has no upper bound. torch is that of constraints.txt in both: an open range brings CUDA along. Needs Python
3.11 or newer, and nothing else.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = ("train", "eval")
# Loading, saving, training, evaluating, publishing: what touches the libraries most. All of these are fast tests.
TESTS = [
    f"{room}/test_{name}.py"
    for room, names in {
        "checkpoint": "configuration_moon2 modeling_moon2 processing_moon2 chat_template sentence_transformers",
        "common_moon2": "trust",
        "training_moon2": "upcycle_moon2 train_moon2 finetuning checkpoints hub",
        "publishing_moon2": "push",
        "evaluation": "main encoders",
        "mbe2_dataset": "build catalogue publish",
    }.items()
    for name in names.split()
]
TOOLS = ["pytest", "pytest-timeout", "pytest-xdist"]
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")
SHOWN = ("torch", "transformers", "datasets", "sentence-transformers", "huggingface_hub", "accelerate", "peft", "numpy")


def requirements() -> dict[str, str]:
    """Direct dependency -> its lower bound.

    Raises:
        ValueError: one is written otherwise than name>=version.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    found = [REQUIREMENT.fullmatch(line) for line in lines]
    if None in found:
        raise ValueError(f"{lines[found.index(None)]!r} in pyproject.toml is not name>=version.")
    return {match[1]: match[2] for match in found}


def wanted(kind: str) -> list[str]:
    """What pip is told to install."""
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]
    others = {name: bound for name, bound in requirements().items() if name != "torch"}
    relation = "==" if kind == "lowest" else ">="
    return [pinned, *(f"{name}{relation}{bound}" for name, bound in others.items()), *TOOLS]


def check(kind: str) -> bool:
    """Makes the environment and runs the tests in it; whether they passed."""
    folder = ROOT / ".versions" / kind
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    upgrade = ["--upgrade", "--upgrade-strategy", "eager"] if kind == "newest" else []
    subprocess.run([*pip, "install", *upgrade, *wanted(kind)], check=True)
    say = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {SHOWN}), sep=', ')"
    print(f"{kind}: ", end="", flush=True)
    subprocess.run([str(python), "-c", say], check=True)
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    done = subprocess.run([str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], cwd=ROOT)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=("lowest", "newest"), help="which environments")
    failed = [kind for kind in parser.parse_args().kinds if not check(kind)]
    if failed:
        print(f"The tests fail with the versions {' and '.join(failed)}.", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
