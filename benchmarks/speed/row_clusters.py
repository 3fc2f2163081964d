"""Clustering the rows of a large layer: `python -m benchmarks.speed row_clusters`.

Ten thousand rows of 784 numbers in planted groups, and the same with rows between groups that
bridge them. The adjusted Rand index is 1 where the groups are found. Seconds are of one thread;
memory is by how much the process's peak grows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.speed._clock import Row

CODE = """
import json, resource, time, torch
from sklearn.metrics import adjusted_rand_score
import lit_share as ls
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
rows, groups, width = 10_000, 1_000, 784
centers = torch.randn(groups, width)
planted = torch.arange(rows) % groups
weight = centers[planted] + 0.1 * torch.randn(rows, width)
if BRIDGED:
    for i in range(200):  # a row in the middle of two groups
        weight[i] = 0.5 * (centers[planted[i]] + centers[(planted[i] + 1) % groups])
layer = nn.Sequential(nn.Linear(rows, width, bias=False))
with torch.no_grad():
    layer[0].weight.copy_(weight.T)
small = nn.Sequential(nn.Linear(20, 3))
ls.tie_rows(small, ls.Ties("*.weight"), 0.7)  # imports what it needs
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
ls.tie_rows(layer, ls.Ties("*.weight"), 0.7)
seconds = time.perf_counter() - begin
mebibytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
found = layer[0].assignment
print(json.dumps([seconds, mebibytes, adjusted_rand_score(planted, found)]))
"""


def measure() -> Iterator[Row]:
    """The rows."""
    for bridged, least in ((False, 0.99), (True, 0.9)):
        name = "bridged groups" if bridged else "planted groups"
        command = [sys.executable, "-W", "ignore", "-c", CODE.replace("BRIDGED", str(bridged))]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        seconds, mebibytes, index = json.loads(done.stdout.splitlines()[-1])
        what = f"tie_rows, 10,000 × 784, {name}"
        yield Row(what, seconds, seconds, seconds, unit="s", target=5.0)
        yield Row(what, mebibytes, mebibytes, mebibytes, unit="MiB", target=200.0)
        yield Row(what, index, index, index, unit="Rand index", target=least, is_most=False)
