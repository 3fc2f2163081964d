"""Architectures, with the axes that their units have, counted by hand."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lit_share.alignment import axis_graph


@dataclass(eq=False)
class Net:
    """An architecture.

    `sizes` are those of its free axes in the order of the parameters. `within` are the numbers of
    those that may be permuted differently beside each unit of another axis.
    """

    make: Any
    inputs: Any
    sizes: list[int]
    within: tuple[int, ...] = ()


class Function(nn.Module):
    """A forward of its own on named layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, *args):
        return self.function(self, *args)


class Add(nn.Module):
    def __init__(self, *branch):
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x):
        return x + self.branch(x)


def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))


def mlp_with_batch_norm():
    return nn.Sequential(
        nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 6),
        nn.BatchNorm1d(6), nn.PReLU(6), nn.Linear(6, 3),
    )  # fmt: skip


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
        nn.SiLU(), nn.Linear(5, 2),
    )  # fmt: skip


def grouped():
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 2, groups=4),
        nn.Conv2d(8, 2, 1),
    )  # fmt: skip


def transposed():
    return nn.Sequential(
        nn.Linear(3, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 6, 2, stride=2),
        nn.ReLU(), nn.ConvTranspose2d(6, 6, 2, groups=2), nn.InstanceNorm2d(6, affine=True),
        nn.Upsample(scale_factor=2), nn.Conv2d(6, 1, 1),
    )  # fmt: skip


class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def norms():
    return nn.Sequential(
        nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 4),
        RMSNorm(4), nn.Linear(4, 6), nn.GroupNorm(3, 6), nn.Linear(6, 2),
    )  # fmt: skip


def residual():
    return nn.Sequential(
        nn.Linear(3, 6), Add(nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6)),
        Add(nn.LayerNorm(6), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 6)), nn.Linear(6, 2),
    )  # fmt: skip


class Block(nn.Module):
    """A block of a residual net, basic or with a bottleneck."""

    def __init__(self, inputs, outputs, stride=1, bottleneck=False):
        super().__init__()
        width = outputs // 2 if bottleneck else outputs
        layers = [nn.Conv2d(inputs, width, 1 if bottleneck else 3, stride, 1 - bottleneck)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(width, width if bottleneck else outputs, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width if bottleneck else outputs)]
        if bottleneck:
            layers += [nn.ReLU(inplace=True), nn.Conv2d(width, outputs, 1), nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*layers)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.layers(x)
        out += identity
        return F.relu(out, inplace=True)


def resnet(widths=(4, 6), depth=2, bottleneck=False):
    layers = [nn.Conv2d(3, widths[0], 3, padding=1), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for i in range(depth):
            layers.append(Block(inputs, width, 1 + (i == 0 and stage > 0), bottleneck))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 3))


class ConvNeXtBlock(nn.Module):
    def __init__(self, size, hidden):
        super().__init__()
        self.depthwise = nn.Conv2d(size, size, 3, padding=1, groups=size)
        self.norm, self.up = nn.LayerNorm(size), nn.Linear(size, hidden)
        self.down, self.scale = nn.Linear(hidden, size), nn.Parameter(torch.ones(size))

    def forward(self, x):
        out = self.depthwise(x).permute(0, 2, 3, 1)
        out = self.scale * self.down(F.gelu(self.up(self.norm(out))))
        return x + out.permute(0, 3, 1, 2)


def convnext():
    return nn.Sequential(
        nn.Conv2d(3, 4, 2, 2), ConvNeXtBlock(4, 8), ConvNeXtBlock(4, 8), nn.Conv2d(4, 2, 1)
    )


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1)

    def forward(self, x):
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def densenet():
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), DenseLayer(4, 3), DenseLayer(7, 2), nn.Conv2d(9, 5, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(5 * 16, 2),
    )  # fmt: skip


def gates():
    def forward(self, x):
        a, b = self.up(x).chunk(2, dim=-1)
        x = self.down(a * torch.sigmoid(b))
        return self.out(F.glu(self.glu(x), dim=1))

    return Function(
        forward, up=nn.Linear(3, 8), down=nn.Linear(4, 6), glu=nn.Linear(6, 10), out=nn.Linear(5, 2)
    )


