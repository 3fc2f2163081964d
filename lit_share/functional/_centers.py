"""Centers: the point that each member of a tie is pulled towards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

CenterName = Literal["zero", "mean", "first", "start"]


class Center(NamedTuple):
    """Where the members W_1 … W_N are pulled to, and the scale s of their deviations D_i = s·(W_i − c_i).

    ``point(members, start)`` returns c_1 … c_N, tensors that broadcast to the members' shape.
    """

    point: Callable[[Sequence[Tensor], Sequence[Tensor] | None], list[Tensor]]
    scale: Callable[[int], float] = lambda _: 1.0
    min_members: int = 1


def _zero(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> list[Tensor]:
    return [w.new_zeros(()) for w in members]


def mean(members: Sequence[Tensor]) -> Tensor:
    """The members' mean; of equal members it is exactly that member.

    Args:
        members: N ≥ 1 tensors of one shape, dtype and device.

    Returns:
        New tensor like each member.

    Example:
        >>> mean([torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])])
        tensor([1., 3.])
    """
    first, *others = members
    offset = torch.zeros_like(first)
    for other in others:
        offset += other - first
    return torch.add(first, offset, alpha=1.0 / len(members))


def _mean(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> list[Tensor]:
    return [mean(members)] * len(members)


def _first(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> list[Tensor]:
    return [members[0]] * len(members)


def _start(members: Sequence[Tensor], start: Sequence[Tensor] | None) -> list[Tensor]:
    if start is None or [s.shape for s in start] != [w.shape for w in members]:
        raise ValueError(
            'center="start" pulls every member to its own starting value: pass start=, one tensor per member, '
            "of the members' shape"
        )
    return [s.to(w) for s, w in zip(start, members, strict=True)]


CENTERS: dict[CenterName, Center] = {
    # c = 0: plain regularisation; several members are regularised jointly
    "zero": Center(_zero),
    # c = the members' mean; with s = √N a group's norm is n² = Σ_{i<j} ‖W_i − W_j‖², so ‖W_A − W_B‖ for a pair
    "mean": Center(_mean, scale=math.sqrt, min_members=2),
    # c = W_1, held constant: the others follow it
    "first": Center(_first, min_members=2),
    # c = the member's own value when training began (L2-SP)
    "start": Center(_start),
}
