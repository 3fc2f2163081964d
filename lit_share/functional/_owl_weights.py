"""OWL weights for any number of groups."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lit_share.functional._owl import owl_weights


@dataclass(frozen=True)
class OwlWeights:
    r"""`owl_weights` for ``Penalty(weights=)``, as a function of a layer's number of groups.

    Args:
        lambda1: Weight of every group, at least 0, which drives groups to zero.
        lambda2: Step of the ramp, at least 0, which drives groups of similar norm to equal norms.
        fraction: Fraction of the groups that the ramp covers, in [0, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> weights = OwlWeights(lambda1=1.0, lambda2=0.5, fraction=0.6)
        >>> weights(5)
        tensor([2.5000, 2.0000, 1.5000, 1.0000, 1.0000], dtype=torch.float64)
        >>> weights(2)
        tensor([2.0000, 1.5000], dtype=torch.float64)
    """

    lambda1: float
    lambda2: float
    fraction: float = 1.0

    def __post_init__(self) -> None:
        # This raises for wrong arguments now rather than in training.
        self(1)

    def __call__(self, n: int) -> Tensor:
        """Return the weights of ``n`` groups."""
        return owl_weights(n, self.lambda1, self.lambda2, self.fraction)
