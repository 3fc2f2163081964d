"""`share(where="equal")`: what a penalty has made equal is stored once, and computes what it did."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_share.functional import Penalty
from lit_share.sharing import (
    TieError,
    Ties,
    add_penalty_gradient,
    apply_prox,
    share,
    sharing_stats,
    unshare,
)
from lit_share.sharing._loops import penalty_value
from lit_share.sharing._rebuild import rebuild_shared, shared_places

from ._modules import module_of, named, pair_of

PAIR = Ties("a.*", "b.*")
X = torch.randn(7, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def net(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)
        ).double()


def partly_equal(names="ab", units=4):
    """Models whose first weights have equal units, whose second weights and biases are equal."""
    module = pair_of(**{name: net(i) for i, name in enumerate(names)})
    first = module[names[0]]
    with torch.no_grad():
        for name in names[1:]:
            module[name][0].weight[:units] = first[0].weight[:units]
            module[name][2].load_state_dict(first[2].state_dict())
    return module


def shapes(module):
    return {name: tuple(p.shape) for name, p in named(module).items()}


def outputs(module):
    return [part(X) for part in module.children()]


def grads(module):
    return {name: p.grad for name, p in named(module).items()}


@pytest.fixture
def module():
    module = partly_equal()
    share(module, PAIR, where="equal")
    return module


def test_what_is_stored(module):
    assert module["a"][2].weight is module["b"][2].weight
    assert module["a"][2].bias is module["b"][2].bias
    assert shapes(module) == {
        "a.0.weight": (6, 8),
        "a.0.bias": (6,),
        "a.2.weight": (5, 6),
        "a.2.bias": (5,),
        "a.4.weight": (2, 5),
        "a.4.bias": (2,),
        "b.0.weight": (2, 8),
        "b.0.bias": (6,),
        "b.2.weight": (5, 6),
        "b.2.bias": (5,),
        "b.4.weight": (2, 5),
        "b.4.bias": (2,),
    }
    assert sharing_stats(module).unique == sharing_stats(partly_equal(), PAIR).unique


def test_the_ties_that_are_shared_are_returned():
    assert [tie.name for tie in share(partly_equal(), PAIR, where="equal")] == [
        "0.weight",
        "2.weight",
        "2.bias",
    ]
    assert share(pair_of(a=net(0), b=net(1)), PAIR, where="equal") == []


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_outputs_are_bitwise_the_same(names):
    apart = partly_equal(names)
    module = copy.deepcopy(apart)
    share(module, Ties(*(f"{name}.*" for name in names)), where="equal")
    assert all(torch.equal(x, y) for x, y in zip(outputs(module), outputs(apart), strict=True))
    assert all(torch.equal(v, apart.state_dict()[k]) for k, v in module.state_dict().items())
    assert list(module.state_dict()) == list(apart.state_dict())


def test_gradients_of_shared_units_meet(module):
    apart = partly_equal()
    for m in (module, apart):
        sum(y.square().sum() for y in outputs(m)).backward()
    expected = grads(apart)
    a, b = expected["a.0.weight"], expected["b.0.weight"]
    joint = torch.cat([a[:4] + b[:4], a[4:]])
    torch.testing.assert_close(grads(module)["a.0.weight"], joint, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads(module)["b.0.weight"], b[4:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.float().double()]
)
def test_copies_and_moves(module, copied):
    other = copied(module)
    with torch.no_grad():
        other["a"][0].weight.fill_(2.0)
        other["b"][0]._parameters["weight"].fill_(3.0)
    expected = torch.tensor([2.0] * 4 + [3.0] * 2, dtype=torch.float64)
    assert torch.equal(other["b"][0].weight, expected[:, None].expand(6, 8))


def test_units_of_a_transposed_member():
    """A unit of the tie is a column of the member that is transposed in it."""
    module = module_of({"enc": (6, 8), "dec": (8, 6)})
    with torch.no_grad():
        module.dec[:, 1:] = module.enc.T[:, 1:]
    for ties, stored in (
        (Ties("enc", "dec.T"), {"enc": (6, 8), "dec": (1, 8)}),
        (Ties("enc.T", "dec"), None),
    ):
        other = copy.deepcopy(module)
        share(other, ties, where="equal")
        assert torch.equal(other.dec, module.dec)
        if stored:
            assert shapes(other) == stored
        restored = copy.deepcopy(module)
        rebuild_shared(restored, shared_places(other))
        assert shapes(restored) == shapes(other)
    rows = copy.deepcopy(module)
    with torch.no_grad():
        rows.dec.copy_(rows.enc.T)
        rows.dec[0] += 1.0
    expected = rows.dec.detach().clone()
    share(rows, Ties("enc.T", "dec"), where="equal")
    assert shapes(rows) == {"enc": (6, 8), "dec": (6, 1)}, "units are the columns of the stored one"
    assert torch.equal(rows.dec, expected)


def test_small_units_stay_apart():
    """The index of those that are not shared would take more than is saved."""
    module = module_of({"a.bias": (6,), "b.bias": (6,)})
    with torch.no_grad():
        module.b.bias[0] = module.a.bias[0]
    assert share(module, Ties("a.*", "b.*"), where="equal") == []
    assert shapes(module) == {"a.bias": (6,), "b.bias": (6,)}


def test_nan_is_equal_to_nothing():
    module = module_of({"a": (3, 4), "b": (3, 4)})
    with torch.no_grad():
        module.a.fill_(torch.nan)
        module.b.fill_(torch.nan)
    assert share(module, Ties("a", "b"), where="equal") == []


def test_single_numbers_and_nothing():
    module = module_of({"a.x": (), "b.x": (), "a.y": (0, 3), "b.y": (0, 3)})
    share(module, Ties("a.*", "b.*"), where="equal")
    assert module.a.y is module.b.y
    assert module.a.x is not module.b.x


def test_again_when_more_has_become_equal(module):
    before = named(module)
    share(module, PAIR, where="equal")
    assert all(named(module)[name] is p for name, p in before.items()), (
        "nothing new, nothing changes"
    )
    with torch.no_grad():
        module["b"][0]._parameters["weight"][0] = module["a"][0].weight[4]
    expected = module["b"][0].weight.detach().clone()
    share(module, PAIR, where="equal")
    assert shapes(module)["b.0.weight"] == (1, 8)
    assert torch.equal(module["b"][0].weight, expected)
    share(module, PAIR)
    assert module["a"][0].weight is module["b"][0].weight
    assert type(module["b"][0]) is nn.Linear


def test_unshare(module):
    unshare(module)
    apart = partly_equal()
    assert shapes(module) == shapes(apart)
    assert all(torch.equal(x, y) for x, y in zip(outputs(module), outputs(apart), strict=True))
    assert type(module["b"][0]) is nn.Linear


def test_units_shared_with_a_third_are_not_lost(module):
    both = nn.ModuleDict({"pair": module, "c": net(5)})
    with pytest.raises(
        TieError,
        match=r"'pair\.b\.0\.weight' shares units with a parameter that is not in this tie",
    ):
        share(both, Ties("c.*", "pair.b.*"))


def test_recurrent_layers_are_shared_whole_only():
    module = pair_of(a=nn.LSTM(30, 4), b=nn.LSTM(30, 4))
    with torch.no_grad():
        module["b"].weight_ih_l0[:-1] = module["a"].weight_ih_l0[:-1]
        module["b"].weight_hh_l0.copy_(module["a"].weight_hh_l0)
    assert [tie.name for tie in share(module, PAIR, where="equal")] == ["weight_hh_l0"]


# State dicts


def test_a_state_is_loaded(module):
    state = {k: v + 1.0 for k, v in module.state_dict().items()}
    for assign in (False, True):
        other = copy.deepcopy(module)
        other.load_state_dict(state, assign=assign)
        assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
        assert shapes(other) == shapes(module)


def test_a_state_with_different_units_is_refused(module):
    state = module.state_dict()
    state["b.0.weight"] = state["b.0.weight"].clone()
    state["b.0.weight"][5, 0] += 1.0
    module.load_state_dict(state)
    state["b.0.weight"][0, 0] += 1.0
    with pytest.raises(
        TieError, match=r"'b\.0\.weight' and 'a\.0\.weight' are one here, but differ"
    ):
        module.load_state_dict(state)


# Rebuilding


def test_rebuild(module):
    other = partly_equal()
    rebuild_shared(other, shared_places(module))
    assert shapes(other) == shapes(module)
    assert shared_places(other) == shared_places(module)
    before = named(other)
    rebuild_shared(other, shared_places(module))
    assert shapes(other) == shapes(module)
    assert named(other).keys() == before.keys()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"names": ["a.0.weight", "b.0.weight"]}, "have different values"),
        ({"names": ["a.0.weight", "b.0.weight"], "apart": [0]}, "have different values"),
        ({"names": ["a.0.weight", "b.0.weight"], "apart": [6]}, "has no units"),
        ({"names": ["a.0.weight", "b.0.weight"], "apart": [-1]}, "has no units"),
        ({"names": ["a.0.weight", "c.0.weight"]}, "no parameter 'c.0.weight'"),
        ({"names": ["a.0.weight", "b.2.weight"]}, "have shapes"),
    ],
)
def test_rebuild_changes_nothing_where_it_cannot(module, entry, message):
    other = partly_equal()
    before = named(other)
    with pytest.raises(TieError, match=message):
        rebuild_shared(other, [*shared_places(module), entry])
    assert all(named(other)[name] is parameter for name, parameter in before.items())


def test_rebuild_of_a_chain(module):
    """Units of the place that another one's units are taken of are themselves shared with a third."""
    both = nn.ModuleDict({"x": net(5), "a": module["a"], "b": module["b"]})
    with torch.no_grad():
        both["x"][0].weight[1:4] = both["a"][0].weight[1:4]
    plain = copy.deepcopy(both)
    unshare(plain)
    share(both, Ties("x.0.weight", "a.0.weight"), where="equal")
    assert shapes(both)["a.0.weight"] == (3, 8)
    assert shapes(both)["b.0.weight"] == (2, 8)
    rebuild_shared(plain, shared_places(both))
    assert shapes(plain) == shapes(both)
    assert all(torch.equal(v, both.state_dict()[k]) for k, v in plain.state_dict().items())


