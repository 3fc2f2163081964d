"""`share` of positions: a locally connected layer becomes a convolution."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lit_share.aliases import aliases_from_data, aliases_to_data, verify_shared
from lit_share.codebooks import densify, tie_rows
from lit_share.compact_files import CompactFileError, load_compact, save_compact
from lit_share.functional import Penalty
from lit_share.local import LocallyConnected1d, LocallyConnected2d
from lit_share.metrics import relative_distance, sharing_stats
from lit_share.metrics._counts import count_numbers
from lit_share.penalties import add_penalty_gradient, apply_prox, starting_values
from lit_share.penalties._functions import penalty_value
from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties

FIRST = Ties("0.*[:]")
BOTH = Ties("*[:]", exclude=["4.*"])
X = torch.randn(5, 2, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def net(equal=False, bias=True, seed=0):
    """Layers of 4 × 3 and of 2 × 2 positions, and a linear one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = LocallyConnected2d(2, 3, 3, (6, 5), bias=bias)
        second = LocallyConnected2d(3, 4, (3, 2), (4, 3), bias=bias)
        module = nn.Sequential(first, nn.Tanh(), second, nn.Flatten(), nn.Linear(16, 2)).double()
    if equal:
        with torch.no_grad():
            for layer in (first, second):
                for parameter in layer.parameters():
                    parameter.copy_(parameter[:1].clone().expand_as(parameter))
    return module


def contents(module):
    """What is where, and its values."""
    return (
        dict(module.named_modules(remove_duplicate=False)),
        dict(module.named_parameters(remove_duplicate=False)),
        {name: value.clone() for name, value in module.state_dict().items()},
    )


def assert_unchanged(module, before):
    modules, parameters, values = contents(module)
    assert modules == before[0]
    assert all(parameters[name] is parameter for name, parameter in before[1].items())
    assert all(torch.equal(values[name], value) for name, value in before[2].items())


def refused(module, ties, **options):
    before = contents(module)
    with pytest.raises(TieError) as error:
        share(module, ties if isinstance(ties, Ties) else Ties(ties), **options)
    assert_unchanged(module, before)
    return str(error.value)


@pytest.fixture
def shared():
    module = net(equal=True)
    share(module, FIRST)
    return module


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_of_positions(bias):
    module, before = net(bias=bias), net(bias=bias)
    ties = share(module, FIRST)
    assert [tie.name for tie in ties] == ["0.weight", "0.bias"][: 1 + bias]
    assert [type(part) for part in module] == [
        nn.Conv2d,
        nn.Tanh,
        LocallyConnected2d,
        nn.Flatten,
        nn.Linear,
    ]
    assert [name for name, _ in module.named_parameters()] == [
        name for name, _ in before.named_parameters()
    ]
    for name, value in before[0].named_parameters():
        torch.testing.assert_close(
            module[0].get_parameter(name), value.mean(dim=0), rtol=1e-14, atol=1e-14
        )
    for name, value in before[2].named_parameters():
        assert torch.equal(module[2].get_parameter(name), value), "only what is tied"


def test_the_first_position():
    module, before = net(), net()
    share(module, FIRST, init="first")
    for name, value in before[0].named_parameters():
        assert torch.equal(module[0].get_parameter(name), value[0])


def test_layers_of_one_dimension():
    module = nn.Sequential(LocallyConnected1d(2, 3, 4, 9, stride=2))
    expected = module[0].weight.detach().mean(dim=0)
    share(module, FIRST)
    assert type(module[0]) is nn.Conv1d
    assert module[0].stride == (2,)
    torch.testing.assert_close(module[0].weight.detach(), expected)


@pytest.mark.parametrize("where", ["all", "equal"])
@pytest.mark.parametrize("init", ["mean", "first"])
def test_equal_positions_compute_what_they_did(where, init):
    module, before = net(equal=True), net(equal=True)
    assert len(share(module, BOTH, init, where=where)) == 4
    assert [type(module[i]) for i in (0, 2)] == [nn.Conv2d, nn.Conv2d]
    torch.testing.assert_close(module(X), before(X), rtol=1e-12, atol=1e-12)
    for i in (0, 2):
        for name, value in before[i].named_parameters():
            assert torch.equal(module[i].get_parameter(name), value[0])
    for m in (module, before):
        m(X).square().sum().backward()
    for i in (0, 2):
        for name, value in before[i].named_parameters():
            torch.testing.assert_close(
                module[i].get_parameter(name).grad, value.grad.sum(dim=0), rtol=1e-10, atol=1e-12
            )


