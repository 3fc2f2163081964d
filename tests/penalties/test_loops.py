"""Penalties in plain training loops, against formulas that are written out here."""

from __future__ import annotations

import re

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from lit_share.functional import Penalty, empty_group_mask
from lit_share.penalties import (
    PenaltySteps,
    add_penalty_gradient,
    apply_prox,
    starting_values,
)
from lit_share.sharing import share
from lit_share.ties import TieError, Ties, TieViews

from .._modules import mlp, module_of, named, pair_of
from .._norms import norms_of_groups, root_of_size, shrink_groups

STRENGTH = 0.3


def pairs(module):
    return list(zip(module["a"].parameters(), module["b"].parameters(), strict=True))


def each(module):
    return [w for pair in pairs(module) for w in pair]


def owl(values, weights):
    return (values.sort(descending=True).values * weights).sum()


def ramp(n):
    return torch.linspace(1.0, 0.2, n, dtype=torch.float64)


EXCLUDE_BIAS = {"exclude": ["*.bias"]}
# Name: the penalty, its ties, and the same written out.
FORMULAS = {
    "l2": (
        "l2",
        Ties("*"),
        lambda m: sum(0.5 * w.square().sum() for w in each(m)),
    ),
    "lasso": ("lasso", Ties("*"), lambda m: sum(w.abs().sum() for w in each(m))),
    "group_lasso": (
        "group_lasso",
        Ties("*", **EXCLUDE_BIAS),
        lambda m: sum(norms_of_groups(w, 0).sum() for w in each(m) if w.ndim == 2),
    ),
    "growl": (
        Penalty("owl", "input", "zero", ramp),
        Ties("*.weight"),
        lambda m: sum(owl(norms_of_groups(w, 0), ramp(w.shape[1])) for w in each(m) if w.ndim == 2),
    ),
    "oscar": (
        Penalty("owl", "element", "zero", ramp),
        Ties("*"),
        lambda m: sum(owl(w.abs().flatten(), ramp(w.numel())) for w in each(m)),
    ),
    "soft_tie": (
        "soft_tie",
        Ties("a.*", "b.*"),
        lambda m: sum(0.5 * (a - b).square().sum() for a, b in pairs(m)),
    ),
    "exact_tie": (
        "exact_tie",
        Ties("a.*", "b.*"),
        lambda m: sum((a - b).abs().sum() for a, b in pairs(m)),
    ),
    "unit_tie": (
        "unit_tie",
        Ties("a.*", "b.*"),
        lambda m: sum(norms_of_groups((a - b).reshape(len(a), -1), 1).sum() for a, b in pairs(m)),
    ),
    "layer_tie": (
        "layer_tie",
        Ties("a.*", "b.*"),
        lambda m: sum(norms_of_groups(a - b) for a, b in pairs(m)),
    ),
    "follow": (
        "follow",
        Ties("a.*", "b.*"),
        lambda m: sum(0.5 * (b - a.detach()).square().sum() for a, b in pairs(m)),
    ),
    "follow_exactly": (
        Penalty("l1", "tensor", "first"),
        Ties("b.*", "a.*"),
        lambda m: sum(norms_of_groups(a - b.detach()) for a, b in pairs(m)),
    ),
    "joint_lasso": (
        "joint_lasso",
        Ties("a.*", "b.*", **EXCLUDE_BIAS),
        lambda m: sum(
            # Groups are as large as those of a single member.
            norms_of_groups(torch.cat([a, b]), 0).sum() / 2**0.5
            for a, b in pairs(m)
            if a.ndim == 2
        ),
    ),
    "trace_norm": (
        "trace_norm",
        Ties("a.*", "b.*"),
        lambda m: sum(
            torch.linalg.svdvals(torch.stack([a.flatten(), b.flatten()])).sum() for a, b in pairs(m)
        ),
    ),
    "low_rank": (
        Penalty("l1", "spectrum", "zero"),
        Ties("*.weight"),
        lambda m: sum(torch.linalg.svdvals(w).sum() for w in each(m) if w.ndim == 2),
    ),
}
each_formula = pytest.mark.parametrize("name", FORMULAS)


@pytest.fixture
def pair():
    return pair_of(a=mlp(0), b=mlp(1))


