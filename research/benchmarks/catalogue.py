"""What a catalogue costs: to build a data set of it, and to embed it."""

import io
import re
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageEnhance
from psutil import NoSuchProcess, Process

from evaluation.models.checkpoint import load_checkpoint
from mbe2_dataset.catalogue.ingest import IngestOptions, ingest
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.catalogue.tables import LocalTables
from mbe2_dataset.checks.check import check_dataset
from mbe2_dataset.coaugmentation.pictures.classical import ClassicalExtractor
from mbe2_dataset.coaugmentation.pictures.expand import expand
from research.benchmarks import arguments
from research.benchmarks.measure import print_table, ratios, run_paired, spread, time_paired
from research.benchmarks.model import model_folder, title

BATCH_SIZE = 64
DIFFERENT_PICTURES = 200
STAGES = ("read", "plan", "titles", "pictures", "write", "check")


def embed_catalogue(options: arguments.EmbedCatalogue) -> dict:
    """Print how fast each way embeds the catalogue.

    Raises:
        UserError: the model cannot be loaded.
        AssertionError: the ways give different vectors.
    """
    with tempfile.TemporaryDirectory() as folder, model_folder(options.model, options.seed) as model:
        load_checkpoint(model)
        write_pictures(Path(folder), options.side, options.seed)
        told = (folder, model, options.products, options.workers, options.seed)
        found = run_paired("research.benchmarks.catalogue:measure", WAYS, options.repeats, *told)
        vectors = {way: np.load(Path(folder) / f"{way}.npy") for way in WAYS}
    for way in WAYS:
        np.testing.assert_allclose(vectors[way], vectors["one by one"], atol=1e-4)
    rows = [
        [
            way,
            spread(ratios(found["sentence-transformers"]["seconds"], figures["seconds"])),
            f"{options.products / float(np.median(figures['seconds'])):,.0f}",
            f"{max(figures['megabytes']):,.0f}",
        ]
        for way, figures in found.items()
    ]
    sizes = f"{options.products:,} products, images of {options.side} x {options.side}"
    header = ["", "times faster than sentence-transformers", "products/s", "peak MB"]
    return print_table(header, rows, f"{sizes}, {options.workers} workers for ours, seed {options.seed}")


def write_pictures(folder: Path, side: int, seed: int):
    """Write smooth colours with some grain, so that a JPEG takes as long to decode as a photo does."""
    random = np.random.default_rng(seed)
    for index in range(DIFFERENT_PICTURES):
        small = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = random.integers(-12, 13, (side, side, 1), dtype=np.int16)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)


def catalogue(folder: Path, count: int, seed: int) -> list[dict]:
    """Return product dicts; images as paths."""
    random = np.random.default_rng(seed)
    products = []
    for _ in range(count):
        kind = random.choice(["text", "image", "both", "several"], p=[0.2, 0.2, 0.55, 0.05])
        paths = [str(folder / f"{random.integers(DIFFERENT_PICTURES)}.jpg") for _ in range(1 + (kind == "several"))]
        text = None if kind == "image" else title(random, words=random.integers(5, 16))
        products.append({"text": text, "image": None if kind == "text" else paths if kind == "several" else paths[0]})
    return products


def embed_ours(folder: str, workers: int):
    """Return a function: products -> vectors (N, D)."""
    from evaluation.models.embed import embed

    checkpoint = load_checkpoint(folder)

    def pictures(product: dict) -> int:
        return 0 if product["image"] is None else 1 if isinstance(product["image"], str) else len(product["image"])

    def run(products: list[dict]) -> np.ndarray:
        # Images count most: products of one kind share a batch.
        lengths = [1000 * pictures(product) + len(product["text"] or "") for product in products]
        model, processor = checkpoint.model, checkpoint.processor
        return embed(model, processor, products, lengths, str, BATCH_SIZE, workers=workers).numpy()

    return run


def embed_sentence_transformers(folder: str, workers: int):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(folder, trust_remote_code=True)

    def usual(product: dict):
        """Return the input as a user of sentence-transformers would write it."""
        given = {name: value for name, value in product.items() if value is not None}
        return given if len(given) > 1 else next(iter(given.values()))

    return lambda products: encoder.encode([usual(product) for product in products], batch_size=BATCH_SIZE)


def embed_one_by_one(folder: str, workers: int):
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

    @torch.inference_mode()
    def run(products: list[dict]) -> np.ndarray:
        return torch.cat([model(**processor([product])).embeddings for product in products]).numpy()

    return run


WAYS = {"ours": embed_ours, "sentence-transformers": embed_sentence_transformers, "one by one": embed_one_by_one}


def measure(way: str, folder: str, model: str, count: int, workers: int, seed: int) -> dict:
    """Return seconds and peak memory of one way, in this process; the vectors go to a file."""
    products = catalogue(Path(folder), count, seed)
    run = WAYS[way](model, workers)
    run(products[: 2 * BATCH_SIZE])
    start = time.perf_counter()
    vectors = run(products)
    seconds = time.perf_counter() - start
    np.save(Path(folder) / f"{way}.npy", vectors)
    # The workers' memory counts too: each one's peak, as if they reached it together and shared nothing.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if way == "ours":
        peak += workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": seconds, "megabytes": peak / 1024}


