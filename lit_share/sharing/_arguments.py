"""Checking what users pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from lit_share.sharing._ties import Ties


def check_choice(name: str, value: object, known: Any) -> None:
    """Raise `ValueError` if an argument is not one of a `Literal`."""
    if value not in get_args(known):
        raise ValueError(
            f"unknown {name} {value!r}: write one of {', '.join(map(repr, get_args(known)))}"
        )


def as_ties(ties: Ties | Sequence[str]) -> Ties:
    """The ties; a list of patterns, as in YAML that knows no positional arguments, is one for each member."""
    if isinstance(ties, (list, tuple)) and all(isinstance(pattern, str) for pattern in ties):
        return Ties(*ties)
    check_ties(ties)
    assert isinstance(ties, Ties)
    return ties


def check_ties(ties: object) -> None:
    """Raise `TypeError` if an argument is not a `Ties`."""
    if not isinstance(ties, Ties):
        raise TypeError(
            f"ties must be a lit_share.Ties(...), got {ties!r}: write lit_share.Ties('a.*', 'b.*')"
        )
