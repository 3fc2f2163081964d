"""Hard sharing: one Parameter in several places."""

from __future__ import annotations

import copy
import itertools
import re

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import orthogonal

from lit_share.codebooks import CodebookLinear
from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties

from .._modules import mlp, module_of, named, pair_of


@pytest.fixture
def pair():
    return pair_of(a=mlp(0), b=mlp(1))


def values(module):
    return {name: parameter.detach().clone() for name, parameter in named(module).items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, msg=name)


def refused(module, *patterns):
    before = named(module)
    with pytest.raises(TieError) as error:
        share(module, Ties(*patterns))
    assert all(named(module)[name] is parameter for name, parameter in before.items()), (
        "nothing may be shared"
    )
    return str(error.value)


def test_one_parameter_in_all_places(pair):
    ties = share(pair, Ties("a.*", "b.*"))
    assert [tie.name for tie in ties] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for name, parameter in pair["a"].named_parameters():
        assert pair["b"].get_parameter(name) is parameter
        assert isinstance(parameter, nn.Parameter)
        assert parameter.requires_grad
        assert parameter.is_leaf
    assert sum(parameter.numel() for parameter in pair.parameters()) == 23


def test_only_what_is_tied(pair):
    before = named(pair)
    share(pair, Ties("a.0.*", "b.0.*"))
    assert pair["a"][0].weight is pair["b"][0].weight
    for name in ("a.2.weight", "a.2.bias", "b.2.weight", "b.2.bias"):
        assert named(pair)[name] is before[name]


def test_mean(pair):
    before = values(pair)
    share(pair, Ties("a.*", "b.*"), init="mean")
    for name, parameter in pair["b"].named_parameters():
        torch.testing.assert_close(
            parameter.detach(),
            (before[f"a.{name}"] + before[f"b.{name}"]) / 2,
            rtol=1e-15,
            atol=1e-15,
        )


def test_mean_of_three():
    module = module_of({"a": (4,), "b": (4,), "c": (4,)})
    expected = torch.stack([module.a, module.b, module.c]).mean(dim=0).detach()
    share(module, Ties("a", "b", "c"))
    assert module.a is module.b
    assert module.a is module.c
    torch.testing.assert_close(module.a.detach(), expected)


@pytest.mark.parametrize("patterns", [("a.*", "b.*"), ("b.*", "a.*")])
def test_first(pair, patterns):
    before = values(pair)
    share(pair, Ties(*patterns), init="first")
    for name, parameter in pair["b"].named_parameters():
        assert torch.equal(parameter, before[patterns[0].replace("*", name)])


def test_mean_of_equal_members_is_bitwise_the_member():
    module = pair_of(a=mlp(0), b=mlp(0), c=mlp(0))
    before = values(module)
    share(module, Ties("a.*", "b.*", "c.*"))
    assert_same(values(module), before)


def test_names_in_state_dict_are_unchanged(pair):
    untied = copy.deepcopy(pair)
    share(pair, Ties("a.*", "b.*"))
    assert list(pair.state_dict()) == list(untied.state_dict())
    untied.load_state_dict(pair.state_dict())
    assert_same(values(untied), values(pair))
    pair.load_state_dict(untied.state_dict())
    assert pair["a"][0].weight is pair["b"][0].weight


def refused_state(module, state):
    with pytest.raises(TieError) as error:
        module.load_state_dict(state)
    return str(error.value)


def test_a_state_with_different_values_is_refused(pair):
    """Else the last name would win without a word."""
    state = pair.state_dict()
    share(pair, Ties("a.*", "b.*"))
    message = refused_state(pair, state)
    assert "'a.0.weight' and 'b.0.weight' are shared, but differ" in message
    unshare(pair)
    pair.load_state_dict(state)
    assert_same(values(pair), state)


def test_a_state_of_the_module_around_it():
    """Which may have parameters of the same names."""
    around = pair_of(inner=pair_of(a=mlp(0), b=mlp(1)), a=mlp(2), b=mlp(3))
    apart = copy.deepcopy(around.state_dict())
    share(around["inner"], Ties("a.*", "b.*"))
    state = copy.deepcopy(around.state_dict())
    around.load_state_dict(state)
    assert_same(values(around), state)
    assert "'inner.a.0.weight' and 'inner.b.0.weight'" in refused_state(around, apart)


def test_a_state_that_is_assigned_keeps_the_tie(pair):
    share(pair, Ties("a.*", "b.*"))
    pair.load_state_dict(copy.deepcopy(pair.state_dict()), assign=True)
    assert pair["a"][0].weight is pair["b"][0].weight


