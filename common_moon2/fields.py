"""Commands as dataclasses: a field is an option, the class is what the command's function gets.

`train_moon2.py` and `python -m mbe2_dataset build` also read their fields from a YAML file.
"""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from inspect import get_annotations, getdoc
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, NamedTuple, get_type_hints

import yaml
from transformers import HfArgumentParser

from common_moon2.cli import CommandParser, UserError, answer, command_of, underscored

# What may follow a switch, as in `--overwrite true`; see `transformers.hf_argparser.string_to_bool`.
SWITCH_VALUES = ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")


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

    def _add_dataclass_arguments(self, dtype: type) -> None:
        """Add the fields; those of a base class with `_argument_group_name` come in a group of this name."""
        hints, groups = get_type_hints(dtype), {}
        for field in dataclasses.fields(dtype):
            if not field.init:
                continue
            owner = next(base for base in dtype.__mro__ if field.name in get_annotations(base))
            title = getattr(owner, "_argument_group_name", None)
            if title is not None and title not in groups:
                groups[title] = self.add_argument_group(title)
            field.type = hints[field.name]
            self._parse_dataclass_field(groups.get(title, self), field)

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

    def parse_known_args(self, args=None, namespace=None):
        """Read a switch that a word without a name follows (`--private recall_at_k`) as one that is on."""
        words = underscored(sys.argv[1:] if args is None else args)
        switches = {
            name
            for action in self._actions
            if action.nargs == "?" and action.const is True
            for name in action.option_strings
        }
        told = [
            f"{word}=true" if word in switches and following.lower() not in SWITCH_VALUES else word
            for word, following in zip(words, [*words, ""][1:], strict=True)
        ]
        return super().parse_known_args(told, namespace)

    def read(self, argv: list[str]) -> tuple:
        """Return an instance of each dataclass; no other file than the one that is named is looked at."""
        return self.parse_args_into_dataclasses(argv, look_for_args_file=False)


class Command(NamedTuple):
    """A command of a room.

    Attributes:
        arguments: its dataclass, or "module:class" where another room has it; the first paragraph of its docstring is
            what the list of commands says of it. Its method `check`, if it has one, raises a UserError before the
            function is imported.
        function: "module:function", imported only when the command is run; it gets the dataclass and returns facts.
        examples: command lines for --help.
        exit_1: what exit code 1 means; the function's facts then have "failed".
        usage: for --help; left out: made from the options.
        reads_file: the first word may be a YAML file with fields.
        moved: options of earlier versions, and what says the same now; they are refused with it.
    """

    arguments: type | str
    function: str
    examples: Sequence[str] = ()
    exit_1: str | None = None
    usage: str | None = None
    reads_file: bool = False
    moved: Mapping[str, str] = {}

    def dataclass(self) -> type:
        """Return the dataclass itself."""
        return resolve_name(self.arguments) if isinstance(self.arguments, str) else self.arguments

    def parser(self, prog: str) -> FieldParser:
        """Return the parser of the command line after `prog`; every command takes --json."""
        options = {"examples": self.examples, "exit_1": self.exit_1, "usage": self.usage}
        parser = FieldParser(self.dataclass(), prog=prog, description=getdoc(self.dataclass()), **options)
        parser.add_json()
        return parser

    def read(self, argv: Sequence[str], prog: str) -> tuple[Any, bool]:
        """Read its command line; return the dataclass, checked, and whether the answer is wanted as JSON."""
        parser, words = self.parser(prog), list(argv)
        refuse_moved(self.moved, (word.partition("=")[0][2:] for word in underscored(words) if word.startswith("--")))
        if self.reads_file:
            file = words.pop(0) if words and not words[0].startswith("-") else None
            read_fields(parser, words, file, self.moved)
        arguments, told = parser.read(words)
        if hasattr(arguments, "check"):
            arguments.check()
        return arguments, told.json

    def run(self, argv: Sequence[str], prog: str) -> dict:
        """Read its command line and run it; return its facts."""
        arguments, as_json = self.read(argv, prog)
        return answer(lambda: resolve_name(self.function)(arguments), as_json)


def run_command(
    argv: Sequence[str],
    prog: str,
    commands: Mapping[str, Command],
    default: str | None = None,
    extras: Mapping[str, str] | None = None,
    **options,
) -> int:
    """Read a command line and run its command.

    Args:
        default: the command if none is named.
        extras: module that need not be installed -> the extra of this project that brings it.
        options: of `CommandParser`, for the list of commands.

    Returns:
        1 if the facts have "failed", otherwise 0.

    Raises:
        UserError: the command line is invalid, or the command cannot do what it was told.
    """
    summaries = {name: getdoc(command.dataclass()).split("\n\n")[0] for name, command in commands.items()}
    name, words = command_of(argv, prog, summaries, default, **options)
    try:
        facts = commands[name].run(words, f"{prog} {name}")
    except ModuleNotFoundError as error:
        missing = str(error.name).split(".")[0]
        if missing not in (extras or {}):
            raise
        raise UserError(f"{missing} is not installed: pip install 'moon2[{extras[missing]}]'.") from error
    return int(bool(facts.get("failed")))


def refuse_moved(moved: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise a UserError if one of the options is spelt otherwise now."""
    for name in names:
        if name in moved:
            raise UserError(f"There is no option --{name} any more; say it with {moved[name]}.")


def read_fields(
    parser: FieldParser, argv: list[str], file: str | None, moved: Mapping[str, str] = MappingProxyType({})
) -> frozenset[str]:
    """Make the fields of a YAML file the parser's defaults, so that the command line wins over the file.

    Args:
        file: its path; None: there is none.
        moved: fields of earlier versions, see `Command`.

    Returns:
        The names of the fields in the file or on the command line.

    Raises:
        UserError: it cannot be read, or has fields that nobody knows; the message names them.
    """
    field_of = {name: action.dest for action in parser._actions for name in action.option_strings}
    words = {word.partition("=")[0] for word in underscored(argv)}
    given = {field_of[word] for word in words & field_of.keys()}
    if file is None:
        return frozenset(given)
    try:
        fields = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The recipe {file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The recipe {file} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(fields, dict):
        raise UserError(f"The recipe {file} is not a list of 'field: value' lines.")
    refuse_moved(moved, map(str, fields))
    unknown = sorted(map(str, set(fields) - {action.dest for action in parser._actions}))
    if unknown:
        raise UserError(f"The recipe {file} has unknown fields: {', '.join(unknown)}.")
    for action in parser._actions:  # argparse looks at the choices of the command line only
        value = fields.get(action.dest)
        if action.choices and value is not None and value not in list(action.choices):
            choices = ", ".join(map(str, action.choices))
            raise UserError(f"The recipe {file} has {action.dest}: {value!r}; it may be: {choices}.")
    parser.set_defaults(**fields)
    return frozenset(given | set(fields))
