"""What is shared is remembered by name, and verified."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
from torch import nn

from lit_share.aliases import verify_shared
from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties

from .._modules import mlp, named, pair_of

PAIR = Ties("a.*", "b.*")


@pytest.fixture
def pair():
    pair = pair_of(a=mlp(0), b=mlp(1))
    share(pair, PAIR)
    return pair


def is_one(module):
    return all(p is module["b"].get_parameter(name) for name, p in module["a"].named_parameters())


def replace(module, name, value=None):
    owner, _, attribute = name.rpartition(".")
    old = module.get_parameter(name)
    setattr(
        module.get_submodule(owner),
        attribute,
        nn.Parameter(old.detach().clone() if value is None else value),
    )


def test_equal_values_are_made_one_again(pair):
    replace(pair, "b.0.weight")
    assert not is_one(pair)
    verify_shared(pair)
    assert is_one(pair)


@pytest.mark.parametrize(
    "value", [torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4), torch.zeros(2, 2)]
)
def test_different_values_are_an_error_that_names_both(pair, value):
    replace(pair, "b.0.weight", value)
    with pytest.raises(
        TieError, match=r"'a\.0\.weight' and 'b\.0\.weight' were shared, but have different values"
    ):
        verify_shared(pair)


def test_a_place_that_is_gone(pair):
    pair["b"][2] = nn.Identity()
    with pytest.raises(
        TieError,
        match=r"'a\.2\.weight' and 'b\.2\.weight' were shared, "
        r"but 'b\.2\.weight' no longer exists",
    ):
        verify_shared(pair)


def test_a_transposed_parameter_that_was_replaced():
    module = pair_of(enc=nn.Linear(6, 4), dec=nn.Linear(4, 6))
    share(module, Ties("enc.weight", "dec.weight.T"))
    verify_shared(module)
    other = copy.deepcopy(module)
    module["dec"] = nn.Linear(4, 6)
    with pytest.raises(TieError, match=r"'dec\.weight' was the transpose of 'enc\.weight'"):
        verify_shared(module)
    other["enc"] = nn.Linear(6, 4)
    with pytest.raises(TieError, match=r"'dec\.weight' was the transpose of 'enc\.weight'"):
        verify_shared(other)


def test_what_was_never_shared_or_no_longer_is(pair):
    verify_shared(pair_of(a=mlp(0), b=mlp(1)))
    unshare(pair)
    replace(pair, "b.0.weight", torch.zeros(3, 4))
    verify_shared(pair)


@pytest.mark.parametrize(
    "wrapped", [lambda m: m, partial(torch.compile, backend="eager"), nn.DataParallel]
)
def test_wrapped_modules(pair, wrapped):
    replace(pair, "b.0.weight")
    verify_shared(wrapped(pair))
    assert is_one(pair)


def test_a_copy_has_a_record_of_its_own(pair):
    other = copy.deepcopy(pair)
    replace(other, "b.0.weight", torch.zeros(3, 4))
    verify_shared(pair)
    with pytest.raises(TieError, match="different values"):
        verify_shared(other)


def test_parameters_that_the_user_tied_are_left_to_the_user():
    module = pair_of(a=mlp(0), b=mlp(1), emb=nn.Embedding(5, 4), head=nn.Linear(4, 5, bias=False))
    module["head"].weight = module["emb"].weight
    share(module, PAIR)
    replace(module, "head.weight", torch.zeros(5, 4))
    verify_shared(module)
    module.float()
    assert not module["head"].weight.any()
    assert module["emb"].weight.any()


# Moves


def overwrite(module):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return module.float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to("meta"),
        overwrite,
        lambda m: m.share_memory(),
        lambda m: m.half(),
    ],
    ids=["bfloat16", "meta", "overwrite", "share_memory", "half"],
)
def test_moves(pair, move):
    move(pair)
    assert is_one(pair)
    verify_shared(pair)


@pytest.mark.parametrize("around", [False, True])
def test_from_meta_to_empty(around):
    with torch.device("meta"):
        pair = pair_of(a=mlp(0), b=mlp(1))
    share(pair, PAIR)
    (nn.ModuleList([pair]) if around else pair).to_empty(device="cpu")
    assert is_one(pair)


def test_a_move_of_what_fell_apart_is_refused(pair):
    replace(pair, "b.0.weight", torch.zeros(3, 4))
    with pytest.raises(TieError, match="different values"):
        pair.float()


# Buffers


def with_buffers(seed):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False))
    torch.nn.init.normal_(net[1].running_mean, generator=torch.Generator().manual_seed(seed))
    net[1].num_batches_tracked.fill_(seed)
    return net


@pytest.fixture
def normed():
    return pair_of(a=with_buffers(0), b=with_buffers(1))


def buffers(module):
    return dict(module.named_buffers(remove_duplicate=False))


def test_buffers_are_kept_apart_by_default_and_the_plan_says_so(normed):
    assert (
        "each model keeps its own buffers (a.1.running_mean, b.1.running_mean and 5 more)"
        in str(PAIR.plan(normed))
    )
    share(normed, PAIR)
    assert normed["a"][1].weight is normed["b"][1].weight
    assert len({id(b) for b in buffers(normed).values()}) == 12
    assert "buffers" not in str(Ties("a.0.*", "b.0.*").plan(normed))


@pytest.mark.parametrize("init", ["mean", "first"])
def test_buffers_are_shared_on_request(normed, init):
    means = [normed[name][1].running_mean.clone() for name in "ab"]
    names = list(normed.state_dict())
    share(normed, PAIR, init, buffers=True)
    assert len({id(b) for b in buffers(normed).values()}) == 6
    torch.testing.assert_close(
        normed["b"][1].running_mean, sum(means) / 2 if init == "mean" else means[0]
    )
    assert normed["b"][1].num_batches_tracked == 0, "whole numbers are the first's"
    assert list(normed.state_dict()) == names
    assert "buffers" not in str(PAIR.plan(normed))


@pytest.mark.parametrize(
    "move", [lambda m: m.double(), copy.deepcopy, lambda m: m.to("meta").to_empty(device="cpu")]
)
def test_shared_buffers_stay_one(normed, move):
    share(normed, PAIR, buffers=True)
    moved = move(normed)
    for tensor in (*moved.parameters(), *moved.buffers()):
        tensor.detach().fill_(1)  # there may be NaN in memory that was not written to
    assert len({id(b) for b in buffers(moved).values()}) == 6
    moved.load_state_dict(
        with_state := normed.state_dict() if move is copy.deepcopy else moved.state_dict()
    )
    assert len(with_state) == len(buffers(moved)) + 8
    moved["a"](torch.randn(8, 4, dtype=moved["a"][0].weight.dtype))
    assert not torch.equal(moved["a"][1].running_mean, torch.ones_like(moved["a"][1].running_mean))
    assert torch.equal(moved["a"][1].running_mean, moved["b"][1].running_mean)


def test_statistics_are_of_both_models(normed):
    share(normed, PAIR, buffers=True)
    for name in ("a", "b"):
        normed[name](torch.randn(8, 4))
    assert normed["a"][1].num_batches_tracked == 2


def test_a_state_with_different_buffers_is_refused(normed):
    state = normed.state_dict()
    share(normed, PAIR, buffers=True)
    with pytest.raises(TieError, match="are shared, but differ in the state dict"):
        normed.load_state_dict(state)


def test_exclude_holds_for_buffers(normed):
    share(normed, Ties("a.*", "b.*", exclude=["*.2.*", "*num_batches_tracked"]), buffers=True)
    assert len({id(b) for b in buffers(normed).values()}) == 10


def test_only_equal_buffers(normed):
    share(normed, PAIR, where="equal", buffers=True)
    assert normed["a"][1].running_var is normed["b"][1].running_var
    assert normed["a"][1].running_mean is not normed["b"][1].running_mean


def test_unshare_buffers(normed):
    share(normed, PAIR, buffers=True)
    unshare(normed)
    assert len({id(b) for b in buffers(normed).values()}) == 12


def test_refused_buffers(normed):
    with pytest.raises(
        TieError, match=re.escape("buffers=True, but no buffer fits all patterns of Ties('a.0.*'")
    ):
        share(normed, Ties("a.0.*", "b.0.*"), buffers=True)
    normed["b"][1].running_mean = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(
        TieError, match=r"must agree in shape, dtype and device: .*b\.1\.running_mean"
    ):
        share(normed, PAIR, buffers=True)
    assert normed["a"][0].weight is not normed["b"][0].weight, "nothing may be shared"


def test_buffers_that_are_one_by_themselves_are_left_alone():
    """A module may replace them at any time, as caches are."""
    module = pair_of(a=mlp(0), b=mlp(1))
    cache = torch.zeros(3)
    for name in "ab":
        module[name].register_buffer("cache", cache)
    share(module, PAIR)
    module["b"].cache = torch.ones(3)
    verify_shared(module)
    module.float()


def test_names_of_all_places(pair):
    assert len(named(pair)) == 8
