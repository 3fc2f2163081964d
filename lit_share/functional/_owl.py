"""Ordered weighted l1 (OWL): its weights and its proximal operator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


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
        n: Number of groups, at least 1.
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
    if n < 1:
        raise ValueError(f"owl_weights needs at least one group, got n={n}")
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
    (shrunk,) = prox_owl_of_each([flat.abs()], [weights], [1.0])
    return torch.copysign(shrunk, flat).view_as(values)


def check_owl_weights(weights: Tensor, n: int) -> None:
    """Raise if ``weights`` are not ``n`` finite, non-negative, non-increasing numbers."""
    if weights.shape != (n,):
        raise ValueError(f"OWL needs one weight per group: {n} groups, but weights of shape {tuple(weights.shape)}")
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("OWL weights must be finite")
    if not (bool((weights >= 0).all()) and bool((weights.diff() <= 0).all())):
        raise ValueError(
            "OWL weights must be non-negative and non-increasing (the largest group has the largest weight)"
        )


def prox_owl_of_each(values: Sequence[Tensor], weights: Sequence[Tensor], steps: Sequence[float]) -> list[Tensor]:
    """`prox_owl` of several vectors ≥ 0, each with its weights, known to be valid, times its step.

    All of them go to the host in one copy, and back in one.
    """
    from scipy.optimize import isotonic_regression  # a quarter of a second and 30 MB, which only this needs

    if not values:
        return []
    device, sizes = values[0].device, [v.numel() for v in values]
    descending = [v.sort(descending=True) for v in values]
    on_host = torch.cat([n.to(device) for n, _ in descending]).cpu()
    pooled = torch.empty_like(on_host)
    for n, r, w, t in zip(on_host.split(sizes), pooled.split(sizes), weights, steps, strict=True):
        target = torch.sub(n.double(), w.to("cpu", torch.float64), alpha=t)
        # SciPy's result can be a view with negative strides, which torch does not take.
        r.copy_(torch.from_numpy(isotonic_regression(target.numpy(), increasing=False).x.copy()).clamp_min_(0.0))
    return [
        torch.empty_like(v).index_copy_(0, order, r.to(v))
        for v, r, (_, order) in zip(values, pooled.to(device).split(sizes), descending, strict=True)
    ]
