"""Squared penalties whose elements are weighted by a precision F."""

from __future__ import annotations

import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_share.functional import (
    Penalty,
    TieBatch,
    TieTensors,
    add_gradient_,
    prox_,
    weighted_mean,
)

from .._own_rows import registered

CENTERS = {"zero": (1, 2, 3), "mean": (2, 3, 5), "first": (2, 3), "start": (1, 2, 3)}
CASES = [(center, count) for center, counts in CENTERS.items() for count in counts]
SHAPE = (3, 4)


def random(count, seed, shape=SHAPE, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for _ in range(count)]


def precisions(count, seed=7, **options):
    """Numbers from 1e-3 to 1e3, some of them 0: in one member, and in all."""
    weights = [10.0 ** (1.5 * f) for f in random(count, seed, **options)]
    for i, f in enumerate(weights):
        f[0, 1] = 0.0
        f[1, i % 4] = 0.0
    return weights


def start_of(center, count, **options):
    return random(count, 3, **options) if center == "start" else None


def written_out(center, members, weights, start):
    """s²/2 Σ F (w − c)², where a mean is the minimiser over c."""
    if center == "mean":
        total = sum(weights)
        mean = sum(f * w for f, w in zip(weights, members, strict=True)) / total.clamp_min(1e-300)
        points = [mean] * len(members)
    else:
        points = {
            "zero": [torch.zeros_like(w) for w in members],
            "first": [members[0].detach()] * len(members),
            "start": start,
        }[center]
    scale = len(members) if center == "mean" else 1
    terms = zip(weights, members, points, strict=True)
    return 0.5 * scale * sum((f * (w - c).square()).sum() for f, w, c in terms)


@pytest.mark.parametrize(("center", "count"), CASES)
class TestAgainstFormulas:
    def test_value_and_gradient(self, center, count):
        """Autograd differentiates the weighted mean, too."""
        penalty, start = Penalty("squared", "element", center), start_of(center, count)
        members, weights = random(count, 1), precisions(count)
        leaves = [w.clone().requires_grad_() for w in members]
        expected = written_out(center, leaves, weights, start)
        assert expected > 1.0
        assert_close(penalty.value(members, start, weights), expected)
        slopes = torch.autograd.grad(expected, leaves, allow_unused=True)
        assert_close(
            penalty.gradient(members, start, weights),
            [torch.zeros_like(w) if g is None else g for g, w in zip(slopes, members, strict=True)],
        )
        (2.5 * penalty.value(leaves, start, weights)).backward()
        for leaf, slope in zip(leaves, penalty.gradient(members, start, weights), strict=True):
            assert_close(leaf.grad, 2.5 * slope)

    @pytest.mark.parametrize("steps", ["one", "different", "one at rest"])
    def test_prox_is_cvxpys(self, center, count, steps):
        each = {"one": [0.3] * 5, "different": [0.1, 0.5, 2.0, 0.0, 1.0]}.get(steps, [0.0, 0.4] * 3)
        each = each[:count]
        penalty, start = Penalty("squared", "element", center), start_of(center, count)
        members, weights = random(count, 1), precisions(count)
        moved = penalty.prox(members, each, start, weights)
        assert_close(moved, solved(center, members, weights, start, each), rtol=1e-5, atol=1e-5)

    def test_prox_is_an_implicit_gradient_step(self, center, count):
        """V + t·∇Ω(V) = W."""
        penalty, start = Penalty("squared", "element", center), start_of(center, count)
        members, weights = random(count, 1), precisions(count)
        moved = penalty.prox(members, 0.7, start, weights)
        slopes = penalty.gradient(moved, start, weights)
        assert_close([v + 0.7 * g for v, g in zip(moved, slopes, strict=True)], members)

    def test_ones_are_no_precision(self, center, count):
        penalty, start = Penalty("squared", "element", center), start_of(center, count)
        members = random(count, 1)
        ones = [torch.ones_like(w) for w in members]
        assert_close(penalty.value(members, start, ones), penalty.value(members, start))
        assert_close(penalty.gradient(members, start, ones), penalty.gradient(members, start))
        assert_close(penalty.prox(members, 0.3, start, ones), penalty.prox(members, 0.3, start))

    def test_zeros_pull_nothing(self, center, count):
        penalty, start = Penalty("squared", "element", center), start_of(center, count)
        members, zeros = random(count, 1), [torch.zeros(SHAPE)] * count
        assert penalty.value(members, start, zeros) == 0.0
        assert not any(g.any() for g in penalty.gradient(members, start, zeros))
        for w, v in zip(members, penalty.prox(members, 0.3, start, zeros), strict=True):
            assert torch.equal(w, v)

    @pytest.mark.parametrize(
        ("dtype", "shape"),
        [(torch.float32, SHAPE), (torch.bfloat16, SHAPE), (torch.float64, (3, 2**18))],
        ids=["float32", "bfloat16", "blocks"],
    )
    def test_in_place(self, center, count, dtype, shape):
        """Half precision is computed in float32, and large members in blocks."""
        penalty = Penalty("squared", "element", center)
        start = start_of(center, count, shape=shape, dtype=dtype)
        members = random(count, 1, shape, dtype)
        weights = precisions(count, shape=shape, dtype=torch.float32)
        expected = penalty.gradient(members, start, weights)
        tie = TieTensors(
            [w.clone() for w in members],
            grads=[torch.zeros_like(w) for w in members],
            steps=[0.3] * count,
            start=start,
            precision=weights,
        )
        add_gradient_(penalty, [tie], 1.0)
        assert_close(list(tie.grads), expected)
        assert TieBatch(penalty, [tie]).value() == pytest.approx(
            penalty.value(members, start, weights).item(), rel=1e-5
        )
        prox_(penalty, [tie])
        assert_close(list(tie.members), penalty.prox(members, 0.3, start, weights))
        assert not torch.equal(tie.members[-1], members[-1])


