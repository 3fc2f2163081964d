"""What is free in each architecture, and that permutations of it change nothing."""

import copy

import pytest
import torch
from torch import nn

from lit_share.alignment import (
    AlignError,
    Occurrence,
    axis_graph,
    check_outputs,
    run,
    same_structure,
)

from ._nets import FLAT, IMAGES, NETS, Function, cnn, made, mlp, numbers, some_permutations

# Of torch, for LSTMs on the CPU.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_free_axes_are_those_counted_by_hand(net):
    graph = axis_graph(made(net), net.inputs)
    assert [axis.size for axis in graph.free] == net.sizes
    assert [axis.index for axis in graph.free] == list(range(len(net.sizes)))
    assert tuple(axis.index for axis in graph.free if axis.within is not None) == net.within
    assert len({axis.name for axis in graph.free}) == len(graph.free)
    assert not any("not understood" in reason for reason in graph.pinned.values())


@pytest.mark.parametrize("within", [False, True])
def test_permutations_leave_outputs_alone_and_move_weights(net, within, generator):
    module = made(net)
    graph = axis_graph(module, net.inputs)
    before, weights = run(module, net.inputs), copy.deepcopy(module.state_dict())
    objects = dict(module.named_parameters())
    permutations = some_permutations(graph, generator, within)
    graph.permute_(module, permutations)
    check_outputs(module, before, net.inputs, rtol=1e-5)
    assert all(objects[name] is parameter for name, parameter in module.named_parameters())

    moved = {o.name for axis in graph.free for o in axis.occurrences}
    for name, value in module.state_dict().items():
        assert torch.equal(value, weights[name]) == (name not in moved), name

    graph.permute_(module, graph.invert(permutations))
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_every_free_axis_moves_alone(net, generator):
    """One axis at a time: no two of them hide each other's errors."""
    module = made(net)
    graph = axis_graph(module, net.inputs)
    before = run(module, net.inputs)
    permutations = some_permutations(graph, generator)
    for index, order in permutations.items():
        graph.permute_(module, {index: order})
        check_outputs(module, before, net.inputs, rtol=1e-5)


def test_composed_permutations_do_both(net, generator):
    module = made(net)
    graph = axis_graph(module, net.inputs)
    first = some_permutations(graph, generator)
    for within in (True, False):
        then = some_permutations(graph, generator, within)
        tensors = dict(module.named_parameters())
        one_by_one = graph.permute(graph.permute(tensors, first), then)
        at_once = graph.permute(tensors, graph.compose(first, then))
        assert all(torch.equal(at_once[name], value) for name, value in one_by_one.items())


def test_factor_views_cover_each_position_once(net):
    graph = axis_graph(made(net), net.inputs)
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
    module = made(net)
    graph = axis_graph(module, net.inputs)
    other = net.make()
    assert axis_graph(other, net.inputs) == graph
    same_structure(graph, axis_graph(other, net.inputs))


def test_modes_and_weights_stay():
    module = mlp_of_two_modes = made(NETS["mlp_with_batch_norm"])
    module.train()
    module[1].eval()
    modes = [layer.training for layer in module.modules()]
    weights = copy.deepcopy(module.state_dict())
    axis_graph(mlp_of_two_modes, numbers(4, 5))
    assert [layer.training for layer in module.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_reasons_and_names():
    graph = axis_graph(cnn(), numbers(2, 3, 8, 8))
    assert [axis.name for axis in graph.free] == ["0.weight[0]", "4.weight[0]", "8.weight[0]"]
    assert graph.pinned == {
        "0.weight[1]": "an input of the model",
        "0.weight[2]": "a position of the kernel of aten.conv2d in layer '0'",
        "0.weight[3]": "a position of the kernel of aten.conv2d in layer '0'",
        "4.weight[2]": "a position of the kernel of aten.conv2d in layer '4'",
        "4.weight[3]": "a position of the kernel of aten.conv2d in layer '4'",
        "10.weight[0]": "an output of the model",
        "10.bias[0]": "an output of the model",
    }
    statistics = [Occurrence(f"1.{n}", 0) for n in ("weight", "bias")]
    statistics += [Occurrence("4.weight", 1)]
    statistics += [Occurrence(f"1.running_{n}", 0) for n in ("mean", "var")]
    assert graph.free[0].occurrences == (
        Occurrence("0.weight", 0), Occurrence("0.bias", 0), *statistics
    )  # fmt: skip
    (pixels,) = graph.factor_view("8.weight", 1)
    assert (pixels.where, pixels.sizes, pixels.axes) == (slice(0, 24), (6, 4), (1, None))


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


def test_an_alias_has_the_axes_of_its_parameter():
    graph = axis_graph(made(NETS["tied"]), NETS["tied"].inputs)
    occurrences = graph.free[0].occurrences
    assert Occurrence("0.weight", 1) in occurrences
    assert Occurrence("3.weight", 1) in occurrences
    assert graph.pinned["0.weight[0]"] == graph.pinned["3.weight[0]"]


def test_unused_parameters_are_listed_and_stay():
    module = Function(lambda self, x: self.used(x), used=mlp(), unused=nn.Linear(3, 4))
    graph = axis_graph(module, numbers(4, 5))
    assert graph.unused == ("unused.weight", "unused.bias")
    assert not any(name.startswith("unused") for name in graph.pinned)
    assert not any(o.name.startswith("unused") for axis in graph.free for o in axis.occurrences)


def test_constants_are_not_moved():
    """A table of the code is in another model of this structure, too, in the same order."""

    class Positions(nn.Module):
        def __init__(self, persistent):
            super().__init__()
            self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 2)
            self.register_buffer("table", torch.randn(6), persistent=persistent)

        def forward(self, x):
            return self.down(self.up(x) + self.table)

    graph = axis_graph(Positions(False), FLAT)
    assert graph.free == []
    reason = "a constant of the model: the buffer 'table' is not saved"
    assert graph.pinned["up.weight[0]"] == reason
    assert [axis.size for axis in axis_graph(Positions(True), FLAT).free] == [6]
    held = axis_graph(Positions(True), FLAT, pinned=["table"])
    assert held.free == []
    assert held.pinned["up.weight[0]"] == "'table' stays in order as asked for"
    with pytest.raises(AlignError, match=r"pinned: no parameter or buffer 'tabel'.*'table'"):
        axis_graph(Positions(True), FLAT, pinned=["tabel"])


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


def test_the_check_sees_a_wrong_permutation():
    """Units of one layer that move without those of the next."""
    module = made(NETS["resnet"])
    graph, before = axis_graph(module, IMAGES), run(module, IMAGES)
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight.roll(1, 0))
    assert graph.free
    with pytest.raises(AlignError, match="output of Sequential differs by"):
        check_outputs(module, before, IMAGES)