def test_rebuild_refuses_circles():
    circle = [
        {"names": ["a.0.weight", "b.0.weight"], "apart": [4]},
        {"names": ["b.0.weight", "a.0.weight"], "apart": [4]},
    ]
    with pytest.raises(TieError, match="made of each other"):
        rebuild_shared(partly_equal(), circle)


def test_rebuild_refuses_units_of_recurrent_layers():
    module = pair_of(a=nn.LSTM(3, 4), b=nn.LSTM(3, 4))
    with pytest.raises(TieError, match="belongs to a LSTM, which needs all of its units"):
        rebuild_shared(
            module, [{"names": ["a.weight_ih_l0", "b.weight_ih_l0"], "apart": list(range(16))}]
        )


# Penalties go on with what is apart

SMOOTH = [Penalty("squared", "element", c) for c in ("zero", "mean", "first", "start")]


@pytest.mark.parametrize("penalty", SMOOTH, ids=lambda p: p.center)
def test_gradients_of_penalties(penalty):
    """Against autograd, through the module's own tensors."""
    module = partly_equal()
    share(module, PAIR, where="equal")
    ties = PAIR.find(module)
    start = {
        m.name: t + 0.1 for tie in ties for m, t in zip(tie.members, tie.tensors(), strict=True)
    }
    value = sum(
        penalty.value(
            [m.value(lambda p: p) for m in tie.members], [start[m.name] for m in tie.members]
        )
        for tie in ties
    )
    if penalty.center == "first":  # held constant: its own gradient is not taken
        value = sum(
            penalty.value(
                [tie.members[0].value(), *(m.value(lambda p: p) for m in tie.members[1:])]
            )
            for tie in ties
        )
    parameters = list(dict.fromkeys(named(module).values()))
    expected = torch.autograd.grad(0.3 * value, parameters, allow_unused=True)
    add_penalty_gradient(module, penalty, ties, 0.3, start=start)
    for parameter, grad in zip(parameters, expected, strict=True):
        grad = torch.zeros_like(parameter) if grad is None else grad
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", ["element", "output", "tensor"])
@pytest.mark.parametrize("center", ["mean", "first"])
def test_proximal_steps_are_those_of_the_members_apart(groups, center):
    """Shared units are equal and stay as they are, so the others move as if nothing were shared."""
    apart, module = partly_equal(), partly_equal()
    share(module, PAIR, where="equal")
    penalty = Penalty("l1", groups, center)
    for m in (apart, module):
        apply_prox(m, penalty, PAIR, 0.05)
    for x, y in zip(PAIR.find(apart), PAIR.find(module), strict=True):
        for left, right in zip(x.tensors(), y.tensors(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    assert penalty_value(penalty, PAIR.find(apart)) == pytest.approx(
        penalty_value(penalty, PAIR.find(module))
    )


@pytest.mark.parametrize("ties", [PAIR, Ties("b.0.weight")])
def test_proximal_steps_towards_zero_are_refused(module, ties):
    with pytest.raises(ValueError, match=r"b\.0\.weight shares some of its units"):
        apply_prox(module, Penalty("l1", "output", "zero"), ties, 0.1)


# Properties


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 1), min_size=4, max_size=12),
    st.integers(2, 3),
    st.booleans(),
    st.sampled_from([(), (3,), (2, 2)]),
)
def test_any_pattern_of_equal_units(equal, members, transposed, rest):
    """The tensors, and the gradients of a function of them, are what they were."""
    if transposed and len(rest) != 1:
        rest = (3,)
    rng = torch.Generator().manual_seed(len(equal))
    values = [torch.randn(len(equal), *rest, generator=rng) for _ in range(members)]
    for unit, same in enumerate(equal):
        if same:
            for value in values[1:]:
                value[unit] = values[0][unit]
    apart, module = nn.Module(), nn.Module()
    for m in (apart, module):
        for i, value in enumerate(values):
            stored = value.T.clone() if transposed and i else value.clone()
            m.register_parameter(f"w{i}", nn.Parameter(stored))
    suffix = ".T" if transposed else ""
    ties = Ties("w0", *(f"w{i}{suffix}" for i in range(1, members)))
    share(module, ties, where="equal")
    assert sum(p.numel() for p in module.parameters()) <= sum(p.numel() for p in apart.parameters())
    for i in range(members):
        assert torch.equal(getattr(module, f"w{i}"), getattr(apart, f"w{i}"))
    weights = [torch.randn(getattr(apart, f"w{i}").shape, generator=rng) for i in range(members)]
    for m in (apart, module):
        sum((getattr(m, f"w{i}") * w).sum() for i, w in enumerate(weights)).backward()
    total = [sum(p.grad.sum() for p in m.parameters()) for m in (apart, module)]
    torch.testing.assert_close(*total)
    restored = copy.deepcopy(apart)
    rebuild_shared(restored, shared_places(module))
    assert shapes(restored) == shapes(module)