@pytest.fixture
def batch():
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def fit_loss(module, batch):
    return module["a"](batch).square().mean() + (module["b"](batch) - 1.0).square().mean()


def gradients_of(loss, module):
    parameters = named(module)
    wanted = {name: p for name, p in parameters.items() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, grads, strict=True))


# The gradient


@each_formula
def test_gradient_is_that_of_the_formula_in_the_loss(name, pair, batch):
    penalty, ties, formula = FORMULAS[name]
    expected = gradients_of(fit_loss(pair, batch) + STRENGTH * formula(pair), pair)
    fit_loss(pair, batch).backward()
    add_penalty_gradient(pair, penalty, ties, STRENGTH)
    for key, parameter in named(pair).items():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-9, atol=1e-9, msg=key)


@each_formula
def test_gradient_is_made_where_there_is_none(name, pair):
    penalty, ties, formula = FORMULAS[name]
    expected = gradients_of(STRENGTH * formula(pair), pair)
    add_penalty_gradient(pair, penalty, ties.find(pair), STRENGTH)
    for key, parameter in named(pair).items():
        if expected[key] is not None:
            torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-9, atol=1e-9, msg=key)


@each_formula
def test_frozen_members_get_no_gradient(name, pair):
    penalty, ties, formula = FORMULAS[name]
    pair["b"].requires_grad_(False)
    expected = gradients_of(
        STRENGTH * formula(pair) + sum(0.0 * p.sum() for p in pair["a"].parameters()), pair
    )
    add_penalty_gradient(pair, penalty, ties, STRENGTH)
    assert all(parameter.grad is None for parameter in pair["b"].parameters())
    for key, parameter in pair["a"].named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(grad, expected[f"a.{key}"], rtol=1e-9, atol=1e-9, msg=key)


def test_three_members():
    module = module_of({"a": (2, 3), "b": (2, 3), "c": (2, 3)})
    a, b, c = module.a, module.b, module.c
    squares = (a - b).square() + (a - c).square() + (b - c).square()
    formula = norms_of_groups(squares.sqrt(), 1).sum()
    expected = torch.autograd.grad(STRENGTH * formula, [a, b, c])
    add_penalty_gradient(module, Penalty("l1", "output", "mean"), Ties("a", "b", "c"), STRENGTH)
    torch.testing.assert_close([a.grad, b.grad, c.grad], list(expected))


@pytest.mark.parametrize("norm", ["squared", "l1"])
def test_transposed_member(norm):
    module = module_of({"enc": (2, 3), "dec": (3, 2)})
    difference = module.enc - module.dec.T
    half = 0.5 * difference.square().sum()
    formula = half if norm == "squared" else norms_of_groups(difference, 1).sum()
    expected = torch.autograd.grad(STRENGTH * formula, [module.enc, module.dec])
    add_penalty_gradient(module, Penalty(norm, "output", "mean"), Ties("enc", "dec.T"), STRENGTH)
    torch.testing.assert_close([module.enc.grad, module.dec.grad], list(expected))


@pytest.mark.parametrize("norm", ["squared", "l1"])
def test_slices(norm):
    module = module_of({"w": (3, 4)})
    differences = [module.w[i] - module.w[j] for i in range(3) for j in range(i)]
    squares = sum(d.square() for d in differences)
    formula = 0.5 * squares.sum() if norm == "squared" else squares.sqrt().sum()
    (expected,) = torch.autograd.grad(STRENGTH * formula, [module.w])
    add_penalty_gradient(module, Penalty(norm, "element", "mean"), Ties("w[:]"), STRENGTH)
    torch.testing.assert_close(module.w.grad, expected)


@pytest.mark.parametrize("norm", ["squared", "l1"])
def test_start(norm, pair):
    start = starting_values(Ties("*").find(pair))
    origin = {name: p.detach().clone() for name, p in named(pair).items()}
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(torch.randn_like(parameter))
    moved = [p - origin[name] for name, p in named(pair).items()]
    formula = sum(
        0.5 * d.square().sum() if norm == "squared" else norms_of_groups(d) for d in moved
    )
    expected = gradients_of(STRENGTH * formula, pair)
    add_penalty_gradient(pair, Penalty(norm, "tensor", "start"), Ties("*"), STRENGTH, start=start)
    for key, parameter in named(pair).items():
        torch.testing.assert_close(parameter.grad, expected[key])


