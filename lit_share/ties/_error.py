"""The error of the tie language."""


class TieError(ValueError):
    """Patterns that do not name ties of a module, or ties that cannot be shared."""
