"""Proximal steps of members with different step sizes (learning rates).

The proximal operator weights the distance of member i by 1/t_i; a member of step 0 does not move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_share.functional._centers import Center


def check_steps(steps: Sequence[float], members: int) -> None:
    """Raise `ValueError` unless each member has a finite step ≥ 0."""
    if len(steps) != members:
        raise ValueError(
            f"step must be one number or one per member: got {len(steps)} steps for {members} "
            "members"
        )
    if any(not (math.isfinite(t) and t >= 0.0) for t in steps):
        shown = list(steps) if len(set(steps)) > 1 else steps[0]
        raise ValueError(f"a proximal step must be finite and at least 0, got step={shown}")


def common_step(steps: Sequence[float], center: Center) -> float | None:
    """Return the step of all members that can move; ``None`` if their steps differ."""
    if center.follows_first and len(steps) > 1:
        steps = steps[1:]
    if steps.count(steps[0]) < len(steps):
        return None
    return steps[0]


def prox_of_squared(
    members: Sequence[Tensor], points: Sequence[Tensor], steps: Sequence[float], is_mean: bool
) -> list[Tensor]:
    r"""Compute the proximal step of the squared penalty.

    With a constant center, :math:`V_i = c_i + (W_i - c_i) / (1 + t_i)`. With the mean as center,

    .. math::
        V_i = m + a_i (W_i - m), \qquad a_i = \frac{1}{1 + N t_i}, \qquad
        m = \frac{\sum_j a_j W_j}{\sum_j a_j}
    """
    if not is_mean:
        triples = zip(members, points, steps, strict=True)
        return [c + (w - c) / (1.0 + t) for w, c, t in triples]
    a = [1.0 / (1.0 + len(members) * t) for t in steps]
    m = torch.zeros_like(members[0])
    for member, a_i in zip(members, a, strict=True):
        m.add_(member, alpha=a_i / sum(a))
    return [torch.lerp(m, w, a_i) for w, a_i in zip(members, a, strict=True)]


def prox_of_pair(
    members: Sequence[Tensor], difference: Tensor, steps: Sequence[float]
) -> list[Tensor]:
    r"""Compute the proximal step of a pair, given its difference after the step t_A + t_B.

    With :math:`\delta = V_A - V_B`, the mean weighted by 1/t does not move:

    .. math::
        m = \frac{t_B W_A + t_A W_B}{t_A + t_B}, \qquad
        V_A = m + \frac{t_A}{t_A + t_B} \delta, \qquad V_B = m - \frac{t_B}{t_A + t_B} \delta
    """
    a, b = members
    fraction = steps[0] / sum(steps)
    mean = torch.lerp(a, b, fraction)
    return [
        torch.add(mean, difference, alpha=fraction),
        torch.add(mean, difference, alpha=fraction - 1.0),
    ]
