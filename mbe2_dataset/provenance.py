"""How a field of the published data came about: records of schema.PROVENANCE."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path


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
    """One record; `source_id` is the product or logged query that the field was made from, "" stands for none."""
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
    """The name and revision under which a model is recorded: of a folder its name and, without a revision, a digest of
    its configuration and weights, because a path says nothing on another machine."""
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
    """Model, revision and prompt version of anything that makes fields; None of nothing."""
    if maker is None:
        return None
    model, revision = model_identity(maker.model, maker.revision)
    return {"model": model, "revision": revision, "prompt_version": getattr(maker, "prompt_version", "")}