def build_dataset(options: arguments.BuildDataset) -> dict:
    """Print what builds cost, then what their checks and what decoding and augmenting do beside a plain loop."""
    header = ["rows", "processes", "rows/s", "memory, MB", *(f"{stage}, s" for stage in STAGES), "rerun, times faster"]
    title = f"{options.catalogue or 'synthetic'}, {options.augmented_images} changed views of each product"
    with tempfile.TemporaryDirectory() as folder:
        sizes = [(rows, processes) for rows in options.rows for processes in options.processes]
        builds = print_table(header, (build_twice(options, *size, Path(folder)) for size in sizes), title)
        print()
        checks = {str(rows): compare_check(Path(folder) / f"{rows}-{options.processes[0]}") for rows in options.rows}
        return {"builds": builds, "check": checks, "pictures": compare_pictures(options, Path(folder))}


def source_options(catalogue: str | None, rows: int, folder: Path) -> list[str]:
    if catalogue is not None:
        return ["--catalogue", str(drawn(catalogue, rows, folder)), "--assign_splits", "true"]
    products = max(1, rows // 2)  # a product has two rows on average
    return ["--catalogue", "synthetic", "--num_products", str(products), "--num_test", str(max(1, products // 10))]


def drawn(catalogue: str, rows: int, folder: Path) -> Path:
    """Return a catalogue of so many rows, at random but always the same; fewer if it has fewer."""
    place = folder / f"catalogue-{rows}"
    if not place.is_dir():
        table = pyarrow.dataset.dataset(catalogue, format="parquet").to_table()
        chosen = np.random.default_rng(0).permutation(len(table))[:rows]
        place.mkdir()
        pq.write_table(table.take(np.sort(chosen)), place / "products.parquet", row_group_size=500)
    return place


def build_twice(told: arguments.BuildDataset, rows: int, processes: int, folder: Path) -> list[str]:
    """Return one line of the table: a build into an empty folder, and the same again."""
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
    """Run a command; return seconds, what it printed, and the peak of its processes' anonymous memory in MB."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, peak = None, 0.0
    while said is None:
        with suppress(subprocess.TimeoutExpired):
            said, problems = child.communicate(timeout=0.1)
        peak = max(peak, anonymous_memory(child.pid))
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {problems[-2000:]}")
    return time.perf_counter() - start, said, peak


def anonymous_memory(pid: int) -> float:
    """Return the anonymous memory of a process and those that it started, in MB."""
    total = 0
    with suppress(NoSuchProcess):  # it has just ended
        for process in (Process(pid), *Process(pid).children(recursive=True)):
            memory = process.memory_info()
            total += memory.rss - memory.shared
    return total / 2**20


def compare_pictures(told: arguments.BuildDataset, folder: Path) -> dict:
    """Print how long decoding and augmenting takes, against a loop without any care."""
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
    return compared("views of a product", alternatives, told.repeats, len(rows))


def compared(what: str, alternatives: dict, repeats: int, count: int) -> dict:
    """Print how many of `count` things each alternative does in a second, and how many times as long the first takes as
    the last.
    """
    seconds = time_paired(alternatives, repeats)
    ours, other = seconds[next(iter(seconds))], seconds[next(reversed(seconds))]
    lines = [[name, f"{count / min(taken):,.0f}", spread(ratios(taken, other))] for name, taken in seconds.items()]
    facts = print_table(["one process", "rows/s", f"times as long as the {next(reversed(seconds))}"], lines, what)
    print()
    return facts | {"times_as_long": ratios(ours, other)}


def compare_check(folder: Path) -> dict:
    """Print how long the check of a built data set takes, against a loop that only decodes all of its images."""
    rows = sum(pq.read_metadata(path).num_rows for path in folder.glob("*/*.parquet"))
    alternatives = {"check": lambda: check_dataset(folder), "plain decoding": lambda: decode_all(folder)}
    return compared(f"check of {rows:,} rows", alternatives, 1, rows)


def decode_all(folder: Path) -> None:
    for path in folder.glob("*/*.parquet"):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            for record in file.read_row_group(group).to_pylist():
                for value in record.values():
                    for picture in value if isinstance(value, list) else [value]:
                        if isinstance(picture, dict) and picture.get("bytes"):
                            Image.open(io.BytesIO(picture["bytes"])).convert("RGB")


def plain(row: Row, count: int) -> list[bytes]:
    """Decode, crop, brighten and encode as a loop without any care would."""
    image = Image.open(io.BytesIO(row.images[0].bytes)).convert("RGB")
    made = []
    for number in range(count):
        inset = 2 + number
        view = image.crop((inset, inset, image.width - inset, image.height - inset)).resize(image.size)
        buffer = io.BytesIO()
        ImageEnhance.Brightness(view).enhance(1.1).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made
