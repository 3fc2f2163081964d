"""Proximal steps of members that move with different step sizes, or do not move at all."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.testing import assert_close

from lit_share.functional import Penalty

from . import _asserts as asserts
from ._zoo import CENTERS, SMOOTH, SPECS, Spec, case, cases, each_penalty

each_pair = pytest.mark.parametrize("spec", [s for s in SPECS if s.center == "mean"], ids=str)
each_squared = pytest.mark.parametrize("spec", [s for s in SPECS if s.norm == "squared"], ids=str)


@each_pair
def test_pair_is_what_cvxpy_finds(spec):
    for steps in ([0.1, 0.4], [0.7, 0.2], [0.0, 0.4], [0.4, 0.0]):
        for c in cases(spec, "small matrix", counts=[2]):
            assert asserts.cvxpy_difference(c, steps) <= 1e-5


@each_squared
def test_squared_is_what_cvxpy_finds(spec):
    for steps in ([0.1, 0.4, 2.0], [0.7, 0.0, 0.2], [0.0, 0.5, 0.5]):
        for c in cases(spec, "small matrix", counts=[2, 3]):
            assert asserts.cvxpy_difference(c, steps[: len(c.members)]) <= 1e-5


@each_pair
def test_pair_is_optimal(spec):
    """The two members are pulled by opposite forces, (W_i − V_i) / t_i."""
    for c in cases(spec, counts=[2]):
        for steps in (c.steps(0.01, 0.1), c.steps(0.5, 0.2), c.steps(10.0, 30.0)):
            moved = c.prox(steps)
            asserts.assert_subgradient(
                c, moved, [(w - v) / t for w, v, t in zip(c.members, moved, steps, strict=True)]
            )


@each_pair
def test_almost_equal_steps_are_almost_one_step(spec):
    for c in cases(spec, *SMOOTH, counts=[2]):
        assert_close(c.prox([0.2, 0.2 * (1.0 + 1e-12)]), c.prox(0.2), rtol=0, atol=1e-9)


@each_pair
def test_weighted_mean_stays(spec):
    """Σ V_i / t_i = Σ W_i / t_i: the slower member moves less."""
    for c in cases(spec, "small matrix", "huge", counts=[2]):
        steps = c.steps(0.1, 0.3)
        before, after = (
            [w / t for w, t in zip(ws, steps, strict=True)] for ws in (c.members, c.prox(steps))
        )
        assert_close(sum(after), sum(before))


@each_penalty
def test_equal_steps_are_one_step(spec):
    for c in cases(spec, "matrix"):
        count = len(c.members)
        assert all(
            torch.equal(v, e) for v, e in zip(c.prox([0.3] * count), c.prox(0.3), strict=True)
        )
        assert all(torch.equal(v, e) for v, e in zip(c.prox([1] * count), c.prox(1), strict=True))


@pytest.mark.parametrize("spec", [s for s in SPECS if s.center == "first"], ids=str)
def test_step_of_the_first_member_does_not_matter(spec):
    """The others follow it: it has no step to take."""
    for c in cases(spec, "matrix"):
        for own in (0.0, 7.0):
            moved = c.prox([own] + [0.3] * (len(c.members) - 1))
            assert all(torch.equal(v, e) for v, e in zip(moved, c.prox(0.3), strict=True))


@each_pair
def test_frozen_member_of_a_pair_stays(spec):
    for c in cases(spec, counts=[2]):
        for frozen in (0, 1):
            for (step,) in (c.steps(0.3), c.steps(100.0)):
                moved = c.prox([0.0, step] if frozen == 0 else [step, 0.0])
                assert torch.equal(moved[frozen], c.members[frozen])
            if spec.homogeneous:
                assert torch.equal(moved[1 - frozen], c.members[frozen])


@each_squared
def test_frozen_members_of_the_squared_penalty_stay(spec):
    for c in cases(spec, counts=[2, 3]):
        for frozen in range(len(c.members)):
            steps = [0.2, 0.3, 0.4][: len(c.members)]
            steps[frozen] = 0.0
            assert_close(c.prox(steps)[frozen], c.members[frozen], rtol=0, atol=1e-15 * c.scale)


@each_penalty
def test_nothing_moves_if_all_are_frozen(spec):
    for c in cases(spec, "matrix", "huge", "equal"):
        for w, v in zip(c.members, c.prox([0.0] * len(c.members)), strict=True):
            assert_close(v, w, rtol=0, atol=asserts.precision(c) * c.scale)


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.center == "mean" and s.homogeneous], ids=str
)
def test_pair_becomes_exactly_equal(spec):
    """The two meet, bit by bit, at their mean weighted by 1/t."""
    for c in cases(spec, "vector", "kernel", "noncontiguous", counts=[2]):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            a, b = c.to(dtype).members
            moved = c.to(dtype).prox([10.0, 30.0])
            assert torch.equal(*moved)
            assert moved[0].dtype == dtype
            assert_close(moved[0], (0.75 * a.double() + 0.25 * b.double()).to(dtype))


@pytest.mark.parametrize("size", [1e3, 1e6, 1e10, 1e20])
def test_large_steps_of_the_squared_penalty_end_at_the_weighted_mean(size):
    """Without limit: the stronger the pull, the closer to hard sharing."""
    for count in CENTERS["mean"]:
        c = case(Spec("squared", "element", "mean"), "matrix", count)
        steps = [(i + 1.0) * size for i in range(count)]
        mean = sum(w / t for w, t in zip(c.members, steps, strict=True)) / sum(
            1.0 / t for t in steps
        )
        for v in c.prox(steps):
            assert_close(v, mean, rtol=0, atol=10.0 / size + 1e-9)


class TestErrors:
    @pytest.mark.parametrize(
        ("step", "message"),
        [
            (-0.1, "proximal step must be finite and at least 0, got step=-0.1"),
            (math.nan, "proximal step must be finite and at least 0, got step=nan"),
            (math.inf, "proximal step must be finite and at least 0, got step=inf"),
            (
                [0.1, -0.1],
                re.escape("proximal step must be finite and at least 0, got step=[0.1, -0.1]"),
            ),
            ([0.1], "one number or one per member: got 1 steps for 2 members"),
            ([0.1] * 3, "one number or one per member: got 3 steps for 2 members"),
            ([], "one number or one per member: got 0 steps for 2 members"),
        ],
    )
    def test_step_out_of_range(self, step, message):
        for norm in ("l1", "squared"):
            with pytest.raises(ValueError, match=message):
                Penalty(norm, "element", "mean").prox([torch.ones(2), torch.ones(2)], step)

    @pytest.mark.parametrize("row", ["l1", "owl_pld"])
    @pytest.mark.parametrize(
        ("center", "steps"),
        [
            ("mean", [0.1, 0.2, 0.3]),
            ("mean", [0.1, 0.1, 0.0]),
            ("zero", [0.1, 0.2]),
            ("zero", [0.0, 0.2]),
            ("start", [0.1, 0.2]),
            ("first", [0.1, 0.2, 0.3]),
        ],
    )
    def test_no_closed_form(self, row, center, steps):
        """The message says what was asked for, and the three ways out."""
        c = case(Spec(row, "element", center), "matrix", len(steps))
        message = re.escape(
            f"center='{center}' has no closed-form proximal step for {len(steps)} members with "
            f"different step sizes "
            f'{steps}: give them one learning rate, tie them in pairs, or use norm="squared"'
        )
        for refuse in (c.prox, lambda steps: c.penalty.check([w.shape for w in c.members], steps)):
            with pytest.raises(ValueError, match=f"a {c.spec.norm} penalty with {message}"):
                refuse(steps)
