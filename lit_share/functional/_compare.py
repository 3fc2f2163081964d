"""How far the members of a tie are apart, in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_share.functional._fused import FusedComparison, is_loopable
from lit_share.functional._tie_tensors import float64_on

# Elements of a block on the plain path, which is copied to float64.
_BLOCK = 2**19


class Comparison(NamedTuple):
    r"""Sums over the elements of N tied members, which add up over ties.

    Attributes:
        between: :math:`\sum_{i<j} \lVert W_i - W_j \rVert^2`.
        size: :math:`(N - 1) \sum_i \lVert W_i \rVert^2`.
        equal: The number of elements in which all members are exactly equal.
        numel: The number of elements of a member.
    """

    between: float
    size: float
    equal: int
    numel: int

    @classmethod
    def total(cls, comparisons: Sequence[Comparison]) -> Comparison:
        """Return the sums over several ties."""
        start = cls(0.0, 0.0, 0, 0)
        return cls(*map(sum, zip(start, *comparisons, strict=True)))

    @property
    def distance(self) -> float:
        """The relative distance, sqrt(between / size), and 0 if all members are zero."""
        if self.size > 0.0:
            return math.sqrt(self.between / self.size)
        return 0.0

    @property
    def tied(self) -> float:
        """The fraction of elements in which all members are exactly equal."""
        return self.equal / max(self.numel, 1)


@torch.no_grad()
def compare_members(members: Sequence[Tensor]) -> Comparison:
    """Return the sums that distances and the fraction of tied elements are made of.

    Args:
        members: N ≥ 2 dense tensors of one shape.

    Example:
        >>> compare_members([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])])
        Comparison(between=4.0, size=6.0, equal=1, numel=2)
    """
    members = [member.detach() for member in members]
    if is_loopable(members):
        between, size, equal = FusedComparison([members]).sums().tolist()
    else:
        between, size, equal = _plain_sums(members).tolist()
    return Comparison(between, size, int(equal), members[0].numel())


def _plain_sums(members: Sequence[Tensor]) -> Tensor:
    """Return (between, size, equal) as a tensor, so that a device is waited for once."""
    count, wide = len(members), float64_on(members[0].device)
    total = torch.zeros(3, dtype=wide, device=members[0].device)
    for blocks in zip(*(member.reshape(-1).split(_BLOCK) for member in members), strict=True):
        # In float16, squares of numbers above 256 would overflow.
        stacked = torch.stack([block.to(wide) for block in blocks])
        # Σ_{i<j} |W_i − W_j|² = N Σ_i |W_i − mean|² takes N differences instead of N². The first
        # member is subtracted before the mean, so that equal members have distance exactly 0.
        offsets = stacked - stacked[0]
        deviations = offsets - offsets.mean(dim=0)
        equal = (stacked == stacked[0]).all(dim=0).sum()
        total[0] += count * deviations.square().sum()
        total[1] += (count - 1) * stacked.square().sum()
        total[2] += equal
    return total
