"""Proximal steps of members that move with different step sizes (learning rates).

The proximal operator then weights the distance of member i by 1/t_i. Frozen members have t_i = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_share.functional._centers import Center


def per_member(step: float | Sequence[float], members: int) -> list[float]:
    """The step of each member, where one number stands for all."""
    return [float(step)] * members if isinstance(step, (int, float)) else [float(t) for t in step]


def common_step(step: float | Sequence[float], members: int, center: Center) -> float | list[float]:
    """The one step of all members that move, or the list of their steps where these differ.

    Raises:
        ValueError: If a step is negative or not finite, or there is not one step per member.
    """
    if isinstance(step, float) and 0.0 <= step < math.inf:
        return step  # asked for every tie in every step
    steps = per_member(step, members)
    if len(steps) != members:
        raise ValueError(
            f"step must be one number or one per member: got {len(steps)} steps for {members} members"
        )
    if any(not (math.isfinite(t) and t >= 0.0) for t in steps):
        raise ValueError(f"a proximal step must be finite and at least 0, got step={step}")
    moving = steps[1:] if center.holds_first else steps
    return steps[0] if not moving else moving[0] if len(set(moving)) == 1 else steps


def prox_of_squared(
    members: Sequence[Tensor], point: Sequence[Tensor], steps: Sequence[float], coupled: bool
) -> list[Tensor]:
    r"""Prox of the squared penalty.

    With a fixed center, members are independent: :math:`V_i = c_i + (W_i - c_i) / (1 + t_i)`. Coupled by their mean,

    .. math::
        V_i = m + a_i (W_i - m), \qquad a_i = \frac{1}{1 + N t_i}, \qquad m = \frac{\sum_j a_j W_j}{\sum_j a_j}
    """
    if not coupled:
        return [c + (w - c) / (1.0 + t) for w, c, t in zip(members, point, steps, strict=True)]
    count = len(members)
    shares = [1.0 / (1.0 + count * t) for t in steps]
    mean = torch.zeros_like(members[0])
    for member, share in zip(members, shares, strict=True):
        mean.add_(member, alpha=share / sum(shares))
    return [torch.lerp(mean, w, a) for w, a in zip(members, shares, strict=True)]


def prox_of_pair(
    members: Sequence[Tensor], difference: Tensor, steps: Sequence[float]
) -> list[Tensor]:
    r"""Prox of a pair, given what becomes of its difference :math:`\delta = V_A - V_B` under the step t_A + t_B.

    The mean that stays where it is, is the one weighted by 1/t:

    .. math::
        m = \frac{t_B W_A + t_A W_B}{t_A + t_B}, \qquad
        V_A = m + \frac{t_A}{t_A + t_B} \delta, \qquad V_B = m - \frac{t_B}{t_A + t_B} \delta
    """
    a, b = members
    share = steps[0] / sum(steps)
    mean = torch.lerp(a, b, share)
    return [
        torch.add(mean, difference, alpha=share),
        torch.add(mean, difference, alpha=share - 1.0),
    ]
