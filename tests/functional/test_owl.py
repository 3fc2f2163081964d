from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lit_share.functional import owl_weights, prox_owl

from . import _reference as reference


@st.composite
def values_and_weights(draw, largest: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to 12 values and as many weights: ties, zeros and sorted values come up all the time."""
    n = draw(st.integers(1, 12))
    number = st.integers(-3, 3).map(lambda i: i * largest / 3) | st.floats(
        -largest, largest, allow_subnormal=False
    )
    values = draw(st.lists(number, min_size=n, max_size=n))
    if draw(st.booleans()):
        values.sort(key=abs, reverse=draw(st.booleans()))
    weight = st.sampled_from([0.0, 0.25, 0.5, 1.0]).map(lambda w: w * largest) | st.floats(
        0.0, largest
    )
    weights = sorted(draw(st.lists(weight, min_size=n, max_size=n)), reverse=True)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)


class TestProx:
    @given(st.sampled_from([1e-12, 3.0, 1e8, 1e30]).flatmap(values_and_weights))
    def test_reference(self, drawn):
        values, weights = drawn
        expected = torch.from_numpy(reference.prox_owl(values.numpy(), weights.numpy()))
        tolerance = 1e-14 * (values.abs().max() + weights.max()).item()
        assert_close(prox_owl(values, weights), expected, rtol=0, atol=tolerance)

    @given(values_and_weights())
    def test_properties(self, drawn):
        values, weights = drawn
        result = prox_owl(values, weights)
        order = values.abs().argsort(descending=True)
        assert (result.abs() <= values.abs()).all()
        assert (result * values >= 0.0).all()
        assert (result[order].abs().diff() <= 0.0).all()
        for value in values:
            assert len(result[values.abs() == value.abs()].abs().unique()) == 1, (
                "of one size before, of one size after"
            )

    @given(values_and_weights(), st.randoms(use_true_random=False))
    def test_permutation_and_signs(self, drawn, random):
        values, weights = drawn
        order = random.sample(range(len(values)), len(values))
        signs = torch.tensor([random.choice([-1.0, 1.0]) for _ in values], dtype=torch.float64)
        assert torch.equal(
            prox_owl((signs * values)[order], weights), (signs * prox_owl(values, weights))[order]
        )

    @pytest.mark.parametrize(
        ("values", "weights"),
        [
            ([3.0, -2.9, 0.5], [1.0, 0.5, 0.4]),
            ([1.0, 1.0, -1.0, 1.0], [0.8, 0.4, 0.2, 0.0]),
            ([0.1, -0.2, 0.3, 0.4], [0.9, 0.7, 0.5, 0.3]),
            ([5.0, -4.0, 3.0, 0.0, 1.0, -1.0], [2.0, 2.0, 0.1, 0.1, 0.1, 0.1]),
            ([2.0, 1.9, 1.8, 0.2, 0.1], [1.0, 0.8, 0.6, 0.4, 0.2]),
        ],
    )
    def test_cvxpy(self, values, weights):
        expected = reference.solve_prox_owl(np.array(values), np.array(weights))
        result = prox_owl(
            torch.tensor(values, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
        )
        assert_close(result, torch.from_numpy(expected), rtol=0, atol=1e-5)

    def test_many_values(self):
        rng = np.random.default_rng(0)
        values, weights = rng.standard_normal(300), np.linspace(1.0, 0.0, 300)
        result = prox_owl(torch.from_numpy(values), torch.from_numpy(weights))
        assert_close(result, torch.from_numpy(reference.prox_owl(values, weights)))

    def test_equal_weights_are_the_soft_threshold(self):
        values = torch.tensor([3.0, -2.0, 0.5, 0.0])
        assert torch.equal(prox_owl(values, torch.ones(4)), torch.tensor([2.0, -1.0, 0.0, 0.0]))

    def test_zero_weights_change_nothing(self):
        values = torch.tensor([3.0, -2.0, 0.5, 0.0])
        assert torch.equal(prox_owl(values, torch.zeros(4)), values)

    @pytest.mark.parametrize(
        "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
    )
    def test_dtype(self, dtype):
        """The result is the exact one, rounded once."""
        rng = torch.Generator().manual_seed(0)
        values = torch.randn(20, generator=rng).to(dtype)
        weights = owl_weights(20, lambda1=0.1, lambda2=0.05)
        assert torch.equal(prox_owl(values, weights), prox_owl(values.double(), weights).to(dtype))
        assert torch.equal(
            prox_owl(values, weights.float()), prox_owl(values, weights.float().double())
        )

    def test_shape_and_memory_layout(self):
        values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        weights = owl_weights(12, lambda1=0.1, lambda2=0.05)
        view = values[:, ::2].T
        result = prox_owl(view, weights)
        assert result.shape == (3, 4)
        assert torch.equal(result, prox_owl(view.flatten(), weights).view(3, 4))
        assert torch.equal(
            prox_owl(view[0, 0], weights[:1]),
            (view[0, 0].abs() - weights[0]).relu() * view[0, 0].sign(),
        )

    def test_empty(self):
        assert prox_owl(torch.zeros(0, 3), torch.zeros(0)).shape == (0, 3)

    def test_pure(self):
        values, weights = torch.tensor([1.0, -3.0]), torch.tensor([0.5, 0.0])
        result = prox_owl(values, weights)
        assert (values._version, weights._version) == (0, 0)
        result.zero_()
        assert values.tolist() == [1.0, -3.0]
        assert weights.tolist() == [0.5, 0.0]

    def test_makes_no_autograd_graph(self):
        """A graph without the derivative of the result would give silently wrong gradients."""
        assert not prox_owl(
            torch.tensor([1.0, -3.0], requires_grad=True), torch.tensor([0.5, 0.0])
        ).requires_grad

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (torch.ones(2), r"one weight per group: 3 groups, but weights of shape \(2,\)"),
            (torch.ones(3, 1), r"one weight per group: 3 groups, but weights of shape \(3, 1\)"),
            (torch.tensor(1.0), r"one weight per group: 3 groups, but weights of shape \(\)"),
            (torch.tensor([math.nan, 1.0, 1.0]), "weights must be finite"),
            (torch.tensor([math.inf, 1.0, 1.0]), "weights must be finite"),
            (torch.tensor([1.0, 0.5, -0.1]), "weights must be non-negative and non-increasing"),
            (
                torch.tensor([1.0, 0.5, 0.6]),
                "non-increasing .the largest group has the largest weight",
            ),
        ],
    )
    def test_errors(self, weights, message):
        with pytest.raises(ValueError, match=message):
            prox_owl(torch.ones(3), weights)


class TestWeights:
    @pytest.mark.parametrize("n", [0, 1, 2, 7])
    @pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.6, 1.0])
    def test_formula(self, n, fraction):
        """Λ1 + (p − k + 1)·Λ2 for the first p groups and Λ1 after them; p = ⌈fraction · n⌉."""
        p = math.ceil(fraction * n)
        expected = [0.3 + (p - k + 1) * 0.2 if k <= p else 0.3 for k in range(1, n + 1)]
        weights = owl_weights(n, lambda1=0.3, lambda2=0.2, fraction=fraction)
        assert_close(weights, torch.tensor(expected, dtype=torch.float64))

    def test_oscar(self):
        """By default the ramp covers all groups."""
        expected = torch.tensor([2.5, 2.0, 1.5, 1.0], dtype=torch.float64)
        assert_close(owl_weights(4, lambda1=0.5, lambda2=0.5), expected)

    def test_lasso(self):
        assert_close(
            owl_weights(4, lambda1=0.7, lambda2=0.0), torch.full((4,), 0.7, dtype=torch.float64)
        )

    def test_are_taken_by_the_prox(self):
        prox_owl(torch.ones(1000), owl_weights(1000, lambda1=1e-5, lambda2=1e-7, fraction=0.3))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n": -1}, "number of groups >= 0, got n=-1"),
            ({"fraction": 1.1}, "0 <= fraction <= 1, got fraction=1.1"),
            ({"fraction": -0.1}, "0 <= fraction <= 1, got fraction=-0.1"),
            ({"fraction": math.nan}, "0 <= fraction <= 1, got fraction=nan"),
            ({"lambda1": -1.0}, "finite lambda1 >= 0, got lambda1=-1.0"),
            ({"lambda1": math.inf}, "finite lambda1 >= 0, got lambda1=inf"),
            ({"lambda2": -1.0}, "finite lambda2 >= 0, got lambda2=-1.0"),
            ({"lambda2": math.nan}, "finite lambda2 >= 0, got lambda2=nan"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            owl_weights(**({"n": 3, "lambda1": 1.0, "lambda2": 1.0} | arguments))
