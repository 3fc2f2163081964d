"""Means and standard deviations of units over batches."""

from __future__ import annotations

import torch
from torch import Tensor

# Sums in another order change a constant unit by this, relative to its value.
_ROUNDING = torch.finfo(torch.float32).eps


class Moments:
    r"""The mean and standard deviation of each unit over all samples, sites and steps.

    Batches are added by

    .. math::
        \mu \to \mu + \frac{m}{n + m} \delta, \qquad
        S \to S + S' + \frac{n m}{n + m} \delta^2, \qquad \delta = \mu' - \mu

    for n numbers with the mean :math:`\mu` and the sum of squared deviations S, and m numbers of a
    batch with :math:`\mu'` and S'. Everything is computed in float64.

    Attributes:
        count: How many numbers of each unit were added.
        calls: How many batches.
        mean: The mean of each unit.

    Source: Chan, Golub, LeVeque: *Algorithms for Computing the Sample Variance*, The American
    Statistician, 1983, formulas 2.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.calls = 0
        self.mean = torch.zeros((), dtype=torch.float64, device="cpu")
        self._squares = torch.zeros((), dtype=torch.float64, device="cpu")

    def add(self, values: Tensor, dim: int) -> None:
        """Add a batch, whose units are along ``dim``."""
        units = values.detach().movedim(dim, 0).flatten(1).double()
        new = units.shape[1]
        self.calls += 1
        if new == 0:
            return
        mean = units.mean(1)
        squares = (units - mean[:, None]).square().sum(1)
        delta = mean - self.mean
        total = self.count + new
        self.mean = self.mean + delta * (new / total)
        self._squares = self._squares + squares + delta.square() * (self.count * new / total)
        self.count = total

    def variance(self, correction: int = 0) -> Tensor:
        """Return the variance of each unit; with ``correction=1`` without bias."""
        return self._squares / (self.count - correction)

    def deviation(self) -> Tensor:
        """Return the standard deviation of each unit; 0 where a unit varies by rounding only."""
        deviation = self.variance().sqrt()
        return deviation.where(deviation > _ROUNDING * self.mean.abs(), 0.0)
