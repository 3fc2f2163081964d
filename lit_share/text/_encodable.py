"""Letters that an encoding lacks, as escapes."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def encodable(text: str) -> str:
    r"""Return a text that UTF-8 can write, with escapes in place of lone surrogates.

    Python has them in names of files and in JSON that are no valid text.

    Example:
        >>> print(encodable("größe \udcff"))
        größe \udcff
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def print_any_letter() -> None:
    """Let standard output escape the letters that its encoding lacks, as standard error does."""
    # What a program was given to print to may be another object.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
