"""Both stages of the visual expansion for one product (MOON2.0, section 5).

Without a model, each kind of view draws parameters from a seed, and the parameters alone make the view again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import numpy as np
from PIL import Image

from mbe2_dataset.catalogue.pictures import Picture, decode, encode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.endpoint import Refusal
from mbe2_dataset.coaugmentation.pictures.editors import SUBJECT, ImageEditor, prompt_for
from mbe2_dataset.coaugmentation.pictures.subject import Subject, SubjectExtractor, no_subject
from mbe2_dataset.coaugmentation.pictures.views import (
    NothingToSee,
    apply_background,
    apply_detail,
    apply_lighting,
    apply_viewpoint,
    draw_background,
    draw_detail,
    draw_lighting,
    draw_viewpoint,
)
from mbe2_dataset.parallel import rng_for, seed_for

_OPERATIONS = {
    "background": (draw_background, apply_background),
    "viewpoint": (draw_viewpoint, apply_viewpoint),
    "lighting": (draw_lighting, apply_lighting),
    "detail": (draw_detail, apply_detail),
}
KINDS = tuple(_OPERATIONS)
# Of how views are drawn without an editing model; another number makes those of a journal anew. `build.FORMAT` needs
# another one then, too, or a finished data set with masks of rembg counts as up to date.
DRAWING = 2
# A new background cannot be put behind a subject that was not found.
KINDS_WITHOUT_MASK = tuple(kind for kind in KINDS if kind != "background")
# Larger images, and larger answers of editing models, are scaled down to this longest side (pixels).
LONGEST_SIDE = 768
ON_WHITE = {"style": "white", "colour": [255, 255, 255], "shadow": "contact", "shadow_strength": 0.0}


@dataclass(frozen=True, slots=True)
class View:
    """One augmented image, or the reason why it could not be made.

    Attributes:
        operation: the kind of view.
        parameters: what `apply_view` needs to make it again; of an edited view, how the subject was found.
        model, revision, prompt_version: what made it: the editing model, or the extractor whose mask was used.
        picture: None where the view could not be made.
        reason: "" where it was made.
    """

    operation: str
    parameters: dict[str, object]
    model: str
    revision: str
    prompt_version: str
    seed: int
    picture: Picture | None
    reason: str

    @property
    def kept(self) -> bool:
        """Tell whether the view was made."""
        return self.picture is not None


@dataclass(frozen=True, slots=True)
class Expansion:
    """The views of one product, and what stage 1 found.

    `reason` says why there was no subject ("" if there was one), `coverage` is the subject's share of the image and
    `score` the extractor's own measure; both are 0 where an editing model did stage 1.
    """

    views: tuple[View, ...]
    coverage: float
    score: float
    reason: str


def expand(
    row: Row, extractor: SubjectExtractor | None, editor: ImageEditor | None, count: int, seed: int
) -> Expansion:
    """Make `count` views (n_c) of the first image of `row`.

    Without an editor the extractor finds the subject, and geometry and light make the views. A product whose subject is
    not found then gets only views that need no mask, and one without any detail lacks the view of it. An editor works
    on the subject in front of white, or on the whole image where no subject was found. Without an extractor the editor
    does stage 1 too.

    Raises:
        ValueError: neither an extractor nor an editor was given.
        ModelError: the editor can edit no image. What concerns this product alone is a reason in its views.
    """
    if extractor is None and editor is None:
        raise ValueError("Give a subject extractor, an image editor, or both.")
    views = partial(_views, row, editor or extractor, seed)
    try:
        image = source_image(row)
    except (ValueError, IndexError) as error:
        reason = f"the image cannot be read: {error}" if row.images else "the product has no image"
        return Expansion(views(kinds_for(row.id, count, seed), reason), 0.0, 0.0, reason)
    subject = extractor(image) if extractor else no_subject("")
    kinds = kinds_for(row.id, count, seed, KINDS if subject.mask or editor else KINDS_WITHOUT_MASK)
    if editor is None:
        made = views(kinds, partial(make_view, image, subject.mask), [extractor.prompt_version] * count)
    else:
        try:
            clean, stage_one = _clean(row, image, subject, extractor, editor, seed)
        except Refusal as refusal:
            reason = f"no clean subject: {refusal}"
            return Expansion(views(kinds, reason), 0.0, 0.0, reason)
        versions = [prompt_for(kind, "")[1] for kind in kinds]
        made = views(kinds, partial(_edited, row, clean, editor, stage_one), versions)
    return Expansion(made, subject.coverage, subject.score, subject.reason)


def kinds_for(row_id: str, count: int, seed: int, kinds: tuple[str, ...] = KINDS) -> tuple[str, ...]:
    """Return the kinds of a product's views: each once before one comes again, in an order of the product's own."""
    order = [kinds[place] for place in rng_for(seed, "kinds of views", row_id).permutation(len(kinds))]
    return tuple(islice(cycle(order), count))


def source_image(row: Row) -> Image.Image:
    """Return what the views of a product are made of: its first image, RGB, of bounded size.

    Raises:
        ValueError: it cannot be read.
    """
    image = decode(row.images[0])
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return image


def make_view(
    image: Image.Image, mask: Image.Image | None, kind: str, seed: int, path: str
) -> tuple[Picture, dict[str, object]]:
    """Make a view of an RGB image whose subject is under `mask` (mode "L", as large; None: not known).

    Returns:
        The view as JPEG, and the parameters (JSON types) with which `apply_view` makes it again.

    Raises:
        ValueError: a background was asked for without a mask.
        NothingToSee: a detail was asked for of a subject that has none.
    """
    if mask is None and kind not in KINDS_WITHOUT_MASK:
        raise ValueError(f"A view of kind '{kind}' needs the mask of a subject.")
    draw, _ = _OPERATIONS[kind]
    parameters = {"kind": kind, **draw(image, mask, np.random.default_rng(seed))}
    return encode(apply_view(image, mask, parameters), path), parameters


def apply_view(image: Image.Image, mask: Image.Image | None, parameters: dict) -> Image.Image:
    """Make the view that `parameters` describe, of the same image and mask."""
    _, apply = _OPERATIONS[parameters["kind"]]
    return apply(image, mask, parameters)


def _views(
    row: Row,
    maker: SubjectExtractor | ImageEditor,
    seed: int,
    kinds: tuple[str, ...],
    make: Callable[[str, int, str], tuple[Picture, dict]] | str,
    versions: list[str] | None = None,
) -> tuple[View, ...]:
    """Call `make` with kind, seed and path of each view; a text instead is the reason why none can be made."""
    views = []
    for number, kind in enumerate(kinds):
        view_seed = seed_for(seed, "view", row.id, number)
        picture, parameters, reason = None, {}, make
        if callable(make):
            try:
                (picture, parameters), reason = make(kind, view_seed, f"{row.id}-augmented-{number}.jpg"), ""
            except (NothingToSee, Refusal) as error:
                reason = str(error)
        version = versions[number] if versions else ""
        views.append(View(kind, parameters, maker.model, maker.revision, version, view_seed, picture, reason))
    return tuple(views)


def _clean(
    row: Row, image: Image.Image, subject: Subject, extractor: SubjectExtractor | None, editor: ImageEditor, seed: int
) -> tuple[Image.Image, dict[str, str]]:
    """Return what an editor makes its views of, and parameters that say how it was found."""
    if extractor is None:
        prompt, version = prompt_for(SUBJECT, row.title)
        image = editor(image, prompt, seed_for(seed, "subject", row.id))
    else:
        version = extractor.prompt_version
        image = image if subject.mask is None else apply_background(image, subject.mask, ON_WHITE)
    finder = extractor or editor
    return image, {"subject": f"{finder.model} {finder.revision}".strip(), "subject_prompt_version": version}


def _edited(
    row: Row, clean: Image.Image, editor: ImageEditor, stage_one: dict[str, str], kind: str, seed: int, path: str
) -> tuple[Picture, dict[str, object]]:
    edited = editor(clean, prompt_for(kind, row.title)[0], seed)
    edited.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return encode(edited, path), {"kind": kind, **stage_one}
