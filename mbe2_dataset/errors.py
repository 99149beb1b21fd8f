"""What a user can put right while a data set is built, checked or published; each message says how."""

from common_moon2.cli import UserError


class OptionError(UserError):
    """An invalid option, or two that do not go together; the message names them."""


class CatalogueError(UserError):
    """A catalogue that cannot be used; the message names the file, row or column."""


class ModelError(UserError):
    """A model that cannot be loaded, or cannot do what it is needed for."""


class EngineError(UserError):
    """An engine whose package is not installed."""


class OutputError(UserError):
    """An output folder that cannot be used."""


class LeakageError(UserError):
    """Splits that share a product, a group or an image; the message names them."""


class CheckError(UserError):
    """A data set that cannot be checked."""


class PublishError(UserError):
    """A data set that was not published, or not completely."""
