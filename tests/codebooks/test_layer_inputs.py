"""Rows are tied by the inputs that their layers get in data."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_share.codebooks import CodebookConv2d, CodebookLinear, tie_rows
from lit_share.compact_files import load_compact, save_compact
from lit_share.ties import TieError, Ties


def inputs(*order, seed=0):
    """Columns of independent numbers, some of them several times."""
    x = torch.randn(32, max(order) + 1, generator=torch.Generator().manual_seed(seed))
    return x[:, list(order)]


@pytest.mark.parametrize(
    "batches",
    [
        lambda x: [x],
        lambda x: list(x.split(8)),
        lambda x: DataLoader(x, batch_size=5),
        lambda x: DataLoader(TensorDataset(x), batch_size=5),
        lambda x: (part for part in x.split(8)),
        lambda x: [{"input": x}],
    ],
    ids=["one", "list", "loader", "tuples", "generator", "keywords"],
)
def test_inputs_are_batches_of_what_the_forward_takes(batches):
    net = nn.Sequential(nn.Linear(4, 3))
    x = inputs(0, 1, 0, 1)
    before, (report,) = net(x), tie_rows(net, Ties("0.weight"), 1.0, by="data", inputs=batches(x))
    assert (report.rows, report.clusters) == (4, 2)
    assert net[0].assignment.tolist() == [0, 1, 0, 1]
    # Equal inputs get the same outputs from the mean of their rows.
    torch.testing.assert_close(net(x), before)


def test_hidden_layers_are_tied_by_their_own_inputs():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = net[0].weight[0], net[0].bias[0]
        net[0].weight[3], net[0].bias[3] = 0.0, -1.0  # a unit that is always zero
    tie_rows(net, Ties("*.weight"), 1.0, by="data", inputs=[inputs(0, 1, 2)])
    assert isinstance(net[0], nn.Linear)
    assert not isinstance(net[0], CodebookLinear)
    assert net[2].assignment.tolist() == [0, 1, 0, -1]


def test_channels_of_convolutions():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16, 2))
    x = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))[:, [0, 1, 0]]
    before = net(x)
    tie_rows(net, Ties("0.weight"), 1.0, by="data", inputs=[x])
    assert isinstance(net[0], CodebookConv2d)
    assert net[0].assignment.tolist() == [0, 1, 0]
    torch.testing.assert_close(net(x), before)


def test_a_layer_that_is_called_twice_gets_all_samples():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x) + self.layer(x.flip(1) * torch.tensor([1.0, 0.0]))

    net, same = Twice(), inputs(0, 0)
    (report,) = tie_rows(net, Ties("layer.weight"), 1.0, by="data", inputs=[same])
    assert report.clusters == 2


def test_modes_buffers_and_gradients_are_left_alone():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    state = {name: value.clone() for name, value in net[0].state_dict().items()}
    tie_rows(net, Ties("2.weight"), 1.0, by="data", inputs=[inputs(0, 1, 0, 1)])
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net[0].state_dict().items())
    assert net[2].weight.grad is None
    assert net[2].weight.requires_grad


def test_compact_files_have_the_clusters(tmp_path):
    def make():
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))

    net, x = make(), inputs(0, 1, 0, 1, 2, 0)
    tie_rows(net, Ties("0.weight"), 1.0, by="data", inputs=[x])
    save_compact(net, tmp_path / "net")
    loaded = make()
    load_compact(tmp_path / "net", loaded)
    assert loaded[0].assignment.tolist() == [0, 1, 0, 1, 2, 0]
    assert torch.equal(loaded(x), net(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "data"}, r'by="data" needs inputs='),
        ({"by": "inputs"}, "unknown by 'inputs': write one of 'weights', 'data'"),
        ({"inputs": [torch.ones(2, 3)]}, r'inputs has no effect with by="weights"'),
        ({"clusters": 2}, r'clusters has no effect with by="weights"'),
        ({"by": "data", "inputs": torch.ones(2, 3)}, "inputs is one Tensor: give a list"),
        ({"by": "data", "inputs": []}, "inputs has no batches"),
        (
            {"by": "data", "inputs": [(torch.ones(2, 3), torch.ones(2))]},
            r"cannot be called with a batch of inputs .* such as \(x for x, _ in loader\)",
        ),
        ({"by": "data", "inputs": [3]}, "inputs must be a tensor, a tuple"),
        ({"by": "data", "inputs": [torch.full((2, 3), torch.nan)]}, "'0.weight' gets inputs that"),
        ({"by": "data", "inputs": [torch.ones(0, 3)]}, "was not called with any sample"),
        ({"by": "data", "inputs": [torch.ones(2, 3)], "similarity": 0}, "0 < similarity <= 1"),
        ({"by": "data", "inputs": [torch.ones(2, 3)], "clusters": 0}, "clusters must be"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(options, message):
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises((ValueError, TypeError), match=message):
        tie_rows(net, Ties("0.weight"), **options)
    assert type(net[0]) is nn.Linear


def test_a_layer_that_is_not_reached_is_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    net = Unused()
    with pytest.raises(TieError, match=r"the layer of 'unused\.weight' was not called"):
        tie_rows(net, Ties("*used.weight"), by="data", inputs=[torch.ones(2, 3)])
    assert type(net.used) is nn.Linear


def test_hidden_layers_are_left_alone_on_request():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    ties, x = Ties("*.weight"), inputs(0, 1, 0, 1)
    first, second = tie_rows(net, ties, by="data", inputs=[x], clusters=2, hidden=False)
    assert (first.replaced, second.replaced) == (True, False)
    assert second.clusters == second.rows == 4
