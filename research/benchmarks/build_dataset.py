"""What building a data set costs: rows per second and memory by size and processes, a rerun, and decode-and-augment.

    python -m research.benchmarks.build_dataset --catalogue fashion --rows 1000 10000 40000

Each build runs as a process of its own, on rows drawn from the whole catalogue, so that all sizes have the same share
of large pictures. "Memory" is the peak over the build of the anonymous memory of all its processes together, by the
kernel's count (Linux only): pages of mapped files are given back when others need them. The second table times decode,
subject and views of `expansion.expand` against a plain loop that decodes and makes as many crops with Pillow.
"""

import argparse
import io
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance
from psutil import NoSuchProcess, Process

from mbe2_dataset.catalogue.ingest import IngestOptions, ingest
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.catalogue.tables import LocalTables
from mbe2_dataset.coaugmentation.pictures.classical import ClassicalExtractor
from mbe2_dataset.coaugmentation.pictures.expand import expand
from research.benchmarks.measure import machine, print_table, ratios, spread, time_paired

STAGES = ("read", "plan", "titles", "pictures", "write", "check")


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogue", help="folder of Parquet files of a catalogue; left out: the synthetic one")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000], help="sizes (default: 1000)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--augmented_images", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=200, help="pictures for decode and augment (default: 200)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of decode and augment (default: 3)")
    told = parser.parse_args(argv)
    print(f"{machine()}; {told.catalogue or 'synthetic'}, {told.augmented_images} changed views of each product\n")
    with tempfile.TemporaryDirectory() as folder:
        header = [
            "rows",
            "processes",
            "rows/s",
            "memory, MB",
            *(f"{stage}, s" for stage in STAGES),
            "rerun, times faster",
        ]
        print_table(header, (measured(told, rows, n, Path(folder)) for rows in told.rows for n in told.processes))
        print()
        compare_pictures(told, Path(folder))


def source_options(catalogue: str | None, rows: int, folder: Path) -> list[str]:
    if catalogue is not None:
        return ["--catalogue", str(drawn(catalogue, rows, folder)), "--assign_splits", "true"]
    products = max(1, rows // 2)  # a product has two listings on average
    return ["--catalogue", "synthetic", "--num_products", str(products), "--num_test", str(max(1, products // 10))]


def drawn(catalogue: str, rows: int, folder: Path) -> Path:
    """A catalogue of so many rows, at random but always the same; fewer if it has fewer."""
    place = folder / f"catalogue-{rows}"
    if not place.is_dir():
        table = pyarrow.dataset.dataset(catalogue, format="parquet").to_table()
        chosen = np.random.default_rng(0).permutation(len(table))[:rows]
        place.mkdir()
        pq.write_table(table.take(np.sort(chosen)), place / "products.parquet", row_group_size=500)
    return place


def measured(told: argparse.Namespace, rows: int, processes: int, folder: Path) -> list[str]:
    """One line of the table: a build into an empty folder, and the same again."""
    output = folder / f"{rows}-{processes}"
    command = [sys.executable, "-m", "mbe2_dataset", "build", *source_options(told.catalogue, rows, folder)]
    command += ["--output", str(output), "--num_proc", str(processes), "--augmented_images", str(told.augmented_images)]
    seconds, said, memory = run(command)
    again, _, _ = run(command)
    read = int(re.search(r"rows in ([\d,]+)", said)[1].replace(",", ""))
    stages = dict(re.findall(r"(\w+) ([\d.]+) s", re.search(r"took: (.*)", said)[1]))
    shown = [stages.get(stage, "") for stage in STAGES]
    return [f"{read:,}", str(processes), f"{read / seconds:.0f}", f"{memory:.0f}", *shown, f"{seconds / again:.1f}"]


def run(command: list[str]) -> tuple[float, str, float]:
    """Runs a command: seconds, what it printed, and the peak of the anonymous memory of its processes in MB."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0.0
    done = threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, anonymous_memory(child.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    said, problems = child.communicate()
    done.set()
    thread.join()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {problems[-2000:]}")
    return time.perf_counter() - start, said, peak


def anonymous_memory(pid: int) -> float:
    """Of a process and those that it started, in MB."""
    total = 0
    try:
        for process in (Process(pid), *Process(pid).children(recursive=True)):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            total += int(found[1]) if found else 0
    except (NoSuchProcess, OSError):
        return 0.0
    return total / 1024


def compare_pictures(told: argparse.Namespace, folder: Path):
    if told.catalogue is None:
        from mbe2_dataset.synthetic.catalogue import synthetic_rows

        rows = synthetic_rows(num_products=told.pictures, num_validation=0, num_test=0)[: told.pictures]
    else:
        source = ProductSource(LocalTables(drawn(told.catalogue, told.pictures, folder)))
        rows = ingest(source, folder / "pictures", IngestOptions(assign_splits=True)).rows
    alternatives = {
        "subject and views": lambda: [
            expand(row, ClassicalExtractor(), None, told.augmented_images, 0) for row in rows
        ],
        "plain Pillow loop": lambda: [plain(row, told.augmented_images) for row in rows],
    }
    seconds = time_paired(alternatives, told.repeats)
    best = {name: min(found) for name, found in seconds.items()}
    lines = [[name, f"{len(rows) / taken:.0f}"] for name, taken in best.items()]
    print_table(["one process", "pictures/s"], lines)
    slower = ratios(seconds["subject and views"], seconds["plain Pillow loop"])
    print(f"\nsubject and views take {spread(slower)} times as long as the plain loop")


def plain(row: Row, count: int) -> list[bytes]:
    """Decode, crop, brighten and encode, as a loop without any care would."""
    image = Image.open(io.BytesIO(row.images[0].bytes)).convert("RGB")
    made = []
    for number in range(count):
        inset = 2 + number
        view = image.crop((inset, inset, image.width - inset, image.height - inset)).resize(image.size)
        buffer = io.BytesIO()
        ImageEnhance.Brightness(view).enhance(1.1).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


if __name__ == "__main__":
    main()
