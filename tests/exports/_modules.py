"""Modules in which parameters are shared, or that were made compact, by kind of layer."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.utils import parametrizations

import lit_share as ls

TIES = ls.Ties("a.*", "b.*")
ASSIGNMENT = torch.tensor([0, 1, 0, -1, 2, 1, 0, 2])


class Pair(nn.Module):
    """The sum of two layers of one kind."""

    def __init__(self, make):
        super().__init__()
        self.a, self.b = make(), make()

    def forward(self, x):
        first, second = self.a(x), self.b(x)
        if isinstance(first, tuple):  # recurrent layers
            first, second = first[0], second[0]
        return first + second


class Attends(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 5), nn.Linear(5, 8)

    def forward(self, x):
        return self.b(self.a(x).tanh())


class Residual(nn.Module):
    """Its last 10 units are read by nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 8)
        with torch.no_grad():
            self.b.weight[:, 6:] = 0.0
            self.c.weight[:, 6:] = 0.0

    def forward(self, x):
        x = self.a(x)
        return self.c(x + self.b(x).relu())


def pair(make, *sizes, **options):
    module = Pair(partial(make, *sizes, **options))
    ls.share(module, TIES)
    return module


def with_statistics():
    module = Pair(partial(nn.BatchNorm2d, 4))
    ls.share(module, TIES, buffers=True)
    return module


def transposed():
    module = Autoencoder()
    ls.share(module, ls.Ties("a.weight", "b.weight.T"))
    return module


def weight_norm():
    return parametrizations.weight_norm(nn.Linear(8, 8))


def one_filter():
    module = nn.Sequential(ls.LocallyConnected2d(4, 3, 3, 6))
    ls.share(module, ls.Ties("0.*[:]"))
    return module


def dropped_units():
    return ls.compact(Residual(), torch.zeros(1, 8))


ROWS = torch.linspace(-1, 1, 24).view(3, 8)
IMAGES = torch.linspace(-1, 1, 432).view(3, 4, 6, 6)
SEQUENCES = torch.linspace(-9, 9, 120).view(3, 5, 8).sin()
IDS = torch.arange(15).view(3, 5) % 7

# What makes each, and its inputs.
KINDS = {
    "`Linear`": (partial(pair, nn.Linear, 8, 8), ROWS),
    "`Conv1d`": (partial(pair, nn.Conv1d, 5, 3, 3), SEQUENCES),
    "`Conv2d`": (partial(pair, nn.Conv2d, 4, 3, 3), IMAGES),
    "`ConvTranspose2d`": (partial(pair, nn.ConvTranspose2d, 4, 3, 3), IMAGES),
    "`Embedding`": (partial(pair, nn.Embedding, 7, 4), IDS),
    "`LayerNorm`": (partial(pair, nn.LayerNorm, 8), ROWS),
    "`RMSNorm`": (partial(pair, nn.RMSNorm, 8), ROWS),
    "`GroupNorm`": (partial(pair, nn.GroupNorm, 2, 4), IMAGES),
    "`BatchNorm2d`": (partial(pair, nn.BatchNorm2d, 4), IMAGES),
    "`BatchNorm2d`, `buffers=True`": (with_statistics, IMAGES),
    "`RNN`": (partial(pair, nn.RNN, 8, 4, batch_first=True), SEQUENCES),
    "`LSTM`": (partial(pair, nn.LSTM, 8, 4, batch_first=True), SEQUENCES),
    "`GRU`": (partial(pair, nn.GRU, 8, 4, batch_first=True), SEQUENCES),
    "`MultiheadAttention`": (partial(pair, Attends, 8, 2, batch_first=True), SEQUENCES),
    "`TransformerEncoderLayer`": (
        partial(pair, nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True),
        SEQUENCES,
    ),
    "transposed (`.T`)": (transposed, ROWS),
    "`weight_norm` of `Linear`": (partial(pair, weight_norm), ROWS),
    "`CodebookLinear`": (partial(pair, ls.CodebookLinear, ASSIGNMENT, 5), ROWS),
    "`CodebookConv2d`": (partial(pair, ls.CodebookConv2d, ASSIGNMENT[:4] % 2, 3, 3), IMAGES),
    "`LocallyConnected1d`": (partial(pair, ls.LocallyConnected1d, 5, 3, 3, 8), SEQUENCES),
    "`LocallyConnected2d`": (partial(pair, ls.LocallyConnected2d, 4, 3, 3, 6), IMAGES),
    "one filter for all positions": (one_filter, IMAGES),
    "units dropped by `ls.compact`": (dropped_units, ROWS),
}


def made(kind):
    """The module and its inputs."""
    make, inputs = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval(), inputs
