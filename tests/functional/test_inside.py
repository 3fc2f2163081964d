"""Penalties inside a tensor: value, gradient and proximal step of its numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import cvxpy
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_share.functional import Penalty, Shard, TieBatch, TieTensors, add_gradient_, prox_
from lit_share.functional import _isotonic as isotonic
from lit_share.functional._fused import is_fusable
from lit_share.functional._fused_graph import is_fusable_graph

VALUE_TIE = Penalty("l1", "element", "graph", edges="all")
SQUARED = {
    "graph": Penalty("squared", "element", "graph", edges="all"),
    "mean": Penalty("squared", "element", "mean"),
}
PENALTIES = {"l1": VALUE_TIE} | SQUARED
SIZES = (2, 3, 7, 40)
each_penalty = pytest.mark.parametrize("name", PENALTIES)
each_size = pytest.mark.parametrize("n", SIZES)


def numbers(n, dtype=torch.float64, equal=True):
    """Numbers of which some are equal, and some are close."""
    rng = torch.Generator().manual_seed(n)
    w = torch.randn(n, generator=rng, dtype=torch.float64)
    if equal and n > 2:
        w[-1] = w[0]
        w[n // 2 : n // 2 + n // 4] = w[1] + 1e-3 * w[n // 2 : n // 2 + n // 4]
    return w.to(dtype)


def brute(name, w):
    """All pairs, one after the other."""
    differences = (w.view(-1, 1) - w.view(1, -1)).triu(1)
    total = differences.abs().sum() if name == "l1" else 0.5 * differences.square().sum()
    return total / max(w.numel() - 1, 1)


@each_size
@each_penalty
def test_value_is_that_of_all_pairs(name, n):
    w = numbers(n)
    assert_close(PENALTIES[name].value([w], inside=True), brute(name, w), rtol=1e-12, atol=1e-14)


@each_size
@each_penalty
def test_gradient_is_that_of_all_pairs(name, n):
    w = numbers(n).requires_grad_()
    (expected,) = torch.autograd.grad(brute(name, w), w)
    (pull,) = PENALTIES[name].gradient([w], inside=True)
    assert_close(pull, expected, rtol=1e-12, atol=1e-12)
    (backward,) = torch.autograd.grad(3.0 * PENALTIES[name].value([w], inside=True), w)
    assert_close(backward, 3.0 * expected, rtol=1e-12, atol=1e-12)


@each_penalty
def test_second_derivatives(name):
    w = numbers(7, equal=False).requires_grad_()
    value = lambda x: PENALTIES[name].value([x], inside=True)  # noqa: E731
    assert torch.autograd.gradgradcheck(value, [w])


@each_size
@each_penalty
@pytest.mark.parametrize("step", [1e-3, 0.1, 0.7, 5.0])
def test_prox_is_that_of_a_solver(name, n, step):
    w = numbers(n)
    v = cvxpy.Variable(n)
    i, j = np.triu_indices(n, 1)
    differences = v[i] - v[j]
    omega = cvxpy.norm1(differences) if name == "l1" else 0.5 * cvxpy.sum_squares(differences)
    objective = 0.5 * cvxpy.sum_squares(v - w.numpy()) + step / (n - 1) * omega
    problem = cvxpy.Problem(cvxpy.Minimize(objective))
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    (moved,) = PENALTIES[name].prox([w], step, inside=True)
    assert np.abs(moved.numpy() - v.value).max() < 1e-5


@each_size
@pytest.mark.parametrize("step", [0.1, 0.7])
def test_prox_is_that_of_as_many_members(n, step):
    """Numbers inside a tensor are members of one number, with edges of weight 1 / (n − 1)."""
    w = numbers(n)
    members = list(w.view(-1, 1))
    if n > 2:
        expected = torch.cat(VALUE_TIE.prox(members, step / (n - 1)))
    else:
        expected = torch.cat(VALUE_TIE.prox(members, step))
    (moved,) = VALUE_TIE.prox([w], step, inside=True)
    assert_close(moved, expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("step", [1e-6, 1e-2, 0.3, 2.0])
def test_the_loop_equals_scipy_bit_by_bit(step, dtype):
    pytest.importorskip("numba")
    values = torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=dtype)
    values = values.mul(64).round().div(64) if step == 0.3 else values
    (moved,) = VALUE_TIE.prox([values], step, inside=True)
    ordered, order = values.sort()
    fused = isotonic.fuse_plainly(ordered.numpy(), step / (len(values) - 1))
    assert np.array_equal(moved[order].numpy(), fused.astype(moved.numpy().dtype))


def test_without_numba(monkeypatch):
    w = numbers(40)
    (expected,) = VALUE_TIE.prox([w], 0.5, inside=True)
    monkeypatch.setattr(isotonic, "_loop", lambda _: None)
    (moved,) = VALUE_TIE.prox([w], 0.5, inside=True)
    assert torch.equal(moved, expected)
    assert moved.unique().numel() < 40


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_that_become_one_are_equal_bit_by_bit(dtype):
    """A solver says which; the dtype of training may make more numbers equal."""
    w = torch.tensor([[-1.0, 0.0, 0.001], [0.002, 1.0, -0.0]], dtype=dtype)
    (moved,) = VALUE_TIE.prox([w], 0.5, inside=True)
    assert moved.dtype == dtype
    middle = moved[torch.tensor([[False, True, True], [True, False, True]])]
    bits = middle.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
    assert len(set(bits.tolist())) == 1
    assert moved.unique().numel() == 3
    (one,) = VALUE_TIE.prox([w], 100.0, inside=True)
    assert one.unique().numel() == 1
    assert_close(one[0, 0].double(), w.double().mean(), rtol=1e-2, atol=1e-3)


def test_equal_numbers_stay_equal_and_negative_zero_is_zero():
    w = torch.tensor([0.0, -0.0, 1.0, -0.0, 5.0, 5.0])
    (moved,) = VALUE_TIE.prox([w], 0.01, inside=True)
    assert moved[[0, 1, 3]].view(torch.int32).unique().numel() == 1
    assert moved[4:].view(torch.int32).unique().numel() == 1
    (pull,) = VALUE_TIE.gradient([w], inside=True)
    assert pull[0] == pull[1] == pull[3] == pytest.approx(-3 / 5)
    equal = torch.full((3,), 0.1)
    for penalty in PENALTIES.values():
        assert penalty.value([equal], inside=True) == 0.0
        assert not penalty.gradient([equal], inside=True)[0].any()
        assert torch.equal(penalty.prox([equal], 0.3, inside=True)[0], equal)


@each_penalty
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1,), (1, 1)])
def test_fewer_than_two_numbers_have_nothing_to_compare(name, shape):
    penalty, w = PENALTIES[name], torch.ones(shape)
    assert penalty.value([w], inside=True) == 0.0
    assert torch.equal(penalty.gradient([w], inside=True)[0], torch.zeros(shape))
    assert torch.equal(penalty.prox([w], 0.5, inside=True)[0], w)


@each_penalty
def test_members_in_any_layout(name):
    penalty, w = PENALTIES[name], numbers(40).view(5, 8)
    layouts = [w.T.contiguous().T, w.repeat(1, 2)[:, :8], w.view(5, 2, 4).transpose(0, 1)]
    for other in layouts:
        expected = other.contiguous()
        assert not other.is_contiguous()
        assert_close(penalty.value([other], inside=True), penalty.value([w], inside=True))
        for new, old in (
            (penalty.gradient([other], inside=True), penalty.gradient([expected], inside=True)),
            (penalty.prox([other], 0.2, inside=True), penalty.prox([expected], 0.2, inside=True)),
        ):
            assert_close(new[0], old[0], rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_stay_so_and_do_not_move_others_away(value):
    """The check of each epoch finds them."""
    w = numbers(40, torch.float32)
    w[3] = value
    (moved,) = VALUE_TIE.prox([w], 0.1, inside=True)
    assert torch.equal(moved.isfinite(), w.isfinite())
    assert (moved - w)[w.isfinite()].abs().max() <= 0.1 + 1e-6
    assert not VALUE_TIE.value([w], inside=True).isfinite()


@each_penalty
@pytest.mark.parametrize("n", [10, 1000, 100_000])
def test_a_strength_means_the_same_in_tensors_of_all_sizes(name, n):
    """The largest number is 1 above the mean, and pulled by n − 1 others of weight 1 / (n − 1)."""
    w = torch.linspace(-1.0, 1.0, n)
    expected = {"l1": 1.0, "graph": n / (n - 1), "mean": n / (n - 1)}[name]
    (pull,) = PENALTIES[name].gradient([w], inside=True)
    assert float(pull[-1]) == pytest.approx(expected, rel=1e-6)


@each_penalty
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_sums_of_a_million_numbers_keep_their_digits(name, offset):
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(10**6, generator=rng) + offset
    exact = w.double().sort().values
    coefficients = 2.0 * torch.arange(10**6, dtype=torch.float64) - (10**6 - 1)
    expected = (coefficients * (exact - offset)).sum() / (10**6 - 1)
    if name != "l1":
        expected = 0.5 * 10**6 * (exact - exact.mean()).square().sum() / (10**6 - 1)
    assert float(PENALTIES[name].value([w], inside=True)) == pytest.approx(
        float(expected), rel=1e-6
    )


@each_penalty
def test_in_place_of_more_numbers_than_a_block(name):
    """Blocks are computed apart, which numbers that are compared cannot be."""
    penalty = PENALTIES[name]
    w = torch.randn(2**19 + 5, generator=torch.Generator().manual_seed(2))
    (pull,), (moved,) = penalty.gradient([w], inside=True), penalty.prox([w], 0.1, inside=True)
    value = penalty.value([w], inside=True)
    tie = TieTensors([w.clone()], grads=[torch.ones_like(w)], steps=[0.1], inside=True)
    assert not is_fusable(penalty, tie, as_gradient=True)
    assert not is_fusable(penalty, tie, as_gradient=False)
    assert not is_fusable_graph(penalty, tie)
    assert TieBatch(penalty, [tie]).value() == pytest.approx(float(value), rel=1e-6)
    add_gradient_(penalty, [tie], 0.5)
    assert_close(tie.grads[0], 1.0 + 0.5 * pull)
    prox_(penalty, [tie])
    assert torch.equal(tie.members[0], moved)


def test_several_ties_of_a_batch():
    """Ties inside a tensor beside ties of members, and one that does not move."""
    a, b = numbers(7), numbers(40)
    ties = [
        TieTensors([a.clone()], steps=[0.3], inside=True),
        TieTensors([b.clone(), b + 1.0, b - 1.0], steps=[0.3] * 3),
        TieTensors([b.clone()], steps=[0.0], inside=True),
    ]
    prox_(VALUE_TIE, ties)
    assert torch.equal(ties[0].members[0], VALUE_TIE.prox([a], 0.3, inside=True)[0])
    for moved, expected in zip(
        ties[1].members, VALUE_TIE.prox([b, b + 1.0, b - 1.0], 0.3), strict=True
    ):
        assert torch.equal(moved, expected)
    assert torch.equal(ties[2].members[0], b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("l1", "element", "zero"), "leave out [...]"),
        (("squared", "element", "start"), "leave out [...]"),
        (("squared", "element", "first"), "leave out [...]"),
        (("l1", "element", "mean"), 'write norm="l1" with center="graph"'),
        (("l1", "output", "graph"), 'write groups="element"'),
        (("squared", "tensor", "mean"), 'write groups="element"'),
        (("l1", "spectrum", "mean"), 'write groups="element"'),
        (("l1", "element", "graph", None, "adaptive"), 'write edges="all"'),
        (("l1", "element", "graph", None, "chain"), 'write edges="all"'),
        (("l1", "element", "graph", None, [(0, 1)]), 'write edges="all"'),
    ],
)
def test_other_penalties_are_refused(arguments, message):
    penalty = Penalty(*arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        penalty.check([(3,)], inside=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        penalty.value([torch.ones(3)], [torch.ones(3)], inside=True)


def test_what_does_not_fit_a_tie_inside_a_tensor_is_refused():
    w = torch.ones(3)
    with pytest.raises(ValueError, match="a single member, got 2"):
        VALUE_TIE.value([w, w], inside=True)
    with pytest.raises(ValueError, match=r"^inside=True takes one member, got 2$"):
        TieTensors([w, w], inside=True)
    with pytest.raises(ValueError, match=r"^inside=True takes no shard: gather the tensor first$"):
        TieTensors([w], shard=Shard(0, 0, 6, None), inside=True)
    with pytest.raises(ValueError, match="leave out precision"):
        SQUARED["mean"].gradient([w], precision=[w], inside=True)
    needing = Penalty("squared", "element", "mean", needs_precision=True)
    with pytest.raises(ValueError, match="leave out precision"):
        needing.check([(3,)], inside=True)
    with pytest.raises(ValueError, match="needs at least 2 members"):
        VALUE_TIE.value([w])
    numbers_only = replace(VALUE_TIE, needs_inside=True)
    assert torch.equal(numbers_only.value([w], inside=True), VALUE_TIE.value([w], inside=True))
    with pytest.raises(
        ValueError, match=r"not members: end the pattern in \[...\], or write exact"
    ):
        numbers_only.value([w, w])


@each_penalty
def test_inputs_are_unchanged(name):
    w = numbers(40)
    before, version = w.clone(), w._version
    results = [PENALTIES[name].gradient([w], inside=True)]
    results += [PENALTIES[name].prox([w], step, inside=True) for step in (0.0, 0.1)]
    assert torch.equal(w, before)
    assert w._version == version
    assert all(new.data_ptr() != w.data_ptr() for (new,) in results)
