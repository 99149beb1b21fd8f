"""The data sets of the study, built once from the real products, outside of the repository; or brought in one file."""

import hashlib
import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from PIL import Image

from common_moon2.files import replace_folder, sha256_of, staged, write_json
from mbe2_dataset.__main__ import main as mbe2_main
from research.study.arguments import PackArguments, StudyError

# An image comes again in many rows: found again by the compression if it looks so many bytes back.
LOOK_BACK = 2**29
AUGMENTED = ("positive_augmented_images", "negative_augmented_images")
# What an image is stored at: what the model sees of it.
MAX_PIXELS = 96 * 128
# The shorter images are thumbnails, which only the train products have: resolution would tell test products apart.
LARGE = 200
# What the data sets of a work folder were built from; and what a build leaves in each, named here because the module
# that writes it needs more packages than a machine with a GPU may have.
SOURCES, FACTS = "sources.json", "build.json"
# Of the transfer set nothing is trained on; triplets need a few rows all the same.
TRANSFER_SPLITS = "0.06,0.04,0.9"


def prepare(work: Path, mixes: set[tuple[int, int, int]], catalogue: Path, transfer: Path | None) -> None:
    """Build what is not there yet: a data set of the fashion products for each query mix, and the transfer set.

    Builds share titles and images through their journal, and one that was interrupted goes on. A second process
    waits for the first.

    Raises:
        StudyError: there is no such catalogue, the folder has data sets of other products, or a build fails.
    """
    for place in filter(None, (catalogue, transfer)):
        if not place.is_dir():
            raise StudyError(f"There is no folder {place}: give the products' folder with --catalogue.")
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "lock"):
        _check_sources(work, catalogue=catalogue, transfer=transfer)
        chosen, staging = work / "large", work / "large.part"
        if not chosen.is_dir():
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            for file in sorted(catalogue.glob("*.parquet")):
                pq.write_table(large_pictures(file), staging / file.name)
            replace_folder(staging, chosen)
        for mix in sorted(mixes, key=lambda mix: mix != (1, 1, 1)):
            _build(chosen, dataset(work, mix), work / "journal", "--query_mix", ",".join(map(str, mix)))
        if transfer is not None:
            options = ("--assign_splits", "true", "--split_shares", TRANSFER_SPLITS)
            options += ("--augmented_images", "0", "--titles", "none")
            _build(transfer, transfer_dataset(work), work / "transfer.journal", *options)


def _check_sources(work: Path, **places: Path | None) -> None:
    """Check that what was built in a work folder is of these products; its data sets and models would be taken again.

    Args:
        places: the folders of products by the option that names them.

    Raises:
        StudyError: it is of other products, or nobody knows of which.
    """
    built = {"catalogue": [*work.glob("large"), *work.glob("fashion-*")], "transfer": [*work.glob("transfer")]}
    file = work / SOURCES
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for kind, place in places.items():
        if place is None:
            continue
        hashes = [(one.relative_to(place).as_posix(), sha256_of(one)) for one in sorted(place.rglob("*.parquet"))]
        digest = hashlib.sha256(repr(hashes).encode()).hexdigest()
        if built[kind] and known.get(kind) != digest:
            raise StudyError(
                f"{built[kind][0]} was not built from the products that are in {place} now: name another --work, or "
                f"with --{kind} those that it was built from."
            )
        known[kind] = digest
    write_json(file, known)


def dataset(work: Path, mix: tuple[int, int, int]) -> Path:
    """Return the folder of the data set with a query mix."""
    return work / f"fashion-{'-'.join(map(str, mix))}"


def transfer_dataset(work: Path) -> Path:
    """Return the folder of the transfer set."""
    return work / "transfer"


def large_pictures(file: Path) -> pa.Table:
    """Return the rows of a catalogue file whose first image has a side of `LARGE` pixels or more.

    Raises:
        StudyError: the file has no images in it.
    """
    table = pq.read_table(file)
    if "images" not in table.column_names:
        raise StudyError(f"{file.name} has no column 'images'; the study takes the form of ../shared/data/fashion.")
    return table.filter(pa.array(_is_large(table.column("images")), pa.bool_()))


