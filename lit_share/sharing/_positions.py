"""Convolutions that stand for a locally connected layer, whose positions all have the same filters."""

from __future__ import annotations

from torch import nn

_KEY = "_lit_share_positions"


def remember_positions(convolution: nn.Module, positions: int) -> None:
    """Remember that the parameters of a convolution are those of so many positions."""
    convolution.__dict__[_KEY] = positions


def position_count(module: nn.Module) -> int | None:
    """For how many positions the parameters of a module stand; ``None`` for all but convolutions made of such."""
    positions: int | None = module.__dict__.get(_KEY)
    return positions
