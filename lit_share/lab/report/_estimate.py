"""A mean over seeds and how far it can be trusted."""

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
        mean: Their mean. NaN if a value is not finite.
        margin: Half the width of the interval; `None` where it is undefined, as for one value.
    """

    n: int
    mean: float
    margin: float | None

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return None if self.margin is None else self.mean - self.margin

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return None if self.margin is None else self.mean + self.margin

    def __str__(self) -> str:
        """As many digits as the margin gives a meaning to."""
        if self.margin is None:
            return f"{self.mean:.4g} ± {UNDEFINED}"
        decimals = 1 - math.floor(math.log10(self.margin)) if self.margin > 0 else 7
        if decimals > 6:
            return f"{self.mean:.4g} ± {self.margin:.2g}"
        return f"{self.mean:.{max(decimals, 0)}f} ± {self.margin:.{max(decimals, 0)}f}"


def estimate(values: Sequence[float]) -> Estimate | None:
    r"""Mean and Student's t-interval of independent values.

    .. math::
        \bar x \pm t_{0.975,\, n - 1} \, \frac{s}{\sqrt n}

    where :math:`s` is the standard deviation with :math:`n - 1` degrees of freedom.

    Args:
        values: One number per seed.

    Returns:
        The estimate, or `None` if there are no values.

    Example:
        >>> print(estimate([0.90, 0.92, 0.94]))
        0.920 ± 0.050
        >>> estimate([0.90])
        Estimate(n=1, mean=0.9, margin=None)
    """
    n = len(values)
    if n == 0:
        return None
    if not all(map(math.isfinite, values)):
        return Estimate(n, math.nan, None)
    margin = float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n) if n > 1 else None
    return Estimate(n, mean(values), margin)