def shuffled():
    """Split, computed apart, and slices of a fused layer."""

    def forward(self, x):
        a, b, c = torch.split(self.up(x), [2, 3, 4], dim=1)
        return self.out(torch.cat([c, self.mid(b), F.pad(a, (1, 1))[:, 1:-1]], 1))

    return Function(forward, up=nn.Linear(3, 9), mid=nn.Linear(3, 5), out=nn.Linear(11, 2))


def embedding():
    return nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def last_state(self, x):
    _, state = self.rnn(self.embed(x))
    hidden = state[0] if isinstance(state, tuple) else state
    return self.out(hidden[-1])


def outputs(self, x):
    return self.out(self.rnn(self.embed(x))[0])


def recurrent(kind, forward=outputs, outputs=5, **options):
    return Function(
        forward, embed=nn.Embedding(9, 6), rnn=kind(6, 5, batch_first=True, **options),
        out=nn.Linear(outputs, 2),
    )  # fmt: skip


def cells():
    def forward(self, x):
        h = c = torch.zeros(x.shape[0], 5)
        g = x.new_zeros(x.shape[0], 4)
        for step in range(x.shape[1]):
            h, c = self.lstm(x[:, step], (h, c))
            g = self.gru(h, g)
        return self.out(g)

    return Function(forward, lstm=nn.LSTMCell(3, 5), gru=nn.GRUCell(5, 4), out=nn.Linear(4, 2))


def multihead(batch_first):
    def forward(self, x):
        x = self.up(x)
        return self.down(self.attention(x, x, x, need_weights=False)[0])

    return Function(
        forward, up=nn.Linear(3, 8), attention=nn.MultiheadAttention(8, 2, batch_first=batch_first),
        down=nn.Linear(8, 2),
    )  # fmt: skip


def encoder(norm_first, layers=2, size=8, heads=2, hidden=12):
    layer = nn.TransformerEncoderLayer(
        size, heads, hidden, batch_first=True, norm_first=norm_first, activation="gelu"
    )
    return nn.Sequential(
        nn.Linear(3, size), nn.TransformerEncoder(layer, layers, enable_nested_tensor=False),
        nn.Linear(size, 2),
    )  # fmt: skip


class Attention(nn.Module):
    """Attention by hand, with projections apart or fused, and grouped queries."""

    def __init__(self, size, heads, fused="", keys=None, causal=False):
        super().__init__()
        self.heads, self.fused, self.causal = heads, fused, causal
        self.keys, self.dim = keys or heads, size // heads
        if fused:
            self.qkv = nn.Linear(size, 3 * size)
        else:
            self.q = nn.Linear(size, size)
            self.k, self.v = (nn.Linear(size, self.keys * self.dim) for _ in range(2))
        self.o = nn.Linear(size, size)

    def forward(self, x):
        batch, length, size = x.shape
        if self.fused == "chunk":
            q, k, v = self.qkv(x).chunk(3, -1)
        elif self.fused == "unbind":
            shape = (batch, length, 3, self.heads, self.dim)
            q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.fused == "by head":
            q, k, v = self.qkv(x).view(batch, length, self.heads, 3 * self.dim).chunk(3, -1)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        if q.ndim == 3:
            q = q.view(batch, length, self.heads, self.dim)
            k, v = (t.view(batch, length, self.keys, self.dim) for t in (k, v))
        if self.fused != "unbind":
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=self.causal, enable_gqa=self.keys != self.heads
        )
        return self.o(out.transpose(1, 2).reshape(batch, length, size))


def attention(**options):
    heads = options.pop("heads", 2)
    return nn.Sequential(nn.Linear(3, 8), Add(Attention(8, heads, **options)), nn.Linear(8, 2))


def tied():
    """A language model whose head is its embedding."""
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 9))
    model[3].weight = model[0].weight
    return model


def twice():
    """A layer that is applied twice, so that its inputs are its outputs."""

    def forward(self, x):
        x = self.up(x)
        for _ in range(2):
            x = torch.relu(self.mid(x))
        return self.down(x)

    return Function(forward, up=nn.Linear(3, 6), mid=nn.Linear(6, 6), down=nn.Linear(6, 2))


def in_place():
    """Writes into tensors and into slices of new ones."""

    def forward(self, x):
        first = self.first(x)
        buffer = torch.zeros(x.shape[0], 2, 6)
        buffer[:, 0] = first
        buffer[:, 1].copy_(self.second(x)).relu_()
        buffer.mul_(2).add_(1)
        return self.out(buffer.sum(1).clamp_(min=0))

    return Function(forward, first=nn.Linear(3, 6), second=nn.Linear(3, 6), out=nn.Linear(6, 2))


