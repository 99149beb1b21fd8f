"""Who co-augments: what writes titles, changes images, scores and embeds, as the options name them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common_moon2.hub import first_line
from mbe2_dataset.coaugmentation.consistency import (
    ClipScorer,
    ConsistencyScorer,
    Embedder,
    SentenceTransformerModel,
    Threshold,
)
from mbe2_dataset.coaugmentation.endpoint import Budget, Endpoint
from mbe2_dataset.coaugmentation.pictures.classical import ClassicalExtractor
from mbe2_dataset.coaugmentation.pictures.editors import DiffusersEditor, EndpointEditor, ImageEditor
from mbe2_dataset.coaugmentation.pictures.subject import RembgExtractor, SegmentationExtractor, SubjectExtractor
from mbe2_dataset.coaugmentation.titles.enrich import TitleWriter
from mbe2_dataset.coaugmentation.titles.template import TemplateWriter
from mbe2_dataset.coaugmentation.titles.writers import EndpointWriter, LocalWriter
from mbe2_dataset.errors import ModelError, OptionError
from mbe2_dataset.schema import identity_of


@dataclass(frozen=True)
class Makers:
    """What makes the co-augmented fields (MOON2.0, section 5) and finds hard negatives.

    Attributes:
        writer: of enriched titles; None: there are none.
        extractor, editor: of changed views, see `expand`; `views`: how many of each product.
        writer_place, picture_place: where they run, as `place` of `operations.Operation`.
        scorer: of consistency; `threshold`: which scores are kept.
        embedder: for mined negatives.
    """

    writer: TitleWriter | None = field(default_factory=TemplateWriter)
    writer_place: Literal["processes", "threads", "here"] = "processes"
    extractor: SubjectExtractor | None = field(default_factory=ClassicalExtractor)
    editor: ImageEditor | None = None
    picture_place: Literal["processes", "threads", "here"] = "processes"
    picture_threads: int = 1
    views: int = 1
    scorer: ConsistencyScorer | None = None
    threshold: Threshold | None = None
    embedder: Embedder | None = None

    def without_services(self) -> "Makers":
        """Return the same with the offline defaults instead of servers."""
        changed = {}
        if self.writer_place == "threads":
            changed |= {"writer": TemplateWriter(), "writer_place": "processes"}
        if self.picture_place == "threads":
            changed |= {"extractor": ClassicalExtractor(), "editor": None, "picture_place": "processes"}
        return replace(self, **changed)

    def identity(self) -> list:
        """Return what the makers are, for the fingerprint of a build."""
        parts = [self.writer, self.extractor, self.editor, self.scorer, self.embedder]
        return [*map(identity_of, parts), self.views, str(self.threshold)]


if TYPE_CHECKING:  # the processes of a pool need no parser of options
    from mbe2_dataset.arguments import Build

# Where each kind runs, as `place` of `operations.Operation`; what is not named runs in processes.
PLACES = {
    EndpointWriter: "threads",
    EndpointEditor: "threads",
    LocalWriter: "here",
    DiffusersEditor: "here",
    SegmentationExtractor: "here",
}


def makers_for(told: "Build") -> Makers:
    """Return what the options name.

    Raises:
        OptionError, ModelError, ModuleNotFoundError: a model or package is missing; the message says what to do.
    """
    writer, extractor, editor = _writer(told), _extractor(told), _editor(told)
    embedder, threshold = None, told.consistency_threshold
    if told.negative_model is not None:
        embedder = SentenceTransformerModel(told.negative_model, told.revision("negative_model") or "", None)
    try:
        threshold = None if threshold is None else Threshold.parse(threshold)
    except ValueError as error:
        raise OptionError(f"--consistency_threshold: {error}") from error
    return Makers(
        writer=writer,
        writer_place=PLACES.get(type(writer), "processes"),
        extractor=extractor,
        editor=editor,
        picture_place=PLACES.get(type(editor or extractor), "processes"),
        picture_threads=told.concurrency,
        views=told.views,
        scorer=_scorer(told),
        threshold=threshold,
        embedder=embedder,
    )


def _writer(told: "Build") -> TitleWriter | None:
    if told.titles == "none":
        return None
    if told.titles == "template":
        return TemplateWriter()
    model, revision = told.title_model, told.revision("title_model") or ""
    uses = {"picture": "picture" in told.uses, "extract": "entities" in told.uses}
    if told.titles == "local":
        return LocalWriter(model, revision, **uses)
    budget = told.pairs("title_budget")
    server = Endpoint(
        told.title_endpoint,
        model,
        revision,
        api_key_env=told.api_key_env,
        input_price=budget.get("read", 0.0),
        output_price=budget.get("written", 0.0),
        budget=Budget(*map(budget.get, ("requests", "tokens", "cost"))),
    )
    return EndpointWriter(server, concurrency=told.concurrency, **uses)


def _extractor(told: "Build") -> SubjectExtractor | None:
    if told.subject == "none":
        return None
    if told.subject == "rembg":
        return RembgExtractor(*told.subject_model)
    if told.subject == "segmentation":
        return SegmentationExtractor(told.subject_model[0], tuple(told.subject_model[1:]))
    return ClassicalExtractor()


def _editor(told: "Build") -> ImageEditor | None:
    if told.editor == "none":
        return None
    if told.editor == "diffusers":
        return DiffusersEditor(told.editor_model)
    budget = told.pairs("editor_budget")
    # An edit takes longer than a title.
    server = Endpoint(
        told.editor_endpoint,
        told.editor_model,
        api_key_env=told.api_key_env,
        timeout=180,
        price=budget.get("edit", 0.0),
        budget=Budget(max_cost=budget.get("cost")),
    )
    return EndpointEditor(server)


def _scorer(told: "Build") -> ConsistencyScorer | None:
    """Load CLIP and SigLIP by their configuration, everything else through sentence-transformers."""
    if told.consistency_model is None:
        return None
    model, revision = told.consistency_model, told.revision("consistency_model") or ""
    if not (Path(model) / "modules.json").is_file():
        from transformers import AutoConfig

        try:
            kind = AutoConfig.from_pretrained(model, revision=revision or None, trust_remote_code=True).model_type
        except (OSError, ValueError) as error:
            raise ModelError(f"The consistency model {model!r} cannot be read: {first_line(error)}") from error
        if kind.startswith(("clip", "siglip", "chinese_clip")):
            return ClipScorer(model, revision)
    return SentenceTransformerModel(model, revision)
