"""The relative distance of tied parameters, over several ties."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_share.metrics._counts import squared_distance


class RelativeDistance(Metric):
    r"""How far the members of ties are from each other, relative to their size; see `lit_share.overall_distance`.

    .. math::
        \sqrt{\frac{\sum_t \sum_{i<j} \lVert W_{t,i} - W_{t,j} \rVert^2}
                   {\sum_t (N_t - 1) \sum_i \lVert W_{t,i} \rVert^2}}

    Example:
        >>> distance = RelativeDistance()
        >>> distance.update([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
        >>> distance.compute()
        tensor(1., dtype=torch.float64)
    """

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
        """Take in one tie.

        Args:
            members: N ≥ 2 tensors of one shape.
        """
        between, size = squared_distance(members)
        self.between += between
        self.size += size

    def compute(self) -> Tensor:
        """The distance: a scalar ≥ 0, and 0 where all members are zero."""
        return torch.where(self.size > 0, self.between / self.size, 0.0).sqrt()
