r"""Compute the proximal step of all pairs of numbers, by sorting and isotonic regression.

.. math::
    \arg\min_z \tfrac12 \lVert z - x \rVert^2 + t \sum_{i<j} \lvert z_i - z_j \rvert

keeps the order of the numbers. So with :math:`x_{(1)} \le \dots \le x_{(N)}` it is the isotonic
regression of :math:`x_{(k)} - t (2k - N - 1)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_share.functional._fused import compile_loop

_Array: TypeAlias = NDArray[np.floating[Any]]


def fuse_all_pairs(members: Sequence[Tensor], step: float) -> list[Tensor]:
    """Take the proximal step of each element, exactly.

    Args:
        members: N tensors of one shape.
        step: The step t > 0, times the weight of the edges.

    Returns:
        New tensors like the members. Equal elements are equal bit by bit.

    Example:
        >>> fuse_all_pairs([torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([9.0])], 0.5)
        [tensor([2.]), tensor([2.]), tensor([8.])]

    Source:
        Hocking, Joulin, Bach, Vert: *Clusterpath: an Algorithm for Clustering using Convex Fusion
        Penalties*, ICML 2011, Section 2; Best, Chakravarti: *Active Set Algorithms for Isotonic
        Regression*, Mathematical Programming 1990.
    """
    shape, count = members[0].shape, len(members)
    x, order = torch.stack([w.flatten() for w in members]).sort(dim=0, stable=True)
    # Offsets from the lowest number, which equal numbers have in common without rounding.
    offset = x - x[:1]
    pull = step * (2.0 * torch.arange(count, dtype=x.dtype, device=x.device) - (count - 1))
    y = offset - pull.unsqueeze(1)
    pooled = _pools(y, is_equal=offset.diff(dim=0) == 0.0)
    sums = torch.zeros_like(y).scatter_add_(0, pooled, y)
    sizes = torch.zeros_like(y).scatter_add_(0, pooled, torch.ones_like(y))
    means = (sums / sizes.clamp_min(1.0)).gather(0, pooled) + x[:1]
    moved = torch.empty_like(means).scatter_(0, order, means)
    return [v.view(shape) for v in moved.unbind()]


def fuse_within(tensor: Tensor, step: float) -> Tensor:
    """Take the proximal step of all pairs of numbers of one tensor, exactly.

    The numbers are sorted on their device. Regression is sequential, so it runs on the host.

    Args:
        tensor: Tensor of n numbers, in float32 or float64.
        step: The step t > 0, times the weight of the pairs.

    Returns:
        New tensor like ``tensor``. Equal numbers are equal bit by bit, also 0.0 and −0.0.

    Example:
        >>> fuse_within(torch.tensor([2.0, 9.0, 1.0]), 0.5)
        tensor([2., 8., 2.])

    Source:
        See `fuse_all_pairs`.
    """
    x, order = tensor.flatten().sort()
    values = x.numpy(force=True)
    moved = np.empty_like(values)
    loop = _loop(values.dtype)
    if loop is None:
        moved[:] = fuse_plainly(values, step)
    else:
        loop(values, float(step), moved)
    on_device = torch.from_numpy(moved).to(x.device)
    return x.scatter_(0, order, on_device).view(tensor.shape)


def fuse_plainly(values: _Array, step: float) -> _Array:
    """Return ascending numbers after the step, in float64.

    It is the specification of `_isotonic_loops.fuse_sorted`, and computes what that declines.
    """
    # Only this function needs SciPy's optimizers, which take 0.25 s and 30 MB to import.
    from scipy.optimize import isotonic_regression

    # Equal numbers are one point, as the means of equal numbers may be rounded differently.
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    end = np.append(first[1:], len(values))
    pulled = values[first] - step * (first + end - len(values))
    fused: _Array = isotonic_regression(pulled, weights=end - first).x
    return np.repeat(fused, end - first)


@cache
def _loop(dtype: np.dtype[Any]) -> Callable[..., None] | None:
    empty = np.empty(0, dtype)
    loop: Callable[..., None] | None = compile_loop("fuse_sorted", empty, 1.0, empty)
    return loop


def _pools(y: Tensor, is_equal: Tensor) -> Tensor:
    """Return the index of the pool of each number, of isotonic regression along dim 0.

    Args:
        y: The numbers, a column for each regression.
        is_equal: Whether a number and the next must be in one pool.
    """
    count = len(y)
    pools = torch.zeros_like(y, dtype=torch.int64)
    pools[1:] = (~is_equal).cumsum(0)
    # Each round merges all pools that are not above the pool before, and there are N at most.
    for _ in range(count):
        sums = torch.zeros_like(y).scatter_add_(0, pools, y)
        sizes = torch.zeros_like(y).scatter_add_(0, pools, torch.ones_like(y))
        means = (sums / sizes.clamp_min(1.0)).gather(0, pools)
        is_new = pools.diff(dim=0) > 0
        is_above = means.diff(dim=0) > 0.0
        if bool((is_above | ~is_new).all()):
            break
        pools[1:] = (is_new & is_above).cumsum(0)
    return pools
