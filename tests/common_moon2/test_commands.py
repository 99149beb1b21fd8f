"""The style that all commands share: options in either spelling, --help that teaches, exit codes, --json."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import train_moon2
import upcycle_moon2
from common_moon2.cli import CommandParser, UsageError, answer, command_of, exit_codes, underscored, whole
from common_moon2.fields import Command, FieldParser
from demo_moon2 import __main__ as demo
from evaluation import __main__ as evaluation
from mbe2_dataset import __main__ as mbe2
from mbe2_dataset import arguments
from research.benchmarks import __main__ as benchmarks
from research.study import __main__ as study
from serving_moon2 import __main__ as serving
from training_moon2 import arguments as training
from training_moon2 import recipe

ROOT = Path(__file__).parents[2]


def of_table(module, prog: str, table: dict[str, Command]) -> dict:
    """The commands of a room, as in `COMMANDS`."""
    return {
        f"{prog} {name}": (module.main, [name], partial(command.parser, f"{prog} {name}"))
        for name, command in table.items()
    }


# what a user types -> (what runs it, the words that name the command, its parser)
COMMANDS = {
    **of_table(evaluation, "python -m evaluation", evaluation.COMMANDS),
    **of_table(demo, "python -m demo_moon2", demo.COMMANDS),
    **of_table(mbe2, arguments.PROG, arguments.COMMANDS),
    **of_table(study, study.PROG, study.COMMANDS),
    **of_table(benchmarks, benchmarks.PROG, benchmarks.COMMANDS),
    **of_table(serving, serving.PROG, serving.COMMANDS),
    "python -m train_moon2": (train_moon2.main, [], training.build_parser),
    "python -m upcycle_moon2": (upcycle_moon2.main, [], partial(upcycle_moon2.COMMAND.parser, upcycle_moon2.PROG)),
}
PARSERS = {name: parser for name, (_, _, parser) in COMMANDS.items()}
SCRIPTS = {"python train_moon2.py": "python -m train_moon2", "python upcycle_moon2.py": "python -m upcycle_moon2"}


@pytest.fixture(params=COMMANDS)
def command(request) -> str:
    return request.param


def examples_of(parser: argparse.ArgumentParser) -> list[str]:
    part = next(part for part in parser.epilog.split("\n\n") if part.startswith("examples:"))
    return [line.strip() for line in part.splitlines()[1:]]


def test_every_option_says_what_it_is_for_and_has_one_style(command):
    parser = PARSERS[command]()
    for action in parser._actions:
        assert action.help and len(action.help) > 2, action.dest
        assert not any("-" in name.lstrip("-") for name in action.option_strings), action.option_strings
    names = {name for action in parser._actions for name in action.option_strings}
    if command not in ("python -m train_moon2", "python -m research.study one"):
        assert "--json" in names


def test_help_teaches_and_ends_with_0(command, capsys):
    main, words, _ = COMMANDS[command]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and shown.startswith(f"usage: {command} ")
    assert "\nexamples:\n" in shown and "\nexit codes:\n  0 done\n" in shown and "  130 interrupted" in shown
    assert "(default: None)" not in shown and "(default: )" not in shown and shown.count("(default:") < 300


def test_the_examples_in_help_can_be_typed(command, monkeypatch):
    """Each is parsed by the very parser; of fields, what goes with what is looked at, too."""
    monkeypatch.chdir(ROOT)
    parser = PARSERS[command]()
    lines = examples_of(parser)
    assert lines
    for line in lines:
        typed = re.split(r"\s{3,}|>", line)[0].replace("torchrun --nproc_per_node 2", "python")
        typed = next((typed.replace(short, known, 1) for short, known in SCRIPTS.items() if short in typed), typed)
        for prog, default in (("python -m evaluation", "run"), ("python -m demo_moon2", "serve")):
            if command == f"{prog} {default}" and not typed.startswith(command):
                typed = f"{command} {typed.removeprefix(prog)}"
        assert typed.startswith(command), line
        words = shlex.split(typed.removeprefix(command))
        if isinstance(parser, FieldParser) and command != "python -m train_moon2":
            parser.read(words)
        else:
            parser.parse_args(words)


@pytest.mark.parametrize("spelt", ["--no_such_option", "--no-such-option", "--outptu=x"])
def test_an_unknown_option_is_answered_in_a_sentence(command, spelt, capsys):
    main, words, parser = COMMANDS[command]
    required = {
        "python -m train_moon2": ["tiny"],
        "python -m research.study one": ["full", "0"],
        "python -m evaluation push_metric": ["recall_at_k"],
    }
    needed = required.get(command, [])
    for action in parser()._actions:
        if action.required and needed[:1] != [action.dest] and command not in required:
            value = str(action.choices[0]) if action.choices else "x"
            needed += [action.option_strings[0], value] if action.option_strings else [value]
            needed += [value] if action.nargs == 2 else []
    assert main([*words, *needed, spelt]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.strip().startswith("error: there is no option --")
    assert said.err.strip().count("\n") == 0 and f"{command} --help" in said.err


@pytest.mark.parametrize(
    "main, name",
    [
        (evaluation.main, "evaluation"),
        (mbe2.main, "mbe2_dataset"),
        (study.main, "research.study"),
        (demo.main, "demo_moon2"),
    ],
)
def test_a_mistyped_command_is_guessed(main, name, capsys):
    assert main(["pusj" if name != "research.study" else "tabel"]) == 2
    assert f"python -m {name} --help" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and "\nexamples:\n" in capsys.readouterr().out


def test_both_spellings_are_the_same():
    words = ["--dry-run", "--num_proc=2", "--max-steps=-3", "a-b", "-x-y", "--k"]
    assert underscored(words) == ["--dry_run", "--num_proc=2", "--max_steps=-3", "a-b", "-x-y", "--k"]
    parser = CommandParser(prog="p")
    parser.add_argument("--num_proc", type=whole(1))
    assert parser.parse_args(["--num-proc", "3"]).num_proc == parser.parse_args(["--num_proc=3"]).num_proc == 3
    with pytest.raises(UsageError, match="there is no option --num; did you mean --num_proc"):
        parser.parse_args(["--num", "3"])
    with pytest.raises(UsageError, match="'0' is not a whole number of at least 1. See: p --help"):
        parser.parse_args(["--num_proc", "0"])


def test_a_field_on_the_command_line_is_kept_in_either_spelling(tmp_path):
    words = ["tiny", "--output", str(tmp_path), "--max-steps", "7", "--use_cpu"]
    read = recipe.read_recipe(words)
    assert read.training.max_steps == 7 and read.training.output_dir == str(tmp_path)
    assert {"max_steps", "output_dir", "use_cpu"} <= read.given and read.fields()["max_steps"] == 7


def test_recipes_go_by_their_names(capsys):
    assert {"tiny", "fashion", "paper"} <= training.recipes().keys()
    assert not any(name.startswith("accelerate") for name in training.recipes())
    assert train_moon2.main(["tinny"]) == 2
    assert "There is no recipe tinny" in capsys.readouterr().err
    assert train_moon2.main([]) == 2
    assert "The first word is a recipe" in capsys.readouterr().err


class Mendable(ValueError):
    pass


def test_exit_codes(capsys):
    def ending(error=None, code=None):
        @exit_codes(Mendable)
        def main():
            if error is not None:
                raise error
            return code

        return main()

    assert (ending(), ending(code=1)) == (0, 1)
    assert ending(Mendable("the file\nis empty")) == 2 and capsys.readouterr().err == "error: the file is empty\n"
    assert ending(KeyboardInterrupt()) == 130 and capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError())


@pytest.mark.parametrize("lines", [1, 100_000], ids=["in the buffer", "more than the buffer"])
def test_a_reader_that_stops_reading_is_no_error(lines):
    """As in `python -m research.study table | head`."""
    code = (
        "from common_moon2.cli import exit_codes\n"
        f"main = exit_codes()(lambda: [print('a line of the table') for _ in range({lines})] and None)\n"
        "input()\nraise SystemExit(main())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    child.stdin.write(b"\n")
    child.stdin.close()
    said = child.stderr.read()
    assert (child.wait(), said) == (141, b"")


def test_another_broken_pipe_is_an_error():
    @exit_codes()
    def main():
        raise BrokenPipeError("of a server")

    with pytest.raises(BrokenPipeError):
        main()


def test_json_is_all_there_is_on_stdout(capsys):
    def work() -> dict:
        print("for people")
        return {"folder": Path("x"), "share": 0.5, "name": "杯"}

    assert answer(work, as_json=False)["share"] == 0.5
    assert capsys.readouterr() == ("for people\n", "")
    answer(work, as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out) == {"folder": "x", "share": 0.5, "name": "杯"} and said.err == "for people\n"


def test_the_command_that_is_meant():
    known = {"run": "", "embed": ""}
    assert command_of(["embed", "-x"], "p", known) == ("embed", ["-x"])
    assert command_of(["--model", "m"], "p", known, "run") == ("run", ["--model", "m"])
    with pytest.raises(UsageError, match="did you mean embed"):
        command_of(["embde"], "p", known, "run")
    with pytest.raises(UsageError, match="give a command: run, embed"):
        command_of([], "p", known)


def test_a_folder_that_may_not_be_written_is_a_sentence(capsys):
    def refused():
        raise PermissionError(13, "Permission denied", "vectors/fusion.json")

    assert exit_codes()(refused)() == 2
    assert capsys.readouterr().err == "error: vectors/fusion.json: Permission denied.\n"
