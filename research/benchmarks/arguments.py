"""The benchmarks and what they are told; nothing here imports a model."""

from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common_moon2.cli import UserError, whole
from common_moon2.fields import option

GPU_PARTS = ("agreement", "throughput")
PARTS = ("throughput", "processes", "safeguards")


def size(text: str) -> tuple[int, int]:
    """Return "192x512" as (192, 512)."""
    width, _, inner = text.partition("x")
    if not (width.isdecimal() and inner.isdecimal() and int(width) * int(inner)):
        raise ArgumentTypeError(f"{text} is no size; give width and feed-forward width, such as 192x512")
    return int(width), int(inner)


@dataclass
class ThreeViews:
    """Compare three views of a product: nine forwards, the vision tower once, the image-only view as a prefix.

    Beside each measured ratio stands the one that the count of floating-point operations allows. All three ways must
    give the same vectors before anything is timed. Models are untrained, titles (24 tokens) and images random; bfloat16
    is the type of the weights.
    """

    models: list[str] = option(("tiny", "100m"), "sizes", nargs="+", choices=("tiny", "100m"))
    dtypes: list[str] = option(("float32", "bfloat16"), "types", nargs="+", choices=("float32", "bfloat16"))
    triplets: int | None = option(None, "of a batch; left out: 32 for tiny, 2 for 100m", type=whole(1))
    repeats: int | None = option(None, "rounds; left out: 7 for tiny, 3 for 100m", type=whole(1))
    seed: int = option(0, "of weights, titles and images")


@dataclass
class MoeBlock:
    """Compare the mixture of experts with a dense feed-forward layer that has as many active parameters.

    The block has 4 experts of half the dense width, 2 for each token; float32. "Training" is forward and backward, with
    the gradients of the input and of all weights. Token routing is random but uneven, as an untrained router has it.
    """

    sizes: list[tuple[int, int]] = option(
        ((192, 512), (640, 1920)), "width x dense feed-forward width, such as 192x512", nargs="+", type=size
    )
    tokens: list[int] = option((64, 512, 2048), "of a batch", nargs="+", type=whole(1))
    repeats: int = option(15, "rounds", type=whole(1))
    seed: int = option(0, "of weights and tokens")


@dataclass
class EmbedCatalogue:
    """Compare how fast a mixed catalogue becomes vectors: the evaluation, sentence-transformers, one by one.

    Of the products a fifth have a title only, a fifth an image only, the others both, some two images. Images are JPEG
    files of side x side pixels; 200 different ones, each used several times. All three have the same weights and the
    same batch size; each run is a process of its own, which starts with the model loaded and warm.
    """

    model: str | None = option(None, "a Moon2 folder; left out: an untrained one of the demo's size")
    products: int = option(2000, "of the catalogue", type=whole(1))
    side: int = option(1000, "of an image, in pixels", type=whole(1))
    workers: int = option(2, "of the evaluation: processes that read images and texts", type=whole(0))
    repeats: int = option(3, "rounds", type=whole(1))
    seed: int = option(0, "of weights and products")


@dataclass
class Training:
    """Measure a training step: triplets per second and memory, two processes against one, and the safeguards.

    An untrained model of the demo's size in float32. Every query, positive and negative has a title (24 tokens) and an
    image (96 x 96, already decoded). A step is preparation of the batch (tokens and pixels), forward, backward and
    AdamW, with a learning rate of 0, so that all rounds have one loss. In each round every way takes one step, after a
    warm-up of a few triplets, in a process of its own.

    throughput: "ours" is `Moon2Trainer` with GradCache, the full method on three views; "plain" the same without
    GradCache, passes of 64; "naive" the same losses and the same recomputation on nine forwards, each view of each role
    prepared and embedded by itself; "sentence-transformers" its CachedMultipleNegativesRankingLoss on the multimodal
    view alone. All but "plain" take `--chunk` items at a time. "Inputs" is the memory of the prepared batch, which
    grows with it; "step" is what the peak of forward, backward and AdamW adds to that, by the kernel's count (Linux
    only). Batches above 256 are measured once, without "plain".

    processes: one process with all threads against two (torchrun, gloo) that share them and the same batch.

    safeguards: timed inside the steps of a run. guard: `RefusedSteps` (the norm of all gradients) and the check that
    the loss is finite. record and log: every step's figures, and a log after each step, the dearest setting. sealed
    checkpoint: what staging, hashing and fsync add to the plain save of transformers. check on resuming:
    `newest_complete`, which reads the newest checkpoint and compares hashes.
    """

    triplets: list[int] = option((64, 256, 1024), "in a batch", nargs="+", type=whole(1))
    chunk: int = option(64, "items computed at a time", type=whole(1))
    repeats: int = option(3, "rounds", type=whole(1))
    seed: int = option(0, "of weights and triplets")
    parts: list[str] = option(PARTS, "tables to make", nargs="+", choices=PARTS)


