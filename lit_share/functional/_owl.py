"""The ordered weighted l1 norm (OWL): its weights and its proximal operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_share.functional._fused import compile_loop

_Array: TypeAlias = NDArray[np.floating[Any]]
# The compiled loop has indices and counts of 32 bits.
_MOST = 2**32 - 1


def owl_weights(n: int, lambda1: float, lambda2: float, fraction: float = 1.0) -> Tensor:
    r"""Compute OWL weights: a ramp over the largest groups, and a constant for the others.

    .. math::
        w_k = \begin{cases}
            \Lambda_1 + (p - k + 1)\,\Lambda_2 & k \le p \\
            \Lambda_1 & k > p
        \end{cases}
        \qquad p = \lceil \text{fraction} \cdot n \rceil, \quad k = 1, \dots, n

    With ``fraction < 1`` this is the piecewise linear decay (PLD) of GrOWL, with ``fraction = 1``
    it is OSCAR, and with ``lambda2 = 0`` it is the lasso.

    Args:
        n: Number of groups, at least 0.
        lambda1: Weight of every group, at least 0, which drives groups to zero.
        lambda2: Step of the ramp, at least 0, which drives groups of similar norm to equal norms.
        fraction: Fraction of the groups that the ramp covers, in [0, 1].

    Returns:
        Float64 tensor of shape ``(n,)``, non-increasing and non-negative.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> owl_weights(5, lambda1=1.0, lambda2=0.5, fraction=0.6)
        tensor([2.5000, 2.0000, 1.5000, 1.0000, 1.0000], dtype=torch.float64)

    Source:
        Zhang, Wang, Figueiredo, Balzano: *Learning to Share: Simultaneous Parameter Tying and
        Sparsification in Deep Learning*, ICLR 2018, Section 3; Bondell, Reich: *Simultaneous
        Regression Shrinkage, Variable Selection and Supervised Clustering of Predictors with
        OSCAR*, Biometrics 2008.
    """
    if n < 0:
        raise ValueError(f"owl_weights needs a number of groups >= 0, got n={n}")
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"owl_weights needs 0 <= fraction <= 1, got fraction={fraction}")
    for name, value in (("lambda1", lambda1), ("lambda2", lambda2)):
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"owl_weights needs a finite {name} >= 0, got {name}={value}")
    # The product is rounded first, because 0.07 * 100 is a little more than 7.
    ramp = math.ceil(round(fraction * n, 9)) - torch.arange(n, dtype=torch.float64)
    return lambda1 + lambda2 * ramp.clamp_min(0.0)


def prox_owl(values: Tensor, weights: Tensor) -> Tensor:
    r"""Compute the proximal operator of the OWL norm, exactly.

    .. math::
        \operatorname{prox}(v) =
        \arg\min_x \tfrac12 \lVert x - v \rVert_2^2 + \sum_k w_k \lvert x \rvert_{(k)}

    where :math:`\lvert x \rvert_{(k)}` is the k-th largest magnitude. Sort the magnitudes, subtract
    the weights, project onto non-increasing sequences (isotonic regression), clip at zero, and
    restore order and signs.

    Args:
        values: Tensor of n finite numbers, of any shape and floating dtype.
        weights: n non-increasing, non-negative weights, multiplied by the step size.

    Returns:
        New tensor like ``values``.

    Raises:
        ValueError: If there are not n weights, or weights are negative or increase.

    Example:
        Large values are shrunk by more, and similar values become equal:

        >>> prox_owl(torch.tensor([3.0, -2.9, 0.5]), torch.tensor([1.0, 0.5, 0.5]))
        tensor([ 2.2000, -2.2000,  0.0000])

    Source:
        Bogdan, van den Berg, Sabatti, Su, Candès: *SLOPE: Adaptive Variable Selection via Convex
        Optimization*, Annals of Applied Statistics 2015, Algorithm 3.
    """
    _check_number(weights, values.numel())
    shrunk = _on_host(values).copy()
    _shrink_(shrunk.ravel(), weights.detach().to("cpu", torch.float64).numpy(), 1.0)
    return torch.from_numpy(shrunk).to(values)


def check_owl_weights(weights: Tensor, n: int) -> None:
    """Raise `ValueError` unless weights are n finite, non-negative, non-increasing numbers."""
    _check_number(weights, n)
    _check_order(weights.detach().to("cpu", torch.float64).numpy())


def _check_number(weights: Tensor, n: int) -> None:
    if weights.shape != (n,):
        raise ValueError(
            f"OWL needs one weight per group: {n} groups, but weights of shape "
            f"{tuple(weights.shape)}"
        )


def _check_order(w: _Array) -> None:
    if not np.isfinite(w).all():
        raise ValueError("OWL weights must be finite")
    if (w < 0.0).any() or (w[1:] > w[:-1]).any():
        raise ValueError(
            "OWL weights must be non-negative and non-increasing (the largest group has the "
            "largest weight)"
        )


def prox_owl_batched(
    values: Sequence[Tensor], weights: Sequence[Tensor], steps: Sequence[float]
) -> list[Tensor]:
    """Compute `prox_owl` of several vectors with one copy to the host and one back.

    Args:
        values: The vectors.
        weights: For each vector, valid weights in float64 on the host.
        steps: For each vector, the factor of its weights.
    """
    if not values:
        return []
    device, sizes = values[0].device, [v.numel() for v in values]
    together = _on_host(torch.cat([v.to(device) for v in values]).cpu())
    begin = 0
    for size, w, step in zip(sizes, weights, steps, strict=True):
        _shrink_(together[begin : begin + size], w.numpy(), step)
        begin += size
    on_device = torch.from_numpy(together).to(device).split(sizes)
    return [r.to(v) for r, v in zip(on_device, values, strict=True)]


def _on_host(tensor: Tensor) -> _Array:
    """Return the numbers of a tensor, which may be a view."""
    # NumPy has no bfloat16.
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    array: _Array = tensor.numpy(force=True)
    return array


def _shrink_(v: _Array, w: _Array, step: float) -> None:
    """Take the proximal step of a contiguous vector in place, or raise if weights are not valid."""
    # The loop trusts their lengths.
    assert len(v) == len(w)
    loop, w = _loop(v.dtype), np.ascontiguousarray(w, np.float64)
    if loop is None or len(v) > _MOST:
        _check_order(w)
        v[:] = shrink_plainly(v, step * w)
    elif not loop(v, w, float(step)):
        _check_order(w)  # says what is wrong with them


@cache
def _loop(dtype: np.dtype[Any]) -> Callable[..., bool] | None:
    if dtype not in (np.float32, np.float64):
        return None
    loop: Callable[..., bool] | None = compile_loop(
        "shrink_owl", np.empty(0, dtype), np.empty(0), 1.0
    )
    return loop


def shrink_plainly(v: _Array, w: _Array) -> _Array:
    """Return numbers ``v`` after OWL's proximal step with descending weights ``w``.

    It is the specification of `_loops.shrink_owl`, and computes what that declines.
    """
    # Only this function needs SciPy's optimizers, which take 0.25 s and 30 MB to import.
    from scipy.optimize import isotonic_regression

    if len(v) == 0:
        return np.empty_like(v)
    # Equal magnitudes are one point, as the means of equal numbers may be rounded differently.
    magnitudes, points, sizes = np.unique(np.abs(v), return_inverse=True, return_counts=True)
    mean_weights = np.bincount(np.sort(points), weights=w[::-1]) / sizes
    pools = isotonic_regression(magnitudes - mean_weights, weights=sizes)
    first = pools.blocks[:-1]
    # A mean may be rounded up, and the result must not exceed the magnitude.
    shrunk = np.maximum(np.minimum(pools.x[first], magnitudes[first]), 0.0)
    shrunk = np.repeat(shrunk, np.diff(pools.blocks))[points]
    result: _Array = np.copysign(shrunk, v).astype(v.dtype)
    return result
