"""`PenaltySteps` in a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lit_share.penalties import PenaltySteps
from lit_share.ties import Ties

PAIR = Ties("a.*", "b.*")


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})


def step(steps, optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    steps.before_step()
    optimizer.step()
    steps.after_step()


@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("untrained", ["frozen", "unowned"])
@pytest.mark.filterwarnings("ignore:.*no optimizer owns it")
def test_a_member_that_is_not_trained_is_not_restored_to_a_mean(every, untrained, pair):
    """The other member returns to it, where no proximal step is taken either."""
    pair["b"].requires_grad_(untrained != "frozen")
    before = pair["b"].weight.clone()
    optimizer = SGD(pair["a"].parameters(), lr=0.1)
    steps = PenaltySteps(
        "exact_tie", PAIR, 100.0, every=every, keep_tied=True,
        schedule=lambda step, _: float(step < 2),
    )  # fmt: skip
    steps.attach(pair, optimizer)
    for number in range(6):
        step(steps, optimizer, 3.0 * sum(p.sum() for p in pair["a"].parameters()))
        if number == 1:
            steps.end_epoch()
        assert torch.equal(pair["b"].weight, before)
        if number >= 1:
            assert torch.equal(pair["a"].weight, before)


class SomeRates(torch.optim.Optimizer):
    """Has a rate of its own in groups without ``lr``."""

    def __init__(self, groups):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=group.get("lr", 0.5))


@pytest.mark.parametrize("recipe", ["l2", "lasso"])
def test_a_group_without_members_needs_no_rate(recipe, pair):
    optimizer = SomeRates(
        [{"params": pair["a"].parameters(), "lr": 0.1}, {"params": pair["b"].parameters()}]
    )
    before = pair["a"].weight.detach().clone()
    steps = PenaltySteps(recipe, Ties("a.weight"), 0.2)
    steps.attach(pair, optimizer)
    step(steps, optimizer, sum(0.0 * p.sum() for p in pair.parameters()))
    expected = {"l2": 0.98 * before, "lasso": before.sign() * (before.abs() - 0.02).clamp(min=0.0)}
    torch.testing.assert_close(pair["a"].weight.detach(), expected[recipe])


def test_pending_steps_of_other_ties_are_dropped_when_a_state_is_loaded(pair):
    steps = PenaltySteps("lasso", Ties("a.weight"), 0.1)
    steps.check(pair, SGD(pair.parameters(), lr=0.1))
    steps.load_state_dict({"pending": {"gone": {0: [0.1]}}})
    steps.begin()
    assert steps.pending == []
