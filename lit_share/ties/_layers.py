"""What layers say of themselves, so that no other folder has to know them by name.

A layer of one filter for many positions stands in the place of a layer that has a filter for each;
a layer whose parameters have a meaning of their own says with which others they can be shared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lit_share.ties._error import TieError

_KEY = "_lit_share_positions"


@runtime_checkable
class HasPositions(Protocol):
    """A layer whose parameters have a slice along dim 0 for every position."""

    def with_one_position(self, choose: Callable[[str, Tensor], Tensor]) -> nn.Module:
        """Return the layer that has one slice for all positions.

        Args:
            choose: Returns the slice of a parameter, given its name and its value.
        """

    def reason_to_keep_positions(self) -> str | None:
        """Say why the layer cannot be replaced by such a layer; ``None`` if it can."""


@runtime_checkable
class SharesWith(Protocol):
    """A layer whose parameters may only be shared with those of certain others."""

    def reason_not_to_share(self, attribute: str, other: nn.Module) -> str | None:
        """Say why a parameter cannot be shared with another layer's; ``None`` if it can."""


@runtime_checkable
class HasClusters(SharesWith, Protocol):
    """A layer in which the inputs of a cluster share a row of weights.

    Attributes:
        assignment: The cluster of each input, −1 for inputs that are not read.
    """

    assignment: Tensor


def mark_positions(layer: nn.Module, positions: int) -> None:
    """Note that the parameters of a layer are those of so many positions."""
    layer.__dict__[_KEY] = positions


def position_count(layer: nn.Module) -> int | None:
    """Return for how many positions a layer's parameters stand; ``None`` for ordinary layers."""
    positions: int | None = layer.__dict__.get(_KEY)
    return positions


def equal_slice(name: str, parameter: Tensor) -> Tensor:
    """Return a copy of the slice along dim 0 that all positions have.

    Raises:
        TieError: If the slices differ; the message has the largest difference.
    """
    first = parameter[0]
    if not (parameter.is_meta or torch.equal(parameter, first.expand_as(parameter))):
        difference = float((parameter - first).abs().amax())
        raise TieError(
            f"the {name} of {len(parameter)} positions is not the same, but differs by up to "
            f"{difference:.3g}: tie the positions first, or average them with to_conv(average=True)"
        )
    return first.clone()
