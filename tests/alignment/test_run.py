"""Outputs by name, and what a difference between them is."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import lit_share as ls
from lit_share.alignment import AlignError, axis_graph, check_outputs, run

from ._nets import FLAT, Function


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return {"a": self.a(x), "b": [self.b(x), 3]}


def test_outputs_have_names():
    module = Several()
    assert list(run(module, FLAT)) == ["output['a']", "output['b'][0]"]
    assert not any(value.requires_grad for value in run(module, FLAT).values())


def test_outputs_are_those_of_evaluation():
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    before = run(module, FLAT)
    assert torch.equal(before["output"], run(module, FLAT)["output"])
    assert module[1].num_batches_tracked == 0
    assert module.training


def test_the_worst_output_is_named():
    module = Several()
    before = run(module, FLAT)
    assert check_outputs(module, before, FLAT) == 0
    with torch.no_grad():
        module.a.bias += 1e-3
        module.b.bias += 1
    with pytest.raises(AlignError, match=r"output\['b'\]\[0\] of Several differs by .* rtol=0\.01"):
        check_outputs(module, before, FLAT, rtol=0.01)


def test_a_difference_is_relative_to_the_largest_number():
    module = nn.Identity()
    before = {"output": torch.tensor([100.0, 1.0])}
    assert check_outputs(module, before, torch.tensor([100.0, 1.5]), rtol=0.01) == pytest.approx(
        0.005
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_must_stay(value):
    module = nn.Identity()
    odd = torch.tensor([value, 1.0])
    assert check_outputs(module, {"output": odd}, odd.clone()) == 0
    assert check_outputs(module, {"output": odd}, torch.tensor([value, 1.00001])) < 1e-4
    with pytest.raises(AlignError, match="output of Identity differs by"):
        check_outputs(module, {"output": odd}, torch.ones(2))
    with pytest.raises(AlignError, match="output of Identity differs by"):
        check_outputs(module, {"output": torch.ones(2)}, odd)


def test_other_outputs_are_refused():
    module = nn.Identity()
    with pytest.raises(AlignError, match="differs by inf"):
        check_outputs(module, {"output": torch.ones(3)}, torch.ones(2))
    with pytest.raises(AlignError, match=r"outputs were \['y'\], and are \['output'\]"):
        check_outputs(module, {"y": torch.ones(3)}, torch.ones(3))
    with pytest.raises(AlignError, match="Function returns no tensor"):
        check_outputs(Function(lambda self, x: 3), {}, FLAT)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(3))

    def forward(self, x):
        x += 1
        self.calls += 1
        return self.linear(x) * self.calls


def test_inputs_and_buffers_stay():
    module, inputs = Counts(), torch.ones(2, 3)
    before = run(module, inputs)
    assert check_outputs(module, before, inputs) == 0.0
    assert not axis_graph(module, inputs).free
    assert torch.equal(inputs, torch.ones(2, 3))
    ls.compact(module)  # calls it to trace it
    assert not module.calls.any()


@dataclass
class Found:
    logits: torch.Tensor
    other: object = None


class ReturnsFound(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x):
        return [Found(self.net(x), Found(x))]


def test_outputs_in_dataclasses():
    module, inputs = ReturnsFound(), torch.ones(2, 3)
    names = ["output[0]['logits']", "output[0]['other']['logits']"]
    assert list(run(module, inputs)) == names
    assert [axis.size for axis in axis_graph(module, inputs).free] == [4]
    assert isinstance(module(inputs)[0], Found)
