"""Estimate a mean over seeds with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.special import stdtrit

UNDEFINED = "\N{EN DASH}"


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval.

    Attributes:
        n: Number of values.
        mean: Their mean; NaN if a value is not finite.
        margin: Half the width of the interval; `None` if undefined, for instance for one value.
    """

    n: int
    mean: float
    margin: float | None

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        if self.margin is None:
            return None
        return self.mean - self.margin

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        if self.margin is None:
            return None
        return self.mean + self.margin

    def __str__(self) -> str:
        """Format the mean with the significant digits of the margin."""
        if self.margin is None:
            return f"{self.mean:.4g} ± {UNDEFINED}"
        # The smallest positive float avoids the logarithm of 0.
        decimals = 1 - math.floor(math.log10(max(self.margin, 5e-324)))
        if decimals > 6:
            return f"{self.mean:.4g} ± {self.margin:.2g}"
        # Large numbers are rounded to integers rather than to tens.
        decimals = max(decimals, 0)
        return f"{self.mean:.{decimals}f} ± {self.margin:.{decimals}f}"


def critical_value(n: int, comparisons: int = 1) -> float:
    """Return the quantile of Student's t by which intervals of n values are wide."""
    return float(stdtrit(n - 1, 1 - 0.025 / comparisons))


def estimate(values: Sequence[float], comparisons: int = 1) -> Estimate | None:
    r"""Return the mean and Student's t-interval of independent values.

    .. math::
        \bar x \pm t_{1 - 0.025 / m,\, n - 1} \, \frac{s}{\sqrt n}

    where :math:`s` is the standard deviation with :math:`n - 1` degrees of freedom. Of :math:`m`
    such intervals, all contain their true means with a probability of at least 95 % (Bonferroni).

    Args:
        values: One number per seed.
        comparisons: The number m of intervals that are read together.

    Returns:
        The estimate, or `None` if there are no values.

    Example:
        >>> print(estimate([0.90, 0.92, 0.94]))
        0.920 ± 0.050
        >>> print(estimate([0.90, 0.92, 0.94], comparisons=4))
        0.92 ± 0.10
        >>> estimate([0.90])
        Estimate(n=1, mean=0.9, margin=None)
    """
    n = len(values)
    if n == 0:
        return None
    # `mean` raises an error for infinities of both signs.
    if not all(map(math.isfinite, values)):
        return Estimate(n, math.nan, None)
    # A single value has no standard deviation.
    if n == 1:
        return Estimate(n, mean(values), None)
    margin = critical_value(n, comparisons) * stdev(values) / math.sqrt(n)
    return Estimate(n, mean(values), margin)
