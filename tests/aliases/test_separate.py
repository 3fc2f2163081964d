"""Aliases are separated up to those that are to be kept, with transposes and buffers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_share.aliases import aliases_that_agree, aliases_to_data, keep_aliases, verify_shared
from lit_share.sharing import share
from lit_share.ties import Ties

NAMES = ["a.weight", "b.weight", "c.weight"]


def three(kind=nn.Linear):
    return nn.ModuleDict({name: kind(3, 3) for name in "abc"})


def objects(module):
    return [module.get_submodule(name).weight for name in "abc"]


def test_what_was_shared_before_is_kept():
    module = three()
    share(module, Ties("b.weight", "c.weight"))
    before = aliases_to_data(module)
    share(module, Ties("a.*", "b.*", "c.*"))
    assert keep_aliases(module, before, [*NAMES, "a.bias"])
    a, b, c = objects(module)
    assert a is not b
    assert b is c
    assert module["a"].bias is not module["b"].bias
    assert aliases_to_data(module) == before
    assert not keep_aliases(module, before, NAMES), "nothing is left to do"
    module["c"].weight = nn.Parameter(b.detach().clone())
    verify_shared(module)
    assert module["c"].weight is b, "what is kept is still verified"


def test_names_that_are_not_asked_for_stay_aliases():
    module = three()
    share(module, Ties("a.*", "b.*"))
    keep_aliases(module, [], ["a.weight"])
    assert module["a"].weight is not module["b"].weight
    assert module["a"].bias is module["b"].bias


def test_transposes_become_parameters():
    module = three()
    share(module, Ties("a.weight", "b.weight.T"))
    value = module["b"].weight.detach().clone()
    assert keep_aliases(module, [], NAMES)
    assert dict(module.named_parameters()).keys() >= {"a.weight", "b.weight"}
    assert torch.equal(module["b"].weight, value)
    share(module, Ties("a.weight", "b.weight.T"))
    assert not keep_aliases(module, aliases_to_data(module), NAMES)
    assert "b.weight" not in dict(module.named_parameters())


def test_buffers_shared_before_are_kept():
    module = nn.ModuleDict({name: nn.BatchNorm1d(3) for name in "abc"})
    share(module, Ties("b.*", "c.*"), buffers=True)
    before = aliases_to_data(module)
    share(module, Ties("a.*", "b.*", "c.*"), buffers=True)
    keep_aliases(module, before, ["a.running_mean", "a.weight"])
    a, b, c = (module[name] for name in "abc")
    assert a.running_mean is not b.running_mean
    assert b.running_mean is c.running_mean
    assert b.weight is c.weight
    assert a.running_var is b.running_var, "which nobody asked for"


@pytest.mark.parametrize("transposed", ["", ".T"])
def test_aliases_that_agree(transposed):
    module = three()
    share(module, Ties("a.weight", f"b.weight{transposed}", "c.weight"))
    entries = aliases_to_data(module)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert aliases_that_agree(module, state) == entries
    state["c.weight"] += 1
    assert all("c.weight" not in entry["names"] for entry in aliases_that_agree(module, state))
    state["b.weight"] += 2
    assert aliases_that_agree(module, state) == []
