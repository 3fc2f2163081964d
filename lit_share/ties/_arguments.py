"""Checks of the ``ties`` that users pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lit_share.text import described
from lit_share.ties._joined import JoinedTies
from lit_share.ties._tie import Tie
from lit_share.ties._ties import Ties


def as_ties(ties: Ties | Sequence[Ties] | Sequence[str]) -> Ties:
    """Return the ties; make one `Ties` of a list of patterns, or of a list of several `Ties`.

    Raises:
        TypeError: If ``ties`` is none of these.
    """
    if isinstance(ties, (list, tuple)) and ties:
        # `Ties` takes patterns as positional arguments, which a config of LightningCLI cannot have.
        if all(isinstance(pattern, str) for pattern in ties):
            return Ties(*ties)
        if all(isinstance(part, Ties) for part in ties):
            return JoinedTies(ties)
    check_ties(ties)
    assert isinstance(ties, Ties)
    return ties


def find_ties(
    module: nn.Module, ties: Ties | Sequence[Ties] | Sequence[str] | Sequence[Tie]
) -> list[Tie]:
    """Return the ties of a module; they may have been found already.

    Raises:
        TypeError: If ``ties`` is neither for `as_ties` nor a sequence of `Tie`.
        TieError: If the patterns do not fit the module; see `Ties.find`.
    """
    if isinstance(ties, Sequence):
        found = [tie for tie in ties if isinstance(tie, Tie)]
        if len(found) == len(ties):
            return found
    return as_ties(ties).find(module)  # type: ignore[arg-type]


def check_ties(ties: object) -> None:
    """Raise `TypeError` if an argument is not a `Ties`."""
    if not isinstance(ties, Ties):
        raise TypeError(
            f"ties must be a lit_share.Ties(...), got {described(ties)}: write "
            "lit_share.Ties('a.*', 'b.*')"
        )
