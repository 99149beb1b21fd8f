"""The commands of `python -m demo_moon2` and their arguments; nothing heavy is imported for their --help."""

from dataclasses import dataclass
from pathlib import Path

from common_moon2.cli import whole
from common_moon2.fields import Command, option

MODEL, DATASET = "moon2", "mbe2"  # what `make demo` makes


@dataclass
class ServeArguments:
    """Serve a page that searches a catalogue by text, by image, or by both (the default command).

    The catalogue's vectors come from the cache of `python -m evaluation`; what is not there is embedded first.
    """

    model: str = option(MODEL, help="folder or Hub id of a Moon2 checkpoint; its code is run")
    model_revision: str | None = option(None, help="branch, tag or commit of a --model on the Hub")
    dataset: str = option(DATASET, help="folder or Hub id of an MBE2.0-format data set, whose corpus is searched")
    dataset_revision: str | None = option(None, help="branch, tag or commit of a --dataset on the Hub")
    host: str | None = option("127.0.0.1", help="address to listen at; 0.0.0.0 lets other machines in")
    port: int | None = option(None, help="(default: the first free one from 7860 on)", type=whole(1))
    results: int = option(12, help="products that a search shows", type=whole(1))
    weights: Path | None = option(
        None,
        help="of vectors and words: file or folder that `python -m evaluation` with moon2+bm25 or `weigh` has written "
        "(default: fitted on the data set's validation triplets)",
    )
    batch_size: int = option(64, help="products embedded at a time", type=whole(1))
    workers: int = option(0, help="processes that read large images while the model is at work", type=whole(0))
    cache: Path | None = option(None, help="folder for vectors (default: moon2/embeddings in Hugging Face's cache)")


@dataclass
class SpaceArguments:
    """Put the page on the Hub as a Space.

    Uploads the page and the code that it needs as a Gradio Space, which shows a model and a data set of the Hub. What
    is there already is not uploaded again. Sign in before with `hf auth login`, or set HF_TOKEN.
    """

    repo: str = option(help="user/name of the Space, made if it is not there")
    model: str = option(help="Hub id of a Moon2 checkpoint; the Space runs its code")
    model_revision: str | None = option(None, help="branch, tag or commit; a commit cannot be changed afterwards")
    dataset: str = option(help="Hub id of an MBE2.0-format data set")
    dataset_revision: str | None = option(None, help="branch, tag or commit")
    private: bool | None = option(None, help="make a new Space private", action="store_true")


# The words of these arguments that a Space keeps in space.json, and takes from variables.
SHOWN = ("model", "model_revision", "dataset", "dataset_revision")
COMMANDS = {
    "serve": Command(
        ServeArguments,
        "demo_moon2.app:run",
        (
            "python -m demo_moon2                                              what `make demo` made",
            "python -m demo_moon2 --model moon2-mine --dataset mbe2-mine --port 8000",
            "python -m demo_moon2 --model user/moon2 --model_revision v1 --dataset user/mbe2",
        ),
    ),
    "push": Command(
        SpaceArguments,
        "demo_moon2.push:push",
        ("python -m demo_moon2 push --repo user/space --model user/moon2 --dataset user/mbe2",),
    ),
}
