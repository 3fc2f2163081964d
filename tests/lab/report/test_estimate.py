import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lit_share.lab.report import Estimate, estimate

same_in_every_run = settings(derandomize=True, database=None, deadline=None)
numbers = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)


def test_by_hand():
    # mean 2, standard deviation 1, t(0.975, 2) = 4.302653
    result = estimate([1.0, 2.0, 3.0])
    assert (result.n, result.mean) == (3, 2.0)
    assert result.margin == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert result.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert result.high == pytest.approx(2 + 2.484138, abs=1e-6)


@same_in_every_run
@given(st.lists(numbers, min_size=2, max_size=30, unique=True))
def test_equals_scipy(values):
    result = estimate(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    scale = max(map(abs, values))
    assert result.low == pytest.approx(expected.low, rel=1e-9, abs=1e-9 * scale)
    assert result.high == pytest.approx(expected.high, rel=1e-9, abs=1e-9 * scale)


@pytest.mark.parametrize("comparisons", [1, 2, 10])
def test_intervals_that_are_read_together_are_wider(comparisons):
    values = [0.1, 0.4, 0.2, 0.5]
    result = estimate(values, comparisons)
    expected = stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / comparisons)
    assert (result.low, result.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


@same_in_every_run
@given(st.lists(numbers, min_size=2, max_size=10), st.randoms())
def test_the_order_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    assert estimate(shuffled) == estimate(values)


@same_in_every_run
@given(numbers, st.integers(2, 20))
def test_equal_values_have_no_margin(value, n):
    assert estimate([value] * n) == Estimate(n, value, 0.0)


def test_one_value_has_no_interval():
    result = estimate([0.5])
    assert result == Estimate(1, 0.5, None)
    assert result.low is None
    assert result.high is None
    assert str(result) == "0.5 ± \N{EN DASH}"


def test_no_values():
    assert estimate([]) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_not_hidden(bad):
    result = estimate([1.0, bad, 2.0])
    assert result.n == 3
    assert math.isnan(result.mean)
    assert result.margin is None


@pytest.mark.parametrize(
    ("mean", "margin", "text"),
    [
        (0.953125, 0.012345, "0.953 ± 0.012"),
        (0.953125, 0.00923, "0.9531 ± 0.0092"),
        (-0.002351, 0.0284, "-0.002 ± 0.028"),
        (2.5, 1.0, "2.5 ± 1.0"),
        (1234.5678, 234.5, "1235 ± 234"),
        (0.5, 0.0, "0.5 ± 0"),
        (0.953125, 1e-9, "0.9531 ± 1e-09"),
    ],
)
def test_as_many_digits_as_have_a_meaning(mean, margin, text):
    assert str(Estimate(3, mean, margin)) == text
