r"""Squared penalties whose elements have weights F ≥ 0, such as their Fisher information.

.. math::
    \Omega(W_1, \dots, W_N) = \tfrac{s^2}{2} \sum_i \sum_k F_{i,k} (W_{i,k} - c_{i,k})^2

A constant center c stays as it is, and the mean becomes the weighted mean, which minimises this sum
over c. All operations are on single elements, so shards and blocks need nothing of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_share.functional._centers import Center
from lit_share.functional._tie_tensors import TieTensors

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty


def value(penalty: Penalty, tie: TieTensors, _: Tensor | None = None) -> Tensor:
    r"""Compute :math:`\Omega`, in the dtype of computation."""
    center, (members, precision) = penalty.centering, _wide(tie)
    deviations = _split(center, members, tie.start, precision)[1]
    terms = [(f * d.square()).sum() for f, d in zip(precision, deviations, strict=True)]
    return 0.5 * center.scale(len(members)) ** 2 * sum(terms[1:], terms[0])


def gradient(penalty: Penalty, tie: TieTensors, _: Tensor | None = None) -> list[Tensor]:
    r"""Compute :math:`\nabla_{W_i} \Omega = s^2 F_i (W_i - c_i)`, in the dtype of computation.

    That the weighted mean depends on all members adds nothing (the envelope theorem), as the
    derivative of the sum by its minimiser c is zero.
    """
    center, (members, precision) = penalty.centering, _wide(tie)
    deviations = _split(center, members, tie.start, precision)[1]
    factor = center.scale(len(members)) ** 2
    return [factor * f * d for f, d in zip(precision, deviations, strict=True)]


def prox(
    penalty: Penalty, ties: Sequence[TieTensors], _: Sequence[Tensor | None] = ()
) -> Iterator[list[Tensor]]:
    r"""Compute the proximal steps of members of step sizes t_i, in the dtype of computation.

    .. math::
        V_i = c_i + a_i (W_i - c_i), \qquad a_i = \frac{1}{1 + t_i s^2 F_i}

    With the mean as center, c minimises what the members' own minimisation leaves of the objective,
    :math:`\sum_i s^2 F_i a_i (W_i - c)^2 / 2`, so it is the mean weighted by :math:`F_i a_i`.
    """
    for tie in ties:
        yield _prox_of_tie(penalty.centering, tie)


def statistics(penalty: Penalty, tie: TieTensors) -> None:
    """Return ``None``, as single elements need nothing of other shards."""


prox_statistics = statistics


def _prox_of_tie(center: Center, tie: TieTensors) -> list[Tensor]:
    members, precision = _wide(tie)
    factor = center.scale(len(members)) ** 2
    kept = [1.0 / (1.0 + t * factor * f) for t, f in zip(tie.steps, precision, strict=True)]
    weights = [f * a for f, a in zip(precision, kept, strict=True)]
    points, deviations = _split(center, members, tie.start, weights)
    moved = []
    for w, c, d, a in zip(members, points, deviations, kept, strict=True):
        # Without a pull, c + (w − c) would round.
        moved.append(torch.where(a == 1.0, w, c + a * d))
    return moved


def _wide(tie: TieTensors) -> tuple[list[Tensor], list[Tensor]]:
    """Return members and their precision in the dtype of computation."""
    assert tie.precision is not None
    members = tie.wide()
    return members, [f.to(w) for f, w in zip(tie.precision, members, strict=True)]


def _split(
    center: Center,
    members: Sequence[Tensor],
    start: Sequence[Tensor] | None,
    weights: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the points that members are pulled towards, and the deviations from them."""
    if not center.is_mean:
        return center.split(members, start)
    offset = _weighted_offset(members, weights)
    # Differences from the first member leave no rounding errors of values in common.
    deviations = [(w - members[0]) - offset for w in members]
    return [members[0] + offset] * len(members), deviations


def weighted_mean(members: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    r"""Return the mean of members, each element weighted: :math:`\sum_i F_i W_i / \sum_i F_i`.

    Args:
        members: N ≥ 1 tensors of one shape, dtype and device.
        weights: A tensor F_i ≥ 0 for each, of the same shape.

    Returns:
        New tensor like each member. Equal members are exactly their mean. Where all weights are 0,
        it is the first member.

    Example:
        >>> import torch
        >>> members = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 2.0])]
        >>> weighted_mean(members, [torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0])])
        tensor([2., 2.])
    """
    return members[0] + _weighted_offset(members, weights)


def _weighted_offset(members: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return the weighted mean minus the first member."""
    first = members[0]
    # Dividing by the largest weight keeps sums of tiny weights, such as 1e-40, from losing digits.
    largest = torch.stack([weight.to(first) for weight in weights]).amax(dim=0)
    unit = torch.where(largest > 0.0, largest, 1.0)
    fractions = [weight.to(first) / unit for weight in weights]
    offsets = [f * (w - first) for f, w in zip(fractions, members, strict=True)]
    # The sum of fractions is at least 1, or all are 0.
    total = sum(fractions[1:], fractions[0]).clamp_min(1.0)
    return sum(offsets[1:], offsets[0]) / total
