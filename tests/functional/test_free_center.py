"""Members with spokes to a free center: value, gradient and proximal step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_share.functional import Penalty, TieTensors, prox_
from lit_share.functional import _star as star
from lit_share.functional import _star_numbers as star_numbers
from lit_share.functional._edges import Star

from . import _stars as reference
from ._members import arrays, each_dtype, each_grouping, members_of, steps_of


def robust(groups: str) -> Penalty:
    """Without the factor of the size of groups, which `test_penalty` has the tests of."""
    return Penalty("l1", groups, "graph", edges="star", scaled=False)


def cluster(count: int, outlier: float, *, at: int = -1, dtype=torch.float64) -> list[torch.Tensor]:
    """Members near each other, but one that is so far away, in each element."""
    rng = torch.Generator().manual_seed(2)
    members = [1e-2 * torch.randn(4, 5, generator=rng, dtype=torch.float64) for _ in range(count)]
    members[at] += outlier
    return [w.to(dtype) for w in members]


def test_member_in_the_middle_is_pulled_by_all():
    """Where angles are wide, the center is a member, and moves with it."""
    members = [torch.tensor(w, dtype=torch.float64) for w in ([0.0, 0.0], [1.0, 0.1], [-1.0, 0.1])]
    first, *others = robust("tensor").gradient(members)
    for pull, w in zip(others, members[1:], strict=True):
        assert_close(pull, w / w.norm())
    assert_close(first, -others[0] - others[1])
    assert first.norm() < 1.0


@each_grouping
@pytest.mark.parametrize("count", [3, 4, 5])
def test_subgradient_where_members_are_equal(groups, count):
    """Ω(V) ≥ Ω(W) + ⟨U, V − W⟩, with two pairs of equal members, and several best centers."""
    rng = torch.Generator().manual_seed(0)
    members = [torch.randn(2, 3, generator=rng, dtype=torch.float64) for _ in range(count)]
    members[1] = members[0]
    if count > 3:
        members[3] = members[2]
    penalty = robust(groups)
    pulls, height = penalty.gradient(members), penalty.value(members)
    for size in (1e-3, 1.0):
        for _ in range(20):
            moves = [size * torch.randn(2, 3, generator=rng, dtype=torch.float64) for _ in members]
            above = penalty.value([w + d for w, d in zip(members, moves, strict=True)]) - height
            assert above >= sum((u * d).sum() for u, d in zip(pulls, moves, strict=True)) - 1e-9


@each_grouping
@each_dtype
@pytest.mark.parametrize("count", [3, 5, 8, 50])
@pytest.mark.parametrize("at", [0, 1, -1])
def test_outlier_leaves_and_others_are_equal(groups, dtype, count, at):
    members = cluster(count, 10.0, at=at, dtype=dtype)
    step = {"element": 0.2, "output": 0.4, "input": 0.4, "tensor": 0.8}[groups]
    moved = robust(groups).prox(members, step)
    outlier = moved.pop(at)
    assert all(torch.equal(v, moved[0]) for v in moved)
    assert (members[at] - outlier).abs().max() > 0.0
    assert (outlier - moved[0]).abs().min() > 9.0


@pytest.mark.parametrize("at", [0, 1, -1])
@pytest.mark.parametrize("far", [1e2, 1e5, 1e8])
@pytest.mark.parametrize("fused", [False, True])
def test_outlier_moves_no_other_farther_than_its_step(at, far, fused):
    """Rounding errors of its distances are those of no other member."""
    rng = torch.Generator().manual_seed(0)
    members = [1e-3 * torch.randn(10, 10, generator=rng, dtype=torch.float64) for _ in range(4)]
    members[at] = far * torch.randn(10, 10, generator=rng, dtype=torch.float64)
    before, step = [w.clone() for w in members], 1e-4
    if fused:
        prox_(robust("tensor"), [TieTensors(members, steps=[step] * 4)])
        moved = members
    else:
        moved = robust("tensor").prox(members, step)
    rest = [i for i in range(4) if i != at % 4]
    for i in rest:
        assert (moved[i] - before[i]).norm() == pytest.approx(step, rel=1e-3)
    assert not torch.equal(moved[rest[0]], moved[rest[1]])


@each_grouping
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("fused", [False, True])
def test_common_value_does_not_depend_on_how_far_an_outlier_is(groups, at, fused):
    """But for the rounding errors of inner products with a first member so far away."""
    commons = []
    for outlier in (10.0, 1e3, 1e5):
        members = cluster(5, outlier, at=at)
        if fused:
            tie = TieTensors(members, steps=[0.8] * 5)
            prox_(robust(groups), [tie])
            moved = list(tie.members)
        else:
            moved = robust(groups).prox(members, 0.8)
        del moved[at]
        assert all(torch.equal(v, moved[0]) for v in moved)
        commons.append(moved[0])
    # Directions change by the distances within the cluster relative to that of the outlier.
    assert_close(commons[1], commons[0], rtol=0, atol=1e-3)
    assert_close(commons[2], commons[1], rtol=0, atol=1e-5)
    # The mean goes wherever the outlier goes.
    mean = Penalty("l1", groups, "mean").prox(cluster(5, 1e5, at=at), 0.8)
    assert mean[1].abs().max() > 0.05


def test_fused_single_precision_keeps_digits():
    """Offsets from the first member, which is far away, would lose them."""
    members = cluster(5, 1e4, at=0, dtype=torch.float32)
    expected = robust("tensor").prox([w.double() for w in members], 0.8)
    tie = TieTensors(members, steps=[0.8] * 5)
    prox_(robust("tensor"), [tie])
    assert_close(list(tie.members), [w.float() for w in expected], rtol=1e-6, atol=1e-6)


@each_grouping
def test_two_members_of_step_0(groups):
    """Others move to either, or between them."""
    members = [w.float() for w in members_of(5)]
    moved = robust(groups).prox(members, [0.0, 9.0, 9.0, 9.0, 0.0])
    assert torch.equal(moved[0], members[0])
    assert torch.equal(moved[4], members[4])
    assert all(torch.equal(v, moved[1]) for v in moved[1:4])
    moved = robust(groups).prox(members, [0.0] * 5)
    assert all(torch.equal(v, w) for v, w in zip(moved, members, strict=True))


@each_grouping
@pytest.mark.parametrize("far", [1e-30, 1e30])
def test_distances_of_all_sizes(groups, far):
    """A step remains finite, and moves no member by more than its step."""
    members = members_of(5)
    members[3] = members[0] + far * members[3]
    for own in (members, members[::-1]):
        moved = robust(groups).prox(own, 0.3)
        assert all(torch.isfinite(v).all() for v in moved)
        if far < 1.0:
            farthest = max((v - w).norm() for v, w in zip(moved, own, strict=True))
            assert farthest <= 0.3 * 6**0.5 + 1e-9


@pytest.mark.parametrize("count", [4, 5, 6])
def test_members_on_a_line(count):
    """The Newton matrix is singular, and for an even number several centers are the best."""
    line = members_of(2)[0]
    members = [(i + 0.1 * i * i) * line for i in range(count)]
    moved = robust("tensor").prox(members, 0.05)
    for i, (v, w) in enumerate(zip(moved, members, strict=True)):
        side = (i > (count - 1) / 2) - (i < (count - 1) / 2)
        assert_close(v, w - 0.05 * side * line / line.norm(), rtol=0, atol=1e-9)
    expected = reference.value("tensor", arrays(members))
    assert robust("tensor").value(members).item() == pytest.approx(expected)


@each_grouping
def test_two_equal_pairs(groups):
    """All centers between them are the best, and each pair moves towards the other."""
    near, far = members_of(3)[::2]
    members = [near, near, far, far]
    moved = robust(groups).prox(members, 1e-3)
    assert torch.equal(moved[0], moved[1])
    assert torch.equal(moved[2], moved[3])
    pair = Penalty("l1", groups, "mean", scaled=False).prox([near, far], 1e-3)
    assert_close(moved[::2], pair, rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [3, 5, 8, 20])
def test_the_compiled_search_is_what_torch_computes(count):
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(6, count, 4, generator=rng, dtype=torch.float64)
    rows[:, 1] = rows[:, 0]
    rows[5] = rows[5, :1]
    rows = rows - rows[:, :1]
    gram = rows @ rows.mT
    columns = rows[..., 0].T.contiguous()
    for weights in ([1.0] * count, [2.0, *[1.0] * (count - 1)]):
        spokes = Star(tuple(weights))
        for steps in steps_of(count):
            compiled = star.solve_star(gram, spokes, steps)
            _, plain = star.solve_plainly(gram, weights, steps)
            assert torch.equal(compiled.leaders, plain.leaders)
            assert_close(compiled.moves @ rows, plain.moves @ rows, rtol=0, atol=1e-6)
            compiled = torch.stack(star_numbers.prox_of_numbers(list(columns), spokes, steps))
            plain = star_numbers.prox_of_numbers_plainly(columns, spokes, steps)
            assert_close(compiled, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["any", "equal pairs", "line", "outlier"])
def test_search_ends_soon(kind, monkeypatch):
    """Whatever the steps: weighted means alone would take thousands of turns, or not end."""
    rng, turns = np.random.default_rng(0), []
    gap = star._Search._gap
    monkeypatch.setattr(star._Search, "_gap", lambda *arguments: turns.append(1) or gap(*arguments))
    for _ in range(40):
        count = int(rng.choice([3, 4, 6, 8]))
        rows = torch.from_numpy(rng.standard_normal((20, count, rng.choice([1, 2, 7]))))
        if kind == "equal pairs":
            rows[:, 1::2] = rows[:, : count - 1 : 2]
        elif kind == "line":
            rows = rows[:, :1] * torch.from_numpy(rng.standard_normal((20, count, 1)))
        elif kind == "outlier":
            rows[:, 0] += 1e3
        steps = rng.choice([0.0, 1e-6, 1e-3, 0.1, 1.0, 10.0], count).tolist()
        rows = rows - rows[:, :1]
        turns.clear()
        star.solve_plainly(rows @ rows.mT, [1.0] * count, steps)
        assert len(turns) <= 30


@each_grouping
def test_without_numba(groups, monkeypatch):
    members = members_of(4)
    expected = robust(groups).prox(members, 0.3)
    monkeypatch.setattr(star, "_compiled", lambda: None)
    monkeypatch.setattr(star_numbers, "_compiled", lambda _: None)
    assert_close(robust(groups).prox(members, 0.3), expected, rtol=0, atol=1e-9)


@each_grouping
def test_aliases_pull_as_often_as_they_are_members(groups):
    """One Parameter in two members is a member of weight 2."""
    a, b, c = members_of(3)
    shared = a.clone()
    members = [shared, shared, b.clone(), c.clone()]
    tie = TieTensors(members, steps=[0.2, 0.0, 0.2, 0.2], aliases=[0, 0, 2, 3])
    prox_(robust(groups), [tie])
    # Stored separately, both move by the same forces, each by its own.
    a, twin, b, c = robust(groups).prox([a, a, b, c], [0.4, 0.4, 0.2, 0.2])
    assert torch.equal(a, twin)
    assert_close(shared, a, rtol=0, atol=1e-7)
    assert_close(list(tie.members[2:]), [b, c], rtol=0, atol=1e-7)


def test_nan_stays_in_its_group():
    members = members_of(3)
    members[0][0, 0] = torch.nan
    for moved in (robust("output").prox(members, 0.1), robust("output").gradient(members)):
        assert all(torch.isfinite(v[1]).all() for v in moved)
        assert torch.isnan(moved[0][0, 0])
    assert torch.isnan(robust("output").value(members))


class TestErrors:
    def test_squared(self):
        message = r'edges=\'star\' is for norm="l1", not for norm=\'squared\': write center="mean"'
        with pytest.raises(ValueError, match=message):
            Penalty("squared", "element", "graph", edges="star")

    def test_second_order_gradients(self):
        members = [w.requires_grad_() for w in members_of(3)]
        value = robust("tensor").value(members)
        with pytest.raises(RuntimeError, match=r"no second-order gradients.*create_graph=True"):
            torch.autograd.grad(value, members, create_graph=True)
