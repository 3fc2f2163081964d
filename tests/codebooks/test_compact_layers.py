"""The same outputs of fewer numbers."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from lit_share.codebooks import CodebookLinear, compact_layers, tie_rows
from lit_share.sharing import share
from lit_share.ties import Ties

from ._nets import cnn, data, mlp, seeded


def numbers(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("make", [mlp, cnn])
def test_outputs_stay(make):
    net = make()
    small = compact_layers(copy.deepcopy(net))
    torch.testing.assert_close(small(data(net)), net(data(net)), rtol=1e-10, atol=1e-10)
    assert numbers(small) < 0.9 * numbers(net)
    again = compact_layers(copy.deepcopy(small))
    assert numbers(again) == numbers(small)
    torch.testing.assert_close(again(data(net)), net(data(net)), rtol=1e-10, atol=1e-10)


def test_units_that_nothing_reads_go():
    small = compact_layers(mlp())
    assert isinstance(small[0], CodebookLinear)
    assert (small[0].weight.shape, small[0].bias.shape) == ((20, 12), (20,))
    assert (small[2].num_features, small[2].running_mean.shape, small[2].weight.shape) == (
        20,
        (20,),
        (20,),
    )
    assert (small[3].in_features, small[3].weight.shape) == (20, (10, 20))


def test_channels_that_nothing_reads_go():
    small = compact_layers(cnn())
    assert small[0].weight.shape == (13, 3, 3, 3)
    assert small[4].weight.shape == (6, 12, 3, 3)
    assert small[8].weight.shape == (10, 24)


def test_what_is_unread_goes_through_several_layers():
    """Without its unread units, a layer may not read some units of the one before."""
    net = seeded(
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
        )
    ).double()
    with torch.no_grad():
        net[4].weight[:, 4:] = 0.0
        net[2].weight[:4, 6:] = 0.0  # read by units that nothing reads
    x = torch.randn(3, 5, dtype=torch.float64)
    expected = net(x)
    small = compact_layers(net)
    assert [m.weight.shape for m in small if isinstance(m, nn.Linear)] == [(6, 5), (4, 6), (2, 4)]
    torch.testing.assert_close(small(x), expected)


class Branches(nn.Module):
    """The hidden units are read twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.two(hidden) + self.three(hidden)


class Mixes(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.two(torch.softmax(self.one(x), dim=-1))


class Twice(Mixes):
    def forward(self, x):
        return self.two(torch.relu(self.one(torch.relu(self.one(x).narrow(-1, 0, 4)))))


class Untraceable(Mixes):
    def forward(self, x):
        return self.two(torch.relu(self.one(x))) if x.sum() > 0 else self.two(self.one(x))


@pytest.mark.parametrize("kind", [Branches, Mixes, Twice, Untraceable])
def test_units_that_something_else_may_read_stay(kind):
    net = seeded(kind).double()
    with torch.no_grad():
        net.two.weight[:, 3:] = 0.0
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = net(x)
    small = compact_layers(net)
    assert small.one.weight.shape[0] == 6
    torch.testing.assert_close(small(x), expected)


def test_what_cannot_be_traced_is_logged(caplog):
    with caplog.at_level(logging.INFO, "lit_share"):
        compact_layers(Untraceable())
    assert "torch.fx cannot trace Untraceable: output units stay" in caplog.text


def test_a_forward_of_its_own():
    class Net(Mixes):
        def forward(self, x):
            return self.two(torch.relu(self.one(x)))

    net = seeded(Net).double()
    with torch.no_grad():
        net.two.weight[:, 3:] = 0.0
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = net(x)
    assert compact_layers(net).one.weight.shape == (3, 4)
    torch.testing.assert_close(net(x), expected)


def test_shared_layers_stay():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    share(net, Ties("0.weight", "2.weight"))
    with torch.no_grad():
        net[0].weight[:, 2:] = 0.0
    before = net(torch.ones(1, 4))
    compact_layers(net)
    assert net[0].weight is net[2].weight
    assert torch.equal(net(torch.ones(1, 4)), before)


def test_codebook_layers_get_smaller():
    net = mlp()
    tie_rows(net, Ties("0.weight"), 0.95)
    with torch.no_grad():
        net[0].weight[:, 0] = net[0].weight[:, 1]
        net[0].weight[:, 5] = 0.0
    expected = net(data(mlp()))
    assert compact_layers(net)[0].weight.shape == (20, 10)
    torch.testing.assert_close(net(data(mlp())), expected)


def test_a_single_layer_and_one_of_zeros():
    layer = nn.Linear(30, 3)
    nn.init.zeros_(layer.weight)
    small = compact_layers(layer)
    assert numbers(small) == 3 + 3
    assert torch.equal(small(torch.ones(2, 30)), layer(torch.ones(2, 30)))


class Ties2(Mixes):
    def forward(self, x):
        return self.two(torch.relu(self.one(x))) + torch.nn.functional.linear(
            x, self.one.weight
        ).sum(1, keepdim=True)


class OtherInEvaluation(Mixes):
    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.two(hidden) if self.training else self.two(hidden.flip(-1))


@pytest.mark.parametrize("kind", [Ties2, OtherInEvaluation])
@pytest.mark.parametrize("training", [True, False])
def test_units_that_are_read_in_another_way_stay(kind, training):
    net = seeded(kind).double()
    with torch.no_grad():
        net.two.weight[:, 3:] = 0.0
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = [net.train(mode)(x) for mode in (True, False)]
    small = compact_layers(net.train(training))
    assert small.training == training
    for mode, before in zip((True, False), expected, strict=True):
        torch.testing.assert_close(small.train(mode)(x), before)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 5)), (2, 3, 10, 10)),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm2d(8), nn.Linear(8, 5)), (2, 8, 4, 8)),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Conv2d(8, 5, 3)), (2, 8, 6, 8)),
        (
            lambda: nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3)),
            (2, 8, 9, 9),
        ),
        (lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)), (2, 5, 8)),
    ],
)
def test_channels_of_another_dimension_stay(net, shape):
    net = seeded(net).double().eval()
    last = net[-1].linear2 if isinstance(net[-1], nn.TransformerEncoderLayer) else net[-1]
    with torch.no_grad():
        last.weight[:, 4:] = 0.0
        expected = net(torch.ones(shape, dtype=torch.float64))
        torch.testing.assert_close(
            compact_layers(net)(torch.ones(shape, dtype=torch.float64)), expected
        )


def test_layers_with_hooks_stay():
    net = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))).double()
    torch.nn.utils.prune.ln_structured(net[2], "weight", 0.5, n=2, dim=1)
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = net(x)
    torch.testing.assert_close(compact_layers(net)(x), expected)


def test_nothing_to_do():
    net = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    layers = list(net)
    assert compact_layers(net) is net
    assert list(net) == layers