def _is_large(pictures: pa.ChunkedArray) -> Iterator[bool]:
    for chunk in pictures.chunks:
        for row in chunk.to_pylist():
            with Image.open(io.BytesIO(row[0]["bytes"])) as picture:
                yield max(picture.size) >= LARGE


def _build(catalogue: Path, output: Path, journal: Path, *options: str) -> None:
    if output.is_dir():  # it appears whole, or not at all
        return
    print(f"building {output.name}", flush=True)
    fixed = ["--max_pixels", str(MAX_PIXELS), "--work", str(journal), "--seed", "0"]
    if "--augmented_images" not in options:
        fixed += ["--augmented_images", "1"]
    if mbe2_main(["build", "--catalogue", str(catalogue), "--output", str(output), *fixed, *options]) != 0:
        raise StudyError(f"{output.name} could not be built; the sentence above says why.")


def pack(options: PackArguments) -> dict:
    """Write the data sets of a work folder into one file.

    The Parquet files in it are not compressed themselves, so that an image which many rows have is stored once.

    Raises:
        StudyError: there are none, or the file would be too large.
    """
    folders = [*sorted(options.work.glob("fashion-*")), *options.work.glob("transfer")]
    if not folders:
        raise StudyError(f"{options.work} has no data sets of the study: python -m research.study run")
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": LOOK_BACK}]
    with staged(options.output) as temporary:
        with lzma.open(temporary, "wb", filters=filters) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            for file in (file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()):
                plain = io.BytesIO(file.read_bytes())
                if file.suffix == ".parquet":
                    plain = io.BytesIO()
                    table = pq.read_table(file)
                    for name in AUGMENTED if options.no_augmented_images else ():
                        if name in table.column_names:
                            place = table.column_names.index(name)
                            table = table.set_column(
                                place, table.field(name), pa.nulls(len(table), table.field(name).type)
                            )
                    pq.write_table(table, plain, compression="none", use_dictionary=False, row_group_size=1000)
                told = tarfile.TarInfo(file.relative_to(options.work).as_posix())
                told.size = plain.getbuffer().nbytes
                plain.seek(0)
                archive.addfile(told, plain)
        size = temporary.stat().st_size
        if size > options.max_megabytes * 2**20:
            raise StudyError(f"The file would have {size / 2**20:.1f} MB, more than --max_megabytes.")
    print(f"{options.output}: {', '.join(folder.name for folder in folders)}; {size / 2**20:.1f} MB")
    return {"output": options.output, "data_sets": [folder.name for folder in folders], "bytes": size}


def has_augmented_images(folder: Path) -> bool:
    """Tell whether any train triplet of a data set has augmented images."""
    files = sorted((folder / "triplets").glob("train-*.parquet"))
    return any(
        column.null_count < len(column) for file in files for column in pq.read_table(file, columns=[*AUGMENTED])
    )


def unpack(file: Path, work: Path) -> list[str]:
    """Put the data sets of a packed file into a work folder, those that it lacks; return the names of all.

    Raises:
        StudyError: the file cannot be read, or the folder has another data set of the same name.
    """
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "lock"):
        staging = work / "unpacked.part"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            with tarfile.open(file, "r:xz") as archive:
                archive.extractall(staging, filter="data")
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
            raise StudyError(f"--packed {file} is no file of `pack`, or not all of it: {error}") from error
        found = sorted(staging.iterdir())
        for folder in found:
            there = work / folder.name
            if there.is_dir() and (there / FACTS).read_bytes() != (folder / FACTS).read_bytes():
                raise StudyError(f"{there} is another data set than that of --packed {file}: name another --work.")
            if not there.is_dir():
                replace_folder(folder, there)
        shutil.rmtree(staging)
    return [folder.name for folder in found]
