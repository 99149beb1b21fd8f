"""Run tests with the lowest versions that pyproject.toml allows, with newer ones, and with the newest that can be had.

    python release/versions.py lowest between newest      in .versions/lowest and so on, made if they are not there

`lowest` has every direct dependency, of the package itself and of the extras `train` and `eval`, at its lower bound;
`between` has the versions of BETWEEN, and otherwise the newest; `newest` has no upper bound. torch is that of
constraints.txt unless --torch names another one, for an open range brings CUDA along. Needs Python 3.11 or newer, and
nothing else.
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
        "checkpoint": "golden configuration_moon2 modeling_moon2 processing_moon2 chat_template sentence_transformers",
        "common_moon2": "trust",
        "training_moon2": "upcycle_moon2 train_moon2 finetuning checkpoints hub",
        "publishing_moon2": "push",
        "evaluation": "main encoders",
        "mbe2_dataset": "build catalogue publish",
        "research": "study",
    }.items()
    for name in names.split()
]
# The last transformers that vLLM 0.33 takes, and what was current then.
BETWEEN = {"transformers": "5.20.2", "huggingface-hub": "1.33.0", "datasets": "5.0.1", "sentence-transformers": "6.1.0"}
KINDS = ("lowest", "between", "newest")
TOOLS = ["pytest", "pytest-timeout", "pytest-xdist"]
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")
SHOWN = ("torch", "transformers", "datasets", "sentence-transformers", "huggingface_hub", "accelerate", "peft", "numpy")


def requirements() -> dict[str, str]:
    """Return the direct dependencies with their lower bounds.

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


def wanted(kind: str, torch: str | None = None) -> list[str]:
    """Return what pip is told to install."""
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]
    others = {name: bound for name, bound in requirements().items() if name != "torch"}
    exact = others if kind == "lowest" else BETWEEN if kind == "between" else {}
    lines = [f"{name}=={exact[name]}" if name in exact else f"{name}>={bound}" for name, bound in others.items()]
    return [pinned if torch is None else f"torch=={torch}", *lines, *TOOLS]


def check(kind: str, torch: str | None) -> bool:
    """Make the environment and run the tests in it; return whether they passed."""
    folder = ROOT / ".versions" / kind
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    upgrade = ["--upgrade", "--upgrade-strategy", "eager"] if kind == "newest" else []
    subprocess.run([*pip, "install", *upgrade, *wanted(kind, torch)], check=True)
    say = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {SHOWN}), sep=', ')"
    print(f"{kind}: ", end="", flush=True)
    subprocess.run([str(python), "-c", say], check=True)
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    done = subprocess.run([str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], cwd=ROOT)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=KINDS, help="which environments")
    parser.add_argument("--torch", metavar="VERSION", help="another torch than that of constraints.txt")
    told = parser.parse_args()
    failed = [kind for kind in told.kinds if not check(kind, told.torch)]
    if failed:
        print(f"The tests fail with the versions {' and '.join(failed)}.", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
