"""Packages that only some ways of expansion need."""

from importlib import import_module
from types import ModuleType


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
