"""The one exception that the command line shows as a sentence instead of a traceback."""

from common_moon2.cli import UserError


class EvaluationError(UserError):
    """Something about the model, the data set or an option that the user can put right; the message says how."""
