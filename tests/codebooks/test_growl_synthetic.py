"""The benchmark's claim on fewer runs: near-duplicate inputs get equal rows by GrOWL only."""

from __future__ import annotations

import math
from statistics import mean

import pytest
import torch

from benchmarks import growl_synthetic as benchmark
from benchmarks.growl_synthetic import Fit, error, fit, spread

pytestmark = [pytest.mark.slow, pytest.mark.long]

NOISE = 0.3
PROBLEMS = [benchmark.problem(0.9999, seed, NOISE) for seed in range(3)]


@pytest.fixture(scope="module")
def chosen() -> dict[str, list[torch.Tensor]]:
    """For each penalty, every run's coefficients at the strength that its validation data chose."""
    strengths = [NOISE * strength for strength in benchmark.STRENGTHS[2:7]]
    return {
        name: [
            benchmark.one_standard_error(
                [fit(given, penalty, strength, 500) for strength in strengths]
            ).weight
            for given in PROBLEMS
        ]
        for name, penalty in benchmark.PENALTIES.items()
    }


def test_rows_of_near_duplicates(chosen):
    assert mean(map(spread, chosen["GrOWL"])) <= 0.012
    assert min(map(spread, chosen["group lasso"])) >= 0.3


def test_error_of_coefficients(chosen):
    errors = {
        name: mean(
            error(weight, given.true) for weight, given in zip(weights, PROBLEMS, strict=True)
        )
        for name, weights in chosen.items()
    }
    assert errors["GrOWL"] <= 0.4 * errors["group lasso"]


def test_only_near_duplicates_are_made_equal(chosen):
    """Rows of equal norm are not equal rows: the two groups stay apart."""
    for weight in chosen["GrOWL"]:
        one, other = weight[:, 0], weight[:, benchmark.SIZE]
        assert (one - other).norm() > 0.5 * one.norm()


def test_growl_forgets_where_it_began_and_group_lasso_does_not():
    given, apart = PROBLEMS[0], {}
    for name, penalty in benchmark.PENALTIES.items():
        random, zero = (
            fit(given, penalty, 0.08, 500, from_zero=start).weight for start in (False, True)
        )
        apart[name] = float((random - zero).norm() / zero.norm())
    assert apart["GrOWL"] < 1e-3
    assert apart["group lasso"] > 0.1


def test_spread_is_that_of_the_worse_group():
    weight = torch.zeros(benchmark.OUTPUTS, benchmark.INPUTS)
    assert spread(weight) == 0.0
    weight[0, :5] = 2.0
    weight[1, 5:10] = torch.tensor([4.0, 4.0, 4.0, 3.0, 4.0])
    assert spread(weight) == pytest.approx(0.25)


def test_rules():
    """Errors 1.0, 0.9, 0.95 and 1.2, with a standard error of 0.1."""
    noise = torch.tensor([1.0, -1.0]).repeat(50) * math.sqrt(0.99)
    fits = [Fit(torch.zeros(1), value + noise) for value in (1.0, 0.9, 0.95, 1.2)]
    assert benchmark.least_error(fits) is fits[1]
    assert benchmark.one_standard_error(fits) is fits[2]