def test_starting_values_are_copies(pair):
    start = starting_values(Ties("a.*", "b.*").find(pair))
    assert start.keys() == named(pair).keys()
    before = start["a.0.weight"].clone()
    with torch.no_grad():
        pair["a"][0].weight.zero_()
    assert torch.equal(start["a.0.weight"], before)


@pytest.mark.parametrize("function", [add_penalty_gradient, apply_prox])
def test_start_is_asked_for(function, pair):
    message = (
        "start = lit_share.starting_values(ties.find(module)), and pass start=start in every step"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        function(pair, "l2_sp", Ties("*"), STRENGTH)


@pytest.mark.parametrize("function", [add_penalty_gradient, apply_prox])
def test_names(function, pair):
    with pytest.raises(ValueError, match="no recipe is named 'softtie': did you mean 'soft_tie'"):
        function(pair, "softtie", Ties("a.*", "b.*"), STRENGTH)


def test_identical_members_have_a_gradient_of_zero():
    """Two models with one initialisation: no NaN on the first step."""
    pair = pair_of(a=mlp(0), b=mlp(0))
    for groups in ("element", "output", "tensor"):
        add_penalty_gradient(pair, Penalty("l1", groups, "mean"), Ties("a.*", "b.*"), STRENGTH)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in pair.parameters())


def language_models():
    """Two models, each with one weight that is used as embedding and as head."""
    models = {root: pair_of(embed=nn.Linear(3, 2), head=nn.Linear(3, 2)) for root in "ab"}
    for model in models.values():
        model["head"].weight = model["embed"].weight
    return pair_of(**models)


def test_a_weight_that_each_model_uses_twice_is_pulled_once():
    pair = language_models()
    a, b = pair["a"]["embed"].weight, pair["b"]["embed"].weight
    add_penalty_gradient(pair, Penalty("squared", "element", "mean"), Ties("a.*", "b.*"), STRENGTH)
    torch.testing.assert_close(a.grad, STRENGTH * (a - b).detach())


def test_a_weight_that_each_model_uses_twice_takes_one_proximal_step():
    pair = language_models()
    a, b = pair["a"]["embed"].weight, pair["b"]["embed"].weight
    n = (a - b).norm().item()
    apply_prox(pair, Penalty("l1", "tensor", "mean"), Ties("a.*", "b.*"), 0.05)
    assert (a - b).norm().item() == pytest.approx(n - 0.1 * root_of_size(a))


def test_sparse_gradients_are_refused_by_name():
    module = nn.ModuleDict({"a": nn.Embedding(5, 2, sparse=True)})
    module["a"](torch.tensor([1, 3])).sum().backward()
    with pytest.raises(
        ValueError, match=re.escape("'a.weight' is sparse: make it with sparse=False")
    ):
        add_penalty_gradient(module, Penalty("squared", "element", "zero"), Ties("a.*"), STRENGTH)


def test_gradient_is_no_part_of_autograd(pair):
    add_penalty_gradient(pair, Penalty("squared", "element", "mean"), Ties("a.*", "b.*"), STRENGTH)
    assert not any(p.grad.requires_grad for p in pair.parameters())


@pytest.mark.parametrize("name", ["trace_norm", "soft_tie", "layer_tie"])
def test_autocast_is_not_obeyed(name):
    penalty, ties, formula = FORMULAS[name]
    pair = pair_of(a=mlp(0, torch.float32), b=mlp(1, torch.float32))
    expected = gradients_of(STRENGTH * formula(pair), pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        add_penalty_gradient(pair, penalty, ties, STRENGTH)
    for key, parameter in named(pair).items():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-5, atol=1e-5)


# The proximal step


def step_towards_each_other(a, b, t_a, t_b, keep):
    """What is left of A − B is ``keep`` of it; each takes its part of the motion."""
    motion = (1.0 - keep) * (a - b)
    return a - t_a / (t_a + t_b) * motion, b + t_b / (t_a + t_b) * motion


def keep_element(a, b, t):
    return ((a - b).abs() - t).clamp_min(0.0) / (a - b).abs()


def keep_tensor(a, b, t):
    n = norms_of_groups(a - b)
    return torch.clamp(n - t * a.numel(), min=0.0) / n


