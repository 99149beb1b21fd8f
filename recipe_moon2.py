"""Fields from a YAML file and the command line: what train_moon2.py and `python -m mbe2_dataset build` read."""

from pathlib import Path

import yaml
from transformers import HfArgumentParser

from commands_moon2 import CommandParser, underscored


class FieldParser(CommandParser, HfArgumentParser):
    """The fields of dataclasses as options, in the style of this project."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        # transformers adds the spelling with dashes, which `CommandParser` understands anyway; --help shows one.
        for action in self._actions:
            action.option_strings = [name for name in action.option_strings if "-" not in name[2:]]

    def read(self, argv: list[str]) -> tuple:
        """A dataclass for each kind of fields; no other file than the one that is named is looked at."""
        return self.parse_args_into_dataclasses(argv, look_for_args_file=False)


def read_fields(parser: FieldParser, argv: list[str], file: str | None) -> frozenset[str]:
    """Makes the fields of a YAML file the parser's defaults, so that the command line wins over the file.

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
