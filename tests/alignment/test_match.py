"""Planted permutations are found again, by weights and by activations."""

import pytest
import torch
from torch import nn

from lit_share.alignment import AlignError, _match, axis_graph, match_activations, match_weights

from ._nets import NETS, made, mlp, numbers, some_permutations

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def planted(net, within):
    """Return a graph, its module's weights, permuted weights, and the permutations that undo it."""
    module = made(net)
    graph = axis_graph(module, net.inputs)
    weights = {name: p.detach() for name, p in module.named_parameters()}
    permutations = some_permutations(graph, torch.Generator().manual_seed(3), within)
    return graph, weights, graph.permute(weights, permutations), graph.invert(permutations)


def assert_same_orders(found, expected):
    for axis, order in expected.items():
        assert torch.equal(found[axis], order.expand_as(found[axis]))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_planted_permutations_are_found(net, within):
    graph, weights, moved, expected = planted(NETS[net], within)
    found = match_weights(graph, weights, moved)
    assert_same_orders(found, expected)
    for name, back in graph.permute(moved, found).items():
        assert torch.equal(back, weights[name])


@pytest.mark.parametrize("net", ["mlp", "cnn", "attention"])
def test_blocks_change_no_result(net, monkeypatch):
    graph, weights, moved, expected = planted(NETS[net], True)
    before = _match.similarities(graph, weights, moved)
    monkeypatch.setattr(_match, "_NUMBERS", 3)
    monkeypatch.setattr(_match, "_ROWS", 2)
    assert_same_orders(match_weights(graph, weights, moved), expected)
    assert _match.similarities(graph, weights, moved) == pytest.approx(before, rel=1e-12)
    same = _match.similarities(graph, weights, weights)
    assert same == pytest.approx(dict.fromkeys(same, 1.0))


# Units are told apart by many samples.
SAMPLES = {
    "mlp_with_batch_norm": numbers(64, 5),
    "cnn": numbers(32, 3, 8, 8),
    "lstm": torch.arange(128).reshape(32, 4) * 7 % 9,
    "lstm_of_2_layers": torch.arange(128).reshape(32, 4) * 7 % 9,
    "attention": numbers(32, 4, 3),
}


@pytest.mark.parametrize("net", SAMPLES)
def test_planted_permutations_are_found_by_activations(net):
    inputs, net = SAMPLES[net], NETS[net]
    ours, theirs = made(net), made(net)
    theirs.load_state_dict(ours.state_dict())
    graph = axis_graph(ours, inputs)
    permutations = some_permutations(graph, torch.Generator().manual_seed(3), True)
    graph.permute_(theirs, permutations)
    found = match_activations(graph, (ours, inputs), (theirs, inputs))
    graph.permute_(theirs, found)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


def test_matching_is_the_best_of_all_orders_of_a_layer():
    """Against all permutations of 5 units, on weights that have nothing in common."""
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    graph = axis_graph(module, torch.zeros(1, 3))
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (
        {n: torch.randn(p.shape, generator=generator) for n, p in module.named_parameters()}
        for _ in range(2)
    )

    def distance(order):
        moved = graph.permute(theirs, {0: torch.as_tensor(order)})
        return sum(float((moved[name] - ours[name]).square().sum()) for name in ours)

    orders = torch.cartesian_prod(*[torch.arange(5)] * 5)
    orders = [order for order in orders if len(order.unique()) == 5]
    best = min(map(distance, orders))
    assert distance(match_weights(graph, ours, theirs)[0]) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_matching_is_deterministic_and_never_increases_the_distance(seed):
    graph = axis_graph(mlp(), torch.zeros(4, 5))
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (
        {n: torch.randn(p.shape, generator=generator) for n, p in mlp().named_parameters()}
        for _ in range(2)
    )

    def distance(weights):
        return sum(float((weights[name] - ours[name]).square().sum()) for name in ours)

    found = match_weights(graph, ours, theirs, seed=seed)
    again = match_weights(graph, ours, theirs, seed=seed)
    assert all(torch.equal(found[axis], again[axis]) for axis in found)
    assert distance(graph.permute(theirs, found)) < distance(theirs)
    # A local optimum: no axis alone comes nearer.
    nearest = graph.permute(theirs, found)
    for axis in graph.free:
        for _ in range(20):
            order = torch.randperm(axis.size, generator=generator)
            assert distance(graph.permute(nearest, {axis.index: order})) >= distance(nearest)


def test_activations_of_other_inputs_are_refused():
    module = mlp()
    graph = axis_graph(module, torch.zeros(4, 5))
    with pytest.raises(AlignError, match='inputs of one shape, or match by="weights"'):
        match_activations(graph, (module, torch.zeros(4, 5)), (module, torch.zeros(3, 5)))
