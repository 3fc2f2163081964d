"""`PenaltySteps` in a plain loop."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lit_share.penalties import PenaltySteps, Ramp, apply_prox
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


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_a_member_of_rate_0_is_not_restored_to_a_mean(every, pair):
    before = pair["b"].weight.clone()
    optimizer = SGD(
        [{"params": pair["a"].parameters()}, {"params": pair["b"].parameters(), "lr": 0.0}], lr=0.1
    )
    steps = PenaltySteps("exact_tie", PAIR, 100.0, every=every, keep_tied=True)
    steps.attach(pair, optimizer)
    for _ in range(3):
        step(steps, optimizer, 3.0 * sum(p.sum() for p in pair.parameters()))
        steps.end_epoch()
        step(steps, optimizer, 3.0 * sum(p.sum() for p in pair.parameters()))
        assert torch.equal(pair["b"].weight, before)
        assert torch.equal(pair["a"].weight, before)


RECIPES_OF_PAIRS = ["soft_tie", "exact_tie", "unit_tie", "layer_tie"]


def after_a_step(pair, recipe, steps=None, optimizer=None):
    """The weights after a step of gradients of 1, with steps made for them if none are given."""
    if steps is None:
        optimizer = SGD(pair.parameters(), lr=0.1)
        steps = PenaltySteps(recipe, PAIR, 0.3)
        steps.attach(pair, optimizer)
    step(steps, optimizer, sum(p.sum() for p in pair.parameters()))
    return [p.detach().clone() for p in pair.parameters()]


def shrink(weight):
    return weight[:2]


def transpose(weight):
    return weight.t()


def double(weight):
    return weight.double()


@pytest.mark.parametrize("recipe", RECIPES_OF_PAIRS)
@pytest.mark.parametrize("change", [shrink, transpose, double])
def test_parameters_that_change_in_place(change, recipe):
    """As pruning does by ``.data``: the address may stay, and memory behind it is others'."""

    def make():
        torch.manual_seed(0)
        return nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "ab"})

    def change_all(pair):
        for parameter in pair.parameters():
            parameter.data = change(parameter.data)
            parameter.grad = None

    pair, fresh = make(), make()
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps(recipe, PAIR, 0.3)
    steps.attach(pair, optimizer)
    behind = [parameter.data for parameter in pair.parameters()]
    after_a_step(pair, recipe, steps, optimizer)
    after_a_step(fresh, recipe)
    change_all(pair)
    change_all(fresh)
    beyond = [tensor[2:].clone() for tensor in behind]
    torch.testing.assert_close(
        after_a_step(pair, recipe, steps, optimizer), after_a_step(fresh, recipe)
    )
    if change is shrink:
        assert all(torch.equal(t[2:], was) for t, was in zip(behind, beyond, strict=True))


def by_pickle(objects):
    return pickle.loads(pickle.dumps(objects))


@pytest.mark.parametrize("recipe", RECIPES_OF_PAIRS)
@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle])
def test_copies_go_on_in_the_middle_of_training(copied, recipe, pair):
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps(recipe, PAIR, 0.3)
    steps.attach(pair, optimizer)
    after_a_step(pair, recipe, steps, optimizer)
    other, its_optimizer, its_steps = copied((pair, optimizer, steps))
    before = [p.detach().clone() for p in pair.parameters()]
    own = after_a_step(other, recipe, its_steps, its_optimizer)
    assert all(torch.equal(p, was) for p, was in zip(pair.parameters(), before, strict=True))
    assert all(map(torch.equal, own, after_a_step(pair, recipe, steps, optimizer)))


def test_gradients_may_be_cleared_before_the_proximal_step(pair):
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps("layer_tie", PAIR, 100.0)
    steps.attach(pair, optimizer)
    sum(p.sum() for p in pair.parameters()).backward()
    steps.before_step()
    optimizer.step()
    optimizer.zero_grad()
    steps.after_step()
    assert torch.equal(pair["a"].weight, pair["b"].weight)


def test_another_module_starts_without_the_state_of_the_first(pair):
    steps = PenaltySteps("lasso", Ties("a.weight"), 100.0, keep_zeros=True)
    steps.attach(pair, SGD(pair.parameters(), lr=0.1))
    step(steps, steps.optimizers[0], sum(p.sum() for p in pair.parameters()))
    assert steps.state_dict()["frozen"]
    state = steps.state_dict()
    other = nn.ModuleDict({"a": nn.Linear(3, 2)})
    steps.attach(other, SGD(other.parameters(), lr=0.1))
    assert (steps.state_dict()["frozen"], steps.steps_done) == ({}, 0)
    steps.load_state_dict(state)
    steps.attach(pair, SGD(pair.parameters(), lr=0.1))
    assert steps.state_dict()["frozen"]


def test_value_without_a_module_is_refused():
    with pytest.raises(ValueError, match=r"not attached: give value a module"):
        PenaltySteps("lasso", Ties("a.weight"), 0.1).value()


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