def test_ties_survive_copies_moves_and_files(pair, tmp_path):
    share(pair, Ties("a.*", "b.*"))
    torch.save(pair, tmp_path / "pair.pt")
    loaded = torch.load(tmp_path / "pair.pt", weights_only=False)
    for other in (
        copy.deepcopy(pair),
        loaded,
        copy.deepcopy(pair).float(),
        copy.deepcopy(pair).to(torch.bfloat16),
    ):
        assert other["a"][0].weight is other["b"][0].weight
        assert other["a"][0].weight is not pair["a"][0].weight


def test_gradients_are_summed_over_the_places(pair):
    x = torch.randn(5, 4, dtype=torch.float64)

    def loss(module):
        return module["a"](x).square().mean() + module["b"](2.0 * x + 1.0).abs().mean()

    share(pair, Ties("a.*", "b.*"))
    untied = copy.deepcopy(pair)
    unshare(untied)
    assert torch.equal(loss(pair), loss(untied))
    loss(pair).backward()
    loss(untied).backward()
    for name, parameter in pair["a"].named_parameters():
        expected = untied["a"].get_parameter(name).grad + untied["b"].get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-14, atol=1e-14)


def test_an_optimizer_steps_the_shared_parameter_once(pair):
    share(pair, Ties("a.*", "b.*"))
    before = values(pair)
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.5)
    sum(p.sum() for p in pair["a"].parameters()).backward()
    optimizer.step()
    for name, parameter in named(pair).items():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5)


def test_chains():
    """Sharing (a, b) and then (c, b) shares all three, whichever place comes first."""
    for order in itertools.permutations(["a", "b", "c"]):
        module = module_of({"a.w": (3,), "b.w": (3,), "c.w": (3,), "d.w": (3,)})
        x, y, z = (module.get_parameter(f"{name}.w").detach().clone() for name in order)
        share(module, Ties(f"{order[0]}.*", f"{order[1]}.*"))
        share(module, Ties(f"{order[2]}.*", f"{order[1]}.*"))
        assert module.a.w is module.b.w
        assert module.b.w is module.c.w
        assert module.d.w is not module.a.w
        torch.testing.assert_close(module.a.w.detach(), (z + (x + y) / 2) / 2)


def test_chain_with_first_takes_the_newest_first():
    module = module_of({"a": (3,), "b": (3,), "c": (3,)})
    c = module.c.detach().clone()
    share(module, Ties("a", "b"))
    share(module, Ties("c", "b"), init="first")
    assert module.a is module.b is module.c
    assert torch.equal(module.a, c)


def test_two_chains_become_one():
    module = module_of({"a": (3,), "b": (3,), "c": (3,), "d": (3,)})
    share(module, Ties("a", "b"))
    share(module, Ties("c", "d"))
    share(module, Ties("d", "a"))
    assert module.a is module.b is module.c is module.d


