"""Commands as dataclasses: a field is an option, the class is what the command's function gets.

`train_moon2.py` and `python -m mbe2_dataset build` also read their fields from a YAML file.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from transformers import HfArgumentParser

from common_moon2.cli import CommandParser, answer, command_of, underscored


def option(default: Any = dataclasses.MISSING, help: str = "", **metadata) -> Any:
    """Return the field of an option; without a default it must be given.

    Args:
        metadata: further arguments of `add_argument`; `type`, `nargs` or `action` replace what the annotation says.
    """
    factory = {"default_factory": default} if isinstance(default, type) and default is not None else {}
    if default is dataclasses.MISSING or factory:
        return dataclasses.field(**factory, kw_only=True, metadata={"help": help, **metadata})
    return dataclasses.field(default=default, kw_only=True, metadata={"help": help, **metadata})


def positional(help: str, **metadata) -> Any:
    """Return the field of a word without a name, such as the folder of `check FOLDER`."""
    return dataclasses.field(kw_only=True, metadata={"help": help, "positional": True, **metadata})


class FieldParser(CommandParser, HfArgumentParser):
    """The fields of dataclasses as options, in the style of this project."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        # transformers adds the spelling with dashes, which `CommandParser` understands anyway; --help shows one.
        for action in self._actions:
            action.option_strings = [name for name in action.option_strings if "-" not in name[2:]]

    @staticmethod
    def _parse_dataclass_field(parser, field: dataclasses.Field):
        told = dict(field.metadata)
        if not told.keys() & {"positional", "type", "nargs", "action"}:
            return HfArgumentParser._parse_dataclass_field(parser, field)
        if told.pop("positional", False):
            told.setdefault("type", field.type)
            return parser.add_argument(field.name, **told)
        if field.default is not dataclasses.MISSING:
            told["default"] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            told["default"] = field.default_factory()
        else:
            told["required"] = True
        return parser.add_argument(f"--{field.name}", **told)

    def read(self, argv: list[str]) -> tuple:
        """Return an instance of each dataclass; no other file than the one that is named is looked at."""
        return self.parse_args_into_dataclasses(argv, look_for_args_file=False)


class Command(NamedTuple):
    """A command of a room.

    Attributes:
        arguments: its dataclass; the first sentence of its docstring is what the list of commands says of it.
        function: "module:function", imported only when the command is run; it gets the dataclass and returns facts.
        examples: command lines for --help.
        exit_1: what exit code 1 means; the function's facts then have "failed".
    """

    arguments: type
    function: str
    examples: Sequence[str] = ()
    exit_1: str | None = None


def run_command(
    argv: Sequence[str], prog: str, commands: Mapping[str, Command], default: str | None = None, **options
) -> int:
    """Read a command line and run its command; every command takes --json.

    Args:
        default: the command if none is named.
        options: of `CommandParser`, for the list of commands.

    Returns:
        1 if the facts have "failed", otherwise 0.

    Raises:
        UserError: the command line is invalid, or the command cannot do what it was told.
    """
    summaries = {name: command.arguments.__doc__.split("\n\n")[0] for name, command in commands.items()}
    name, words = command_of(argv, prog, summaries, default, **options)
    command = commands[name]
    parser = FieldParser(
        command.arguments,
        prog=f"{prog} {name}",
        description=inspect.getdoc(command.arguments),
        examples=command.examples,
        exit_1=command.exit_1,
    )
    parser.add_json()
    arguments, told = parser.read(words)
    module, _, function = command.function.partition(":")
    facts = answer(lambda: getattr(import_module(module), function)(arguments), told.json)
    return int(bool(facts.get("failed")))


def read_fields(parser: FieldParser, argv: list[str], file: str | None) -> frozenset[str]:
    """Make the fields of a YAML file the parser's defaults, so that the command line wins over the file.

    Args:
        file: its path; None: there is none.

    Returns:
        The names of the fields in the file or on the command line.

    Raises:
        ValueError: it cannot be read, or has fields that nobody knows; the message names them.
    """
    field_of = {name: action.dest for action in parser._actions for name in action.option_strings}
    words = {word.partition("=")[0] for word in underscored(argv)}
    given = {field_of[word] for word in words & field_of.keys()}
    if file is None:
        return frozenset(given)
    try:
        fields = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The recipe {file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The recipe {file} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"The recipe {file} is not a list of 'field: value' lines.")
    unknown = sorted(map(str, set(fields) - {action.dest for action in parser._actions}))
    if unknown:
        raise ValueError(f"The recipe {file} has unknown fields: {', '.join(unknown)}.")
    parser.set_defaults(**fields)
    return frozenset(given | set(fields))
