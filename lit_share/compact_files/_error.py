"""The error of compact files."""


class CompactFileError(ValueError):
    """A compact file that cannot be written or read, or that does not fit the module."""
