"""`prox_owl` against independent algorithms, and against other packages if installed.

- `stack`: one pass over the sorted values with a stack of blocks, in plain Python.
- `active_set`: the increments of the sorted solution are non-negative least squares.
- `assert_optimal`: no algorithm at all, but the condition that the solution alone meets; it knows
  nothing of sorting.

scikit-learn's isotonic regression is not among them: it calls SciPy's, as `prox_owl` does without
Numba.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from lit_share.functional import owl_weights, prox_owl

Array = NDArray[np.float64]

KINDS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "random": lambda rng, n: rng.standard_normal(n),
    "tied": lambda rng, n: rng.integers(-3, 4, n) / 2.0,
    "nearly tied": lambda rng, n: rng.choice([-1.0, 1.0], n) + 1e-9 * rng.standard_normal(n),
    "sorted": lambda rng, n: np.sort(np.abs(rng.standard_normal(n)))[::-1].copy(),
    "reversed": lambda rng, n: np.sort(np.abs(rng.standard_normal(n))),
    "constant": lambda rng, n: np.full(n, 0.7),
    "zero": lambda rng, n: np.zeros(n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
}
WEIGHTS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "oscar": lambda rng, n: owl_weights(n, lambda1=0.1, lambda2=1.0 / n).numpy(),
    "steep": lambda rng, n: owl_weights(n, lambda1=0.0, lambda2=1.0).numpy(),
    "growl": lambda rng, n: owl_weights(n, lambda1=0.2, lambda2=2.0 / n, fraction=0.3).numpy(),
    "random": lambda rng, n: np.sort(rng.random(n))[::-1].copy(),
    "steps": lambda rng, n: np.sort(rng.integers(0, 3, n) / 2.0)[::-1].copy(),
    "equal": lambda rng, n: np.full(n, 0.5),
    "none": lambda rng, n: np.zeros(n),
}
SCALES = (1e-12, 1.0, 1e8)


def stack(values: Array, weights: Array) -> Array:
    """FastProxSL1, Algorithm 4 of Bogdan et al. (Annals of Applied Statistics 2015)."""
    order = np.argsort(-np.abs(values), kind="stable")
    sums: list[float] = []
    sizes: list[int] = []
    for shifted in (np.abs(values)[order] - weights).tolist():
        total, size = shifted, 1
        while (
            sums and sums[-1] * size <= total * sizes[-1]
        ):  # the block before is not larger on average
            total, size = total + sums.pop(), size + sizes.pop()
        sums.append(total)
        sizes.append(size)
    result = np.empty_like(values)
    result[order] = np.repeat(np.maximum(np.array(sums) / np.array(sizes), 0.0), sizes)
    return np.sign(values) * result


def active_set(values: Array, weights: Array) -> Array:
    """argmin ‖x − (|v| − w)‖ over x_1 ≥ … ≥ x_n ≥ 0, as x = T·d, d ≥ 0, T the triangle of ones."""
    order = np.argsort(-np.abs(values), kind="stable")
    shifted = np.abs(values)[order] - weights
    scale = np.abs(shifted).max() or 1.0  # the solver's tolerance is absolute
    triangle = np.triu(np.ones((len(values), len(values))))
    result = np.empty_like(values)
    result[order] = scale * (triangle @ nnls(triangle, shifted / scale)[0])
    return np.sign(values) * result


def assert_optimal(result: Array, values: Array, weights: Array, tolerance: float) -> None:
    """x is the solution if and only if v − x is a subgradient: Ω°(v − x) ≤ 1, ⟨v − x, x⟩ = Ω(x)."""
    rest = values - result
    slack = np.cumsum(weights) - np.cumsum(np.sort(np.abs(rest))[::-1])
    assert (slack >= -tolerance * np.arange(1, len(values) + 1)).all()
    excess = weights @ np.sort(np.abs(result))[::-1] - rest @ result
    assert abs(excess) <= tolerance * max(1.0, float(np.abs(result).sum()))


def ours(values: Array, weights: Array) -> Array:
    return prox_owl(torch.from_numpy(values), torch.from_numpy(weights)).numpy()


def case(n: int, kind: str, weighting: str, scale: float = 1.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(n)
    return scale * KINDS[kind](rng, n), scale * WEIGHTS[weighting](rng, n)


def assert_same(values: Array, weights: Array, expected: Array) -> None:
    """Within 1e-6, and for tiny inputs within a millionth of their size."""
    size = max(np.abs(values).max(), weights.max())
    np.testing.assert_allclose(
        ours(values, weights), expected, rtol=1e-12, atol=1e-6 * min(size, 1.0)
    )


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
class TestReferences:
    @pytest.mark.parametrize("scale", SCALES)
    def test_stack_and_optimality(self, kind, weighting, scale):
        for n in (1, 2, 17, 400):
            values, weights = case(n, kind, weighting, scale)
            assert_same(values, weights, stack(values, weights))
            unit = np.abs(values).max() or 1.0
            assert_optimal(
                ours(values, weights) / unit, values / unit, weights / unit, tolerance=1e-12
            )

    @pytest.mark.parametrize("scale", SCALES)
    def test_active_set(self, kind, weighting, scale):
        for n in (1, 3, 30):
            values, weights = case(n, kind, weighting, scale)
            assert_same(values, weights, active_set(values, weights))


def test_the_condition_of_optimality_tells_wrong_solutions():
    values, weights = case(17, "random", "oscar", 1.0)
    right = ours(values, weights)
    assert_optimal(right, values, weights, tolerance=1e-12)
    for wrong in (1.001 * right, 0.999 * right, right + 1e-3 * (right != 0), np.zeros(17), values):
        with pytest.raises(AssertionError):
            assert_optimal(wrong, values, weights, tolerance=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_a_million_values(scale):
    values, weights = case(1_000_000, "random", "oscar", scale)
    result = ours(values, weights)
    assert len(np.unique(np.abs(result))) < 900_000, "many values have been pooled"
    assert_same(values, weights, stack(values, weights))
    assert_optimal(result / scale, values / scale, weights / scale, tolerance=1e-10)


@pytest.mark.filterwarnings("ignore")
class TestPackages:
    def test_skglm(self):
        slope = pytest.importorskip("skglm.penalties").SLOPE
        for n, kind, weighting, scale in itertools.product((2, 400), KINDS, WEIGHTS, SCALES):
            values, weights = case(n, kind, weighting, scale)
            assert_same(values, weights, slope(weights).prox_vec(values, 1.0))
        values, weights = case(1_000_000, "random", "oscar")
        assert_same(values, weights, slope(weights).prox_vec(values, 1.0))

    def test_sortedl1(self):
        """A regression on the identity, ‖v − x‖² / 2n + Σ w_k |x|_(k) / n; no constant values."""
        estimator = pytest.importorskip("sortedl1").Slope
        for kind, weighting in itertools.product(
            set(KINDS) - {"constant", "zero"}, set(WEIGHTS) - {"none"}
        ):
            values, weights = case(40, kind, weighting)
            slope = estimator(lam=weights, alpha=1.0 / len(values), fit_intercept=False, tol=1e-14)
            assert_same(
                values, weights, np.asarray(slope.fit(np.eye(len(values)), values).coef_).ravel()
            )