def solved(center, members, weights, start, steps):
    """The proximal step by CVXPY, over members and a free center."""
    count, shape = len(members), tuple(members[0].shape)
    variables = [cp.Variable(shape) for _ in members]
    scale = count if center == "mean" else 1
    points = {
        "zero": [np.zeros(shape)] * count,
        "mean": [cp.Variable(shape)] * count,
        "first": [members[0].numpy()] * count,
        "start": [s.numpy() for s in start or ()],
    }[center]
    terms, fixed = [], []
    for i, (v, w, f, t) in enumerate(zip(variables, members, weights, steps, strict=True)):
        if t == 0.0 or (center == "first" and i == 0):
            fixed.append(v == w.numpy())
        else:
            terms.append(cp.sum_squares(v - w.numpy()) / (2 * t))
        root = f.sqrt().numpy() * np.sqrt(scale)
        terms.append(cp.sum_squares(cp.multiply(root, v - points[i])) / 2)
    options = {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13}
    cp.Problem(cp.Minimize(sum(terms)), fixed).solve(solver="CLARABEL", **options)
    return [torch.from_numpy(v.value) for v in variables]


class TestTheWeightedMean:
    def test_is_the_minimiser(self):
        members, weights = random(4, 1), [f + 0.1 for f in precisions(4)]
        stacked, of_each = torch.stack(members), torch.stack(weights)
        expected = (of_each * stacked).sum(0) / of_each.sum(0)
        assert_close(weighted_mean(members, weights), expected)

    def test_of_equal_members_is_that_member(self):
        (w,) = random(1, 1, dtype=torch.float32)
        assert torch.equal(weighted_mean([w] * 3, precisions(3, dtype=torch.float32)), w)

    @pytest.mark.parametrize("size", [1e-42, 1e-30, 1e30])
    def test_of_extreme_weights(self, size):
        """Second moments of float32 may be as small as they can be."""
        members, weights = random(3, 1, dtype=torch.float32), [1.0, 2.0, 3.0]
        extreme = [torch.full(SHAPE, size) * f for f in weights]
        expected = sum(f * w for f, w in zip(weights, members, strict=True)) / 6.0
        assert_close(weighted_mean(members, extreme), expected, rtol=1e-3, atol=1e-3)

    def test_pair_is_pulled_by_the_harmonic_mean(self):
        (a, b), (f, g) = random(2, 1), [w + 0.1 for w in precisions(2)]
        pull = 2 * f * g / (f + g) * (a - b)
        penalty = Penalty("squared", "element", "mean")
        assert_close(penalty.gradient([a, b], precision=[f, g]), [pull, -pull])


class TestRefusals:
    @pytest.mark.parametrize(
        ("pieces", "message"),
        [
            (("l1", "element", "mean"), r'norm="squared", not for norm="l1"'),
            (("squared", "tensor", "mean"), r'groups="element", not for groups="tensor"'),
        ],
    )
    def test_other_pieces(self, pieces, message):
        with pytest.raises(ValueError, match=message):
            Penalty(*pieces, needs_precision=True)
        members = random(2, 1)
        with pytest.raises(ValueError, match=message):
            Penalty(*pieces).gradient(members, precision=members)
        with pytest.raises(ValueError, match=message):
            TieBatch(Penalty(*pieces), [TieTensors(members, precision=precisions(2))])

    def test_centers_that_are_not_known(self):
        """They may depend on the members in any way, so nothing guesses."""
        with registered(), pytest.raises(ValueError, match=r'not for center="middle"'):
            Penalty("squared", "element", "middle", needs_precision=True)

    def test_missing(self):
        penalty, members = Penalty("squared", "element", "zero", needs_precision=True), random(1, 1)
        message = r"weights every element by its precision: pass precision=, such as .*fisher"
        for compute in (penalty.value, penalty.gradient, lambda w: penalty.prox(w, 0.1)):
            with pytest.raises(ValueError, match=message):
                compute(members)
        tie = TieTensors(members, grads=[torch.zeros(SHAPE)], steps=[0.1])
        for step in (lambda: add_gradient_(penalty, [tie], 1.0), lambda: prox_(penalty, [tie])):
            with pytest.raises(ValueError, match=message):
                step()

    @pytest.mark.parametrize("given", [[torch.ones(2)], [torch.ones(SHAPE)] * 2, []])
    def test_other_shapes(self, given):
        with pytest.raises(ValueError, match=r"one tensor per member, of shape \(3, 4\), got "):
            Penalty("squared", "element", "zero").value(random(1, 1), precision=given)


def test_shards_need_nothing_of_each_other():
    """So the local slices of members are enough."""
    for center, dim in itertools.product(CENTERS, (0, 1)):
        assert not Penalty("squared", "element", center).needs_other_shards(2, dim)
