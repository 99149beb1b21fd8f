"""How fast a mixed catalogue becomes vectors: `evaluation.models.embed` against sentence-transformers, and one by one.

    python -m research.benchmarks.embed_catalogue [--model moon2] [--products 2000] [--side 1000] [--workers 2]

Of the products a fifth have a title only, a fifth a picture only, the others both, some two pictures. Pictures are JPEG
files of side x side pixels, made for the occasion; 200 different ones, each used several times. All three have the same
weights and the same batch size; each run is a process of its own, which starts with the model loaded and warm.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common_moon2.cli import whole
from evaluation.errors import EvaluationError
from evaluation.models.checkpoint import load_checkpoint
from research.benchmarks.measure import machine, print_table, ratios, spread
from research.benchmarks.three_views import build, title

BATCH_SIZE = 64
DIFFERENT_PICTURES = 200


def write_pictures(folder: Path, side: int, seed: int):
    """Smooth colours with some grain, so that a JPEG takes as long to decode as a photo does."""
    random = np.random.default_rng(seed)
    for index in range(DIFFERENT_PICTURES):
        small = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = random.integers(-12, 13, (side, side, 1), dtype=np.int16)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)


def catalogue(folder: Path, count: int, seed: int) -> list[dict]:
    """Product dicts; pictures as paths."""
    random = np.random.default_rng(seed)
    products = []
    for _ in range(count):
        kind = random.choice(["text", "image", "both", "several"], p=[0.2, 0.2, 0.55, 0.05])
        paths = [str(folder / f"{random.integers(DIFFERENT_PICTURES)}.jpg") for _ in range(1 + (kind == "several"))]
        text = None if kind == "image" else title(random, words=random.integers(5, 16))
        products.append({"text": text, "image": None if kind == "text" else paths if kind == "several" else paths[0]})
    return products


def embed_ours(folder: str, products: list[dict], workers: int):
    """Returns a function: products -> vectors (N, D)."""
    from evaluation.models.embed import embed

    checkpoint = load_checkpoint(folder)

    def pictures(product: dict) -> int:
        return 0 if product["image"] is None else 1 if isinstance(product["image"], str) else len(product["image"])

    def run(products: list[dict]) -> np.ndarray:
        # Pictures count most: products of one kind share a batch.
        lengths = [1000 * pictures(product) + len(product["text"] or "") for product in products]
        model, processor = checkpoint.model, checkpoint.processor
        return embed(model, processor, products, lengths, str, BATCH_SIZE, workers=workers).numpy()

    return run


def embed_sentence_transformers(folder: str, products: list[dict], workers: int):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(folder, trust_remote_code=True)

    def usual(product: dict):
        """The input as a user of sentence-transformers would write it."""
        given = {name: value for name, value in product.items() if value is not None}
        return given if len(given) > 1 else next(iter(given.values()))

    return lambda products: encoder.encode([usual(product) for product in products], batch_size=BATCH_SIZE)


def embed_one_by_one(folder: str, products: list[dict], workers: int):
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

    @torch.inference_mode()
    def run(products: list[dict]) -> np.ndarray:
        return torch.cat([model(**processor([product])).embeddings for product in products]).numpy()

    return run


WAYS = {"ours": embed_ours, "sentence-transformers": embed_sentence_transformers, "one by one": embed_one_by_one}


def measure(options: argparse.Namespace, way: str) -> dict:
    """Seconds and peak memory of one way, measured in this process; the vectors go to a file."""
    products = catalogue(Path(options.pictures), options.products, options.seed)
    run = WAYS[way](options.model, products, options.workers)
    run(products[: 2 * BATCH_SIZE])
    start = time.perf_counter()
    vectors = run(products)
    seconds = time.perf_counter() - start
    np.save(Path(options.pictures) / f"{way}.npy", vectors)
    # The workers' memory counts too: each one's peak, as if they reached it together and shared nothing.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if way == "ours":
        peak += options.workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": seconds, "megabytes": peak / 1024}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Moon2 folder; left out: an untrained one of the demo's size")
    parser.add_argument("--products", type=whole(1), default=2000)
    parser.add_argument("--side", type=whole(1), default=1000, help="of a picture, in pixels")
    parser.add_argument("--workers", type=whole(0), default=2, help="of ours: processes that read pictures and texts")
    parser.add_argument("--repeats", type=whole(1), default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--pictures", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.way:
        print(json.dumps(measure(options, options.way)))
        return 0
    try:
        if options.model is not None:
            load_checkpoint(options.model)
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            options.model = str(Path(folder) / "model")
            model, processor = build("tiny", options.seed)
            model.save_pretrained(options.model)
            processor.save_pretrained(options.model)
        write_pictures(Path(folder), options.side, options.seed)
        names = ("model", "products", "side", "workers", "seed")
        words = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
        for _ in range(options.repeats):
            for way in WAYS:
                command = [sys.executable, "-m", "research.benchmarks.embed_catalogue", *words, "--pictures", folder]
                root = Path(__file__).parents[2]
                run = subprocess.run([*command, "--way", way], cwd=root, stdout=subprocess.PIPE, check=True, text=True)
                found[way].append(json.loads(run.stdout.splitlines()[-1]))
        vectors = {way: np.load(Path(folder) / f"{way}.npy") for way in WAYS}
    for way in WAYS:
        np.testing.assert_allclose(vectors[way], vectors["one by one"], atol=1e-4)
    seconds = {way: [run["seconds"] for run in runs] for way, runs in found.items()}
    rows = [
        [
            way,
            spread(ratios(seconds["sentence-transformers"], seconds[way])),
            f"{options.products / float(np.median(seconds[way])):,.0f}",
            f"{max(run['megabytes'] for run in found[way]):,.0f}",
        ]
        for way in WAYS
    ]
    print(
        f"{options.products:,} products, pictures of {options.side} x {options.side}, {options.workers} workers for "
        f"ours; {machine()}, seed {options.seed}\n"
    )
    print_table(["", "times faster than sentence-transformers", "products/s", "peak MB"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
