"""Equal starting values for the members of ties."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_share.ties import TieError, Ties, same_start

from .._modules import mlp, module_of, pair_of


def test_layers_of_one_model_start_like_the_first_and_stay_separate():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    before = [p.clone() for p in net.parameters()]
    ties = Ties("0.*", "1.*", "2.*")
    assert ties.plan(net).unaligned == ("weight",)
    same_start(net, ties)
    for layer in net[:3]:
        assert torch.equal(layer.weight, before[0])
        assert torch.equal(layer.bias, before[1])
        assert layer.weight.requires_grad
    assert torch.equal(net[3].weight, before[6])
    assert len(set(net.parameters())) == 8
    assert ties.plan(net).unaligned == ()


def test_transposes_slices_and_several_ties():
    module = module_of({"enc": (3, 2), "dec": (2, 3), "local": (4, 2), "a.w": (2,), "b.w": (2,)})
    same_start(module, [Ties("enc", "dec.T"), Ties("local[:]"), Ties("a.*", "b.*")])
    assert torch.equal(module.dec, module.enc.T)
    assert bool((module.local == module.local[0]).all())
    assert torch.equal(module.a.w, module.b.w)


def test_ties_that_were_found_and_other_dtypes():
    pair = pair_of(a=mlp(0), b=mlp(1).double())
    same_start(pair, Ties("a.*", "b.*").find(pair))
    assert torch.equal(pair["a"][0].weight.double(), pair["b"][0].weight)
    assert pair["b"][0].weight.dtype == torch.float64


@pytest.mark.parametrize("pattern", ["a.*", "a.0.weight[...]"])
def test_a_single_member_is_refused(pattern):
    with pytest.raises(TieError, match=r"'a\.0\.weight.*' is the only member of its tie"):
        same_start(pair_of(a=mlp(0)), Ties(pattern))


def test_an_error_leaves_the_module_as_it_is():
    pair = pair_of(a=mlp(0), b=mlp(1))
    pair["b"][2] = nn.Linear(3, 2, device="meta")
    before = pair["b"][0].weight.clone()
    with pytest.raises(TieError, match=r"'b\.2\.weight' is on the meta device"):
        same_start(pair, Ties("a.*", "b.*"))
    assert torch.equal(pair["b"][0].weight, before)
