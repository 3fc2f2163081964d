from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lit_share.functional import _owl, owl_weights, prox_owl

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


@pytest.fixture(params=["compiled", "plain"], scope="class")
def path(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(_owl, "_loop", lambda dtype: None)
        yield


@pytest.mark.usefixtures("path")
class TestProx:
    @given(st.sampled_from([1e-12, 3.0, 1e8, 1e30]).flatmap(values_and_weights))
    def test_reference(self, drawn):
        values, weights = drawn
        expected = torch.from_numpy(reference.prox_owl(values.numpy(), weights.numpy()))
        tolerance = 1e-14 * (values.abs().max() + weights.max()).item()
        assert_close(prox_owl(values, weights), expected, rtol=0, atol=tolerance)

    def test_integer_weights_are_exact(self):
        values, most = torch.tensor([2.0**24 + 1.0], dtype=torch.float64), 2**24 + 1
        assert prox_owl(values, torch.tensor([most])).item() == 0.0
        with pytest.raises(ValueError, match="non-increasing"):
            prox_owl(torch.ones(2), torch.tensor([most - 1, most]))

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

    @given(st.integers(2, 200), st.floats(0.1, 1.0), st.floats(0.0, 0.1))
    def test_equal_magnitudes_stay_equal(self, n, magnitude, weight):
        """Bit for bit, although the means of equal numbers may be rounded to different ones."""
        values = torch.full((n,), magnitude, dtype=torch.float64)
        values[::3] *= -1.0
        result = prox_owl(values, torch.full_like(values, weight))
        assert len(result.abs().unique()) == 1

    @given(st.integers(2, 50), st.floats(0.5, 1.0))
    def test_means_that_are_rounded_up(self, n, smallest):
        """The mean of n times the smallest magnitude may exceed it, but the result must not."""
        values = smallest + torch.arange(n, dtype=torch.float64).flip(0) * 2.0**-53
        result = prox_owl(values, values - values[-1])
        assert (result <= values).all()

    @given(values_and_weights())
    def test_pools_are_means(self, drawn):
        """Bitwise equal results are the mean of their magnitudes minus weights."""
        values, weights = drawn
        order = values.abs().argsort(descending=True)
        result = prox_owl(values, weights)[order].abs()
        shifted = values.abs()[order] - weights
        kept = result > 0.0
        changes = torch.cat([kept[:1], result.diff() != 0.0]).cumsum(0)
        for pool in changes[kept].unique():
            members = changes == pool
            assert_close(result[members].mean(), shifted[members].mean(), rtol=0, atol=1e-14)

    @pytest.mark.parametrize(
        ("dtype", "exponent"),
        [(torch.float32, -90), (torch.float32, 125), (torch.float64, -900), (torch.float64, 1000)],
        ids=str,
    )
    def test_scale(self, dtype, exponent):
        """Nothing overflows or underflows: the operator is homogeneous, and 2ᵏ is exact."""
        values = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=dtype)
        weights = torch.linspace(1.0, 0.0, 300, dtype=torch.float64)
        scale = torch.tensor(2.0**exponent, dtype=torch.float64)
        result = prox_owl(values * scale.to(dtype), weights * scale)
        assert torch.equal(result, prox_owl(values, weights) * scale.to(dtype))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_nan(self, dtype):
        """NaN stays NaN, and the others are shrunk as if it were the largest."""
        values = torch.tensor([1.0, math.nan, -2.0, 0.3, math.nan, 0.05], dtype=dtype)
        weights = torch.tensor([1.0, 0.5, 0.25, 0.25, 0.1, 0.1])
        result, rest = prox_owl(values, weights), ~values.isnan()
        assert torch.equal(result.isnan(), values.isnan())
        assert torch.equal(result[rest], prox_owl(values[rest], weights[2:]))
        assert prox_owl(torch.tensor([math.nan]), torch.ones(1)).isnan().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_infinity(self, dtype):
        values = torch.tensor([1.0, math.inf, -math.inf], dtype=dtype)
        expected = torch.tensor([0.5, math.inf, -math.inf], dtype=dtype)
        assert torch.equal(prox_owl(values, torch.tensor([1.0, 0.5, 0.5])), expected)

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
        assert torch.equal(
            prox_owl(values, weights.bfloat16()), prox_owl(values, weights.bfloat16().double())
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

    def test_memory_layout_of_weights(self):
        values = torch.tensor([3.0, -2.0, 0.5])
        weights = torch.tensor([1.0, 9.0, 0.5, 9.0, 0.5, 9.0], dtype=torch.float64)[::2]
        assert torch.equal(prox_owl(values, weights), prox_owl(values, weights.clone()))
        weights = torch.tensor(0.5, dtype=torch.float64).expand(3)
        assert torch.equal(prox_owl(values, weights), prox_owl(values, weights.clone()))

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
        values = torch.ones(3)
        with pytest.raises(ValueError, match=message):
            prox_owl(values, weights)
        assert torch.equal(values, torch.ones(3))


class TestLoop:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_is_taken(self, dtype):
        assert _owl._loop(np.dtype(dtype)) is not None

    def test_declines_what_it_does_not_know(self):
        assert _owl._loop(np.dtype(np.complex64)) is None
        with pytest.raises(TypeError, match="copysign"):
            prox_owl(torch.tensor([1j]), torch.zeros(1))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @given(
        drawn=st.sampled_from([1e-44, 1e-38, 1e-12, 3.0, 1e8, 1e38]).flatmap(values_and_weights),
        step=st.sampled_from([0.0, 0.3, 1.0]),
    )
    def test_equals_the_plain_path(self, dtype, drawn, step):
        values, weights = drawn[0].numpy().astype(dtype), drawn[1].numpy()
        looped = values.copy()
        _owl._shrink_(looped, weights, step)
        plain = _owl.shrink_plainly(values, step * weights)
        np.testing.assert_array_equal(looped == 0.0, plain == 0.0)
        np.testing.assert_array_equal(np.signbit(looped), np.signbit(plain))
        scale = np.abs(values).max() + step * weights.max()
        np.testing.assert_allclose(looped, plain, rtol=np.finfo(dtype).eps, atol=1e-15 * scale)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("largest", [0.0, 0.3, 3.0])
    def test_equals_the_plain_path_for_many_values(self, dtype, largest):
        rng = np.random.default_rng(0)
        values = np.concatenate([rng.standard_cauchy(3000), rng.integers(-9, 9, 2000) * 0.1])
        values = rng.permutation(values).astype(dtype)
        weights = np.sort(rng.random(len(values)))[::-1] * largest
        looped = values.copy()
        _owl._shrink_(looped, weights, 1.0)
        plain = _owl.shrink_plainly(values, weights)
        np.testing.assert_array_equal(looped == 0.0, plain == 0.0)
        np.testing.assert_allclose(looped, plain, rtol=np.finfo(dtype).eps, atol=1e-12)
        magnitudes, first = np.unique(np.abs(values), return_index=True)
        points = np.searchsorted(magnitudes, np.abs(values))
        np.testing.assert_array_equal(np.abs(looped), np.abs(looped)[first][points])


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