def test_what_is_equal_is_shared_and_what_is_not_stays():
    module = net(equal=True)
    with torch.no_grad():
        module[2].bias[3, 1] += 1e-12
    before = module[2]
    values = contents(module)[2]
    ties = share(module, BOTH, init="first", where="equal")
    assert [tie.name for tie in ties] == ["0.weight", "0.bias"]
    assert type(module[0]) is nn.Conv2d
    assert module[2] is before
    assert all(torch.equal(v, values[f"2.{k}"]) for k, v in before.state_dict().items())


def test_nothing_is_equal():
    module = net()
    before = contents(module)
    assert share(module, FIRST, where="equal") == []
    assert_unchanged(module, before)


def test_not_a_number_is_equal_to_nothing():
    module = net(equal=True)
    with torch.no_grad():
        module[0].weight.fill_(torch.nan)
    assert share(module, FIRST, where="equal") == []


def test_again():
    module = net()
    share(module, FIRST)
    before = contents(module)
    for options in ({}, {"init": "first"}, {"where": "equal"}):
        assert [tie.name for tie in share(module, FIRST, **options)] == ["0.weight", "0.bias"]
        assert_unchanged(module, before)


def test_a_layer_of_a_single_position():
    """Nothing is saved, but it may be asked for twice, as `Share` does."""
    module = nn.Sequential(LocallyConnected2d(2, 3, 4, 4))
    for _ in range(2):
        assert len(share(module, FIRST)) == 2
        assert type(module[0]) is nn.Conv2d


def test_a_layer_in_two_places():
    layer = net()[0]
    module = nn.ModuleDict({"a": layer, "b": nn.Sequential(nn.Tanh(), layer)})
    share(module, Ties("b.1.*[:]"))
    assert type(module["a"]) is nn.Conv2d
    assert module["a"] is module["b"][1]
    assert aliases_to_data(module) == [
        {"names": ["a.weight", "b.1.weight"]},
        {"names": ["a.bias", "b.1.bias"]},
        {"convolution": "a"},
    ]


def test_the_same_layer_in_two_patterns():
    """A star matches both of its names, and it is one tie."""
    layer = net()[0]
    module = nn.ModuleDict({"a": layer, "b": layer})
    assert len(share(module, Ties("*[:]"))) == 2
    assert type(module["a"]) is type(module["b"]) is nn.Conv2d


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_layer_was_is_kept(dtype):
    module = net().to(dtype).eval()
    module[0].bias.requires_grad_(False)
    share(module, FIRST)
    assert module[0].weight.dtype == module[0].bias.dtype == dtype
    assert (module[0].weight.requires_grad, module[0].bias.requires_grad, module[0].training) == (
        True,
        False,
        False,
    )


@pytest.mark.parametrize("init", ["mean", "first"])
def test_without_values(init):
    module = net().to("meta")
    share(module, FIRST, init)
    assert module[0].weight.is_meta
    assert type(module[0]) is nn.Conv2d


# Two layers


def test_convolutions_are_shared_with_each_other_afterwards():
    module = nn.ModuleDict({"a": net(seed=0)[0], "b": net(seed=1)[0]})
    share(module, Ties("*[:]"))
    mean = (module["a"].weight + module["b"].weight).detach() / 2
    assert len(share(module, Ties("a.*", "b.*"))) == 2
    assert module["a"].weight is module["b"].weight
    torch.testing.assert_close(module["b"].weight.detach(), mean, rtol=1e-14, atol=1e-14)
    assert count_numbers(module).compression == 24.0
    (tie,) = Ties("a.weight[:]", "b.weight[:]").find(module)
    assert tie.is_shared
    assert len(tie.members) == 24


def test_positions_of_two_convolutions_in_one_tie():
    """There are no slices any more that could not be one."""
    module = nn.ModuleDict({"a": net(seed=0)[0], "b": net(seed=1)[0]})
    share(module, Ties("*[:]"))
    share(module, Ties("a.*[:]", "b.*[:]"))
    assert module["a"].weight is module["b"].weight


# Refusals


