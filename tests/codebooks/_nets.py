"""Networks with rows that are zero, and rows that are equal."""

from __future__ import annotations

import torch
from torch import nn


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def mlp(dtype=torch.float64):
    """Layer 0: inputs 4-7 have equal rows, 10-14 zero rows; layer 2 does not read units 20-29."""
    net = seeded(
        lambda: nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.BatchNorm1d(30), nn.Linear(30, 10))
    )
    with torch.no_grad():
        net[0].weight[:, 5:8] = net[0].weight[:, 4:5]
        net[0].weight[:, 10:15] = 0.0
        net[3].weight[:, 20:] = 0.0
        net[2].running_mean.normal_(generator=torch.Generator().manual_seed(1))
    return net.to(dtype).eval()


def cnn(dtype=torch.float64):
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 8, 3, padding=1, stride=2, padding_mode="reflect"),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 10),
        )
    )
    with torch.no_grad():
        net[4].weight[:, 3:6] = 0.0
        net[4].weight[:, 7] = net[4].weight[:, 8]
        net[8].weight[:, 4:12] = 0.0  # all positions of channels 1 and 2
    return net.to(dtype).eval()


def data(net, n=7):
    shape = (
        (3, 16, 16)
        if isinstance(net[0], nn.Conv2d) or getattr(net[0], "weight", torch.empty(0)).ndim == 4
        else (20,)
    )
    return torch.randn(
        n, *shape, generator=torch.Generator().manual_seed(3), dtype=next(net.parameters()).dtype
    )
