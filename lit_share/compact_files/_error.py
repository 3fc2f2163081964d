"""The error of compact files."""


class CompactFileError(ValueError):
    """Raised if a compact file cannot be written or read, or does not fit the module."""
