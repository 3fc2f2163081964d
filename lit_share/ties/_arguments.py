"""Checks of the ``ties`` that users pass."""

from __future__ import annotations

from collections.abc import Sequence

from lit_share.ties._ties import Ties


def as_ties(ties: Ties | Sequence[str]) -> Ties:
    """Return the ties; make a `Ties` of a list of patterns.

    Raises:
        TypeError: If ``ties`` is neither.
    """
    # `Ties` takes patterns as positional arguments, which a config of LightningCLI cannot have.
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
