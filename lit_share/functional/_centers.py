"""Centers: the points that the members of a tie are pulled towards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lit_share.functional._edges import EDGES, Graph

CenterName = Literal["zero", "mean", "first", "start", "graph"]
# The center of pairs, whose steps on graphs are those towards their mean.
MEAN: CenterName = "mean"
Split = tuple[list[Tensor], list[Tensor]]

# For more members than this, one operation on their stack is faster than one on each member.
_MANY = 8


def _unchanged(deviations: Sequence[Tensor], _: int) -> list[Tensor]:
    return list(deviations)


@dataclass(frozen=True)
class Center:
    """A linear map from members to deviations, with its transposed map.

    The deviations are D_i = s·(W_i − c_i) with a point c_i for each member, or the differences of
    members along edges. Unless there are edges, a center must be held constant or be an orthogonal
    projection of the members, as their mean is: otherwise the closed forms of gradient and proximal
    step do not hold.

    Attributes:
        split: Split the members, given their starting values, into the points c_1 … c_N, which
            broadcast to their shape, and the unscaled deviations W_1 − c_1 … W_N − c_N. With edges
            there are no points, and a deviation for each edge.
        adjoint: Apply the transposed map to deviations, given the number of members.
        scale: Return s for a number of members.
        min_members: The fewest members allowed.
        compares_members: Whether the center depends on the other members.
        is_zero: Whether the center is zero, so that groups at the center are zeros.
        is_mean: Whether the center is the members' mean.
        follows_first: Whether the center is the first member, held constant.
        needs_start: Whether the center is each member's starting value.
        has_edges: Whether there is a deviation for each edge between members, each with groups of
            its own, rather than groups that span the deviations of all members.
    """

    split: Callable[[Sequence[Tensor], Sequence[Tensor] | None], Split]
    scale: Callable[[int], float] = lambda _: 1.0
    adjoint: Callable[[Sequence[Tensor], int], list[Tensor]] = _unchanged
    min_members: int = 1
    compares_members: bool = False
    is_zero: bool = False
    is_mean: bool = False
    follows_first: bool = False
    needs_start: bool = False
    has_edges: bool = False

    @property
    def is_separate(self) -> bool:
        """Whether the center is known to be constant, so that members move independently."""
        return self.is_zero or self.follows_first or self.needs_start

    def blocks(self, deviations: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the lists of deviations that groups span: all together, or each alone."""
        if self.has_edges:
            return [[deviation] for deviation in deviations]
        return [list(deviations)]

    def on(self, graph: Graph) -> Center:
        """Return this center with the edges of a graph."""
        return replace(
            self,
            split=lambda members, _: ([], graph.deviations(members)),
            adjoint=graph.adjoint,
        )


def _zero(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> Split:
    return [w.new_zeros(()) for w in members], list(members)


def mean(members: Sequence[Tensor]) -> Tensor:
    """Return the members' mean, which for equal members is exactly that member.

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
    # The mean is taken of differences from the first member, so that values in common leave no
    # rounding errors: the mean of equal members is exactly that member, and deviations sum to zero
    # however close the members are.
    first = members[0]
    if len(members) > _MANY:
        stacked = torch.stack(list(members)) - first
        offset = stacked.mean(dim=0)
        return [first + offset] * len(members), list((stacked - offset).unbind())
    offsets = [w - first for w in members]
    offset = sum(offsets[1:], offsets[0]) / len(members)
    return [first + offset] * len(members), [o - offset for o in offsets]


def _first(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> Split:
    # The center is held constant, so no gradient reaches the first member.
    first = members[0].detach()
    return [first] * len(members), [torch.zeros_like(first), *(w - first for w in members[1:])]


def _start(members: Sequence[Tensor], start: Sequence[Tensor] | None) -> Split:
    assert start is not None
    origins = [s.to(w) for s, w in zip(start, members, strict=True)]
    return origins, [w - s for w, s in zip(members, origins, strict=True)]


def _all_pairs(members: Sequence[Tensor], _: Sequence[Tensor] | None) -> Split:
    pairs = EDGES["all"].pairs(len(members))
    return [], [members[i] - members[j] for i, j in pairs]


CENTERS: dict[str, Center] = {
    # c = 0 is plain regularisation; several members are regularised jointly.
    "zero": Center(_zero, is_zero=True),
    # c is the members' mean; s = √N makes the group norms n² = Σ_{i<j} ‖W_i − W_j‖².
    "mean": Center(_mean, math.sqrt, min_members=2, compares_members=True, is_mean=True),
    # c = W_1 is held constant, and the others follow it.
    "first": Center(_first, min_members=2, compares_members=True, follows_first=True),
    # c_i is the member's starting value (L2-SP).
    "start": Center(_start, needs_start=True),
    # D_e = a_e (W_i − W_j) for the edges e = (i, j) of `Center.on`; all pairs without it.
    "graph": Center(_all_pairs, min_members=2, compares_members=True, has_edges=True),
}