@pytest.mark.parametrize("frozen", ["", "a", "b"])
@pytest.mark.parametrize(("groups", "keep"), [("element", keep_element), ("tensor", keep_tensor)])
def test_prox_of_a_pair(groups, keep, frozen, pair):
    step = 0.2
    for name in frozen:
        pair[name].requires_grad_(False)
    t_a, t_b = (0.0 if name in frozen else step for name in "ab")
    expected = [
        step_towards_each_other(
            a.detach(), b.detach(), t_a, t_b, keep(a.detach(), b.detach(), t_a + t_b)
        )
        for a, b in pairs(pair)
    ]
    before = {name: p.detach().clone() for name, p in named(pair).items()}
    apply_prox(pair, Penalty("l1", groups, "mean"), Ties("a.*", "b.*"), step)
    for (a, b), (new_a, new_b) in zip(pairs(pair), expected, strict=True):
        torch.testing.assert_close(a.detach(), new_a, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(b.detach(), new_b, rtol=1e-12, atol=1e-12)
    for name in frozen:
        assert all(
            torch.equal(p, before[f"{name}.{key}"]) for key, p in pair[name].named_parameters()
        )


def test_prox_makes_members_exactly_equal(pair):
    frozen = [p.detach().clone() for p in pair["a"].requires_grad_(False).parameters()]
    apply_prox(pair, Penalty("l1", "element", "mean"), Ties("a.*", "b.*"), 100.0)
    for (a, b), value in zip(pairs(pair), frozen, strict=True):
        assert torch.equal(a, value)
        assert torch.equal(b, value)


def test_prox_of_lasso_thresholds(pair):
    expected = {
        name: p.detach().sign() * (p.detach().abs() - 0.2).clamp_min(0.0)
        for name, p in named(pair).items()
    }
    apply_prox(pair, Penalty("l1", "element", "zero"), Ties("*"), 0.2)
    for name, parameter in named(pair).items():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-14, atol=1e-14)
        assert torch.equal(parameter == 0.0, expected[name] == 0.0)
    assert any(bool((p == 0.0).any()) for p in pair.parameters())


def test_prox_of_group_lasso_drops_whole_inputs(pair):
    weights = {name: p.detach().clone() for name, p in named(pair).items() if p.ndim == 2}
    step = min(float((w.norm(dim=0) / root_of_size(w, 0)).median()) for w in weights.values())
    apply_prox(pair, Penalty("l1", "input", "zero"), Ties("*.weight"), step)
    dropped = 0
    for name, w in weights.items():
        expected = shrink_groups(w, step, 0)
        torch.testing.assert_close(named(pair)[name].detach(), expected)
        dropped += int((expected == 0.0).all(0).sum())
    assert dropped > 0


def test_prox_of_the_squared_penalty_undoes_a_step_of_gradient_descent(pair):
    """The implicit step: W = V + t·∇Ω(V)."""
    before = {name: p.detach().clone() for name, p in named(pair).items()}
    apply_prox(pair, Penalty("squared", "element", "mean"), Ties("a.*", "b.*"), 0.7)
    for (key, a), b in zip(pair["a"].named_parameters(), pair["b"].parameters(), strict=True):
        torch.testing.assert_close((a + 0.7 * (a - b)).detach(), before[f"a.{key}"])
        torch.testing.assert_close((b + 0.7 * (b - a)).detach(), before[f"b.{key}"])


def test_prox_of_start(pair):
    start = starting_values(Ties("*").find(pair))
    origin = {name: value.clone() for name, value in start.items()}
    with torch.no_grad():
        for i, parameter in enumerate(pair.parameters()):
            parameter.add_(0.1 if i % 2 else 0.5)
    apply_prox(pair, Penalty("l1", "element", "start"), Ties("*"), 0.2, start=start)
    for i, (name, parameter) in enumerate(named(pair).items()):
        torch.testing.assert_close(parameter.detach(), origin[name] + (0.0 if i % 2 else 0.3))
        assert torch.equal(parameter, origin[name]) == bool(i % 2)


