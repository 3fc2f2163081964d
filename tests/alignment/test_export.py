"""Modules that cannot be traced: the error names the layer, the line and what to do."""

import pytest
import torch
from torch import nn

from lit_share.alignment import AlignError, axis_graph

from ._nets import FLAT, Function, mlp


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Selecting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x[x.sum(1) > 0]).sum()


class Foreign(nn.Module):
    """Leaves torch on the way."""

    def forward(self, x):
        return torch.from_numpy(x.detach().numpy() * 2)


def test_branches_on_values_are_named():
    module = nn.Sequential(nn.Linear(3, 4), Branching(), nn.Linear(4, 2))
    message = (
        r"the forward of '1' depends on the value of a tensor at test_export\.py:\d+, "
        r"`if x\.sum\(\) > 0:`: compute with torch\.where instead of branching"
    )
    with pytest.raises(AlignError, match=message):
        axis_graph(module, FLAT)
    assert module.training


def test_shapes_that_depend_on_values_are_refused():
    with pytest.raises(AlignError, match="depends on"):
        axis_graph(Selecting(), FLAT)


def test_code_outside_of_torch_is_named():
    module = nn.Sequential(nn.Linear(3, 4), Foreign())
    with pytest.raises(AlignError, match=r"the forward of '1' .*at test_export\.py:\d+, `return"):
        axis_graph(module, FLAT)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            torch.zeros(4, 7),
            "Sequential cannot be called with these inputs: .*cannot be multiplied",
        ),
        ((), "Sequential cannot be called with these inputs: .*missing 1 required"),
        ({"y": FLAT}, "Sequential cannot be called with these inputs: .*unexpected keyword"),
        (3.0, "inputs must be a tensor, a tuple of arguments or a dict of keyword arguments"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs, message):
    with pytest.raises(AlignError, match=message):
        axis_graph(mlp(), inputs)


def test_arguments_are_given_by_position_or_by_name():
    module = Function(lambda self, x, y: self.out(self.a(x) + self.b(y)), a=nn.Linear(3, 4),
                      b=nn.Linear(3, 4), out=nn.Linear(4, 2))  # fmt: skip

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = module

        def forward(self, x, y=None):
            return {"sum": self.net(x, y)}

    by_position = axis_graph(Named(), (FLAT, FLAT))
    assert [axis.size for axis in by_position.free] == [4]
    assert axis_graph(Named(), {"x": FLAT, "y": FLAT}) == by_position


def test_recurrent_layers_still_work_after_they_were_traced():
    module = nn.LSTM(3, 4)
    weights = [id(weight) for weight in module.parameters()]
    axis_graph(module, FLAT)
    assert [id(weight) for weight in module._flat_weights] == weights
    assert not isinstance(module(FLAT)[0], torch._subclasses.FakeTensor)
