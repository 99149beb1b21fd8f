"""Models that a build is told to use."""


class ModelError(ValueError):
    """A model cannot be loaded, or cannot do what it is wanted for; the message says why and what to do."""