def test_prox_moves_parts_of_parameters():
    module = module_of({"enc": (2, 3), "dec": (3, 2), "w": (4, 3)})
    penalty = Penalty("l1", "tensor", "mean")
    middle = (module.enc + module.dec.T).detach() / 2
    apply_prox(module, penalty, Ties("enc", "dec.T"), 100.0)
    torch.testing.assert_close(module.enc.detach(), middle)
    assert torch.equal(module.enc, module.dec.T)
    middle = module.w.detach().mean(dim=0)
    apply_prox(module, penalty, Ties("w[:]"), 100.0)
    torch.testing.assert_close(module.w.detach(), middle.expand(4, 3))
    assert all(torch.equal(row, module.w[0]) for row in module.w)


def test_prox_leaves_a_frozen_tie_alone(pair):
    pair.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in named(pair).items()}
    apply_prox(pair, Penalty("l1", "element", "mean"), Ties("a.*", "b.*"), 100.0)
    assert all(torch.equal(p, before[name]) for name, p in named(pair).items())


def test_parameters_keep_their_identity_and_their_gradient(pair, batch):
    fit_loss(pair, batch).backward()
    before = named(pair)
    grads = {name: p.grad.clone() for name, p in before.items()}
    apply_prox(pair, Penalty("l1", "element", "mean"), Ties("a.*", "b.*"), 0.1)
    assert all(
        named(pair)[name] is p and torch.equal(p.grad, grads[name]) for name, p in before.items()
    )


# Both


def test_ties_found_once_follow_the_module(pair):
    ties = Ties("a.*", "b.*").find(pair)
    pair["a"][0].weight = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
    add_penalty_gradient(pair, Penalty("squared", "element", "mean"), ties, 1.0)
    torch.testing.assert_close(pair["a"][0].weight.grad, -pair["b"][0].weight.detach())


@pytest.mark.parametrize("function", [add_penalty_gradient, apply_prox])
def test_what_does_not_fit_is_refused_by_name(function, pair):
    with pytest.raises(TieError, match=r"'zzz\.\*' matches no parameter"):
        function(pair, Penalty("l1", "element", "mean"), Ties("a.*", "zzz.*"), 0.1)
    with pytest.raises(
        ValueError,
        match=re.escape('a.0.bias, b.0.bias: groups="input" needs tensors of at least 2'),
    ):
        function(pair, Penalty("l1", "input", "mean"), Ties("a.*", "b.*"), 0.1)
    with pytest.raises(
        ValueError, match=re.escape("a.0.weight: center='mean' needs at least 2 members")
    ):
        function(pair, Penalty("l1", "element", "mean"), Ties("a.*"), 0.1)


def test_prox_without_closed_form_is_refused_by_name():
    module = module_of({"a": (3,), "b": (3,), "c": (3,)})
    module.b.requires_grad_(False)
    with pytest.raises(ValueError, match=r"a, b, c: .*no closed-form proximal step"):
        apply_prox(module, Penalty("l1", "element", "mean"), Ties("a", "b", "c"), 0.1)


