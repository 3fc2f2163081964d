"""Norms: functions of the vector n ≥ 0 of group norms, with their proximal operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_share.functional._owl import prox_owl_batched

NormName = Literal["squared", "l1", "owl"]
Prox = Callable[[Sequence[Tensor], Sequence[Tensor | None], Sequence[float]], list[Tensor]]


@dataclass(frozen=True)
class Norm:
    r"""A function :math:`\omega` of the group norms n, with formulas and properties.

    Attributes:
        value: Return :math:`\omega(n)`, given ``n`` of shape ``(groups,)`` and OWL weights ``w`` of
            the same shape, or ``None``.
        derivative: Return :math:`\partial\omega / \partial n_g`, given n and w.
        prox: Return :math:`\arg\min_r \tfrac12 \lVert r - n \rVert^2 + t\,\omega(r)` for each of
            several ties, given their n, w and t. ``None`` if there is no closed form: the penalty
            can then only be applied as a gradient.
        weighted: Whether the norm has OWL weights, which couple all groups of a tie.
        smooth: Whether the norm is differentiable everywhere as a function of the weights.
        quadratic: Whether :math:`\omega'(n) = n`, so that the gradient of an element is its own
            deviation, whatever the groups.
        homogeneous: Whether :math:`\omega(s\,n) = s\,\omega(n)` for s ≥ 0: only then a group of p
            elements counts :math:`\sqrt p`-fold.
        soft_threshold: Whether the proximal operator is :math:`r_g = (n_g - t)_+`.
    """

    value: Callable[[Tensor, Tensor | None], Tensor]
    derivative: Callable[[Tensor, Tensor | None], Tensor]
    prox: Prox | None = None
    weighted: bool = False
    smooth: bool = False
    quadratic: bool = False
    homogeneous: bool = False
    soft_threshold: bool = False

    @property
    def makes_exact(self) -> bool:
        """Whether the proximal step makes groups exactly equal to their center."""
        return self.prox is not None and not self.smooth


def _owl_value(n: Tensor, w: Tensor | None) -> Tensor:
    assert w is not None
    return (n.sort(descending=True).values * w.to(n)).sum()


def _owl_derivative(n: Tensor, w: Tensor | None) -> Tensor:
    assert w is not None
    # A stable sort gives groups of equal norms the same subgradient in every run.
    return torch.empty_like(n).index_copy(0, n.argsort(descending=True, stable=True), w.to(n))


def _owl_prox(n: Sequence[Tensor], w: Sequence[Tensor | None], t: Sequence[float]) -> list[Tensor]:
    return prox_owl_batched(n, [weights for weights in w if weights is not None], t)


def per_tie(prox: Callable[[Tensor, float], Tensor]) -> Prox:
    """Lift a proximal operator without OWL weights from one tie to several."""
    return lambda n, _, t: [prox(norms, step) for norms, step in zip(n, t, strict=True)]


NORMS: dict[str, Norm] = {
    # ω(n) = ½ Σ n²
    "squared": Norm(
        value=lambda n, _: 0.5 * n.square().sum(),
        derivative=lambda n, _: n,
        prox=per_tie(lambda n, t: n / (1.0 + t)),
        smooth=True,
        quadratic=True,
    ),
    # ω(n) = Σ n
    "l1": Norm(
        value=lambda n, _: n.sum(),
        derivative=lambda n, _: torch.ones_like(n),
        prox=per_tie(lambda n, t: (n - t).clamp_min(0.0)),
        homogeneous=True,
        soft_threshold=True,
    ),
    # ω(n) = Σ w_k n_(k), with n sorted in descending order
    "owl": Norm(_owl_value, _owl_derivative, _owl_prox, weighted=True, homogeneous=True),
}
