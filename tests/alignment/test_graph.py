"""The graph: its views of dimensions, its permutations, and what makes two graphs differ."""

import copy

import pytest
import torch
from torch import nn

from lit_share.alignment import (
    AlignError,
    Occurrence,
    axis_graph,
    same_structure,
)

from ._nets import FLAT, NETS, graph_of, made, mlp, numbers, some_permutations

# Of torch, for LSTMs on the CPU.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def test_composed_permutations_do_both(net, generator):
    module, graph = made(net), graph_of(net)
    first = some_permutations(graph, generator)
    for within in (True, False):
        then = some_permutations(graph, generator, within)
        tensors = dict(module.named_parameters())
        one_by_one = graph.permute(graph.permute(tensors, first), then)
        at_once = graph.permute(tensors, graph.compose(first, then))
        assert all(torch.equal(at_once[name], value) for name, value in one_by_one.items())


def test_factor_views_cover_each_position_once(net):
    graph = graph_of(net)
    for name, shape in graph.shapes.items():
        for dim, size in enumerate(shape):
            units = torch.arange(size)
            terms = graph.factor_view(name, dim)
            found = [units[term.where].unflatten(0, term.sizes) for term in terms]
            assert torch.cat([term.flatten() for term in found]).sort().values.equal(units)
            for term in terms:
                for factor, axis in zip(term.sizes, term.axes, strict=True):
                    assert axis is None or graph.free[axis].size == factor
                    if axis is not None:
                        assert Occurrence(name, dim) in graph.free[axis].occurrences


def test_graphs_of_one_structure_are_equal(net):
    graph, other = graph_of(net), axis_graph(net.make(), net.inputs)
    assert other == graph
    same_structure(graph, other)


def test_names_of_axes_within_a_dimension():
    graph = axis_graph(made(NETS["attention_by_head"]), NETS["attention_by_head"].inputs)
    name = "1.branch.0.qkv.weight[0]"
    assert [axis.name for axis in graph.free[1:]] == [
        f"{name}[0:24:12]", f"{name}[0:4]", f"{name}[8:12]"
    ]  # fmt: skip
    q, k, v = graph.factor_view("1.branch.0.qkv.weight", 0)
    assert q.axes == k.axes == (1, 2)
    assert v.axes == (1, 3)
    assert v.where.tolist() == [8, 9, 10, 11, 20, 21, 22, 23]


@pytest.mark.parametrize(
    ("other", "inputs", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), FLAT,
         r"'0.weight' has the shape \(5, 3\) in one module and \(4, 3\) in the other"),
        (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), FLAT,
         "computes relu in layer '1' where the other computes tanh in layer '1'"),
        (lambda: nn.Sequential(nn.Linear(3, 5), nn.Identity(), nn.Linear(5, 2)), FLAT,
         "computes 3 operations and the other 2"),
    ],
)  # fmt: skip
def test_another_structure_is_named(other, inputs, message):
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    graph, of_other = axis_graph(module, inputs), axis_graph(other(), inputs)
    assert graph != of_other
    with pytest.raises(AlignError, match=message):
        same_structure(graph, of_other)


def test_pinned_units_make_another_structure():
    graph = axis_graph(mlp(), numbers(4, 5))
    with pytest.raises(AlignError, match=r"'0.weight' are free in one module"):
        same_structure(graph, axis_graph(mlp(), numbers(4, 5), pinned=["0.bias"]))


@pytest.mark.parametrize(
    ("permutations", "message"),
    [
        ({7: torch.tensor([0])}, "no free axis 7: there are 2"),
        ({0: torch.arange(5)}, r"0.weight\[0\] must have the shape \(7,\), got \(5,\)"),
        ({0: torch.zeros(7, dtype=torch.long)}, r"0.weight\[0\] must have each of 0 … 6 once"),
        ({0: torch.arange(14).view(2, 7)}, r"must have the shape \(7,\), got \(2, 7\)"),
    ],
)
def test_permutations_that_do_not_fit_are_refused(permutations, message):
    module = mlp()
    weights = copy.deepcopy(module.state_dict())
    graph = axis_graph(module, numbers(4, 5))
    with pytest.raises(AlignError, match=message):
        graph.permute_(module, permutations)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_tensors_that_do_not_fit_are_refused():
    graph = axis_graph(mlp(), numbers(4, 5))
    with pytest.raises(AlignError, match=r"no parameter or buffer '0.wait'.*'0.weight'"):
        graph.permute({"0.wait": torch.ones(7)}, {})
    with pytest.raises(AlignError, match=r"'0.bias' must have the shape \(7,\), got \(6,\)"):
        graph.permute({"0.bias": torch.ones(6)}, {})
    with pytest.raises(AlignError, match=r"'0.bias' of shape \(7,\) has no dimension 1"):
        graph.factor_view("0.bias", 1)


def test_permuted_tensors_have_memory_of_their_own():
    module = mlp()
    graph = axis_graph(module, numbers(4, 5))
    tensors = {"4.bias": module[4].bias.detach()}
    moved = graph.permute(tensors, {})["4.bias"]
    assert torch.equal(moved, tensors["4.bias"])
    assert moved.data_ptr() != tensors["4.bias"].data_ptr()