def test_proximal_gradient_descent_by_hand(pair, batch):
    """A whole loop: the weights are those of a loop without this package, and end exactly tied."""
    by_hand = [(a.detach().clone(), b.detach().clone()) for a, b in pairs(pair)]
    lr, strength, tied = 0.2, 0.15, Penalty("l1", "tensor", "mean")
    optimizer = torch.optim.SGD(pair.parameters(), lr=lr)
    for _ in range(20):
        functions = [
            [w.requires_grad_() for w in weights] for weights in zip(*by_hand, strict=True)
        ]
        a, b = (torch.tanh(batch @ w.T + c) @ v.T + d for w, c, v, d in functions)
        loss = a.square().mean() + (b - 1.0).square().mean()
        grads = iter(torch.autograd.grad(loss, [w for weights in by_hand for w in weights]))
        stepped = [[(w - lr * next(grads)).detach() for w in weights] for weights in by_hand]
        by_hand = []
        for a, b in stepped:
            half = shrink_groups(a - b, 2 * lr * strength) / 2
            by_hand.append(((a + b) / 2 + half, (a + b) / 2 - half))
        optimizer.zero_grad()
        fit_loss(pair, batch).backward()
        optimizer.step()
        apply_prox(pair, tied, Ties("a.*", "b.*"), lr * strength)
    for (a, b), (expected_a, expected_b) in zip(pairs(pair), by_hand, strict=True):
        torch.testing.assert_close(a.detach(), expected_a, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(b.detach(), expected_b, rtol=1e-12, atol=1e-12)
        assert torch.equal(a, b) == torch.equal(expected_a, expected_b)
    assert any(torch.equal(a, b) for a, b in pairs(pair))
    assert not all(torch.equal(a, b) for a, b in pairs(pair))


@pytest.mark.parametrize("which", ["the module", "what Fabric made of it"])
def test_fabric_loop(which, pair, batch):
    fabric = Fabric(accelerator="cpu", devices=1)
    penalty, ties, formula = FORMULAS["soft_tie"]
    expected = gradients_of(fit_loss(pair, batch) + STRENGTH * formula(pair), pair)
    wrapped, _ = fabric.setup(pair, torch.optim.SGD(pair.parameters(), lr=0.1))
    fabric.backward(fit_loss(pair, batch))
    add_penalty_gradient(pair if which == "the module" else wrapped, penalty, ties, STRENGTH)
    for key, parameter in named(pair).items():
        torch.testing.assert_close(parameter.grad, expected[key])


def test_a_shared_parameter_moves_as_its_minimiser():
    """Two members, one Parameter: argmin_v ½‖v − w‖² + t Σ_j √2 √p ‖v[:, j]‖, with p = 2 rows."""
    pair = pair_of(a=nn.Linear(3, 2, bias=False), b=nn.Linear(3, 2, bias=False))
    share(pair, Ties("a.*", "b.*"))
    w = pair["a"].weight.detach().clone()
    norms = w.norm(dim=0, keepdim=True)
    apply_prox(pair, Penalty("l1", "input", "zero"), Ties("a.*", "b.*"), 0.1)
    expected = w * ((norms - 0.1 * 2**0.5 * 2**0.5).clamp_min(0.0) / norms)
    torch.testing.assert_close(pair["b"].weight.detach(), expected)


def test_a_gradient_towards_several_starts_of_a_shared_parameter(pair):
    """The proximal step has no closed form, unless the norm is squared."""
    ties = Ties("a.*", "b.*")
    start = starting_values(ties.find(pair))
    share(pair, ties)
    follow = Penalty("l1", "element", "start")
    add_penalty_gradient(pair, follow, ties, STRENGTH, start=start)
    name, w = "0.weight", pair["a"][0].weight
    expected = sum((w.detach() - start[f"{model}.{name}"]).sign() for model in "ab")
    torch.testing.assert_close(w.grad, STRENGTH * expected)
    with pytest.raises(ValueError, match="share a parameter, but started from different values"):
        apply_prox(pair, follow, ties, STRENGTH, start=start)


def test_strength_must_be_a_number():
    with pytest.raises(ValueError, match="strength must be a finite number >= 0, got nan"):
        add_penalty_gradient(
            nn.Linear(2, 1), Penalty("squared", "element", "zero"), Ties("*"), float("nan")
        )


def test_large_sharded_parameters_are_pulled(mesh):
    """Local blocks."""
    module = module_of({"a": (2**10, 2**9), "b": (2**10, 2**9)})
    a, b = (module.get_parameter(name).detach().clone() for name in "ab")
    for name, value in (("a", a), ("b", b)):
        module.register_parameter(name, nn.Parameter(distribute_tensor(value, mesh, [Shard(0)])))
    add_penalty_gradient(module, Penalty("squared", "element", "mean"), Ties("a", "b"), STRENGTH)
    torch.testing.assert_close(module.a.grad.full_tensor(), STRENGTH * (a - b))


def test_frozen_groups_are_restored_alone(pair):
    """Through transposed members too."""
    found = Ties("a.0.weight.T", "b.0.weight.T").find(pair) + Ties("a.2.*").find(pair)
    before = {name: p.detach().clone() for name, p in named(pair).items()}
    versions = {name: p._version for name, p in named(pair).items()}
    lasso = Penalty("l1", "input", "zero")
    mask = empty_group_mask(lasso, found[0].tensors())
    mask[0, 1] = True
    views = TieViews(lasso, found[:1], frozen={found[0].name: mask})
    views.restore_frozen({found[0].name})
    for name, parameter in named(pair).items():
        if name.endswith("0.weight"):
            before[name][1] = 0.0
        else:
            assert parameter._version == versions[name]
        assert torch.equal(parameter, before[name])


# Numbers of a tensor


def test_a_step_inside_tensors():
    """Of each tensor alone."""
    module = pair_of(a=mlp(0), b=mlp(1))
    ties = Ties("*.weight[...]")
    before = {name: w.detach().clone() for name, w in named(module).items()}
    penalty = Penalty("l1", "element", "graph", edges="all")
    apply_prox(module, "value_tie", ties, 0.2)
    for name, w in named(module).items():
        expected = before[name]
        if name.endswith("weight"):
            (expected,) = penalty.prox([expected], 0.2, inside=True)
            assert expected.unique().numel() < expected.numel()
        assert torch.equal(w, expected)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    add_penalty_gradient(module, "value_tie", ties, 0.5)
    for name, w in named(module).items():
        pull = torch.zeros_like(w)
        if name.endswith("weight"):
            (pull,) = penalty.gradient([w], inside=True)
        torch.testing.assert_close(w.grad, 1.0 + 0.5 * pull)


def test_frozen_tensors_keep_their_numbers():
    module = pair_of(a=mlp(0), b=mlp(1))
    module["a"][0].weight.requires_grad_(requires_grad=False)
    frozen = module["a"][0].weight.clone()
    apply_prox(module, "value_tie", Ties("*.weight[...]"), 0.2)
    assert torch.equal(module["a"][0].weight, frozen)
    assert module["b"][0].weight.unique().numel() < frozen.numel()


def test_an_alias_moves_once():
    module = pair_of(a=mlp(0), b=mlp(1))
    module["b"][0].weight = module["a"][0].weight
    expected = mlp(0)
    apply_prox(expected, "value_tie", Ties("0.weight[...]"), 0.2)
    apply_prox(module, "value_tie", Ties("*.0.weight[...]"), 0.2)
    assert torch.equal(module["a"][0].weight, expected[0].weight)
    assert module["b"][0].weight is module["a"][0].weight


def test_the_numbers_of_a_transpose():
    module = module_of({"a": (3, 4), "b": (4, 3)})
    share(module, Ties("a", "b.T"))
    (expected,) = Penalty("l1", "element", "graph", edges="all").prox([module.a], 0.2, inside=True)
    apply_prox(module, "value_tie", Ties("b[...]"), 0.2)
    assert torch.equal(module.a, expected)
    assert torch.equal(module.b, expected.T)


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        ("lasso", '0.weight[...]: center="zero" does not compare the numbers of a tensor'),
        ("l2_sp", '0.weight[...]: center="start" does not compare'),
        ("exact_tie", '0.weight[...]: norm="l1" with center="mean" has no step inside a tensor'),
        ("layer_tie", '0.weight[...]: groups="tensor" are not single numbers'),
        ("cluster_tie", '0.weight[...]: groups="tensor" are not single numbers'),
        (
            Penalty("l1", "element", "graph", edges="adaptive"),
            "0.weight[...]: edges='adaptive' are not for the numbers of a tensor",
        ),
        ("trace_norm", '0.weight[...]: center="zero" does not compare'),
        ("growl", '0.weight[...]: center="zero" does not compare'),
    ],
)
def test_penalties_that_do_not_fit_numbers_name_the_pattern(penalty, message):
    module, ties = mlp(0), Ties("0.weight[...]")
    start = starting_values(ties.find(module))
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_prox(module, penalty, ties, 0.1, start=start)
    with pytest.raises(ValueError, match=re.escape(message)):
        PenaltySteps(penalty, ties, 0.1).attach(module, torch.optim.SGD(module.parameters(), 0.1))