@dataclass
class BuildDataset:
    """Measure a build: rows per second and memory by size and processes, a rerun, and decode-and-augment.

    Each build runs as a process of its own, on rows drawn from the whole catalogue, so that all sizes have the same
    share of large images. "Memory" is the peak over the build of the anonymous memory of all its processes together, by
    the kernel's count (Linux only): pages of mapped files are given back when others need them. The next tables compare
    the check with a loop that only decodes all images of the data set, and decode, subject and views of `expand` with
    a plain loop that decodes and makes as many crops with Pillow.
    """

    catalogue: str | None = option(None, "folder of Parquet files of a catalogue; left out: the synthetic one")
    rows: list[int] = option((1000,), "sizes", nargs="+", type=whole(1))
    processes: list[int] = option((1, 2), "numbers of processes", nargs="+", type=whole(1))
    augmented_images: int = option(2, "of each product", type=whole(0))
    pictures: int = option(200, "images for decode and augment", type=whole(1))
    repeats: int = option(3, "rounds of decode and augment", type=whole(1))


@dataclass
class Search:
    """Compare exact search with faiss's flat index and a plain NumPy loop.

    The vectors are random but have a structure as embeddings do: products in clusters, most of the variance in some
    directions, noise over all. All ways get as many threads; each run is a process of its own that reads the vectors
    from a file, and whose peak memory is measured. The corpus is made ready before the clock starts, which is reported
    beside.
    """

    sizes: list[int] = option((100_000, 636_241), "of the corpus", nargs="+", type=whole(1))
    dimension: int = option(256, "of a vector", type=whole(1))
    queries: int = option(4096, "vectors to search for", type=whole(1))
    slow_queries: int = option(512, "for faiss and NumPy", type=whole(1))
    k: int = option(10, "nearest rows", type=whole(1))
    repeats: int = option(3, "rounds", type=whole(1))
    seed: int = option(0, "of the vectors")
    scratch: Path | None = option(
        None, "where the vectors are written (default: the system's temporary folder)", type=Path
    )


@dataclass
class EmbeddingCost:
    """Measure what a million products cost by the size of their images.

    Every product has a title of ten words and an image, 200 different ones; one process. "None" are titles alone. Of a
    CPU its processor time is counted. The column of the device that the machine lacks stays "not run".
    """

    model: str | None = option(None, "a Moon2 folder; left out: an untrained one of the demo's size")
    sides: list[int] = option((0, 96, 224, 500, 1000), "of an image, in pixels; 0 for none", nargs="+", type=whole(0))
    products: int = option(1000, "to embed", type=whole(64))
    workers: int = option(0, "processes that read images", type=whole(0))
    seed: int = option(0, "of weights and products")


@dataclass
class UpdateCost:
    """Measure what `embed --update` costs: nothing changed, one per cent, another model.

    The products are titles, whose order changes as well. Times have the loading of the model, the reading of the table
    and the writing of all vectors in them. Of a CPU its processor time is counted.
    """

    model: str | None = option(None, "a Moon2 folder; left out: an untrained one of the demo's size")
    products: int = option(100_000, "of the catalogue", type=whole(200))
    seed: int = option(0, "of weights and titles")