def mixer():
    """An MLP-Mixer: hidden units over channels, and over positions."""

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.out((x + self.channels(x)).mean(1))

    return Function(
        forward, patches=nn.Conv2d(3, 6, 2, 2), norm=nn.LayerNorm(6),
        tokens=nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4)),
        channels=nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)), out=nn.Linear(6, 2),
    )  # fmt: skip


def contractions():
    def forward(self, x):
        a = torch.einsum("...i,ij->...j", x, self.a)
        b = torch.addmm(self.c, a, self.b)
        return F.bilinear(a, F.normalize(b), self.d) @ self.e

    shapes = {"a": (3, 4), "b": (4, 5), "c": (5,), "d": (6, 4, 5), "e": (6, 2)}
    return Function(forward, **{k: nn.Parameter(torch.ones(shape)) for k, shape in shapes.items()})


def weight_norm():
    return nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 6)), nn.ReLU(), nn.Linear(6, 2)
    )


def vit():
    """Patches, a class token and learned positions: all move with the stream."""

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.block(x))[:, 0])

    return Function(
        forward, patches=nn.Conv2d(3, 8, 2, 2), token=nn.Parameter(torch.ones(1, 1, 8)),
        positions=nn.Parameter(torch.ones(1, 5, 8)), block=Add(Attention(8, 2, "unbind")),
        norm=nn.LayerNorm(8), head=nn.Linear(8, 2),
    )  # fmt: skip


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


WORDS = torch.tensor([[1, 4, 2, 7], [0, 3, 8, 5]])
FLAT, SEQUENCE, IMAGES = numbers(4, 3), numbers(2, 4, 3), numbers(2, 3, 4, 4)

