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
)

from ._nets import (
    FLAT,
    IMAGES,
    NETS,
    Function,
    cnn,
    graph_of,
    made,
    mlp,
    numbers,
    some_permutations,
)

# Of torch, for LSTMs on the CPU.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def test_free_axes_are_those_counted_by_hand(net):
    graph = graph_of(net)
    assert [axis.size for axis in graph.free] == net.sizes
    assert [axis.index for axis in graph.free] == list(range(len(net.sizes)))
    assert tuple(axis.index for axis in graph.free if axis.within is not None) == net.within
    assert len({axis.name for axis in graph.free}) == len(graph.free)
    assert not any("not understood" in reason for reason in graph.pinned.values())


@pytest.mark.parametrize("within", [False, True])
def test_permutations_leave_outputs_alone_and_move_weights(net, within, generator):
    module, graph, inputs = made(net), graph_of(net), net.inputs
    before, weights = run(module, inputs), copy.deepcopy(module.state_dict())
    objects = dict(module.named_parameters())
    permutations = some_permutations(graph, generator, within)
    graph.permute_(module, permutations)
    check_outputs(module, before, inputs, rtol=1e-5)
    assert all(objects[name] is parameter for name, parameter in module.named_parameters())

    moved = {o.name for axis in graph.free for o in axis.occurrences}
    for name, value in module.state_dict().items():
        assert torch.equal(value, weights[name]) == (name not in moved), name

    graph.permute_(module, graph.invert(permutations))
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_every_free_axis_moves_alone(net, generator):
    """One axis at a time: no two of them hide each other's errors."""
    module, graph, inputs = made(net), graph_of(net), net.inputs
    before = run(module, inputs)
    permutations = some_permutations(graph, generator)
    for index, order in permutations.items():
        graph.permute_(module, {index: order})
        check_outputs(module, before, inputs, rtol=1e-5)


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


def test_the_check_sees_a_wrong_permutation():
    """Units of one layer that move without those of the next."""
    module = made(NETS["resnet"])
    graph, before = axis_graph(module, IMAGES), run(module, IMAGES)
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight.roll(1, 0))
    assert graph.free
    with pytest.raises(AlignError, match="output of Sequential differs by"):
        check_outputs(module, before, IMAGES)


def test_operations_outside_of_torchs_library_stay():
    """A vmap, which enters and leaves its batch by calls that are no operations."""
    module = Function(
        lambda m, x: m.b(torch.vmap(m.a)(x).relu()), a=nn.Linear(4, 3), b=nn.Linear(3, 2)
    )
    graph = axis_graph(module, torch.zeros(5, 4))
    assert not graph.free
    assert "_remove_batch_dim" in graph.pinned["a.weight[0]"]