@dataclass
class Compression:
    """Measure how many of the exact neighbours smaller vectors find, before and after rescoring.

    The first dimensions, int8 and one bit a dimension, as `python -m evaluation --dims --precisions` scores them.
    Rescored 4: of the 40 that the small vectors find, the 10 best by the full ones.
    """

    corpus: Path | None = option(None, "folder of vectors, or .npy file; left out: made up, as for `search`", type=Path)
    asked: Path | None = option(None, "vectors to ask with; left out: some of the corpus, or made up", type=Path)
    size: int = option(100_000, "made-up vectors", type=whole(100))
    dimension: int = option(256, "of a made-up vector", type=whole(8))
    queries: int = option(1000, "vectors to search for", type=whole(1))
    dims: list[int] = option((256, 128, 64), "first dimensions to keep", nargs="+", type=whole(8))
    precisions: list[str] = option(
        ("float32", "int8", "binary"), "to keep them in", nargs="+", choices=("float32", "int8", "binary")
    )
    factors: list[int] = option((1, 2, 4), "candidates for each result", nargs="+", type=whole(1))
    seed: int = option(0, "of the vectors")
    scratch: Path | None = option(None, "where the vectors are written (default: the temporary folder)", type=Path)

    def check(self) -> None:
        """Refuse queries for vectors that are made up."""
        if self.asked is not None and self.corpus is None:
            raise UserError("--asked only means something with --corpus.")


@dataclass
class Stores:
    """Measure recall and time of stores, without a filter and with filters that 1, 5 and 20 % of the products fit.

    Exact search looks at the products that fit, in memory. The stores are asked query by query, and filter by
    themselves. "+index" builds an approximate index of the vectors.
    """

    sizes: list[int] = option((10_000, 100_000), "of the corpus", nargs="+", type=whole(1000))
    stores: list[str] = option(
        ("lancedb", "lancedb+index", "qdrant"),
        "to measure",
        nargs="+",
        choices=("lancedb", "lancedb+index", "qdrant", "pgvector", "pgvector+index"),
    )
    postgres: str | None = option(None, "address of a PostgreSQL with pgvector; tables moon2_... stay in it")
    dimension: int = option(256, "of a vector", type=whole(8))
    queries: int = option(50, "vectors to search for", type=whole(1))
    seed: int = option(0, "of the vectors")
    scratch: Path | None = option(None, "where the stores are written (default: the temporary folder)", type=Path)

    def check(self) -> None:
        """Refuse PostgreSQL without its address."""
        if self.postgres is None and any(store.startswith("pgvector") for store in self.stores):
            raise UserError("--stores pgvector needs a server: give its address with --postgres.")


@dataclass
class SmallObjects:
    """Measure how often a product is found by a photo of which it covers a given share, alone or among clutter.

    The products are drawn by the built-in catalogue, which knows their masks. Those that are searched fill their photos
    as usual; the photos that ask show them smaller, elsewhere, and from another side.
    """

    model: str = option(help="folder or Hub id of a model that reads images; its code is run")
    model_revision: str | None = option(None, "branch, tag or commit of a --model on the Hub")
    products: int = option(400, "to be searched, and to ask for", type=whole(10))
    shares: list[float] = option((0.4, 0.2, 0.1, 0.05, 0.02), "of the photo", nargs="+", type=float)
    seed: int = option(0, "of products and photos")


@dataclass
class Metrics:
    """Compare ranks and intervals of the evaluation with pytrec_eval and SciPy.

    Ranks and metrics: from vectors to Recall@1/5/10, MRR and nDCG@10 of each query, over all candidates. pytrec_eval is
    given every similarity of a query, as it wants them, 100 queries at a time; both must find the same figures, else
    nothing is timed. Intervals: 95 % percentile bootstrap of five means, 1,000 resamples. pytrec_eval comes with
    pytrec-eval-terrier, which the extra `dev` installs.
    """

    queries: int = option(2000, "number of queries", type=whole(1))
    candidates: list[int] = option((1000, 10_000), "numbers of candidates", nargs="+", type=whole(10))
    dimension: int = option(256, "of a vector", type=whole(1))
    repeats: int = option(3, "rounds", type=whole(1))
    seed: int = option(0, "of the vectors")


