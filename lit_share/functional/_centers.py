"""Centers: the point that each member of a tie is pulled towards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

CenterName = Literal["zero", "mean", "first", "start"]

# Of more members than this, one operation on all of them takes less time than one on each.
_MANY = 8


class Center(NamedTuple):
    """Where the members W_1 … W_N are pulled to, and the scale s of their deviations D_i = s·(W_i − c_i).

    ``split(members, start)`` takes the members apart into c_1 … c_N, which broadcast to their shape, and W_i − c_i.
    """

    split: Callable[[Sequence[Tensor], Sequence[Tensor] | None], tuple[list[Tensor], list[Tensor]]]
    scale: Callable[[int], float] = lambda _: 1.0
    min_members: int = 1
    coupled: bool = False  # whether the center moves with the members, as their mean does
    holds_first: bool = False  # whether the first member is the center and stays


def _zero(
    members: Sequence[Tensor], _: Sequence[Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    return [w.new_zeros(()) for w in members], list(members)


def mean(members: Sequence[Tensor]) -> Tensor:
    """The members' mean; of equal members it is exactly that member.

    Args:
        members: N ≥ 1 tensors of one shape, dtype and device.

    Returns:
        New tensor like each member.

    Example:
        >>> import torch
        >>> mean([torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])])
        tensor([1., 3.])
    """
    (center, *_), _ = _mean(members, None)
    return center


def _mean(
    members: Sequence[Tensor], _: Sequence[Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    # Counted from the first member, so that what members have in common leaves no rounding errors behind: the mean
    # of equal members is exactly that member, and deviations sum to zero however close the members are.
    first = members[0]
    if len(members) > _MANY:
        stacked = torch.stack(list(members)) - first
        together = stacked.mean(dim=0)
        return [first + together] * len(members), list((stacked - together).unbind())
    offsets = [w - first for w in members]
    offset = sum(offsets[1:], offsets[0]) / len(members)
    return [first + offset] * len(members), [o - offset for o in offsets]


def _first(
    members: Sequence[Tensor], _: Sequence[Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    return [members[0]] * len(members), [w - members[0] for w in members]


def _start(
    members: Sequence[Tensor], start: Sequence[Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    if start is None or [s.shape for s in start] != [w.shape for w in members]:
        raise ValueError(
            'center="start" pulls every member to its own starting value: pass start=, one tensor per member, '
            "of the members' shape"
        )
    origins = [s.to(w) for s, w in zip(start, members, strict=True)]
    return origins, [w - s for w, s in zip(members, origins, strict=True)]


CENTERS: dict[CenterName, Center] = {
    # c = 0: plain regularisation; several members are regularised jointly
    "zero": Center(_zero),
    # c = the members' mean; with s = √N a group's norm is n² = Σ_{i<j} ‖W_i − W_j‖², so ‖W_A − W_B‖ for a pair
    "mean": Center(_mean, scale=math.sqrt, min_members=2, coupled=True),
    # c = W_1, held constant: the others follow it
    "first": Center(_first, min_members=2, holds_first=True),
    # c = the member's own value when training began (L2-SP)
    "start": Center(_start),
}
