"""Centers: the point that each member of a tie is pulled towards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

CenterName = Literal["zero", "mean", "first", "start"]
Split = tuple[list[Tensor], list[Tensor]]

# For more members than this, one operation on a stack of them is faster than one on each.
_MANY = 8


@dataclass(frozen=True)
class Center:
    """Where the members W_1 … W_N are pulled to, with the scale s of deviations D_i = s·(W_i − c_i).

    The gradient and the proximal step have closed forms if the centers are held constant, or are an
    orthogonal projection of the members, as their mean is: a center has to be one of these.

    Attributes:
        split: Splits the members, given their starting values, into the points c_1 … c_N, which
            broadcast to their shape, and the unscaled deviations W_1 − c_1 … W_N − c_N.
        scale: s, given the number of members.
        min_members: The fewest members that it makes sense for.
        compares_members: Whether it pulls members towards each other, not to values of their own.
        is_zero: Whether it is zero, so that groups at the center are zeros.
        is_mean: Whether it is the members' mean.
        follows_first: Whether it is the first member, which is held constant.
        needs_start: Whether it is the members' starting values.
    """

    split: Callable[[Sequence[Tensor], Sequence[Tensor] | None], Split]
    scale: Callable[[int], float] = lambda _: 1.0
    min_members: int = 1
    compares_members: bool = False
    is_zero: bool = False
    is_mean: bool = False
    follows_first: bool = False
    needs_start: bool = False

    @property
    def is_separate(self) -> bool:
        """Whether each member has a center of its own that is known to stay."""
        return self.is_zero or self.follows_first or self.needs_start


def _zero(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> Split:
    return [w.new_zeros(()) for w in members], list(members)


def mean(members: Sequence[Tensor]) -> Tensor:
    """Return the members' mean; of equal members it is exactly that member.

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


def _mean(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> Split:
    # Counted from the first member, so that what members have in common leaves no rounding errors:
    # the mean of equal members is exactly that member, and deviations sum to zero however close the
    # members are.
    first = members[0]
    if len(members) > _MANY:
        stacked = torch.stack(list(members)) - first
        offset = stacked.mean(dim=0)
        return [first + offset] * len(members), list((stacked - offset).unbind())
    offsets = [w - first for w in members]
    offset = sum(offsets[1:], offsets[0]) / len(members)
    return [first + offset] * len(members), [o - offset for o in offsets]


def _first(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> Split:
    first = members[0].detach()
    return [first] * len(members), [torch.zeros_like(first), *(w - first for w in members[1:])]


def _start(members: Sequence[Tensor], start: Sequence[Tensor] | None) -> Split:
    assert start is not None
    origins = [s.to(w) for s, w in zip(start, members, strict=True)]
    return origins, [w - s for w, s in zip(members, origins, strict=True)]


CENTERS: dict[str, Center] = {
    # c = 0: plain regularisation; several members are regularised jointly
    "zero": Center(_zero, is_zero=True),
    # c = the members' mean; with s = √N a group's norm is n² = Σ_{i<j} ‖W_i − W_j‖²
    "mean": Center(_mean, math.sqrt, min_members=2, compares_members=True, is_mean=True),
    # c = W_1, held constant: the others follow it
    "first": Center(_first, min_members=2, compares_members=True, follows_first=True),
    # c = the member's own value when training began (L2-SP)
    "start": Center(_start, needs_start=True),
}
