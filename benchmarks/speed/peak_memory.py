"""How much memory penalties take on top of training: `python -m benchmarks.speed peak_memory`.

Each contestant trains in a process of its own, a pair of encoders of 25 million parameters each by
a plain loop; the peak is that of the process, or of the GPU. Freed memory goes back at once, so
that the peak is what is in use. The compiler and its loops take the same memory whatever the
models, which is measured with encoders of a few thousand parameters.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.speed._clock import DEVICE, Row, spread

CODE = """
import resource, torch, lit_share as ls
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(WIDTH, 8, 4 * WIDTH, batch_first=True)
nets = [nn.TransformerEncoder(layer, 8, enable_nested_tensor=False) for _ in "ab"]
pair = nn.ModuleDict(dict(zip("ab", nets)))
pair.to(DEVICE)
optimizer = torch.optim.SGD(pair.parameters(), lr=1e-4)
norm, groups = PENALTY
penalty = ls.Penalty(norm, groups, "mean") if norm else None
ties = ls.Ties("a.*", "b.*").find(pair)
x = torch.randn(1, 8, WIDTH, device=DEVICE)
for _ in range(3):
    optimizer.zero_grad()
    sum(net(x).square().mean() for net in pair.values()).backward()
    if norm == "squared":
        ls.add_penalty_gradient(pair, penalty, ties, 1e-3)
    optimizer.step()
    if norm == "l1":
        ls.apply_prox(pair, penalty, ties, 1e-6)
on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print((torch.cuda.max_memory_allocated() if DEVICE == "cuda" else on_host) / 2**20)
"""


def peak(norm: str | None, groups: str, width: int) -> float:
    """Return the peak in MiB of a pair of encoders of this width."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"}
    code = CODE.replace("PENALTY", repr((norm, groups))).replace("DEVICE", repr(DEVICE.type))
    code = code.replace("WIDTH", str(width))
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout)


def measure() -> Iterator[Row]:
    """Yield the rows: what any penalty takes, and what it takes more on large models."""
    bare, tiny = ([peak(None, "", width) for _ in range(3)] for width in (512, 8))
    for name, norm, groups in (
        ("soft_tie", "squared", "element"),
        ("exact_tie", "l1", "element"),
        ("unit_tie", "l1", "output"),
        ("layer_tie", "l1", "tensor"),
    ):
        compiler = [peak(norm, groups, 8) - without for without in tiny]
        above = [peak(norm, groups, 512) - without for without in bare]
        against = "above training without"
        yield spread(f"{name}, compiler and loops", compiler, unit="MiB", against=against)
        beyond = [large - small for large, small in zip(above, compiler, strict=True)]
        what = f"{name}, encoders of 25 M, beyond these"
        yield spread(what, beyond, unit="MiB", against=against, target=8.0)
