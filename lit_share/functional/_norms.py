"""Norms: functions of the vector n ≥ 0 of group norms, each with its derivative and its proximal operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_share.functional._owl import _prox_owl

NormName = Literal["squared", "l1", "owl"]


class Norm(NamedTuple):
    r"""A function :math:`\omega` of the group norms n, given by three formulas.

    Each formula takes ``n`` of shape ``(groups,)`` and the OWL weights ``w`` of the same shape (``None`` for a norm
    that has none).
    """

    value: Callable[[Tensor, Tensor | None], Tensor]  # ω(n)
    derivative: Callable[[Tensor, Tensor | None], Tensor]  # ∂ω/∂n_g
    prox: Callable[[Tensor, Tensor | None, float], Tensor]  # argmin_r ½‖r − n‖² + t·ω(r)
    weighted: bool = False  # whether it has OWL weights
    smooth: bool = False  # whether every element is pulled by its own deviation: ω'(n) = n, so groups do not matter


def _owl_value(n: Tensor, w: Tensor | None) -> Tensor:
    assert w is not None
    return (n.sort(descending=True).values * w.to(n)).sum()


def _owl_derivative(n: Tensor, w: Tensor | None) -> Tensor:
    assert w is not None
    return torch.empty_like(n).index_copy_(0, n.argsort(descending=True, stable=True), w.to(n))


def _owl_prox(n: Tensor, w: Tensor | None, t: float) -> Tensor:
    assert w is not None
    return _prox_owl(n, t * w)


NORMS: dict[NormName, Norm] = {
    # ½ Σ n²
    "squared": Norm(
        value=lambda n, _: 0.5 * n.square().sum(),
        derivative=lambda n, _: n,
        prox=lambda n, _, t: n / (1.0 + t),
        smooth=True,
    ),
    # Σ n
    "l1": Norm(
        value=lambda n, _: n.sum(),
        derivative=lambda n, _: torch.ones_like(n),
        prox=lambda n, _, t: (n - t).clamp_min(0.0),
    ),
    # Σ w_k n_(k), n sorted in descending order
    "owl": Norm(value=_owl_value, derivative=_owl_derivative, prox=_owl_prox, weighted=True),
}
