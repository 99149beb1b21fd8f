"""The runtimes beside one another: whether their vectors agree, and how long an answer takes."""

import importlib.util
import statistics
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset, Image
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoProcessor
from transformers.exporters import OnnxConfig, OnnxExporter

from common_moon2.cli import UserError
from evaluation.models.checkpoint import Checkpoint, load_checkpoint
from evaluation.tables.benchmark import load_benchmark
from publishing_moon2.export import Moon2Program, program_inputs
from research.benchmarks import arguments
from research.benchmarks.measure import print_table, ratios, spread, time_paired

# What a product shows in each column of the table.
VIEWS = {"text": ["text"], "image": ["image"], "both": ["text", "image"]}
TITLE = "blue ceramic mug with a wooden handle, 350 ml, number {}"
TOLERANCE = 1e-5


def agreement(options: arguments.Agreement) -> dict:
    """Print the largest difference of each runtime from AutoModel.

    Raises:
        UserError: the model or the data set cannot be used.
    """
    model, batch_size = options.model, options.batch_size
    corpus = load_benchmark(options.dataset).corpus
    rows = corpus.rows("mm")[: options.products]
    if not rows:
        raise UserError(f"The corpus of {options.dataset} has no product with title and image.")
    checkpoint = load_checkpoint(model)
    if not (checkpoint.folder / "modules.json").exists():
        raise UserError(f"{model} has no modules.json: save it again with this version of moon2.")
    shown = corpus.dataset.cast_column("image", Image()).select(rows)
    views = [shown.select_columns(columns) for columns in VIEWS.values()]
    encoder = SentenceTransformer(str(checkpoint.folder), trust_remote_code=True, device=str(checkpoint.model.device))

    def by_encoder(products: list[dict]) -> np.ndarray:
        return encoder.encode(products, batch_size=batch_size, show_progress_bar=False)

    found = {
        "AutoModel, one at a time": [by_auto_model(checkpoint, list(view), 1) for view in views],
        "sentence-transformers": [by_encoder(list(view)) for view in views],
        "sentence-transformers, mixed": np.split(by_encoder([item for view in views for item in view]), len(views)),
    }
    if importlib.util.find_spec("mteb"):
        found["mteb"] = [by_mteb(encoder, view, batch_size) for view in views]
    expected = [by_auto_model(checkpoint, list(view), batch_size) for view in views]
    lines = [
        [name, *(f"{np.abs(one - other).max():.1e}" for one, other in zip(vectors, expected, strict=True))]
        for name, vectors in found.items()
    ]
    title = f"Largest difference from AutoModel in batches of {batch_size}, {len(rows)} products"
    facts = print_table(["", *VIEWS], lines, title)
    if "mteb" not in found:
        print("\nmteb is not installed, so it was not compared: pip install mteb")
    return facts


@torch.inference_mode()
def by_auto_model(checkpoint: Checkpoint, products: list[dict], batch_size: int) -> np.ndarray:
    """Return (N, D) vectors of N products."""
    vectors = []
    for start in range(0, len(products), batch_size):
        inputs = checkpoint.processor(products[start : start + batch_size]).to(checkpoint.model.device)
        vectors.append(checkpoint.model(**inputs).embeddings)
    return torch.cat(vectors).cpu().numpy()


def by_mteb(encoder: SentenceTransformer, view: Dataset, batch_size: int) -> np.ndarray:
    """Return (N, D) vectors by the wrapper that mteb's tasks call."""
    import mteb
    from mteb.models import SentenceTransformerEncoderWrapper

    wrapper = SentenceTransformerEncoderWrapper(encoder)
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
    loader = DataLoader(
        view, batch_size, collate_fn=lambda batch: {key: [row[key] for row in batch] for key in batch[0]}
    )
    # Any task: the wrapper looks up its prompt, and there is none.
    task = mteb.get_task("Fashion200kI2TRetrieval").metadata
    return wrapper.encode(loader, task_metadata=task, hf_split="test", hf_subset="default", show_progress_bar=False)


def serving(options: arguments.Serving) -> dict:
    """Print how long each runtime takes for a request.

    Raises:
        AssertionError: the runtimes give different vectors.
    """
    with tempfile.TemporaryDirectory(prefix="moon2-serving-") as folder:
        found = ways(options.model, folder)
        rows = [row for count in options.titles for row in compare_requests(found, count, options.repeats)]
    title = "Median milliseconds, and how many times as fast as transformers (range of the rounds)"
    return print_table(["", "titles", "ms", "times as fast"], rows, title)


def ways(model: str, folder: str) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """Return what embeds titles, by name; `folder` gets the ONNX program."""
    import onnxruntime

    plain = AutoModel.from_pretrained(model, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=True)
    encoder = SentenceTransformer(model, trust_remote_code=True, device="cpu")

    def features(titles: list[str]) -> dict:
        return processor([{"text": title} for title in titles])

    def by_transformers(titles: list[str]) -> np.ndarray:
        with torch.inference_mode():
            return plain(**features(titles)).embeddings.numpy()

    traced = program_inputs(plain, features(["red mug", "blue striped shirt"]))
    OnnxExporter().export(Moon2Program(plain), traced, OnnxConfig(dynamic=True)).save_pretrained(folder)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", settings)

    def by_onnx(titles: list[str]) -> np.ndarray:
        numbers = {name: value.numpy() for name, value in program_inputs(plain, features(titles)).items()}
        return session.run(["embeddings"], numbers)[0]

    def by_sentence_transformers(titles: list[str]) -> np.ndarray:
        return encoder.encode(titles, batch_size=len(titles))

    return {
        "transformers": by_transformers,
        "sentence-transformers": by_sentence_transformers,
        "ONNX Runtime": by_onnx,
    }


def compare_requests(found: dict[str, Callable], count: int, repeats: int) -> list[list[str]]:
    """Return rows of the table for one size of a request."""
    titles = [TITLE.format(number) for number in range(count)]
    first, *others = (embed(titles) for embed in found.values())
    for vectors in others:
        np.testing.assert_allclose(vectors, first, atol=TOLERANCE, rtol=0)
    seconds = time_paired({name: lambda embed=embed: embed(titles) for name, embed in found.items()}, repeats)
    return [
        [name, str(count), f"{1000 * statistics.median(own):.1f}", spread(ratios(seconds["transformers"], own))]
        for name, own in seconds.items()
    ]
