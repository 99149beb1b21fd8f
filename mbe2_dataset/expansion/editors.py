"""Image-editing models as stage 1 and 2 of the visual expansion: the interface and the prompts (MOON2.0, section 5)."""

from importlib.resources import files
from string import Template
from typing import Protocol

import numpy as np
from PIL import Image

from .views import KINDS

# The prompt of stage 1.
SUBJECT = "subject"
LEAST_SIDE, MOST_PIXELS = 64, 4096 * 4096
# Standard deviation of the pixels (0 to 255); below it a picture is of one colour.
LEAST_SPREAD = 2.0


class EditError(Exception):
    """This picture could not be edited; the message is the reason, for the record of that picture."""


class EditorUnavailable(RuntimeError):
    """No picture can be edited, or no more: the build should stop (wrong key or address, budget used up)."""


class ImageEditor(Protocol):
    """Edits a picture as a prompt says; says what it is, so that a record can name it."""

    model: str
    revision: str
    prompt_version: str

    def __call__(self, image: Image.Image, prompt: str, seed: int) -> Image.Image:
        """The edited RGB picture.

        Raises:
            EditError: this picture could not be edited.
            EditorUnavailable: no picture can be.
        """


def prompt_for(kind: str, title: str) -> tuple[str, str]:
    """The prompt of one kind (SUBJECT, or a kind of view) about a product, and its version.

    A prompt is a file, and its version is in it, so that a record names the text that was sent. A title
    is data: it is quoted, on one line, and cannot end the quotation.
    """
    version, _, text = (files(__package__) / "prompts" / f"{kind}.txt").read_text(encoding="utf-8").partition("\n")
    quoted = " ".join(title.replace('"', "'").split())[:500]
    return Template(text.strip()).substitute(title=quoted), version.removeprefix("version: ").strip()


def prompts_version() -> str:
    """The versions of all prompts, which an editor goes by."""
    return " ".join(prompt_for(kind, "")[1] for kind in (SUBJECT, *KINDS))


def checked_edit(edited: Image.Image) -> Image.Image:
    """The RGB picture of an answer, if its size is sensible and there is something to see.

    Raises:
        EditError: it is not.
    """
    if min(edited.size) < LEAST_SIDE or edited.width * edited.height > MOST_PIXELS:
        raise EditError(f"the answer is a picture of {edited.width} x {edited.height} pixels")
    edited = edited.convert("RGB")
    if np.asarray(edited.resize((64, 64))).std() < LEAST_SPREAD:
        raise EditError("the answer is a picture of one colour")
    return edited
