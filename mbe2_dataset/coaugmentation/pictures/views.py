"""Stage 2 of the visual expansion without a model: views by geometry and light (MOON2.0, section 5).

Each kind of view draws parameters from a seed, and the parameters alone make the view again.
"""

import numpy as np
from PIL import Image

from mbe2_dataset.catalogue.pictures import Picture, encode
from mbe2_dataset.coaugmentation.pictures import background, detail, lighting, viewpoint

_OPERATIONS = {"background": background, "viewpoint": viewpoint, "lighting": lighting, "detail": detail}
KINDS = tuple(_OPERATIONS)
# A new background cannot be put behind a subject that was not found.
KINDS_WITHOUT_MASK = tuple(kind for kind in KINDS if kind != "background")


def make_view(
    image: Image.Image, mask: Image.Image | None, kind: str, seed: int, path: str
) -> tuple[Picture, dict[str, object]]:
    """A view of one kind of an RGB picture whose subject is under `mask` (mode "L", as large; None: not known).

    Returns:
        The view as JPEG, and the parameters (JSON types) with which `apply_view` makes it again.

    Raises:
        ValueError: a background was asked for without a mask.
        NothingToSee: a detail was asked for of a subject that has none.
    """
    if mask is None and kind not in KINDS_WITHOUT_MASK:
        raise ValueError(f"A view of kind '{kind}' needs the mask of a subject.")
    parameters = {"kind": kind, **_OPERATIONS[kind].draw(image, mask, np.random.default_rng(seed))}
    return encode(apply_view(image, mask, parameters), path), parameters


def apply_view(image: Image.Image, mask: Image.Image | None, parameters: dict) -> Image.Image:
    """The view that `parameters` describe, of the same picture and mask."""
    return _OPERATIONS[parameters["kind"]].apply(image, mask, parameters)