def test_a_bias_that_is_not_tied():
    message = refused(net(), "0.weight[:]")
    assert (
        message
        == "'0' has a bias for each position, too: tie it as well, with the pattern '0.*[:]'"
    )
    assert refused(net(), "0.bias[:]").startswith("'0' has a weight for each position, too")


def test_nothing_is_shared_where_one_layer_cannot_be():
    module = net(equal=True)
    module[2].register_forward_hook(lambda *_: None)
    for options in ({}, {"init": "first"}, {"where": "equal"}):
        assert "the positions of '2' cannot be shared, as the layer has hooks" in refused(
            module, BOTH, **options
        )


def test_slices_of_two_parameters_in_one_tie():
    module = nn.ModuleDict({"a": net(seed=0)[0], "b": net(seed=1)[0]})
    message = refused(module, Ties("a.*[:]", "b.*[:]"))
    assert message.startswith(
        "a.weight[0], a.weight[1], a.weight[2], … 20 more …, b.weight[11]: slices can be shared"
    )


def test_a_slice_and_a_whole_parameter():
    module = nn.Sequential(
        LocallyConnected2d(2, 3, 4, 4, bias=False), nn.Conv2d(2, 3, 4, bias=False)
    )
    for patterns in (("0.weight[:]", "1.weight"), ("1.weight", "0.weight[:]")):
        assert "slices can be shared with each other, but not with slices" in refused(
            module, Ties(*patterns)
        )


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Linear(3, 4), "Linear"),
        (nn.Conv2d(3, 4, 3), "Conv2d"),
    ],
)
def test_slices_of_other_layers(layer, kind):
    module = nn.Sequential(layer, net()[0])
    assert f"'0.weight' belongs to a {kind}, not to a LocallyConnected" in refused(module, "*[:]")


class Scaled(LocallyConnected2d):
    def forward(self, x):
        return 10.0 * super().forward(x)


def test_a_layer_of_a_class_of_its_own():
    module = nn.Sequential(Scaled(2, 3, 3, 5))
    message = (
        "the positions of '0' cannot be shared, as it is a Scaled, which may compute something else"
    )
    assert refused(module, FIRST).startswith(message)
    with pytest.raises(TieError, match="no locally connected layer '0'"):
        aliases_from_data(module, [{"convolution": "0"}])


@pytest.mark.parametrize("init", ["mean", "first"])
def test_a_layer_that_is_the_module_itself(init):
    assert refused(net()[0], "*[:]", init=init).startswith(
        "LocallyConnected2d is the module itself: put it into a"
    )


