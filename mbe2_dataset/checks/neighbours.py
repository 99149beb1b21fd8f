"""Leakage that only a model sees: test listings whose vectors are next to those of training products."""

import heapq
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from mbe2_dataset.catalogue.pictures import Picture, decode
from mbe2_dataset.checks.findings import Finding
from mbe2_dataset.checks.rows import EXAMPLES, Part
from mbe2_dataset.schema import ModelError

# Cosine similarity from which two products count as neighbours (our choice).
SIMILARITY = 0.98
BATCH = 64


def check_neighbours(parts: list[Part], name: str) -> list[Finding]:
    """Compare the corpus with the positives of the triplets: by pictures if the model takes them, else by titles.

    The vectors of the corpus are held, those of the training products only as they come.

    Args:
        name: a sentence-transformers model (a Moon2 checkpoint is one); its code is run (`trust_remote_code`).

    Raises:
        ModelError: there is no such model.
    """
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(name, trust_remote_code=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"The model {name} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    kind = "picture" if "image" in model.modalities else "title"

    def vectors(config: str, prefix: str, title: str) -> Iterator[tuple[list[str], np.ndarray]]:
        column = f"{prefix}image" if kind == "picture" else title
        for rows in _batches(parts, config, f"{prefix}id", column):
            values = [decode(Picture(**value)) if kind == "picture" else value for value in rows.values()]
            yield list(rows), model.encode(values, normalize_embeddings=True, show_progress_bar=False)

    corpus = list(vectors("corpus", "", "text"))
    if not corpus:
        return []
    ids = [identifier for names, _ in corpus for identifier in names]
    held = np.concatenate([found for _, found in corpus])
    best, nearest = np.full(len(ids), -1.0), [""] * len(ids)
    for names, found in vectors("triplets", "positive_", "positive_title"):
        similar = held @ found.T
        for place in np.nonzero(similar.max(1) > best)[0]:
            best[place], nearest[place] = similar[place].max(), names[similar[place].argmax()]
    near = [(float(best[place]), ids[place], nearest[place]) for place in np.nonzero(best >= SIMILARITY)[0]]
    if not near:
        return []
    shown = tuple(f"{one} and {other} ({score:.3f})" for score, one, other in heapq.nlargest(EXAMPLES, near))
    message = f"listings have a {kind} next to one in training, says {name} (cosine {SIMILARITY} or more)"
    return [Finding("warning", "leakage", message, "corpus", len(near), shown)]


def _batches(parts: list[Part], config: str, key: str, column: str) -> Iterator[dict[str, object]]:
    """Id -> value of a column, each product once."""
    seen: set[str] = set()
    for part in tqdm([part for part in parts if part.config == config], desc=f"vectors of {config}", unit="group"):
        table = pq.ParquetFile(part.path).read_row_group(part.row_group, columns=[key, column])
        rows = {row[key]: row[column] for row in table.to_pylist() if row[key] not in seen}
        seen.update(rows)
        rows = list(rows.items())
        yield from (dict(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))
