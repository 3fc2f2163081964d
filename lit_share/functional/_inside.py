r"""Compute penalties inside a tensor, whose n numbers are compared with each other.

.. math::
    \Omega(w) = \frac{1}{n - 1} \sum_{k < l} \lvert w_k - w_l \rvert
    \qquad \text{or} \qquad
    \Omega(w) = \frac{1}{n - 1} \sum_{k < l} \tfrac12 (w_k - w_l)^2

The weight 1 / (n − 1) of each pair makes a strength mean the same in tensors of all sizes: the
others together pull a number with at most the strength, as `lasso` pulls it to zero, or with the
strength times about its distance from the mean, as `l2` does from zero. Pairs are never listed:
sums over them are sums over the sorted numbers, or differences from the mean.

Functions take a penalty and ties that passed `Penalty.check`.

Source:
    Shakerinava, Sohrabi, Ravanbakhsh, Lacoste-Julien: *Weight-Sharing Regularization*, AISTATS
    2024, with the same weight of the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_share.functional._isotonic import fuse_within
from lit_share.functional._tie_tensors import TieTensors, as_wide, float64_on

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty


def check(penalty: Penalty, shapes: Sequence[Sequence[int]], has_precision: bool = False) -> None:
    """Raise `ValueError`, saying what to write instead, if a penalty cannot act inside a tensor."""
    norm, center = penalty.omega, penalty.centering
    if len(shapes) != 1:
        raise ValueError(f"inside a tensor there is a single member, got {len(shapes)}")
    if not (center.has_edges or center.is_mean):
        raise ValueError(
            f'center="{penalty.center}" does not compare the numbers of a tensor with each other: '
            "leave out [...], or write the recipe value_tie"
        )
    if not penalty.grouping.is_elementwise(2):
        raise ValueError(
            f'groups="{penalty.groups}" are not single numbers, which [...] compares: write '
            'groups="element", as the recipe value_tie does, or leave out [...]'
        )
    if center.has_edges and not penalty.edging.is_complete:
        raise ValueError(
            f'edges={penalty.edges!r} are not for the numbers of a tensor: write edges="all", as '
            "the recipe value_tie does"
        )
    knows = norm.quadratic or (norm.soft_threshold and center.has_edges)
    if not knows:
        raise ValueError(
            f'norm="{penalty.norm}" with center="{penalty.center}" has no step inside a tensor: '
            'write norm="l1" with center="graph", as the recipe value_tie does'
        )
    if has_precision or penalty.needs_precision:
        raise ValueError(
            "the numbers of a tensor cannot be compared with a precision: leave out precision, or "
            "[...]"
        )


def value(penalty: Penalty, tie: TieTensors, _: Tensor | None = None) -> Tensor:
    """Compute the penalty, in float64 where there is one, and return it in the members' dtype."""
    member = as_wide(tie.members[0])
    n = member.numel()
    if n < 2:
        return member.new_zeros(())
    x = member.flatten().to(float64_on(member.device))
    if penalty.omega.quadratic:
        total = 0.5 * n * (x - _mean(x)).square().sum()
    else:
        # Gap k is between k lower and n − k higher numbers. All terms are positive, so that sums of
        # a million keep their digits.
        gaps = x.sort().values.diff()
        below = torch.arange(1, n, dtype=x.dtype, device=x.device)
        total = (gaps * below * (n - below)).sum()
    return (total / (n - 1)).to(member.dtype)


def gradient(penalty: Penalty, tie: TieTensors, _: Tensor | None = None) -> list[Tensor]:
    """Compute the gradient in the dtype of computation; equal numbers do not pull each other."""
    member = as_wide(tie.members[0])
    n = member.numel()
    if n < 2:
        return [torch.zeros_like(member)]
    if penalty.omega.quadratic:
        return [n / (n - 1) * (member - _mean(member))]
    x, order = member.detach().flatten().sort()
    _, run, sizes = x.unique_consecutive(return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0)
    # The number of lower numbers minus that of higher ones.
    pull = (ends - sizes) - (n - ends)
    slope = pull.to(member.dtype)[run] / (n - 1)
    unsorted = torch.empty_like(slope).scatter_(0, order, slope).view_as(member)
    if member.requires_grad:
        # Second-order gradients are zero, and not missing.
        unsorted = unsorted + 0.0 * member
    return [unsorted]


def prox(
    penalty: Penalty, ties: Sequence[TieTensors], _: Sequence[Tensor | None] = ()
) -> Iterator[list[Tensor]]:
    """Take the proximal steps, in the dtype of computation."""
    for tie in ties:
        member, (step,) = as_wide(tie.members[0]), tie.steps
        yield [_prox_of_numbers(penalty, member, step)]


def statistics(penalty: Penalty, tie: TieTensors) -> None:
    """Return ``None``, as a tensor that is compared inside has no shards."""


prox_statistics = statistics


def _prox_of_numbers(penalty: Penalty, member: Tensor, step: float) -> Tensor:
    n = member.numel()
    if n < 2 or step == 0.0:
        return member.clone()
    if penalty.omega.quadratic:
        mean = _mean(member)
        return mean + (member - mean) / (1.0 + step * n / (n - 1))
    return fuse_within(member, step / (n - 1))


def _mean(member: Tensor) -> Tensor:
    """Return the mean; that of equal numbers is exactly this number."""
    first = member.flatten()[0]
    return first + (member - first).mean(dtype=float64_on(member.device)).to(member.dtype)
