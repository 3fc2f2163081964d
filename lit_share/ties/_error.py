"""The error of the tie language."""


class TieError(ValueError):
    """Patterns do not name ties of a module, or ties cannot be shared."""