NETS = {
    # One axis for each hidden layer.
    "mlp": Net(mlp, numbers(4, 5), [7, 6]),
    "mlp_with_batch_norm": Net(mlp_with_batch_norm, numbers(4, 5), [7, 6]),
    # Two of channels, which blocks of 4 pixels of the linear layer follow, and its outputs.
    "cnn": Net(cnn, numbers(2, 3, 8, 8), [4, 6, 5]),
    # Inputs are 3 groups · 2 channels; outputs are the same 3 groups · 2 others.
    "grouped": Net(grouped, IMAGES, [3, 2, 2], (1, 2)),
    # The channels, and the two filters that each has in the last one.
    "depthwise": Net(depthwise, IMAGES, [4, 2], (1,)),
    # 4 · 2 · 2 of which pixels stay; channels in 2 groups of 3, and outputs 3 per group.
    "transposed": Net(transposed, numbers(2, 3), [4, 2, 3, 3], (2, 3)),
    # One for each layer, and 3 groups · 2 for the last.
    "norms": Net(norms, FLAT, [6, 8, 4, 3, 2], (4,)),
    # The stream, and the inside of each branch.
    "residual": Net(residual, FLAT, [6, 4, 5]),
    # Two streams, each with two blocks; a downsampling block makes a new stream.
    "resnet": Net(resnet, IMAGES, [4, 4, 4, 6, 6, 6]),
    # Two axes inside of each block; the first one changes the width, too.
    "bottlenecks": Net(lambda: resnet((4, 8), 2, True), IMAGES, [4, 2, 2, 2, 2, 4, 4, 8, 4, 4]),
    # The stream with its depthwise filters and scales, and each hidden layer.
    "convnext": Net(convnext, IMAGES, [4, 8, 8]),
    # Each layer adds channels of its own; then the transition.
    "densenet": Net(densenet, IMAGES, [4, 3, 2, 5]),
    # Both halves move together: 4, then what goes into the second, then 5.
    "gates": Net(gates, FLAT, [4, 6, 5]),
    # The three pieces, one of which goes through a layer.
    "shuffled": Net(shuffled, FLAT, [2, 3, 4, 5]),
    "embedding": Net(embedding, WORDS, [6, 4]),
    # The embedding, and the units of each layer in each direction.
    "lstm": Net(lambda: recurrent(nn.LSTM), WORDS, [6, 5]),
    "lstm_without_bias": Net(lambda: recurrent(nn.LSTM, bias=False), WORDS, [6, 5]),
    "lstm_of_2_layers": Net(lambda: recurrent(nn.LSTM, num_layers=2), WORDS, [6, 5, 5]),
    "lstm_last_state": Net(lambda: recurrent(nn.LSTM, last_state, num_layers=2), WORDS, [6, 5, 5]),
    "lstm_both_ways": Net(
        lambda: recurrent(nn.LSTM, outputs=10, num_layers=2, bidirectional=True),
        WORDS, [6, 5, 5, 5, 5],
    ),
    # Cells, and outputs that are projected from them.
    "lstm_projected": Net(lambda: recurrent(nn.LSTM, outputs=3, proj_size=3), WORDS, [6, 5, 3]),
    "gru": Net(lambda: recurrent(nn.GRU), WORDS, [6, 5]),
    "gru_of_2_layers": Net(lambda: recurrent(nn.GRU, num_layers=2), WORDS, [6, 5, 5]),
    "gru_both_ways": Net(
        lambda: recurrent(nn.GRU, last_state, bidirectional=True), WORDS, [6, 5, 5]
    ),
    "rnn": Net(lambda: recurrent(nn.RNN), WORDS, [6, 5]),
    "cells": Net(cells, SEQUENCE, [5, 4]),
    # The stream into it, heads, dimensions of q and k, of v and o, and the outputs of o.
    "multihead": Net(lambda: multihead(True), SEQUENCE, [8, 2, 4, 4, 8], (2, 3)),
    "multihead_sequence_first": Net(lambda: multihead(False), SEQUENCE, [8, 2, 4, 4, 8], (2, 3)),
    # The stream, and for each layer: heads, two kinds of dimensions, and the hidden layer.
    "encoder": Net(lambda: encoder(False), SEQUENCE, [8, *[2, 4, 4, 12] * 2], (2, 3, 6, 7)),
    "encoder_norm_first": Net(
        lambda: encoder(True), SEQUENCE, [8, *[2, 4, 4, 12] * 2], (2, 3, 6, 7)
    ),
    # The stream, heads, dimensions of q and k, and of v and o.
    "attention": Net(attention, SEQUENCE, [8, 2, 4, 4], (2, 3)),
    "attention_causal": Net(lambda: attention(causal=True), SEQUENCE, [8, 2, 4, 4], (2, 3)),
    "attention_in_chunks": Net(lambda: attention(fused="chunk"), SEQUENCE, [8, 2, 4, 4], (2, 3)),
    "attention_unbound": Net(lambda: attention(fused="unbind"), SEQUENCE, [8, 2, 4, 4], (2, 3)),
    "attention_by_head": Net(lambda: attention(fused="by head"), SEQUENCE, [8, 2, 4, 4], (2, 3)),
    # 2 heads of keys · 2 queries each, and dimensions that differ between heads of keys.
    "attention_grouped": Net(
        lambda: attention(heads=4, keys=2), SEQUENCE, [8, 2, 2, 2, 2], (2, 3, 4)
    ),
    # The embedding's columns, which are the inputs of the head; and what stands between.
    "tied": Net(tied, WORDS, [6]),
    "twice": Net(twice, FLAT, [6]),
    # Both layers write into one buffer.
    "in_place": Net(in_place, FLAT, [6]),
    # The stream, and hidden units over positions and over channels.
    "mixer": Net(mixer, IMAGES, [6, 5, 8]),
    "contractions": Net(contractions, FLAT, [4, 5, 6]),
    "weight_norm": Net(weight_norm, FLAT, [6]),
    "vit": Net(vit, IMAGES, [8, 2, 4, 4], (2, 3)),
}  # fmt: skip


def made(net):
    """A net with weights and statistics that all differ."""
    torch.manual_seed(0)
    module = net.make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + 0.5 * ("var" in name))
    return module


@cache
def graph_of(net):
    """The graph of a net, which is traced once for all tests."""
    return axis_graph(made(net), net.inputs)


def some_order(size, generator):
    """A permutation that moves something."""
    while True:
        order = torch.randperm(size, generator=generator)
        if not torch.equal(order, torch.arange(size)):
            return order


def some_permutations(graph, generator, within=True):
    """A permutation of each free axis, where allowed another one beside each unit of its parent."""
    found = {}
    for axis in graph.free:
        if within and axis.within is not None:
            units = range(graph.free[axis.within].size)
            found[axis.index] = torch.stack([some_order(axis.size, generator) for _ in units])
        else:
            found[axis.index] = some_order(axis.size, generator)
    return found