@pytest.mark.parametrize(
    "hook",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_layers_with_hooks(hook):
    module = net()
    handle = getattr(module[0], hook)(lambda *_: None)
    assert (
        refused(module, "0.*[:]")
        == "the positions of '0' cannot be shared, as the layer has hooks: remove them first"
    )
    handle.remove()
    assert share(module, FIRST)


def test_a_parameter_in_common_with_another_layer():
    layers = {"a": net(seed=0)[0], "b": net(seed=1)[0]}
    module = nn.ModuleDict(layers)
    share(module, Ties("a.bias", "b.bias"))
    for pattern, other in (("a.*[:]", "b.bias"), ("b.*[:]", "a.bias")):
        assert f"as it has a parameter in common with '{other}'" in refused(module, pattern)
    unshare(module)
    assert len(share(module, Ties("*[:]"))) == 4


def test_units_in_common_with_another_layer():
    module = nn.ModuleDict({"a": net(seed=0)[0], "b": net(seed=1)[0]})
    share(module, Ties("a.weight", "b.weight"))
    for pattern in ("a.*[:]", "b.*[:]"):
        assert "as it has a parameter in common with" in refused(module, pattern)


def test_values_that_are_not_there_are_not_equal():
    module = net().to("meta")
    with pytest.raises(
        TieError, match=r"'0\.weight\[0\]' is on the meta device, where no values are equal"
    ):
        share(module, FIRST, where="equal")
    assert type(module[0]) is LocallyConnected2d


def test_buffers_do_not_go_with_slices():
    assert "no buffer fits all patterns" in refused(net(), "0.*[:]", buffers=True)


# Ties find the positions that the filters stand for


def test_ties_of_the_convolution(shared):
    """A slice is a position, as before, and not one of the filters, of which there are fewer."""
    before = FIRST.find(net(equal=True))
    after = FIRST.find(shared)
    for x, y in zip(before, after, strict=True):
        assert (x.name, x.shape, [m.name for m in x.members]) == (
            y.name,
            y.shape,
            [m.name for m in y.members],
        )
        assert not x.is_shared
        assert y.is_shared
        assert all(torch.equal(s, t) for s, t in zip(x.tensors(), y.tensors(), strict=True))
        assert all(parameter is shared[0].get_parameter(y.name[2:]) for parameter in y.parameters)
        assert relative_distance(y.tensors()) == 0.0
    assert [len(tie.members) for tie in after] == [12, 12]


def test_the_plan(shared):
    numbers = 3 * 2 * 3 * 3 + 3
    before, after = FIRST.plan(net()), FIRST.plan(shared)
    assert (before.parameters, before.saved) == (12 * numbers, 11 * numbers)
    assert (after.parameters, after.saved) == (numbers, 0)
    assert (
        str(after)
        .splitlines()[2]
        .startswith("  0.bias (3): 0.bias[0] = 0.bias[1] = 0.bias[2] = … 8 more …")
    )


CENTERS = ["zero", "mean", "first", "start"]


def starts(module):
    """Values of their own for each position to be pulled to."""
    rng = torch.Generator().manual_seed(8)
    values = starting_values(FIRST.find(module))
    return {k: torch.randn(v.shape, generator=rng, dtype=v.dtype) for k, v in values.items()}


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("norm", ["squared", "l1"])
def test_values_of_penalties(shared, norm, center):
    penalty, before = (
        Penalty(norm, "element" if norm == "squared" else "output", center),
        net(equal=True),
    )
    start = starts(before) if center == "start" else None
    expected = penalty_value(penalty, FIRST.find(before), start)
    assert penalty_value(penalty, FIRST.find(shared), start) == pytest.approx(expected, rel=1e-12)
    assert (expected == 0.0) == (center in ("mean", "first"))


@pytest.mark.parametrize("center", CENTERS)
def test_gradients_of_penalties(shared, center):
    """What all positions get, together."""
    penalty, before = Penalty("squared", "element", center), net(equal=True)
    start = starts(before) if center == "start" else None
    for module in (before, shared):
        add_penalty_gradient(module, penalty, FIRST, 0.3, start=start)
    for name, parameter in before[0].named_parameters():
        torch.testing.assert_close(
            shared[0].get_parameter(name).grad, parameter.grad.sum(dim=0), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("groups", ["element", "output", "tensor"])
@pytest.mark.parametrize("center", ["zero", "mean", "first"])
def test_proximal_steps(shared, groups, center):
    """Ties within one parameter move as all positions do; ties between positions stay put."""
    before = [p.detach().clone() for p in shared[0].parameters()]
    apply_prox(shared, Penalty("l1", groups, center), FIRST, 0.01)
    for old, new in zip(before, shared[0].parameters(), strict=True):
        if center != "zero":
            assert torch.equal(new, old)
            continue
        # A group of 12 equal members has √12 times the norm of one; p elements count √p-fold.
        dims = {
            "element": None,
            "output": tuple(range(1, old.ndim)),
            "tensor": tuple(range(old.ndim)),
        }[groups]
        norm = old.square().sum(dim=dims, keepdim=True).sqrt() if dims else old.abs()
        size = old.numel() // norm.numel()
        factor = (1.0 - 0.01 * (12 * size) ** 0.5 / norm).clamp_min(0.0)
        torch.testing.assert_close(new.detach(), factor * old, rtol=1e-12, atol=1e-12)
        assert not torch.equal(new, old)


def test_penalties_before_sharing_act_on_each_position():
    """Slices of a single parameter are members too: against members that are modules."""
    module, apart = net(), nn.ParameterList(net()[0].weight.detach().unbind())
    ties, others = Ties("0.weight[:]"), Ties(*(str(i) for i in range(12)))
    for penalty in (Penalty("l1", "output", "mean"), Penalty("l1", "tensor", "first")):
        apply_prox(module, penalty, ties, 0.05)
        apply_prox(apart, penalty, others, 0.05)
        torch.testing.assert_close(
            module[0].weight.detach(), torch.stack(list(apart)).detach(), rtol=1e-12, atol=1e-12
        )
    penalty = Penalty("squared", "element", "mean")
    add_penalty_gradient(module, penalty, ties, 0.7)
    add_penalty_gradient(apart, penalty, others, 0.7)
    torch.testing.assert_close(
        module[0].weight.grad, torch.stack([p.grad for p in apart]), rtol=1e-12, atol=1e-12
    )


def test_frozen_positions_are_left_alone():
    module = net()
    module[0].weight.requires_grad_(False)
    before = module[0].weight.clone()
    apply_prox(module, Penalty("l1", "tensor", "mean"), FIRST, 100.0)
    add_penalty_gradient(module, Penalty("squared", "element", "mean"), FIRST, 1.0)
    assert torch.equal(module[0].weight, before)
    assert module[0].weight.grad is None
    assert torch.equal(module[0].bias[1], module[0].bias[0])


# What is shared stays so


def is_shared(module):
    """Whether the convolution knows what it stands for."""
    (tie, _) = FIRST.find(module)
    return type(module[0]) is nn.Conv2d and tie.is_shared and len(tie.members) == 12


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.float().double()]
)
def test_copies_and_moves_remember_the_positions(shared, copied):
    other = copied(shared)
    assert is_shared(other)
    assert count_numbers(other).total == count_numbers(net()).total
    assert torch.equal(other(X).float(), shared(X).float())
    verify_shared(other)


