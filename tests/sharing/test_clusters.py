"""`share(where="equal")` of several clusters: one Parameter for each."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lit_share.aliases import aliases_from_data, aliases_to_data, verify_shared
from lit_share.compact_files import compact_bytes, load_compact, read, save_compact
from lit_share.metrics import sharing_stats
from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties, clusters

from .._modules import mlp, module_of, named, pair_of

FIVE = Ties(*(f"{name}.*" for name in "abcde"))
X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def planted(groups="00112", make=mlp):
    return pair_of(**{n: make(int(g)) for n, g in zip("abcde", groups, strict=True)})


def outputs(module):
    return [model(X) for model in module.children()]


def identities(module):
    """The names of each Parameter."""
    names = {}
    for name, parameter in named(module).items():
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def expected(groups="00112"):
    return [
        [f"{name}.{leaf}" for name, own in zip("abcde", groups, strict=True) if own == group]
        for group in sorted(set(groups))
        for leaf in ("0.weight", "0.bias", "2.weight", "2.bias")
    ]


@pytest.fixture
def module():
    module = planted()
    share(module, FIVE, where="equal")
    return module


@pytest.mark.parametrize("groups", ["00112", "01201", "01234", "00000", "01111"])
@pytest.mark.parametrize("init", ["mean", "first"])
def test_a_parameter_for_each_cluster(groups, init):
    module = planted(groups)
    before = copy.deepcopy(module)
    share(module, FIVE, init, where="equal")
    assert sorted(identities(module)) == sorted(expected(groups))
    assert len(list(module.parameters())) == 4 * len(set(groups))
    assert list(module.state_dict()) == list(before.state_dict())
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in module.state_dict().items())
    assert all(torch.equal(x, y) for x, y in zip(outputs(module), outputs(before), strict=True))
    assert sharing_stats(module, FIVE).unique == sharing_stats(before, FIVE).unique


def test_the_first_member_of_a_cluster_stays():
    module = planted()
    before = named(module)
    share(module, FIVE, where="equal")
    assert module["b"][0].weight is before["a.0.weight"]
    assert module["d"][0].weight is before["c.0.weight"]
    assert module["e"][0].weight is before["e.0.weight"]


def test_the_clusters_are_returned_as_ties():
    found = share(planted(), Ties(*(f"{name}.0.bias" for name in "abcde")), where="equal")
    assert [tie.name for tie in found] == ["a.0.bias = b.0.bias", "c.0.bias = d.0.bias"]
    assert all(tie.is_shared for tie in found)
    (one,) = share(planted("01234".replace("4", "3")), FIVE, where="equal")[:1]
    assert (one.name, [m.name for m in one.members]) == ("0.weight", ["d.0.weight", "e.0.weight"])
    assert share(planted("01234"), FIVE, where="equal") == []


def test_gradients_of_a_cluster_add_up(module):
    separate = planted()
    for each in (module, separate):
        sum((i + 1) * y.square().sum() for i, y in enumerate(outputs(each))).backward()
    weights = [model[0].weight.grad for model in separate.children()]
    torch.testing.assert_close(module["a"][0].weight.grad, weights[0] + weights[1])
    torch.testing.assert_close(module["c"][0].weight.grad, weights[2] + weights[3])
    torch.testing.assert_close(module["e"][0].weight.grad, weights[4])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.float().double()]
)
def test_copies_and_moves(module, copied):
    other = copied(module)
    assert identities(other) == identities(module)
    with torch.no_grad():
        other["c"][2].weight.fill_(2.0)
    assert bool((other["d"][2].weight == 2.0).all())
    assert not bool((other["a"][2].weight == 2.0).any())


def test_a_state_dict_that_splits_a_cluster_is_refused(module):
    state = module.state_dict()
    state["e.0.weight"] = state["e.0.weight"] + 1.0
    for assign in (False, True):
        module.load_state_dict(state, assign=assign)
        assert sorted(identities(module)) == sorted(expected())
    state["d.0.weight"] = state["d.0.weight"] + 1.0
    with pytest.raises(TieError, match=r"'c\.0\.weight' and 'd\.0\.weight' are shared, but differ"):
        module.load_state_dict(state)


def test_verify_shared(module):
    module["d"][0].bias = nn.Parameter(module["c"][0].bias.detach().clone())
    verify_shared(module)
    assert module["d"][0].bias is module["c"][0].bias
    module["d"][0].bias = nn.Parameter(module["a"][0].bias.detach().clone())
    with pytest.raises(TieError, match=r"'c\.0\.bias' and 'd\.0\.bias' were shared"):
        verify_shared(module)


def test_unshare(module):
    unshare(module)
    assert len(list(module.parameters())) == 20
    assert clusters(module, FIVE) == clusters(planted(), FIVE)
    verify_shared(module)


def test_unshare_of_some(module):
    unshare(module, Ties("a.0.*", "b.0.*"))
    assert module["a"][0].weight is not module["b"][0].weight
    assert module["a"][2].weight is module["b"][2].weight
    assert module["c"][0].weight is module["d"][0].weight


def test_again_when_clusters_have_merged(module):
    before = named(module)
    share(module, FIVE, where="equal")
    assert all(named(module)[name] is p for name, p in before.items())
    with torch.no_grad():
        module["e"].load_state_dict(module["a"].state_dict())
        module["c"][0].weight.copy_(module["a"][0].weight)
    share(module, FIVE, where="equal")
    assert all(module[name][0].weight is before["a.0.weight"] for name in "abcde")
    assert module["e"][2].bias is before["a.2.bias"]
    assert module["c"][2].bias is before["c.2.bias"]
    verify_shared(module)


def test_all_after_equal(module):
    share(module, FIVE)
    assert len(list(module.parameters())) == 4
    assert module["e"][0].weight is module["a"][0].weight


def test_aliases_that_no_pattern_matches_follow():
    module = planted()
    module["head"] = nn.Linear(4, 3).double()
    module["head"].weight = module["d"][0].weight
    share(module, FIVE, where="equal")
    assert module["head"].weight is module["c"][0].weight


def test_transposed_members():
    module = module_of({"a": (6, 8), "b": (8, 6), "c": (8, 6), "d": (6, 8)})
    with torch.no_grad():
        module.c.copy_(module.b)
        module.d.copy_(module.a)
    before = copy.deepcopy(module)
    found = share(module, Ties("a", "b.T", "c.T", "d"), where="equal")
    assert [[m.name for m in tie.members] for tie in found] == [["a", "d"], ["b.T", "c.T"]]
    assert module.b is module.c
    assert module.a is module.d
    with torch.no_grad():
        before.c.copy_(before.a.T)
        before.d.add_(1.0)
    other = copy.deepcopy(before)
    share(other, Ties("a", "b.T", "c.T", "d"), where="equal")
    assert sorted(dict(other.named_parameters())) == ["a", "b", "d"]
    assert torch.equal(other.c, other.a.T)
    restored = copy.deepcopy(before)
    aliases_from_data(restored, aliases_to_data(other))
    assert sorted(dict(restored.named_parameters())) == ["a", "b", "d"]


def test_buffers():
    def net(seed):
        layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
        layers[1].running_mean.fill_(seed)
        return layers

    module = planted("00112", net)
    share(module, Ties(*(f"{name}.*" for name in "abcde")), where="equal", buffers=True)
    means = [model[1].running_mean for model in module.children()]
    assert means[0] is means[1]
    assert means[2] is means[3]
    assert len({id(mean) for mean in means}) == 3
    # These are equal in all models.
    assert len({id(model[1].running_var) for model in module.children()}) == 1


def test_a_tie_that_cannot_be_shared_is_refused_whatever_its_values():
    module = planted("01234")
    module["e"][0].weight.requires_grad_(False)
    with pytest.raises(TieError, match=r"must agree in requires_grad.*'e\.0\.weight' has False"):
        share(module, FIVE, where="equal")


def test_aliases_from_data(module):
    other = planted()
    aliases_from_data(other, aliases_to_data(module))
    assert identities(other) == identities(module)


# Compact files


def wide(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))


@pytest.mark.parametrize("shares", [True, False])
def test_a_file_has_a_copy_for_each_cluster(tmp_path, shares):
    module, path = planted(make=wide), tmp_path / "five.safetensors"
    if shares:
        share(module, FIVE, where="equal")
    save_compact(module, path)
    assert compact_bytes(module) == 3 * 4 * (30 * 20 + 20 + 20 * 10 + 10)
    stored = read(path).manifest.tensors
    assert [str(stored[f"{name}.0.weight"]) for name in "abcde"] == [
        "own",
        "same as a.0.weight",
        "own",
        "same as c.0.weight",
        "own",
    ]
    fresh = load_compact(path, planted("01234", wide))
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in fresh.state_dict().items())
    # Parameters that were equal, but not shared, are stored once and stay separate.
    assert identities(fresh) == identities(module)
    assert len(list(fresh.parameters())) == (12 if shares else 20)


def test_a_file_loads_into_a_module_that_is_shared_otherwise(tmp_path):
    module, path = planted(make=wide), tmp_path / "five.safetensors"
    share(module, FIVE, where="equal")
    save_compact(module, path)
    alike = planted(make=wide)
    share(alike, FIVE, where="equal")
    with torch.no_grad():
        for parameter in alike.parameters():
            parameter.zero_()
    assert identities(load_compact(path, alike)) == identities(module)
    one = planted(make=wide)
    share(one, FIVE)
    before = copy.deepcopy(one.state_dict())
    with pytest.raises(TieError, match=r"'b\.0\.weight' and 'c\.0\.weight' are shared, but differ"):
        load_compact(path, one)
    assert all(torch.equal(v, before[k]) for k, v in one.state_dict().items())


def test_positions_in_clusters_are_stored_once_in_files():
    """A convolution has one filter, so the layer stays as it is."""
    module = module_of({"w": (6, 50)})
    with torch.no_grad():
        module.w[3:] = module.w[:3]
    index = 6
    assert compact_bytes(module) == 3 * 50 * 4 + index
