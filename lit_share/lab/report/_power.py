"""How many seeds tell a difference: the power of the paired t-test."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

import numpy as np
from scipy.special import chdtri, ndtr

from lit_share.lab.report._estimate import critical_value

# The means over quantiles of chi-square in the middle of equal probabilities have four digits.
_QUANTILES = (np.arange(1000) + 0.5) / 1000


def seeds_needed(
    effect: float, comparisons: int = 1, power: float = 0.8, most: int = 1000
) -> int | None:
    r"""Return the number of seeds with which a paired t-test finds a difference.

    The differences of :math:`n` seeds have mean :math:`\mu`, standard deviation :math:`\sigma` and
    :math:`\delta = \sqrt n \, |\mu| / \sigma`. With the critical value :math:`c` of a test at the
    level :math:`0.05 / m`, its power is the probability that a noncentral t exceeds it,

    .. math::
        P(|T| > c) = E_V \left[ \Phi(\delta - c \sqrt{V / \nu}) + \Phi(-\delta - c \sqrt{V / \nu})
        \right], \qquad V \sim \chi^2_\nu, \quad \nu = n - 1.

    Args:
        effect: The standardised difference :math:`\mu / \sigma`.
        comparisons: The number m of tests that are read together (Bonferroni).
        power: The wanted probability to find the difference, between 0 and 1.
        most: The largest number of seeds that is considered.

    Returns:
        The smallest such number, at least 2; `None` if it exceeds ``most``.

    Example:
        >>> seeds_needed(0.5), seeds_needed(0.5, comparisons=7)
        (34, 54)
        >>> print(seeds_needed(0.01))
        None
    """
    numbers = range(2, most + 1)
    place = bisect_left(numbers, power, key=lambda n: _power(effect, n, comparisons))
    if place == len(numbers):
        return None
    return numbers[place]


def _power(effect: float, n: int, comparisons: int) -> float:
    # `scipy.special.nctdtr` is NaN for some arguments, even for an effect of 5 and 10 seeds.
    shift = math.sqrt(n) * abs(effect)
    bound = critical_value(n, comparisons) * _spread(n)
    return float(np.mean(ndtr(shift - bound) + ndtr(-shift - bound)))


# Bisections ask for the same numbers of seeds, and the quantiles take most of the time.
@lru_cache
def _spread(n: int) -> np.ndarray:
    """Return quantiles of the estimated standard deviation of n values divided by the true one."""
    return np.sqrt(chdtri(n - 1, _QUANTILES) / (n - 1))
