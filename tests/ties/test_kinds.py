"""Ties of parameters of some kinds: classes of layers, and numbers of dimensions."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lit_share.sharing import share
from lit_share.ties import TieError, Ties

from .._modules import pair_of


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.Embedding(4, 2)
    )


@pytest.fixture
def pair():
    return pair_of(a=net(0), b=net(1))


def names(module, *patterns, **kinds):
    return [tie.name for tie in Ties(*patterns, **kinds).find(module)]


WEIGHTS_AND_BIASES = ["0.weight", "0.bias", "3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"types": [nn.Linear, nn.Conv2d], "min_ndim": 2}, ["0.weight", "3.weight"]),
        ({"min_ndim": 2}, ["0.weight", "3.weight", "4.weight"]),
        ({"min_ndim": 3}, ["0.weight"]),
        ({"types": nn.Linear}, ["3.weight", "3.bias"]),
        ({"types": ["Linear", "torch.nn.Conv2d"]}, WEIGHTS_AND_BIASES),
        ({"types": [nn.modules.conv._ConvNd, nn.Linear]}, WEIGHTS_AND_BIASES),
        ({"types": [["Linear"], nn.Conv2d], "exclude": ["*.bias"]}, ["0.weight", "3.weight"]),
    ],
)
def test_kinds(pair, kinds, expected):
    assert names(pair, "a.*", "b.*", **kinds) == expected
    assert names(pair, "a.*", **kinds) == [f"a.{name}" for name in expected]


def test_a_transpose_and_slices_have_the_dimensions_of_their_parameter():
    pair = pair_of(a=nn.Linear(3, 2), b=nn.Linear(2, 3))
    assert names(pair, "a.*", "b.*.T", min_ndim=2) == ["weight"]
    assert names(pair, "a.*[:]", min_ndim=2) == ["a.weight"]


def test_other_kinds_need_no_counterpart(pair):
    pair["a"].add_module("norm", nn.LayerNorm(3))
    pair["b"][4] = nn.Tanh()
    expected = ["0.weight", "3.weight"]
    assert names(pair, "a.*", "b.*", types=[nn.Linear, nn.Conv2d], min_ndim=2) == expected
    with pytest.raises(TieError, match=r"'a\.4\.weight' has no counterpart 'b\.4\.weight'"):
        names(pair, "a.*", "b.*", min_ndim=2)


def test_members_of_different_kinds_are_refused_all_at_once():
    pair = pair_of(a=nn.Sequential(nn.Linear(2, 2)), b=nn.Sequential(nn.Bilinear(2, 2, 2)))
    with pytest.raises(TieError) as error:
        names(pair, "a.*", "b.*", types=[nn.Linear])
    assert str(error.value).splitlines() == [
        "Ties('a.*', 'b.*', types=[Linear]) has ties of which some members are not of these kinds:",
        "  'a.0.weight' is in a Linear, but 'b.0.weight' in a Bilinear",
        "  'a.0.bias' is in a Linear, but 'b.0.bias' in a Bilinear",
        "add the classes to types=[...], or the names to exclude=[...]",
    ]
    with pytest.raises(TieError, match="in a Bilinear and has 3 dimensions, but"):
        names(pair_of(a=pair["b"], b=pair["a"]), "a.*", "b.*", min_ndim=3)


def test_buffers_are_those_of_the_kinds(pair):
    assert Ties("a.*", "b.*", types=[nn.Linear]).buffers(pair) == []
    assert Ties("a.*", "b.*", min_ndim=2).buffers(pair) == []
    share(pair, Ties("a.*", "b.*", types=[nn.BatchNorm2d]), buffers=True)
    assert pair["a"][1].running_mean is pair["b"][1].running_mean


def test_nothing_is_left(pair):
    message = (
        "Ties('a.*', 'b.*', types=[LSTM], min_ndim=2) finds nothing: types=[LSTM] and min_ndim=2 "
        "leave no parameter, as the layers that hold them are: Conv2d, BatchNorm2d, Linear, "
        "Embedding"
    )
    with (
        pytest.warns(UserWarning, match="types has LSTM"),
        pytest.raises(TieError, match=re.escape(message)),
    ):
        names(pair, "a.*", "b.*", types=[nn.LSTM], min_ndim=2)


def test_a_type_that_fits_nothing_is_told(pair):
    ties = Ties("a.*", "b.*", types=[nn.Linear, nn.Conv1d])
    remark = (
        "types has Conv1d, which holds no parameter that the patterns match: did you mean 'Conv2d'?"
    )
    with pytest.warns(UserWarning, match=re.escape(f"{ties}: {remark}")):
        ties.find(pair)
    plan = ties.plan(pair)
    assert (plan.unused, plan.remarks) == (("Conv1d",), (remark,))
    assert str(plan).endswith(remark)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"types": [nn.Linear(2, 2)]}, "write its class, types=[Linear]"),
        ({"types": ["Lineal"]}, "types must have classes of modules, got 'Lineal'"),
        ({"types": ["no.such.module.Linear"]}, "in a config types=[torch.nn.Linear]"),
        ({"types": [torch.Tensor]}, "types must have classes of modules, got <class 'torch.Tens"),
        ({"types": 3}, "types must have classes of modules, got 3"),
        ({"min_ndim": -1}, "min_ndim must be a whole number >= 0, got -1"),
        ({"min_ndim": True}, "min_ndim must be a whole number >= 0, got True"),
        ({"min_ndim": "2"}, "min_ndim must be a whole number >= 0, got '2'"),
    ],
)
def test_wrong_arguments(kinds, message):
    with pytest.raises(TieError, match=re.escape(message)):
        Ties("a.*", **kinds)


def test_repr_is_how_it_was_written():
    ties = Ties("a.*", exclude=["*.x"], types=["Linear"], min_ndim=2)
    assert repr(ties) == "Ties('a.*', exclude=['*.x'], types=[Linear], min_ndim=2)"


def test_lazy_layers_are_not_left_out_silently():
    with pytest.raises(TieError, match="'weight' has no shape yet"):
        names(nn.LazyLinear(3), "*", min_ndim=2)
