"""What the commands of the study are told; nothing here imports a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common_moon2.cli import UserError, whole, wholes
from common_moon2.fields import option, positional

HERE = Path(__file__).parent
WORK, SHARED = HERE.parents[2] / "moon2-study", HERE.parents[2] / "shared" / "data"
RESULTS = HERE / "results.parquet"
GALLERIES = EASY_SET, HARD_SET, TRANSFER_SET = ("easy", "hard", "transfer")


class StudyError(UserError):
    """Something that the user of the study can put right; the message says what."""


@dataclass
class Results:
    """Where the figures are."""

    results: Path = option(RESULTS, "Parquet file of the figures", type=Path)


@dataclass
class Place(Results):
    """Where runs work, and for how long; `results` gets a row for each run."""

    work: Path = option(WORK, "folder of data sets and models", type=Path)
    max_steps: int | None = option(None, "replaces that of the recipe, to try the study out", type=whole(1))
    times: int = option(1, "train so many times the steps", type=whole(1))
    device: Literal["cpu", "cuda"] = option("cpu", "cuda: in bf16, and images are decoded once into memory")

    no_augmented_images: bool = option(False, "no product shows an augmented image", action="store_true")

    def check(self) -> None:
        """Check that a run of another kind does not become a result of the study."""
        told = {"--max_steps": self.max_steps is not None, "--times": self.times > 1, "--device": self.device != "cpu"}
        told |= {"--no_augmented_images": self.no_augmented_images}
        other = [name for name, given in told.items() if given]
        if other and self.results.resolve() == RESULTS:
            raise StudyError(f"{other[0]} makes no results of the study: name another file with --results, too.")


@dataclass
class RunArguments(Place):
    """Do what is missing, most important first.

    A run may be killed at any time; the same command goes on. With OMP_NUM_THREADS=1 two of them may run side by side.
    """

    only: list[str] | None = option(None, "these variants only", nargs="+", metavar="NAME")
    tiers: list[int] | None = option(None, "variants of these tiers only, as 1,2", type=wholes(0))
    seeds: list[int] = option((0, 1, 2), "as 0,1,2 (the default)", type=wholes(0))
    minutes: float | None = option(None, "stop after so many, with a checkpoint")
    processes: int = option(1, "runs side by side", type=whole(1))
    packed: Path | None = option(None, "file of `pack`, instead of the folders of products", type=Path)
    catalogue: Path = option(SHARED / "fashion", "folder of the fashion products", type=Path)
    transfer: Path | None = option(None, "folder of the transfer products (default: luma beside it)", type=Path)

    def check(self) -> None:
        """Check as `Place`, and that the products are named once."""
        super().check()
        if self.packed is not None and (self.transfer is not None or self.catalogue != SHARED / "fashion"):
            raise StudyError("--packed has all data sets in it: leave out --catalogue and --transfer.")


@dataclass
class OneArguments(Place):
    """Do a single run in this process, with data sets that `run` has built."""

    name: str = positional("of a variant")
    seed: int = positional("of the run", type=whole(0))
    no_transfer: bool = option(False, "do not score the transfer set", action="store_true")


@dataclass
class PackArguments:
    """Pack the data sets that `run` has built into one file, to take the study to another machine."""

    output: Path = option(help="file to write, as study.tar.xz", type=Path)
    work: Path = option(WORK, "folder of data sets", type=Path)
    no_augmented_images: bool = option(
        False, "leave out augmented images, a third of the file; `run` then needs the same option", action="store_true"
    )
    max_megabytes: int = option(50, "a larger file is an error", type=whole(1))


@dataclass
class ListArguments(Results):
    """Say what there is and what is done."""


@dataclass
class TableArguments(Results):
    """Print results as Markdown, in the layout of the paper's Table 4."""

    output: Path | None = option(None, "file to write; left out: it is printed", type=Path)
    tiers: list[int] | None = option(None, "variants of these tiers only, as 1,2", type=wholes(0))
    galleries: list[str] | None = option(None, "these only", nargs="+", choices=GALLERIES)
    seeds: list[int] | None = option(None, "runs with these seeds only, as 0", type=wholes(0))


@dataclass
class PlotArguments(Results):
    """Draw text-query against image-query recall, as the paper's Fig. 2."""

    output: Path = option(help="PNG file to write", type=Path)
