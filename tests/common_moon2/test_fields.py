"""A command is a dataclass: its fields are the options, its docstring the help, and its function gets it whole."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pytest

from common_moon2.cli import UsageError, UserError, whole
from common_moon2.fields import Command, FieldParser, option, positional, read_fields, run_command

ROOT = Path(__file__).parents[2]


@dataclass
class Arguments:
    """Count what is in a folder.

    Longer words.
    """

    folder: Path = positional("what to look at")
    pattern: str = option(help="which files")
    most: int = option(10, help="how many at most", type=whole(1))
    level: Literal["all", "some"] = option("all", help="how much")
    quiet: bool = option(False, help="say less")
    private: bool | None = option(None, help="to nobody", action="store_true")
    output: Path | None = option(None, help="where to")
    include: list[str] = option(list, help="more", action="append")
    sizes: list[int] = option(list, help="sizes")

    def __post_init__(self):
        if self.level == "some" and self.output is None:
            raise UserError("--level some needs --output.")


def count(arguments: Arguments) -> dict:
    """Return the arguments as facts; fail for the pattern "no"."""
    print("for people")
    return asdict(arguments) | {"failed": arguments.pattern == "no"}


def lack(arguments: Arguments) -> dict:
    """Need a package that is not there."""
    import no_such_package_at_all  # noqa: F401


EXAMPLES = ("p count here --pattern x",)
COMMANDS = {
    "count": Command(Arguments, f"{__name__}:count", EXAMPLES, exit_1="nothing was found"),
    "lack": Command(f"{__name__}:Arguments", f"{__name__}:lack"),
}


def read(*words: str) -> Arguments:
    return COMMANDS["count"].parser("p count").read(list(words))[0]


def test_fields_are_options_with_their_types():
    defaults = Arguments(folder=Path("here"), pattern="x")
    assert read("here", "--pattern", "x") == defaults
    told = read("here", "--pattern=x", "--most", "3", "--include", "a", "--include", "b", "--sizes", "1", "2")
    assert (told.most, told.include, told.sizes) == (3, ["a", "b"], [1, 2])
    assert read("--output", "o", "--pattern", "x", "--level", "some", "here").output == Path("o")
    assert read("here", "--pattern", "x").include is not read("here", "--pattern", "x").include


@pytest.mark.parametrize(
    ("words", "quiet"),
    [
        (["here", "--quiet"], True),
        (["--quiet", "here"], True),
        (["--quiet", "true", "here"], True),
        (["here", "--quiet", "false"], False),
        (["--quiet=no", "here"], False),
        (["here"], False),
    ],
)
def test_a_switch_stands_anywhere_and_takes_a_value_or_none(words, quiet):
    assert read("--pattern", "x", *words).quiet is quiet


def test_a_switch_may_have_a_third_state():
    assert read("--private", "here", "--pattern", "x").private is True
    assert read("here", "--pattern", "x").private is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["here"], "the following arguments are required: --pattern"),
        (["--pattern", "x"], "the following arguments are required: folder"),
        (["here", "--pattern", "x", "--most", "0"], "'0' is not a whole number of at least 1"),
        (["here", "--pattern", "x", "--level", "any"], "invalid choice"),
        (["here", "--pattern", "x", "--patern", "x"], "did you mean --pattern"),
        (["here", "there", "--pattern", "x"], "'there' is one word too many"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(words, sentence):
    with pytest.raises(UsageError, match=sentence):
        read(*words)


def test_what_does_not_go_together_is_told_by_the_dataclass():
    with pytest.raises(UserError, match="--level some needs --output"):
        read("here", "--pattern", "x", "--level", "some")


def test_a_command_gets_its_dataclass_and_prints_its_facts(capsys):
    assert run_command(["count", "here", "--pattern", "x"], "p", COMMANDS) == 0
    assert capsys.readouterr().out == "for people\n"
    assert run_command(["count", "here", "--pattern", "no", "--json"], "p", COMMANDS) == 1
    said = capsys.readouterr()
    assert said.err == "for people\n" and json.loads(said.out)["folder"] == "here"


def test_without_a_command_the_default_is_run(capsys):
    assert run_command(["--pattern", "x", "here"], "p", COMMANDS, "count") == 0
    with pytest.raises(UsageError, match="give a command: count, lack"):
        run_command([], "p", COMMANDS)


def test_the_list_of_commands_shows_what_each_is_for(capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(["--help"], "p", COMMANDS, description="Does things.")
    said = capsys.readouterr().out
    assert stop.value.code == 0 and said.count("Count what is in a folder.") == 2 and "Longer" not in said


def test_help_has_the_docstring_the_examples_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        run_command(["count", "--help"], "p", COMMANDS)
    said = capsys.readouterr().out
    assert said.startswith("usage: p count ") and "\nLonger words.\n" in said
    assert "examples:\n  p count here --pattern x\n" in said and "  1 nothing was found\n" in said
    assert "how many at most (default: 10)" in said and "--no_quiet" not in said and "(default: None)" not in said


def test_a_package_of_an_extra_is_named():
    with pytest.raises(UserError, match=r"no_such_package_at_all is not installed: pip install 'moon2\[demo\]'"):
        run_command(["lack", "here", "--pattern", "x"], "p", COMMANDS, extras={"no_such_package_at_all": "demo"})
    with pytest.raises(ModuleNotFoundError):
        run_command(["lack", "here", "--pattern", "x"], "p", COMMANDS)


def test_a_file_gives_defaults_that_the_command_line_overrides(tmp_path):
    file, parser = tmp_path / "recipe.yaml", FieldParser(Arguments, prog="p")
    file.write_text("pattern: from the file\nmost: 4\n")
    words = ["here", "--pattern", "told", "--level", "all"]
    assert read_fields(parser, words, str(file)) == {"pattern", "most", "level"}
    (told,) = parser.read(words)
    assert (told.pattern, told.most) == ("told", 4)
    assert read_fields(parser, ["--most=3"], None) == {"most"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is not YAML"),
        ("- a\n", "is not a list of 'field: value' lines"),
        ("mots: 3\n", "unknown fields: mots"),
        ("level: seldom\n", "level: 'seldom'; it may be: "),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, text, sentence):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_fields(FieldParser(Arguments, prog="p"), [], str(file))
    with pytest.raises(ValueError, match="cannot be read"):
        read_fields(FieldParser(Arguments, prog="p"), [], str(tmp_path / "none.yaml"))


HEAVY = """
import sys
{imports}
names = "torch datasets sklearn matplotlib gradio pyarrow sentence_transformers"
heavy = sys.modules.keys() & set(names.split())
print(sorted(heavy))
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import common_moon2.fields, common_moon2.files, common_moon2.hub, common_moon2.machine, common_moon2.source",
        "import demo_moon2.__main__, publishing_moon2.arguments",
    ],
)
def test_help_imports_nothing_heavy(imports):
    done = subprocess.run(
        [sys.executable, "-c", HEAVY.format(imports=imports)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
