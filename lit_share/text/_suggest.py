"""Suggest a correction for a misspelt name."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


def suggest(word: object, options: Collection[str]) -> str:
    """Return the end of an error message: the nearest option, else all of them if they are few.

    Example:
        >>> suggest("lr", ["lr0", "seed"])
        ": did you mean 'lr0'?"
        >>> suggest("lr", ["model.classifier.lr", "seed"])
        ": did you mean 'model.classifier.lr'?"
        >>> suggest("x", ["lr", "seed"])
        ': choose from lr, seed'
    """
    # The last part of a dotted name is no close match of the whole name, so it is looked up first.
    same_ending = sorted(option for option in options if option.endswith(f".{word}"))
    nearest = same_ending or get_close_matches(str(word), options, n=1)
    if nearest:
        return f": did you mean {nearest[0]!r}?"
    # A longer list would bury the message.
    if 0 < len(options) <= 12:
        return f": choose from {', '.join(sorted(options))}"
    return ""
