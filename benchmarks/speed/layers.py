"""Layers that share: `python -m benchmarks.speed layers`.

Locally connected ones are to be twice as fast as the plain form, or to keep half of its memory for
the backward pass. `benchmarks.codebook` and `benchmarks.locally_connected` have more of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

import lit_share as ls
from benchmarks.codebook import densified
from benchmarks.locally_connected import Plain, forward, kept, with_pooling
from benchmarks.speed._clock import DEVICE, Row, alternate, ratio

REPEATS = 7


def measure() -> Iterator[Row]:
    """Yield the rows."""
    codebook = ls.CodebookLinear(torch.randperm(4096) % 1024, 4096).to(DEVICE)
    dense, x = densified(codebook), torch.randn(256, 4096, device=DEVICE)
    calls: dict[str, nn.Module] = {"dense": dense, "codebook": codebook}
    times = alternate({name: partial(forward, layer, x) for name, layer in calls.items()}, REPEATS)
    yield ratio(
        times, "dense", "codebook", "Linear 4096 × 4096, 4 per cluster", target=2.0, is_most=False
    )

    local = ls.LocallyConnected2d(3, 64, 3, 32).to(DEVICE)
    images = torch.randn(64, 3, 32, 32, device=DEVICE)
    layers: dict[str, nn.Module] = {
        "unfold + einsum": Plain(local),
        "ours": local,
        "conv": nn.Conv2d(3, 64, 3).to(DEVICE),
    }
    for what, step in (("forward", forward), ("training, with pooling", with_pooling)):
        times = alternate(
            {name: partial(step, layer, images) for name, layer in layers.items()}, REPEATS
        )
        name = f"LocallyConnected2d 3×32×32 → 64, {what}"
        yield ratio(times, "unfold + einsum", "ours", name)
        yield ratio(times, "ours", "conv", name)
    plain, ours = (kept(layers[name], images) / 2**20 for name in ("unfold + einsum", "ours"))
    what = "LocallyConnected2d, kept for backward"
    yield Row(what, ours, ours, ours, f"plain: {plain:.1f} MiB", target=plain / 2.0, unit="MiB")
