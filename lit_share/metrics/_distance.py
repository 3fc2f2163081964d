"""`RelativeDistance`, a metric of several ties."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_share.metrics._counts import compare_ties


class RelativeDistance(Metric):
    r"""The distance between the members of ties, relative to their size, over several ties.

    .. math::
        \sqrt{\frac{\sum_t \sum_{i<j} \lVert W_{t,i} - W_{t,j} \rVert^2}
                   {\sum_t (N_t - 1) \sum_i \lVert W_{t,i} \rVert^2}}

    Example:
        >>> distance = RelativeDistance()
        >>> distance.update([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
        >>> distance.compute()
        tensor(1., dtype=torch.float64)
    """

    # The two sums are states, so that ranks and batches add up to the ratio of totals.
    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    between: Tensor
    size: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("between", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("size", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, members: Sequence[Tensor]) -> None:
        """Add a tie: N ≥ 2 tensors of the same shape."""
        (comparison,) = compare_ties([members])
        self.between += comparison.between
        self.size += comparison.size

    def compute(self) -> Tensor:
        """Return the distance: a scalar ≥ 0, and 0 if all members are zero."""
        return torch.where(self.size == 0, 0.0, self.between / self.size).sqrt()
