"""What stage 1 of the visual expansion finds: where in a picture the product is (MOON2.0, section 5)."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Protocol

import numpy as np
from PIL import Image

# Below the first share of the picture nothing was found, above the second nothing was left out.
LEAST_COVERAGE, MOST_COVERAGE = 0.01, 0.95
# A mask on this share of each of the four edges is no subject in front of something.
MOST_TOUCHED = 0.3
# Goods may be cut by the lower or the upper edge all along, but hardly by this share of the left or the right one.
WHOLE_SIDE = 0.9


@dataclass(frozen=True, slots=True)
class Subject:
    """The clean subject I_m: the picture's own pixels under `mask`.

    Attributes:
        mask: mode "L", as large as the picture, 255 where the product is; None if none was found.
        coverage: share of the picture that the product takes, 0 to 1.
        score: how sure the extractor is, 0 to 1; each extractor has its own scale.
        reason: why no subject was found, "" if one was.
    """

    mask: Image.Image | None
    coverage: float
    score: float
    reason: str = ""


class SubjectExtractor(Protocol):
    """Finds the product in a picture; says what it is, so that a record can name it."""

    model: str
    revision: str
    prompt_version: str

    def __call__(self, image: Image.Image) -> Subject:
        """The subject of an RGB picture. A picture without one gives a reason, not an exception."""


def no_subject(reason: str, coverage: float = 0.0) -> Subject:
    return Subject(None, coverage, 0.0, reason)


def checked_subject(mask: Image.Image, score: float) -> Subject:
    """A subject if `mask` (mode "L") can be one; otherwise the reason why it cannot."""
    inside = np.asarray(mask) > 127
    coverage = round(float(inside.mean()), 4)
    if coverage < LEAST_COVERAGE:
        return no_subject(f"the subject covers {coverage:.1%} of the picture: nothing was found", coverage)
    if coverage > MOST_COVERAGE:
        return no_subject(f"the subject covers {coverage:.1%} of the picture: no background was found", coverage)
    if min(edge.mean() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])) > MOST_TOUCHED:
        return no_subject("the subject touches all four edges of the picture", coverage)
    if max(inside[:, 0].mean(), inside[:, -1].mean()) > WHOLE_SIDE:
        return no_subject("the subject takes a whole side of the picture: it has no outline", coverage)
    return Subject(mask, coverage, round(score, 4))


def optional_package(name: str, purpose: str) -> ModuleType:
    """The module `name`.

    Raises:
        ModuleNotFoundError: it is not installed; the message says what for and how to get it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{purpose} needs the package '{name}': pip install 'moon2[augment]' (or pip install {name})."
        ) from error
