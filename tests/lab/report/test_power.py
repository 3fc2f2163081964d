import math

import pytest
from scipy import stats

from lit_share.lab.report import seeds_needed


def power(effect, n, comparisons):
    """Of the two-sided paired t-test, by SciPy's noncentral t."""
    critical = stats.t.isf(0.025 / comparisons, n - 1)
    shift = effect * math.sqrt(n)
    return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)


@pytest.mark.parametrize("comparisons", [1, 4, 10])
@pytest.mark.parametrize("effect", [0.25, 0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95])
def test_it_is_the_smallest_number_with_that_power(effect, comparisons, wanted):
    n = seeds_needed(effect, comparisons, wanted)
    assert power(effect, n, comparisons) >= wanted - 1e-4
    if n > 2:
        assert power(effect, n - 1, comparisons) < wanted + 1e-4


def test_textbook_numbers():
    """Cohen (1988), as G*Power prints them for two dependent means: d of 0.2, 0.5 and 0.8."""
    assert [seeds_needed(effect) for effect in (0.2, 0.5, 0.8)] == [199, 34, 15]


def test_the_sign_does_not_matter():
    assert seeds_needed(-0.5) == seeds_needed(0.5)


@pytest.mark.parametrize(("effect", "most"), [(0.0, 1000), (1e-300, 1000), (0.5, 33)])
def test_no_number_is_enough(effect, most):
    assert seeds_needed(effect, most=most) is None


@pytest.mark.parametrize("effect", [1e3, 1e300, math.inf])
def test_two_are_enough_for_what_does_not_vary(effect):
    assert seeds_needed(effect, comparisons=10) == 2


def test_the_largest_number_is_included():
    assert seeds_needed(0.5, most=34) == 34
