"""Norms: functions of the vector n ≥ 0 of group norms, each with its derivative and its proximal operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_share.functional._owl import prox_owl_of_each

NormName = Literal["squared", "l1", "owl"]


class Norm(NamedTuple):
    r"""A function :math:`\omega` of the group norms n, given by three formulas.

    Each formula takes ``n`` of shape ``(groups,)`` and the OWL weights ``w`` of the same shape (``None`` for a norm
    that has none). The proximal operator, :math:`\arg\min_r \tfrac12 \lVert r - n \rVert^2 + t\,\omega(r)`, takes the
    n, w and t of several ties, and returns the r of each.
    """

    value: Callable[[Tensor, Tensor | None], Tensor]  # ω(n)
    derivative: Callable[[Tensor, Tensor | None], Tensor]  # ∂ω/∂n_g
    prox: Callable[[Sequence[Tensor], Sequence[Tensor | None], Sequence[float]], list[Tensor]]
    weighted: bool = False  # whether it has OWL weights
    smooth: bool = False  # whether every element is pulled by its own deviation: ω'(n) = n, so groups do not matter


def _owl_value(n: Tensor, w: Tensor | None) -> Tensor:
    assert w is not None
    return (n.sort(descending=True).values * w.to(n)).sum()


def _owl_derivative(n: Tensor, w: Tensor | None) -> Tensor:
    assert w is not None
    return torch.empty_like(n).index_copy_(0, n.argsort(descending=True, stable=True), w.to(n))


def _owl_prox(n: Sequence[Tensor], w: Sequence[Tensor | None], t: Sequence[float]) -> list[Tensor]:
    return prox_owl_of_each(n, [weights for weights in w if weights is not None], t)


def _each(prox: Callable[[Tensor, float], Tensor]) -> Callable[..., list[Tensor]]:
    """The operator of a norm whose ties have nothing to share."""
    return lambda n, _, t: [prox(norms, step) for norms, step in zip(n, t, strict=True)]


NORMS: dict[NormName, Norm] = {
    # ½ Σ n²
    "squared": Norm(
        value=lambda n, _: 0.5 * n.square().sum(),
        derivative=lambda n, _: n,
        prox=_each(lambda n, t: n / (1.0 + t)),
        smooth=True,
    ),
    # Σ n
    "l1": Norm(
        value=lambda n, _: n.sum(),
        derivative=lambda n, _: torch.ones_like(n),
        prox=_each(lambda n, t: (n - t).clamp_min(0.0)),
    ),
    # Σ w_k n_(k), n sorted in descending order
    "owl": Norm(value=_owl_value, derivative=_owl_derivative, prox=_owl_prox, weighted=True),
}
