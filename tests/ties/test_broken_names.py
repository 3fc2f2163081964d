"""Names in narrow tables are broken after dots only."""

from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn

from lit_share.ties import Ties
from lit_share.ties._broken_names import break_name


def printed(width: int) -> str:
    layers = nn.ModuleDict({"attention_of_tokens": nn.Linear(2, 2), "projection": nn.Linear(2, 2)})
    module = nn.ModuleDict({"student": nn.ModuleDict({"encoder": layers})})
    module["teacher"] = nn.ModuleDict({"encoder": nn.ModuleDict(dict(layers.items()))})
    torch.manual_seed(0)
    file = StringIO()
    Console(file=file, width=width).print(Ties("student.*", "teacher.*").plan(module))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 90, 200])
def test_no_name_is_broken_within_a_word(width: int) -> None:
    words = printed(width).replace(".", " ").split()
    for part in ("student", "teacher", "attention_of_tokens", "projection", "weight"):
        assert part in words
    # A part of these would be a word that no name has.
    known = {"student", "teacher", "encoder", "attention_of_tokens", "projection"}
    names = {word for word in words if word.isidentifier() and "_" in word}
    assert names <= known


@pytest.mark.parametrize("name", ["a", "a.b", "encoder.layers.0.weight[...]", ""])
@pytest.mark.parametrize("width", [1, 5, 100])
def test_nothing_of_a_name_is_lost(name: str, width: int) -> None:
    assert break_name(name, width).replace("\n  ", "") == name