def test_a_precision_inside_a_tensor_is_refused():
    module, ties = mlp(0), Ties("0.weight[...]")
    precision = {"0.weight": torch.ones_like(module[0].weight)}
    message = re.escape(
        "0.weight[...]: the numbers of a tensor cannot be compared with a precision"
    )
    with pytest.raises(ValueError, match=message):
        add_penalty_gradient(module, "soft_tie", ties, 0.1, precision=precision)
    for given in (precision, "adam"):
        steps = PenaltySteps("soft_tie", ties, 0.1, precision=given)
        with pytest.raises(ValueError, match=message):
            steps.attach(module, torch.optim.Adam(module.parameters()))


def test_a_single_member_says_how_its_numbers_are_compared():
    with pytest.raises(ValueError, match=r"numbers of a tensor .* end the pattern in \[\.\.\.\]"):
        apply_prox(mlp(0), "value_tie", Ties("0.weight"), 0.1)


def test_numbers_pulled_to_their_mean():
    module = mlp(0)
    before = module[0].weight.detach().clone()
    apply_prox(module, "soft_tie", Ties("0.weight[...]"), 0.5)
    n = before.numel()
    expected = before.mean() + (before - before.mean()) / (1.0 + 0.5 * n / (n - 1))
    torch.testing.assert_close(module[0].weight.detach(), expected)


