"""`TiedFraction`, a metric of several ties."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_share.metrics._counts import count_tied


class TiedFraction(Metric):
    """The fraction of elements in which all members of a tie are exactly equal, over several ties.

    Example:
        >>> tied = TiedFraction()
        >>> tied.update([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])])
        >>> tied.compute()
        tensor(0.5000)
    """

    # Counts add up over ranks, where an average of fractions would weight all ties equally.
    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    equal: Tensor
    positions: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("equal", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("positions", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, members: Sequence[Tensor]) -> None:
        """Add a tie: N ≥ 2 tensors of the same shape."""
        self.equal += count_tied(members)
        self.positions += members[0].numel()

    def compute(self) -> Tensor:
        """Return the fraction: a scalar in [0, 1]."""
        # Without an update, the fraction is 0 rather than NaN.
        return self.equal / self.positions.clamp_min(1)
