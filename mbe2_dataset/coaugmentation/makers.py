"""From options to what writes titles, changes pictures, scores and embeds."""

import os
from pathlib import Path

from mbe2_dataset.arguments import Build
from mbe2_dataset.build import Makers
from mbe2_dataset.coaugmentation.consistency import ClipScorer, ConsistencyScorer, SentenceTransformerScorer, Threshold
from mbe2_dataset.coaugmentation.pictures import (
    ClassicalExtractor,
    DiffusersEditor,
    EndpointEditor,
    ImageEditor,
    RembgExtractor,
    SegmentationExtractor,
    SubjectExtractor,
)
from mbe2_dataset.coaugmentation.titles import Budget, EndpointWriter, TemplateWriter, TitleWriter
from mbe2_dataset.errors import ModelError, OptionError
from mbe2_dataset.triplets.negatives import SentenceTransformerEmbedder


def makers_for(options: Build) -> Makers:
    """What the options name.

    Raises:
        ValueError, WriterError, RuntimeError: a model or package is not there; the message says what to do.
    """
    writer, writer_place = _writer(options)
    extractor, editor = _extractor(options), _editor(options)
    place = "processes" if isinstance(extractor, ClassicalExtractor | RembgExtractor) else "here"
    if editor is not None:
        place = "threads" if options.editor == "endpoint" else "here"
    embedder = None
    if options.negative_model is not None:
        embedder = SentenceTransformerEmbedder(options.negative_model, options.revision("negative_model") or "")
    threshold = options.consistency_threshold
    try:
        threshold = None if threshold is None else Threshold.parse(threshold)
    except ValueError as error:
        raise OptionError(f"--consistency_threshold: {error}") from error
    return Makers(
        writer=writer,
        writer_place=writer_place,
        extractor=extractor,
        editor=editor,
        picture_place=place,
        picture_threads=options.editor_concurrency,
        views=options.augmented_images,
        scorer=_scorer(options),
        threshold=threshold,
        embedder=embedder,
    )


def _writer(told: Build) -> tuple[TitleWriter | None, str]:
    if told.titles == "none":
        return None, "processes"
    if told.titles == "template":
        return TemplateWriter(), "processes"
    if told.titles == "local":
        from mbe2_dataset.coaugmentation.titles.local import LocalWriter  # it imports torch

        writer = LocalWriter(
            told.title_model,
            told.revision("title_model") or "",
            picture=told.title_pictures,
            extract=told.title_entities,
        )
        return writer, "here"
    input_price, output_price = told.prices
    writer = EndpointWriter(
        told.title_endpoint,
        told.title_model,
        revision=told.revision("title_model") or "",
        picture=told.title_pictures,
        extract=told.title_entities,
        concurrency=told.title_concurrency,
        input_price=input_price,
        output_price=output_price,
        budget=Budget(told.title_max_requests, max_cost=told.title_max_cost),
        api_key_env=told.api_key_env,
    )
    return writer, "threads"


def _extractor(told: Build) -> SubjectExtractor | None:
    if told.subject == "none":
        return None
    if told.subject == "rembg":
        return RembgExtractor(told.subject_model or "u2net")
    if told.subject == "segmentation":
        return SegmentationExtractor(told.subject_model)
    return ClassicalExtractor()


def _editor(told: Build) -> ImageEditor | None:
    if told.editor == "none":
        return None
    if told.editor == "diffusers":
        return DiffusersEditor(told.editor_model)
    return EndpointEditor(
        told.editor_model,
        told.editor_endpoint,
        api_key=os.environ.get(told.api_key_env, ""),
        price_per_picture=told.editor_price,
        budget=told.editor_max_cost,
    )


def _scorer(told: Build) -> ConsistencyScorer | None:
    """CLIP and SigLIP by their configuration, everything else through sentence-transformers."""
    if told.consistency_model is None:
        return None
    model, revision = told.consistency_model, told.revision("consistency_model") or ""
    if not (Path(model) / "modules.json").is_file():
        from transformers import AutoConfig

        try:
            kind = AutoConfig.from_pretrained(model, revision=revision or None, trust_remote_code=True).model_type
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"The consistency model {model!r} cannot be read: {reason}") from error
        if kind.startswith(("clip", "siglip", "chinese_clip")):
            return ClipScorer(model, revision)
    return SentenceTransformerScorer(model, revision, trust_remote_code=True)
