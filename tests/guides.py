"""What the guides show, taken apart: snippets, commands, words in backticks; for `test_docs.py`, which follows them."""

import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [
    *("README.md", "SECURITY.md", "CONTRIBUTING.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES = ("evaluation", "mbe2_dataset", "research.study", "research.benchmarks", "demo_moon2", "serving_moon2")


class Block(NamedTuple):
    """A fenced block; `place` is "page:line" of its first line."""

    place: str
    language: str
    text: str


class Command(NamedTuple):
    """`name`: the module or script whose `main` gets `argv`; or the first word of what is none of the project's."""

    name: str
    argv: list[str]

    def main(self, argv: list[str]) -> int:
        """Runs it in this process; the exit code."""
        module = f"{self.name}.__main__" if self.name in PACKAGES else self.name.removesuffix(".py")
        return import_module(module).main(argv) or 0

    @property
    def is_ours(self) -> bool:
        return self.name in PACKAGES or self.name.endswith("_moon2.py")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = text_of(page)
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(f"{page}:{line}", match[1], match[2]))
    return found


def in_backticks(page: str) -> list[str]:
    """What stands in backticks outside of blocks."""
    prose = FENCE.sub("", text_of(page))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def lines(block: str) -> list[str]:
    """A shell block's commands: continued lines joined, comments left out."""
    joined = block.replace("\\\n", " ").splitlines()
    return [line for line in joined if shlex.split(line, comments=True)]


def command(line: str) -> Command:
    """What a line runs; of a launcher, the script with its own arguments, after the launcher has read its own.

    Raises:
        SystemExit: the launcher does not take these.
    """
    words = shlex.split(line, comments=True)
    match words:
        case ["python", "-m", name, *argv]:
            return Command(name, argv)
        case ["python", name, *argv]:
            return Command(name, argv)
        case ["torchrun", *rest]:
            from torch.distributed.run import get_args_parser

            told = get_args_parser().parse_args(rest)
            return Command(told.training_script, told.training_script_args)
        case ["accelerate", "launch", *rest]:
            from accelerate.commands.launch import launch_command_parser

            told = launch_command_parser().parse_args(rest)
            assert (ROOT / told.config_file).is_file(), told.config_file
            return Command(told.training_script, told.training_script_args)
    return Command(words[0], words[1:])


@cache
def options_of(name: str, subcommand: str = "") -> frozenset[str]:
    """The options that a command's --help lists, and of training those of the Trainer."""
    said = io.StringIO()
    for word in ["--help", *(["--help_trainer"] if name.startswith("train_moon2") else [])]:
        with redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
            Command(name, []).main([*([subcommand] if subcommand else []), word])
    return frozenset(re.findall(r"(?<![\w-])--[a-z][\w-]*", said.getvalue()))


@cache
def subcommands_of(name: str) -> tuple[str, ...]:
    """Of a package that has some; none: its `main` takes options at once."""
    if name not in PACKAGES:
        return ()
    module = import_module(f"{name}.__main__")
    return tuple(module.COMMANDS if hasattr(module, "COMMANDS") else import_module(f"{name}.arguments").COMMANDS)


def options_for(told: Command) -> frozenset[str]:
    """The options that a command could be given; `run` is meant where the evaluation is given no subcommand."""
    known = subcommands_of(told.name)
    if not known:
        return options_of(told.name)
    return options_of(told.name, next((word for word in told.argv if word in known), known[0]))


def given_options(argv: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in argv if re.match(r"--[a-z]", word)]
