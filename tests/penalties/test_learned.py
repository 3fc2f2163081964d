"""Strengths that are learned, in a plain loop."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, Adam, AdamW
from torch.testing import assert_close

from lit_share import Learned
from lit_share.functional import Penalty
from lit_share.penalties import PenaltySteps
from lit_share.penalties._learned import LearnedStrengths
from lit_share.ties import Ties

# Other numbers than the defaults, which experiments chose.
Gentle = partial(Learned, start=0.1, every=2, rate=0.2)
PAIR = Ties("a.*", "b.*")
X = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randn(12, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "adam": lambda p: Adam(p, lr=0.01),
    "adamw": lambda p: AdamW(p, lr=0.01),
}


@pytest.fixture
def pair():
    torch.manual_seed(0)
    made = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    return made.double()


def loss(pair, rows=slice(0, 6)):
    return mse_loss(pair["a"](X[rows]), Y[rows]) + mse_loss(pair["b"](-X[rows]), Y[rows])


def gradients(pair, of=None):
    """The gradient of the validation loss by the ids of parameters."""
    parameters = [*pair.parameters()]
    value = loss(pair, slice(6, 12)) if of is None else of
    found = torch.autograd.grad(value, parameters)
    return {id(p): g for p, g in zip(parameters, found, strict=True)}


def take(steps, optimizer, pair, times=1):
    for _ in range(times):
        optimizer.zero_grad()
        loss(pair).backward()
        steps.before_step()
        optimizer.step()
        steps.after_step()


def strengths(steps):
    return steps.learned.by_name(steps.found)


def moved(strength, cosines):
    """A strength after updates that have these cosines: sums of all before, without recursion."""
    for n in range(1, len(cosines) + 1):
        past = np.array(cosines[:n][::-1])
        decay, of_squares = 0.9 ** np.arange(n), 0.99 ** np.arange(n)
        mean = (decay * past).sum() / decay.sum()
        square = (of_squares * past**2).sum() / of_squares.sum()
        strength *= math.exp(0.2 * mean / (math.sqrt(square) + 1e-3))
    return strength


def cosine(gradient, move):
    return -float(torch.cosine_similarity(gradient, move, 0))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_updates_of_a_gradient(make, pair):
    optimizer = make(pair.parameters())
    steps = PenaltySteps("soft_tie", PAIR, Gentle(start=0.5))
    steps.attach(pair, optimizer)
    cosines = {"weight": [], "bias": []}
    for rows in (slice(6, 8), slice(8, 10), slice(10, 12)):
        take(steps, optimizer, pair, 2)
        found = gradients(pair, loss(pair, rows))
        steps.learn(found)
        for name, own in cosines.items():
            members = [getattr(pair[key], name) for key in "ab"]
            # Half the squared distance between two members has the gradient a − b, b − a.
            pull = torch.cat([(p - q).flatten() for p, q in (members, members[::-1])])
            scaled = []
            for p in members:
                g = found[id(p)]
                if not isinstance(optimizer, SGD):
                    g = g / (optimizer.state[p]["exp_avg_sq"].sqrt() + 1e-8)
                scaled.append(g.flatten())
            own.append(cosine(torch.cat(scaled), -pull.detach()))
    for name, own in cosines.items():
        assert strengths(steps)[name] == pytest.approx(moved(0.5, own), rel=1e-5)


@pytest.mark.parametrize("recipe", ["exact_tie", "unit_tie", "layer_tie"])
def test_updates_of_proximal_steps(recipe, pair):
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps(recipe, PAIR, Gentle(start=0.5, every=1))
    steps.attach(pair, optimizer)
    cosines = {"weight": [], "bias": []}
    for rows in (slice(6, 8), slice(8, 10), slice(10, 12)):
        optimizer.zero_grad()
        loss(pair).backward()
        before = {name: (p - 0.1 * p.grad).detach() for name, p in pair.named_parameters()}
        steps.before_step()
        optimizer.step()
        steps.after_step()
        found = gradients(pair, loss(pair, rows))
        steps.learn(found)
        for name, own in cosines.items():
            names = [f"{key}.{name}" for key in "ab"]
            moves = [(pair.get_parameter(n) - before[n]).detach().flatten() for n in names]
            flat = [found[id(pair.get_parameter(n))].flatten() for n in names]
            own.append(cosine(torch.cat(flat), torch.cat(moves)))
    for name, own in cosines.items():
        assert strengths(steps)[name] == pytest.approx(moved(0.5, own), rel=1e-4)


def test_equal_members_come_apart_where_validation_wants_them_to(pair):
    """Their penalty has no gradient, but its step still undoes what the optimizer does."""
    with torch.no_grad():
        for p, q in zip(pair["a"].parameters(), pair["b"].parameters(), strict=True):
            q.copy_(p)
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps("layer_tie", PAIR, Gentle(start=100.0, every=1, rate=1.0))
    steps.attach(pair, optimizer)
    take(steps, optimizer, pair)
    assert torch.equal(pair["a"].weight, pair["b"].weight)
    for _ in range(30):
        # The training loss is the validation loss, so that the optimizer's steps are right.
        steps.learn(gradients(pair, loss(pair)))
        take(steps, optimizer, pair)
    assert strengths(steps)["weight"] < 1.0
    assert not torch.equal(pair["a"].weight, pair["b"].weight)


@pytest.mark.parametrize(("per", "names"), [
    ("tie", ["weight", "bias"]), ("layer", ["a"]), ("all", ["all"]),
])  # fmt: skip
def test_per(per, names, pair):
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps("soft_tie", PAIR, Gentle(per=per))
    steps.attach(pair, optimizer)
    take(steps, optimizer, pair)
    found = gradients(pair)
    steps.learn(found)
    assert sorted(strengths(steps)) == sorted(names)
    if per != "tie":
        a, b = members = members_of(pair)
        apart = [(p - q).flatten() for p, q in zip(a, b, strict=True)]
        pulls = [*apart, *(-own for own in apart)]
        own = [found[id(p)].flatten() for x in members for p in x]
        expected = moved(0.1, [cosine(torch.cat(own), -torch.cat(pulls).detach())])
        assert strengths(steps)[names[0]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("recipe", ["soft_tie", "layer_tie", "exact_tie", "trace_norm"])
@pytest.mark.parametrize("optimizers", [1, 2])
def test_ties_train_with_their_own_strengths(recipe, optimizers, pair):
    """As with a penalty for each tie."""
    others = copy.deepcopy(pair)

    def train(module, *penalties):
        made = [SGD(module.parameters(), lr=0.1)]
        if optimizers == 2:
            made = [SGD(module[key].parameters(), lr=0.1) for key in "ab"]
        for steps in penalties:
            steps.attach(module, made)
        for _ in range(4):
            module.zero_grad()
            loss(module).backward()
            for steps in penalties:
                steps.new_gradients()
            for optimizer in made:
                for steps in penalties:
                    steps.before_step(optimizer)
                optimizer.step()
                for steps in penalties:
                    steps.after_step(optimizer)
        return sum(steps.value() for steps in penalties)

    learned = PenaltySteps(recipe, PAIR, Gentle())
    logs = {"weight": math.log(0.03), "bias": math.log(0.3)}
    learned.learned.restore({"logs": logs})
    single = [
        PenaltySteps(recipe, Ties(f"a.{name}", f"b.{name}"), strength)
        for name, strength in (("weight", 0.03), ("bias", 0.3))
    ]
    assert math.isclose(train(pair, learned), train(others, *single), rel_tol=1e-9)
    for p, q in zip(pair.parameters(), others.parameters(), strict=True):
        assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_limits(pair):
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps("soft_tie", PAIR, Gentle(start=0.1, least=0.09, most=0.11, rate=50.0))
    steps.attach(pair, optimizer)
    take(steps, optimizer, pair)
    steps.learn(gradients(pair))
    for strength in strengths(steps).values():
        assert strength in (pytest.approx(0.09), pytest.approx(0.11))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_do_not_diverge(make, pair):
    """Where validation wants equal members, whatever it costs."""
    optimizer = make(pair.parameters())
    steps = PenaltySteps("soft_tie", PAIR, Learned(rate=5.0, every=1))
    steps.attach(pair, optimizer)
    for _ in range(200):
        take(steps, optimizer, pair)
        apart = sum((p - q).square().sum() for p, q in zip(*members_of(pair), strict=True))
        steps.learn(gradients(pair, apart))
    assert strengths(steps)["weight"] == pytest.approx(0.5 / optimizer.param_groups[0]["lr"])
    assert float(apart.detach()) < 0.1


CHAIN = Penalty(norm="squared", groups="tensor", center="graph", edges="chain")


@pytest.mark.parametrize(("penalty", "members", "eigenvalue"), [
    ("soft_tie", 2, 2.0),
    ("soft_tie", 8, 8.0),
    (CHAIN, 8, 2.0 + 2.0 * math.cos(math.pi / 8)),
    ("l2", 8, 1.0),
])  # fmt: skip
def test_steps_of_many_members_do_not_diverge(penalty, members, eigenvalue):
    """With the largest strength, at which the steepest deviations vanish in one step."""
    torch.manual_seed(0)
    nets = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(members)).double()
    parameters = [*nets.parameters()]
    optimizer = SGD(parameters, lr=0.1)
    steps = PenaltySteps(penalty, Ties(*(f"{i}.*" for i in range(members))), Learned(rate=50.0))
    steps.attach(nets, optimizer)
    # Validation wants what the penalty does.
    wanted = steps.penalty.gradient([p.detach() for p in parameters])
    steps.learn({id(p): g for p, g in zip(parameters, wanted, strict=True)})
    (strength,) = strengths(steps).values()
    assert strength == pytest.approx(1.0 / (0.1 * eigenvalue))
    before = float(steps.penalty.value(parameters).detach())
    for _ in range(20):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        steps.before_step()
        optimizer.step()
        steps.after_step()
    assert float(steps.penalty.value(parameters).detach()) < 0.5 * before


def test_a_parameter_that_is_several_members_counts_as_often():
    """A matrix that is pulled to its transpose."""
    module = nn.Linear(3, 3, bias=False).double()
    optimizer = SGD(module.parameters(), lr=0.1)
    steps = PenaltySteps("soft_tie", Ties("weight", "weight.T"), Learned(rate=50.0))
    steps.attach(module, optimizer)
    difference = (module.weight - module.weight.T).detach()
    steps.learn({id(module.weight): difference})
    (strength,) = strengths(steps).values()
    module.weight.grad = torch.zeros_like(module.weight)
    steps.before_step()
    optimizer.step()
    assert strength == pytest.approx(1.0 / (0.1 * 4.0))
    assert_close(module.weight, module.weight.T)


def test_ties_with_a_common_strength_have_the_least_limit(pair):
    learned = LearnedStrengths(Learned(rate=50.0, per="all"), uses_prox=False)
    learned.update(PAIR.find(pair), torch.tensor([[-1.0, 1.0, 1.0]] * 2), [0.2, 0.5])
    assert learned.by_name(PAIR.find(pair)) == {"all": pytest.approx(0.2)}


def members_of(pair):
    return [[*pair[key].parameters()] for key in "ab"]


@pytest.mark.parametrize("nothing", [0.0, math.nan, math.inf])
def test_nothing_is_learned_of_nothing(nothing, pair):
    """Such as gradients that overflow under fp16."""
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps("soft_tie", PAIR, Gentle())
    steps.attach(pair, optimizer)
    take(steps, optimizer, pair)
    steps.learn({id(p): torch.full_like(p, nothing) for p in pair.parameters()})
    assert strengths(steps) == {"weight": pytest.approx(0.1), "bias": pytest.approx(0.1)}


def test_a_schedule_of_0_learns_nothing(pair):
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps("soft_tie", PAIR, Gentle(), schedule=lambda step, _: float(step > 5))
    steps.attach(pair, optimizer)
    take(steps, optimizer, pair, 4)
    assert not steps.can_learn(steps.steps_done)
    take(steps, optimizer, pair, 4)
    assert steps.can_learn(steps.steps_done)
    assert steps.strength_at(0, 0) == 0.0
    assert steps.strength_at(9, 0) == pytest.approx(0.1)


@pytest.mark.parametrize("recipe", ["soft_tie", "layer_tie"])
def test_state(recipe, pair):
    """A run that resumes learns what an uninterrupted one does, bit by bit."""

    def run(module, times, state=None):
        optimizer = SGD(module.parameters(), lr=0.1)
        steps = PenaltySteps(recipe, PAIR, Gentle(every=1))
        if state is not None:
            steps.load_state_dict(state)
        steps.attach(module, optimizer)
        for _ in range(times):
            take(steps, optimizer, module)
            steps.learn(gradients(module))
            steps.end_epoch()
        return steps

    resumed = copy.deepcopy(pair)
    whole = run(pair, 4)
    state = copy.deepcopy(run(resumed, 2).state_dict())
    again = run(resumed, 2, state)
    assert strengths(again) == strengths(whole)
    assert again.learned.course == whole.learned.course
    assert [len(course) for course in whole.learned.course.values()] == [4, 4]


def test_moves_of_another_training_are_forgotten(pair):
    """Where it ended between a step and its update."""
    optimizer = SGD(pair.parameters(), lr=0.1)
    steps = PenaltySteps("layer_tie", PAIR, Gentle(every=1))
    steps.attach(pair, optimizer)
    for forget in (steps.reset, lambda: steps.load_state_dict(steps.state_dict())):
        take(steps, optimizer, pair)
        assert steps.can_learn(1)
        forget()
        assert not steps.can_learn(1)


@pytest.mark.parametrize(("wrong", "words"), [
    ({"start": 0.0}, r"Learned\(start=0.0\): write a finite number > 0"),
    ({"start": "0.1"}, r"Learned\(start='0.1'\): write a finite number"),
    ({"rate": math.inf}, r"Learned\(rate=inf\)"),
    ({"every": 0}, r"Learned\(every=0\): write a whole number of at least 1"),
    ({"every": 1.5}, r"Learned\(every=1.5\)"),
    ({"per": "parameter"}, r"unknown per 'parameter': write one of 'tie', 'layer', 'all'"),
    ({"least": -1.0}, r"Learned\(least=-1.0\): write a finite number > 0"),
])  # fmt: skip
def test_wrong_arguments(wrong, words):
    with pytest.raises(ValueError, match=words):
        Learned(**wrong)


def test_strengths_begin_where_penalties_act():
    """Unless the user says otherwise."""
    for recipe, start, least in (("soft_tie", 0.01, 1e-6), ("layer_tie", 0.1, 0.01)):
        learned = PenaltySteps(recipe, PAIR, Learned()).learned
        assert (learned.start, learned.least) == (start, least)
        learned = PenaltySteps(recipe, PAIR, Learned(start=1e-3)).learned
        assert (learned.start, learned.least) == (1e-3, min(1e-3, least))
    with pytest.raises(ValueError, match=r"start=0.01\) is not between least=0.05 and most=1000"):
        PenaltySteps("soft_tie", PAIR, Learned(least=0.05))
    with pytest.raises(ValueError, match=r"start=10000\) is not between least=1e-06 and most=1000"):
        PenaltySteps("soft_tie", PAIR, Learned(start=1e4))


def test_moves_of_several_optimizers(pair):
    """Of ties that each belong to one."""
    optimizers = [SGD([pair[key].weight for key in "ab"], lr=0.1),
                  SGD([pair[key].bias for key in "ab"], lr=0.1)]  # fmt: skip
    steps = PenaltySteps("layer_tie", PAIR, Gentle(every=2))
    steps.attach(pair, optimizers)
    loss(pair).backward()
    for optimizer in optimizers:
        steps.before_step(optimizer)
        optimizer.step()
        steps.after_step(optimizer)
    assert steps.can_learn(steps.steps_done)
    steps.learn(gradients(pair))
    assert all(own != pytest.approx(0.1) for own in strengths(steps).values())


def test_learn_without_learned_strengths(pair):
    steps = PenaltySteps("soft_tie", PAIR, 0.1)
    steps.attach(pair, SGD(pair.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"strength=0.1 is given: write strength=Learned\(\)"):
        steps.learn({})
