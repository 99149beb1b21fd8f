"""What the README shows must work as it stands there."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_snippets_run_one_after_the_other(after_demo, capsys):
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(snippet, names)
    assert torch.isfinite(names["vectors"]).all() and "tensor" in capsys.readouterr().out
    assert names["found"].shape == (1, 3)


def test_files_and_commands_that_it_names_exist():
    for name in re.findall(r"^\| `([^`]+)`", README, re.MULTILINE):
        assert (ROOT / name).exists(), name
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets and all(f"\n{target}:" in makefile for target in targets)
    for recipe in re.findall(r"recipes/\w+\.yaml", README):
        assert (ROOT / recipe).is_file(), recipe
