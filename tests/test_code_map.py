"""docs/code.md draws what imports what; here the imports themselves are read."""

import ast
import re
from pathlib import Path

import pytest
from guides import ROOT, blocks

from publishing_moon2.files import SHIPPED_CODE


def modules_of(path: Path) -> set[str]:
    """The modules that a file imports, by the first part of their names; relative ones are its own."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.fixture(scope="module")
def drawn() -> tuple[dict[str, set[str]], set[tuple[str, str]]]:
    """The boxes of the picture with the modules in them, and its arrows."""
    (picture,) = [block.text for block in blocks("docs/code.md") if block.language == "mermaid"]
    boxes = {name: set(label.split(", ")) for name, label in re.findall(r'(\w+)\["(.*?)"\]', picture)}
    return boxes, set(re.findall(r"(\w+) --> (\w+)", picture))


def test_every_module_is_in_one_box(drawn):
    boxes, _ = drawn
    there = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert sorted(module for box in boxes.values() for module in box) == sorted(there)
    assert boxes["checkpoint"] == {name.removesuffix(".py") for name in SHIPPED_CODE}


def test_the_arrows_are_the_imports(drawn):
    boxes, arrows = drawn
    box_of = {module: name for name, box in boxes.items() for module in box}
    found = {}
    for module, name in box_of.items():
        files = sorted((ROOT / module).rglob("*.py")) if (ROOT / module).is_dir() else [ROOT / f"{module}.py"]
        for path in files:
            for other in modules_of(path) & box_of.keys():
                if box_of[other] != name:
                    found.setdefault((name, box_of[other]), path.relative_to(ROOT).as_posix())
    assert found.keys() == arrows, {arrow: found.get(arrow, "drawn only") for arrow in found.keys() ^ arrows}


def test_they_go_one_way(drawn):
    _, arrows = drawn
    left = set(arrows)
    while left:
        ends = {target for _, target in left} - {source for source, _ in left}
        assert ends, f"a circle among {left}"
        left = {(source, target) for source, target in left if target not in ends}
