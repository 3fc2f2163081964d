"""The error of alignment."""


class AlignError(ValueError):
    """Raised if the units of a module cannot be permuted, or a permutation changes its outputs."""