def test_unshare_leaves_a_convolution(shared):
    """Which has every parameter under one name, and so nothing to be taken apart."""
    before = contents(shared)
    unshare(shared)
    unshare(shared, FIRST)
    assert_unchanged(shared, before)
    assert is_shared(shared)


@pytest.mark.parametrize("assign", [False, True])
def test_states(shared, assign):
    local = net(equal=True, seed=3)
    shared.load_state_dict(local.state_dict(), assign=assign)
    torch.testing.assert_close(shared(X), local(X), rtol=1e-12, atol=1e-12)
    assert is_shared(shared)
    other = net()
    other.load_state_dict(shared.state_dict())
    torch.testing.assert_close(other(X), local(X), rtol=1e-12, atol=1e-12)
    with pytest.raises(
        RuntimeError,
        match=r"0\.weight is one for all positions here, but the weight differs by up to",
    ):
        shared.load_state_dict(net().state_dict())


def test_rebuild(shared):
    entries = aliases_to_data(shared)
    assert entries == [{"convolution": "0"}]
    other = net(equal=True)
    for _ in range(2):
        aliases_from_data(other, entries)
        assert is_shared(other)
        assert aliases_to_data(other) == entries
    torch.testing.assert_close(other(X), shared(X), rtol=1e-12, atol=1e-12)


def test_rebuild_with_other_things_that_are_one():
    def pair():
        return nn.ModuleDict({name: net(equal=True) for name in "ab"})

    module, other = pair(), pair()
    share(module, Ties("*.0.*[:]"))
    share(module, Ties("a.*", "b.*"))
    aliases_from_data(other, aliases_to_data(module))
    assert type(other["a"][0]) is nn.Conv2d
    assert other["a"][0].weight is other["b"][0].weight
    assert aliases_to_data(other) == aliases_to_data(module)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [{"convolution": "1"}],
            "the module has no locally connected layer '1' to be a convolution",
        ),
        ([{"convolution": "7"}], "no locally connected layer '7'"),
        ([{"convolution": "0"}, {"convolution": "4"}], "no locally connected layer '4'"),
        (
            [{"convolution": "0"}, {"convolution": "2"}],
            "the bias differs by up to 1 between 4 positions",
        ),
        ([{"convolution": "0"}, {"names": ["0.bias", "2.bias"]}], "have shapes"),
        ([{"convolution": "0"}, {"names": ["0.bias", "nowhere"]}], "no parameter 'nowhere'"),
    ],
)
def test_rebuild_changes_nothing_where_it_cannot(entries, message):
    module = net(equal=True)
    with torch.no_grad():
        module[2].bias[1] += 1.0
    before = contents(module)
    with pytest.raises(TieError, match=message):
        aliases_from_data(module, entries)
    assert_unchanged(module, before)


# Compact files


def test_compact_files(shared, tmp_path):
    path, plain = tmp_path / "shared.safetensors", tmp_path / "plain.safetensors"
    save_compact(shared, path)
    save_compact(net(), plain)
    assert path.stat().st_size < plain.stat().st_size
    for fresh in (net(seed=4), copy.deepcopy(shared)):
        load_compact(path, fresh)
        assert is_shared(fresh)
        assert type(fresh[2]) is LocallyConnected2d
        assert torch.equal(fresh(X), shared(X))
        assert sharing_stats(fresh) == sharing_stats(shared)
        assert all(p.requires_grad for p in fresh.parameters())


