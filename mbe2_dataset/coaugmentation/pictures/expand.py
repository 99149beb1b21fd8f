"""Both stages of the visual expansion for one product (MOON2.0, section 5)."""

import json
from dataclasses import dataclass
from itertools import cycle, islice

from PIL import Image

from mbe2_dataset.catalogue.pictures import Picture, decode, encode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.pictures.background import apply as put_on_background
from mbe2_dataset.coaugmentation.pictures.detail import NothingToSee
from mbe2_dataset.coaugmentation.pictures.editors import SUBJECT, EditError, ImageEditor, prompt_for
from mbe2_dataset.coaugmentation.pictures.subject import Subject, SubjectExtractor, no_subject
from mbe2_dataset.coaugmentation.pictures.views import KINDS, KINDS_WITHOUT_MASK, make_view
from mbe2_dataset.parallel import rng_for, seed_for

# Larger pictures, and larger answers of editing models, are scaled down to this longest side (pixels).
LONGEST_SIDE = 768
ON_WHITE = {"style": "white", "colour": [255, 255, 255], "shadow": "contact", "shadow_strength": 0.0}


@dataclass(frozen=True, slots=True)
class View:
    """One augmented picture, or the reason why it could not be made (`picture` None, `kept` False).

    `operation` is the kind of view, `parameters` JSON with which it can be made again; `model`, `revision` and
    `prompt_version` name what made it: the editing model, or the extractor whose mask an offline view uses.
    """

    picture: Picture | None
    operation: str
    parameters: str
    model: str
    revision: str
    prompt_version: str
    seed: int
    kept: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Expansion:
    """The views of one product, and what stage 1 found.

    `reason` says why there was no subject ("" if there was one), `coverage` is the subject's share of the picture and
    `score` the extractor's own measure; both are 0 where an editing model did stage 1.
    """

    views: tuple[View, ...]
    coverage: float
    score: float
    reason: str


def kinds_for(row_id: str, count: int, seed: int, kinds: tuple[str, ...] = KINDS) -> tuple[str, ...]:
    """The kinds of a product's `count` views: each once before one comes again, in an order of the product's own."""
    order = [kinds[place] for place in rng_for(seed, "kinds of views", row_id).permutation(len(kinds))]
    return tuple(islice(cycle(order), count))


def expand(
    row: Row, extractor: SubjectExtractor | None, editor: ImageEditor | None, count: int, seed: int
) -> Expansion:
    """`count` views (n_c) of the first picture of `row`.

    Without an editor the extractor finds the subject, and views are made by geometry and light; a product whose subject
    is not found gets only views that need no mask, and one without any detail lacks the view of it. An editor makes the
    views of the subject on white that the extractor found, or of the picture as it is where none was found; without an
    extractor the editor does stage 1 too.

    Raises:
        ValueError: neither an extractor nor an editor was given.
        EditorUnavailable: the editor can edit no picture, so that the build should stop. What concerns this product
            alone is a reason in its views.
    """
    if extractor is None and editor is None:
        raise ValueError("Give a subject extractor, an image editor, or both.")
    try:
        image = source_image(row)
    except (ValueError, IndexError) as error:
        reason = f"the picture cannot be read: {error}" if row.images else "the product has no picture"
        maker = editor or extractor
        views = [
            _failed(kind, maker.model, maker.revision, _seed(row, seed, number), reason)
            for number, kind in enumerate(kinds_for(row.id, count, seed))
        ]
        return Expansion(tuple(views), 0.0, 0.0, reason)
    subject = extractor(image) if extractor else no_subject("")
    if editor is not None:
        return _edited(row, image, subject, extractor, editor, count, seed)
    kinds = kinds_for(row.id, count, seed, KINDS if subject.mask else KINDS_WITHOUT_MASK)
    views = tuple(
        _offline(row, image, subject, extractor, kind, _seed(row, seed, number), number)
        for number, kind in enumerate(kinds)
    )
    return Expansion(views, subject.coverage, subject.score, subject.reason)


def source_image(row: Row) -> Image.Image:
    """What the views of a product are made of: its first picture, RGB, of bounded size.

    Raises:
        ValueError: it cannot be read.
    """
    image = decode(row.images[0])
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return image


def _seed(row: Row, seed: int, number: int) -> int:
    return seed_for(seed, "view", row.id, number)


def _path(row: Row, number: int) -> str:
    return f"{row.id}-augmented-{number}.jpg"


def _offline(
    row: Row, image: Image.Image, subject: Subject, extractor: SubjectExtractor, kind: str, seed: int, number: int
) -> View:
    try:
        picture, parameters = make_view(image, subject.mask, kind, seed, _path(row, number))
    except NothingToSee as error:
        return _failed(kind, extractor.model, extractor.revision, seed, str(error), extractor.prompt_version)
    return View(
        picture=picture,
        operation=kind,
        parameters=_json(parameters),
        model=extractor.model,
        revision=extractor.revision,
        prompt_version=extractor.prompt_version,
        seed=seed,
        kept=True,
        reason="",
    )


def _edited(
    row: Row,
    image: Image.Image,
    subject: Subject,
    extractor: SubjectExtractor | None,
    editor: ImageEditor,
    count: int,
    seed: int,
) -> Expansion:
    kinds = kinds_for(row.id, count, seed)
    if extractor is None:
        stage_one = f"{editor.model} {editor.revision}".strip()
        prompt, version = prompt_for(SUBJECT, row.title)
        try:
            clean = editor(image, prompt, seed_for(seed, "subject", row.id))
        except EditError as error:
            reason = f"no clean subject: {error}"
            views = [
                _failed(kind, editor.model, editor.revision, _seed(row, seed, number), reason)
                for number, kind in enumerate(kinds)
            ]
            return Expansion(tuple(views), 0.0, 0.0, reason)
    else:
        stage_one = f"{extractor.model} {extractor.revision}".strip()
        version = extractor.prompt_version
        clean = image if subject.mask is None else put_on_background(image, subject.mask, ON_WHITE)
    views = []
    for number, kind in enumerate(kinds):
        view_seed = _seed(row, seed, number)
        prompt, prompt_version = prompt_for(kind, row.title)
        try:
            edited = editor(clean, prompt, view_seed)
        except EditError as error:
            views.append(_failed(kind, editor.model, editor.revision, view_seed, str(error), prompt_version))
            continue
        edited.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        views.append(
            View(
                picture=encode(edited, _path(row, number)),
                operation=kind,
                parameters=_json({"kind": kind, "subject": stage_one, "subject_prompt_version": version}),
                model=editor.model,
                revision=editor.revision,
                prompt_version=prompt_version,
                seed=view_seed,
                kept=True,
                reason="",
            )
        )
    return Expansion(tuple(views), subject.coverage, subject.score, subject.reason)


def _failed(kind: str, model: str, revision: str, seed: int, reason: str, prompt_version: str = "") -> View:
    return View(
        picture=None,
        operation=kind,
        parameters="{}",
        model=model,
        revision=revision,
        prompt_version=prompt_version,
        seed=seed,
        kept=False,
        reason=reason,
    )


def _json(parameters: dict[str, object]) -> str:
    return json.dumps(parameters, sort_keys=True)