class TestComplexMembers:
    """Groups have the norms of the moduli."""

    def pair(self):
        rng = torch.Generator().manual_seed(0)
        numbers = [torch.randn(3, 4, generator=rng, dtype=torch.complex64) for _ in "ab"]
        return nn.ParameterDict(dict(zip("ab", numbers, strict=True)))

    @pytest.mark.parametrize("groups", ["element", "output", "input", "tensor"])
    def test_are_penalised_as_pairs_of_numbers(self, groups):
        """Real and imaginary parts in a dimension of their own, which is inside the groups."""
        dims = {"element": (), "output": (1,), "input": (0,), "tensor": (0, 1)}[groups]
        module = self.pair()
        a, b = (w.detach().clone() for w in module.values())
        apply_prox(module, Penalty("l1", groups, "mean", scaled=False), Ties("a", "b"), 0.1)
        difference = torch.view_as_real(a - b)
        n = torch.linalg.vector_norm(difference, dim=(*dims, 2), keepdim=True)
        shrunk = torch.view_as_complex(difference * (1.0 - 0.2 / n).clamp_min(0.0))
        torch.testing.assert_close(module["a"].detach(), (a + b) / 2 + shrunk / 2)
        torch.testing.assert_close(module["b"].detach(), (a + b) / 2 - shrunk / 2)

    @pytest.mark.parametrize(
        ("penalty", "ties", "message"),
        [
            ("trace_norm", Ties("a", "b"), 'a, b: groups="spectrum" are for real members'),
            ("cluster_tie", Ties("a", "b"), "a, b: complex members are not compared along edges"),
            ("value_tie", Ties("a[...]"), "complex members are not compared along edges, nor"),
        ],
    )
    def test_are_refused_by_name(self, penalty, ties, message):
        module = self.pair()
        steps = PenaltySteps(penalty, ties, 0.1)
        with pytest.raises(ValueError, match=re.escape(message)):
            steps.attach(module, torch.optim.SGD(module.parameters(), lr=0.1))


class TestValueTieOfMembers:
    """It would be `exact_tie`."""

    @pytest.mark.parametrize(
        ("patterns", "write"), [(("a.*", "b.*"), "a.*[...]"), (("a.weight[:]",), "a.weight[...]")]
    )
    def test_is_refused_with_the_pattern_to_write(self, patterns, write):
        message = f"write '{write}', or exact_tie"
        with pytest.raises(ValueError, match=re.escape(message)):
            PenaltySteps("value_tie", Ties(*patterns), 0.1)

    def test_is_refused_in_functions(self):
        pair = nn.ModuleDict({name: nn.Linear(3, 2) for name in "ab"})
        for act in (apply_prox, add_penalty_gradient):
            with pytest.raises(ValueError, match=r"a\.weight.* end the pattern in \[...\]"):
                act(pair, "value_tie", Ties("a.*", "b.*"), 0.1)

    def test_the_penalty_itself_is_not_refused(self):
        pair = nn.ModuleDict({name: nn.Linear(3, 2) for name in "ab"})
        apply_prox(pair, Penalty("l1", "element", "graph", edges="all"), Ties("a.*", "b.*"), 9.0)
        assert torch.equal(pair["a"].weight, pair["b"].weight)


def test_keep_tied_of_clusters_says_what_keeps_them():
    with pytest.raises(ValueError, match=r'write Share\(ties, where="equal", epoch=...\)'):
        PenaltySteps("cluster_tie", ["a.*", "b.*", "c.*"], 0.1, keep_tied=True)
