"""Measure time and memory of locally connected layers: `python -m benchmarks.locally_connected`.

Contestants alternate in one process on one thread: the layer, the plain form (`unfold` and
`einsum`) with the same filters, and a convolution. Medians of CPU time, as ratios. In the third row
ReLU and max-pooling follow, as in a net, which read what the layer wrote. The floor moves the bytes
of the weight once, at the best speed of `add_` in this run: reads them in the forward pass, reads
and writes them with the backward pass. Inputs, outputs and arithmetic are not in it, so it is far
below. Memory is what torch allocates for CPU tensors, and not what libraries take for themselves.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import lit_share as ls

REPEATS = 15
BATCH = 64


class Plain(nn.Module):
    """The same function of the same parameters, as one would write it."""

    def __init__(self, layer: ls.LocallyConnected2d) -> None:
        super().__init__()
        assert layer.bias is not None
        self.weight, self.bias = layer.weight, layer.bias
        self.kernel, self.size = layer.kernel_size, layer.output_size

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the patch at each position by its filters."""
        patches = F.unfold(x, self.kernel)
        y = torch.einsum("bkp,pok->bop", patches, self.weight.flatten(2)) + self.bias.t()
        return y.view(len(x), -1, *self.size)


def forward(layer: nn.Module, x: Tensor) -> None:
    """Only the layer."""
    with torch.no_grad():
        layer(x)


def forward_backward(layer: nn.Module, x: Tensor) -> None:
    """With gradients of the parameters, and of inputs that want one."""
    layer.zero_grad()
    x.grad = None
    y = layer(x)
    y.backward(torch.ones(1).expand(y.shape).contiguous())


def with_pooling(layer: nn.Module, x: Tensor) -> None:
    """The same, with what follows the layer."""
    layer.zero_grad()
    x.grad = None
    F.max_pool2d(F.relu(layer(x)), 2).sum().backward()


def contest(channels: int, size: int, image: bool, bandwidth: float) -> None:
    """Print what one shape takes; no gradient is taken of an image."""
    layer = ls.LocallyConnected2d(channels, 64, 3, size)
    contestants = {"plain": Plain(layer), "ours": layer, "conv": nn.Conv2d(channels, 64, 3)}
    x = torch.randn(BATCH, channels, size, size, requires_grad=not image)
    difference = _difference(contestants["plain"], layer, x)
    assert difference < 1e-5, difference
    name = f"{channels}×{size}×{size} → 64"
    steps: dict[str, tuple[Callable[[nn.Module, Tensor], None], int]] = {
        "forward": (forward, 1),
        "forward and backward": (forward_backward, 2),
        "the same with pooling": (with_pooling, 2),
    }
    for what, (step, moves) in steps.items():
        times: dict[str, list[float]] = {key: [] for key in contestants}
        for _ in range(REPEATS):
            for key, module in contestants.items():
                times[key].append(cpu_time(step, module, x))
        plain, ours, conv = (statistics.median(values) for values in times.values())
        floor = moves * layer.weight.nbytes / bandwidth
        print(
            f"{name:16}{what:24}{1e3 * ours:>10.1f}{plain / ours:>12.2f}"
            f"{ours / conv:>12.2f}{ours / floor:>12.1f}"
        )
    mebibyte = 2**20
    for what, measure in (("peak", peak), ("kept for backward", kept)):
        plain, ours = (measure(contestants[key], x) / mebibyte for key in ("plain", "ours"))
        ratio = f"{plain / ours:.2f}" if ours else "−"
        print(f"{name:16}{what + ', MiB':24}{ours:>10.1f}{ratio:>12}  (plain: {plain:.1f})")
    print(f"{name:16}{'difference from plain':24}{difference:>10.1e}\n")


def peak(layer: nn.Module, x: Tensor) -> int:
    """The most bytes above those at the start during a forward and a backward pass."""
    layer.zero_grad()
    x.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        forward_backward(layer, x)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(str(Path(folder) / "trace.json"))
        events = json.loads((Path(folder) / "trace.json").read_text())["traceEvents"]
    now = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return most


def kept(layer: nn.Module, x: Tensor) -> int:
    """Bytes that the layer keeps for its backward pass, besides its parameters and input."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(x)
    for known in (x, y, *layer.parameters()):
        storages.pop(known.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def best_bandwidth() -> float:
    """Bytes per second that `add_` reads and writes, in the fastest of many calls."""
    numbers = torch.zeros(2**24)
    return 2 * numbers.nbytes / min(cpu_time(numbers.add_, 1.0) for _ in range(20))


def cpu_time(call: Callable[..., object], *arguments: object) -> float:
    """Seconds of this process that a call takes."""
    begin = time.process_time()
    call(*arguments)
    return time.process_time() - begin


@torch.no_grad()
def _difference(plain: nn.Module, layer: nn.Module, x: Tensor) -> float:
    expected = plain(x)
    return float((layer(x) - expected).abs().max() / expected.abs().max())


def count() -> None:
    """Print the numbers of a layer before and after its positions are shared."""
    net = nn.Sequential(ls.LocallyConnected2d(3, 64, 3, 32))
    before = ls.sharing_stats(net)
    ls.share(net, ls.Ties("0.*[:]"))
    after = ls.sharing_stats(net)
    print(
        f"unique numbers: {before.unique:,} locally connected, "
        f"{after.unique:,} with shared positions"
    )
    print(f"compression: {before.compression} and {after.compression}\n")


def main() -> None:
    """Print counts, times and memory."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler is silent
    torch.set_num_threads(1)
    torch.manual_seed(0)
    count()
    bandwidth = best_bandwidth()
    print(f"batch {BATCH}, 3×3 filters; floor at {bandwidth / 1e9:.1f} GB/s")
    print(f"{'':40}{'ours, ms':>10}{'plain/ours':>12}{'ours/conv':>12}{'ours/floor':>12}")
    contest(3, 32, image=True, bandwidth=bandwidth)
    contest(32, 16, image=False, bandwidth=bandwidth)


if __name__ == "__main__":
    main()
