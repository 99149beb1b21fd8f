"""Do all runtimes give the same vectors? Prints the largest difference of each one from AutoModel.

    python -m research.benchmarks.agreement --model moon2 --dataset mbe2

In float32 no figure should be above 1e-5. The code inside the checkpoint is run: use checkpoints that you trust.
"""

import argparse
import importlib.util
import sys

import numpy as np
import torch
from datasets import Dataset, Image
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

from common_moon2.cli import whole
from evaluation.errors import EvaluationError
from evaluation.models.checkpoint import Checkpoint, load_checkpoint
from evaluation.tables.benchmark import load_benchmark

# What a product shows in each column of the table.
VIEWS = {"text": ["text"], "picture": ["image"], "both": ["text", "image"]}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 with a sentence on stderr if the user can put it right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a Moon2 checkpoint")
    parser.add_argument("--dataset", required=True, help="folder or Hub id of an MBE2.0-format data set")
    parser.add_argument("--products", type=whole(1), default=32, help="products of its corpus (default: %(default)s)")
    parser.add_argument("--batch_size", type=whole(1), default=8, help="items at a time (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        compare(options.model, options.dataset, options.products, options.batch_size)
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(model: str, dataset: str, products: int, batch_size: int) -> None:
    """Prints the table.

    Raises:
        EvaluationError: the model or the data set cannot be used.
    """
    corpus = load_benchmark(dataset).corpus
    rows = corpus.rows("mm")[:products]
    if not rows:
        raise EvaluationError(f"The corpus of {dataset} has no product with title and picture.")
    checkpoint = load_checkpoint(model)
    if not (checkpoint.folder / "modules.json").exists():
        raise EvaluationError(f"{model} has no modules.json: save it again with this version of moon2.")
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

    print(f"Largest difference from AutoModel in batches of {batch_size}; {len(rows)} products\n")
    print(f"{'':30}" + "".join(f"{name:>10}" for name in VIEWS))
    for runtime, vectors in found.items():
        differences = [np.abs(one - other).max() for one, other in zip(vectors, expected, strict=True)]
        print(f"{runtime:30}" + "".join(f"{difference:10.1e}" for difference in differences))
    if "mteb" not in found:
        print("\nmteb is not installed, so it was not compared: pip install mteb")


@torch.inference_mode()
def by_auto_model(checkpoint: Checkpoint, products: list[dict], batch_size: int) -> np.ndarray:
    """(N, D) vectors of N products."""
    vectors = []
    for start in range(0, len(products), batch_size):
        inputs = checkpoint.processor(products[start : start + batch_size]).to(checkpoint.model.device)
        vectors.append(checkpoint.model(**inputs).embeddings)
    return torch.cat(vectors).cpu().numpy()


def by_mteb(encoder: SentenceTransformer, view: Dataset, batch_size: int) -> np.ndarray:
    """(N, D) vectors, by the wrapper that mteb's tasks call."""
    import mteb
    from mteb.models import SentenceTransformerEncoderWrapper

    wrapper = SentenceTransformerEncoderWrapper(encoder)
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
    loader = DataLoader(
        view, batch_size, collate_fn=lambda batch: {key: [row[key] for row in batch] for key in batch[0]}
    )
    task = mteb.get_task(
        "Fashion200kI2TRetrieval"
    ).metadata  # any task: the wrapper looks up its prompt, and there is none
    return wrapper.encode(loader, task_metadata=task, hf_split="test", hf_subset="default", show_progress_bar=False)


if __name__ == "__main__":
    sys.exit(main())
