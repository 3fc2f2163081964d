r"""Compute the center of a star of numbers, exactly, by sorting.

The sum of the forces of N numbers on a center c,

.. math:: \sum_i \operatorname{clip}\Big(\frac{c - x_i}{t_i}, -a_i, a_i\Big)

rises with c and is linear between the 2N points :math:`x_i \pm a_i t_i`, where a member's force
reaches its bound :math:`a_i`; with :math:`t_i = 0` it jumps. The center is where it first reaches
0. That is the lowest of several centers if no member is within reach of them, and the members move
alike then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lit_share.functional._edges import Star
from lit_share.functional._fused import compile_loop, run_ranges
from lit_share.functional._tie_tensors import float64_on

# Members are at the center if their distance from it differs by less from what they may move, in
# units of the largest distance from the first member: a rounding error.
NOISE = 64.0 * torch.finfo(torch.float64).eps
# Elements of a block of numbers, whose temporaries stay in the cache.
_NUMBERS = 2**15
# A thread takes at least so many numbers.
_LEAST_PER_THREAD = 2**12


def prox_of_numbers(members: Sequence[Tensor], star: Star, steps: Sequence[float]) -> list[Tensor]:
    """Take the proximal step of members whose groups are single elements.

    Args:
        members: N tensors of one shape.
        star: The spokes.
        steps: The step of each member.

    Returns:
        New tensors like the members. Those at the center are equal bit by bit.

    Example:
        >>> members = [torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([9.0])]
        >>> prox_of_numbers(members, Star((1.0, 1.0, 1.0)), [1.0, 1.0, 1.0])
        [tensor([2.]), tensor([2.]), tensor([8.])]
    """
    stacked = torch.stack([w.flatten() for w in members])
    loop = None
    if stacked.is_cpu and stacked.dtype in (torch.float32, torch.float64):
        loop = _compiled(stacked.dtype)
    if loop is None:
        blocks = [prox_of_numbers_plainly(own, star, steps) for own in stacked.split(_NUMBERS, 1)]
        moved = torch.cat(blocks, dim=1)
    else:
        moved = torch.empty_like(stacked)
        arrays = (stacked.numpy(), np.array(star.weights), np.array(steps), moved.numpy())
        run_ranges(lambda a, b: loop(*arrays, a, b), stacked.shape[1], _LEAST_PER_THREAD)
    return [v.view(members[0].shape) for v in moved.unbind()]


@cache
def _compiled(dtype: torch.dtype) -> Callable[..., None] | None:
    """Return the compiled loop for numbers of a dtype; ``None`` without Numba."""
    table, steps = torch.empty((0, 0), dtype=dtype).numpy(), np.empty(0)
    arguments = (table, steps, steps, table, 0, 0)
    loop: Callable[..., None] | None = compile_loop("star_of_numbers", *arguments)
    return loop


def prox_of_numbers_plainly(numbers: Tensor, star: Star, steps: Sequence[float]) -> Tensor:
    """Take the proximal step of numbers in torch: the specification of the compiled loop.

    Args:
        numbers: The numbers of N members, of shape ``(N, n)``.
        star: The spokes.
        steps: The step of each member.

    Returns:
        New tensor like ``numbers``.
    """
    wide = numbers.to(float64_on(numbers.device))
    # Offsets keep the digits in which the members differ.
    x = wide - wide[:1]
    weights, step = (x.new_tensor(own).unsqueeze(1) for own in (star.weights, steps))
    most = weights * step
    points = torch.cat([x - most, x + most]).sort(dim=0).values

    def forces(point: Tensor) -> Tensor:
        difference = point - x
        # At a jump, the upper end counts.
        jump = torch.where(difference < 0.0, -weights, weights)
        proportional = difference / torch.where(step > 0.0, step, 1.0)
        proportional = torch.maximum(torch.minimum(proportional, weights), -weights)
        return torch.where(step > 0.0, proportional, jump).sum(0)

    low = torch.zeros_like(points[0], dtype=torch.int64)
    high = torch.full_like(low, len(points) - 1)
    for _ in range(len(points).bit_length()):
        middle = (low + high) // 2
        is_above = forces(points.gather(0, middle.unsqueeze(0))) >= 0.0
        low = torch.where(is_above, low, torch.minimum(middle + 1, high))
        high = torch.where(is_above, middle, high)
    upper, lower = (points.gather(0, own.unsqueeze(0)) for own in (low, (low - 1).clamp_min(0)))
    is_above, is_below = x - most >= upper, x + most <= lower
    in_reach = ~(is_above | is_below) & (step > 0.0)
    inverse = torch.where(in_reach, 1.0 / torch.where(step > 0.0, step, 1.0), 0.0)
    # Distances are taken from the first of these members, which equal ones do not leave.
    base = x.gather(0, in_reach.to(torch.int8).argmax(0, keepdim=True))
    full = torch.where(is_above, weights, torch.where(is_below, -weights, 0.0))
    sums = (full + inverse * (x - base)).sum(0)
    total = inverse.sum(0)
    between = base + sums / torch.where(total > 0.0, total, 1.0)
    center = torch.where(total > 0.0, torch.maximum(torch.minimum(between, upper), lower), upper)
    common = (wide[:1] + center).to(numbers.dtype)
    is_fixed = (step == 0.0) & (x == center)
    fixed = numbers.gather(0, is_fixed.to(torch.int8).argmax(0, keepdim=True))
    common = torch.where(is_fixed.any(0, keepdim=True), fixed, common)
    away = center - x
    is_near = away.abs() <= most + NOISE * x.abs().amax(0)
    moved = torch.where(is_near, common, (wide + most * away.sign()).to(numbers.dtype))
    return torch.where(step > 0.0, moved, numbers)
