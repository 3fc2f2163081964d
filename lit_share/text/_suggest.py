"""What a misspelt name may stand for."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


def suggest(word: object, options: Collection[str]) -> str:
    """The end of an error message: the option nearest to a word, or a few options, or nothing.

    Example:
        >>> suggest("lr", ["lr0", "seed"])
        ": did you mean 'lr0'?"
        >>> suggest("lr", ["model.classifier.lr", "seed"])
        ": did you mean 'model.classifier.lr'?"
        >>> suggest("x", ["lr", "seed"])
        ': choose from lr, seed'
    """
    ends = sorted(option for option in options if option.endswith(f".{word}"))
    if nearest := ends or get_close_matches(str(word), options, n=1):
        return f": did you mean {nearest[0]!r}?"
    return f": choose from {', '.join(sorted(options))}" if 0 < len(options) <= 12 else ""