def test_compact_files_of_positions_of_their_own(tmp_path):
    path, module = tmp_path / "plain.safetensors", net()
    save_compact(module, path)
    fresh = load_compact(path, net(seed=4))
    assert type(fresh[0]) is LocallyConnected2d
    assert torch.equal(fresh(X), module(X))


def test_compact_files_of_convolutions_that_are_one(tmp_path):
    def pair(equal):
        return nn.ModuleDict({name: net(equal, seed=i) for i, name in enumerate("ab")})

    module = pair(True)
    share(module, Ties("*.0.*[:]"))
    share(module, Ties("a.0.*", "b.0.*"))
    save_compact(module, tmp_path / "pair.safetensors")
    fresh = load_compact(tmp_path / "pair.safetensors", pair(False))
    assert fresh["a"][0].weight is fresh["b"][0].weight
    assert torch.equal(fresh["b"](X), module["b"](X))
    assert sharing_stats(fresh) == sharing_stats(module)


@pytest.mark.parametrize(
    "layer",
    [
        LocallyConnected2d(2, 4, 3, (6, 5)),
        LocallyConnected2d(2, 3, 3, (6, 5), bias=False),
        Scaled(2, 3, 3, (6, 5)),
    ],
)
def test_compact_files_that_do_not_fit(shared, tmp_path, layer):
    save_compact(shared, tmp_path / "shared.safetensors")
    other = net()
    other[0] = layer.double()
    before = contents(other)
    with pytest.raises(
        CompactFileError, match=r"has '0\.\w+' of shape|has 0\.bias|has '0\.bias', which the module"
    ):
        load_compact(tmp_path / "shared.safetensors", other)
    assert_unchanged(other, before)


def test_compact_files_of_positions_are_not_loaded_into_a_convolution(shared, tmp_path):
    save_compact(net(equal=True), tmp_path / "plain.safetensors")
    before = contents(shared)
    with pytest.raises(
        CompactFileError,
        match=r"has '0\.weight' of shape \(12, 3, 2, 3, 3\), but in the module it is",
    ):
        load_compact(tmp_path / "plain.safetensors", shared)
    assert_unchanged(shared, before)


def test_a_layer_that_is_compiled_by_itself_is_refused():
    module = nn.Sequential(torch.compile(LocallyConnected2d(1, 1, 3, 5), backend="eager"))
    assert "is compiled by itself" in refused(module, "0.*[:]")


def test_the_first_position_may_be_anything():
    module = nn.Sequential(LocallyConnected2d(1, 1, 1, 2))
    with torch.no_grad():
        module[0].weight[0] = float("nan")
    share(module, Ties("0.*[:]"), init="first")
    assert module[0].weight.isnan().all()


def test_positions_that_started_apart_are_pulled_to_the_mean_of_their_starts():
    module = nn.Sequential(LocallyConnected2d(1, 1, 1, 2, bias=False))
    ties, squared = Ties("0.*[:]"), Penalty(norm="squared", groups="element", center="start")
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([0.0, 0.0, 0.0, 4.0]).view(4, 1, 1, 1, 1))
    start = starting_values(ties.find(module))
    share(module, ties)
    apply_prox(module, squared, ties, step=1e6, start=start)
    assert torch.allclose(module[0].weight, torch.tensor(1.0), atol=1e-4)
    lasso = Penalty(norm="l1", groups="element", center="start")
    with pytest.raises(ValueError, match="share a parameter, but started from different values"):
        apply_prox(module, lasso, ties, step=0.1, start=start)


def test_clusters_of_rows_keep_the_positions():
    module = nn.Sequential(LocallyConnected2d(4, 6, 3, 6))
    share(module, Ties("0.*[:]"))
    with torch.no_grad():
        module[0].weight[:, 1:] = module[0].weight[:, :1]
    tie_rows(module, Ties("0.weight"), similarity=0.99)
    (tie,) = Ties("0.weight[:]").find(module)
    assert len(tie.members) == 16
    densify(module)
    (tie,) = Ties("0.weight[:]").find(module)
    assert len(tie.members) == 16
