"""The columns of a catalogue and of the published data set, as `datasets.Features`."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from datasets import Features, Image, List, Value

ATTRIBUTES = List({"name": Value("string"), "value": Value("string")})

# What a catalogue must have ...
CATALOGUE = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "description": Value("string"),
        "brand": Value("string"),
        "category": List(Value("string")),
        "attributes": ATTRIBUTES,
        "price": Value("float32"),
        "images": List(Image()),
        "split": Value("string"),
        "group_id": Value("string"),
    }
)
# ... and what it may have besides: the product of which rows are variants, known faults of a row, and the words that a
# title in another language uses for the labels in brand, category and attributes.
OPTIONAL = Features(
    {
        "parent_id": Value("string"),
        "noise": List(Value("string")),
        "translations": List({"label": Value("string"), "text": Value("string")}),
    }
)

PROVENANCE = {
    "field": Value("string"),
    "source_id": Value("string"),
    "operation": Value("string"),
    "parameters": Value("string"),
    "model": Value("string"),
    "revision": Value("string"),
    "prompt_version": Value("string"),
    "seed": Value("int64"),
    "consistency_score": Value("float32"),
    "kept": Value("bool"),
    "reason": Value("string"),
}

_PRODUCT = {
    "id": Value("string"),
    "title": Value("string"),
    "enriched_title": Value("string"),
    "image": Image(),
    "augmented_images": List(Image()),
    "group_id": Value("string"),
}

TRIPLETS = Features(
    {
        "query_id": Value("string"),
        "query_text": Value("string"),
        "query_image": Image(),
        "query_modality": Value("string"),
        "query_group_id": Value("string"),
        **{f"positive_{name}": feature for name, feature in _PRODUCT.items()},
        "positive_category": List(Value("string")),
        **{f"negative_{name}": feature for name, feature in _PRODUCT.items()},
        "negative_kind": Value("string"),
        "provenance": List(PROVENANCE),
        "noise": List(Value("string")),
    }
)

CORPUS = Features(
    {
        "id": Value("string"),
        "text": Value("string"),
        "image": Image(),
        "category": List(Value("string")),
        "attributes": ATTRIBUTES,
        "brand": Value("string"),
        "group_id": Value("string"),
    }
)

QUERIES = Features(
    {"id": Value("string"), "text": Value("string"), "image": Image(), "modality": Value("string")},
)

QRELS = Features({"query-id": Value("string"), "corpus-id": Value("string"), "score": Value("int32")})

# The configurations of the published data set.
CONFIGS: dict[str, Features] = {"triplets": TRIPLETS, "corpus": CORPUS, "queries": QUERIES, "qrels": QRELS}


def provenance(
    field: str,
    source_id: str,
    operation: str,
    parameters: dict[str, object],
    *,
    seed: int | None = None,
    model: str = "",
    revision: str = "",
    prompt_version: str = "",
    consistency_score: float | None = None,
    kept: bool = True,
    reason: str = "",
) -> dict[str, object]:
    """Return one record; `source_id` is the product or logged query that the field was made from, "" for none."""
    return {
        "field": field,
        "source_id": source_id,
        "operation": operation,
        "parameters": json.dumps(parameters, ensure_ascii=False, sort_keys=True),
        "model": model,
        "revision": revision,
        "prompt_version": prompt_version,
        "seed": seed,
        "consistency_score": consistency_score,
        "kept": kept,
        "reason": reason,
    }


@lru_cache(maxsize=32)
def model_identity(model: str, revision: str) -> tuple[str, str]:
    """Return the name and revision under which a model is recorded.

    A path says nothing on another machine, so a folder is recorded by its name and, without a revision, a digest of its
    configuration and weights.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model, revision
    if not revision:
        digest = hashlib.blake2b(digest_size=8)
        for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.safetensors"), *folder.rglob("*.onnx")]):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest())
        revision = digest.hexdigest()
    return folder.resolve().name, revision


def identity_of(maker: object | None) -> dict[str, str] | None:
    """Return model, revision and prompt version of what makes fields; None of None."""
    if maker is None:
        return None
    model, revision = model_identity(maker.model, maker.revision)
    return {"model": model, "revision": revision, "prompt_version": getattr(maker, "prompt_version", "")}
