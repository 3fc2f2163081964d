"""Cutting units out of tensors and layers, and putting them back."""

import pytest
import torch
from torch import nn

from lit_share.alignment import _cut, axis_graph
from lit_share.alignment._cut import cut_units

from ._nets import IMAGES, NETS, graph_of, made


def keep_all_but_last(graph):
    masks = {axis.index: torch.ones(axis.size, dtype=torch.bool) for axis in graph.free}
    for mask in masks.values():
        mask[-1] = False
    return masks


def state_of(module):
    """Tensors by identity, and whatever layers say about themselves."""
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
    return [(name, id(tensor)) for name, tensor in tensors], repr(module)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", NETS)
def test_undoing_puts_the_same_tensors_and_sizes_back(name):
    module, graph = made(NETS[name]), graph_of(NETS[name])
    before = state_of(module)
    undo = cut_units(module, graph, keep_all_but_last(graph))
    assert state_of(module) != before
    undo()
    assert state_of(module) == before


def test_layers_state_their_new_sizes():
    net = NETS["cnn"]
    module, graph = made(net), graph_of(net)
    cut_units(module, graph, keep_all_but_last(graph))
    assert (module[0].out_channels, module[0].in_channels, module[1].num_features) == (3, 3, 3)
    assert (module[4].in_channels, module[4].out_channels) == (3, 5)
    assert (module[8].in_features, module[8].out_features) == (20, 4)
    assert module[1].running_var.shape == (3,)


def test_groups():
    """Of 3 groups of 2 channels and 2 filters, the last group goes, and channels of the others."""
    net = NETS["grouped"]
    module, graph = made(net), graph_of(net)
    masks = keep_all_but_last(graph)
    cut_units(module, graph, {0: masks[0]})
    assert (module[1].groups, module[1].in_channels, module[1].out_channels) == (2, 4, 4)
    module = made(net)
    cut_units(module, graph, masks)
    assert (module[1].groups, module[1].in_channels, module[1].out_channels) == (2, 2, 2)
    assert module(IMAGES).shape == (2, 2, 2, 2)
    net = NETS["transposed"]
    module, graph = made(net), graph_of(net)
    cut_units(module, graph, {1: torch.tensor([True, False])})
    assert (module[4].groups, module[4].in_channels, module[4].out_channels) == (1, 3, 3)


def test_shared_parameters_stay_one_and_frozen_ones_frozen():
    net = NETS["tied"]
    module, graph = made(net), graph_of(net)
    module[1].weight.requires_grad_(False)
    cut_units(module, graph, {0: torch.tensor([True, False, True, True, False, True])})
    assert module[3].weight is module[0].weight
    assert module[0].weight.shape == (9, 4)
    assert (module[0].embedding_dim, module[3].in_features) == (4, 4)
    assert not module[1].weight.requires_grad
    assert module[0].weight.requires_grad


def test_an_error_leaves_nothing_half_cut(monkeypatch):
    net = NETS["mlp_with_batch_norm"]
    module, graph = made(net), graph_of(net)
    before = state_of(module)

    def fail(tensor, kept):
        if tensor is module[4].weight:
            assert module[0].weight.shape == (6, 5)
            raise MemoryError
        return cut(tensor, kept)

    cut = _cut._cut
    monkeypatch.setattr(_cut, "_cut", fail)
    with pytest.raises(MemoryError):
        cut_units(module, graph, keep_all_but_last(graph))
    assert state_of(module) == before


def test_a_size_that_a_subclass_gives_another_meaning_stays():
    class Halves(nn.Linear):
        def __init__(self):
            super().__init__(7, 6)
            self.out_features = 2

    module = nn.Sequential(Halves(), nn.ReLU(), nn.Linear(6, 2))
    graph = axis_graph(module, torch.zeros(1, 7))
    cut_units(module, graph, keep_all_but_last(graph))
    assert (module[0].weight.shape, module[0].out_features) == ((5, 7), 2)
