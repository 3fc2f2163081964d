"""The covariance of a layer's inputs, from one pass over data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Sums in another order change a constant input by this, relative to its value.
_ROUNDING = torch.finfo(torch.float32).eps


class Covariance:
    r"""The means and the covariances of n inputs over all samples, sites and steps.

    A batch of m samples with the means :math:`\mu'` and the products of deviations :math:`M'` is
    added to N samples by

    .. math::
        \mu \to \mu + \frac{m}{N + m} \delta, \qquad
        M \to M + M' + \frac{N m}{N + m} \delta \delta^T, \qquad \delta = \mu' - \mu

    in float64. The memory is that of two n × n matrices, whatever the number of samples.

    Attributes:
        count: The number of samples that were added.
        mean: The mean of each input, of shape (n,), on the host.

    Source: Chan, Golub, LeVeque: *Algorithms for Computing the Sample Variance*, The American
    Statistician, 1983, formulas 2.1, for vectors.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64, device="cpu")
        self._products = torch.zeros((), dtype=torch.float64, device="cpu")

    def add(self, values: Tensor, dim: int) -> None:
        """Add a batch, whose inputs are along ``dim``.

        Raises:
            ValueError: If a value is not finite.
        """
        samples = values.detach().movedim(dim, -1).flatten(0, -2)
        if len(samples) == 0:
            return
        if not bool(samples.isfinite().all()):
            raise ValueError("gets inputs that are NaN or infinite")
        # Apple's devices have no float64.
        samples = samples.cpu().double() if samples.is_mps else samples.double()
        mean = samples.mean(0)
        deviations = samples - mean
        products = (deviations.T @ deviations).cpu()
        delta, total = mean.cpu() - self.mean, self.count + len(samples)
        self.mean = self.mean + delta * (len(samples) / total)
        between = torch.outer(delta, delta) * (self.count * len(samples) / total)
        self._products = self._products + products + between
        self.count = total

    def all_reduce(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Add the samples of all ranks, given a function that sums a tensor over them."""
        count = sum_over_ranks(torch.tensor(float(self.count), dtype=torch.float64))
        mean = sum_over_ranks(self.mean * self.count) / count
        delta = self.mean - mean
        between = torch.outer(delta, delta) * self.count
        self._products = sum_over_ranks(self._products + between)
        self.count, self.mean = int(count), mean

    def constant(self) -> Tensor:
        """Return which inputs vary by rounding only: bool, of shape (n,)."""
        deviation = self._products.diagonal().div(self.count).sqrt()
        return deviation <= _ROUNDING * self.mean.abs()

    def of_varying(self) -> Tensor:
        """Return the covariance of the inputs that are not constant."""
        varies = ~self.constant()
        return self._products[varies][:, varies] / self.count