@dataclass
class Agreement:
    """Compare the vectors of all runtimes: the largest difference of each one from AutoModel.

    In float32 no figure should be above 1e-5. The code inside the checkpoint is run: use checkpoints that you trust.
    """

    model: str = option(help="folder or Hub id of a Moon2 checkpoint")
    dataset: str = option(help="folder or Hub id of an MBE2.0-format data set")
    products: int = option(32, "products of its corpus", type=whole(1))
    batch_size: int = option(8, "products at a time", type=whole(1))


@dataclass
class Serving:
    """Compare how long an answer takes: transformers, sentence-transformers and ONNX Runtime, the same weights.

    An answer is titles to vectors, tokens included, in one process. The ONNX program takes any number of titles; making
    it is not timed. All ways must give the same vectors before anything is timed. The code inside the checkpoint is
    run: use checkpoints that you trust.
    """

    model: str = option(help="folder or Hub id of a Moon2 checkpoint")
    titles: list[int] = option((1, 32), "in a request", nargs="+", type=whole(1))
    repeats: int = option(30, "rounds", type=whole(1))


@dataclass
class HttpService:
    """Compare requests per second over HTTP: `python -m serving_moon2 serve`, and embedding each request by itself.

    Both run as processes of their own and answer the same clients in turn; they must give the same vectors before
    anything is timed. The processor time of a request (CPU ms) tells more than the clock where the machine has other
    work. The code inside the checkpoint is run: use checkpoints that you trust.
    """

    model: str = option(help="folder or Hub id of a Moon2 checkpoint")
    clients: list[int] = option((1, 16), "at a time", nargs="+", type=whole(1))
    requests: int = option(100, "of a round", type=whole(1))
    repeats: int = option(3, "rounds", type=whole(1))


@dataclass
class Gpu:
    """Show that a GPU computes what the CPU does, and how fast it is.

    agreement: vectors of an untrained model of the demo's size in float32 and bf16 against those of the CPU; its ways
    to run experts and attention; losses of some steps, also with activation checkpointing, with GradCache, and by two
    ranks that share the device. A difference that is too large, or a way that cannot be run, ends with 1.

    throughput: a random model of the shape of Qwen3-VL-2B, dense and with four experts, in bf16 with AdamW and
    activation checkpointing. A step is that of the whole method, of triplets whose items have an image of 256 visual
    tokens and a text of 32 tokens; images are embedded without gradient.
    """

    device: Literal["cuda", "cpu"] = option("cuda", "what is measured")
    parts: list[str] = option(GPU_PARTS, "tables to make", nargs="+", choices=GPU_PARTS)
    smoke: bool = option(False, "all of it tiny, to see that it runs", action="store_true")
    seed: int = option(0, "of weights and inputs")


@dataclass
class Scale:
    """Compute what 6.4 million triplets, a training on them and 100 million products cost.

    Nothing of this was run. Operations and memory are counted on models of the true width with one layer and with two;
    what was measured is read from docs/. The time of a GPU is an assumption: its speed in bf16 by the data sheet, and
    the share of it that is used (MFU).
    """

    model: str = option("Qwen3-VL-2B", "shape, with four experts that are copies, of which a token uses two")
    triplets: float = option(6.4e6, "of the data set (MBE2.0 has so many)")
    products: float = option(1e8, "of the catalogue")
    gpus: int = option(8, "of the training", type=whole(1))
    teraflops: float = option(989.0, "of a GPU in bf16, dense; the default is an H100's, an A100 has 312")
    mfu: float = option(0.4, "share of that which is used")
    batch: int = option(32, "triplets on each GPU", type=whole(1))
    chunk: int = option(16, "items at a time with GradCache", type=whole(1))
    workers: list[int] = option((1, 4, 16, 64), "machines of a Ray cluster", nargs="+", type=whole(1))
    cores: int = option(16, "of each of these machines, the first one among them", type=whole(1))
    build: str = option("two augmented images", "row of the build that was measured, in docs/speed.md")
    seed: int = option(0, "of weights and inputs")
