"""Random programs: whatever they do with hidden units, free axes leave the outputs alone."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_share.alignment import axis_graph, check_outputs, run

from ._nets import numbers, some_permutations


def some_dim(draw, h):
    return draw.randrange(h.ndim)


def some_slice(draw, h, _):
    d = some_dim(draw, h)
    n = h.shape[d]
    start = draw.randrange(n)
    return h.narrow(d, start, draw.randrange(1, n - start + 1))


def some_split(draw, h, _):
    """Merge two neighbouring dimensions, or split one."""
    d = some_dim(draw, h)
    if h.ndim > 3 or (h.ndim > 2 and draw.random() < 0.5):
        d = draw.randrange(h.ndim - 1)
        return h.flatten(d, d + 1)
    factors = [n for n in range(2, h.shape[d]) if h.shape[d] % n == 0]
    return h.unflatten(d, (draw.choice(factors), -1)) if factors else h


def some_cat(draw, h, other):
    d = some_dim(draw, h)
    if other.ndim == h.ndim and all(
        m == n for i, (m, n) in enumerate(zip(h.shape, other.shape, strict=True)) if i != d
    ):
        return torch.cat([h, other], d)
    return torch.cat([h, h.exp()], d)


def some_sum(draw, h, other):
    if h.shape == other.shape:
        return h + other
    return h * 2 if h.ndim == 1 else h + h.mean(some_dim(draw, h), keepdim=True)


def in_place(draw, h, _):
    new = torch.zeros_like(h)
    new.select(some_dim(draw, h), 0).fill_(1.0)
    return new.add_(h).mul_(0.5)


STEPS = [
    some_slice,
    some_split,
    some_split,
    some_cat,
    some_sum,
    some_sum,
    in_place,
    lambda draw, h, _: h.transpose(some_dim(draw, h), some_dim(draw, h)),
    lambda draw, h, _: h.softmax(some_dim(draw, h)),
    lambda draw, h, _: h.tanh(),
    lambda draw, h, _: h.cumsum(some_dim(draw, h)) if draw.random() < 0.3 else h.sigmoid(),
    lambda draw, h, _: h.amax(some_dim(draw, h)) if h.ndim > 2 else h,
    lambda draw, h, _: h @ h.mT if draw.random() < 0.3 else F.normalize(h, dim=-1),
    lambda draw, h, _: h.expand(2, *h.shape) if h.ndim < 4 else h,
    lambda draw, h, _: h.unbind(some_dim(draw, h))[0] if h.ndim > 2 else h,
    lambda draw, h, _: F.layer_norm(h, h.shape[-1:]),
    lambda draw, h, _: h.repeat_interleave(2, some_dim(draw, h)) if h.numel() < 300 else h,
]


class Program(nn.Module):
    """Random steps, with layers between them whose widths are read from the tensors."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        self.up = nn.Linear(3, random.Random(seed).choice([6, 8, 12]))
        self.layers = nn.ModuleList()

    def forward(self, x):
        draw = random.Random(self.seed)
        h = other = self.up(x)
        used = 0
        for _ in range(draw.randrange(3, 9)):
            step = draw.choice([*STEPS, "layer"])
            if step == "layer":
                width = draw.choice([4, 6, 8])
                if used == len(self.layers):
                    self.layers.append(nn.Linear(h.shape[-1], width))
                new = self.layers[used](h)
                used += 1
            else:
                new = step(draw, h, other)
            if draw.random() < 0.4:
                other = h
            h = new
        # The order of units is gone from the outputs, so that it may change.
        return h.exp().flatten(1).sum(-1) if draw.random() < 0.7 else h


def made(seed, x):
    torch.manual_seed(seed)
    module = Program(seed)
    module(x.float())  # adds the layers
    return module.to(x.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(150))
def test_outputs_of_random_programs_stay(seed):
    x = numbers(2, 4, 3).double()
    module = made(seed, x)
    graph = axis_graph(module, x)
    assert not any("not understood" in reason for reason in graph.pinned.values())
    before = run(module, x)
    graph.permute_(module, some_permutations(graph, torch.Generator().manual_seed(seed)))
    check_outputs(module, before, x, rtol=1e-10)


def test_enough_programs_leave_something_free():
    """Otherwise the test above would test nothing."""
    x = numbers(2, 4, 3)
    free = [bool(axis_graph(made(seed, x), x).free) for seed in range(20)]
    assert sum(free) >= 8
