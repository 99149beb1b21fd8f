"""Writes LICENCES.md: under what licence the packages are that this one needs, directly or through others.

    python release/licences.py      in an environment that has the package with its extras, such as .venv

What a package says of itself (its metadata) is all that is looked at; the texts of the licences come with the packages.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "LICENCES.md"
HEAD = """# Licences of what is needed

MOON2.0 for Hugging Face itself is under Apache-2.0 ([LICENSE](LICENSE)). It contains no other project's code; pip
installs these packages beside it: some always, some with an extra (`pip install 'moon2[eval]'`). Written by
`make licences` from what the packages say of themselves.

| package | version | licence | needed | remark |
|---|---|---|---|---|"""
DEVELOPMENT = ("dev",)  # what only those who work on the project need
# They ask for their notice to be kept, and for no more.
PERMISSIVE = re.compile(
    r"\b(apache|mit|bsd|isc|psf|python software foundation|python-2\.0|zlib|unlicense|hpnd|cnri|0bsd|cc0|mit-cmu)\b",
    re.I,
)
COPYLEFT = re.compile(r"\b(a?gpl|lgpl|mpl|mozilla|eupl|epl|cddl|sspl|proprietary|nvidia)\b", re.I)
LONG = 60


def direct() -> dict[str, set[str]]:
    """Return the extras that ask for each dependency of pyproject.toml; "": the package itself does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, set[str]] = {}
    for extra in groups.keys() - set(DEVELOPMENT):
        for line in groups[extra]:
            found.setdefault(line, set()).add(extra)
    return found


def needed(lines: Iterable[str]) -> dict[str, Distribution | None]:
    """Return the packages that these requirements ask for, directly or through others, by name; None: not installed
    here."""
    found: dict[str, Distribution | None] = {}
    waiting, seen = [Requirement(line) for line in lines], set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            found[name] = None
            continue
        for line in found[name].requires or ():
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                waiting.append(inner)
    return found


def licence(package: Distribution) -> str:
    """Return what the package says: its expression, or the classifiers, or a short text in the old field."""
    metadata = package.metadata
    if metadata.get("License-Expression"):
        return metadata["License-Expression"]
    classifiers = [
        line.split(" :: ")[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License :: ")
    ]
    classifiers = [name for name in classifiers if name != "OSI Approved"]
    said = " ".join((metadata.get("License") or "").split())
    if classifiers:
        return "; ".join(classifiers)
    return (said if len(said) <= LONG else f"{said[:LONG]}...") or "not said"


def remark(said: str) -> str:
    """Return what is to be known besides; empty: permissive throughout."""
    if COPYLEFT.search(said):
        return "not permissive throughout"
    return "" if PERMISSIVE.search(said) else "look it up"


def page() -> str:
    """Return the table as Markdown."""
    lines = direct()
    asked: dict[str, set[str]] = {}
    for line, extras in lines.items():
        asked.setdefault(canonicalize_name(Requirement(line).name), set()).update(extras)
    written = OUTPUT.read_text(encoding="utf-8").splitlines() if OUTPUT.exists() else []
    before = {line.split(" | ")[0].removeprefix("| "): line for line in written if line.startswith("| ")}
    rows = []
    for name, package in sorted(needed(lines).items()):
        by = ", ".join(f"[{extra}]" if extra else "always" for extra in sorted(asked.get(name, ()))) or "through others"
        if package is None:  # vLLM would replace torch: its row stays
            rows.append(before.get(name, f"| {name} | | | {by} | not installed where this was written |"))
        else:
            said = licence(package)
            rows.append(f"| {name} | {package.version} | {said} | {by} | {remark(said)} |")
    return "\n".join([*HEAD.splitlines(), *rows]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file to write (default: LICENCES.md)")
    output = parser.parse_args().output
    output.write_text(page(), encoding="utf-8")
    print(f"The licences are in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
