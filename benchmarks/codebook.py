"""How fast codebook layers are: `python -m benchmarks.codebook`.

Contestants alternate in one process on one thread; medians and ratios to the dense layer. The floor
multiplies by the codebook alone, as if sums were free.
"""

from __future__ import annotations

import copy
import statistics
import time

import torch
from torch import nn

import lit_share as ls
from lit_share.codebooks import CodebookLayer

REPEATS = 9


def densified(layer: CodebookLayer) -> nn.Module:
    """Return the ordinary layer that computes the same."""
    net = nn.Sequential(copy.deepcopy(layer))
    ls.densify(net)
    return net[0]


def contest(name: str, layer: CodebookLayer, x: torch.Tensor) -> None:
    """Print one row for forward, and one for forward and backward."""
    dense = densified(layer)
    # The layer of the clusters alone.
    floor = densified(layer)
    floor.weight = nn.Parameter(layer.weight.detach().clone())
    sums = torch.randn(x.shape[0], layer.weight.shape[1], *x.shape[2:])
    with torch.no_grad():
        difference = float((layer(x) - dense(x)).abs().max() / dense(x).abs().max())
    contestants = {"dense": (dense, x), "codebook": (layer, x), "floor": (floor, sums)}
    for what in ("forward", "forward + backward"):
        times: dict[str, list[float]] = {key: [] for key in contestants}
        for _ in range(REPEATS):
            for key, (module, inputs) in contestants.items():
                begin = time.perf_counter()
                _step(module, inputs, backward=what != "forward")
                times[key].append(time.perf_counter() - begin)
        medians = {key: statistics.median(values) for key, values in times.items()}
        print(
            f"{name:34}{what:20}{medians['dense'] / medians['codebook']:>8.2f} ×"
            f"{medians['dense'] / medians['floor']:>12.2f} ×{difference:>14.1e}"
        )


def _step(layer: nn.Module, x: torch.Tensor, backward: bool) -> None:
    if not backward:
        with torch.no_grad():
            layer(x)
        return
    layer.zero_grad()
    layer(x).sum().backward()


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'':54}{'codebook':>10}{'floor':>14}{'difference':>14}")
    assignment = torch.randperm(4096) % 1024
    contest(
        "Linear 4096×4096, 4 per cluster",
        ls.CodebookLinear(assignment, 4096),
        torch.randn(256, 4096),
    )
    assignment = torch.cat([torch.randperm(1024) % 256, torch.full((3072,), -1)])
    contest(
        "the same, 3/4 of the rows zero",
        ls.CodebookLinear(assignment, 4096),
        torch.randn(256, 4096),
    )
    images = torch.randn(16, 256, 28, 28)
    contest(
        "Conv2d 256→256, 4 per cluster",
        ls.CodebookConv2d(torch.randperm(256) % 64, 256, 3, padding=1),
        images,
    )


if __name__ == "__main__":
    main()
