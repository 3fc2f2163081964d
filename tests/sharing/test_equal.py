"""`share(where="equal")`: equal members are stored once, and outputs do not change."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lit_share.aliases import aliases_from_data, aliases_to_data
from lit_share.compact_files import compact_bytes
from lit_share.metrics import sharing_stats
from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties

from .._modules import module_of, named, pair_of

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


@pytest.fixture
def module():
    module = partly_equal()
    share(module, PAIR, where="equal")
    return module


def test_what_is_stored(module):
    assert module["a"][2].weight is module["b"][2].weight
    assert module["a"][2].bias is module["b"][2].bias
    assert module["a"][0].weight is not module["b"][0].weight
    assert shapes(module) == shapes(partly_equal())
    assert sum(p.numel() for p in module.parameters()) == 2 * (54 + 12) + 35
    assert sharing_stats(module, PAIR).unique == sharing_stats(partly_equal(), PAIR).unique


def test_units_that_are_equal_are_in_a_file_once():
    """Without being shared in the module: files find equal rows by themselves."""
    module = pair_of(a=nn.Linear(64, 40, False), b=nn.Linear(64, 40, False))
    with torch.no_grad():
        module["b"].weight[5:] = module["a"].weight[5:]
    assert share(module, PAIR, where="equal") == []
    index = 40
    assert compact_bytes(module) == 45 * 64 * 4 + index


def test_the_ties_that_are_shared_are_returned():
    assert [tie.name for tie in share(partly_equal(), PAIR, where="equal")] == [
        "2.weight",
        "2.bias",
    ]
    assert share(pair_of(a=net(0), b=net(1)), PAIR, where="equal") == []


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_outputs_are_bitwise_the_same(names):
    separate = partly_equal(names)
    module = copy.deepcopy(separate)
    share(module, Ties(*(f"{name}.*" for name in names)), where="equal")
    assert all(torch.equal(x, y) for x, y in zip(outputs(module), outputs(separate), strict=True))
    assert all(torch.equal(v, separate.state_dict()[k]) for k, v in module.state_dict().items())
    assert list(module.state_dict()) == list(separate.state_dict())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.float().double()]
)
def test_copies_and_moves(module, copied):
    other = copied(module)
    with torch.no_grad():
        other["a"][2].weight.fill_(2.0)
    assert bool((other["b"][2].weight == 2.0).all())


def test_a_transposed_member():
    module = module_of({"enc": (6, 8), "dec": (8, 6)})
    with torch.no_grad():
        module.dec.copy_(module.enc.T)
    other = copy.deepcopy(module)
    share(other, Ties("enc", "dec.T"), where="equal")
    assert torch.equal(other.dec, module.dec)
    assert shapes(other) == {"enc": (6, 8)}
    restored = copy.deepcopy(module)
    aliases_from_data(restored, aliases_to_data(other))
    assert shapes(restored) == shapes(other)
    with torch.no_grad():
        module.dec[0, 0] += 1.0
    assert share(module, Ties("enc", "dec.T"), where="equal") == []


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
        module["b"][0].weight.copy_(module["a"][0].weight)
    share(module, PAIR, where="equal")
    assert module["a"][0].weight is module["b"][0].weight


def test_unshare(module):
    unshare(module)
    separate = partly_equal()
    assert shapes(module) == shapes(separate)
    assert module["a"][2].weight is not module["b"][2].weight
    assert all(torch.equal(x, y) for x, y in zip(outputs(module), outputs(separate), strict=True))


def test_a_state_is_loaded(module):
    state = {k: v + 1.0 for k, v in module.state_dict().items()}
    for assign in (False, True):
        other = copy.deepcopy(module)
        other.load_state_dict(state, assign=assign)
        assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
        assert other["a"][2].weight is other["b"][2].weight


def test_a_state_with_different_values_is_refused(module):
    state = module.state_dict()
    state["b.0.weight"] = state["b.0.weight"] + 1.0
    module.load_state_dict(state)
    state["b.2.weight"] = state["b.2.weight"] + 1.0
    with pytest.raises(TieError, match=r"'a\.2\.weight' and 'b\.2\.weight' are shared, but differ"):
        module.load_state_dict(state)


def test_aliases_from_data(module):
    other = partly_equal()
    aliases_from_data(other, aliases_to_data(module))
    assert other["a"][2].weight is other["b"][2].weight
    assert aliases_to_data(other) == aliases_to_data(module)
    before = named(other)
    aliases_from_data(other, aliases_to_data(module))
    assert all(named(other)[name] is p for name, p in before.items())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"names": ["a.0.weight", "b.0.weight"]}, "have different values"),
        ({"names": ["a.0.weight", "c.0.weight"]}, "no parameter 'c.0.weight'"),
        ({"names": ["a.0.weight", "b.2.weight"]}, "have shapes"),
    ],
)
def test_nothing_is_changed_where_aliases_do_not_fit(module, entry, message):
    other = partly_equal()
    before = named(other)
    with pytest.raises(TieError, match=message):
        aliases_from_data(other, [*aliases_to_data(module), entry])
    assert all(named(other)[name] is parameter for name, parameter in before.items())
