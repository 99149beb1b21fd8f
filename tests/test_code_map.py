"""docs/code.md draws what imports what; here the imports themselves are read, and what commands import is looked at."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
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
    """The boxes of the image with the modules in them, and its arrows."""
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


ROOMS = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
FILES = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in room.rglob("*.py"))]
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def imported(tree: ast.AST, in_functions: bool) -> Iterator[str]:
    """What a module imports when it is imported, or also when its functions run: modules and parts of them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):  # only the files of a checkpoint have relative ones, of one another
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # for readers and type checkers only
        elif in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported(node, in_functions)


def graph(in_functions: bool) -> dict[str, set[str]]:
    """Module -> the modules of this repository that it imports."""
    found = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = set(imported(tree, in_functions))
        found[module] = {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()
        found[module] -= {module}
    return found


@pytest.mark.parametrize("in_functions", [False, True], ids=["when imported", "when functions run"])
def test_no_modules_import_each_other_in_a_circle(in_functions):
    try:
        TopologicalSorter(graph(in_functions)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_packages_import_nothing_but_the_standard_library():
    """So that to import one module of a room does not load the room."""
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            names = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")), False)}
            assert names <= sys.stdlib_module_names, module


# Runs command lines, each in a process that is forked from one which has what all commands import.
QUICK = """
import importlib, json, os, sys
import common_moon2.fields
heavy = set(json.loads(sys.argv[2]))
def ask(name, *words):
    print(name, *words, flush=True)
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    module = importlib.import_module(name)
    try:
        code = module.main([*words])
    except SystemExit as stop:
        code = stop.code
    print(json.dumps([" ".join([name, *words]), code, sorted(heavy & sys.modules.keys())]), file=sys.stderr, flush=True)
    os._exit(0)
for name, *words in json.loads(sys.argv[1]):
    ask(name, *words)
    if words == ["--help"] and name.endswith("__main__"):
        tables = [importlib.import_module(name), importlib.import_module(name.replace("__main__", "arguments"))]
        for command in next((vars(table)["COMMANDS"] for table in tables if "COMMANDS" in vars(table)), ()):
            ask(name, command, "--help")
"""
HEAVY = ["torch", "datasets", "sklearn", "matplotlib", "sentence_transformers", "gradio", "litserve"]
COMMANDS = [*(name for name in MODULES if name.endswith(".__main__")), "train_moon2", "upcycle_moon2"]


def answers(lines: list[list[str]]) -> list[tuple[str, int, list[str]]]:
    """Of each command line: itself, its exit code, and which of `HEAVY` it imported."""
    words = [sys.executable, "-c", QUICK, json.dumps(lines), json.dumps(HEAVY)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    assert [line for line, *_ in found] == done.stdout.splitlines(), done.stderr
    return found


def test_help_imports_neither_torch_nor_datasets():
    found = answers([[name, "--help"] for name in COMMANDS])
    assert len(found) > 20 and {code for _, code, _ in found} == {0}
    assert not [line for line, _, heavy in found if heavy]


def test_errors_that_need_no_model_import_neither(tmp_path):
    recipe, empty = tmp_path / "recipe.yaml", tmp_path / "empty"
    recipe.write_text("model: some/model\nno_such_field: 1\n", encoding="utf-8")
    empty.mkdir()
    new = ["--output_dir", str(tmp_path / "new")]
    found = answers(
        [
            ["train_moon2", "none.yaml"],
            ["train_moon2", str(recipe)],
            ["train_moon2", "tiny", "--no_such_field", "1"],
            ["train_moon2", "tiny", "--temperature", "0"],
            ["train_moon2", "tiny", "--dataset", str(tmp_path / "none")],
            ["train_moon2", "tiny", "--dataset", str(empty)],
            ["train_moon2", "qwen3-vl-2b", "--model", "none"],
            ["upcycle_moon2", "--model", "none", *new],
            ["upcycle_moon2", "--model", "some/model", "--output_dir", str(tmp_path)],
        ]
    )
    assert {code for _, code, _ in found} == {2}
    assert not [line for line, _, heavy in found if heavy]
