"""Ordered weighted l1 (OWL): its weights and its proximal operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Vector: TypeAlias = NDArray[np.floating[Any]]
_BITS, _PLACES = np.uint64(32), np.uint64(2**32 - 1)


def owl_weights(n: int, lambda1: float, lambda2: float, fraction: float = 1.0) -> Tensor:
    r"""Weights of the OWL norm: a ramp over the largest groups, constant after it.

    .. math::
        w_k = \begin{cases}
            \Lambda_1 + (p - k + 1)\,\Lambda_2 & k \le p \\
            \Lambda_1 & k > p
        \end{cases}
        \qquad p = \lceil \text{fraction} \cdot n \rceil, \quad k = 1, \dots, n

    With ``fraction < 1`` this is the piecewise linear decay (PLD) of GrOWL; with ``fraction = 1`` the ramp covers
    all groups, which is OSCAR; with ``lambda2 = 0`` it is the lasso.

    Args:
        n: Number of groups, at least 0.
        lambda1: The weight that every group has, at least 0: drives groups to zero.
        lambda2: The step of the ramp, at least 0: drives groups of similar norm to equal norms.
        fraction: Share of the groups, in [0, 1], that the ramp covers.

    Returns:
        Float64 tensor of shape ``(n,)``, non-increasing and non-negative.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> owl_weights(5, lambda1=1.0, lambda2=0.5, fraction=0.6)
        tensor([2.5000, 2.0000, 1.5000, 1.0000, 1.0000], dtype=torch.float64)

    Source:
        Zhang, Wang, Figueiredo, Balzano: *Learning to Share: Simultaneous Parameter Tying and Sparsification in Deep
        Learning*, ICLR 2018, Section 3; Bondell, Reich: *Simultaneous Regression Shrinkage, Variable Selection and
        Supervised Clustering of Predictors with OSCAR*, Biometrics 2008.
    """
    if n < 0:
        raise ValueError(f"owl_weights needs a number of groups >= 0, got n={n}")
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"owl_weights needs 0 <= fraction <= 1, got fraction={fraction}")
    for name, value in (("lambda1", lambda1), ("lambda2", lambda2)):
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"owl_weights needs a finite {name} >= 0, got {name}={value}")
    # Rounded first, because 0.07 * 100 is a little more than 7.
    ramp = math.ceil(round(fraction * n, 9)) - torch.arange(n, dtype=torch.float64)
    return lambda1 + lambda2 * ramp.clamp_min(0.0)


def prox_owl(values: Tensor, weights: Tensor) -> Tensor:
    r"""Proximal operator of the OWL norm, exact.

    .. math::
        \operatorname{prox}(v) = \arg\min_x \tfrac12 \lVert x - v \rVert_2^2 + \sum_k w_k \lvert x \rvert_{(k)}

    where :math:`\lvert x \rvert_{(k)}` is the k-th largest magnitude. The magnitudes are sorted, the weights
    subtracted, the result projected onto non-increasing sequences (isotonic regression), clipped at zero, and
    sorted back with the signs.

    Args:
        values: Tensor of n finite numbers, of any shape and floating dtype.
        weights: n weights, non-increasing and non-negative, the step size already multiplied in.

    Returns:
        New tensor like ``values``.

    Raises:
        ValueError: If the number of weights is not the number of values, or the weights are negative or increase.

    Example:
        Large values are shrunk by more, and values that come close become equal:

        >>> prox_owl(torch.tensor([3.0, -2.9, 0.5]), torch.tensor([1.0, 0.5, 0.5]))
        tensor([ 2.2000, -2.2000,  0.0000])

    Source:
        Bogdan, van den Berg, Sabatti, Su, Candès: *SLOPE: Adaptive Variable Selection via Convex Optimization*,
        Annals of Applied Statistics 2015, Algorithm 3.
    """
    check_owl_weights(weights, values.numel())
    flat = values.detach().flatten()
    (shrunk,) = prox_owl_of_each([flat.abs()], [weights.detach().to("cpu", torch.float64)], [1.0])
    return torch.copysign(shrunk, flat).view_as(values)


def check_owl_weights(weights: Tensor, n: int) -> None:
    """Raise if ``weights`` are not ``n`` finite, non-negative, non-increasing numbers."""
    if weights.shape != (n,):
        raise ValueError(
            f"OWL needs one weight per group: {n} groups, but weights of shape {tuple(weights.shape)}"
        )
    on_host = weights.detach().cpu().numpy()
    if n == 0 or (
        on_host[-1] >= 0.0 and np.isfinite(on_host[0]) and (on_host[1:] <= on_host[:-1]).all()
    ):
        return
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("OWL weights must be finite")
    raise ValueError(
        "OWL weights must be non-negative and non-increasing (the largest group has the largest weight)"
    )


def prox_owl_of_each(
    values: Sequence[Tensor], weights: Sequence[Tensor], steps: Sequence[float]
) -> list[Tensor]:
    """`prox_owl` of several vectors ≥ 0, each with its weights, in float64 on the host and valid, times its step.

    All of them go to the host in one copy, and back in one.
    """
    if not values:
        return []
    device, sizes = values[0].device, [v.numel() for v in values]
    on_host = _joined([v.to(device) for v in values]).cpu()
    on_host = on_host.to(torch.promote_types(on_host.dtype, torch.float32))  # NumPy has no bfloat16
    each = zip(_parted(on_host, sizes), weights, steps, strict=True)
    shrunk = _joined([torch.from_numpy(_shrink(v.numpy(), t * w.numpy())) for v, w, t in each])
    return [r.to(v) for v, r in zip(values, _parted(shrunk.to(device), sizes), strict=True)]


def _joined(vectors: Sequence[Tensor]) -> Tensor:
    return vectors[0] if len(vectors) == 1 else torch.cat(list(vectors))


def _parted(vector: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    return [vector] if len(sizes) == 1 else vector.split(list(sizes))


def _shrink(v: _Vector, w: _Vector) -> _Vector:
    """The proximal operator of magnitudes ``v``."""
    from scipy.optimize import (
        isotonic_regression,
    )  # a quarter of a second and 30 MB, which only this needs

    result, place = np.zeros_like(v), None
    # What is not above the least weight becomes 0, and changes nothing of the others: of these weights the next.
    while len(v) and 2 * np.count_nonzero(above := ~(v <= w[len(v) - 1])) < len(
        v
    ):  # written so that NaN remains
        kept = np.flatnonzero(above)
        v, place = v[kept], kept if place is None else place[kept]
    magnitudes, order = _descending(v)
    pooled = isotonic_regression(magnitudes - w[: len(v)], increasing=False).x
    # At most the magnitude, as the mean of equal numbers may be rounded up.
    result[order if place is None else place[order]] = np.minimum(
        np.maximum(pooled, 0.0), magnitudes
    )
    return result


def _descending(v: _Vector) -> tuple[_Vector, NDArray[np.intp]]:
    """Numbers ≥ 0 in descending order, and where they stood.

    In single precision the bits of a number, as a whole number, are in its order, and beside them in 64 bits there is
    room for its place: to sort these is several times faster than to sort places by numbers.
    """
    if (v[:-1] >= v[1:]).all():
        return v, np.arange(len(v))
    if v.dtype != np.float32 or len(v) > _PLACES:
        order = np.argsort(v)[::-1]
        return v[order], order
    keys = np.abs(v).view(np.uint32).astype(np.uint64)  # -0.0 would be the largest
    keys <<= _BITS
    keys |= np.arange(len(v), dtype=np.uint64)
    keys.sort()
    keys = keys[::-1]
    return (keys >> _BITS).astype(np.uint32).view(np.float32), (keys & _PLACES).astype(np.intp)
