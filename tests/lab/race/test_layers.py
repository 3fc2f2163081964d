"""The layers that a race unties, and the patterns that do it."""

from __future__ import annotations

import torch
from torch import nn

from lit_share.lab.race import layers_of
from lit_share.ties import Ties


class Attending(nn.Module):
    """Has a parameter of its own beside submodules with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)


def test_each_pattern_excludes_one_layer() -> None:
    model = nn.ModuleDict({name: Attending() for name in "ab"})
    patterns = ("a.*", "b.*")
    layers = layers_of(Ties(*patterns).find(model))
    assert layers == {
        "a": ["a.scale"],
        "a.norm": ["a.norm.*"],
        "a.attention.out_proj": ["a.attention.out_proj.*"],
        "a.attention": ["a.attention.in_proj_bias", "a.attention.in_proj_weight"],
    }
    for name, excluded in layers.items():
        left = layers_of(Ties(*patterns, exclude=excluded).find(model))
        assert {*left} == {*layers} - {name}


def test_parameters_of_the_outermost_module_are_layers() -> None:
    model = nn.ParameterDict({"a": nn.Parameter(torch.ones(3)), "b": nn.Parameter(torch.ones(3))})
    assert layers_of(Ties("a", "b").find(model)) == {"a": ["a"]}


def test_positions_of_one_parameter_are_one_layer() -> None:
    model = nn.ModuleDict({"first": nn.Linear(2, 3), "second": nn.Linear(3, 4)})
    layers = layers_of(Ties("*.weight[:]").find(model))
    assert layers == {"first": ["first.*"], "second": ["second.*"]}
