"""Norms: functions of the vector n ≥ 0 of group norms, with derivative and proximal operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_share.functional._owl import prox_owl_of_each

NormName = Literal["squared", "l1", "owl"]
Prox = Callable[[Sequence[Tensor], Sequence[Tensor | None], Sequence[float]], list[Tensor]]


@dataclass(frozen=True)
class Norm:
    r"""A function :math:`\omega` of the group norms n, given by three formulas, and what it is like.

    Attributes:
        value: :math:`\omega(n)`, from ``n`` of shape ``(groups,)`` and the OWL weights ``w`` of the
            same shape (``None`` for a norm that has none).
        derivative: :math:`\partial\omega / \partial n_g`, from the same.
        prox: The proximal operator, :math:`\arg\min_r \tfrac12 \lVert r - n \rVert^2 + t\,\omega(r)`.
            It takes the n, w and t of several ties, and returns the r of each. ``None`` if there is
            no closed form: then the penalty can only be applied as a gradient.
        weighted: Whether it has OWL weights, which couple all groups of a tie.
        smooth: Whether it is differentiable, as a function of the weights, everywhere.
        quadratic: Whether :math:`\omega'(n) = n`: then every element is pulled by its own deviation,
            and groups do not matter.
        soft_threshold: Whether the proximal operator is :math:`r_g = (n_g - t)_+`.
    """

    value: Callable[[Tensor, Tensor | None], Tensor]
    derivative: Callable[[Tensor, Tensor | None], Tensor]
    prox: Prox | None = None
    weighted: bool = False
    smooth: bool = False
    quadratic: bool = False
    soft_threshold: bool = False

    @property
    def makes_exact(self) -> bool:
        """Whether the proximal step puts whole groups exactly to their center."""
        return self.prox is not None and not self.smooth


def _owl_value(n: Tensor, w: Tensor | None) -> Tensor:
    assert w is not None
    return (n.sort(descending=True).values * w.to(n)).sum()


def _owl_derivative(n: Tensor, w: Tensor | None) -> Tensor:
    assert w is not None
    return torch.empty_like(n).index_copy(0, n.argsort(descending=True, stable=True), w.to(n))


def _owl_prox(n: Sequence[Tensor], w: Sequence[Tensor | None], t: Sequence[float]) -> list[Tensor]:
    return prox_owl_of_each(n, [weights for weights in w if weights is not None], t)


def per_tie(prox: Callable[[Tensor, float], Tensor]) -> Prox:
    """Lift the proximal operator of one tie without OWL weights to several ties."""
    return lambda n, _, t: [prox(norms, step) for norms, step in zip(n, t, strict=True)]


NORMS: dict[str, Norm] = {
    # ½ Σ n²
    "squared": Norm(
        value=lambda n, _: 0.5 * n.square().sum(),
        derivative=lambda n, _: n,
        prox=per_tie(lambda n, t: n / (1.0 + t)),
        smooth=True,
        quadratic=True,
    ),
    # Σ n
    "l1": Norm(
        value=lambda n, _: n.sum(),
        derivative=lambda n, _: torch.ones_like(n),
        prox=per_tie(lambda n, t: (n - t).clamp_min(0.0)),
        soft_threshold=True,
    ),
    # Σ w_k n_(k), n sorted in descending order
    "owl": Norm(_owl_value, _owl_derivative, _owl_prox, weighted=True),
}