class TestAdaptiveEdges:
    """Weights of edges are those of the members' distances when the penalty first acts."""

    TIES = Ties("a.*", "b.*", "c.*")

    @pytest.fixture
    def three(self):
        torch.manual_seed(0)
        return nn.ModuleDict({name: nn.Linear(3, 2) for name in "abc"})

    def train(self, module, steps, numbers):
        """Take steps with the gradients of these numbers."""
        optimizer = SGD(module.parameters(), lr=0.1)
        steps.attach(module, optimizer)
        for number in numbers:
            rng = torch.Generator().manual_seed(number)
            loss = sum((torch.randn(p.shape, generator=rng) * p).sum() for p in module.parameters())
            step(steps, optimizer, loss)

    def steps(self, apply):
        schedule = lambda step, _: float(step >= 2)  # noqa: E731
        return PenaltySteps("cluster_tie", self.TIES, 0.5, schedule=schedule, apply=apply)

    @pytest.mark.parametrize("apply", ["prox", "gradient"])
    def test_taken_at_the_first_step_of_the_ramp(self, apply, three):
        steps = self.steps(apply)
        self.train(three, steps, range(2))
        steps.value()
        assert steps.state_dict()["edge_weights"] == {}
        with torch.no_grad():
            three["b"].weight.copy_(three["a"].weight + 1e-3)
        self.train(three, steps, [2])
        kept = steps.state_dict()["edge_weights"]
        assert len(kept) == 2
        (weight,) = (kept[tie.name] for tie in steps.found if "weight" in tie.name)
        # Members 0 and 1 are near, and no longer all at the same distance.
        assert weight[0] == 1.0
        assert (weight[1:] < 0.5).all()
        self.train(three, steps, range(3, 6))
        for name, own in steps.state_dict()["edge_weights"].items():
            assert torch.equal(own, kept[name])

    @pytest.mark.parametrize("apply", ["prox", "gradient"])
    def test_resumed_bit_by_bit(self, apply, three):
        other = copy.deepcopy(three)
        whole, first, second = self.steps(apply), self.steps(apply), self.steps(apply)
        self.train(three, whole, range(8))
        self.train(other, first, range(5))
        second.steps_done = first.steps_done
        second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
        self.train(other, second, range(5, 8))
        for p, q in zip(three.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
        assert second.value() == whole.value()

    def test_another_number_of_members_starts_anew(self, three):
        steps = self.steps("prox")
        name = self.TIES.find(three)[0].name
        steps.load_state_dict({"edge_weights": {name: torch.ones(1)}})
        self.train(three, steps, range(4))
        assert len(steps.state_dict()["edge_weights"][name]) == 3

    def test_keep_tied_is_refused(self):
        with pytest.raises(
            ValueError, match=r'center="mean" or "first" and groups.*center="graph"'
        ):
            PenaltySteps("cluster_tie", self.TIES, 0.5, keep_tied=True)


def trained_by_an_optimizer_each(schedule, every, iterations=7):
    """Members after each iteration; each has an optimizer of its own, of one learning rate."""
    torch.manual_seed(0)
    models = nn.ModuleDict({name: nn.Linear(4, 3) for name in "abc"})
    optimizers = [SGD(model.parameters(), lr=0.05) for model in models.values()]
    steps = PenaltySteps("layer_tie", Ties("a.*", "b.*", "c.*"), 10.0, schedule, every=every)
    steps.attach(models, optimizers)
    equal = []
    for _ in range(iterations):
        x = torch.randn(8, 4)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum((model(x) - i).square().mean() for i, model in enumerate(models.values())).backward()
        for optimizer in optimizers:
            steps.before_step(optimizer)
        for optimizer in optimizers:
            optimizer.step()
            steps.after_step(optimizer)
        equal.append(torch.equal(models["a"].weight, models["b"].weight))
    steps.end_epoch()
    return steps, equal


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_all_optimizers_of_an_iteration_have_one_strength(every):
    """Of three members with different steps, the proximal step has no closed form."""
    steps, equal = trained_by_an_optimizer_each(Ramp(duration=30), every)
    assert steps.pending == []
    assert any(equal) == (every == "step")


@pytest.mark.parametrize("stop", range(8, 13))
@pytest.mark.parametrize("every", ["step", "epoch"])
def test_no_step_is_pending_after_a_ramp_stops(stop, every):
    """Also if it stops between the optimizers of an iteration."""
    schedule = Ramp(duration=1, start=1.0, stop=stop)
    steps, equal = trained_by_an_optimizer_each(schedule, every)
    assert steps.pending == []
    if every == "step":
        assert equal == [3 * i < stop for i in range(7)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_members_of_several_dtypes_do_not_become_equal(dtype):
    module = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2).to(dtype)})
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    ties = Ties("a.*", "b.*")
    message = rf"a.weight is torch.float32, b.weight is {dtype}: .*one dtype"
    with pytest.raises(ValueError, match=message):
        PenaltySteps("layer_tie", ties, 0.1).check(module, optimizer)
    with pytest.raises(ValueError, match=message):
        apply_prox(module, "layer_tie", ties, 1.0)
    PenaltySteps("soft_tie", ties, 0.1).check(module, optimizer)
    PenaltySteps("group_lasso", Ties("*.weight"), 0.1).check(module, optimizer)
