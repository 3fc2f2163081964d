"""Members of which some are one Parameter: what a penalty does to it."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_share.functional import Penalty
from lit_share.penalties import add_penalty_gradient, apply_prox
from lit_share.sharing import share
from lit_share.ties import Ties, TieViews

from .._modules import module_of

THREE = Ties("a", "b", "c")
STEP = 0.3


def models(shared=True):
    """Members a and b are equal, and one Parameter if ``shared``."""
    module = module_of({"a": (3, 4), "b": (3, 4), "c": (3, 4)}).double()
    with torch.no_grad():
        module.b.copy_(module.a)
    if shared:
        share(module, THREE, where="equal")
        assert module.a is module.b
    return module


def minimum(penalty, module, start=None):
    """The proximal step by Newton's method: the function is quadratic."""
    v, u = module.a.detach(), module.c.detach()

    def loss(numbers):
        new_v, new_u = numbers.reshape(2, 3, 4)
        far = (new_v - v).square().sum() + (new_u - u).square().sum()
        return 0.5 * far + STEP * penalty.value([new_v, new_v, new_u], start)

    at = torch.stack([v, u]).flatten()
    gradient = torch.autograd.functional.jacobian(loss, at)
    hessian = torch.autograd.functional.hessian(loss, at)
    return (at - torch.linalg.solve(hessian, gradient)).reshape(2, 3, 4)


@pytest.mark.parametrize("center", ["mean", "zero"])
@pytest.mark.parametrize("groups", ["element", "output"])
def test_a_proximal_step_is_that_of_all_its_members(groups, center):
    penalty, module = Penalty("squared", groups, center), models()
    expected = minimum(penalty, module)
    apply_prox(module, penalty, THREE.find(module), STEP)
    torch.testing.assert_close(torch.stack([module.a, module.c]), expected)
    assert module.a is module.b


@pytest.mark.parametrize("edges", ["all", "chain", [(0, 2, 2.0)], [(0, 2, 2.0), (1, 2, 0.5)]])
def test_edges_of_all_its_members_pull_it(edges):
    penalty, module = Penalty("squared", "element", "graph", edges=edges), models()
    expected = minimum(penalty, module)
    apply_prox(module, penalty, THREE.find(module), STEP)
    torch.testing.assert_close(torch.stack([module.a, module.c]), expected)


@pytest.mark.parametrize("groups", ["element", "tensor"])
def test_edges_that_pull_it_both_ways_leave_it(groups):
    module = module_of(dict.fromkeys("abcd", (1,))).double()
    with torch.no_grad():
        for parameter, number in zip(module.parameters(), [0.0, 5.0, 5.0, 9.0], strict=True):
            parameter.fill_(number)
    ties = Ties("a", "b", "c", "d")
    share(module, ties, where="equal")
    edges = [(0, 1, 1.0), (2, 3, 1.0)]
    apply_prox(module, Penalty("l1", groups, "graph", edges=edges), ties.find(module), 0.5)
    found = [float(p.detach()) for p in (module.a, module.b, module.d)]
    assert found == pytest.approx([0.5, 5.0, 8.5])


def test_precisions_of_its_members_are_averaged():
    module, penalty = models(), Penalty("squared", "element", "mean")
    separate = models(shared=False)
    precision = {"a": 1.0, "b": 9.0, "c": 2.0}
    weights = {name: torch.full((3, 4), f).double() for name, f in precision.items()}
    tie = THREE.find(module)[0]
    views = TieViews(penalty, [tie], precision=weights)
    views.set_steps([[STEP] * 3])
    views.take_prox()
    # It is the minimum of both quadratics, at twice the step and their mean.
    members = [separate.a, separate.a, separate.c]
    own = [torch.full((3, 4), f).double() for f in (5.0, 5.0, 2.0)]
    expected = penalty.prox(members, [2 * STEP, 2 * STEP, STEP], precision=own)
    torch.testing.assert_close([module.a, module.b, module.c], expected)


@pytest.mark.parametrize("groups", ["element", "output", "tensor"])
def test_spokes_of_all_its_members_pull_it(groups):
    """As two members of twice the step, which move by a force each."""
    penalty, module = Penalty("l1", groups, "graph", edges="star"), models()
    members = [module.a.detach().clone(), module.b.detach().clone(), module.c.detach().clone()]
    expected = penalty.prox(members, [2.0 * STEP, 2.0 * STEP, STEP])
    apply_prox(module, penalty, THREE.find(module), STEP)
    torch.testing.assert_close([module.a, module.c], expected[1:], rtol=0, atol=1e-6)
    assert not torch.equal(module.a, members[0]) or not torch.equal(module.c, members[2])


@pytest.mark.parametrize("norm", ["squared", "l1"])
@pytest.mark.parametrize("center", ["mean", "zero"])
def test_its_gradient_is_the_sum_over_its_members(norm, center):
    penalty, module = Penalty(norm, "output", center), models()
    penalty.value([module.a, module.b, module.c]).backward()
    expected = [module.a.grad.clone(), module.c.grad.clone()]
    module.zero_grad()
    add_penalty_gradient(module, penalty, THREE.find(module), 1.0)
    torch.testing.assert_close([module.a.grad, module.c.grad], expected)


@pytest.mark.parametrize("groups", ["element", "output", "tensor"])
def test_without_a_closed_form_it_moves_as_equal_members_do(groups):
    """Different steps have no closed form for three members."""
    penalty, module, separate = Penalty("l1", groups, "mean"), models(), models(shared=False)
    with pytest.raises(ValueError, match="no closed-form proximal step for 3 members"):
        penalty.check_prox([2 * STEP, 2 * STEP, STEP], 3)
    for each in (module, separate):
        apply_prox(each, penalty, THREE.find(each), STEP)
    assert torch.equal(separate.a, separate.b)
    torch.testing.assert_close([module.a, module.c], [separate.a, separate.c])
    assert not torch.equal(module.a, models().a)


def test_all_of_them_in_one_step():
    module = models()
    apply_prox(module, Penalty("l1", "tensor", "mean"), THREE.find(module), 100.0)
    assert torch.equal(module.a, module.c)


def test_starting_values_that_differ_are_averaged():
    """Members that were shared after training began have several starting values."""
    module, start = models(), models(shared=False)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(torch.arange(12.0).reshape(3, 4) * (parameter is start.b))
    values = {name: p.detach().clone() for name, p in start.named_parameters()}
    l2_sp, moved = Penalty("squared", "element", "start"), copy.deepcopy(module)
    apply_prox(moved, l2_sp, THREE.find(moved), STEP, start=values)
    expected = minimum(l2_sp, module, list(values.values()))
    torch.testing.assert_close(torch.stack([moved.a, moved.c]), expected)
    add_penalty_gradient(module, l2_sp, THREE.find(module), 1.0, start=values)
    both = 2 * module.a - values["a"] - values["b"]
    torch.testing.assert_close(module.a.grad, both.detach())
    lasso = Penalty("l1", "element", "start")
    with pytest.raises(ValueError, match="share a parameter, but started from different values"):
        apply_prox(module, lasso, THREE.find(module), STEP, start=values)
