"""What all commands share: spelling of options, --help, exit codes, errors, --json.

Options are spelt with underscores, as transformers spells them; with dashes they are the same (`--dry-run`). A command
ends with 0 if it did what it was told, with 2 and a sentence on stderr if it could not, with 130 if it was interrupted,
with 141 if nobody reads on (`| head`), and with 1 where the answer itself is a no (`python -m mbe2_dataset check`).
"""

import argparse
import difflib
import functools
import json
import os
import re
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout

REFUSED, INTERRUPTED, UNREAD = 2, 130, 141
# Shorter values of the environment are no secrets, and may be words of a sentence.
SHORTEST_SECRET = 6
# The tokens of the Hub, and the keys of OpenAI and those who took over their form.
TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[\w-]{16,})")
PASSWORD = re.compile(r"(\w://)[^\s/@]+@")


class UserError(ValueError):
    """Something that the user can put right; the message says what is wrong, where, and what to do."""


class UsageError(UserError):
    """Invalid command line. The message gives the reason and points to --help."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help that fills paragraphs, keeps indented ones as they are, and names the defaults worth naming."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super(argparse.RawDescriptionHelpFormatter, self)._fill_text
        parts = text.strip().split("\n\n")
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in parts)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.help is None or "default" in action.help or "left out" in action.help
        nothing = action.default in (None, "", [], argparse.SUPPRESS) or isinstance(action.default, bool)
        if said or nothing or not action.option_strings:
            return action.help
        return f"{action.help} (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser with the style of this project; it raises a `UsageError` where another one would exit.

    Args:
        examples: command lines, which --help shows below the options.
        exit_1: what exit code 1 means, of a command that has it.
    """

    def __init__(self, *args, examples: Sequence[str] = (), exit_1: str | None = None, **options):
        codes = [
            "0 done",
            *([] if exit_1 is None else [f"1 {exit_1}"]),
            "2 could not be done: a sentence on stderr says why",
        ]
        epilog = [options.pop("epilog", None), "exit codes:\n  " + "\n  ".join([*codes, "130 interrupted"])]
        if examples:
            epilog.insert(0, "examples:\n  " + "\n  ".join(examples))
        options = {"formatter_class": HelpFormatter, "epilog": "\n\n".join(filter(None, epilog))} | options
        super().__init__(*args, allow_abbrev=False, **options)

    def add_json(self) -> None:
        """Add --json; see `answer`."""
        self.add_argument("--json", action="store_true", help="print the answer as JSON, and nothing else, on stdout")

    def parse_known_args(self, args=None, namespace=None):
        """Read options in either spelling; refuse what is not known, in subcommands too."""
        found, unknown = super().parse_known_args(underscored(sys.argv[1:] if args is None else args), namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            if not word.startswith("-"):
                self.error(f"{word!r} is one word too many")
            near = difflib.get_close_matches(
                word, [name for action in self._actions for name in action.option_strings], 1
            )
            self.error(f"there is no option {word}" + "".join(f"; did you mean {name}?" for name in near))
        return found, unknown

    def error(self, message: str):
        """Raise the message as one sentence."""
        end = "" if message.endswith((".", "?")) else "."
        raise UsageError(f"{message}{end} See: {self.prog} --help")


def underscored(words: Sequence[str]) -> list[str]:
    """Spell options as the parsers do: --dry-run as --dry_run. Values stay as they are."""
    spelt = []
    for word in words:
        name, equals, value = word.partition("=")
        spelt.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word)
    return spelt


def command_of(
    argv: Sequence[str], prog: str, summaries: Mapping[str, str], default: str | None = None, **options
) -> tuple[str, list[str]]:
    """Return the command that is asked for, and its words; for --help, print the list of commands and exit.

    Args:
        summaries: command -> what --help says of it, so that no command need be imported to list them.
        default: the command if none is named.
        options: of `CommandParser`.

    Raises:
        UsageError: there is no such command.
    """
    parser = CommandParser(prog=prog, **options)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, summary in summaries.items():
        commands.add_parser(name, help=summary.replace("%", "%%"))
    if argv and argv[0] in ("-h", "--help"):
        parser.parse_args(["--help"])
    if not argv or argv[0].startswith("-"):
        if default is None:
            parser.error(f"give a command: {', '.join(summaries)}")
        return default, list(argv)
    if argv[0] not in summaries:
        near = difflib.get_close_matches(argv[0], summaries, 1)
        hint = f"; did you mean {near[0]}?" if near else f", but {', '.join(summaries)}"
        parser.error(f"there is no command {argv[0]!r}{hint}")
    return argv[0], list(argv[1:])


def answer(work: Callable[[], dict], as_json: bool) -> dict:
    """Do the work, which prints its answer for people; as JSON, stdout has the returned facts instead."""
    if not as_json:
        return work()
    with redirect_stdout(sys.stderr):
        facts = work()
    print(json.dumps(facts, ensure_ascii=False, indent=2, default=str))
    return facts


def without_secrets(text: str, *secrets: str | None) -> str:
    """Return an error's text for people and logs; libraries quote keys, tokens and addresses with passwords.

    Args:
        secrets: what else to hide, besides the Hub's token and the keys and tokens of the environment.
    """
    from huggingface_hub import get_token  # it takes a second to import

    told = [value for name, value in os.environ.items() if name.endswith(("_TOKEN", "_KEY"))]
    for secret in (*secrets, get_token(), *told):
        if secret and len(secret) >= SHORTEST_SECRET:
            # An HTTP library quotes a header as a bytes literal, in which characters that it may not have are escaped.
            for form in (secret, secret.encode("unicode_escape").decode("ascii")):
                text = text.replace(form, "<token>")
    return PASSWORD.sub(r"\1", TOKEN.sub("<token>", text))


def exit_codes(*mendable: type[Exception], interrupted: str = "interrupted"):
    """Make the function of a command return its exit code; `None` counts as 0.

    Args:
        mendable: errors that the user can put right, besides `UserError`; others show their traceback.
        interrupted: printed after Ctrl-C.
    """

    def decorate(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def coded(*args, **options) -> int:
            try:
                code = main(*args, **options) or 0
                sys.stdout.flush()
                return code
            except BrokenPipeError:
                if not _is_unread():  # another pipe or connection
                    raise
                return UNREAD
            except PermissionError as error:
                print(f"error: {error.filename or error}: {error.strerror or 'not permitted'}.", file=sys.stderr)
                return REFUSED
            except (UserError, *mendable) as error:
                print(f"error: {without_secrets(' '.join(str(error).split()))}", file=sys.stderr)
                return REFUSED
            except KeyboardInterrupt:
                print(interrupted, file=sys.stderr)
                return INTERRUPTED

        return coded

    return decorate


def _is_unread() -> bool:
    """Tell whether the reader of stdout is gone; if so, discard what is still to be written."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:  # it is no file
        return False
    watch = select.poll()
    watch.register(stdout, select.POLLOUT)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return True


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number of at least `least`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return number


def wholes(least: int) -> Callable[[str], list[int]]:
    """Return the type of an option that is a list of whole numbers of at least `least`, as "256,128"."""
    return lambda text: [whole(least)(part) for part in text.split(",")]