def assigned(module):
    """Load a state with a tensor for each name, which would part names that are not recorded."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return {id(module[name].weight) for name in module}


def test_two_chains_that_become_one_are_kept():
    module = nn.ModuleDict({name: nn.Linear(3, 2) for name in "abcd"})
    for one, other in ("ab", "cd", "bc"):
        share(module, Ties(f"{one}.*", f"{other}.*"))
    assert len(assigned(module)) == 1


def test_members_that_were_shared_before_are_kept():
    module = nn.ModuleDict({name: nn.Linear(3, 2) for name in "ab"})
    module["b"].weight = module["a"].weight
    share(module, Ties("a.weight", "b.weight"))
    assert len(assigned(module)) == 1


def test_names_that_no_pattern_matches_are_kept():
    module = nn.ModuleDict({name: nn.Linear(3, 2) for name in "abc"})
    module["c"].weight = module["b"].weight
    share(module, Ties("a.weight", "b.weight"))
    assert len(assigned(module)) == 1


def test_sharing_again_changes_nothing(pair):
    share(pair, Ties("a.*", "b.*"))
    before, parameters = values(pair), named(pair)
    share(pair, Ties("a.*", "b.*"))
    assert_same(values(pair), before)
    assert all(named(pair)[name] is parameter for name, parameter in parameters.items())


def test_places_of_a_shared_submodule():
    """A module that is used in two places holds its parameter once: all its names follow."""
    net = nn.Linear(2, 2)
    module = nn.ModuleDict({"a": net, "again": net, "b": nn.Linear(2, 2)})
    share(module, Ties("b.*", "a.*"))
    assert module["again"].weight is module["b"].weight
    assert len(list(module.parameters())) == 2


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method.*:DeprecationWarning"
)  # torch, of its own code
def test_compiled_modules():
    pair = pair_of(a=torch.compile(mlp(0), backend="eager"), b=mlp(1))
    share(pair, Ties("a.*", "b.*"))
    for name, parameter in pair["b"].named_parameters():
        assert named(pair)[f"a._orig_mod.{name}"] is parameter


def test_frozen_members_are_shared():
    module = module_of({"a": (3,), "b": (3,)}).requires_grad_(False)
    share(module, Ties("a", "b"))
    assert module.a is module.b
    assert not module.a.requires_grad


# Refusals


def test_one_member(pair):
    assert "'a.0.weight' needs at least two members" in refused(pair, "a.0.weight")


def test_slices():
    message = "'w' belongs to a Module, not to a LocallyConnected layer"
    assert message in refused(module_of({"w": (3, 2)}), "w[:]")


def test_dtype(pair):
    pair["b"][2].half()
    message = refused(pair, "a.*", "b.*")
    assert (
        "agree in dtype: 'a.2.weight' has torch.float64, 'b.2.weight' has torch.float16" in message
    )


def test_requires_grad(pair):
    pair["b"][2].bias.requires_grad_(False)
    assert "agree in requires_grad: 'a.2.bias' has True, 'b.2.bias' has False" in refused(
        pair, "a.*", "b.*"
    )


def test_device(pair):
    pair["b"].to("meta")
    assert "agree in device: 'a.0.weight' has cpu, 'b.0.weight' has meta" in refused(
        pair, "a.*", "b.*"
    )


def test_unknown_init(pair):
    with pytest.raises(
        ValueError, match=re.escape("unknown init 'last': write one of 'mean', 'first'")
    ):
        share(pair, Ties("a.*", "b.*"), init="last")


def test_sharded_parameters(mesh):
    module = module_of({"a": (4, 2), "b": (4, 2)})
    for name in ("a", "b"):
        sharded = distribute_tensor(module.get_parameter(name).detach(), mesh, [Shard(0)])
        module.register_parameter(name, nn.Parameter(sharded))
    message = refused(module, "a", "b")
    assert "'a' is already sharded" in message
    assert "fully_shard" in message


# Unsharing


def test_unshare_gives_independent_copies(pair):
    share(pair, Ties("a.*", "b.*"))
    before = values(pair)
    unshare(pair)
    assert_same(values(pair), before)
    parameters = list(named(pair).values())
    assert len({id(parameter) for parameter in parameters}) == 8
    assert len({parameter.untyped_storage().data_ptr() for parameter in parameters}) == 8
    assert all(isinstance(p, nn.Parameter) and p.requires_grad and p.is_leaf for p in parameters)
    with torch.no_grad():
        pair["b"][0].weight.add_(1.0)
    assert torch.equal(pair["a"][0].weight, before["a.0.weight"])


def test_unshare_some(pair):
    share(pair, Ties("a.*", "b.*"))
    unshare(pair, Ties("a.0.*", "b.0.*"))
    assert pair["a"][0].weight is not pair["b"][0].weight
    assert pair["a"][2].weight is pair["b"][2].weight


def test_unshare_models_that_use_a_weight_twice():
    """The models are apart again; each may keep what it shares within itself."""
    models = {root: pair_of(embed=nn.Linear(3, 2), head=nn.Linear(3, 2)) for root in "ab"}
    for model in models.values():
        model["head"].weight = model["embed"].weight
    pair = pair_of(**models)
    share(pair, Ties("a.*", "b.*"))
    assert len(list(pair.parameters())) == 3
    unshare(pair, Ties("a.*", "b.*"))
    assert {id(p) for p in pair["a"].parameters()}.isdisjoint(id(p) for p in pair["b"].parameters())


def test_unshare_all_places_of_a_chain():
    module = module_of({"a": (3,), "b": (3,), "c": (3,)})
    share(module, Ties("a", "b"))
    share(module, Ties("c", "b"))
    unshare(module)
    assert len({id(parameter) for parameter in module.parameters()}) == 3


def test_unshare_keeps_frozen_parameters_frozen():
    module = module_of({"a": (3,), "b": (3,)}).requires_grad_(False)
    share(module, Ties("a", "b"))
    unshare(module)
    assert module.a is not module.b
    assert not module.a.requires_grad
    assert not module.b.requires_grad


def test_unshare_what_is_not_shared_changes_nothing(pair):
    before = named(pair)
    unshare(pair)
    assert all(named(pair)[name] is parameter for name, parameter in before.items())


def test_a_module_may_be_shared_after_it_was_unshared(pair):
    share(pair, Ties("a.*", "b.*"))
    unshare(pair)
    share(pair, Ties("a.*", "b.*"))
    assert pair["a"][0].weight is pair["b"][0].weight


# Codebooks


def codebooks(*assignments):
    made = {
        name: CodebookLinear(torch.tensor(a), 4)
        for name, a in zip("abc", assignments, strict=False)
    }
    return pair_of(**made)


@pytest.mark.parametrize("patterns", [("a.*", "b.*"), ("a.weight", "b.weight")])
def test_codebooks_of_different_clusters(patterns):
    """Row 0 is that of inputs 0 and 2 here, and of 0 and 1 there."""
    module = codebooks([0, 1, 0, -1], [0, 0, 1, -1])
    message = refused(module, *patterns)
    assert message.startswith(
        "'a.weight' and 'b.weight' are codebooks of different clusters, whose rows do not"
    )


def test_codebooks_of_one_more_input():
    assert "of different clusters" in refused(codebooks([0, 1, 0], [0, 1, 0, 0]), "a.*", "b.*")


@pytest.mark.parametrize("order", ["abc", "bca", "cab"])
def test_one_codebook_of_three_that_has_other_clusters(order):
    module = codebooks([0, 1, 0, -1], [0, 1, 0, -1], [0, 1, 1, -1])
    assert "'c.weight'" in refused(module, *(f"{name}.weight" for name in order))


@pytest.mark.parametrize("patterns", [("a.weight", "b.weight"), ("b.weight", "a.weight")])
def test_a_codebook_and_an_ordinary_layer(patterns):
    module = pair_of(a=CodebookLinear(torch.tensor([0, 1, 0, -1]), 4), b=nn.Linear(2, 4))
    assert "are codebooks of different clusters" in refused(module, *patterns)


@pytest.mark.parametrize("where", ["all", "equal"])
def test_codebooks_of_equal_clusters_are_shared(where):
    module = codebooks([0, 1, 0, -1], [0, 1, 0, -1])
    module["b"].load_state_dict(module["a"].state_dict())
    assert len(share(module, Ties("a.*", "b.*"), where=where)) == 2
    assert module["a"].weight is module["b"].weight
    x = torch.randn(3, 4)
    assert torch.equal(module["a"](x), module["b"](x))


def test_biases_of_codebooks_are_shared_whatever_their_clusters():
    module = codebooks([0, 1, 0, -1], [0, 0, 1, -1])
    share(module, Ties("a.bias", "b.bias"))
    assert module["a"].bias is module["b"].bias
    assert module["a"].weight is not module["b"].weight


@pytest.mark.parametrize("where", ["all", "equal"])
def test_numbers_of_a_tensor_cannot_be_shared(where):
    module = module_of({"w": (3, 4)})
    parameter = module.w
    message = (
        "'w[...]' cannot be shared, as the numbers of a parameter cannot be one Parameter: make "
        "them equal with the recipe value_tie, and lit_share.save_compact stores each value once"
    )
    with pytest.raises(TieError, match=re.escape(message)):
        share(module, Ties("w[...]"), where=where)
    assert module.w is parameter
    with pytest.raises(TieError, match=re.escape("'w[...]' cannot be shared")):
        unshare(module, Ties("w[...]"))


def masked(kind):
    if kind == "mask":
        return prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)
    return orthogonal(nn.Linear(4, 4))


@pytest.mark.parametrize("kind", ["mask", "base"])
def test_buffers_without_a_mean_are_refused_or_those_of_the_first(kind):
    torch.manual_seed(0)
    module = nn.ModuleDict({name: masked(kind) for name in "ab"})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(TieError, match=r"'a\..*', 'b\..*' differ, and are no running statistics"):
        share(module, Ties("a.*", "b.*"), buffers=True)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    share(module, Ties("a.*", "b.*"), init="first", buffers=True)
    assert all(
        torch.equal(one, other)
        for one, other in zip(module["a"].buffers(), module["b"].buffers(), strict=True)
    )
    x = torch.randn(2, 4)
    torch.testing.assert_close(module["a"](x), module["b"](x))
