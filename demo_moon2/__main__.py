"""Serve the page (`python -m demo_moon2`), or put it on the Hub as a Space (`python -m demo_moon2 push`)."""

import argparse
import sys
from pathlib import Path

from common_moon2.cli import CommandParser, exit_codes, whole
from demo_moon2.serve import DATASET, MODEL, Settings, serve
from evaluation.errors import EvaluationError

EPILOG = """examples:
  python -m demo_moon2                                              what `make demo` made
  python -m demo_moon2 --model moon2-mine --dataset mbe2-mine --port 8000
  python -m demo_moon2 --model user/moon2 --model_revision v1 --dataset user/mbe2
  python -m demo_moon2 push --repo user/space --model user/moon2 --dataset user/mbe2

`serve` is meant where no command is given; `serve --help` and `push --help` list the options of each command.
The code inside a checkpoint is run: use checkpoints that you trust.
"""
COMMANDS = ("serve", "push")
# What only the demo needs: module -> package that brings it.
OPTIONAL = {"gradio": "gradio", "starlette": "gradio", "matplotlib": "matplotlib"}


@exit_codes(EvaluationError, interrupted="interrupted; what is embedded is kept")
def main(argv: list[str] | None = None) -> None:
    """Runs one command; returns the exit code, see `common_moon2.cli`."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in (*COMMANDS, "-h", "--help"):
        argv = ["serve", *argv]
    options = _parser().parse_args(argv)
    try:
        options.command(options)
    except ModuleNotFoundError as error:
        missing = str(error.name).split(".")[0]
        if missing not in OPTIONAL:
            raise
        packages = " ".join(dict.fromkeys(OPTIONAL.values()))
        raise EvaluationError(f"{missing} is not installed: pip install {packages}") from error


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m demo_moon2", description=__doc__, epilog=EPILOG)
    commands = parser.add_subparsers(required=True)
    _add_serve(commands)
    _add_push(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve the page (the default)",
        description="Serves a page that searches a catalogue by text, by picture, or by both. The catalogue's vectors "
        "come from the cache of `python -m evaluation`; what is not there is embedded first.",
    )
    parser.add_argument("--model", default=MODEL, help="folder or Hub id of a Moon2 checkpoint; its code is run")
    parser.add_argument("--model_revision", help="branch, tag or commit of a --model on the Hub")
    parser.add_argument(
        "--dataset",
        default=DATASET,
        help="folder or Hub id of an MBE2.0-format data set, whose corpus is searched",
    )
    parser.add_argument("--dataset_revision", help="branch, tag or commit of a --dataset on the Hub")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other machines in",
    )
    parser.add_argument("--port", type=whole(1), help="(default: the first free one from 7860 on)")
    parser.add_argument("--results", type=whole(1), default=12, help="products that a search shows")
    parser.add_argument("--batch_size", type=whole(1), default=64, help="products embedded at a time")
    parser.add_argument(
        "--workers",
        type=whole(0),
        default=0,
        help="processes that read large pictures while the model is at work",
    )
    parser.add_argument(
        "--cache", type=Path, help="folder for vectors (default: moon2/embeddings in Hugging Face's cache)"
    )
    parser.set_defaults(command=_serve)


def _serve(options: argparse.Namespace) -> None:
    serve(Settings(**{name: getattr(options, name) for name in Settings._fields}), options.host, options.port)


def _add_push(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "push",
        help="put the page on the Hub as a Space",
        description="Uploads the page and the code that it needs as a Gradio Space, which shows a model and a data set "
        "of the Hub. What is there already is not uploaded again. Sign in before with `hf auth login`, or set "
        "HF_TOKEN.",
    )
    parser.add_argument("--repo", required=True, help="user/name of the Space, made if it is not there")
    parser.add_argument("--model", required=True, help="Hub id of a Moon2 checkpoint; the Space runs its code")
    parser.add_argument("--model_revision", help="branch, tag or commit; a commit cannot be changed afterwards")
    parser.add_argument("--dataset", required=True, help="Hub id of an MBE2.0-format data set")
    parser.add_argument("--dataset_revision", help="branch, tag or commit")
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.set_defaults(command=_push)


def _push(options: argparse.Namespace) -> None:
    from demo_moon2.push import push_space

    settings = Settings(options.model, options.dataset, options.model_revision, options.dataset_revision)
    print(push_space(options.repo, settings, True if options.private else None).sentence())


if __name__ == "__main__":
    sys.exit(main())
