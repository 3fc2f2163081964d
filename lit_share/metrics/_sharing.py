"""`ParameterSharing`, a metric of several modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_share.metrics._counts import count_numbers
from lit_share.ties import Ties


class ParameterSharing(Metric):
    """The sparsity, sharing and compression of modules; see `SharingStats`.

    Args:
        ties: Ties whose members are searched for exactly equal numbers.
        **kwargs: For `torchmetrics.Metric`.

    Example:
        >>> sharing = ParameterSharing()
        >>> layer = nn.Linear(3, 2)
        >>> nn.init.zeros_(layer.bias).shape
        torch.Size([2])
        >>> sharing.update(layer)
        >>> {name: round(float(value), 2) for name, value in sharing.compute().items()}
        {'sparsity': 0.25, 'sharing': 1.0, 'compression': 1.33}
    """

    # Counts rather than ratios are states, so that they add up over ranks.
    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    total: Tensor
    unique: Tensor
    zeros: Tensor

    def __init__(self, ties: Ties | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.ties = ties
        for name in ("total", "unique", "zeros"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, module: nn.Module) -> None:
        """Add the parameters of a module.

        Raises:
            TieError: If the patterns do not fit the module; see `Ties.find`.
        """
        stats = count_numbers(module, self.ties)
        self.total += stats.total
        self.unique += stats.unique
        self.zeros += stats.zeros

    def compute(self) -> dict[str, Tensor]:
        """Return ``sparsity`` in [0, 1], ``sharing`` and ``compression`` ≥ 1, by name."""
        # All numbers may be zero, and there may be no parameters.
        unique = self.unique.clamp_min(1)
        return {
            "sparsity": self.zeros / self.total.clamp_min(1),
            "sharing": (self.total - self.zeros) / unique,
            "compression": self.total / unique,
        }
