"""Protocols by which layers declare how their parameters can be shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lit_share.ties._error import TieError

_KEY = "_lit_share_positions"


# Layers of other folders implement these protocols, so that no code has to know them by name.
@runtime_checkable
class HasPositions(Protocol):
    """A layer whose parameters have a slice along dim 0 for every position."""

    def with_one_position(self, choose: Callable[[str, Tensor], Tensor]) -> nn.Module:
        """Return the layer that uses one slice of each parameter at all positions.

        Args:
            choose: Returns the slice of a parameter, given its name and its value.
        """

    def reason_to_keep_positions(self) -> str | None:
        """Return why no such layer can replace this layer; ``None`` if one can."""


@runtime_checkable
class SharesWith(Protocol):
    """A layer whose parameters may only be shared with those of certain other layers."""

    def reason_not_to_share(self, attribute: str, other: nn.Module) -> str | None:
        """Return why a parameter cannot be shared with another layer's; ``None`` if it can."""


@runtime_checkable
class HasClusters(SharesWith, Protocol):
    """A layer in which the inputs of a cluster share a row of weights.

    Attributes:
        assignment: The cluster of each input, −1 for inputs that are not read.
    """

    assignment: Tensor


def mark_positions(layer: nn.Module, positions: int) -> None:
    """Record that a layer uses its parameters at this number of positions."""
    # An attribute is copied and pickled with the layer; a buffer would change ``state_dict``.
    layer.__dict__[_KEY] = positions


def position_count(layer: nn.Module) -> int | None:
    """Return the number that `mark_positions` recorded; ``None`` for other layers."""
    positions: int | None = layer.__dict__.get(_KEY)
    return positions


def equal_slice(name: str, parameter: Tensor) -> Tensor:
    """Return a copy of the slice along dim 0 that is equal at all positions.

    Raises:
        TieError: If the slices differ; the message has the largest difference.
    """
    first = parameter[0]
    # Tensors on the meta device have no values that could differ.
    if not (parameter.is_meta or torch.equal(parameter, first.expand_as(parameter))):
        difference = float((parameter - first).abs().amax())
        raise TieError(
            f"the {name} differs by up to {difference:.3g} between {len(parameter)} positions: tie "
            "the positions first, or average them with to_conv(average=True)"
        )
    return first.clone()
